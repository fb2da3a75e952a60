"""Chapter 0 against the notes' own way.

Compared are encoding a long text, its peak memory, and drawing batches.

    python benchmarks/data.py [--megachars 100]

Both sides alternate in one process and the medians are compared: on a shared machine,
only the ratio means something.
"""

import argparse, ctypes, statistics
from pathlib import Path

from lecture import get_batch as notes_batch
from measure import seconds

from charlm.data import CharTokenizer, get_batch, load_corpus


def notes_encode(text, stoi):
    return [stoi[c] for c in text]


def alternate(ours, theirs, rounds=5):
    "Median seconds of each, taking turns"
    pairs = [(seconds(ours), seconds(theirs)) for _ in range(rounds)]
    return [statistics.median(side) for side in zip(*pairs, strict=True)]


def peak_bytes(function):
    "How far the process's memory rises above where it stood, in bytes (Linux)"
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")

    def read(key):
        lines = status.read_text().splitlines()
        found = next(line for line in lines if line.startswith(key))
        return 1024 * int(found.split()[1])

    # or memory that was freed earlier would be used again, unnoticed
    ctypes.CDLL(None).malloc_trim(0)
    reset.write_text("5")
    before = read("VmRSS")
    result = function()
    return read("VmHWM") - before, result


SHOWN = {
    "ms": lambda s: 1000 * s,
    "microseconds": lambda s: 1e6 * s,
    "characters/s": lambda s: 1000 / s,
    "s": lambda s: s,
    "MiB": lambda m: m,
}


def row(group, what, unit, lecture, charlm, note=""):
    """One comparison: seconds or MiB come in, the unit goes out.

    For writing, the seconds are those of 1,000 characters. The ratio says how many
    times better charlm is.
    """
    shown = SHOWN[unit]
    return dict(
        group=group,
        what=what,
        unit=unit,
        lecture=round(shown(lecture), 3),
        charlm=round(shown(charlm), 3),
        ratio=round(lecture / charlm, 3),
        note=note,
    )


def rows(megachars):
    "Each comparison, as compare.py keeps them"
    base, found = load_corpus("bundled").text, []
    n = megachars * 10**6
    for name, text in [
        ("ASCII", base),
        ("with Greek and emoji", base + "Ἄνδρα μοι ἔννεπε 🙂"),
    ]:
        text = (text * (n // len(text) + 1))[:n]
        tok = CharTokenizer.from_text(text)
        stoi = {c: i for i, c in enumerate(tok.chars)}
        tok.encode(text[:10])  # makes the table
        extra, ids = peak_bytes(lambda tok=tok, text=text: tok.encode(text))
        assert extra > 0.9 * ids.nbytes
        del ids
        ours, theirs = alternate(
            lambda tok=tok, text=text: tok.encode(text),
            lambda text=text, stoi=stoi: notes_encode(text, stoi),
        )
        found.append(
            row(
                "Encoding",
                f"{megachars} million characters, {name}",
                "s",
                theirs,
                ours,
                f"{extra / n:.2f} bytes a character beyond the text",
            )
        )
    ids = tok.encode(text[: 10**6])
    wide = ids.long()  # the notes keep ids as int64
    for B, T in [(16, 32), (64, 256)]:
        ours, theirs = alternate(
            lambda B=B, T=T: [get_batch(ids, B, T) for _ in range(200)],
            lambda B=B, T=T: [notes_batch(wide, B, T) for _ in range(200)],
        )
        found.append(
            row(
                "Batching",
                f"{B} blocks of {T}",
                "microseconds",
                theirs / 200,
                ours / 200,
            )
        )
    return found


def main(megachars):
    print(f"{'':<52}{'charlm':>10}{'notes':>12} {'':<13}{'ratio':>9}")
    for r in rows(megachars):
        print(
            f"{r['group']:<10}{r['what']:<42}"
            f"{r['charlm']:>10.3g}{r['lecture']:>12.3g} "
            f"{r['unit']:<13}{r['ratio']:>7.1f} x  {r['note']}"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--megachars",
        type=int,
        default=100,
        help="length of the text, in millions of characters (default: 100)",
    )
    main(parser.parse_args().megachars)
