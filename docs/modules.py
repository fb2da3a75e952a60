"Wrap the `__all__` of each module at 88 columns; nbdev-export wraps it at 120."

import re, textwrap
from pathlib import Path


def wrapped(source):
    "A module's source with a narrower `__all__`"

    def narrower(m):
        names = " ".join(m[0].split())
        return textwrap.fill(names, 88, subsequent_indent=" " * 11)

    return re.sub(r"^__all__ = \[.*?\]$", narrower, source, flags=re.M | re.S)


if __name__ == "__main__":
    for path in (Path(__file__).resolve().parent.parent / "charlm").glob("*.py"):
        path.write_text(wrapped(path.read_text(encoding="utf-8")), encoding="utf-8")
