"""The site: Sphinx with the furo theme, from the pages that convert.py has made.

Everything is on the site itself; nothing is asked of another host.
"""

import re, shutil, sys
from pathlib import Path

import charlm
import ziamath
from docutils import nodes
from math_core import LatexError, LatexToMathML
from sphinx.util import logging

sys.path.insert(0, str(Path(__file__).parent))

project = "charlm"
author = "The charlm authors"
copyright = "The charlm authors, Apache License 2.0"
version = charlm.__version__
extensions = ["myst_nb", "sphinx_copybutton"]
nitpicky = True
html_math_renderer = "mathcore"

nb_execution_mode = "off"
nb_merge_streams = True
myst_enable_extensions = [
    "dollarmath",
    "amsmath",
    "colon_fence",
    "attrs_inline",
    "attrs_block",
    "deflist",
    "tasklist",
    "alert",
]
myst_heading_anchors = 6
myst_heading_slug_func = "api.slug"
copybutton_selector = "div:not(.output)[class*=highlight-] > div.highlight pre"

html_theme = "furo"
html_title = "charlm"
html_favicon = "_static/favicon.svg"
html_static_path = ["_static"]
html_css_files = ["style.css"]
html_extra_path = ["_build/extra"]
html_show_sourcelink = False
html_copy_source = False
html_show_sphinx = False
# Callouts are as large as the text and only tinted; a folded cell's line isn't coloured
calm = {
    "admonition-font-size": ".95rem",
    "admonition-title-font-size": ".95rem",
    "color-admonition-title": "var(--color-background-border)",
    "color-admonition-title-background": "transparent",
    "color-admonition-title-background--note": "rgba(0, 176, 255, .08)",
    "color-admonition-title-background--warning": "rgba(255, 145, 0, .08)",
    "color-admonition-title-background--tip": "rgba(0, 200, 82, .08)",
}
html_theme_options = {
    "top_of_page_buttons": [],
    "light_css_variables": calm,
    "dark_css_variables": calm,
}

log = logging.getLogger(__name__)
latex = LatexToMathML(fancy_error=False)


def math(display):
    """What writes one kind of formula: as MathML, made here.

    What is wrong in it is a warning, which stops the build.
    """

    def visit(translator, node):
        try:
            html = latex.convert_with_local_state(node.astext(), displaystyle=display)
        except LatexError as e:
            log.warning("bad LaTeX: %s", e, location=node)
            html = translator.encode(node.astext())
        translator.body.append(
            f'<div class="math" tabindex="0">{html}</div>' if display else html
        )
        raise nodes.SkipNode

    return visit, None


def math_font(app, error):
    """STIX Two Math, under the Open Font License, from the ziamath package.

    Without a font made for formulas, large sums look poor.
    """
    if not error:
        shutil.copy(
            Path(ziamath.__file__).parent / "fonts/STIXTwoMath-Regular.ttf",
            Path(app.outdir) / "_static",
        )


def for_readers(app, page, template, context, doctree):
    """Boxes that scroll can be reached from the keyboard.

    And each page names its Markdown form.
    """
    # the theme's captions in the sidebar are headings that don't say of which level
    context["furo_navigation_tree"] = context.get("furo_navigation_tree", "").replace(
        'role="heading"', 'role="heading" aria-level="2"'
    )
    body = context.get("body")
    if doctree is None or not body:
        return
    body = re.sub(
        r'<div class="highlight"><pre>',
        '<div class="highlight"><pre tabindex="0">',
        body,
    )
    context["body"] = body.replace(
        '<div class="table-wrapper', '<div tabindex="0" class="table-wrapper'
    )
    twin = Path(page).name + ".md"
    context["body"] += f'<p class="twin"><a href="{twin}">This page as Markdown</a></p>'
    context["metatags"] = (
        context.get("metatags", "")
        + f'\n<link rel="alternate" type="text/markdown" href="{twin}">'
    )


def setup(app):
    app.add_html_math_renderer("mathcore", math(False), math(True))
    app.connect("html-page-context", for_readers, priority=900)  # after the theme
    app.connect("build-finished", math_font)
