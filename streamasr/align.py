"""When each character of a hypothesis was said: its best CTC alignment (Viterbi) over the last frames.

The states of a hypothesis of L tokens are those of Graves et al. (2006), preceded by one for the run of the token
before it: 0 that token, 1 blank, 2 the first token, 3 blank, ..., 2L the last token, 2L + 1 blank.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamasr.compiled import inner

Ints = NDArray[np.int32]
Floats = NDArray[np.float64]

NEVER = -1e300
FLOOR = -1e4  # log-probabilities below it count as it, so that every alignment is possible


@inner
def align(
    tokens: Ints,
    length: int,
    before: int,
    recent: NDArray[np.float32],
    first: int,
    last: int,
    cut: bool,
    frames: Ints,
    peaks: Floats,
    back: NDArray[np.uint8],
    scores: Floats,
) -> None:
    """Fill in the frame of the highest probability of each token within its run, and that log-probability.

    Args:
        tokens: (length,) the hypothesis; `before`: the token that it follows, or -1.
        recent: (R, V) log-probabilities; frame t is row t modulo R.
        first, last: the frames to align, both included, at most R of them and enough for the tokens.
        cut: whether frames between the token before and `first` are forgotten.
        frames, peaks: (length,) results.
        back, scores: scratch of (R, 2 length + 2) and (2, 2 length + 2) at least.
    """
    states = 2 * length + 2
    count = last - first + 1
    capacity = recent.shape[0]
    old, new = 0, 1
    for state in range(states):
        scores[old, state] = NEVER
    if before >= 0:
        scores[old, 0] = 0.0
    if before < 0 or cut:
        scores[old, 1] = 0.0
    for i in range(count):
        row = recent[(first + i) % capacity]
        blank = max(row[0], FLOOR)
        for state in range(states):
            best = scores[old, state]
            step = 0
            if state >= 1 and scores[old, state - 1] > best:
                best = scores[old, state - 1]
                step = 1
            if state % 2 == 1:
                emission = blank
            else:
                token = tokens[state // 2 - 1] if state > 0 else before
                emission = max(row[token], FLOOR) if token >= 0 else NEVER
                if state >= 2:
                    above = tokens[state // 2 - 2] if state > 2 else before
                    if token != above and scores[old, state - 2] > best:
                        best = scores[old, state - 2]
                        step = 2
            scores[new, state] = best + emission if best > NEVER and emission > NEVER else NEVER
            back[i, state] = step
        old, new = new, old
    state = states - 1
    if scores[old, state - 1] > scores[old, state]:
        state -= 1
    for k in range(length):
        peaks[k] = NEVER
    for i in range(count - 1, -1, -1):
        if state % 2 == 0 and state > 0:
            k = state // 2 - 1
            emission = max(recent[(first + i) % capacity, tokens[k]], FLOOR)
            if emission >= peaks[k]:
                peaks[k] = emission
                frames[k] = first + i
        state -= back[i, state]
