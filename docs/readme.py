"""Make README.md from nbs/index.ipynb.

It is plain GitHub-flavoured Markdown, with its pictures in index_files/.
"""

import base64, json, re
from pathlib import Path

root = Path(__file__).resolve().parent.parent


def without_directives(source):
    return re.sub(r"^#\|.*\n?", "", source, flags=re.M).strip("\n")


def directives(source):
    return set(re.findall(r"^#\|\s*(.+?)\s*$", source, flags=re.M))


def fenced(text, language=""):
    return f"```{language}\n{text.rstrip()}\n```" if text.strip() else ""


def callouts(text, render):
    """Quarto's callouts, each as `render(kind, title, body)` writes it.

    Its title is named (`::: {.callout-note title="Key idea"}`), or else it is what its
    first line says in bold as a sentence of its own (`**Key idea.** Then ...`).
    """

    def callout(m):
        _, kind, attributes, body = m.groups()
        named = re.search(r'title="([^"]+)"', attributes)
        bold = re.match(r"\*\*([^*\n]+?)(?:[.:]\*\*\s+|([?!])\*\*\s+|\*\*\n+)", body)
        if named or not bold:
            return render(kind, named[1] if named else "", body)
        return render(kind, bold[1] + (bold[2] or ""), body[bold.end() :])

    pattern = r"^(:{3,}) ?\{\.callout-(\w+)([^}\n]*)\}\n+(.*?)\n+\1$"
    return re.sub(pattern, callout, text, flags=re.M | re.S)


def quoted(kind, title, body):
    "A callout as plain Markdown: a quotation that begins with its title"
    title = title or kind.capitalize()
    stop = "" if title[-1] in "?!" else "."
    lines = f"**{title}{stop}** {body}".splitlines()
    return "\n".join(f"> {line}".rstrip() for line in lines)


def output_to_md(output, name, alt, pictures):
    """One saved output as Markdown.

    A picture is put into `pictures` under the path that the Markdown names.
    """
    data = output.get("data", {})
    if "image/png" in data:
        pictures[name] = base64.b64decode("".join(data["image/png"]))
        return f"![{alt}]({name})"
    if "text/markdown" in data:
        return "".join(data["text/markdown"])
    return fenced("".join(output.get("text", data.get("text/plain", []))))


def cell_to_md(cell, i, pictures):
    "The Markdown pieces of one cell"
    source = "".join(cell["source"])
    if cell["cell_type"] == "markdown":
        text = re.sub(r"\]\((\w+\.ipynb)", r"](nbs/\1", callouts(source, quoted))
        return [text.replace("](../", "](")]
    flags = directives(source)
    if flags & {"hide", "include: false"}:
        return []
    code = (
        [] if "echo: false" in flags else [fenced(without_directives(source), "python")]
    )
    alt = next(
        (f.removeprefix("fig-alt: ") for f in flags if f.startswith("fig-alt: ")), ""
    )
    return code + [
        output_to_md(o, f"index_files/{i}-{j}.png", alt, pictures)
        for j, o in enumerate(cell["outputs"])
    ]


def convert(notebook):
    "README text, and its pictures as path -> bytes"
    pictures, pieces = {}, []
    for i, cell in enumerate(notebook["cells"]):
        pieces += cell_to_md(cell, i, pictures)
    note = "<!-- Made from nbs/index.ipynb by docs/readme.py; edit the notebook. -->"
    return "\n\n".join([note] + [p for p in pieces if p]) + "\n", pictures


if __name__ == "__main__":
    text, pictures = convert(
        json.loads((root / "nbs/index.ipynb").read_text(encoding="utf-8"))
    )
    (root / "README.md").write_text(text, encoding="utf-8")
    for name, data in pictures.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(data)
    for old in set((root / "index_files").glob("*.png")) - {
        root / name for name in pictures
    }:
        old.unlink()
