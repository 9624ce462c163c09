"""Sigmoid of many numbers, in a loop that becomes vector instructions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamasr import words
from streamasr.compiled import loops


@loops("void(float32[::1], float32, float32[::1])")
def sigmoid(x: NDArray[np.float32], slope: float, y: NDArray[np.float32]) -> None:
    """y = 1 / (1 + exp(-slope x)) for x (N,), relative error below 1e-6; y may be x."""
    for i in range(len(x)):
        y[i] = words.sigmoid(np.float32(slope) * x[i])
