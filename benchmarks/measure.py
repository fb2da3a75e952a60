"""One measurement of one side in a process of its own; prints a JSON object.

`compare.py` calls it.

python benchmarks/measure.py {lecture,charlm} step {small,large}
    [--dropout P] [--dtype float32] [--threads N]
python benchmarks/measure.py {lecture,charlm} write {small,large} [--reprime]
python benchmarks/measure.py {lecture,charlm} import
python benchmarks/measure.py machine
"""

import argparse, json, resource, statistics, time
from contextlib import ExitStack

SETTINGS = {
    "small": dict(
        shape=dict(block_size=32, n_embd=64, n_head=4, n_layer=4),
        batch_size=16,
        lr=1e-3,
        steps=200,
    ),
    "large": dict(
        shape=dict(block_size=256, n_embd=384, n_head=6, n_layer=6),
        batch_size=64,
        lr=3e-4,
        steps=3,
    ),
}


def seconds(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def median_of(function, times, warm_up):
    for _ in range(warm_up):
        function()
    return statistics.median(seconds(function) for _ in range(times))


def text_ids():
    "A text of the right size; what it says doesn't matter here"
    import torch

    return torch.randint(
        65, (1_000_000,), generator=torch.Generator().manual_seed(1), dtype=torch.uint8
    )


def step(side, setting, dropout, dtype, threads):
    "Seconds a training step, the batch included"
    s, ids = SETTINGS[setting], text_ids()
    with ExitStack() as stack:
        if side == "lecture":
            import lecture

            take = lecture.make_step(
                lecture.LectureGPT(65, **s["shape"], dropout=dropout),
                ids.long(),
                s["batch_size"],
                s["lr"],
            )
        else:
            from charlm.gpt import GPT, GPTConfig
            from charlm.train import TrainConfig, Trainer, keeping_memory, using_threads

            config = TrainConfig(
                batch_size=s["batch_size"],
                lr=s["lr"],
                clip=0.0,
                dtype=dtype,
                device="cpu",
                threads=threads,
            )
            trainer = Trainer(
                GPT(GPTConfig(65, **s["shape"], dropout=dropout)),
                ids,
                ids[:2000],
                config,
            )
            stack.enter_context(using_threads(trainer.threads))  # as Trainer.run does
            stack.enter_context(keeping_memory())
            take = trainer.advance
        return {"seconds": median_of(take, s["steps"], max(1, s["steps"] // 10))}


def write(side, setting, reprime, length=1000):
    "Seconds for a text of 1,000 characters from one"
    import torch

    s = SETTINGS[setting]
    torch.manual_seed(1)
    if side == "lecture":
        import lecture

        start = torch.zeros(1, 1, dtype=torch.long)
        model = lecture.LectureGPT(65, **s["shape"])
        return {"seconds": median_of(lambda: model.generate(start, length), 1, 0)}
    from charlm.corpus import Alphabet
    from charlm.generate import Writer, write
    from charlm.gpt import GPT, GPTConfig

    writer = Writer.from_torch(GPT(GPTConfig(65, **s["shape"])))
    alphabet = Alphabet("".join(map(chr, range(65, 130))))

    def run():
        write(writer, alphabet, "A", length, seed=1, reprime=reprime)

    return {"seconds": median_of(run, 1, 0)}


def imports(side):
    def load():
        if side == "lecture":
            import torch  # noqa: F401
        else:
            import charlm.gpt  # noqa: F401

    return {"seconds": seconds(load)}


def machine():
    """What this machine multiplies, on matrices of 2048 x 2048.

    In billions of floating-point operations a second.
    """
    import torch

    rates = {}
    for name in ("float32", "bfloat16"):
        a = torch.randn(2048, 2048).to(getattr(torch, name))
        rates[name] = 2 * 2048**3 / median_of(lambda a=a: a @ a, 10, 3) / 1e9
    return rates


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("side", choices=["lecture", "charlm", "machine"])
    parser.add_argument("what", nargs="?", choices=["step", "write", "import"])
    parser.add_argument("setting", nargs="?", choices=list(SETTINGS))
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--reprime", action="store_true")
    a = parser.parse_args()
    if a.side == "machine":
        result = machine()
    elif a.what == "step":
        result = step(a.side, a.setting, a.dropout, a.dtype, a.threads)
    elif a.what == "write":
        result = write(a.side, a.setting, a.reprime)
    elif a.what == "import":
        result = imports(a.side)
    else:
        parser.error("say what to measure: step, write or import")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(result | {"peak_mib": peak}))
