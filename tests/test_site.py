"""The site: every link, every page's structure, and what a reader does with it.

The latter in a real browser, served under a sub-path. The browser tests need Chromium;
without one they are skipped, except where CI is set, where that is a failure.
"""

import importlib, json, re, subprocess, sys
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from threading import Thread
from urllib.parse import unquote, urljoin, urlsplit

import pytest
from bs4 import BeautifulSoup
from conftest import ROOT, SCRIPTS
from nbformat import v4

sys.path.insert(0, str(ROOT / "docs"))
import api, convert, figures, performance, readme

HTML = ROOT / "docs/_build/html"
CHAPTERS = [
    re.sub(r"^\d+_", "", p.stem) for p in sorted((ROOT / "nbs").glob("[0-9]*.ipynb"))
]


def sphinx(source, out, *options):
    return subprocess.run(
        [
            SCRIPTS / "sphinx-build",
            "-q",
            "-W",
            "--keep-going",
            "-n",
            "-c",
            "docs",
            *options,
            source,
            out,
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="session")
def site():
    "name -> parsed page, of the whole site, made anew where something has changed"
    subprocess.run([sys.executable, "docs/convert.py"], cwd=ROOT, check=True)
    done = sphinx("docs/_build/src", HTML, "-d", "docs/_build/doctrees")
    assert (done.returncode, done.stderr) == (0, "")
    return {
        str(p.relative_to(HTML)): BeautifulSoup(p.read_bytes(), "html.parser")
        for p in HTML.rglob("*.html")
    }


def content(page):
    return page.find(id="furo-main-content") or page


# What can be seen without a browser


def test_all_pages_are_there(site):
    for name in [
        *CHAPTERS,
        *[f"api/{n}" for n in api.modules()],
        "index",
        "api/index",
        "figures",
        "performance",
        "glossary",
        "contributing",
        "changelog",
    ]:
        assert f"{name}.html" in site and (HTML / f"{name}.md").read_text().startswith(
            "# "
        ), name
    assert all(f"]({name}.md)" in (HTML / "llms.txt").read_text() for name in CHAPTERS)


def test_every_link_and_anchor_leads_somewhere(site):
    ids = {
        name: {tag["id"] for tag in page.find_all(id=True)} | {""}
        for name, page in site.items()
    }
    checked, dead = 0, []
    for name, page in site.items():
        for tag in page.select("a[href], link[href], img[src], script[src]"):
            link = urlsplit(tag.get("href") or tag.get("src"))
            if link.scheme:
                if tag.name != "a" or link.scheme not in ("http", "https"):
                    dead.append((name, link.geturl()))
                continue
            target = (
                unquote(urljoin("/" + name, link.path))[1:] or "index.html"
                if link.path
                else name
            )
            checked += 1
            if (
                not (HTML / target).is_file()
                or target in ids
                and unquote(link.fragment) not in ids[target]
            ):
                dead.append((name, link.geturl()))
    assert dead == [] and checked > 1000


def test_every_link_of_the_markdown_form_leads_somewhere(site):
    links = [
        (p, link)
        for p in [*HTML.glob("*.md"), *HTML.glob("api/*.md"), HTML / "llms.txt"]
        for link in re.findall(
            r"\]\(([^)\s]+)\)",
            re.sub(r"```.*?```|`[^`\n]*`", "", p.read_text(), flags=re.S),
        )
    ]
    local = [
        (p, link.split("#")[0])
        for p, link in links
        if not link.startswith(("http", "#"))
    ]
    assert (
        len(local) > 100
        and [(p.name, link) for p, link in local if not (p.parent / link).is_file()]
        == []
    )


def test_headings_are_in_order(site):
    for name, page in site.items():
        if name == "search.html":
            continue  # its heading is made by the search itself
        levels = [
            int(h.name[1]) for h in content(page).find_all(re.compile(r"^h[1-6]$"))
        ]
        assert levels[:1] == [1] and levels.count(1) == 1, name
        assert all(b <= a + 1 for a, b in zip(levels, levels[1:], strict=False)), name


def test_every_picture_is_described(site):
    alts = [
        img.get("alt", "")
        for page in site.values()
        for img in content(page).find_all("img")
    ]
    assert len(alts) > 5 and all(len(alt) > 15 and "`" not in alt for alt in alts), alts


def test_chapters_show_the_library_and_nothing_of_the_machinery(site):
    for name in CHAPTERS:
        page = site[f"{name}.html"]
        assert not any("#|" in cell.get_text() for cell in page.select("div.cell"))
        assert not re.search(
            r"\x1b|0x[0-9a-f]{6}|/tmp/|\r|it/s\]",
            " ".join(out.get_text() for out in page.select("div.cell_output")),
        )
        shown = "\n".join(
            cell.get_text() for cell in page.select("div.tag_library div.cell_input")
        )
        for line in (ROOT / f"charlm/{name}.py").read_text().splitlines():
            if re.match(r"(class|def) |    return ", line):
                assert line in shown, line


def test_public_names_in_prose_are_links(site):
    public = {
        n
        for module in api.modules()
        for n in importlib.import_module(f"charlm.{module}").__all__
    }
    found = [
        (name, code)
        for name in ["index", *CHAPTERS, "glossary", "contributing", "changelog"]
        for code in content(site[f"{name}.html"]).select("p code, li code")
        if code.get_text() in public
    ]
    assert (
        len(found) > 5
        and [
            (name, code.get_text()) for name, code in found if not code.find_parent("a")
        ]
        == []
    )


def test_a_chapter_leads_to_the_next_and_lists_its_sections(site):
    for before, name, after in zip(
        ["index", *CHAPTERS], CHAPTERS, CHAPTERS[1:], strict=False
    ):
        page = site[f"{name}.html"]
        assert [a["href"] for a in page.select(".related-pages a")] == [
            f"{after}.html",
            f"{before}.html",
        ]
        sections = [h.parent["id"] for h in content(page).find_all("h2")]
        assert len(sections) > 1 and set(sections) <= {
            a["href"][1:] for a in page.select(".toc-tree a")
        }


def test_figures_are_collected_from_the_chapters(site):
    page = content(site["figures.html"])
    for value in ["1_115_394", "4.1744", "2.4519", "209_729", "-0.0341, 0.1332"]:
        assert value in page.get_text(), value
    assert "rtol=0" in page.get_text() and "wait=0.01" not in page.get_text()
    assert {a["href"].split("#")[0] for a in page.select("p a[href*='#']")} >= {
        "data.html",
        "bigram.html",
        "attention.html",
        "gpt.html",
    }


def test_a_check_counts_as_a_figure_when_it_states_one():
    source = (
        "#| slow\n"
        "assert x > 1.77\n"
        "test_eq(f(wait=0.01), 3)\n"
        "test_fail(lambda: f(1234), contains='1234')\n"
        "y = 4.1744"
    )
    assert figures.checks(source, {"slow"}) == ["assert x > 1.77"]
    assert figures.checks(source, {"slow", "shakespeare"}) == [
        "assert x > 1.77",
        "test_eq(f(wait=0.01), 3)",
    ]


RESULTS = {
    "made": "2001-02-03",
    "machine": {"processor": "Abacus", "cores": 3, "torch": "9.9", "python": "4.0"},
    "rounds": 5,
    "rows": [
        {
            "group": "Step",
            "what": "small",
            "unit": "ms",
            "lecture": 20.1,
            "charlm": 9.04,
            "ratio": 2.223,
            "note": "a note",
        },
        {
            "group": "Writing",
            "what": "one character",
            "unit": "ms",
            "lecture": None,
            "charlm": 12345.6,
            "ratio": None,
            "note": "",
        },
    ],
}


def test_performance_page(tmp_path):
    path, kept = tmp_path / "results.json", {}

    def picture(name, data):
        kept[name] = data
        return f"pictures/{name}"

    assert "`make bench` makes them" in performance.page(path, picture) and kept == {}
    path.write_text(json.dumps(RESULTS))
    text = performance.page(path, picture)
    for part in [
        "2001-02-03",
        "Abacus",
        "| small | ms | 20.1 | 9.04 | 2.22 | a note |",
        "| one character | ms |  | 12,346 |  |",
        "Step, small: 2.22",
    ]:
        assert part in text
    assert kept["performance.png"].startswith(b"\x89PNG") and "a given loss" not in text
    runs = {
        name: [
            {
                "loss": loss,
                "steps": 90,
                "seconds": {"training": seconds, "process": seconds + 1},
            }
            for loss in (1.9, 1.8)
        ]
        for name, loss, seconds in (("nanoGPT", 1.9, 60), ("fast", 1.5, 2))
    }
    (tmp_path / "speedrun.json").write_text(
        json.dumps({"made": "2001-02-04", "machine": RESULTS["machine"], "runs": runs})
    )
    text = performance.page(path, picture)
    for part in [
        "2001-02-04",
        "| nanoGPT | 2 | 90 | 1.8500 | 1.9000 | 60.00 s | 61.00 s | 1.0 x |",
        "| fast | 2 | 90 | 1.8500 | 1.9000 | 2.00 s | 3.00 s | 30.0 x |",
    ]:
        assert part in text


def test_the_readme_has_plain_links_and_quotations():
    text = (
        "[a](00_data.ipynb#x), [b](../docs/glossary.md#loss)\n\n"
        "::: {.callout-note}\n**Key idea.** Of\nall.\n:::\n"
    )
    notebook = {"cells": [{"cell_type": "markdown", "source": text}]}
    assert readme.convert(notebook)[0].splitlines()[2:] == [
        "[a](nbs/00_data.ipynb#x), [b](docs/glossary.md#loss)",
        "",
        "> **Key idea.** Of",
        "> all.",
        "",
    ]


# A notebook with one of everything


def cell(source, *outputs):
    return v4.new_code_cell(
        source,
        outputs=[v4.new_output("stream", name="stdout", text=text) for text in outputs],
    )


@pytest.fixture
def sample(tmp_path, monkeypatch):
    "A page made from a notebook with each directive"
    notebook = v4.new_notebook(
        cells=[
            v4.new_markdown_cell(
                "# Sample\n\n> A subtitle\n\n"
                "Some words about `GPT` and `GPT.__init__`, $e^x$."
            ),
            cell("#| default_exp sample"),
            cell("#| export\ndef exported(): return 1"),
            cell("#| hide\nhidden = 1", "never shown"),
            cell("#| echo: false\nsilent = 1", "spoken\n"),
            cell("#| output: false\nmute = 1", "unheard"),
            cell(
                "#| slow\n#| shakespeare\n#| cuda\nmarked = 1",
                "\x1b[31mred\x1b[0m\n 10%|#\r 99%|##\rdone <f at 0x7f12ab34>\n",
            ),
            v4.new_raw_cell("raw = 1"),
            cell("#| code-fold: true\nfolded = 1", "unfolded\n"),
            cell("#| code-fold: true\nassert folded == 1"),
            cell('#| code-fold: true\n#| code-summary: "Say it"\nfolded = 2'),
            v4.new_markdown_cell(
                "A [score](../docs/glossary.md#logits) or a\n"
                "[`piece`](../docs/glossary.md#token-id) of the\n"
                "[words](../docs/glossary.md)."
            ),
            v4.new_markdown_cell(
                "::: {.callout-note}\nMind this. **Never** that.\n:::\n\n"
                "::: {.callout-note}\n**Key idea.** It is simple.\n\n"
                "And short.\n:::\n\n"
                '::: {.callout-warning title="Pitfall"}\nIt is deep.\n:::\n\n'
                "::: {.callout-tip}\n**Why so?**\n\nIt is dry.\n:::\n\n"
                "## Exercises\n\nTry first."
            ),
            v4.new_markdown_cell("**1.** Find it."),
            cell("#| code-fold: true\nsolution = 1", "found\n"),
            v4.new_markdown_cell("Which means this."),
            v4.new_markdown_cell("**2.** Find more."),
            cell("#| code-fold: true\nmore = 2"),
            v4.new_markdown_cell("## What you built\n\nAll of it."),
        ]
    )
    path = tmp_path / "07_sample.ipynb"
    path.write_text(json.dumps(notebook))
    monkeypatch.setattr(convert, "src", tmp_path / "src")
    monkeypatch.setattr(convert, "extra", tmp_path / "extra")
    return convert.notebook_page(path)


def test_directives_do_what_they_say(sample, tmp_path):
    (tmp_path / "src/api").mkdir(parents=True)
    (tmp_path / "src/api/gpt.md").write_text(
        "---\norphan: true\n---\n# Elsewhere\n\n## `GPT`\n"
    )
    (tmp_path / "src/glossary.md").write_text(
        "---\norphan: true\n---\n# Words\n\n"
        "{.glossary}\nLogits\n: Scores.\n\nToken id\n: A number.\n"
    )
    convert.write_page(sample)
    (tmp_path / "src/index.md").write_text("# Index\n\n```{toctree}\nsample\n```\n")
    done = sphinx(tmp_path / "src", tmp_path / "html", "-D", "html_extra_path=")
    assert (done.returncode, done.stderr) == (0, "")
    page = content(
        BeautifulSoup((tmp_path / "html/sample.html").read_text(), "html.parser")
    )
    text, twin = page.get_text(), (tmp_path / "extra/sample.md").read_text()
    for shown in [
        "def exported()",
        "spoken",
        "mute = 1",
        "marked = 1",
        "red",
        "done <f>",
        "Mind this.",
        "found",
        "Which means this.",
    ]:
        assert shown in text and shown in twin, shown
    for gone in [
        "#|",
        "default_exp",
        "hidden",
        "never shown",
        "silent",
        "unheard",
        "\x1b",
        "10%",
        "0x7f",
        "raw = 1",
        ":::",
    ]:
        assert gone not in text, gone
    folded, checks, said, *solutions = page.select("details")
    assert (
        "folded = 1" in folded.get_text()
        and "unfolded" not in folded.get_text()
        and not any(d.has_attr("open") for d in page.select("details"))
    )
    assert [d.select_one("summary .collapsed").get_text() for d in (checks, said)] == [
        "Checks",
        "Say it",
    ]
    links = [(a.get_text(), a["href"]) for a in page.select("a[href^=glossary]")]
    assert links == [
        ("score", "glossary.html#term-Logits"),
        ("piece", "glossary.html#term-Token-id"),
        ("words", "glossary.html"),
    ]
    assert "A [score](glossary.md) or a\n[piece](glossary.md)" in twin
    callouts = [
        " ".join(d.get_text().split())
        for d in page.select("div.admonition:not(details)")
    ]
    assert callouts == [
        "Note Mind this. Never that.",
        "Key idea It is simple. And short.",
        "Pitfall It is deep.",
        "Why so? It is dry.",
    ]
    assert "> **Key idea.** It is simple.\n>\n> And short.\n" in twin
    assert "> **Pitfall.** It is deep.\n" in twin and ":::" not in twin
    inside = [" ".join(d.get_text().split()) for d in solutions]
    assert inside == [
        "Show the solution solution = 1 found Which means this.",
        "Show the solution more = 2",
    ]
    assert [code.find_parent("a")["href"] for code in page.select("p a code")] == [
        "api/gpt.html#gpt",
        "api/gpt.html#gpt",
    ]
    assert (
        page.select_one("div.admonition.note")
        and page.select_one("math msup")
        and page.select_one("div.tag_library")
    )


def test_a_term_that_the_glossary_lacks_stays_for_the_build_to_find():
    assert convert.link_terms("[x](../docs/glossary.md#nat)") == "{term}`x <Nat, bit>`"
    assert convert.link_terms("[x](../docs/glossary.md#yarn)") == "{term}`x <yarn>`"


@pytest.mark.parametrize(
    "fault, complaint",
    [
        ("{term}`a <yarn>`", "yarn"),
        ("[away](nowhere.md)", "nowhere.md"),
        ("[away](#nowhere)", "nowhere"),
        (r"$\frac{1$", "LaTeX"),
        ("```{nothing}\n```", "nothing"),
        ("### Too deep", "header level"),
    ],
)
def test_a_fault_stops_the_build(tmp_path, fault, complaint):
    (tmp_path / "src").mkdir()
    (tmp_path / "src/index.md").write_text(f"# Title\n\n{fault}\n")
    done = sphinx(tmp_path / "src", tmp_path / "html", "-D", "html_extra_path=")
    assert done.returncode != 0 and complaint in done.stderr


# What a reader does, in a browser


@pytest.fixture(scope="module")
def address(site):
    "Where the site is served: under a sub-path, as GitHub Pages does"

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Quiet, directory=HTML.parent)
    ) as httpd:
        Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}/html/"
        httpd.shutdown()


@pytest.fixture
def open_page(chromium, address):
    """`open_page(name, **settings)`: the page in a fresh context.

    At the end, no error on the console and no request to another host.
    """
    contexts, troubles = [], []

    def go(name, **settings):
        def said(message):
            if message.type == "error":
                troubles.append(f"{name}: {message.text}")

        def failed(error):
            troubles.append(f"{name}: {error}")

        def asked(request):
            if not request.url.startswith((address, "data:")):
                troubles.append(f"{name} asks {request.url}")

        def answered(response):
            if response.status >= 400:
                troubles.append(f"{name}: {response.status} {response.url}")

        settings = {"viewport": {"width": 1400, "height": 900}} | settings
        context = chromium.new_context(**settings)
        contexts.append(context)
        page = context.new_page()
        page.on("console", said)
        page.on("pageerror", failed)
        page.on("request", asked)
        page.on("response", answered)
        page.goto(address + name)
        return page

    yield go
    for context in contexts:
        context.close()
    assert troubles == []


# A page has thousands of coloured words of a few kinds: one of each, in code and in
# output, is enough to judge their contrast by.
ONE_OF_EACH = """() => {
    const seen = new Set()
    document.querySelectorAll('.highlight span').forEach(span => {
        const kind = span.className + !!span.closest('.cell_output')
        seen.has(kind) ? span.replaceWith(...span.childNodes) : seen.add(kind)
    })
}"""


def violations(page, **options):
    "What axe calls serious or critical"
    found = page.evaluate(
        "options => axe.run(document, options)",
        {"resultTypes": ["violations"], **options},
    )["violations"]
    return [
        (v["id"], node["html"][:120])
        for v in found
        if v["impact"] in ("serious", "critical")
        for node in v["nodes"]
    ]


def test_every_page_loads_is_accessible_in_both_themes_and_fits_a_phone(
    site, address, open_page
):
    axe = (files("axe_playwright_python") / "axe.min.js").read_text()
    page, faults = open_page("index.html"), {}
    for name in site:
        page.emulate_media(color_scheme="light")
        page.set_viewport_size({"width": 390, "height": 844})
        page.goto(address + name)
        if (width := page.evaluate("document.documentElement.scrollWidth")) > 390:
            faults[name, "phone"] = width
        page.set_viewport_size({"width": 1400, "height": 900})
        page.evaluate(ONE_OF_EACH)
        page.evaluate(axe)
        if found := violations(page):
            faults[name, "light"] = found
        page.emulate_media(color_scheme="dark")
        if found := violations(page, runOnly=["color-contrast"]):
            faults[name, "dark"] = found
    assert faults == {}


@pytest.mark.parametrize("word", ["softmax", "get_batch"])
def test_search(open_page, word):
    page = open_page("index.html")
    page.fill(".sidebar-search", word)
    page.press(".sidebar-search", "Enter")
    page.wait_for_selector("#search-results ul.search li a")
    page.locator("#search-results ul.search li a").first.click()
    page.wait_for_load_state()
    assert (
        "search.html" not in page.url
        and word in page.inner_text("#furo-main-content").lower()
    )


def test_theme(open_page):
    page = open_page("gpt.html", color_scheme="light")

    def look():
        return page.evaluate(
            "[getComputedStyle(document.body).backgroundColor,"
            " getComputedStyle(document.querySelector('article img')).filter]"
        )

    seen = [look()]
    for _ in range(2):
        page.click(".content-icon-container .theme-toggle")
        seen.append(look())
    assert (
        any(
            background != seen[0][0] and "invert" in turned
            for background, turned in seen[1:]
        )
        and seen[0][1] == "none"
    )
    chosen = look()
    page.reload()
    assert look() == chosen  # the choice is kept


def test_next_and_previous(open_page):
    page = open_page("index.html")
    for name in CHAPTERS[:2]:
        page.click(".related-pages .next-page")
        assert page.url.endswith(f"/{name}.html")
    page.click(".related-pages .prev-page")
    assert page.url.endswith(f"/{CHAPTERS[0]}.html")


def test_code_can_be_copied(open_page):
    page = open_page("gpt.html", permissions=["clipboard-read", "clipboard-write"])
    cell = page.locator("div.tag_library div.cell_input div.highlight").nth(2)
    cell.hover()
    cell.locator("button.copybtn").click()
    page.wait_for_selector("button.copybtn.success")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert (
        copied.strip() == cell.locator("pre").inner_text().strip() and len(copied) > 20
    )


def test_without_scripts_the_page_is_whole(open_page):
    page = open_page("gpt.html", java_script_enabled=False)
    assert (
        page.locator("math").first.is_visible()
        and page.locator("article img").first.is_visible()
        and page.locator(".related-pages a").first.is_visible()
    )


def test_formulas_have_their_font(open_page):
    page = open_page("bigram.html")
    assert page.evaluate(
        "document.fonts.ready.then(() =>"
        " document.fonts.check('16px \"STIX Two Math\"', '∑')"
        " && [...document.fonts].some(f => f.status == 'loaded'))"
    )
