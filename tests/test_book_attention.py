"What chapter 2 refuses, checked here so that the chapter need not."

import pytest
import torch

from charlm.attention import (
    Dropout,
    Head,
    MultiHeadAttention,
    attend,
    attention_weights,
    causal_mask,
    check_causal,
    check_heads,
)
from charlm.checks import BadInput


def refused(words, f, *args, **settings):
    "Assert that a call is refused in one line that says so"
    with pytest.raises(BadInput) as error:
        f(*args, **settings)
    assert words in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "n_embd, n_head, words",
    [
        (32, 5, "n_embd is 32, which n_head 5 doesn't divide; choose n_embd 30"),
        (4, 8, "n_embd is 4, which n_head 8 doesn't divide; choose n_embd 8"),
        (0, 1, "n_embd is 0"),
        (32, 0, "n_head is 0"),
        (32, 2.0, "n_head is 2.0"),
    ],
)
def test_heads_that_do_not_fit(n_embd, n_head, words):
    refused(words, check_heads, n_embd, n_head)
    refused(words, MultiHeadAttention, n_embd, n_head, block_size=8)


def test_heads_that_fit():
    assert check_heads(384, 6) == 64
    assert check_heads(8, 8) == 1


@pytest.mark.parametrize("T", [9, 100])
def test_a_text_longer_than_the_mask(T):
    words = f"a sequence of {T} tokens is longer than block_size 8"
    x = torch.zeros(1, T, 32)
    refused(words, check_causal, T, 8)
    refused(words, Head(32, 16, block_size=8), x)
    refused(words, MultiHeadAttention(32, 4, block_size=8), x)
    assert Head(32, 16, block_size=8, causal=False)(x).shape == (1, T, 16)


def test_a_causal_head_takes_no_context():
    x = torch.zeros(1, 8, 32)
    words = "a causal head can't look at a context"
    refused(words, Head(32, 16, block_size=8), x, x)
    refused(words, check_causal, 8, 8, x)


@pytest.mark.parametrize("B, T", [(3, 8), (1, 1), (2, 5), (0, 4)])
def test_queries_keys_and_values_are_sorted_as_the_chapter_says(B, T):
    torch.manual_seed(1)
    layer, x = MultiHeadAttention(24, 3, block_size=8), torch.randn(B, T, 24)
    parts = layer.qkv(x).unflatten(-1, (3, 3, 8)).permute(2, 0, 3, 1, 4)
    assert torch.equal(layer.project(x), parts)
    assert layer(x).shape == x.shape


def test_a_seed_gives_the_parameters_it_always_gave():
    "The random numbers are drawn in the order key, query, value; qkv, proj"
    torch.manual_seed(1)
    head = Head(24, 8, block_size=8)
    torch.manual_seed(1)
    for layer in (head.key, head.query, head.value):
        drawn = torch.nn.Linear(24, 8, bias=False)
        assert torch.equal(layer.weight, drawn.weight)
    torch.manual_seed(1)
    heads = MultiHeadAttention(24, 3, block_size=8)
    torch.manual_seed(1)
    qkv, proj = torch.nn.Linear(24, 72, bias=False), torch.nn.Linear(24, 24)
    assert torch.equal(heads.qkv.weight, qkv.weight)
    assert torch.equal(heads.proj.weight, proj.weight)
    assert torch.equal(heads.proj.bias, proj.bias)
    assert list(heads.state_dict()) == ["qkv.weight", "proj.weight", "proj.bias"]


def test_the_way_taken_in_bfloat16_agrees_with_the_plain_one():
    q, k, v = torch.randn(3, 4, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    plain = attention_weights(q, k, causal_mask(8)) @ v
    short = attend(q.bfloat16(), k.bfloat16(), v.bfloat16(), Dropout())
    torch.testing.assert_close(short.float(), plain, rtol=0, atol=0.03)
    torch.testing.assert_close(attend(q, k, v, Dropout()), plain)


def test_dropout_acts_in_training_only():
    layer = MultiHeadAttention(32, 4, block_size=8, dropout=0.5)
    x = torch.randn(4, 8, 32)
    assert not torch.equal(layer(x), layer(x))
    assert torch.equal(layer.eval()(x), layer(x))


@pytest.mark.parametrize(
    "training, dtype",
    [(False, torch.float32), (True, torch.float32), (False, torch.bfloat16)],
)
def test_the_future_stays_hidden_in_whichever_way_the_work_is_done(training, dtype):
    torch.manual_seed(1337)
    layer = MultiHeadAttention(32, 4, block_size=8, dropout=0.5)
    x = torch.randn(4, 8, 32)
    layer.train(training)
    changed = x.clone()
    changed[:, 5] += 1

    def seeded(inputs):
        "The same numbers dropped each time"
        torch.manual_seed(0)
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            return layer(inputs)

    one, other = seeded(x), seeded(changed)
    assert torch.equal(one[:, :5], other[:, :5])
    assert not torch.equal(one[:, 5], other[:, 5])
