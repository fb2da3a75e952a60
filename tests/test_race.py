"""The fast model, Muon and the race where a notebook can't show them.

Other devices, other precisions, the rest of the library, the commands.
"""

import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from charlm import race as race_module
from charlm.checkpoint import load_model, save_model
from charlm.checks import BadInput
from charlm.data import CharTokenizer
from charlm.fast import FastConfig, FastGPT, RecentEmbedding
from charlm.generate import load_writer, write
from charlm.inside import attention_maps, surprise
from charlm.muon import Muon, by_kind, orthogonalize, squares, unsquares
from charlm.race import count_losses, how_often, number_runs, race
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
    assert torch.equal(found[0][:, :10], found[1][:, :10]) and not torch.equal(
        found[0][:, 10:], found[1][:, 10:]
    )


def test_the_loss_scaler_of_16_bit_training_takes_the_optimizer(model):
    config, x = (
        replace(RECIPES["speedrun"].train, dtype="float32", device="cpu"),
        torch.randint(30, (2, 8)),
    )
    plain, scaled = (
        Trainer(model, torch.arange(30), torch.arange(30), config),
        torch.amp.GradScaler("cpu", init_scale=1024.0),
    )
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
        assert (
            all(
                torch.equal(p, q)
                for p, q in zip(model.parameters(), before, strict=True)
            )
            == bad
        )  # a step that overflowed is left out


def test_refusals():
    "What chapters 7, 8, 9 refuse, by name, value and way out"
    ones = nn.Parameter(torch.ones(6, 4))
    refused = {
        "recent is 0; it must be a whole number from 1 to 1,000": lambda: FastConfig(
            9, recent=0
        ),
        "recent is 9, more than block_size 8": lambda: FastConfig(
            9, block_size=8, recent=9
        ),
        "kind is 'sgd'": lambda: Muon([{"params": [ones], "kind": "sgd"}]),
        "can't move a parameter of shape": lambda: Muon(
            [{"params": [nn.Parameter(torch.ones(3))], "kind": "muon"}]
        ),
        "6 x 4 can't be cut into squares of 4": lambda: Muon([ones], side=4),
        "has 5 tokens; with contexts of 5 it needs 6": lambda: count_losses(
            torch.arange(9), torch.arange(5), 9
        ),
        "longest is 20, too long": lambda: count_losses(
            torch.arange(99), torch.arange(99), 99, 20
        ),
    }
    for message, work in refused.items():
        with pytest.raises(BadInput) as found:
            work()
        assert message in str(found.value)


def test_recent_characters_of_a_text_shorter_than_they_are():
    table = RecentEmbedding(replace(SHAPE, recent=4))
    idx = torch.tensor([[3, 1, 4, 1, 5]])
    for T in range(1, 6):
        assert torch.equal(table(idx[:, :T]), table(idx)[:, :T])


def test_distances_beyond_the_window(model):
    "A row for each position, for a text shorter, as long, or longer than the window"
    attention = model.blocks[0].sa
    for T in (1, 3, 8, 9, 30):
        rows = attention.rows(T)
        assert rows.shape == (2, T, T)
        for t in range(T):
            for s in range(T):
                inside = 0 <= t - s < 8
                expected = attention.bias[:, t - s] if inside else -math.inf
                assert (rows[:, t, s] == expected).all()


def test_muon_loads_no_compiler():
    "Torch's compiler takes about as long to load as a short race"
    code = """import sys, torch
from charlm.muon import Muon
p = torch.nn.Parameter(torch.ones(4, 4))
optimizer = Muon([p])
p.grad = torch.eye(4)
optimizer.step()
optimizer.zero_grad()
optimizer.load_state_dict(optimizer.state_dict())
assert p.grad is None and "torch._dynamo" not in sys.modules"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_muon_is_an_optimizer_of_torch():
    "Groups, state, schedules, closures, no gradient, groups that come later"
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3))
    optimizer = Muon(net.parameters(), lr=0.1)
    assert isinstance(optimizer, torch.optim.Optimizer)
    assert [group["kind"] for group in optimizer.param_groups] == ["muon", "adam"]
    assert all(
        t.dtype == torch.float32 for s in optimizer.state.values() for t in s.values()
    )
    x, y = torch.randn(50, 8), torch.randn(50, 3)

    def closure():
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(net(x), y)
        loss.backward()
        return loss

    losses = [optimizer.step(closure).item() for _ in range(20)]
    assert losses[-1] < losses[0]
    still, late = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2, 2))
    optimizer.add_param_group({"params": [still], "kind": "adam", "lr_scale": 0.5})
    optimizer.add_param_group({"params": [late], "lr": 0.3})
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.1, 0.05, 0.3]
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    optimizer.step()
    schedule.step()
    assert still.tolist() == [1, 1, 1] and late.sum() == 4
    assert optimizer.param_groups[0]["lr"] == 0.05


@pytest.mark.parametrize("side", [None, 4])
def test_muon_continues_to_the_bit(side):
    def run(change=False):
        torch.manual_seed(2)
        params = [nn.Parameter(torch.randn(8, 4)), nn.Parameter(torch.randn(5))]
        optimizer = Muon(params, 0.1, weight_decay=0.1, side=side)
        for i in range(6):
            if change and i == 3:
                saved = optimizer.state_dict()
                params = [nn.Parameter(p.detach().clone()) for p in params]
                optimizer = Muon(params, 0.7, side=side)
                optimizer.load_state_dict(saved)
            for p in params:
                p.grad = torch.randn(p.shape)
            optimizer.step()
        return params

    for p, q in zip(run(), run(True), strict=True):
        assert torch.equal(p, q)


def test_settings_of_muon_count():
    "Each setting changes where a step goes; the defaults are those of the recipes"

    def after(**settings):
        torch.manual_seed(3)
        matrix, rest = nn.Parameter(torch.ones(4, 4)), nn.Parameter(torch.ones(3))
        groups = by_kind([matrix, rest])
        groups[1]["weight_decay"] = settings.get("weight_decay", 0.0)
        optimizer = Muon(groups, 0.1, **settings)
        for _ in range(3):
            for p in (matrix, rest):
                p.grad = torch.randn(p.shape)
            optimizer.step()
        return torch.cat([matrix.detach().flatten(), rest.detach()])

    usual = after()
    same = after(momentum=0.8, nesterov=0.8, betas=(0.9, 0.95), eps=1e-8, rounds=3)
    assert torch.equal(same, usual)
    for name, value in {
        "momentum": 0.5,
        "nesterov": 1.0,
        "betas": (0.5, 0.95),
        "eps": 0.1,
        "weight_decay": 0.1,
        "side": 2,
        "rounds": 2,
        "coefficients": (1.5, -0.5, 0.0),
        "dtype": torch.bfloat16,
    }.items():
        assert not torch.equal(after(**{name: value}), usual), name


@pytest.mark.parametrize("shape", [(4, 4), (4, 12), (12, 4)])
def test_orthogonal_rectangles(shape):
    G = torch.randn(2, *shape, generator=torch.Generator().manual_seed(4))
    values = torch.linalg.svdvals(orthogonalize(G))
    assert ((values - 1).abs() < 0.25).all()
    pieces = squares(G[0], 4)
    assert torch.equal(unsquares(pieces), G[0])
    assert pieces.data_ptr() == G[0].data_ptr()


def test_counting_runs():
    ids = torch.tensor([1, 2, 3, 1, 2], dtype=torch.uint8)
    runs = number_runs(ids, 1, 200)  # more than a byte holds
    assert runs.tolist() == [202, 403, 601, 202]
    assert how_often(runs, runs.sort()[0]).tolist() == [2, 1, 1, 2]


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
    assert (
        text
        == write(again, tok, "the ", 40, seed=1)
        == write(*load_writer(tmp_path / "m.safetensors"), "the ", 40, seed=1)
        and len(text) == 44
    )
    with pytest.raises(BadInput, match="reprime is of no use for this model"):
        write(model, tok, "the ", 40, reprime=True)
    ids = tok.encode(text)
    assert attention_maps(again, ids[None, :8]).shape == (2, 1, 2, 8, 8) and surprise(
        again, ids
    ).shape == (43,)
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
    assert (
        code == 2
        and err
        == "charlm-train: error: --resume continues with the recipe that the run began "
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


def test_a_run_and_the_race_say_the_same_loss(command):
    how = "--steps 20 --seed 3 --corpus bundled --dtype float32 --threads 1".split()
    code, trained, err = command(
        "charlm-train", "--recipe", "speedrun", "--eval-interval", 20, *how
    )
    assert (code, err) == (0, "")
    code, raced, err = command("charlm-speedrun", *how)
    assert (code, err) == (0, "")
    said = re.search(r"^validation loss (\d\.\d{3}) ", trained, re.M)[1]
    loss = float(re.search(r"(\d\.\d{4}) nats", raced)[1])
    assert said == f"{loss:.3f}"
