"The bundled play: its form, its alphabet, and that it is written and not generated."

import re
from collections import Counter

from charlm.data import load_corpus

ALPHABET = set("\n !$&',-.3:;?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
PLAY = load_corpus("bundled").text
SPEECHES = [speech.split("\n") for speech in PLAY.strip("\n").split("\n\n")]
LINES = [line for _, *lines in SPEECHES for line in lines]


def test_size_and_alphabet():
    assert len(PLAY) >= 100_000 and set(PLAY) <= ALPHABET


def test_speaker_then_lines_then_blank():
    assert PLAY.endswith("\n") and "\n\n\n" not in PLAY
    for speaker, *lines in SPEECHES:
        assert re.fullmatch(r"[A-Z][A-Za-z ]*:", speaker), speaker
        assert lines and all(
            line and line == line.strip() and len(line) <= 76 for line in lines
        ), speaker


def test_five_acts():
    "Each act is opened by the chorus, which says which act it is"
    openings = [" ".join(lines) for speaker, *lines in SPEECHES if speaker == "Chorus:"]
    assert len(openings) == 5
    for number, text in zip(
        ["first", "second", "third", "fourth", "fifth"], openings, strict=True
    ):
        assert f"{number} act" in text.lower() or number in text.lower()


def test_a_cast_with_parts_to_play():
    speakers = Counter(speaker for speaker, *_ in SPEECHES)
    assert sum(n >= 40 for n in speakers.values()) >= 10


def test_nothing_is_filler():
    "No line of any length comes twice, and hardly any run of six words"
    assert not [line for line, n in Counter(LINES).items() if n > 1 and len(line) > 20]
    words = re.findall(r"[a-z']+", " ".join(LINES).lower())
    runs = Counter(zip(*[words[i:] for i in range(6)], strict=False))
    assert sum(n - 1 for n in runs.values()) < 0.001 * len(words)
    assert len(set(words)) > 2500
