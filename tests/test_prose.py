"""Numbers in prose are numbers that the book's own cells show.

A number of three or more digits that stands in a chapter's prose must be printed or
asserted by a cell of that chapter: it is in the cell's source, or in its saved output.
README and the first page may also use what is in the JSON files that index.ipynb reads,
and a page like the glossary what any chapter shows. Thousands separators and trailing
zeros don't matter (209,729 is 209_729, and 2.1 is 2.10), rounding does: whoever rounds
lets a cell print the rounded number, or names it below.
"""

import ast, json, math, operator, re
from decimal import Decimal

import pytest
from conftest import ROOT

# Names with numbers in them, and how sources are cited: these are no figures.
NAMES = [
    r"\b(?:GPT|UTF|SHA|CRC|ISO|IEEE|RFC|Latin|Zen|WikiText|CIFAR)[- ]?\d[\d.]*",
    r"\b(?:bfloat|float|int|uint|fp|bf)\d+",
    r"\b(?:Python|PyTorch|torch|numpy|Linux|CUDA) \d+(?:\.\d+)+",
    r"\b[AHBV]\d{2,3}0?\b",  # graphics processors: A100, H100
    r"\b\d+(?:\.\d+){2,}",  # versions and sections: 3.2.1
    r"\barXiv:\d{4}\.\d{4,5}",
    r"\bdoi:\S+",
    r"\bpages? \d+(?:[-–]\d+)?",
    r"\bU\+[0-9A-F]+|\b0x[0-9A-Fa-f]+",
]

# Chapter (without its number) or page -> number as written -> why no cell shows it
EXCEPTIONS = {
    "README": {
        "384": "the channels of the large setting, in benchmarks/measure.py",
        "1.48": "the lecture's figure, said not to be reproduced",
    },
    "index": {
        "384": "the channels of the large setting, in benchmarks/measure.py",
        "1.48": "the lecture's figure, said not to be reproduced",
    },
}

YEARS = range(1900, 2100)
NUMBER = re.compile(
    r"(?<![\w.])(?:\d{1,3}(?:,\d{3})+(?!\d)|\d[\d_]*)(?:\.\d+)?(?:e[-+]?\d+)?", re.I
)
SCALES = {
    "%": Decimal("0.01"),
    "per cent": Decimal("0.01"),
    "thousand": Decimal(10**3),
    "million": Decimal(10**6),
    "billion": Decimal(10**9),
}
OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Pow: operator.pow,
}


def value(number):
    return abs(Decimal(number.replace(",", "").replace("_", ""))).normalize()


def in_text(text):
    return {value(number) for number in NUMBER.findall(text)}


def constant(node):
    "What a number, or simple arithmetic of numbers such as 64 * 256, comes to"
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return node.value
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        a, b = constant(node.left), constant(node.right)
        power = isinstance(node.op, ast.Pow)
        if a is None or b is None or (power and abs(b) > 64):
            return None
        try:
            return OPERATORS[type(node.op)](a, b)
        except ArithmeticError:
            return None
    return None


def in_source(source):
    "The numbers of some Python: in its code and its strings, not in its comments"
    code = "\n".join(
        "" if line[:1] in ("%", "!") else line for line in source.splitlines()
    )
    found, told = set(), set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            if isinstance(node.value.value, str):
                told.add(node.value)  # a docstring asserts nothing
        number = constant(node)
        if isinstance(number, int | float) and math.isfinite(number):
            found.add(value(repr(number)))
        if isinstance(node, ast.Constant) and node not in told:
            if isinstance(node.value, str):
                found |= in_text(node.value)
    return found


def cells(path):
    return json.loads(path.read_text(encoding="utf-8"))["cells"]


def in_output(output):
    data = output.get("data", {})
    kinds = [output.get("text", "")]
    kinds += [data.get(kind, "") for kind in ("text/plain", "text/markdown")]
    return set().union(*[in_text("".join(text)) for text in kinds])


def in_cells(path):
    "Every number that a notebook's cells hold or print"
    found = set()
    for cell in cells(path):
        if cell["cell_type"] == "code":
            found |= in_source("".join(cell["source"]))
            found |= set().union(*[in_output(o) for o in cell["outputs"]])
    return found


def in_json_files(path):
    "The numbers of the benchmarks' files that a notebook names"
    names = re.findall(r"benchmarks/(\w+\.json)", path.read_text(encoding="utf-8"))
    texts = [(ROOT / "benchmarks" / name).read_text() for name in set(names)]
    return set().union(*[in_text(text) for text in texts])


def prose(markdown):
    "Markdown without code blocks, addresses, and the names that hold numbers"
    text = re.sub(r"^(`{3,}|~{3,}).*?^\1", " ", markdown, flags=re.M | re.S)
    text = re.sub(r"<!--.*?-->", " ", text, flags=re.S)
    text = re.sub(r"\]\([^)\s]*\)|<?https?://[^\s)>]+>?|\{width=\w+\}", " ", text)
    text = re.sub(r"\{,\}|\\,", ",", text)  # separators within formulas
    text = re.sub(r"\b10\^\{?(-?\d+)\}?", r"1e\1", text)
    return re.sub("|".join(NAMES), " ", text)


def sentences(text):
    pieces = re.split(r"(?<=[.?!])\s+|\n\s*\n|\n(?=[-*|#>] ?)", text)
    return [" ".join(piece.split()) for piece in pieces if piece.strip()]


def is_year(number):
    return re.fullmatch(r"\d{4}", number) and int(number) in YEARS


def unfounded(markdown, shown):
    "(number, sentence) for each number of three digits or more that isn't shown"
    found = []
    for sentence in sentences(prose(markdown)):
        for match in NUMBER.finditer(sentence):
            number, after = match[0], sentence[match.end() :].lstrip(" \\")
            digits = re.sub(r"e.*|\D", "", number, flags=re.I)
            if len(digits) < 3 or is_year(number):
                continue
            meant = {value(number)}
            for words, scale in SCALES.items():
                if after.startswith(words):
                    meant.add((value(number) * scale).normalize())
            if not meant & shown:
                found.append((number, sentence))
    return found


def notebooks():
    return sorted((ROOT / "nbs").glob("*.ipynb"))


def texts():
    "name -> its Markdown, and the numbers that it may use"
    found, book = {}, set()
    for path in notebooks():
        name = re.sub(r"^\d+_", "", path.stem)
        markdown = "\n\n".join(
            "".join(c["source"]) for c in cells(path) if c["cell_type"] == "markdown"
        )
        shown = in_cells(path)
        if name == "index":
            shown |= in_json_files(path)
            readme = (ROOT / "README.md").read_text(encoding="utf-8")
            found["README"] = readme, shown
        book |= shown
        found[name] = markdown, shown
    for page in sorted((ROOT / "docs").glob("*.md")):
        found[page.stem] = page.read_text(encoding="utf-8"), book
    return found


TEXTS = texts()


@pytest.mark.parametrize("name", TEXTS)
def test_numbers_in_prose_are_shown_by_a_cell(name):
    excepted = EXCEPTIONS.get(name, {})
    wrong = [
        f"{name}: {number}: {sentence}"
        for number, sentence in unfounded(*TEXTS[name])
        if number not in excepted
    ]
    assert not wrong, "no cell prints or asserts these:\n" + "\n".join(wrong)


def test_every_exception_is_needed():
    needed = {
        (name, number) for name, text in TEXTS.items() for number, _ in unfounded(*text)
    }
    listed = {(name, number) for name, of in EXCEPTIONS.items() for number in of}
    assert listed <= needed, f"no longer needed: {sorted(listed - needed)}"


@pytest.mark.parametrize(
    "text, numbers",
    [
        ("It has 209,729 parameters, 209_729 of them, 209729.", []),
        ("About 210,000 of them.", ["210,000"]),
        ("A loss of 2.10, or 2.1; never 2.11.", ["2.11"]),
        ("In 2017, of 65 characters, 12 are 1 or 0.5.", []),
        ("That is 98.5% or 98.5 per cent, and 1.25 million; 1.25 m.", ["1.25"]),
        (
            "GPT-2 in bfloat16 on an A100, with SHA-256, section 3.2.1 "
            "(arXiv:1706.03762).",
            [],
        ),
        ("[1234](https://a.b/1234) and `1234`.\n```\n5678\n```", ["1234", "1234"]),
        ("$10{,}000^{-2i}$, $10^{308}$ and 16,384.", ["10,000"]),
    ],
)
def test_what_counts_as_founded(text, numbers):
    source = (
        'f("""2.5""")  # 210000\nassert n == 209_729\n'
        "x, y = 0.985, 1_250_000\nprint(2.1, 64 * 256)"
    )
    found = unfounded(text, in_source(source))
    assert [number for number, _ in found] == numbers
