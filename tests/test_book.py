"What the chapters refuse, and other checks that would stand in a reader's way there."

import pytest
import torch

from charlm.data import (
    BadInput,
    CharTokenizer,
    check_ids,
    check_length,
    get_batch,
    load_bundled,
    train_val_split,
)

# Chapter 0: data

LETTERS = CharTokenizer.from_text("The quick brown fox jumps over the lazy dog")


def refused(words, f, *args, **settings):
    "Assert that a call is refused in one line that says so"
    with pytest.raises(BadInput) as error:
        f(*args, **settings)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_a_tokenizer_is_its_alphabet():
    tok = CharTokenizer.from_text("hii there")
    assert tok.chars == " ehirt" and tok == CharTokenizer(" ehirt")
    assert tok.table[ord("h")] == tok.chars.index("h")
    assert tok.table[ord("?")] == tok.vocab_size
    assert (tok.table != tok.vocab_size).sum() == tok.vocab_size


@pytest.mark.parametrize(
    "chars, words",
    [
        ("", "alphabet is empty"),
        ("abca", "has 'a' twice"),
        ("a\ud800", "which is half a character"),
    ],
)
def test_alphabets_refused(chars, words):
    refused(words, CharTokenizer, chars)


@pytest.mark.parametrize(
    "text",
    [
        "hii there",
        "",
        "Ἄνδρα μοι ἔννεπε, Μοῦσα",
        "naïve 🙂🙃 日本語",
        "".join(map(chr, range(300))),
        "".join(map(chr, range(40_000))),
        "ab\u00e9" * 50_000,
        "bundled",
    ],
    ids=lambda text: f"{len(text)} characters",
)
def test_round_trip(text):
    if text == "bundled":
        text = load_bundled().text
    tok = CharTokenizer.from_text(text + "x")
    ids = tok.encode(text)
    numbers = {c: i for i, c in enumerate(tok.chars)}
    assert tok.decode(ids) == text == tok.decode(ids.tolist())
    assert ids.tolist() == [numbers[c] for c in text]
    V = tok.vocab_size
    small, large = (torch.uint8, torch.int16) if V < 2**15 else (None, torch.int32)
    assert ids.dtype == (small if V < 2**8 else large)


@pytest.mark.parametrize("V", [254, 255, 256, 257, 2**15 - 1, 2**15])
def test_the_spare_number_fits_the_type(V):
    tok = CharTokenizer("".join(map(chr, range(V))))
    assert tok.encode(tok.chars).tolist() == list(range(V))
    refused("unknown character", tok.encode, "a" + chr(V))


def test_unknown_characters():
    refused("'é' (U+00E9) at position 7", LETTERS.encode, "the caféteria")
    refused("at position 0", LETTERS.encode, "\ud800")
    refused("at position 70000", LETTERS.encode, "x" * 70_000 + "é")
    with pytest.raises(ValueError, match="choose 'strict' or 'ignore'"):
        LETTERS.encode("x", errors="replace")


@pytest.mark.parametrize("unknown", ["é", "?", "🙂", "é?" * 40_000, "\ud800"])
@pytest.mark.parametrize("size", [1, 2**16 - 1, 2**16, 70_000])
def test_unknown_characters_left_out(unknown, size):
    text = "fox" + unknown + "x" * size + unknown + "dog" + unknown
    known = "".join(c for c in text if c in LETTERS.chars)
    assert LETTERS.decode(LETTERS.encode(text, errors="ignore")) == known
    assert LETTERS.encode(unknown, errors="ignore").tolist() == []


def test_encode_warns_of_nothing(recwarn):
    LETTERS.encode("fox")
    CharTokenizer.from_text("🙂é").encode("é🙂")
    assert not recwarn.list


@pytest.mark.parametrize(
    "ids, words",
    [
        ([0, 99], "id 99 is outside the alphabet; ids run from 0 to"),
        ([0, -1], "id -1 is outside the alphabet"),
        (torch.zeros(1, 3, dtype=torch.long), "ids have shape (1, 3)"),
        *[
            (ids, "ids must be whole numbers")
            for ids in ([0.5], [True], [1j], ["a"], [2**70], 3)
        ],
        (torch.zeros(3), "ids must be whole numbers"),
        (torch.ones(2) > 0, "ids must be whole numbers"),
    ],
    ids=str,
)
def test_ids_refused(ids, words):
    refused(words, LETTERS.decode, ids)


def test_ids_that_will_do():
    assert LETTERS.decode([]) == "" == LETTERS.decode(torch.zeros(0, dtype=torch.long))
    assert LETTERS.decode(i for i in (1, 0)) == LETTERS.chars[1] + LETTERS.chars[0]
    ids = torch.tensor([[0, 4]])
    assert check_ids(ids, 5) is ids


@pytest.mark.parametrize(
    "wrong, words",
    [
        ([0, 5], "id 5 is outside"),
        ([-1, 9], "id -1 is outside"),
        ([0.0], "type torch.float32"),
        ([True], "type torch.bool"),
    ],
)
def test_check_ids(wrong, words):
    refused(words, check_ids, torch.tensor(wrong), 5)


def test_a_text_too_short_is_told_what_it_needs():
    check_length(321, 32)
    words = "a text of 320 characters is too short for block_size 32: it needs 321"
    refused(words, check_length, 320, 32)
    for block_size in range(1, 300):
        with pytest.raises(BadInput) as error:
            check_length(1, block_size)
        words = str(error.value).split("it needs ")[1].split(", or")[0]
        needed = int(words.replace(",", ""))
        check_length(needed, block_size)
        refused("too short", check_length, needed - 1, block_size)


def test_split():
    ids = torch.arange(101)
    train, val = train_val_split(ids)
    assert len(train) == 90 and torch.equal(torch.cat([train, val]), ids)
    assert train.data_ptr() == ids.data_ptr()  # not copied
    for frac in (90, 0, 1, -0.1, "0.9"):
        refused("frac is", train_val_split, ids, frac)


def test_get_batch():
    ids = torch.randint(65, (500,), dtype=torch.uint8)
    for B, T in [(1, 1), (4, 8), (64, 256), (3, 499)]:
        x, y = get_batch(ids, B, T, torch.Generator().manual_seed(7))
        torch.manual_seed(7)
        offsets = torch.randint(len(ids) - T, (B,))
        assert torch.equal(x, torch.stack([ids[i : i + T] for i in offsets]).long())
        later = torch.stack([ids[i + 1 : i + 1 + T] for i in offsets])
        assert torch.equal(y, later.long())
        assert x.dtype == y.dtype == torch.int64 and x.shape == y.shape == (B, T)
    short = get_batch(ids[:9], 64, 8)[0]
    assert (short == short[0]).all()


def test_batches_refused():
    ids = torch.zeros(9, dtype=torch.uint8)
    words = "a text of 8 characters is too short for block_size 8; it needs 9"
    refused(words, get_batch, ids[:8], 4, 8)
    refused("batch_size is 0", get_batch, ids, 0, 8)
    refused("block_size is 0", get_batch, ids, 4, 0)
