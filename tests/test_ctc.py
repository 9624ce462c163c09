from __future__ import annotations

import itertools
import math
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamasr.config import BeamConfig
from streamasr.ctc import BeamState, Decoder, Reading
from streamasr.errors import DecoderError
from streamasr.text import Vocab
from tests.ctc_logits import noise, render

SMALL = Vocab(("<blank>", " ", "a", "b"))
FULL = Vocab()
EXACT = {"prune": -1e9, "prune_alone": -1e9, "drop": -1e9}
TEXT = "we hear the small waves on the grey stones and it's all there is to hear tonight"


def decode(decoder: Decoder, rows: np.ndarray, cuts: list[int] | None = None) -> tuple[list[Reading], BeamState]:
    state, readings, begin = decoder.start(), [], 0
    for end in [*sorted(cuts or []), len(rows)]:
        state = decoder.step(rows[begin:end], state)
        readings.append(decoder.read(state))
        begin = end
    return readings, state


def brute_force(rows: np.ndarray, vocab: Vocab) -> dict[str, float]:
    """Probability of every text: the sum over all paths that collapse to it."""
    sums: dict[str, float] = defaultdict(float)
    for path in itertools.product(range(len(vocab)), repeat=len(rows)):
        sums[vocab.collapse(path)] += math.exp(sum(float(row[token]) for row, token in zip(rows, path, strict=True)))
    return sums


seeds = st.integers(0, 2**32 - 1)


@given(seed=seeds, frames=st.integers(1, 6), peak=st.floats(0.1, 5.0))
@settings(max_examples=40)
def test_prefix_scores_equal_the_sum_over_all_alignments(seed: int, frames: int, peak: float) -> None:
    rows = noise(np.random.default_rng(seed), frames, len(SMALL), peak)
    decoder = Decoder(SMALL, BeamConfig(width=5000, **EXACT))
    state = decoder.step(rows, decoder.start())
    found = dict(decoder.hypotheses(state))
    expected = brute_force(rows, SMALL)
    assert set(found) == {text for text, sum_ in expected.items() if sum_ > 0}
    for text, score in found.items():
        assert score == pytest.approx(math.log(expected[text]), abs=1e-5)


def test_unlikely_letters_are_kept_where_hotwords_may_speak_for_them() -> None:
    rows = np.log(np.array([[0.008, 0.001, 0.981, 0.01]], np.float32))  # "b" has one percent
    for hotwords, kept in (({}, False), ({"b": 1.0}, True)):
        decoder = Decoder(SMALL, BeamConfig(width=8), hotwords=hotwords)
        found = dict(decoder.hypotheses(decoder.step(rows, decoder.start())))
        assert ("b" in found) == kept


@given(seed=seeds, cuts=st.lists(st.integers(0, 200), max_size=12), width=st.sampled_from([1, 2, 4, 16]))
@settings(max_examples=40)
def test_any_chunking_equals_the_whole_and_nothing_committed_is_retracted(
    seed: int, cuts: list[int], width: int
) -> None:
    random = np.random.default_rng(seed)
    rows = np.concatenate(
        [render(TEXT[:40], FULL, seed), noise(random, 40, len(FULL)), render("and so on", FULL, seed)]
    )
    decoder = Decoder(FULL, BeamConfig(width=width, tail_s=float(random.choice([0.04, 0.2, 1.0, 4.0]))))
    whole, end = decode(decoder, rows)
    readings, state = decode(decoder, rows, [min(cut, len(rows)) for cut in cuts])
    assert readings[-1] == whole[-1]
    assert decoder.finish(state)[0] == decoder.finish(end)[0]
    assert decoder.hypotheses(state) == decoder.hypotheses(end)
    final = "".join(word.text + " " for word in decoder.finish(state)[0])
    for early, late in itertools.pairwise(readings):
        assert late.committed.startswith(early.committed)
        assert late.words[: len(early.words)] == early.words
    assert final.startswith(whole[-1].committed)


@given(seed=seeds, frames=st.integers(0, 60), coarse=st.booleans())
@settings(max_examples=60)
def test_width_one_is_the_argmax_collapsed_ties_included(seed: int, frames: int, coarse: bool) -> None:
    random = np.random.default_rng(seed)
    rows = (
        random.integers(-3, 0, (frames, len(FULL))).astype(np.float32) if coarse else noise(random, frames, len(FULL))
    )
    decoder = Decoder(FULL, BeamConfig(width=1))
    words, _ = decoder.finish(decoder.step(rows, decoder.start()))
    assert " ".join(word.text for word in words) == " ".join(FULL.collapse(rows.argmax(1).tolist()).split())


@given(seed=seeds, width=st.sampled_from([1, 3, 8, 32]), tail=st.integers(1, 60))
@settings(max_examples=60)
def test_words_have_times_in_order_and_probabilities(seed: int, width: int, tail: int) -> None:
    random = np.random.default_rng(seed)
    tokens = Vocab(("<blank>", " ", *"abc"))
    rows = noise(random, 150, len(tokens), float(random.uniform(0.2, 6)))
    decoder = Decoder(tokens, BeamConfig(width=width, tail_s=tail * 0.04))
    readings, state = decode(decoder, rows, list(range(0, 150, 7)))
    again = decoder.step(rows, decoder.finish(state)[1])
    for words, first, frames in (
        *((r.all_words, 0, 150) for r in readings),
        (decoder.finish(state)[0], 0, 150),
        (decoder.finish(again)[0], 0, 300),
    ):
        before = first
        for word in words:
            assert before <= word.start < word.end <= frames
            assert word.end - word.start >= len(word.text)
            assert 0.0 <= word.confidence <= 1.0
            before = word.end


@given(seed=seeds, tail=st.integers(1, 30), width=st.sampled_from([2, 8]))
@settings(max_examples=30)
def test_the_uncommitted_tail_is_capped(seed: int, tail: int, width: int) -> None:
    rows = noise(np.random.default_rng(seed), 120, len(FULL), 1.0)
    decoder = Decoder(FULL, BeamConfig(width=width, tail_s=tail * 0.04))
    state = decoder.start()
    for row in rows:
        state = decoder.step(row[None], state)
        assert all(len(text) <= tail for text, _ in decoder.hypotheses(state))


def test_the_text_comes_out_with_the_frames_of_its_words() -> None:
    rows = render(TEXT, FULL, confusion=0.0, peak=12.0)
    decoder = Decoder(FULL, BeamConfig(width=8))
    state = decoder.step(rows, decoder.start())
    reading = decoder.read(state)
    assert reading.committed + reading.tentative == TEXT
    words, _ = decoder.finish(state)
    assert [word.text for word in words] == TEXT.split()
    best = rows.argmax(1)
    for word in words:
        assert FULL.tokens[best[word.start]] == word.text[0]
        assert FULL.tokens[best[word.end - 1]] == word.text[-1]
        assert word.confidence > 0.6


def test_a_growing_word_is_tentative_even_when_its_letters_are_committed() -> None:
    decoder = Decoder(FULL, BeamConfig(width=1))
    reading = decoder.read(decoder.step(render("go no", FULL, confusion=0.0), decoder.start()))
    assert (reading.committed, reading.tentative) == ("go no", "")
    assert [word.text for word in reading.words] == ["go"]
    assert [word.text for word in reading.tentative_words] == ["no"]


def test_the_next_utterance_goes_on_from_the_frame_of_the_last() -> None:
    decoder = Decoder(FULL)
    rows = render("one", FULL, confusion=0.0)
    words, state = decoder.finish(decoder.step(rows, decoder.start()))
    assert state.frames == len(rows) and decoder.read(state) == Reading("", "", (), ())
    later, _ = decoder.finish(decoder.step(rows, state))
    assert [w.text for w in later] == ["one"]
    assert later[0].start == words[0].start + len(rows)


def test_a_letter_held_across_the_end_of_an_utterance_is_said_once() -> None:
    decoder = Decoder(FULL, BeamConfig(width=4))
    row = render("a", FULL, confusion=0.0)
    held = row[row.argmax(1) == FULL.encode("a")[0]][:1]
    words, state = decoder.finish(decoder.step(held, decoder.start()))
    assert [word.text for word in words] == ["a"]
    assert decoder.finish(decoder.step(held, state))[0] == ()


def test_states_are_values() -> None:
    decoder = Decoder(FULL)
    start = decoder.start()
    state = decoder.step(render("some words here", FULL), start)
    before = [array.copy() for array in state.arrays]
    decoder.step(render("more", FULL), state)
    decoder.read(state)
    decoder.finish(state)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(before, state.arrays, strict=True))
    assert decoder.step(np.zeros((0, len(FULL)), np.float32), state) is state
    assert start.frames == 0 and decoder.read(start) == Reading("", "", (), ())


def test_committed_words_can_be_taken_away() -> None:
    decoder = Decoder(FULL, BeamConfig(width=4, tail_s=0.4))
    rows, state, words = render(TEXT, FULL, confusion=0.0, peak=12.0), decoder.start(), []
    for begin in range(0, len(rows), 10):
        state = decoder.step(rows[begin : begin + 10], state)
        taken, state = decoder.take(state)
        words += taken
    last, _ = decoder.finish(state)
    assert [word.text for word in [*words, *last]] == TEXT.split()
    assert tuple(words) + last == decoder.finish(decoder.step(rows, decoder.start()))[0]


def test_an_endless_stream_keeps_its_size() -> None:
    decoder = Decoder(FULL, BeamConfig(width=8, tail_s=0.6))
    random = np.random.default_rng(1)
    state, sizes = decoder.start(), []
    for _ in range(60):
        rows = np.concatenate([noise(random, 60, len(FULL), 2.0), render("again and again", FULL)])
        state = decoder.step(rows, decoder.finish(state)[1])
        sizes.append(sum(array.nbytes for array in state.arrays))
    assert max(sizes) <= 8 * 17 * 60 + 60_000
    assert max(sizes[30:]) <= max(sizes[:30])
    assert state.frames == decoder.finish(state)[1].frames


def test_logits_of_any_layout_are_read_alike() -> None:
    decoder, rows = Decoder(FULL), render("any kind of array", FULL)
    fixed, whole = rows.copy(), decoder.step(rows, decoder.start())
    fixed.flags.writeable = False
    for same in (fixed, np.asfortranarray(rows), rows.astype(np.float64), np.repeat(rows, 2, 0)[::2], rows.tolist()):
        assert decoder.hypotheses(decoder.step(same, decoder.start())) == decoder.hypotheses(whole)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (np.zeros((3, 7), np.float32), "shape (3, 7)"),
        (np.zeros(29, np.float32), "shape (29,)"),
        (np.full((2, 29), np.nan, np.float32), "NaN"),
        (np.full((2, 29), np.inf, np.float32), "+inf"),
        (np.full((2, 29), -np.inf, np.float32), "impossible"),
    ],
)
def test_bad_logits_are_one_clear_line(rows: np.ndarray, said: str) -> None:
    decoder = Decoder(FULL)
    with pytest.raises(DecoderError) as error:
        decoder.step(rows, decoder.start())
    assert said in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    "config",
    [{"width": 0}, {"tail_s": 0.0}, {"prune": 0.0}, {"drop": float("nan")}, {"alpha": -1.0}]
    + [{name: float("nan")} for name in ("alpha", "beta", "unknown", "prune", "tail_s")]
    + [{"beta": float("inf")}, {"unknown": 1.0}, {"unknown": -float("inf")}],
)
def test_bad_options_are_one_clear_line(config: dict[str, float]) -> None:
    with pytest.raises(DecoderError) as error:
        Decoder(FULL, BeamConfig(**config))  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
