"""API pages: every public name of a module with its signature and what it does.

Beside it stand where the book tells of it, and its source.
"""

import ast, importlib, inspect, re

from charlm._modidx import d
from fastcore.nbio import read_nb
from nbdev.showdoc import show_doc


def modules():
    return [name.removeprefix("charlm.") for name in d["syms"]]


def owner(node):
    "The class that a function is patched into, or ''"
    patched = any(
        "patch" in ast.unparse(decorator) for decorator in node.decorator_list
    )
    return ast.unparse(node.args.args[0].annotation) + "." if patched else ""


def definitions(text):
    """name -> node for the classes, functions, methods and constants of some Python.

    The names are nbdev's; a class is followed by its methods.
    """
    found = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign):
            found |= {
                target.id: node
                for target in node.targets
                if isinstance(target, ast.Name)
            }
        elif isinstance(node, ast.FunctionDef):
            found[owner(node) + node.name] = node
        elif isinstance(node, ast.ClassDef):
            found[node.name] = node
            found |= {
                f"{node.name}.{child.name}": child
                for child in node.body
                if isinstance(child, ast.FunctionDef)
            }
    first = {}
    for name in found:
        first.setdefault(name.split(".")[0], len(first))
    return {
        n: found[n]
        for n in sorted(found, key=lambda n: first[n.split(".")[0]])
        if not re.search(r"(^|\.)_", n)
    }


def source_of(module):
    return inspect.getsource(importlib.import_module(f"charlm.{module}"))


def constants():
    return {
        name: module
        for module in modules()
        for name, node in definitions(source_of(module)).items()
        if isinstance(node, ast.Assign)
    }


def segment(text, node):
    "A definition's source, its decorators too"
    decorators = getattr(node, "decorator_list", [])
    first = min([node.lineno] + [decorator.lineno for decorator in decorators])
    lines = text.splitlines()[first - 1 : node.end_lineno]
    return inspect.cleandoc("\n" + "\n".join(lines))


def signature(module, name):
    "As show_doc has it, from the annotations and the comments beside the parameters"
    thing = importlib.import_module(f"charlm.{module}")
    for part in name.split("."):
        thing = getattr(thing, part)
    thing = getattr(thing, "fget", None) or getattr(thing, "func", None) or thing
    text = re.search(
        r"```python\n(.*?)\n?```", show_doc(thing)._repr_markdown_(), re.S
    )[1]
    return re.sub(r"^def", "class", text) if inspect.isclass(thing) else text


def headings(path):
    "Where each name is defined: name -> the heading above its cell"
    heading, where = "", {}
    for cell in read_nb(path).cells:
        if cell.cell_type == "markdown":
            heading = ([heading] + re.findall(r"^#{1,6} (.+)", cell.source, re.M))[-1]
        elif "#| export" in cell.source:
            where |= dict.fromkeys(definitions(cell.source), heading)
    return where


def slug(heading):
    """The id of a heading: lower case, with hyphens for spaces.

    The dots and underscores of names are kept, as nbdev's links have them.
    """
    return re.sub(r"[^\w.\- ]", "", heading.lower()).strip().replace(" ", "-")


def entry(module, name, node, text, heading, link_names, level):
    "One name of the library"
    constant = isinstance(node, ast.Assign)
    doc = "" if constant else (ast.get_docstring(node) or "").replace("$", r"\$")
    end = "" if not doc else " " if doc[-1] in ".?!" else ". "
    doc = link_names(doc, "../") + end
    code = f"```python\n{segment(text, node)}\n```"
    if not constant:
        opening = f"<details><summary>Source of {name}</summary>"
        code = (
            f"```python\n{signature(module, name)}\n```\n\n"
            f"```{{raw}} html\n{opening}\n```\n\n"
            f"{code}\n\n"
            "```{raw} html\n</details>\n```"
        )
    told = f"Told under [{heading}](../{module}.ipynb#{slug(heading)})."
    return f"{'#' * level} `{name}`\n\n{doc}{told}\n\n{code}"


def module_page(module, path, link_names):
    title, about = re.match(r"# (.+)\n\n> (.+)", read_nb(path).cells[0].source).groups()
    text, where = source_of(module), headings(path)
    found = {n: node for n, node in definitions(text).items() if n in where}
    entries = [
        entry(
            module,
            n,
            node,
            text,
            where[n],
            link_names,
            3 if "." in n and n.split(".")[0] in found else 2,
        )
        for n, node in found.items()
    ]
    return (
        "\n\n".join(
            [
                f"# `charlm.{module}`",
                f"{about}. The chapter is [{title}](../{module}.ipynb).",
                *entries,
            ]
        )
        + "\n"
    )


def index_page(chapters):
    rows = [
        f"| [`charlm.{c.name}`]({c.name}.md) "
        f"| [{c.title}](../{c.name}.ipynb) | {c.about} |"
        for c in chapters
        if c.name in modules()
    ]
    intro = (
        "Every chapter is a module. These pages list its names, each with its "
        "signature, a sentence, and its source. In a signature, a parameter is "
        "followed by its type and, in a comment, its meaning; `(B,T)` there is the "
        "shape of a tensor."
    )
    table = ["| module | chapter | what it is about |", "|---|---|---|", *rows]
    return "\n".join(["# The library", "", intro, "", *table]) + "\n"
