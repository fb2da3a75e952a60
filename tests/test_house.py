"The rules of the house that a program can check (CONTRIBUTING.md)."

import ast, importlib, inspect, json, re

import pytest
from conftest import ROOT

NOTEBOOKS = sorted((ROOT / "nbs").glob("*.ipynb"))
CHAPTERS = [p for p in NOTEBOOKS if p.name[0].isdigit()]
# Two orders (DESIGN): the notebooks' numbers are the order of reading; modules import
# one way only, in the order of IMPORTS.
READING = {
    0: "data",
    1: "bigram",
    2: "attention",
    3: "gpt",
    4: "train",
    5: "generate",
    6: "inside",
    7: "fast",
    8: "muon",
    9: "race",
    10: "page",
    90: "checks",
    91: "corpus",
    92: "hardware",
    93: "checkpoint",
    94: "run",
    95: "cli",
    96: "start",
    97: "recipes",
    98: "diagrams",
    99: "stream",
}
IMPORTS = (
    "checks corpus hardware diagrams data bigram attention gpt train muon fast recipes"
    " checkpoint stream generate inside race run page cli start"
).split()


def cells(path):
    return [
        (c["cell_type"], "".join(c["source"]), c)
        for c in json.loads(path.read_text())["cells"]
    ]


def code(source):
    """The lines that count.

    A command's parameters and a dataclass's fields don't, since they are help text.
    """
    if "def charlm_" in source:
        parameter = r"    \w+:[^()]*,( # .*)?$|    # "
    elif "@dataclass" in source:
        parameter = r"    \w+:.* # |    # "
    elif "LIMITS" in source:
        parameter = r'    "\w+": \w+\(.*\),'
    else:
        parameter = r"(?!)"
    return [
        line
        for line in source.splitlines()
        if line.strip() and not line.startswith("#|") and not re.match(parameter, line)
    ]


each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
each_chapter = pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)
each_module = pytest.mark.parametrize("name", IMPORTS)


def test_one_notebook_one_module():
    assert [p.stem for p in CHAPTERS] == [
        f"{number:02}_{name}" for number, name in READING.items()
    ]
    for name, p in zip(READING.values(), CHAPTERS, strict=True):
        assert f"#| default_exp {name}" in p.read_text()
    assert sorted(READING.values()) == sorted(IMPORTS)


@each_notebook
def test_opens_with_title_and_subtitle(path):
    kind, source, _ = cells(path)[0]
    assert kind == "markdown" and re.match(r"# .+\n\n> .+\n\n.+", source)


@each_notebook
def test_import_cells_hold_only_imports(path):
    for kind, source, _ in cells(path):
        if kind != "code" or not re.search(r"^(import|from) ", source, re.M):
            continue
        lines = [line for line in source.splitlines() if not line.startswith("#|")]
        nodes = ast.parse("\n".join(lines)).body
        alone = all(isinstance(node, ast.Import | ast.ImportFrom) for node in nodes)
        assert alone or "echo: false" in source, source


@each_chapter
def test_exported_cells_are_short(path):
    for kind, source, _ in cells(path):
        if kind == "code" and source.startswith("#| export"):
            assert len(code(source)) <= 30, source


@each_chapter
def test_prose_between_cells(path):
    """Never more than five cells of code without a word between them.

    Imports and marked checks don't count.
    """
    run = 0
    for kind, source, _ in cells(path):
        if kind == "markdown":
            run = 0
        elif (
            not re.match(r"(#\|.*\n)*(import|from) ", source)
            and "#| default_exp" not in source
            and "#| shakespeare" not in source
        ):
            run += 1
        assert run <= 5, source


@each_notebook
def test_code_is_no_wider_than_the_page(path):
    "88 columns; directives, such as what a picture shows, have no width"
    for kind, source, _ in cells(path):
        if kind == "code":
            lines = [s for s in source.splitlines() if not s.startswith("#|")]
            assert [s for s in lines if len(s) > 88] == []


@each_module
def test_modules_are_no_wider(name):
    "But for the list of names, which nbdev-export wraps at 120 columns by itself"
    source = (ROOT / "charlm" / f"{name}.py").read_text()
    source = re.sub(r"^__all__ = \[.*?\]$", "", source, flags=re.M | re.S)
    assert [s for s in source.splitlines() if len(s) > 88] == []


@each_notebook
def test_saved_outputs_are_sound(path):
    text = path.read_text()
    assert '"output_type": "error"' not in text
    assert str(ROOT) not in text and "/home/" not in text and "/tmp/" not in text


@each_chapter
def test_every_chapter_asserts(path):
    code = "\n".join(s for kind, s, _ in cells(path) if kind == "code")
    checks = re.findall(r"\bassert\b|\btest_eq\(|\btest_fail\(|assert_close\(", code)
    assert len(checks) >= 5


@each_module
def test_public_names_are_documented(name):
    module = importlib.import_module(f"charlm.{name}")
    for public in module.__all__:
        thing = getattr(module, public)
        if inspect.isroutine(thing) or inspect.isclass(thing):
            doc = inspect.getdoc(thing)
            assert doc and not doc.startswith(public + "("), public


@each_module
def test_imports_run_one_way(name):
    tree = ast.parse((ROOT / "charlm" / f"{name}.py").read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    used = {node.module for node in imports if node.level == 1} | {
        node.module.split(".")[1]
        for node in imports
        if node.module.startswith("charlm.")
    }
    assert all(IMPORTS.index(other) < IMPORTS.index(name) for other in used)
    assert used or name in ("checks", "muon", "diagrams")


def test_every_figure_that_the_notes_print_is_asserted():
    "A few values stand for each row of figures; each must be in a cell that checks"
    checks = "\n".join(
        s
        for p in CHAPTERS
        for kind, s, _ in cells(p)
        if kind == "code" and re.search(r"assert|test_eq|near\(", s)
    )
    for value in [
        "1_115_394",
        "46, 47, 47, 1, 58, 46, 43, 56, 43",
        "20, 53, 50, 39",
        "18, 47, 56, 57, 58, 1, 15, 47, 58",
        "1_003_854, 111_540",
        "24, 43, 58, 5, 57, 1, 46, 43",
        "MEO:|I p",
        "4.1744",
        "4.8786",
        "0, 31, 55, 41, 53, 58, 12",
        "bLIgwevmyFJGUGp",
        "2.46",
        "2.49",
        "2.4519",
        "2.4819",
        "2.48",
        "[2, 7], [6, 4], [6, 5]",
        "0.1808, -0.0700",
        "-0.0341, 0.1332",
        "3.2363e-08",
        "0.1574, 0.8426",
        "0.0210, 0.0843",
        "209_729",
        "10_788_929",
        "2.10",
        "1.97",
        "1.77",
        "1.48",
    ]:
        assert value in checks, value
