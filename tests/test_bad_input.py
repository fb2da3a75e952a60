"Every kind of bad input: one line that names it, exit code 2, nothing lost."

import os
from pathlib import Path

import pytest
import torch
from conftest import answer
from safetensors.torch import load_file, save_file

LINE = "All the world is made of letters, said the printer.\n"


def refused(result, command, *parts):
    code, out, err = result
    assert code == 2
    assert (
        err.startswith(f"{command}: error: ")
        and err.count("\n") == 1
        and "Traceback" not in err
    )
    for part in parts:
        assert part in err
    return out


def write(name, data):
    Path(name).write_bytes(data if isinstance(data, bytes) else data.encode())
    return name


CORPORA = {
    "missing": (
        lambda: "nowhere.txt",
        ["no text called 'nowhere.txt', and no such file"],
    ),
    "folder": (lambda: ".", [". is a folder; name a text file inside it"]),
    "empty": (lambda: write("empty.txt", ""), ["empty.txt holds no text"]),
    "blank": (lambda: write("blank.txt", " \n\n"), ["blank.txt holds no text"]),
    "short": (
        lambda: write("short.txt", LINE * 2),
        ["104 characters", "too short for block_size 32", "it needs 321"],
    ),
    "binary": (
        lambda: write("old.txt", "caf\u00e9".encode("latin-1") + LINE.encode()),
        ["old.txt is not UTF-8 text: byte 0xe9 at position 3"],
    ),
    "misspelt": (lambda: "tinyshakespare", ["did you mean 'tinyshakespeare'?"]),
    "no such user": (lambda: "~nosuch/file", ["no such file"]),
    "name too long": (lambda: "a" * 300, ["can't reach aaa", "File name too long"]),
    "utf-16": (
        lambda: write("wide.txt", LINE.encode("utf-16")),
        [
            "wide.txt is not UTF-8 text: "
            "the NUL at position 3 means binary data or UTF-16"
        ],
    ),
    "link to nothing": (
        lambda: os.symlink("nothing", "link.txt") or "link.txt",
        ["can't read link.txt: it is a link to nothing"],
    ),
    "unreachable": (
        lambda: "http://127.0.0.1:9/a.txt",
        ["can't download http://127.0.0.1:9/a.txt: ", "or use a file of yours"],
    ),
    "not an address": (lambda: "http://", ["can't download http://: "]),
}


@pytest.mark.parametrize("make, parts", CORPORA.values(), ids=CORPORA.keys())
def test_corpus(command, make, parts):
    source = make()
    before = sorted(os.listdir())
    out = refused(
        command("charlm-train", "--corpus", source, "--out", "new", "--block-size", 32),
        "charlm-train",
        *parts,
    )
    assert out == "" and sorted(os.listdir()) == before  # said before anything was made


def test_the_length_that_is_asked_for_suffices(command):
    write("just.txt", (LINE * 10)[:320])
    refused(
        command(
            "charlm-train", "--corpus", "just.txt", "--out", "new", "--block-size", 32
        ),
        "charlm-train",
        "it needs 321",
    )
    write("just.txt", (LINE * 10)[:321])
    code, _, err = command(
        "charlm-train",
        "--corpus",
        "just.txt",
        "--out",
        "new",
        "--block-size",
        32,
        "--steps",
        1,
        "--eval-iters",
        1,
    )
    assert (code, err) == (0, "")


def test_http_404(command, server):
    url = server("/gone.txt", answer(b"", 404))
    refused(
        command("charlm-train", "--corpus", url),
        "charlm-train",
        f"can't download {url}: HTTP 404",
    )
    assert server.visits["/gone.txt"] == 0  # asked once, not three times


def test_wrong_hash(command, monkeypatch):
    write("tinyshakespeare.txt", LINE * 100)
    monkeypatch.setenv("CHARLM_DATA", os.getcwd())
    for corpus in (
        [],
        ["--corpus", "tinyshakespeare"],
    ):  # the default must not paper over it either
        refused(
            command("charlm-train", *corpus),
            "charlm-train",
            "tinyshakespeare.txt is not the expected text: its sha256 begins ",
        )
    assert Path("tinyshakespeare.txt").read_text() == LINE * 100


def test_data_folder_without_the_text(command, monkeypatch):
    monkeypatch.setenv("CHARLM_DATA", "/nowhere")
    refused(
        command("charlm-train"),
        "charlm-train",
        "CHARLM_DATA is '/nowhere', but there is no /nowhere/tinyshakespeare.txt",
    )


SETTINGS = {
    "n_embd not divisible": (
        ["--n-embd", 66],
        ["n_embd is 66, which n_head 4 doesn't divide; choose n_embd 64"],
    ),
    "n_head 0": (["--n-head", 0], ["n_head is 0"]),
    "n_embd 0": (["--n-embd", 0], ["n_embd is 0; it must be a whole number from 1 to"]),
    "n_layer -1": (["--n-layer", -1], ["n_layer is -1"]),
    "block_size 0": (["--block-size", 0], ["block_size is 0"]),
    "batch_size -3": (["--batch-size", -3], ["batch_size is -3"]),
    "steps 0": (["--steps", 0], ["steps is 0; it must be a whole number from 1 to"]),
    "eval_interval 0": (["--eval-interval", 0], ["eval_interval is 0"]),
    "lr 0": (["--lr", 0], ["lr is 0.0; it must be a number above 0"]),
    "lr negative": (["--lr", "-0.1"], ["lr is -0.1"]),
    "lr nan": (["--lr", "nan"], ["lr is nan"]),
    "dropout 1": (
        ["--dropout", 1],
        ["dropout is 1.0; it must be a number from 0 to below 1"],
    ),
    "dropout nan": (["--dropout", "nan"], ["dropout is nan"]),
    "seed -1": (["--seed", -1], ["seed is -1"]),
    "accumulate 3": (
        ["--accumulate", 3],
        ["batch_size is 16, which accumulate 3 doesn't divide"],
    ),
    "warmup -1": (
        ["--warmup", -1],
        ["warmup is -1; it must be a whole number from 0 to"],
    ),
    "hold 1": (["--hold", 1], ["hold is 1.0; it must be a number from 0 to below 1"]),
    "recipe": (
        ["--recipe", "quick"],
        ["recipe is 'quick'; choose fast, speedrun or lecture"],
    ),
    "recent beyond the block": (
        ["--recent", 300],
        ["recent is 300, more than block_size 256"],
    ),
    "threads": (
        ["--threads", 100000],
        ["threads is 100000; it must be a whole number from 0 to 1,024"],
    ),
    "recent 0": (["--recent", 0], ["recent is 0; it must be a whole number from 1 to"]),
    "recent with the lecture's model": (
        ["--recipe", "lecture", "--recent", 3],
        ["recent is 3, but the lecture's model has no recent; leave it out"],
    ),
    "clip nan": (["--clip", "nan"], ["clip is nan"]),
    "decay": (
        ["--decay", "square"],
        ["decay is 'square'; choose none, linear or cosine"],
    ),
    "dtype": (
        ["--dtype", "int8"],
        ["dtype is 'int8'; choose auto, float32, bfloat16 or float16"],
    ),
    "dtype float16 on cpu": (
        ["--device", "cpu", "--dtype", "float16"],
        ["dtype is 'float16', which needs an NVIDIA GPU, but the device is cpu"],
    ),
    "compile": (["--compile", "maybe"], ["compile is 'maybe'; choose auto, yes or no"]),
    "device cuda": (
        ["--device", "cuda"],
        ["device is 'cuda', but torch finds no such hardware here; choose auto or cpu"],
    ),
    "device gpu": (
        ["--device", "gpu"],
        ["device is 'gpu'; choose auto, cpu, cuda or mps"],
    ),
    "seed too large": (
        ["--seed", 2**63],
        ["seed is 9223372036854775808; it must be a whole number from 0 to"],
    ),
    "too large for any machine": (
        ["--n-embd", 4 * 10**8],
        ["n_embd is 400000000; it must be a whole number from 1 to 65,536"],
    ),
    "too large for this machine": (
        ["--n-embd", 65536, "--n-layer", 1000],
        [
            "not enough memory for this: it needs at least",
            "choose a smaller n_embd, n_layer or block_size",
        ],
    ),
    "compile without a compiler": (
        ["--compile", "yes"],
        ["compile is 'yes', but there is no C++ compiler here"],
    ),
}


@pytest.mark.parametrize("args, parts", SETTINGS.values(), ids=SETTINGS.keys())
def test_settings(command, monkeypatch, args, parts):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("shutil.which", lambda name: None)
    refused(
        command("charlm-train", "--corpus", "bundled", "--out", "new", *args),
        "charlm-train",
        *parts,
    )
    assert not Path("new").exists()


@pytest.mark.parametrize(
    "args",
    [["--steps", "many"], ["--colour", "red"]],
    ids=["not a number", "unknown option"],
)
def test_arguments_that_do_not_parse(command, args):
    refused(
        command("charlm-train", *args),
        "charlm-train",
        args[0],
        "see charlm-train --help",
    )


def test_output_folder_that_cannot_be_written(command):
    write("a-file", "in the way")
    refused(
        command("charlm-train", "--corpus", "bundled", "--out", "a-file"),
        "charlm-train",
        "--out is a-file, which is a file; name a folder",
    )
    for out in ("a-file/deeper", "/proc/charlm"):
        refused(
            command("charlm-train", "--corpus", "bundled", "--out", out),
            "charlm-train",
            f"can't write to the folder {out}: ",
        )
    assert Path("a-file").read_text() == "in the way"


def test_a_model_is_never_overwritten_unasked(command, model_file):
    Path("kept").mkdir()
    model_file.rename("kept/model.safetensors")
    before = Path("kept/model.safetensors").read_bytes()
    refused(
        command("charlm-train", "--corpus", "bundled", "--out", "kept"),
        "charlm-train",
        "kept/model.safetensors exists already",
        "--overwrite",
    )
    assert Path("kept/model.safetensors").read_bytes() == before
    args = [
        "--steps",
        1,
        "--n-embd",
        8,
        "--n-layer",
        1,
        "--eval-iters",
        1,
        "--overwrite",
    ]
    assert (
        command("charlm-train", "--corpus", "bundled", "--out", "kept", *args)[0] == 0
    )
    assert Path("kept/model.safetensors").read_bytes() != before


WRITING = {
    "unknown character": (
        ["--prompt", "the f\u00f6x"],
        ["unknown character '\u00f6' (U+00F6) at position 5 of 'the f\u00f6x'", "'o'"],
    ),
    "empty prompt": (["--prompt", ""], ["the prompt is empty"]),
    "top_p 0": (["--top-p", 0], ["top_p is 0.0; it must be a number above 0 to 1"]),
    "samples 0": (
        ["--samples", 0],
        ["samples is 0; it must be a whole number from 1 to"],
    ),
    "stop empty": (["--stop", ""], ["stop is empty; give it a text, or leave it out"]),
    "prompt twice": (
        ["--prompt", "the", "--prompt-file", "x"],
        ["--prompt and --prompt-file were both given; leave one out"],
    ),
    "prompt file missing": (
        ["--prompt-file", "nowhere"],
        ["can't read nowhere: No such file or directory"],
    ),
    "prompt file a folder": (
        ["--prompt-file", "."],
        [". is a folder; name a text file inside it"],
    ),
    "temperature negative": (
        ["--temperature", -1],
        ["temperature is -1.0; it must be a number from 0"],
    ),
    "temperature inf": (["--temperature", "inf", "--top-k", 5], ["temperature is inf"]),
    "seed negative": (
        ["--seed", -3],
        ["seed is -3; it must be a whole number from 0 to"],
    ),
    "length 0": (["--length", 0], ["length is 0; it must be a whole number from 1 to"]),
    "top_k 0": (["--top-k", 0], ["top_k is 0; it must be a whole number from 1 to"]),
    "device cuda": (
        ["--device", "cuda"],
        ["device is 'cuda', but torch finds no such hardware here"],
    ),
}


@pytest.mark.parametrize("args, parts", WRITING.values(), ids=WRITING.keys())
def test_writing(command, monkeypatch, model_file, args, parts):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert (
        refused(
            command("charlm-generate", model_file, *args), "charlm-generate", *parts
        )
        == ""
    )


def test_the_default_prompt_suits_every_alphabet(command):
    "A model that never saw a line end still writes when no prompt is given"
    write("flat.txt", LINE.strip() * 20)
    assert (
        command(
            "charlm-train",
            "--corpus",
            "flat.txt",
            "--out",
            "flat",
            "--block-size",
            32,
            "--steps",
            1,
            "--eval-iters",
            1,
        )[0]
        == 0
    )
    code, out, err = command("charlm-generate", "flat", "--length", 20)
    assert (code, err) == (0, "") and len(out) == 22


def newer(path):
    save_file(load_file(path), "newer.safetensors", {"charlm": '{"format": 5}'})
    return "newer.safetensors"


def foreign(path):
    save_file({"weight": torch.zeros(3)}, "foreign.safetensors")
    return "foreign.safetensors"


MODELS = {
    "missing": (
        lambda path: "nowhere.safetensors",
        ["no model at nowhere.safetensors"],
    ),
    "name too long": (
        lambda path: "a" * 300,
        ["can't reach aaa", "File name too long"],
    ),
    "empty folder": (
        lambda path: os.mkdir("hollow") or "hollow",
        ["no model at hollow/model.safetensors"],
    ),
    "truncated": (
        lambda path: write("cut.safetensors", path.read_bytes()[:-100]),
        ["cut.safetensors is not a safetensors file, or was cut short"],
    ),
    "text": (
        lambda path: write("play.safetensors", LINE),
        ["play.safetensors is not a safetensors file"],
    ),
    "not ours": (
        foreign,
        ["foreign.safetensors is a safetensors file, but not one that charlm wrote"],
    ),
    "newer": (
        newer,
        [
            "newer.safetensors was written by a newer charlm "
            "(format 5; this one reads 4); upgrade charlm"
        ],
    ),
}


@pytest.mark.parametrize("make, parts", MODELS.values(), ids=MODELS.keys())
def test_model_file(command, model_file, make, parts):
    assert (
        refused(command("charlm-generate", make(model_file)), "charlm-generate", *parts)
        == ""
    )
