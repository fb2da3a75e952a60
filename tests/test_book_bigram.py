"Chapter 1's promises that it doesn't show: ids it refuses, what writing depends on"

import pytest
import torch

from charlm.bigram import BigramLM, bigram_counts, check_idx, next_token_loss
from charlm.checks import BadInput
from charlm.data import CharTokenizer


def test_ids_are_widened():
    for dtype in (torch.uint8, torch.int16, torch.int32, torch.int64):
        idx = torch.arange(6).reshape(2, 3).to(dtype)
        widened = check_idx(idx, 6)
        assert widened.dtype == torch.long
        assert torch.equal(widened, idx.long())


@pytest.mark.parametrize(
    ("idx", "message"),
    [
        (torch.zeros(3, dtype=torch.long), r"token ids have shape \(3,\)"),
        (torch.zeros(1, 2, 3, dtype=torch.long), r"token ids have shape \(1, 2, 3\)"),
        (torch.zeros(1, 0, dtype=torch.long), "the prompt is empty"),
        (torch.zeros(0, 3, dtype=torch.long), "the batch is empty"),
        (torch.full((1, 3), 5), "id 5 is outside the alphabet; ids run from 0 to 4"),
        (torch.full((1, 3), -1), "id -1 is outside the alphabet; ids run from 0 to 4"),
        (torch.zeros(1, 3, dtype=torch.bool), "pass a batch of integers"),
        (torch.zeros(1, 3, dtype=torch.float32), "pass a batch of integers"),
        (torch.zeros(1, 3, dtype=torch.complex64), "pass a batch of integers"),
    ],
)
def test_what_is_no_batch_of_ids_is_refused(idx, message):
    with pytest.raises(BadInput, match=message):
        check_idx(idx, 5)
    model = BigramLM(5)
    with pytest.raises(BadInput, match=message):
        model(idx)
    with pytest.raises(BadInput, match=message):
        model.generate(idx, 1)


def test_targets_outside_the_alphabet_are_refused():
    logits = torch.zeros(1, 3, 5)
    with pytest.raises(BadInput, match="id 5 is outside the alphabet"):
        next_token_loss(logits, torch.tensor([[0, 5, 1]]))


def test_cross_entropy_does_not_take_the_classes_last():
    with pytest.raises(RuntimeError):
        torch.nn.functional.cross_entropy(
            torch.zeros(4, 8, 5), torch.zeros(4, 8).long()
        )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_loss_is_computed_in_32_bits(dtype):
    logits = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(1)).to(dtype)
    targets = torch.tensor([[0, 1, 2], [3, 4, 0]])
    loss = next_token_loss(logits, targets)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, next_token_loss(logits.float(), targets))


def test_writing_depends_on_its_generator_alone():
    torch.manual_seed(1337)
    model, start = BigramLM(65), torch.zeros((4, 1), dtype=torch.long)
    texts = []
    for everybody, own in [(0, 7), (1, 7), (1, 8)]:
        torch.manual_seed(everybody)
        untouched = torch.get_rng_state()
        texts.append(model.generate(start, 50, torch.Generator().manual_seed(own)))
        assert torch.equal(torch.get_rng_state(), untouched)
    assert torch.equal(texts[0], texts[1])
    assert not torch.equal(texts[1], texts[2])
    assert texts[0].shape == (4, 51)
    assert torch.equal(texts[0][:, :1], start)
    assert texts[0].max() < 65
    assert not texts[0].requires_grad


def test_pairs_are_counted():
    "In ababb: ab twice, ba once, bb once"
    ids = CharTokenizer.from_text("abab").encode("ababb")
    assert bigram_counts(ids, 2).tolist() == [[0, 2], [1, 1]]


def test_the_exact_loss_is_that_of_the_whole_text_in_one_row():
    ids = torch.randint(9, (2000,), generator=torch.Generator().manual_seed(1))
    torch.manual_seed(1)
    model, counts = BigramLM(9), bigram_counts(ids, 9)
    _, direct = model(ids[None, :-1], ids[None, 1:])
    assert model.exact_loss(counts) == pytest.approx(direct.item(), abs=1e-5)
