"""What a frame of the beam works on, and the sorted list of the best prefixes that may follow."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamasr.compiled import inner, maker

STAYS_ENDED, STAYS_RUNNING, NEW_ENDED, NEW_RUNNING = range(4)  # columns of `sums`
SOURCE, NEXT, ENTRY = range(3)  # columns of `picks`


class Scratch(NamedTuple):
    """`ranks`: the candidates by their scores, the best at its end, so that making room is one move of memory."""

    odds: NDArray[np.float64]  # (V,) probabilities of this frame
    heard: NDArray[np.int32]  # (V,) tokens but the blank that are possible in this frame, in its first places
    sums: NDArray[np.float64]  # (W, 4)
    scores: NDArray[np.float64]  # (W,) of the candidates
    ranks: NDArray[np.int32]  # (W,) numbers of candidates, as many as there are, at the end
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
        np.empty((width, 4)),
        np.empty(width),
        np.empty(width, np.int32),
        np.empty((width, 3), np.int32),
        np.empty((recent, 3), np.int32),
        np.empty((3, states)),
        np.empty((recent, states), np.uint8),
    )


@inner
def highest(w: Scratch, count: int) -> float:
    """The best score of `count` candidates."""
    return w.scores[w.ranks[w.ranks.shape[0] - 1]] if count > 0 else 0.0


@inner
def lowest(w: Scratch, count: int) -> float:
    """The worst score of `count` candidates if there is no room for more."""
    return w.scores[w.ranks[0]] if count == w.ranks.shape[0] else 0.0


@inner
def offer(w: Scratch, count: int, score: float, source: int, token: int) -> int:
    """Take a candidate into the sorted list of the best; the earlier of equals stays ahead. Returns their number."""
    width = w.ranks.shape[0]
    if not score > 0.0 or (count == width and score <= w.scores[w.ranks[0]]):
        return count
    first = width - count
    place, left = first, count  # of the worst candidate that is no worse
    while left > 0:
        half = (left + 1) >> 1
        place = place + half if w.scores[w.ranks[place + half - 1]] < score else place
        left -= half
    slot = np.int64(w.ranks[0]) if count == width else count
    for at in range(max(0, first - 1), place - 1):
        w.ranks[at] = w.ranks[at + 1]
    w.ranks[place - 1] = slot
    w.scores[slot], w.picks[slot, SOURCE], w.picks[slot, NEXT] = score, source, token
    return min(count + 1, width)  # type: ignore[no-any-return]
