"What chapter 3 has refused, and what it holds to, beyond what its pages show"

import json, math, re

import pytest
import torch
from conftest import ROOT

from charlm.bigram import next_token_loss
from charlm.checks import BadInput
from charlm.gpt import (
    GPT,
    Block,
    FeedForward,
    GPTConfig,
    LanguageModel,
    evaluating,
    init_weights,
    keep_top_k,
    sample,
)

V, T = 11, 8


@pytest.fixture
def model():
    torch.manual_seed(1337)
    return GPT(GPTConfig(V, block_size=T, n_embd=12, n_head=3, n_layer=2))


def ids(*shape, seed=1):
    return torch.randint(V, shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "setting, message",
    [
        (
            dict(n_embd=66),
            "n_embd is 66, which n_head 4 doesn't divide; choose n_embd 64",
        ),
        (dict(n_layer=0), "n_layer is 0; it must be a whole number from 1 to 1,000"),
        (dict(block_size=2.5), "block_size is 2.5"),
        (dict(dropout=1.0), "dropout is 1.0; it must be a number from 0 to below 1"),
        (dict(n_head=True), "n_head is True"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_a_shape_that_makes_no_sense_is_refused(setting, message):
    with pytest.raises(BadInput) as e:
        GPTConfig(V, **setting)
    assert message in str(e.value)


def test_a_shape_cannot_be_changed_afterwards():
    with pytest.raises(AttributeError):
        GPTConfig(V).n_layer = 5


def test_a_sequence_longer_than_the_block_size_is_refused(model):
    message = f"a sequence of {T + 1} tokens is longer than block_size {T}"
    with pytest.raises(BadInput, match=message):
        model(ids(1, T + 1))


def test_an_id_outside_the_vocabulary_is_refused(model):
    with pytest.raises(BadInput):
        model(torch.full((1, 2), V))
    with pytest.raises(BadInput):
        model.generate(torch.full((1, 2), V), 1)


def test_generate_refuses(model):
    with pytest.raises(BadInput, match="the prompt is empty"):
        model.generate(ids(1, 1)[:, :0], 5)
    with pytest.raises(BadInput, match="max_new_tokens is -1"):
        model.generate(ids(1, 1), -1)
    with pytest.raises(BadInput, match="temperature is -1"):
        model.generate(ids(1, 1), 1, temperature=-1)
    with pytest.raises(BadInput, match="top_k is 0"):
        model.generate(ids(1, 1), 1, top_k=0)


SCORES = torch.tensor([[1.0, 3.0, 2.0, 0.0]])


@pytest.mark.parametrize("bad", [-1, float("nan"), float("inf")])
def test_sample_refuses_a_temperature(bad):
    message = f"temperature is {bad}; it must be a number from 0"
    with pytest.raises(BadInput, match=message):
        sample(SCORES, temperature=bad)


def test_sample_refuses_scores_that_are_not_finite():
    for bad in (SCORES / 0, SCORES * math.nan):
        with pytest.raises(BadInput, match="scores are not finite"):
            sample(bad)


def test_sample_takes_the_likeliest():
    many = SCORES.expand(2000, 4)
    assert sample(many[:2], temperature=0).tolist() == [[1], [1]]
    assert sample(many, top_k=1).unique().tolist() == [1]
    for tiny in (1e-40, 5e-324):
        assert sample(many, temperature=tiny).unique().tolist() == [1]


@pytest.mark.parametrize(
    "settings, meant",
    [
        ({}, SCORES),
        ({"temperature": 0.5}, SCORES / 0.5),
        ({"temperature": 2}, SCORES / 2),
        ({"top_k": 2}, keep_top_k(SCORES, 2)),
    ],
    ids=str,
)
def test_sample_draws_what_it_should(settings, meant):
    """Chi-square: squared differences, each divided by the count expected.

    With n possible outcomes it is about n - 1 when all is well, and for n up to 4 it
    exceeds 17 in fewer than one case in a thousand.
    """
    g = torch.Generator().manual_seed(1337)
    drawn = sample(SCORES.expand(20_000, 4), generator=g, **settings)[:, 0]
    counts = torch.bincount(drawn, minlength=4)
    expected = meant.softmax(-1)[0] * len(drawn)
    possible = expected > 0
    assert (counts[~possible] == 0).all()
    assert ((counts - expected) ** 2 / expected)[possible].sum() < 17
    beyond_17 = math.erfc(8.5**0.5) + (34 / math.pi) ** 0.5 * math.exp(-8.5)
    assert beyond_17 < 0.001  # for n = 4


def test_top_k():
    with pytest.raises(BadInput, match="top_k is 0"):
        keep_top_k(SCORES, 0)
    kept = keep_top_k(SCORES, 2)
    assert kept.isfinite().tolist() == [[False, True, True, False]]
    assert torch.equal(kept[kept.isfinite()], torch.tensor([3.0, 2.0]))
    assert torch.equal(keep_top_k(SCORES, 99), SCORES)


def test_top_k_lets_no_more_in_where_scores_are_equal():
    assert keep_top_k(torch.zeros(3, 5), 2).isfinite().sum(-1).tolist() == [2, 2, 2]
    g = torch.Generator().manual_seed(1)
    assert len(sample(torch.zeros(500, 5), top_k=2, generator=g).unique()) == 2


def test_evaluating_gives_each_part_its_mode_back_even_after_an_error(model):
    model.train()
    model.ln_f.eval()
    before = [m.training for m in model.modules()]
    assert True in before and False in before
    with pytest.raises(KeyError), evaluating(model) as same:
        assert same is model and not any(m.training for m in model.modules())
        raise KeyError("in the middle")
    assert [m.training for m in model.modules()] == before


def test_generate_leaves_the_mode_and_hangs_on_nothing_but_the_seed(model):
    def seeded():
        return torch.Generator().manual_seed(42)

    start = ids(2, 3)
    model.train()
    written = model.generate(start, 3 * T, generator=seeded())
    assert model.training and written.shape == (2, 3 + 3 * T)
    assert torch.equal(written[:, :3], start)
    assert torch.equal(written, model.generate(start, 3 * T, generator=seeded()))
    assert torch.equal(model.generate(start, 0), start)
    short = model.generate(start.to(torch.uint8), 2, generator=seeded())
    assert short.dtype == torch.int64 and torch.equal(short, written[:, :5])


def test_generate_is_the_plain_loop(model):
    "Crop, forward, softmax, draw, append"
    idx = start = ids(2, 3)
    model.eval()
    g = torch.Generator().manual_seed(42)
    with torch.no_grad():
        for _ in range(3 * T):
            probs = model(idx[:, -T:])[0][:, -1].softmax(-1)
            new = torch.multinomial(probs, 1, generator=g)
            idx = torch.cat([idx, new], dim=1)
    again = model.generate(start, 3 * T, generator=torch.Generator().manual_seed(42))
    assert torch.equal(again, idx)


def test_every_model_gets_generate_from_the_base():
    "Anything with a config that has a vocabulary and a reach can write"

    class Constant(LanguageModel):
        config = GPTConfig(V, block_size=2, n_embd=4)

        def forward(self, idx, targets=None):
            assert idx.shape[1] <= 2
            logits = torch.zeros(*idx.shape, V)
            logits[..., 7] = 100.0
            return logits, next_token_loss(logits, targets)

    assert Constant().generate(ids(1, 5), 4)[0, 5:].tolist() == [7, 7, 7, 7]
    assert Constant().num_params() == 0


def test_the_weights_of_a_seed(model):
    "A GPT draws its numbers in the order of its parts, then starts them all anew"
    torch.manual_seed(1337)
    C = 12
    parts = [torch.nn.Embedding(V, C), torch.nn.Embedding(T, C)]
    parts += [Block(C, 3, T), Block(C, 3, T), torch.nn.LayerNorm(C)]
    parts += [torch.nn.Linear(C, V)]
    for part in parts:
        part.apply(init_weights)
    assert [p.shape for p in model.parameters()] == [
        p.shape for part in parts for p in part.parameters()
    ]
    for p, q in zip(
        model.parameters(),
        [p for part in parts for p in part.parameters()],
        strict=True,
    ):
        torch.testing.assert_close(p, q, rtol=0, atol=0)


def test_feed_forward_sees_each_position_alone():
    ff, x = FeedForward(12), torch.randn(2, T, 12)
    assert sum(p.numel() for p in ff.parameters()) == 8 * 12 * 12 + 5 * 12
    torch.testing.assert_close(ff(x)[:, 3], ff(x[:, 3]))


def test_what_decays(model):
    class Settings:
        lr, weight_decay = 0.01, 0.1

    decaying, others = model.make_optimizer(Settings).param_groups
    assert decaying["weight_decay"] == 0.1 and others["weight_decay"] == 0
    assert all(p.dim() == 2 for p in decaying["params"])
    assert all(p.dim() == 1 for p in others["params"])
    assert decaying["lr"] == others["lr"] == 0.01
    sizes = [sum(p.numel() for p in g["params"]) for g in (decaying, others)]
    assert sum(sizes) == model.num_params()


def test_the_ladder_shows_a_full_run():
    "A quick run has one seed, whose lowest and highest are the same"
    cells = json.loads((ROOT / "nbs" / "03_gpt.ipynb").read_text())["cells"]
    climbs = [
        "".join(output["text"])
        for cell in cells
        for output in cell.get("outputs", [])
        if re.search(r"^climb\(", "".join(cell["source"]), re.M)
    ]
    assert len(climbs) == 8
    for text in climbs:
        ranges = re.findall(r"\((\S+) to (\S+)\)", text)
        assert ranges and all(low != high for low, high in ranges), text
