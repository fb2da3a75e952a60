"The page of every asserted figure, collected from the notebooks' own checks."

import ast, re

from fastcore.nbio import read_nb

from api import slug
from readme import directives, without_directives

CHECKS = re.compile(r"^(assert\b|test_\w+\(|near\(|torch\.testing\.assert_close\()")
# four digits or two decimals; a tolerance, being named, is not meant
FIGURE = re.compile(r"\d[\d_]{3,}|\d+\.\d\d")


def checks(source, flags):
    """The statements of a cell that assert a figure.

    In a cell about Tiny Shakespeare, that is every check.
    """
    code = without_directives(source)
    found = [ast.get_source_segment(code, node) for node in ast.parse(code).body]
    return [
        s
        for s in found
        if CHECKS.match(s)
        and not s.startswith("test_fail")
        and ("shakespeare" in flags or FIGURE.search(re.sub(r"\b\w+=[\d.e-]+", "", s)))
    ]


def condition(flags):
    said = [
        words
        for flag, words in {
            "shakespeare": "on Tiny Shakespeare",
            "slow": "after the long training",
            "cuda": "on a GPU",
        }.items()
        if flag in flags
    ]
    return ", ".join(said) or "on any text"


def chapter(path, name):
    "One chapter's figures, under links to its sections"
    heading, seen, pieces = "", None, []
    for cell in read_nb(path).cells:
        if cell.cell_type == "markdown":
            heading = ([heading] + re.findall(r"^#{1,6} (.+)", cell.source, re.M))[-1]
        flags = directives(cell.source)
        if (
            cell.cell_type != "code"
            or "export" in flags
            or not (found := checks(cell.source, flags))
        ):
            continue
        where = f"[{heading}]({name}.ipynb#{slug(heading)}), {condition(flags)}:"
        if where != seen:
            pieces.append(where)
        seen = where
        pieces.append("```python\n" + "\n".join(found) + "\n```")
    return pieces


def page(paths, page_name):
    pieces = [
        "# Figures",
        "No number in this book is merely shown. These are the figures that the "
        "chapters assert, each in the words of its own check, collected when this site "
        "was made. Those of Tiny Shakespeare and of the long trainings hold for that "
        "text and for the seeds that the chapters set; `make test` checks the former "
        "whenever the text is at hand, `make outputs` both.",
    ]
    for path in paths:
        if found := chapter(path, page_name(path)):
            pieces += [
                f"## {re.match(r'# (.+)', read_nb(path).cells[0].source)[1]}",
                *found,
            ]
    return "\n\n".join(pieces) + "\n"
