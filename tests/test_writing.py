"""Writing in numpy where a notebook can't show it.

Without torch, the same text everywhere, both kinds of model, beside a busy program.
"""

import itertools, os, statistics, subprocess, sys

import numpy as np
import pytest
import torch
from conftest import untrained

from charlm import generate, stream
from charlm.checkpoint import save_model
from charlm.checks import BadInput
from charlm.data import CharTokenizer
from charlm.generate import OnDevice, Writer, as_writer, draw, load_writer
from charlm.generate import stream_several, stream_text, uniforms, write, write_several


LETTERS = CharTokenizer("".join(chr(97 + i) for i in range(26)) + " \n.,")
SHAPE = dict(vocab_size=30, block_size=24, n_embd=32, n_head=4, n_layer=3)
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
    save_model(tmp_path / "m.safetensors", model := untrained(kind, SHAPE), LETTERS)
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
    model, generator = untrained(kind, SHAPE), torch.Generator().manual_seed(1)
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
    model = untrained(kind, SHAPE)
    expected = LETTERS.decode(
        model.generate(LETTERS.encode("abc")[None], 1000, temperature=0)[0]
    )
    assert write(model, LETTERS, "abc", 1000, temperature=0) == expected


@each_kind
def test_one_seed_one_text(tmp_path, kind):
    """From a torch model and from its file, alone and as one of several.

    In either precision of the file's numbers.
    """
    model = untrained(kind, SHAPE)
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


def test_the_module_of_the_chapter_is_short_enough_to_teach():
    with open(generate.__file__) as f:
        assert len(f.readlines()) < 200


def test_both_modules_have_what_handles_texts():
    for name in ("OnDevice", "blas_threads", "idle_cores", "opening"):
        assert getattr(generate, name) is getattr(stream, name)
    for name in ("as_writer", "follow", "stream_several", "stream_text", "write"):
        assert callable(getattr(generate, name)) and name in generate.__all__


def test_random_numbers_are_those_published_for_splitmix64():
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    first = list(itertools.islice(uniforms(1234567), 3))
    assert first == [(z >> 11) / 2**53 for z in published]


@pytest.mark.parametrize(
    "how, expected",
    [
        ({}, {0, 1, 2, 3}),
        ({"top_k": 2}, {1, 2}),
        ({"top_k": 99}, {0, 1, 2, 3}),
        ({"top_p": 0.7}, {1, 2}),
        ({"top_p": 1e-9}, {1}),
        ({"temperature": 0}, {1}),
        ({"temperature": 1e-300}, {1}),
    ],
)
def test_who_can_be_drawn(how, expected):
    scores = np.log([0.1, 0.5, 0.3, 0.1])
    assert {draw(scores, u, **how) for u in np.linspace(0, 0.999, 1000)} == expected


@pytest.fixture(params=["GPT", "Writer", "OnDevice"])
def reader(request):
    "The same model, as torch has it, as numpy reads it, and as a GPU would be read"
    model = untrained("GPT", SHAPE)
    how = {"GPT": lambda m: m, "Writer": Writer.from_torch, "OnDevice": OnDevice}
    return how[request.param](model)


def test_a_text_as_it_comes(reader):
    pieces = list(stream_text(reader, LETTERS, "abc", 200, seed=1))
    assert len(pieces) == 200 and {len(piece) for piece in pieces} == {1}
    assert pieces == list(
        stream_text(untrained("GPT", SHAPE), LETTERS, "abc", 200, seed=1)
    )
    assert pieces != list(stream_text(reader, LETTERS, "abc", 200, seed=2))
    assert write(reader, LETTERS, "abc", 200, seed=1) == "abc" + "".join(pieces)


def test_without_a_seed_no_text_comes_twice(reader):
    assert write(reader, LETTERS, "abc", 200) != write(reader, LETTERS, "abc", 200)


def test_a_text_ends_with_its_stop(reader):
    whole = "".join(stream_text(reader, LETTERS, "abc", 200, seed=1))
    for stop in (whole[50], whole[50:53]):
        text = "".join(stream_text(reader, LETTERS, "abc", 200, seed=1, stop=stop))
        assert text == whole[: whole.index(stop) + len(stop)]


def test_each_of_several_ends_by_itself(reader):
    several = list(stream_several(reader, LETTERS, 3, "abc", 200, seed=1, stop="e"))
    found = ["".join(chars) for chars in zip(*several, strict=True)]
    alone = [
        "".join(stream_text(reader, LETTERS, "abc", 200, seed=seed, stop="e"))
        for seed in (1, 2, 3)
    ]
    assert found == alone and len(set(map(len, found))) > 1
    assert all(text.count("e") <= 1 for text in found)


def test_several_are_what_their_seeds_write_alone(reader):
    alone = [write(reader, LETTERS, "abc", 60, seed=seed) for seed in (5, 6, 7)]
    assert write_several(reader, LETTERS, 3, "abc", 60, seed=5) == alone
    assert write_several(reader, LETTERS, 1, "abc", 60, seed=5) == alone[:1]


def test_a_text_from_nothing_has_no_line_end_in_front(reader):
    assert not write(reader, LETTERS, None, 50, seed=1).startswith("\n")


def test_two_texts_at_a_time_of_one_writer(reader):
    one, other = (stream_text(reader, LETTERS, "abc", 50, seed=seed) for seed in (1, 2))
    together = list(zip(one, other, strict=True))
    expected = "".join(stream_text(reader, LETTERS, "abc", 50, seed=1))
    assert "".join(a for a, _ in together) == expected


def test_what_can_be_read_is_left_as_it_is():
    model = untrained("GPT", SHAPE)
    writer, on_device = Writer.from_torch(model), OnDevice(model)
    assert as_writer(writer) is writer and as_writer(on_device) is on_device
    assert isinstance(as_writer(model), Writer)


@pytest.mark.parametrize(
    "how, words",
    [
        (dict(stop=""), "stop is empty"),
        (dict(length=0), "length is 0; it must be"),
        (dict(seed=-1), "seed is -1"),
        (dict(samples=0), "samples is 0; it must be"),
        (dict(prompt=""), "the prompt is empty"),
        (dict(stop="é"), "unknown character 'é'"),
        (dict(prompt="é"), "unknown character 'é'"),
        (dict(top_p=0), "top_p is 0"),
        (dict(top_k=0), "top_k is 0"),
        (dict(temperature=-1), "temperature is -1"),
        (
            dict(tok=CharTokenizer("ab"), prompt="a"),
            "the alphabet has 2 characters, the model",
        ),
    ],
)
def test_refused_before_anything_is_written(reader, how, words):
    how = dict(tok=LETTERS, samples=1) | how
    with pytest.raises(BadInput, match=words):
        stream_several(reader, **how)
    if "samples" not in words:
        del how["samples"]
        with pytest.raises(BadInput, match=words):
            write(reader, **how)


def test_reprime_is_for_the_lecture_s_model():
    with pytest.raises(BadInput, match="its context slides by itself"):
        write(untrained("FastGPT", SHAPE), LETTERS, "abc", 5, reprime=True)


def test_reprimed_scores_are_those_of_the_shorter_context():
    model = untrained("GPT", SHAPE)
    T = model.config.block_size
    text = torch.randint(30, (1, 3 * T), generator=torch.Generator().manual_seed(1))
    writer, contexts = Writer.from_torch(model).start(reprime=True), []
    for n in range(1, 3 * T + 1):
        found = writer.read(text[:, n - 1 : n].numpy())
        contexts.append(writer.length)
        with torch.no_grad():
            expected = model(text[:, n - writer.length : n])[0][:, -1].numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    cycle = list(range(T // 2, T + 1))
    assert contexts == [*range(1, T + 1), *(4 * cycle)][: 3 * T]


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
