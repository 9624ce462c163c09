"""Compiled loops of layer normalisation over rows and of depthwise convolution; channels last."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@njit(
    "void(float32[:,::1], float32[::1], float32[::1], float32, float32[:,::1], float32[:,::1])",
    cache=True,
    fastmath=True,
    nogil=True,
)
def norm(x: Floats, weight: Floats, bias: Floats, epsilon: float, y: Floats, moments: Floats) -> None:
    """Normalise the rows of x (N, C) into y; `moments` (N, 2) gets each row's mean and inverse deviation."""
    rows, channels = x.shape
    share = np.float32(1) / np.float32(channels)
    for r in range(rows):
        total = square = np.float32(0)
        for c in range(channels):
            total += x[r, c]
        mean = total * share
        for c in range(channels):
            square += (x[r, c] - mean) ** 2
        scale = np.float32(1) / np.sqrt(square * share + epsilon)
        moments[r, 0], moments[r, 1] = mean, scale
        for c in range(channels):
            y[r, c] = (x[r, c] - mean) * scale * weight[c] + bias[c]


@njit(
    "void(float32[:,::1], float32[:,::1], float32[::1], float32[:,::1], float32[:,::1], float32[::1], float32[::1])",
    cache=True,
    fastmath=True,
    nogil=True,
)
def norm_back(
    gradient: Floats,
    x: Floats,
    weight: Floats,
    moments: Floats,
    toward_x: Floats,
    toward_weight: Floats,
    toward_bias: Floats,
) -> None:
    """Gradients: `toward_x` (N, C) is written, `toward_weight` and `toward_bias` (C,) are added to."""
    rows, channels = x.shape
    share = np.float32(1) / np.float32(channels)
    for r in range(rows):
        mean, scale = moments[r, 0], moments[r, 1]
        plain = along = np.float32(0)
        for c in range(channels):
            unit = (x[r, c] - mean) * scale
            weighted = gradient[r, c] * weight[c]
            plain += weighted
            along += weighted * unit
            toward_weight[c] += gradient[r, c] * unit
            toward_bias[c] += gradient[r, c]
        plain *= share
        along *= share
        for c in range(channels):
            unit = (x[r, c] - mean) * scale
            toward_x[r, c] = scale * (gradient[r, c] * weight[c] - plain - unit * along)


@njit("void(float32[:,:,::1], float32[:,::1], float32[::1], float32[:,:,::1])", cache=True, fastmath=True, nogil=True)
def depthwise(x: Floats, kernel: Floats, bias: Floats, y: Floats) -> None:
    """y[b, t] = bias + sum over k of kernel[k] * x[b, t + k], for x (B, T, C) and kernel (K, C)."""
    for b in range(y.shape[0]):
        for t in range(y.shape[1]):
            for c in range(y.shape[2]):
                y[b, t, c] = bias[c]
            for k in range(kernel.shape[0]):
                for c in range(y.shape[2]):
                    y[b, t, c] += kernel[k, c] * x[b, t + k, c]


@njit(
    "void(float32[:,:,::1], float32[:,:,::1], float32[:,::1], float32[:,:,::1], float32[:,::1], float32[::1])",
    cache=True,
    fastmath=True,
    nogil=True,
)
def depthwise_back(
    gradient: Floats, x: Floats, kernel: Floats, toward_x: Floats, toward_kernel: Floats, toward_bias: Floats
) -> None:
    """Gradients, all added to."""
    for b in range(gradient.shape[0]):
        for t in range(gradient.shape[1]):
            for c in range(gradient.shape[2]):
                toward_bias[c] += gradient[b, t, c]
            for k in range(kernel.shape[0]):
                for c in range(gradient.shape[2]):
                    toward_x[b, t + k, c] += kernel[k, c] * gradient[b, t, c]
                    toward_kernel[k, c] += x[b, t + k, c] * gradient[b, t, c]
