"""Make what Sphinx reads, docs/_build/src, from notebooks and the pages beside them.

For programs that read, a Markdown form of each page and llms.txt are made as well.

nbdev's processors apply its directives. Two of its steps are left out: it puts a
signature in place of an exported cell, but here the code is what the book is about, so
it stays, marked as part of the library; signatures are on the API pages (api.py).
"""

import base64, json, re
from pathlib import Path
from urllib.parse import unquote

from fastcore.nbio import read_nb
from nbdev.doclinks import NbdevLookup
from nbdev.processors import (
    FilterDefaults,
    clean_magics,
    hide_,
    hide_line,
    rm_header_dash,
    strip_ansi,
)
from nbformat import v4

import api, figures, performance
from readme import callouts, directives, fenced, quoted, root, without_directives

src, extra, html = [root / "docs/_build" / name for name in ("src", "extra", "html")]
lookup = NbdevLookup(strip_libs="charlm", incl_libs="charlm")
lookup.syms |= {
    name: f"/{module}.html#{name.lower()}" for name, module in api.constants().items()
}


# The parts of the book, by the numbers of their notebooks
PARTS = {
    "The lecture": ("00", "01", "02", "03", "04"),
    "The model at work": ("05", "06"),
    "Faster": ("07", "08", "09"),
    "Beyond": ("10",),
    "The engine room": tuple(str(number) for number in range(90, 100)),
}


# Names of drawing helpers, such as `box` and `drawn`, are common words elsewhere
lookup.syms = {n: u for n, u in lookup.syms.items() if "/diagrams.html" not in u}


class Processors(FilterDefaults):
    def base_procs(self):
        return [strip_ansi, hide_line, rm_header_dash, clean_magics, hide_]


class Page:
    "A page for Sphinx: its name without suffix, its title, a line about it, its cells"

    def __init__(self, name, title, about, cells):
        self.name, self.title, self.about, self.cells = name, title, about, cells


def page_name(path):
    return re.sub(r"^\d+_", "", Path(path).stem)


def link_names(text, up=""):
    """Names of the library in backticks become links to the API pages.

    A method like `__len__` leads to its class; `up` leads to the site's root.
    """

    def local(m):
        anchor = "#" + re.sub(r"[.]__[a-z]+__$", "", m[2]) if m[2] else ""
        return f"]({up}api/{m[1]}.md{anchor})"

    return re.sub(r"\]\(/(\w+)\.html#?([^)]*)\)", local, lookup.linkify(text) or "")


def glossary_terms():
    """What a link to the glossary may say after its `#` -> the term's name there.

    Every way of writing a term has an entry: `nat` and `bit` lead to "Nat, bit", and
    `block` to "Block (of a transformer)".
    """
    text = (root / "docs/glossary.md").read_text(encoding="utf-8")
    terms = re.findall(r"^(\S.*)\n: ", text, re.M)
    found = {api.slug(term): term for term in terms}
    for term in terms:
        for part in re.sub(r" *\(.*\)", "", term).split(", "):
            found.setdefault(api.slug(part), term)
    return found


def link_terms(text):
    """Links to the glossary become links to a term's place in it.

    A term that the glossary lacks stays as it is written; Sphinx then complains of it.
    """

    def term(m):
        name = unquote(m[2]).strip()
        shown = re.sub(r"[`*]", "", m[1])
        return f"{{term}}`{shown} <{terms.get(api.slug(name), name)}>`"

    terms = glossary_terms()
    text = re.sub(r"\[([^\]]+)\]\(\.\./docs/glossary\.md#([^)]+)\)", term, text)
    return text.replace("](../docs/glossary.md)", "](glossary.md)")


def admonition(kind, title, body):
    "A callout as Sphinx has it; without a title of its own, its kind is its title"
    if not title:
        return f":::{{{kind}}}\n{body}\n:::"
    return f":::{{admonition}} {title}\n:class: {kind}\n\n{body}\n:::"


def markdown(text):
    """A notebook's Markdown as Sphinx takes it.

    Links between notebooks become links between pages, those to the glossary lead to
    its terms, and Quarto's callouts become admonitions.
    """
    text = link_terms(link_names(callouts(text, admonition)))
    return re.sub(r"\]\((?:\d+_)?(\w+\.ipynb)", r"](\1", text)


def stable(text):
    "Without colours, the earlier states of a progress bar, and places in memory"
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", "".join(text))
    return re.sub(r" at 0x[0-9a-f]+", "", re.sub(r"[^\n]*\r(?!\n)", "", text))


def value(flags, name):
    "What a directive such as `fig-alt: ...` says, or nothing"
    for flag in flags:
        if flag.startswith(f"{name}:"):
            return flag.removeprefix(f"{name}:").strip().strip('"')
    return ""


def alt_text(flags, source, heading):
    """What a picture shows, in the author's words.

    Or else the labels of its axes, or else where it stands.
    """
    if given := value(flags, "fig-alt"):
        return given
    ys, xs = (
        re.findall(rf"{axis}(?:=|\()\s*f?\"([^\"]+)\"", source)
        for axis in ("ylabel", "xlabel")
    )
    pairs = [f"{y} against {x}" for y, x in zip(ys, xs, strict=False)]
    labels = pairs or xs or [f"for the section {heading}"]
    return "Figure: " + re.sub(r" *\{[^}]*\} *", " ", ", ".join(dict.fromkeys(labels)))


def picture(name, data):
    "Keep a picture beside the pages and return its path from them"
    write(src / "pictures" / name, data)
    return f"pictures/{name}"


def summaries(cell, code):
    """What the line says that opens a folded cell, and when it is open.

    The author's words (`code-summary: ...`), or else what the cell is: checks, or code.
    """
    checks = any(map(figures.CHECKS.match, code.splitlines()))
    said = value(cell.flags, "code-summary")
    if not said and checks and not cell.get("outputs"):
        said = "Checks"
    return {
        "code_prompt_show": said or "Show the code",
        "code_prompt_hide": said or "Hide the code",
    }


def code_cell(cell, name, heading):
    """The cells for Sphinx that show one code cell.

    Its code and what it printed, and its pictures.
    """
    flags, source = cell.flags, cell.source
    if (
        not source.strip()
        or flags & {"hide", "include: false"}
        or value(flags, "default_exp")
        or any(f.startswith("default_exp") for f in flags)
    ):
        return []
    code, tags, details, after = without_directives(source), [], {}, []
    if "echo: false" in flags:
        tags.append("remove-input")
    if "code-fold: true" in flags:
        tags.append("hide-input")
        details = {"mystnb": summaries(cell, code)}
    if flags & {"export", "exporti"}:
        tags.append("library")
    outputs = []
    for o in [] if "output: false" in flags else cell.get("outputs", []):
        if "image/png" in (data := o.get("data", {})):
            png = base64.b64decode("".join(data["image/png"]))
            path = picture(f"{name}-{len(after)}.png", png)
            # pictures have two dots for each of the page's
            plain_text = "".join(data.get("text/plain", ""))
            size = re.search(r"Figure size (\d+)x", plain_text)
            width = f"{{width={size[1]}px}}" if size else ""
            alt = alt_text(flags, code, heading)
            after.append(v4.new_markdown_cell(f"![{alt}]({path}){width}"))
        elif "text/markdown" in data:
            after.append(v4.new_markdown_cell(markdown("".join(data["text/markdown"]))))
        elif text := stable(o.get("text", data.get("text/plain", ""))).rstrip():
            outputs.append(v4.new_output("stream", name="stdout", text=text + "\n"))
    shown = (
        [v4.new_code_cell(code, metadata={"tags": tags, **details}, outputs=outputs)]
        if outputs or "remove-input" not in tags
        else []
    )
    return shown + after


def fold_solutions(cells):
    """The answer to an exercise goes behind a line that opens it.

    That is everything from the question to the next one, or to the next heading.
    """
    out, state = [], ""
    for c in cells:
        text = c.source if c.cell_type == "markdown" else ""
        question, heading = re.match(r"\*\*\d+\.\*\* ", text), text.startswith("#")
        if state == "open" and (question or heading):
            out.append(v4.new_markdown_cell("```{raw} html\n</details>\n```"))
        elif state == "asked" and not (question or heading):
            out.append(
                v4.new_markdown_cell(
                    "```{raw} html\n<details><summary>Show the solution</summary>\n```"
                )
            )
        state = "asked" if question else "" if heading else state and "open"
        if state == "open" and c.cell_type == "code":
            c.metadata = {"tags": [t for t in c.metadata.tags if t != "hide-input"]}
        out.append(c)
    if state == "open":
        out.append(v4.new_markdown_cell("```{raw} html\n</details>\n```"))
    return out


def notebook_page(path):
    "One notebook as a page"
    nb, name, heading, cells = read_nb(path), page_name(path), "", []
    for cell in nb.cells:
        cell["flags"] = directives(cell.source) if cell.cell_type == "code" else set()
    Processors()(nb)
    for i, cell in enumerate(nb.cells):
        if cell.cell_type == "markdown":
            heading = ([heading] + re.findall(r"^#{1,6} (.+)", cell.source, re.M))[-1]
            cells.append(v4.new_markdown_cell(markdown(cell.source)))
        elif cell.cell_type == "code":
            cells += code_cell(cell, f"{name}-{i}", heading)
    title, about = re.match(r"# (.+)\n\n> (.+)", nb.cells[0].source).groups()
    return Page(name, title, about, fold_solutions(cells))


def text_page(name, text, about):
    "A page that is Markdown already"
    return Page(
        name,
        re.search(r"^# (.+)", text, re.M)[1].strip("`"),
        about,
        [v4.new_markdown_cell(text)],
    )


def local_links(text):
    """Of links to files of the repository only the words stay.

    CONTRIBUTING.md and CHANGELOG.md may have such links; the files are not on the site.
    """
    return re.sub(r"\[([^\]]+)\]\((?!http|#)[^)]+\)", r"\1", text)


def toctree(caption, pages, first=None):
    "The links beside every page, numbered from `first` on where there is one"
    lines = [p.name for p in pages]
    if first is not None:
        lines = [f"{i} {p.title} <{p.name}>" for i, p in enumerate(pages, first)]
    return v4.new_markdown_cell(
        "\n".join(
            ["```{toctree}", ":hidden:", f":caption: {caption}", "", *lines, "```"]
        )
    )


def quoted_admonitions(text):
    "Admonitions as Markdown that needs no Sphinx: quotations with a title in bold"
    return re.sub(
        r"^:::\{(\w+)\}(?: ([^\n]+)\n:class: \w+\n)?\n+(.*?)\n:::$",
        lambda m: quoted(*m.groups()),
        text,
        flags=re.M | re.S,
    )


def plain(page):
    "The page as Markdown that needs no Sphinx"
    pieces = []
    for c in page.cells:
        if c.cell_type == "markdown":
            text = re.sub(
                r"^```\{(?:toctree|raw)\}.*?^```\n?|^\([\w.]+\)=\n|^\{\.\w+\}\n",
                "",
                c.source,
                flags=re.M | re.S,
            )
            text = quoted_admonitions(text)
            up = "../" * page.name.count("/")
            text = re.sub(r"\{term\}`(.+?) <.+?>`", rf"[\1]({up}glossary.md)", text)
            text = re.sub(
                r"\]\(pictures/(.+?)\)(\{.*?\})?", rf"]({up}_images/\1)", text
            )
            pieces.append(re.sub(r"\]\(((?:\.\./)*\w+)\.ipynb", r"](\1.md", text))
        else:
            if "remove-input" not in c.metadata.tags:
                pieces.append(fenced(c.source, "python"))
            pieces += [fenced(o.text) for o in c.outputs]
    return re.sub(r"\n{3,}", "\n\n", "\n\n".join(pieces)).strip() + "\n"


def write(path, content):
    "Write what is new or has changed, so that Sphinx reads again only that"
    content = content.encode() if isinstance(content, str) else content
    written.add(path)
    if path.exists() and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


written = set()


def write_page(page):
    "For Sphinx, and for programs that read"
    if all(c.cell_type == "markdown" for c in page.cells):
        write(src / f"{page.name}.md", "\n\n".join(c.source for c in page.cells) + "\n")
    else:
        for i, c in enumerate(page.cells):
            # a fixed one, so that an unchanged page stays the same file
            c["id"] = f"cell-{i}"
        meta = {
            "kernelspec": {
                "name": "python3",
                "display_name": "python3",
                "language": "python",
            },
            "language_info": {"name": "python"},
        }
        write(
            src / f"{page.name}.ipynb",
            json.dumps(v4.new_notebook(cells=page.cells, metadata=meta), indent=1),
        )
    write(extra / f"{page.name}.md", plain(page))


def llms(index, groups):
    "The list of pages for programs that read (llmstxt.org)"
    lines = [f"# {index.title}", "", f"> {index.about}"]
    for caption, pages in groups.items():
        lines += ["", f"## {caption}", ""] + [
            f"- [{p.title}]({p.name}.md): {p.about}" for p in pages
        ]
    return "\n".join(lines) + "\n"


def build(notebooks, results=root / "benchmarks/results.json"):
    index, *chapters = [
        notebook_page(p)
        for p in sorted(notebooks, key=lambda p: (p.stem != "index", p.name))
    ]
    paths = [p for p in sorted(notebooks) if p.stem != "index"]
    reference = [
        text_page(
            "api/index", api.index_page(chapters), "every public name of the library"
        ),
        text_page(
            "figures",
            figures.page(paths, page_name),
            "every figure that a chapter asserts, and where",
        ),
        text_page(
            "performance",
            performance.page(results, picture),
            "how fast it is, measured",
        ),
        text_page(
            "glossary",
            link_names((root / "docs/glossary.md").read_text(encoding="utf-8")),
            "the field's words, in plain ones",
        ),
    ]
    modules = [
        text_page(
            f"api/{name}",
            api.module_page(name, path, link_names),
            f"the module charlm.{name}",
        )
        for path in paths
        if (name := page_name(path)) in api.modules()
    ]
    project = [
        text_page(
            "contributing",
            link_names(
                local_links((root / "CONTRIBUTING.md").read_text(encoding="utf-8"))
            ),
            "how to work on charlm",
        ),
        text_page(
            "changelog",
            link_names(
                local_links((root / "CHANGELOG.md").read_text(encoding="utf-8"))
            ),
            "what has changed",
        ),
    ]
    book = {
        caption: [c for c, p in zip(chapters, paths, strict=True) if p.name[:2] in part]
        for caption, part in PARTS.items()
    }
    index.cells += [
        *[
            toctree(
                caption,
                pages,
                None if PARTS[caption][0] >= "90" else int(PARTS[caption][0]),
            )
            for caption, pages in book.items()
        ],
        toctree("Reference", reference),
        toctree("The project", project),
    ]
    reference[0].cells.append(
        v4.new_markdown_cell(
            "\n".join(
                [
                    "```{toctree}",
                    ":hidden:",
                    "",
                    *[m.name.removeprefix("api/") for m in modules],
                    "```",
                ]
            )
        )
    )
    for page in [index, *chapters, *reference, *modules, *project]:
        write_page(page)
    write(
        extra / "llms.txt",
        llms(
            index,
            {
                **book,
                "Reference": reference + modules,
                "The project": project,
            },
        ),
    )


if __name__ == "__main__":
    build(list((root / "nbs").glob("*.ipynb")))
    old = [
        p
        for folder in (src, extra)
        for p in folder.rglob("*")
        if p.is_file() and p not in written
    ]
    old += [
        p
        for p in html.rglob("*.[hm]*")
        if p.stem not in ("search", "genindex")
        and extra / p.relative_to(html).with_suffix(".md") not in written
    ]
    for path in old:
        path.unlink()
