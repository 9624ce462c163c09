from __future__ import annotations

import math

import numpy as np
import pytest

from streamasr.spelling import (
    RAREST,
    english,
    letter_frequencies,
    pair_frequencies,
    pairs_of_text,
    parsed,
    written,
)
from streamasr.text import Vocab

VOCAB = Vocab()
A, B, E, Z, SPACE = VOCAB.encode("abez ")


def test_pairs_are_counted_with_spaces_around_each_sentence() -> None:
    pairs = pairs_of_text(["ab a", "b"])
    wanted = {(SPACE, A): 2, (A, B): 1, (B, SPACE): 2, (A, SPACE): 1, (SPACE, B): 1}
    for (one, other), count in wanted.items():
        assert pairs[one, other] == pytest.approx(count / 7)
    assert pairs.sum() == pytest.approx(1.0) and pairs_of_text([]).sum() == 0.0


def test_characters_that_the_alphabet_does_not_have_make_no_pairs() -> None:
    pairs = pairs_of_text(["a\u00e9b"])
    assert pairs[SPACE, A] == pairs[B, SPACE] == 0.5 and pairs[0].sum() == pairs[:, 0].sum() == 0.0


def test_frequencies_are_those_of_letters_and_of_what_follows_each() -> None:
    pairs = pairs_of_text(["aab"])
    letters = letter_frequencies(pairs)
    assert letters[A] == pytest.approx(math.log(2 / 3), abs=1e-6) and letters[Z] < -15
    assert letters[0] == letters[SPACE] == 0.0
    found = pair_frequencies(pairs)
    assert found[A, A] == pytest.approx(math.log(0.5), abs=0.01) and found[SPACE, A] == pytest.approx(0.0, abs=0.01)
    assert found[A, Z] == RAREST == found.min()
    assert not found[0].any() and not found[:, 0].any() and found[SPACE, SPACE] == 0.0
    assert np.isfinite(pair_frequencies(pairs_of_text([]))).all()


def test_what_is_written_is_read_again() -> None:
    pairs = pairs_of_text(["the quick brown fox's jump", "over it"])
    np.testing.assert_allclose(parsed(written(pairs)), pairs, atol=1e-9)


def test_those_of_english_are_there() -> None:
    pairs = english()
    assert pairs.sum() == pytest.approx(1.0, abs=1e-6) and (pairs >= 0).all()
    letters = letter_frequencies(pairs)
    assert letters[2:].argmax() == E - 2 and letters.min() > -9
    q, u, t, h = VOCAB.encode("quth")
    found = pair_frequencies(pairs)
    assert found[q, 1:].argmax() == u - 1 and found[t, 1:].argmax() == h - 1
