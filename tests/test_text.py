from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamasr.errors import ConfigError
from streamasr.text import ALPHABET, Vocab, normalise

VOCAB = Vocab()


@given(st.text(alphabet="".join(ALPHABET[1:]), max_size=60))
def test_encoding_is_inverted(text: str) -> None:
    assert VOCAB.decode(VOCAB.encode(text)) == text


@given(st.text(max_size=80))
def test_normalised_text_can_be_spelled_and_stays(text: str) -> None:
    normal = normalise(text)
    if normal is not None:
        VOCAB.encode(normal)
        assert normalise(normal) == normal


@pytest.mark.parametrize(
    ("raw", "spoken"),
    [
        ("Hello, World!", "hello world"),
        ("Mr. and Mrs. Smith", "mister and missus smith"),
        ("Dr. No", "doctor no"),
        ("It’s 5 o'clock", "it's five o'clock"),
        ("in 1984", "in nineteen eighty four"),
        ("the 3rd of 12", "the third of twelve"),
        ("$5 and £3.50", "five dollars and three pounds and fifty"),
        ("50% & more", "fifty percent and more"),
        ("1,234.5", "one thousand two hundred and thirty four point five"),
        ("café naïve", "cafe naive"),
        ("'quoted' words", "quoted words"),
        ("well-known — dash", "well known dash"),
        ("", ""),
        ("...", ""),
    ],
)
def test_examples(raw: str, spoken: str) -> None:
    assert normalise(raw) == spoken


def test_other_scripts_are_refused() -> None:
    assert normalise("привет") is None
    assert normalise("東京 tower") is None


def test_collapse() -> None:
    a, b = VOCAB.encode("ab")
    assert VOCAB.collapse([0, a, a, 0, a, b, b, 0]) == "aab"


def test_unknown_character() -> None:
    with pytest.raises(ConfigError, match="'é'"):
        VOCAB.encode("é")


def test_token_list_without_blank() -> None:
    with pytest.raises(ConfigError, match="<blank>"):
        Vocab(("a", " "))
