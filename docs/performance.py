"The page of measured speeds, made from what `make bench` has written."

import io, json, statistics

INTRO = (
    "# Performance\n\n"
    "How fast charlm is, and beside it the lecture's code doing the same on the same "
    "machine. The ratio says how many times as fast charlm is, or how many times less "
    "memory it needs: above 1 is in its favour. The lecture's side is always float32 "
    "on all threads, as its script runs; the labels say what charlm uses."
)
LIMITS = (
    "## What limits it\n\n"
    "The small setting is the lecture's first: 4 layers of 64 channels, a context of "
    "32, 16 blocks a step. Its matrix products are so small that half of a step goes "
    "into some hundreds of operations with a fixed cost each, and both sides have to "
    "take most of those. There is little to win in a bfloat16 that costs a conversion "
    "for each product.\n\n"
    "The large setting is its last: 6 layers of 384 channels, a context of 256, 64 "
    "blocks a step. In float32 about three quarters of our time is matrix products at "
    "the rate that the processor has, so the lecture's code can't be far behind. What "
    "counts is bfloat16 where the processor multiplies it in hardware, a mask and a "
    "scale that cost no pass of their own, dropout from a quarter as many random "
    "numbers, and memory that isn't given back to the system after each step.\n\n"
    "Writing is numpy (chapter 5), on one thread unless the machine is idle and the "
    "model large. With the cache it reads all the weights for each character, so the "
    "large model's speed is that of the memory, and the small model's that of its "
    "hundred small operations; exact past the context, it computes the whole context "
    "anew, as the lecture does, but the last block only for the last position. The "
    "lecture's script writes with gradients recorded; switching them off would make it "
    "1.3 (large) to 1.6 times (small) as fast by itself."
)
MISSING = (
    "This copy of the site was made without measurements. `make bench` makes them and "
    "writes `benchmarks/results.json`; the next `make docs` shows them here."
)


def number(x):
    return "" if x is None else f"{x:,.3g}" if x < 1000 else f"{x:,.0f}"


def table(rows):
    "What was measured, with a column for notes where there is one"
    columns = ["what", "unit", "lecture", "charlm", "ratio"] + ["note"] * any(
        r.get("note") for r in rows
    )
    lines = [
        columns,
        ["--:" if c in ("lecture", "charlm", "ratio") else "---" for c in columns],
    ]
    lines += [
        [
            number(r[c]) if c in ("lecture", "charlm", "ratio") else r.get(c, "")
            for c in columns
        ]
        for r in rows
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def compared(rows):
    "The rows that belong into the figure: times, of what takes long"
    return [
        r for r in rows if r["ratio"] and r["unit"] != "MiB" and r["group"] != "Import"
    ]


def figure(rows):
    """The ratios as level bars from 1, on a white ground.

    The stylesheet turns it for the dark theme.
    """
    from matplotlib.figure import Figure

    fig = Figure(figsize=(7.2, 0.8 + 0.4 * len(rows)), layout="constrained")
    ax, rows = fig.subplots(), rows[::-1]
    bars = ax.barh(
        [f"{r['group']}:\n{r['what']}" for r in rows],
        [r["ratio"] - 1 for r in rows],
        left=1,
    )
    ax.bar_label(bars, [number(r["ratio"]) for r in rows], padding=3)
    ax.axvline(1, color="0.3", lw=1)
    ax.set(
        xlabel="times as fast as the lecture's code",
        xscale="log" if max(r["ratio"] for r in rows) > 20 else "linear",
    )
    ax.margins(x=0.1, y=0.02)
    ax.xaxis.set_major_formatter("{x:g}")
    ax.tick_params(axis="y", labelsize=8)
    fig.savefig(out := io.BytesIO(), format="png", dpi=150, metadata={"Software": None})
    return out.getvalue()


SPEEDRUN = (
    "## Training to a given loss\n\n"
    "The race of chapter 6: the seconds of training, the mean and the worst loss over "
    "the whole validation split of Tiny Shakespeare, and the seconds of the whole "
    "process (medians). `nanoGPT` is its laptop setting, `benchmarks/nanogpt.py`; "
    "`fast` is what `charlm-train` uses. They took turns in one run of `make race`, "
    "{made}, on {processor} with {cores} cores."
)


def race(path):
    "The speedrun's table, if it was run"
    if not path.exists():
        return []
    found = json.loads(path.read_text(encoding="utf-8"))

    def middle(runs, key):
        return statistics.median(run["seconds"][key] for run in runs)

    lines = [
        "| recipe | seeds | steps | mean loss | worst | training | process | as soon |",
        "|---" + "|--:" * 7 + "|",
    ]
    for name, runs in found["runs"].items():
        losses = [run["loss"] for run in runs]
        training = middle(runs, "training")
        sooner = middle(found["runs"]["nanoGPT"], "training") / training
        lines.append(
            f"| {name} | {len(runs)} | {runs[0]['steps']:,} "
            f"| {statistics.mean(losses):.4f} | {max(losses):.4f} "
            f"| {training:.2f} s | {middle(runs, 'process'):.2f} s | {sooner:.1f} x |"
        )
    return [SPEEDRUN.format(made=found["made"], **found["machine"]), "\n".join(lines)]


def page(path, picture):
    "`picture` keeps the figure and returns its path"
    if not path.exists():
        return f"{INTRO}\n\n{MISSING}\n"
    results = json.loads(path.read_text(encoding="utf-8"))
    machine, rows = results["machine"], results["rows"]
    pieces = [
        INTRO,
        f"Measured on {results['made']} on {machine['processor']} "
        f"with {machine['cores']} cores, torch {machine['torch']} "
        f"and Python {machine['python']}; each number is from {results['rounds']} "
        "rounds in which the two took turns. `make bench` measures again, on your "
        "machine.",
    ]
    if bars := compared(rows):
        said = "; ".join(
            f"{r['group']}, {r['what']}: {number(r['ratio'])}" for r in bars
        )
        kept = picture("performance.png", figure(bars))
        pieces.append(
            f"![How many times as fast as the lecture's code. {said}]({kept})"
        )
    for group in dict.fromkeys(r["group"] for r in rows):
        pieces += [f"## {group}", table([r for r in rows if r["group"] == group])]
    return "\n\n".join([*pieces, LIMITS, *race(path.with_name("speedrun.json"))]) + "\n"
