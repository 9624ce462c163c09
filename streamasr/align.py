"""When each character of a hypothesis was said: its best CTC alignment (Viterbi) over the last frames.

The states of a hypothesis of L tokens are those of Graves et al. (2006), preceded by one for the run of the token
before it: 0 that token, 1 blank, 2 the first token, 3 blank, ..., 2L the last token, 2L + 1 blank.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamasr.compiled import inner

AT_NODE, AT_TOKEN, AT_FRAME = range(3)  # columns of a path
PEAK = 2  # row of the trellis; rows 0 and 1 are the scores of two frames
NEVER = -1e300
FLOOR = -1e4  # log-probabilities below it count as it, so that every alignment is possible


@inner
def align(
    path: NDArray[np.int32],
    length: int,
    before: int,
    recent: NDArray[np.float32],
    first: int,
    last: int,
    cut: bool,
    trellis: NDArray[np.float64],
    back: NDArray[np.uint8],
) -> None:
    """Fill in, for each token, the frame of its highest probability within its run, and the log of that.

    Args:
        path: (length, 3) the hypothesis; AT_TOKEN is read, AT_FRAME written. `before`: the token before it, or -1.
        recent: (R, V) log-probabilities; frame t is row t modulo R.
        first, last: the frames to align, both included, at most R of them and enough for the tokens.
        cut: whether frames between the token before and `first` are forgotten.
        trellis, back: scratch of (3, 2 length + 2) and (R, 2 length + 2) at least; row PEAK of the first is a result.
    """
    states = 2 * length + 2
    capacity = recent.shape[0]
    old, new = 0, 1
    for state in range(states):
        trellis[old, state] = NEVER
    if before >= 0:
        trellis[old, 0] = 0.0
    if before < 0 or cut:
        trellis[old, 1] = 0.0
    for frame in range(first, last + 1):
        row = recent[frame % capacity]
        blank = max(row[0], FLOOR)
        for state in range(states):
            best = trellis[old, state]
            step = 0
            if state >= 1 and trellis[old, state - 1] > best:
                best = trellis[old, state - 1]
                step = 1
            emission = blank
            if state % 2 == 0:
                token = path[state // 2 - 1, AT_TOKEN] if state > 0 else before
                emission = max(row[token], FLOOR) if token >= 0 else NEVER
                if state >= 2:
                    above = path[state // 2 - 2, AT_TOKEN] if state > 2 else before
                    if token != above and trellis[old, state - 2] > best:
                        best = trellis[old, state - 2]
                        step = 2
            trellis[new, state] = best + emission if best > NEVER and emission > NEVER else NEVER
            back[frame - first, state] = step
        old, new = new, old
    state = states - 1
    if trellis[old, state - 1] > trellis[old, state]:
        state -= 1
    for k in range(length):
        trellis[PEAK, k] = NEVER
    for frame in range(last, first - 1, -1):
        if state % 2 == 0 and state > 0:
            k = state // 2 - 1
            emission = max(recent[frame % capacity, path[k, AT_TOKEN]], FLOOR)
            if emission >= trellis[PEAK, k]:
                trellis[PEAK, k] = emission
                path[k, AT_FRAME] = frame
        state -= back[frame - first, state]
