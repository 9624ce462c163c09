from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streamasr import candidates
from streamasr.candidates import NEXT, SOURCE, Scratch

scratch, offer = candidates.scratch.py_func, candidates.offer.py_func  # only compiled code calls the others
highest, lowest = candidates.highest.py_func, candidates.lowest.py_func


def best_first(w: Scratch, count: int) -> list[int]:
    return [int(slot) for slot in w.ranks[::-1][:count]]


def test_the_best_are_kept_in_order_and_the_earlier_of_equals_first() -> None:
    w = scratch(3, 2, 4)
    count = 0
    for source, score in enumerate([0.5, 0.25, 0.0, 0.5, 0.125, 0.75, 0.5]):
        count = offer(w, count, score, source, 10 + source)
    assert count == 3
    order = best_first(w, count)
    assert w.scores[order].tolist() == [0.75, 0.5, 0.5]
    assert w.picks[order, SOURCE].tolist() == [5, 0, 3]
    assert w.picks[order, NEXT].tolist() == [15, 10, 13]


def test_nothing_impossible_is_taken() -> None:
    w = scratch(2, 2, 4)
    assert [offer(w, 0, score, 0, 1) for score in (0.0, -1.0, np.nan)] == [0, 0, 0]


@given(st.lists(st.sampled_from([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6]), max_size=30), st.integers(1, 8))
def test_the_list_is_that_of_a_stable_sort(scores: list[float], width: int) -> None:
    w = scratch(width, 2, 4)
    count = 0
    for source, score in enumerate(scores):
        count = offer(w, count, score, source, 0)
        taken = [one for one in scores[: source + 1] if one > 0]
        assert highest(w, count) == max(taken, default=0.0)
        assert lowest(w, count) == (sorted(taken)[-width] if len(taken) >= width else 0.0)
    wanted = sorted((at for at, score in enumerate(scores) if score > 0), key=lambda at: -scores[at])[:width]
    assert w.picks[best_first(w, count), SOURCE].tolist() == wanted
