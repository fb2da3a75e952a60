"""The speedrun (chapter 6) against nanoGPT's laptop setting, and the second record.

    python benchmarks/speedrun.py [--seeds 5] [--record 3]

For each seed: the yardstick (nanogpt.py), the speedrun, and the speedrun forced to
float32, each in a process of its own, one after the other, so that all see the same
machine. Then the recipe `fast`, whose training must fit into 180 seconds. About twenty
minutes, with nothing else running; the results go to benchmarks/speedrun.json, from
which chapter 6 and the performance page are made.
"""

import argparse, datetime, json, statistics, subprocess, sys, tempfile
from pathlib import Path

from tqdm import tqdm

from charlm.race import machine

HERE = Path(__file__).parent


def yardstick(seed):
    return json.loads(
        subprocess.run(
            [sys.executable, HERE / "nanogpt.py", "--seed", str(seed)],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    )


def charlm(seed, *args):
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "certificate.json"
        subprocess.run(
            [
                Path(sys.executable).parent / "charlm-speedrun",
                "--seed",
                str(seed),
                "--out",
                out,
                *args,
            ],
            check=True,
            capture_output=True,
        )
        found = json.loads(out.read_text())
    del found["machine"]  # the same for all
    return found


def summary(name, runs, reference):
    "One line: losses, seconds and how many times sooner than the yardstick"
    losses = [r["loss"] for r in runs]
    training = [r["seconds"]["training"] for r in runs]
    process = [r["seconds"]["process"] for r in runs]
    sooner = statistics.median(reference) / statistics.median(training)
    return (
        f"{name:<24} loss {statistics.mean(losses):.4f} (worst {max(losses):.4f}), "
        f"training {statistics.median(training):6.2f} s, "
        f"process {statistics.median(process):6.2f} s, {sooner:5.1f} times as soon"
    )


def main(seeds, record):
    jobs = [
        (name, seed)
        for seed in range(1, seeds + 1)
        for name in ("nanoGPT", "speedrun", "speedrun, float32")
    ] + [("fast", seed) for seed in range(1, record + 1)]
    sides = {
        "nanoGPT": yardstick,
        "speedrun": charlm,
        "speedrun, float32": lambda seed: charlm(seed, "--dtype", "float32"),
        "fast": lambda seed: charlm(seed, "--recipe", "fast", "--look", "50"),
    }
    found = {name: [] for name in sides}
    for name, seed in tqdm(jobs, disable=not sys.stderr.isatty()):
        found[name].append(sides[name](seed))
    reference = [run["seconds"]["training"] for run in found["nanoGPT"]]
    for name, runs in found.items():
        if runs:
            print(summary(name, runs, reference))
    if seeds == 5 and record == 3:
        (HERE / "speedrun.json").write_text(
            json.dumps(
                {
                    "made": str(datetime.date.today()),
                    "machine": machine(),
                    "runs": found,
                },
                indent=1,
            )
            + "\n"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--seeds",
        type=int,
        default=5,
        help="seeds of the race, from 1; other than 5, nothing is kept (default: 5)",
    )
    parser.add_argument(
        "--record",
        type=int,
        default=3,
        help="seeds of the second record, from 1; "
        "other than 3, nothing is kept (default: 3)",
    )
    a = parser.parse_args()
    main(a.seeds, a.record)
