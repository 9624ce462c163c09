"""What a frame of the beam works on, and the sorted list of the best prefixes that may follow."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamasr.compiled import inner, maker

STAYS_ENDED, STAYS_RUNNING, SCORE, NEW_ENDED, NEW_RUNNING = range(5)  # columns of `sums`
SOURCE, NEXT, ENTRY = range(3)  # columns of `picks`


class Scratch(NamedTuple):
    odds: NDArray[np.float64]  # (V,) probabilities of this frame
    heard: NDArray[np.int32]  # (V,) tokens but the blank that are possible in this frame, in its first places
    sums: NDArray[np.float64]  # (W, 5)
    picks: NDArray[np.int32]  # (W, 3)
    path: NDArray[np.int32]  # (R, 3)
    trellis: NDArray[np.float64]  # (3, 2R + 2)
    back: NDArray[np.uint8]  # (R, 2R + 2)


@maker
def scratch(width: int, recent: int, vocabulary: int) -> Scratch:
    states = 2 * recent + 2
    return Scratch(
        np.empty(vocabulary),
        np.empty(vocabulary, np.int32),
        np.empty((width, 5)),
        np.empty((width, 3), np.int32),
        np.empty((recent, 3), np.int32),
        np.empty((3, states)),
        np.empty((recent, states), np.uint8),
    )


@inner
def offer(w: Scratch, count: int, score: float, source: int, token: int) -> int:
    """Take a candidate into the sorted list of the best; the earlier of equals stays ahead. Returns their number."""
    width = w.sums.shape[0]
    if not score > 0.0 or (count == width and score <= w.sums[width - 1, SCORE]):
        return count
    place = count if count < width else width - 1
    while place > 0 and w.sums[place - 1, SCORE] < score:
        w.sums[place, SCORE] = w.sums[place - 1, SCORE]
        w.picks[place, SOURCE] = w.picks[place - 1, SOURCE]
        w.picks[place, NEXT] = w.picks[place - 1, NEXT]
        place -= 1
    w.sums[place, SCORE], w.picks[place, SOURCE], w.picks[place, NEXT] = score, source, token
    return count + 1 if count < width else width
