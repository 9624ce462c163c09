"""Sigmoid and hyperbolic tangent of many numbers, in loops that become vector instructions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamasr.compiled import loops

FARTHEST = np.float32(87)  # the exponential of more is no float
PER_OCTAVE = np.float32(1.4426950408889634)  # 1 / ln 2
C1, C2, C3, C4, C5, C6 = (np.float32(np.log(2) ** k / np.prod(np.arange(1.0, k + 1))) for k in range(1, 7))  # Taylor


@loops("void(float32[::1], float32, float32[::1])")
def sigmoid(x: NDArray[np.float32], slope: float, y: NDArray[np.float32]) -> None:
    """y = 1 / (1 + exp(-slope x)) for x (N,), to a few units of the last place; y may be x."""
    count = len(x)
    bits = np.empty(count, np.int32)
    powers = bits.view(np.float32)
    for i in range(count):
        octaves = min(max(-slope * x[i], -FARTHEST), FARTHEST) * PER_OCTAVE
        whole = np.floor(octaves + np.float32(0.5))
        f = octaves - whole
        bits[i] = (np.int32(whole) + np.int32(127)) << np.int32(23)
        y[i] = np.float32(1) + f * (C1 + f * (C2 + f * (C3 + f * (C4 + f * (C5 + f * C6)))))
    for i in range(count):
        y[i] = np.float32(1) / (np.float32(1) + y[i] * powers[i])
