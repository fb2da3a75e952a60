"""The outputs that the notebooks show are what running them gives.

`make notebooks` runs a copy of the notebooks in _proc/fresh and keeps what they print;
here that is compared with what is saved. Only text is, not pictures. A quick run leaves
cells out (`slow`, `cuda`), and what hangs on the names they set differs rightly: such
cells are not compared, by name and from cell to cell, until something sets the name
again. `make notebooks FLAGS="shakespeare slow"` leaves out nothing but `cuda` and
thereby compares nearly everything. Durations are not compared. Processors round
differently: decimals may differ by 1%, and where any does, text drawn from a trained
model, in which one rounding can change every letter, isn't compared either. The outputs
are those of Tiny Shakespeare, so a run on another text has nothing to compare.
"""

import ast, json, math, os, re

import pytest
from conftest import ROOT

FRESH = ROOT / "_proc/fresh"
NOTEBOOKS = sorted((ROOT / "nbs").glob("*.ipynb"))
DURATION = re.compile(
    r"float32 \d+ ms a step, bfloat16 \d+"
    r"|\b\d[\d.,]* ?(?:ms|µs|s|seconds|minutes)\b"
    r"|\b[\d.,]+[kM]? (?:tokens|characters|steps)/s"
    r"|\d\d:\d\d"
)
DECIMAL = re.compile(r"-?\d+\.\d+(?:e[-+]\d+)?")
SAMPLES = re.compile(r"generate|write\(|charlm-train")


def cells(path):
    return [
        c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code"
    ]


def source(cell):
    return "".join(cell["source"])


def ran(cell):
    return "execution" in cell["metadata"]


def text(cell):
    "What a cell shows as text, without its durations"
    shown = [
        "".join(o.get("text", o.get("data", {}).get("text/plain", [])))
        for o in cell["outputs"]
    ]
    return DURATION.sub("", "\n".join(shown))


def names(cell):
    """The names that a cell sets, and those it reads from earlier cells.

    Third, for each function it defines, those that its body reads.
    """
    sets, reads, bodies = set(), set(), {}
    for statement in ast.parse(source(cell)).body:
        found = [n for n in ast.walk(statement) if isinstance(n, ast.Name)]
        loaded = {n.id for n in found if isinstance(n.ctx, ast.Load)}
        stored = {n.id for n in found if isinstance(n.ctx, ast.Store)}
        if isinstance(statement, ast.FunctionDef | ast.ClassDef):
            stored = {statement.name}
            bodies[statement.name] = loaded
        else:
            assigns = isinstance(statement, ast.Assign | ast.AugAssign)
            reads |= loaded - sets - (set() if assigns else stored)
            for function in loaded & bodies.keys():  # its own functions, called at once
                reads |= bodies[function] - sets
        sets |= stored
    return sets, reads, bodies


def untouched(fresh):
    "Which cells of a run depend on nothing that was left out"
    unsure, bodies, sure = set(), {}, []
    for c in fresh:
        sets, reads, defined = names(c)
        while more := set().union(*[bodies[n] for n in reads if n in bodies]) - reads:
            reads |= more
        touched = not ran(c) or bool(reads & unsure)
        unsure = unsure | sets if touched else unsure - sets
        bodies |= defined
        sure.append(not touched)
    return sure


def differences(saved, fresh):
    "The cells, by number, whose text differs"
    every = enumerate(zip(saved, fresh, untouched(fresh), strict=True))
    pairs = [(i, s, f) for i, (s, f, sure) in every if sure]

    def alike(s, f):
        found = [list(map(float, DECIMAL.findall(text(c)))) for c in (s, f)]
        return (
            DECIMAL.sub("#", text(s)) == DECIMAL.sub("#", text(f))
            and len(found[0]) == len(found[1])
            and all(
                math.isclose(a, b, rel_tol=0.01, abs_tol=1e-3)
                for a, b in zip(*found, strict=True)
            )
        )

    rounds_alike = all(
        text(s) == text(f) for _, s, f in pairs if not SAMPLES.search(source(s))
    )
    return [
        i
        for i, s, f in pairs
        if text(s) != text(f)
        and (rounds_alike or not SAMPLES.search(source(s)))
        and not alike(s, f)
    ]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_saved_outputs_are_those_of_a_fresh_run(path):
    if not (FRESH / path.name).exists() or [
        source(c) for c in cells(FRESH / path.name)
    ] != [source(c) for c in cells(path)]:
        why = "no run of the notebooks as they are now; make notebooks makes one"
        if os.environ.get("CI"):
            pytest.fail(why)
        pytest.skip(why)
    if not any(
        ran(c) and "#| shakespeare" in source(c)
        for p in FRESH.glob("*.ipynb")
        for c in cells(p)
    ):
        pytest.skip("the notebooks were run on another text than Tiny Shakespeare")
    differing = differences(cells(path), cells(FRESH / path.name))
    assert [
        (
            source(cells(path)[i]),
            text(cells(path)[i]),
            text(cells(FRESH / path.name)[i]),
        )
        for i in differing
    ] == []


def cell(code, out, executed=True):
    return {
        "source": code,
        "metadata": {"execution": {}} if executed else {},
        "outputs": [{"output_type": "stream", "text": out}],
    }


@pytest.mark.parametrize(
    "saved, fresh, differing",
    [
        ("a 1.0000", "a 1.0000", []),
        ("a 1.0000", "a 1.0020", []),
        ("a 1.0000", "a 1.1000", [1]),
        ("a 1", "a 2", [1]),
        ("apple", "pear", [1]),
        ("1.5", "1.5 1.5", [1]),
        ("done, about 3 s", "done, about 14 s", []),
        (
            "float32 11 ms a step, bfloat16 16): 3",
            "float32 9 ms a step, bfloat16 20): 3",
            [],
        ),
    ],
)
def test_what_counts_as_a_difference(saved, fresh, differing):
    assert (
        differences(
            [cell("x = 1", ""), cell("f(x)", saved)],
            [cell("x = 1", ""), cell("f(x)", fresh)],
        )
        == differing
    )


def test_what_hangs_on_a_cell_left_out_is_not_compared():
    sources = [
        "def f(): return steps",
        "#| slow\nsteps = 9",
        "y = f()",
        "y",
        "for y in range(3): print(y)",
    ]
    fresh = [cell(code, "new", executed="slow" not in code) for code in sources]
    assert differences([cell(code, "old") for code in sources], fresh) == [0, 4]


def test_letters_count_unless_the_processor_rounds_differently():
    def page(number, sample):
        return [cell("loss", number), cell("model.generate()", sample)]

    assert differences(page("1.0001", "abc"), page("1.0001", "abd")) == [1]
    assert differences(page("1.0001", "abc"), page("1.0002", "abd")) == []


def test_most_cells_with_output_are_compared():
    if not FRESH.exists():
        pytest.skip("no run of the notebooks; make notebooks makes one")
    shown = [
        sure
        for p in FRESH.glob("*.ipynb")
        for c, sure in zip(cells(p), untouched(cells(p)), strict=True)
        if text(c).strip()
    ]
    assert sum(shown) > 0.5 * len(shown), (sum(shown), len(shown))
