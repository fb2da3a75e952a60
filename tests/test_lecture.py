"""The model against the lecture's, which is written out in benchmarks/lecture.py.

Weights go both ways, and numbers and gradients agree.
"""

import importlib.util

import pytest
import torch
from conftest import ROOT

from charlm.generate import Writer
from charlm.checkpoint import from_lecture, to_lecture
from charlm.gpt import GPT, GPTConfig
from charlm.hardware import casting

spec = importlib.util.spec_from_file_location("lecture", ROOT / "benchmarks/lecture.py")
lecture = importlib.util.module_from_spec(spec)
spec.loader.exec_module(lecture)

SHAPES = {
    "small": dict(block_size=32, n_embd=64, n_head=4, n_layer=4),
    "odd": dict(block_size=7, n_embd=30, n_head=3, n_layer=2),
    "one head": dict(block_size=5, n_embd=8, n_head=1, n_layer=1),
    "wide": dict(block_size=256, n_embd=384, n_head=6, n_layer=1),
}


@pytest.fixture(params=SHAPES.values(), ids=SHAPES.keys())
def pair(request):
    "The lecture's model, ours with its weights, and a batch"
    torch.manual_seed(1)
    theirs = lecture.LectureGPT(65, **request.param)
    ours = GPT(GPTConfig(65, **request.param))
    ours.load_state_dict(from_lecture(theirs.state_dict()))
    return theirs, ours, *torch.randint(65, (2, 3, request.param["block_size"]))


def test_same_size_logits_and_loss(pair):
    theirs, ours, x, y = pair
    assert ours.num_params() == sum(p.numel() for p in theirs.parameters())
    for T in (1, x.shape[1] // 2, x.shape[1]):
        (a, loss_a), (b, loss_b) = theirs(x[:, :T], y[:, :T]), ours(x[:, :T], y[:, :T])
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
        torch.testing.assert_close(loss_a, loss_b, rtol=0, atol=1e-5)


def test_weights_go_back(pair):
    theirs, ours, x, _ = pair
    keys = ("block_size", "n_embd", "n_head", "n_layer")
    again = lecture.LectureGPT(65, **{k: getattr(ours.config, k) for k in keys})
    again.load_state_dict(to_lecture(ours.state_dict(), ours.config.n_head))
    assert all(
        torch.equal(w, again.state_dict()[name])
        for name, w in theirs.state_dict().items()
    )


def test_gradients(pair):
    theirs, ours, x, y = pair
    for model in (theirs, ours):
        model(x, y)[1].backward()
    expected = from_lecture({name: p.grad for name, p in theirs.named_parameters()})
    for name, p in ours.named_parameters():
        torch.testing.assert_close(p.grad, expected[name], rtol=1e-4, atol=1e-6)


def test_gradients_in_bfloat16_point_the_same_way(pair):
    theirs, ours, x, y = pair
    theirs(x, y)[1].backward()
    with casting(torch.device("cpu"), torch.bfloat16):
        ours(x, y)[1].backward()
    expected = from_lecture({name: p.grad for name, p in theirs.named_parameters()})
    for name, p in ours.named_parameters():
        if p.grad.norm() > 1e-6:
            ours_flat, theirs_flat = p.grad.flatten(), expected[name].flatten()
            assert torch.cosine_similarity(ours_flat, theirs_flat, dim=0) > 0.98, name


def test_dropout_is_as_frequent_and_only_in_training():
    shape = dict(block_size=32, n_embd=64, n_head=4, n_layer=2, dropout=0.3)
    torch.manual_seed(1)
    theirs, ours = lecture.LectureGPT(65, **shape), GPT(GPTConfig(65, **shape))
    ours.load_state_dict(from_lecture(theirs.state_dict()))
    x = torch.randint(65, (8, 32))
    with torch.no_grad():
        spread = [
            torch.stack([model(x)[0] for _ in range(200)]).std(0).mean().item()
            for model in (theirs, ours)
        ]
        # as much noise, within what 200 draws can tell
        assert abs(spread[1] / spread[0] - 1) < 0.05
        torch.testing.assert_close(
            theirs.eval()(x)[0], ours.eval()(x)[0], rtol=0, atol=1e-5
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_causal_in_every_way_of_computing_it(dtype, dropout):
    torch.manual_seed(1)
    model = GPT(
        GPTConfig(65, block_size=16, n_embd=32, n_head=2, n_layer=2, dropout=dropout)
    )
    x = torch.randint(65, (2, 16))
    other, logits = x.clone(), []
    other[:, 9] = (other[:, 9] + 1) % 65
    for idx in (x, other):
        torch.manual_seed(2)
        with casting(torch.device("cpu"), dtype):
            logits.append(model(idx)[0])
    assert torch.equal(logits[0][:, :9], logits[1][:, :9])
    assert not torch.equal(logits[0][:, 9], logits[1][:, 9])


def test_writing_with_a_model_in_bfloat16():
    """Its weights are widened.

    What is written with them is what the model says, up to its rounding.
    """
    torch.manual_seed(1)
    model = GPT(GPTConfig(65, block_size=16, n_embd=32, n_head=2, n_layer=2))
    model = model.eval().bfloat16()
    text = torch.randint(65, (3, 40))
    writer = Writer.from_torch(model).start(3)
    for n in range(1, 41):
        scores = torch.tensor(writer.read(text[:, n - 1 : n].numpy()))
        with torch.no_grad():
            expected = model(text[:, max(0, n - 16) : n])[0][:, -1]
        torch.testing.assert_close(scores, expected.float(), rtol=0, atol=0.02)
    assert model.generate(text[:1, :4], 30).shape == (1, 34)


def test_shapes_alone_on_the_meta_device():
    "The way of computing that a GPU takes is at least consistent in its shapes"
    with torch.device("meta"):
        model = GPT(
            GPTConfig(65, block_size=16, n_embd=32, n_head=2, n_layer=2, dropout=0.2)
        )
        idx = torch.zeros(3, 5, dtype=torch.long)
        logits, loss = model(idx, idx)
    loss.backward()
    assert logits.shape == (3, 5, 65) and loss.device.type == "meta"
