"""Compiled loops of the linear recurrence; frames in rows."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray


@njit("void(float32[:,::1], float32[:,::1])", cache=True, fastmath=True, nogil=True)
def loop(keep: NDArray[np.float32], memory: NDArray[np.float32]) -> None:
    """memory[t] += keep[t] * memory[t-1], in place."""
    for t in range(1, memory.shape[0]):
        for i in range(memory.shape[1]):
            memory[t, i] += keep[t, i] * memory[t - 1, i]


@njit("void(float32[:,::1], float32[:,::1], float32[:,::1], float32[:,::1])", cache=True, fastmath=True, nogil=True)
def loop_back(
    keep: NDArray[np.float32],
    memory: NDArray[np.float32],
    toward_new: NDArray[np.float32],
    toward_keep: NDArray[np.float32],
) -> None:
    """Gradients: `toward_new` comes in as that of memory, in place; `toward_keep` is written."""
    last = memory.shape[0] - 1
    for t in range(last, -1, -1):
        for i in range(memory.shape[1]):
            if t < last:
                toward_new[t, i] += keep[t + 1, i] * toward_new[t + 1, i]
            toward_keep[t, i] = toward_new[t, i] * memory[t - 1, i] if t else 0.0
