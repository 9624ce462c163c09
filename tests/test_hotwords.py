from __future__ import annotations

from pathlib import Path

import pytest

from streamasr.errors import DecoderError
from streamasr.hotwords import BOOST, build, hotwords, parse, read_hotwords
from streamasr.text import Vocab


def test_a_phrase_with_and_without_its_boost() -> None:
    assert parse("New York") == ("new york", BOOST)
    assert parse("Rachmaninoff:2.5") == ("rachmaninoff", 2.5)
    assert parse(" the end : -1 ") == ("the end", -1.0)
    assert hotwords(["one", "two:3", "one:2"]) == {"one": 2.0, "two": 3.0}


@pytest.mark.parametrize("line", ["", "  ", ":2", "word:", "word:loud", "word:nan", "word:1e9", "漢字", "мир:2"])
def test_what_is_no_hotword_is_one_clear_line(line: str) -> None:
    with pytest.raises(DecoderError) as error:
        parse(line)
    assert "\n" not in str(error.value)


def test_a_file_of_hotwords(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("# places\nNew York:2\n\nReykjavík\n", "utf-8")
    assert read_hotwords(path) == {"new york": 2.0, "reykjavik": BOOST}


@pytest.mark.parametrize(("content", "said"), [("", "empty"), ("# none\n", "empty"), ("good\nbad:x\n", "line 2")])
def test_a_bad_file_is_one_clear_line(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "words.txt"
    path.write_text(content)
    with pytest.raises(DecoderError, match=said):
        read_hotwords(path)


def test_a_file_that_cannot_be_read_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(DecoderError, match="cannot be read"):
        read_hotwords(tmp_path / "none.txt")
    (tmp_path / "latin").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(DecoderError, match="UTF-8"):
        read_hotwords(tmp_path / "latin")


def test_a_letter_outside_the_alphabet_is_one_clear_line() -> None:
    with pytest.raises(DecoderError, match="'ö'"):
        build({"schön": 1.0}, Vocab())
    with pytest.raises(DecoderError):
        build({"": 1.0}, Vocab())


def test_phrases_share_states_and_end_at_a_space() -> None:
    phrases = build({"new york": 1.0, "new": 1.0}, Vocab())
    state = 0
    for token in Vocab().encode("new "):
        state = phrases.following[state, token]
    assert phrases.paid[state] == 3.0 and phrases.pending[state] == 3.0
    assert phrases.following[state, Vocab().encode("x")[0]] == len(phrases.paid) - 1
    assert phrases.following[-1, Vocab().space] == 0
    assert build({}, Vocab()).following.shape == (0, len(Vocab()))
