"""The speedrun's model and optimizer where a notebook can't show them.

Other devices, other precisions, the rest of the library, the commands.
"""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from charlm import race as race_module
from charlm.checkpoint import load_model, save_model
from charlm.checks import BadInput
from charlm.data import CharTokenizer
from charlm.generate import load_writer, write
from charlm.inside import attention_maps, surprise
from charlm.fast import FastConfig, FastGPT
from charlm.race import race
from charlm.recipes import RECIPES
from charlm.train import Trainer, backward, evaluate

SHAPE = FastConfig(30, block_size=8, n_embd=16, n_head=2, n_layer=2)


@pytest.fixture
def model():
    torch.manual_seed(1)
    model = FastGPT(SHAPE)
    torch.nn.init.normal_(model.lm_head.weight, std=0.5)
    return model


def test_shapes_on_a_device_that_computes_nothing(model):
    "Everything follows the device of the ids, as it must on a GPU"
    idx = torch.zeros(3, 20, dtype=torch.long, device="meta")
    logits, loss = model.to("meta")(idx, idx)
    assert (
        logits.shape == (3, 20, 30) and logits.device.type == loss.device.type == "meta"
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dropout_and_precision(model, dtype):
    "Training with dropout lets nothing leak from the future, in either precision"
    model = FastGPT(replace(SHAPE, dropout=0.3))
    torch.nn.init.normal_(model.lm_head.weight, std=0.5)
    x = torch.randint(30, (2, 20), generator=torch.Generator().manual_seed(1))
    other = x.clone()
    other[:, 10:] = (x[:, 10:] + 1) % 30
    found = []
    for idx in (x, other):
        torch.manual_seed(1)
        with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            found.append(model(idx)[0])
    assert torch.equal(found[0][:, :10], found[1][:, :10])
    assert not torch.equal(found[0][:, 10:], found[1][:, 10:])


def test_the_loss_scaler_of_16_bit_training_takes_the_optimizer(model):
    config = replace(RECIPES["speedrun"].train, dtype="float32", device="cpu")
    x = torch.randint(30, (2, 8))
    plain = Trainer(model, torch.arange(30), torch.arange(30), config)
    scaled = torch.amp.GradScaler("cpu", init_scale=1024.0)
    before = [p.detach().clone() for p in model.parameters()]
    for group in plain.optimizer.param_groups:
        group["lr"] = 0.01 * group["lr_scale"]
    for bad in (True, False):
        plain.optimizer.zero_grad()
        backward(model, x, x, scale=scaled.scale)
        if bad:
            model.lm_head.weight.grad[0, 0] = float("inf")
        scaled.unscale_(plain.optimizer)
        scaled.step(plain.optimizer)
        scaled.update()
        pairs = zip(model.parameters(), before, strict=True)
        unchanged = all(torch.equal(p, q) for p, q in pairs)
        assert unchanged == bad  # a step that overflowed is left out


def test_a_processor_without_bfloat16(monkeypatch, tmp_path):
    monkeypatch.setattr(race_module, "cpu_has_bf16", lambda: False)
    found = race(RECIPES["speedrun"], 101, "bundled", steps=30, device="cpu", threads=1)
    assert found["dtype"] == "float32" and found["loss"] < 2.6


def test_where_the_system_does_not_say_when_a_process_began(monkeypatch):
    def missing(*args, **kwargs):
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", missing)
    assert race_module.process_seconds() is None and race_module.machine()["cores"]


def test_the_rest_of_the_library_takes_it(model, tmp_path):
    tok = CharTokenizer("".join(chr(97 + i) for i in range(26)) + " \n.,")
    save_model(tmp_path / "m.safetensors", model, tok)
    again, _ = load_model(tmp_path / "m.safetensors")
    assert type(again) is FastGPT and again.config == SHAPE
    text = write(model, tok, "the ", 40, seed=1)
    assert len(text) == 44
    assert text == write(again, tok, "the ", 40, seed=1)
    writer, alphabet = load_writer(tmp_path / "m.safetensors")
    assert text == write(writer, alphabet, "the ", 40, seed=1)
    with pytest.raises(BadInput, match="reprime is of no use for this model"):
        write(model, tok, "the ", 40, reprime=True)
    ids = tok.encode(text)
    assert attention_maps(again, ids[None, :8]).shape == (2, 1, 2, 8, 8)
    assert surprise(again, ids).shape == (43,)
    assert evaluate(again, ids, block_size=43).tokens == 43


@pytest.mark.parametrize(
    "recipe, kind", [("lecture", "GPT"), ("speedrun", "FastGPT"), (None, "FastGPT")]
)
def test_recipes_from_the_command(command, recipe, kind):
    code, out, err = command(
        "charlm-train",
        "--corpus",
        "bundled",
        "--out",
        "m",
        *(["--recipe", recipe] if recipe else []),
        "--steps",
        4,
        "--n-embd",
        16,
        "--block-size",
        16,
        "--eval-interval",
        2,
        "--eval-iters",
        1,
        "--dtype",
        "float32",
    )
    assert (
        (code, err) == (0, "")
        and "step     4: train loss" in out
        and type(load_model("m")[0]).__name__ == kind
    )
    code, out, err = command("charlm-train", "--resume", "m", "--recipe", "lecture")
    assert code == 2 and err == (
        "charlm-train: error: --resume continues with the recipe that the run began "
        "with; leave out --recipe\n"
    )
    assert command("charlm-train", "--resume", "m")[0] == 0


def test_certificate(command):
    code, out, err = command(
        "charlm-speedrun",
        "--corpus",
        "bundled",
        "--steps",
        3,
        "--look",
        2,
        "--dtype",
        "float32",
        "--seed",
        7,
    )
    assert (
        (code, err, out.count("\n")) == (0, "", 1)
        and out.startswith("seed 7: ")
        and "bundled, after 3 steps" in out
    )
    found = json.loads(Path("certificate.json").read_text())
    assert (
        [step for step, _, _ in found["curve"]] == [2, 3]
        and found["seed"] == 7
        and found["machine"]["torch"] == torch.__version__
    )
    before = Path("certificate.json").read_bytes()
    for args, part in (
        (["--steps", 3], "certificate.json exists already"),
        (["--out", "new", "--recipe", "slow"], "recipe is 'slow'"),
        (["--out", "new", "--look", -1], "look is -1"),
        (["--out", "new", "--seed", -1], "seed is -1"),
        (
            ["--out", "no/such/folder/c.json"],
            "can't write to the folder no/such/folder: No such file",
        ),
        (["--out", ""], "--out is empty"),
        (["--out", ".", "--overwrite"], "can't write .: it is a folder"),
        (["--out", "new", "--corpus", "Shakespear"], "tinyshakespeare"),
    ):
        code, out, err = command("charlm-speedrun", "--corpus", "bundled", *args)
        assert (
            code == 2
            and out == ""
            and err.startswith("charlm-speedrun: error: ")
            and part in err
            and err.count("\n") == 1
        ), err
    assert Path("certificate.json").read_bytes() == before
