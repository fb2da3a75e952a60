"""charlm against the lecture's way of doing the same (lecture.py).

Compared are training, writing, importing and memory; encoding and batches.

    python benchmarks/compare.py [--rounds 5] [--only step-small write-large ...]

Each measurement runs in a process of its own (measure.py), the two sides taking turns,
and the medians over the rounds are compared: on a shared machine only the ratio means
something. Everything takes about a quarter of an hour. The results go to
benchmarks/results.json, from which the site's performance page is made; the page's
figure is in benchmarks/results.png.
"""

import argparse, datetime, json, statistics, subprocess, sys
from pathlib import Path

import data
import torch
from tqdm import tqdm

from charlm.race import machine

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "docs"))
import performance

# name -> group, what, unit, arguments for the lecture's side, arguments for ours.
# One unit is a step, 1,000 characters, an import.
CASES = {
    "step-small": (
        "Training step",
        "small setting, float32, one thread",
        "ms",
        "step small",
        "step small",
    ),
    "step-small-threads": (
        "Training step",
        "small setting, float32, all threads",
        "ms",
        "step small",
        f"step small --threads {torch.get_num_threads()}",
    ),
    "step-large": (
        "Training step",
        "large setting, no dropout, bfloat16",
        "ms",
        "step large",
        "step large --dtype bfloat16",
    ),
    "step-large-dropout": (
        "Training step",
        "large setting, dropout 0.2, bfloat16",
        "ms",
        "step large --dropout 0.2",
        "step large --dropout 0.2 --dtype bfloat16",
    ),
    "step-large-fp32": (
        "Training step",
        "large setting, no dropout, float32",
        "ms",
        "step large",
        "step large",
    ),
    "write-small": (
        "Writing 1,000 characters",
        "small setting, exact",
        "characters/s",
        "write small",
        "write small",
    ),
    "write-small-fast": (
        "Writing 1,000 characters",
        "small setting, re-priming",
        "characters/s",
        "write small",
        "write small --reprime",
    ),
    "write-large": (
        "Writing 1,000 characters",
        "large setting, exact",
        "characters/s",
        "write large",
        "write large",
    ),
    "write-large-fast": (
        "Writing 1,000 characters",
        "large setting, re-priming",
        "characters/s",
        "write large",
        "write large --reprime",
    ),
    "import": ("Import", "charlm.gpt, against torch alone", "ms", "import", "import"),
}
MEMORY = {
    "step-small": "small setting",
    "step-large": "large setting, no dropout, bfloat16",
    "step-large-dropout": "large setting, dropout 0.2, bfloat16",
}


def measure(side, args):
    return json.loads(
        subprocess.run(
            [sys.executable, HERE / "measure.py", side, *args.split()],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    )


def compare(rounds, names):
    "The rows of the table; a side that serves several cases is measured once a round"
    jobs = {
        (side, args)
        for name in names
        for side, args in zip(("lecture", "charlm"), CASES[name][3:], strict=True)
    }
    # what is compared runs one after the other
    order = sorted(jobs, key=lambda job: (job[1].split(" --")[0], job[0]))
    found = {}
    with tqdm(total=rounds * len(order), disable=not sys.stderr.isatty()) as bar:
        for _ in range(rounds):
            for job in order:
                bar.set_description(" ".join(job))
                found.setdefault(job, []).append(measure(*job))
                bar.update()

    def median(job, key):
        return statistics.median(result[key] for result in found[job])

    rows = []
    for name in names:
        group, what, unit, theirs, ours = CASES[name]
        spread = [r["seconds"] for r in found["charlm", ours]]
        rows.append(
            data.row(
                group,
                what,
                unit,
                median(("lecture", theirs), "seconds"),
                median(("charlm", ours), "seconds"),
                f"slowest of {rounds} rounds "
                f"{max(spread) / min(spread):.1f} times the fastest",
            )
        )
    for name in names:
        if name in MEMORY:
            rows.append(
                data.row(
                    "Peak memory while training",
                    MEMORY[name],
                    "MiB",
                    median(("lecture", CASES[name][3]), "peak_mib"),
                    median(("charlm", CASES[name][4]), "peak_mib"),
                )
            )
    return rows


def share_of_machine(rows, rounds):
    """How much of what this machine multiplies at best goes into a step.

    At the large setting a step needs 1.16e12 operations.
    """
    C, T, n_layer, tokens = 384, 256, 6, 64 * 256
    # attention counted whole, without using the mask
    needed = 6 * tokens * (n_layer * (12 * C**2 + T * C * 2) + 65 * C)
    rates = [measure("machine", "") for _ in range(rounds)]
    for r in rows:
        if r["group"] == "Training step" and "large" in r["what"]:
            dtype = r["what"].rsplit(", ", 1)[1]
            best = statistics.median(rate[dtype] for rate in rates)
            share = needed / (r["charlm"] / 1000) / 1e9 / best
            r["note"] = (
                f"{share:.0%} of the {best:,.0f} GFLOP/s "
                f"that this machine multiplied in {dtype}; {r['note']}"
            )


def main(rounds, names, megachars):
    rows = compare(rounds, names)
    share_of_machine(rows, rounds)
    rows += data.rows(megachars)
    for r in rows:
        print(
            f"{r['group']:<28}{r['what']:<40}"
            f"{r['lecture']:>12,.3g}{r['charlm']:>12,.3g} "
            f"{r['unit']:<14}{r['ratio']:>7.2f} x  {r['note']}"
        )
    if set(names) != set(CASES):
        return  # a part of it would replace the whole
    (HERE / "results.json").write_text(
        json.dumps(
            dict(
                made=str(datetime.date.today()),
                machine=machine(),
                rounds=rounds,
                rows=rows,
            ),
            indent=1,
        )
        + "\n"
    )
    (HERE / "results.png").write_bytes(performance.figure(performance.compared(rows)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--rounds", type=int, default=5, help="measurements of each side (default: 5)"
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=list(CASES),
        default=list(CASES),
        help="which comparisons; the results are then only printed (default: all)",
    )
    parser.add_argument(
        "--megachars",
        type=int,
        default=30,
        help="length of the text to encode, in millions of characters (default: 30)",
    )
    a = parser.parse_args()
    main(a.rounds, a.only, a.megachars)
