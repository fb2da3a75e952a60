"""Writing in numpy where a notebook can't show it.

Without torch, the same text everywhere, both kinds of model, beside a busy program.
"""

import os, statistics, subprocess, sys

import numpy as np
import pytest
import torch

from charlm.checkpoint import save_model
from charlm.data import CharTokenizer
from charlm.generate import Writer, load_writer, write, write_several
from charlm.gpt import GPT, GPTConfig
from charlm.fast import FastConfig, FastGPT

LETTERS = CharTokenizer("".join(chr(97 + i) for i in range(26)) + " \n.,")
SHAPE = dict(vocab_size=30, block_size=24, n_embd=32, n_head=4, n_layer=3)


def make(kind):
    "An untrained model whose every weight counts"
    torch.manual_seed(1)
    model = (
        FastGPT(FastConfig(**SHAPE, recent=3))
        if kind == "FastGPT"
        else GPT(GPTConfig(**SHAPE))
    )
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.1)
        model.lm_head.weight.normal_(std=0.5)
    return model.eval()


each_kind = pytest.mark.parametrize("kind", ["GPT", "FastGPT"])


def without_torch(code, *args):
    "What a Python process prints, if it ends well and has not imported torch"
    code += "\nassert 'torch' not in sys.modules, 'torch was imported'"
    done = subprocess.run(
        [sys.executable, "-c", "import sys\n" + code, *map(str, args)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@each_kind
def test_writing_imports_no_torch(tmp_path, kind):
    save_model(tmp_path / "m.safetensors", model := make(kind), LETTERS)
    command = (
        "from charlm.cli import main\nassert main('charlm-generate', sys.argv[1:]) == 0"
    )
    args = [tmp_path / "m.safetensors", "--prompt", "abc", "--length", 40, "--seed", 7]
    expected = write(model, LETTERS, "abc", 40, seed=7)
    assert without_torch(command, *args) == expected + "\n"
    assert without_torch(command, *args, "--samples", 2).startswith(
        expected + "\n---\n"
    )
    python = (
        "from charlm.generate import *\n"
        "print(write(*load_writer(sys.argv[1]), 'abc', 40, seed=7))"
    )
    assert without_torch(python, tmp_path / "m.safetensors") == expected + "\n"


@pytest.mark.parametrize("name", ["charlm-train", "charlm-generate", "charlm-speedrun"])
@pytest.mark.parametrize(
    "args", [["--help"], ["--colour", "red"], ["--seed", "-1"], ["--device", ""]]
)
def test_help_and_wrong_arguments_import_no_torch(name, args):
    args = ["model", *args] if name == "charlm-generate" else args
    code = (
        "from charlm.cli import main\n"
        f"try: main({name!r}, sys.argv[1:])\n"
        "except SystemExit as e: print('exit', e.code)"
    )
    assert without_torch(code, *args).endswith(
        "exit 0\n" if "--help" in args else "exit 2\n"
    )


@each_kind
def test_scores_are_those_of_the_torch_model_up_to_the_context_and_past_it(kind):
    model, generator = make(kind), torch.Generator().manual_seed(1)
    text = torch.randint(30, (8, 120), generator=generator)
    for B in (1, 8):
        one = Writer.from_torch(model).start(B)
        many = Writer.from_torch(model).start(B)
        begun = 0
        for n in range(1, 121):
            seen = text[:B, max(0, n - model.config.reach) : n]
            with torch.no_grad():
                expected = model(seen)[0][:, -1].numpy()
            scores = one.read(text[:B, n - 1 : n].numpy())
            np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-4)
            if n in (7, 31, 32, 90, 120):
                scores = many.read(text[:B, begun:n].numpy())
                np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-4)
                begun = n


@each_kind
def test_a_thousand_characters_greedily(kind):
    model = make(kind)
    expected = LETTERS.decode(
        model.generate(LETTERS.encode("abc")[None], 1000, temperature=0)[0]
    )
    assert write(model, LETTERS, "abc", 1000, temperature=0) == expected


@each_kind
def test_one_seed_one_text(tmp_path, kind):
    """From a torch model and from its file, alone and as one of several.

    In either precision of the file's numbers.
    """
    model = make(kind)
    save_model(tmp_path / "m.safetensors", model, LETTERS)
    writer, alphabet = load_writer(tmp_path / "m.safetensors")
    texts = [
        write(model, LETTERS, "abc", 300, seed=seed, temperature=0.7, top_p=0.9)
        for seed in range(1, 5)
    ]
    assert len(set(texts)) == 4
    assert texts == [
        write(writer, alphabet, "abc", 300, seed=seed, temperature=0.7, top_p=0.9)
        for seed in range(1, 5)
    ]
    assert texts == write_several(
        writer, alphabet, 4, "abc", 300, seed=1, temperature=0.7, top_p=0.9
    )
    save_model(tmp_path / "half.safetensors", model, LETTERS, "bfloat16")
    half, whole = tmp_path / "half.safetensors", tmp_path / "m.safetensors"
    assert half.stat().st_size < 0.6 * whole.stat().st_size
    rounded = model.bfloat16().float()
    expected = write(rounded, LETTERS, "abc", 300, seed=1)
    assert write(*load_writer(half), "abc", 300, seed=1) == expected


STEPS = """
import sys, time, statistics
from dataclasses import replace
from charlm.corpus import load_corpus
from charlm.recipes import RECIPES
from charlm.train import keeping_memory, using_threads
recipe = RECIPES["fast"]
config = replace(recipe.train, threads=2, device="cpu", dtype="float32")
trainer, _ = replace(recipe, train=config).start(load_corpus("bundled"))
times = []
with using_threads(2), keeping_memory():
    for _ in range(8):
        began = time.perf_counter()
        trainer.advance().item()
        times.append(time.perf_counter() - began)
print(statistics.median(times[2:]))
"""


@pytest.mark.full
def test_a_busy_program_beside_it_does_not_stop_training():
    """A step on two threads stays quick while another process wants a core.

    It takes at most two and a half times as long.
    """

    def step():
        return float(
            subprocess.run(
                [sys.executable, "-c", STEPS],
                check=True,
                capture_output=True,
                text=True,
            ).stdout
        )

    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two cores")
    idle, busy = [], []
    for _ in range(3):
        idle.append(step())
        other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        try:
            busy.append(step())
        finally:
            other.kill()
            other.wait()
    assert statistics.median(busy) < 2.5 * statistics.median(idle), (idle, busy)
