"""Files, states, command lines and texts that hypothesis makes up.

Whatever they are: no traceback, no hang over 10 s, no memory over twice the file plus
1 GiB, exit code 0 or 2, and with 2 one line on standard error. `make test` tries some
hundred of them, the same ones each time; `pytest -m full` tries thousands of new ones.
"""

import json
import os
import re
import shutil
import tempfile
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, assume, given, note, settings
from hypothesis import strategies as st
from hypothesis.configuration import set_hypothesis_home_dir
from test_attacks import (
    GENERATE,
    GIB,
    LINE,
    SMALL,
    SPEEDRUN,
    TRAIN,
    content,
    fast_file,
    file_of,
    limits,
    old_run,
    one_line,
    parsed,
    small,
    texts,
)

from charlm.data import BadInput, CharTokenizer

pytestmark = pytest.mark.filterwarnings("ignore")
set_hypothesis_home_dir(Path(tempfile.gettempdir(), "charlm-hypothesis"))


def examples(few, many):
    "So many of them in `make test`, and so many behind the mark"
    return pytest.mark.parametrize(
        "n", [few, pytest.param(many, marks=pytest.mark.full)]
    )


def search(n, strategy, check):
    "Call `check` with n of what a strategy makes"
    quiet = settings(
        max_examples=n,
        deadline=None,
        database=None,
        derandomize=n < 400,
        suppress_health_check=list(HealthCheck),
    )

    @quiet
    @given(strategy)
    def one(example):
        check(example)

    one()


@contextmanager
def folder():
    "An empty working folder for one example"
    before = os.getcwd()
    with tempfile.TemporaryDirectory(dir=".") as new:
        os.chdir(new)
        try:
            yield
        finally:
            os.chdir(before)


def answered(command, name, args, size=None):
    "Run a command within its limits; returns whether it accepted what it was given"
    memory = 3 * GIB if size is None else GIB + 2 * size
    note(f"{name} {args!r:.2000}")
    with limits(10, memory):
        result = command(name, *args)
    code, out, err = result
    assert code in (0, 2), (code, err)
    assert "Traceback" not in err, err
    assert size is None or "not enough memory" not in err
    if code == 2 and err.startswith("usage: "):
        parsed(result, name)
    elif code == 2:
        one_line(result, name)
    else:
        fine = rf"({name}: warning: .*\n|[\d,]+ characters in .* s, .* a second\n)*"
        assert re.fullmatch(fine, err), err
    return code == 0


# What is made up

HUGE = "".join(map(chr, range(0x10000, 0x110000)))
NASTY = [
    "",
    "x",
    "GPT",
    "FastGPT",
    "a\nb\x1b[31m\x07",
    "\ud800",
    "\u202e",
    "x" * 10**4,
    "[" * 10**5,
    HUGE,
    None,
    True,
    False,
    [],
    {},
    [[]],
    {"": None},
    ["x"] * 1000,
]
EXTREME = [
    0,
    1,
    2,
    3,
    -1,
    255,
    10**6,
    10**9,
    2**31,
    2**63 - 1,
    2**63,
    2**64,
    10**30,
    10**400,
    -(2**63),
    0.5,
    -0.5,
    1e-320,
    3e38,
    1e39,
    1e308,
    float("nan"),
    float("inf"),
    -float("inf"),
]
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)
JSON = st.recursive(
    LEAVES,
    lambda kids: (
        st.lists(kids, max_size=3)
        | st.dictionaries(st.text(max_size=5), kids, max_size=3)
    ),
    max_leaves=5,
)
ANY = st.sampled_from(EXTREME) | st.sampled_from(NASTY) | JSON


def places(value, path=()):
    "The way to every part of something read from JSON"
    yield path
    parts = value.items() if isinstance(value, dict) else ()
    parts = enumerate(value) if isinstance(value, list) else parts
    for key, part in parts:
        yield from places(part, (*path, key))


@st.composite
def changed(draw, value, times=2):
    "Something read from JSON with some parts replaced, left out, added or swapped"
    value = deepcopy(value)
    for _ in range(draw(st.integers(1, times))):
        *way, key = draw(st.sampled_from([p for p in places(value) if p]))
        at = value
        for step in way:
            at = at[step]
        do = draw(st.sampled_from(["replace", "replace", "remove", "add", "swap"]))
        if do == "remove":
            del at[key]
        elif do == "replace":
            at[key] = deepcopy(draw(ANY))
        elif do == "add" and isinstance(at, dict):
            at[draw(st.text(max_size=9))] = deepcopy(draw(ANY))
        elif do == "add":
            at.append(deepcopy(draw(ANY)))
        else:
            other = draw(
                st.sampled_from(list(at) if isinstance(at, dict) else range(len(at)))
            )
            at[key], at[other] = at[other], at[key]
        if not any(p for p in places(value) if p):
            break
    return value


TYPES = [
    torch.float16,
    torch.bfloat16,
    torch.float64,
    torch.float32,
    torch.int64,
    torch.uint8,
    torch.int16,
    torch.bool,
    torch.complex64,
    torch.float8_e4m3fn,
]
VALUES = [0.0, 1.0, -1.0, -1e5, 1e30, 3e38, -3e38, float("nan"), float("inf")]


def filled(t, value, all_of_it):
    "A tensor in which everything, or the last number, is another"
    t = t.clone()
    flat = t.view(-1)[0 if all_of_it else -1 :]
    flat[:] = torch.tensor(value).to(t.dtype)
    return t


CHANGES = {
    "type": lambda t, draw: t.to(draw(st.sampled_from(TYPES))),
    "fill": lambda t, draw: filled(t, draw(st.sampled_from(VALUES)), True),
    "last": lambda t, draw: filled(t, draw(st.sampled_from(VALUES)), False),
    "cut": lambda t, draw: t[:1] if t.dim() else t,
    "flat": lambda t, draw: t.flatten(),
    "turn": lambda t, draw: t.transpose(0, -1).contiguous() if t.dim() else t,
    "grow": lambda t, draw: torch.stack([t, t]),
    "empty": lambda t, draw: t.new_empty(0, 3),
}


class Content:
    "What a file holds, and what it says; short when printed"

    def __init__(self, tensors, about):
        self.tensors, self.about, self.done = dict(tensors), about, []

    def bytes(self):
        return file_of(self.tensors, self.about)

    def __repr__(self):
        return f"{self.done} {self.about!r}"[:5000]


def changed_content(tensors, about):
    "Contents of which some have another type, shape, value or name, or are gone"

    @st.composite
    def make(draw):
        it = Content(tensors, about)
        if draw(st.booleans()):
            it.about = draw(changed(about))
        for _ in range(draw(st.integers(0, 2))):
            name = draw(st.sampled_from(sorted(it.tensors)))
            do = draw(st.sampled_from([*CHANGES, "remove", "rename", "copy"]))
            it.done.append((do, name))
            if do in CHANGES:
                it.tensors[name] = CHANGES[do](it.tensors[name], draw)
                it.done[-1] += (it.tensors[name].flatten()[-1:].tolist(),)
            elif do == "remove" and len(it.tensors) > 1:
                del it.tensors[name]
            else:
                end = draw(st.text(st.characters(codec="utf-8"), max_size=9))
                new = draw(st.sampled_from([f"{name.rpartition('.')[0]}.{end}", end]))
                old = it.tensors if do == "copy" else it.tensors.pop(name)
                it.tensors[new] = old[name].clone() if do == "copy" else old
        return it

    return make()


@st.composite
def changed_bytes(draw, data):
    "A file in which bytes are changed, cut off, put in or doubled"
    for _ in range(draw(st.integers(1, 3))):
        i, j = sorted(
            [draw(st.integers(0, len(data))), draw(st.integers(0, len(data)))]
        )
        do = draw(st.sampled_from(["flip", "cut", "put in", "double", "length", "all"]))
        if do == "flip" and i < len(data):
            data = (
                data[:i] + bytes([data[i] ^ draw(st.integers(1, 255))]) + data[i + 1 :]
            )
        elif do == "cut":
            data = data[:i] + data[j:]
        elif do == "put in":
            data = data[:i] + draw(st.binary(max_size=20)) + data[i:]
        elif do == "double":
            data = data[:j] + data[i:]
        elif do == "length":
            data = draw(st.integers(0, 2**64 - 1)).to_bytes(8, "little") + data[8:]
        elif do == "all":
            data = draw(st.binary(max_size=200))
    return data


def header_of(data):
    "What is in front of the numbers of a safetensors file, and those numbers"
    n = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + n]), data[8 + n :]


@st.composite
def reheaded(draw, data):
    "A safetensors file with another header"
    header, numbers = header_of(data)
    said = json.loads(header["__metadata__"]["charlm"])
    if draw(st.booleans()):
        header = draw(changed(header))
    else:
        said = draw(st.sampled_from(NASTY[:9]) | changed(said).map(json.dumps))
        header["__metadata__"]["charlm"] = said
    front = json.dumps(header).encode()
    return len(front).to_bytes(8, "little") + front + numbers


# Model files


@pytest.fixture(params=["GPT", "FastGPT"])
def any_model(request, model_file):
    "The path of a small model of each kind"
    return model_file if request.param == "GPT" else Path(fast_file())


def generate(command, data):
    "Write with what may be a model"
    Path("fuzz.safetensors").write_bytes(data)
    args = ["fuzz.safetensors", "--length", 3, "--seed", 1]
    return answered(command, GENERATE, args, len(data))


@examples(300, 6000)
def test_models_that_say_something_else(command, any_model, n):
    tensors, about = content(any_model, "model")
    made = changed_content(tensors, about)
    search(n, made, lambda it: generate(command, it.bytes()))


@examples(200, 6000)
def test_model_files_of_changed_bytes(command, any_model, n):
    data = any_model.read_bytes()
    files = changed_bytes(data) | reheaded(data)
    search(n, files, lambda it: generate(command, it))


# States of runs

LONG = ("steps", "eval_iters", "batch_size", "eval_interval")


def patient(about):
    "Would this state rightly keep us waiting?"
    config = about.get("config") if isinstance(about, dict) else None
    found = [config.get(name) for name in LONG] if isinstance(config, dict) else []
    return any(isinstance(v, int | float) and 100 < v < 2**63 for v in found)


def resume(command, data, *more):
    "Continue what may be a run"
    shutil.copytree("m", "fuzz", dirs_exist_ok=True)
    Path("fuzz/run.safetensors").write_bytes(data)
    return answered(command, TRAIN, ["--resume", "fuzz", *more], len(data))


@examples(120, 2000)
def test_states_that_say_something_else(command, n):
    old_run(command)
    tensors, about = content("m/previous.safetensors", "run")

    def check(it):
        assume(not patient(it.about))
        with folder():
            small()
            shutil.copytree("../m", "m")
            resume(command, it.bytes())

    search(n, changed_content(tensors, about), check)


@examples(60, 1000)
def test_state_files_of_changed_bytes(command, n):
    old_run(command)
    data = Path("m/previous.safetensors").read_bytes()

    def check(it):
        with folder():
            small()
            shutil.copytree("../m", "m")
            resume(command, it)

    search(n, changed_bytes(data) | reheaded(data), check)


# Command lines

NUMBERS = [
    0,
    1,
    2,
    3,
    8,
    -1,
    2**63,
    10**30,
    10**400,
    -(10**30),
    "",
    " ",
    "one",
    "1.5",
    "1e3",
]
SHARES = [
    0,
    1,
    0.1,
    0.5,
    0.99,
    1.5,
    -1,
    "nan",
    "inf",
    "-inf",
    "1e308",
    "3e38",
    "1e39",
    "1e-46",
    "1e-320",
    "",
    "x",
]
ANY_NUMBER = st.sampled_from(NUMBERS) | st.integers(-5, 9) | st.integers(2**63)
ANY_SHARE = st.sampled_from(SHARES) | st.floats(-2, 2)
NAMES = st.text(st.characters(exclude_characters="/~\0"), max_size=12).filter(
    lambda name: name not in (".", "..")
)
ODD_NAMES = st.sampled_from(
    [
        "x" * 300,
        "a\nb",
        "a\x1b[31m",
        "\udce9",
        "own.txt",
        "gone/a",
        "own.txt/a",
        "-m",
        "--",
        "bundle",
        "http://",
        "http://a..b/",
        "http://127.0.0.1:9/",
    ]
)
WORDS = st.sampled_from(
    [
        "auto",
        "cpu",
        "no",
        "none",
        "linear",
        "cosine",
        "float32",
        "bfloat16",
        "float16",
        "reprime",
        "lecture",
        "speedrun",
        "cuda",
        "cuda:0",
        "cuda:99",
        "mps",
        "",
    ]
)
CHOICE = WORDS | NAMES.filter(lambda name: name != "yes")
KINDS = {
    "number": ANY_NUMBER,
    "share": ANY_SHARE,
    "name": NAMES | ODD_NAMES,
    "choice": CHOICE,
    "text": st.text(st.characters(exclude_characters="\0"), max_size=12) | NAMES,
}
OPTIONS = {
    TRAIN: {
        "number": "steps batch-size accumulate block-size n-embd n-head n-layer recent "
        "warmup eval-interval eval-iters seed threads",
        "share": "dropout lr hold final-lr weight-decay clip",
        "name": "out corpus resume",
        "choice": "recipe decay device dtype compile",
        "flag": "previous overwrite tensorboard",
    },
    GENERATE: {
        "number": "length samples top-k seed",
        "share": "temperature top-p",
        "name": "prompt-file",
        "text": "prompt stop",
        "choice": "device",
        "flag": "fast timing",
    },
    SPEEDRUN: {
        "number": "seed look steps threads",
        "name": "out corpus",
        "flag": "overwrite",
        "choice": "recipe device dtype",
    },
}


@st.composite
def lines(draw, name):
    "Options of a command, most of them as they should be"
    args = []
    for kind, options in OPTIONS[name].items():
        many = st.lists(st.sampled_from(options.split()), max_size=2)
        for option in draw(many if draw(st.booleans()) else st.just([])):
            value = "" if kind == "flag" else f"={draw(KINDS[kind])}"
            args.append(f"--{option}{value}")
    return args


@examples(60, 800)
@pytest.mark.parametrize("name", OPTIONS)
def test_command_lines(command, model_file, monkeypatch, name, n):
    monkeypatch.setattr("time.sleep", lambda seconds: None)

    def check(more):
        with folder():
            before = ["--out", "m"]
            if name == GENERATE:
                before = [model_file, "--length", 9]
            elif name == TRAIN:
                before = (
                    []
                    if any(a.startswith("--resume") for a in more)
                    else small(*before)
                )
            else:
                Path("own.txt").write_text(LINE * 40)
                before = ["--corpus", "own.txt", "--steps", 1, "--out", "c.json"]
            answered(command, name, [*before, *more])

    search(n, lines(name), check)


# Texts

ODD_BYTES = st.sampled_from(
    [
        b"",
        b"\xff",
        b"\xef\xbb\xbf",
        b"\r",
        b"\r\n",
        b"\0",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"\xc0\x80",
        "\u2028\U0010ffff\u202e".encode(),
        b"\x1b[31m",
        b"\x1a",
    ]
)
PIECES = st.lists(
    st.binary(max_size=20)
    | st.text(max_size=20).map(lambda t: t.encode(errors="surrogatepass"))
    | ODD_BYTES,
    max_size=6,
).map(b"".join)
TEXTS = st.tuples(PIECES, st.sampled_from([300, 1])).map(lambda it: it[0] * it[1])


@examples(250, 20_000)
def test_texts_are_read_or_refused(n):
    def check(data):
        Path("fuzz.txt").write_bytes(data)
        try:
            with limits(10, GIB + 2 * len(data)):
                text = texts.load_corpus(Path("fuzz.txt")).text
                tok = CharTokenizer.from_text(text)
                assert tok.decode(tok.encode(text)) == text
        except BadInput as e:
            assert "\n" not in str(e)
        else:
            plain = data.decode().removeprefix("\ufeff").replace("\r\n", "\n")
            assert text == plain.replace("\r", "\n")

    search(n, TEXTS, check)


@examples(20, 500)
def test_texts_are_learned(command, n):
    def check(data):
        with folder():
            Path("fuzz.txt").write_bytes(data)
            args = ["--corpus", "fuzz.txt", *SMALL, "--steps", 1, "--out", "m"]
            if answered(command, TRAIN, args, len(data)):
                assert answered(command, GENERATE, ["m", "--length", 9])

    search(n, TEXTS, check)


@examples(80, 5000)
def test_prompts(command, model_file, n):
    letters = st.text("the quick brown fox\n\r", max_size=30).map(str.encode)

    def check(data):
        Path("prompt").write_bytes(data)
        args = [model_file, "--length", 5, "--prompt-file", "prompt"]
        answered(command, GENERATE, args, len(data))

    search(n, letters | PIECES, check)
