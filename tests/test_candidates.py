from __future__ import annotations

import numpy as np

from streamasr import candidates
from streamasr.candidates import NEXT, SCORE, SOURCE

scratch, offer = candidates.scratch.py_func, candidates.offer.py_func  # only compiled code calls the others


def test_the_best_are_kept_in_order_and_the_earlier_of_equals_first() -> None:
    w = scratch(3, 2, 4)
    count = 0
    for source, score in enumerate([0.5, 0.25, 0.0, 0.5, 0.125, 0.75, 0.5]):
        count = offer(w, count, score, source, 10 + source)
    assert count == 3
    assert w.sums[:, SCORE].tolist() == [0.75, 0.5, 0.5]
    assert w.picks[:, SOURCE].tolist() == [5, 0, 3]
    assert w.picks[:, NEXT].tolist() == [15, 10, 13]


def test_nothing_impossible_is_taken() -> None:
    w = scratch(2, 2, 4)
    assert [offer(w, 0, score, 0, 1) for score in (0.0, -1.0, np.nan)] == [0, 0, 0]
