from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from streamasr.checksums import write_listed
from streamasr.errors import BundleError, ChecksumError
from streamasr.spelling import (
    FILE,
    RAREST,
    letter_frequencies,
    pair_frequencies,
    pairs_of_text,
    pairs_of_words,
    read_spelling,
    write_spelling,
)
from streamasr.text import Vocab

VOCAB = Vocab()
A, B, SPACE = VOCAB.encode("ab ")


def test_pairs_of_text_are_counted_with_spaces_around_each_sentence() -> None:
    pairs = pairs_of_text(["ab a", "b"])
    wanted = {(SPACE, A): 2, (A, B): 1, (B, SPACE): 2, (A, SPACE): 1, (SPACE, B): 1}
    for (one, other), count in wanted.items():
        assert pairs[one, other] == pytest.approx(count / 7)
    assert pairs.sum() == pytest.approx(1.0)


def test_words_by_their_shares_give_what_their_text_gives() -> None:
    words, text = ["ab", "it's", "b"], ["b ab", "it's b"]
    np.testing.assert_allclose(pairs_of_words(words, np.array([0.25, 0.25, 0.5])), pairs_of_text(text))
    assert pairs_of_words([], np.zeros(0)).sum() == pairs_of_text([]).sum() == 0.0


def test_characters_that_the_alphabet_does_not_have_make_no_pairs() -> None:
    pairs = pairs_of_text(["a\u00e9b"])
    assert pairs[SPACE, A] == pairs[B, SPACE] == 0.5 and pairs[0].sum() == pairs[:, 0].sum() == 0.0


def test_frequencies_are_those_of_letters_and_of_what_follows_each() -> None:
    pairs = pairs_of_text(["aab"])
    letters = letter_frequencies(pairs)
    assert letters["a"] == pytest.approx(math.log(2 / 3), abs=1e-6) and letters["z"] < -15
    found = pair_frequencies(pairs)
    assert found[A, A] == pytest.approx(math.log(0.5), abs=0.01) and found[SPACE, A] == pytest.approx(0.0, abs=0.01)
    assert found[A, VOCAB.encode("z")[0]] == RAREST == found.min()
    assert not found[0].any() and not found[:, 0].any() and found[SPACE, SPACE] == 0.0
    assert np.isfinite(pair_frequencies(pairs_of_text([]))).all()


def test_what_is_written_is_read_again_and_damage_is_told(tmp_path: Path) -> None:
    assert read_spelling(tmp_path) is None
    pairs = pairs_of_text(["the quick brown fox's jump", "over it"])
    write_spelling(tmp_path, pairs)
    read = read_spelling(tmp_path)
    assert read is not None
    np.testing.assert_allclose(read, pairs, atol=1e-9)
    for content in (b"1\t2\n", b"x" * 20, b"\xff", (tmp_path / FILE).read_bytes().replace(b"0", b"-1", 1)):
        write_listed(tmp_path, {FILE: content})
        with pytest.raises(BundleError, match="no pairs of letters"):
            read_spelling(tmp_path)
    (tmp_path / FILE).write_bytes(b"1")
    with pytest.raises(ChecksumError):
        read_spelling(tmp_path)
