"""Compiled loops of the network's training path on the CPU, channels last; float32 or bfloat16 in and out (`words`).

Each does in one pass what torch does in five to ten: training is bound by memory here, not by arithmetic.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from streamasr.words import Words, load, sigmoid, store

Floats = NDArray[np.float32]
Whole = NDArray[np.int64]


@njit(cache=True, fastmath=True, nogil=True, error_model="numpy")
def rectified_norm(
    x: Words, lengths: Whole, bands: int, left: int, weight: Floats, bias: Floats, epsilon: float, y: Words
) -> None:
    """y = relu(norm(x)), zero beyond each row's length, with zeros around it in time.

    Args:
        x: (B bands, T, C), y: (B bands, left + T + right, C).
        lengths: (B,) frames.
    """
    rows, frames, channels = x.shape
    scratch = np.empty(channels, np.float32)
    share, epsilon = np.float32(1) / np.float32(channels), np.float32(epsilon)
    for row in range(rows):
        count = min(frames, lengths[row // bands])
        y[row, :left] = 0
        y[row, left + count :] = 0
        for t in range(count):
            total = square = np.float32(0)
            for c in range(channels):
                scratch[c] = load(x[row, t, c])
                total += scratch[c]
            mean = total * share
            for c in range(channels):
                square += (scratch[c] - mean) ** 2
            scale = np.float32(1) / np.sqrt(square * share + epsilon)
            into = y[row, left + t]
            for c in range(channels):
                number = (scratch[c] - mean) * scale * weight[c] + bias[c]
                store(into, c, max(number, np.float32(0)))


@njit(cache=True, fastmath=True, nogil=True, error_model="numpy")
def rectified_norm_back(
    gradient: Words,
    x: Words,
    lengths: Whole,
    bands: int,
    left: int,
    weight: Floats,
    bias: Floats,
    epsilon: float,
    toward_x: Words,
    toward_weight: Floats,
    toward_bias: Floats,
) -> None:
    """Gradients: `toward_x` is written, `toward_weight` and `toward_bias` (C,) are added to."""
    rows, frames, channels = x.shape
    unit, weighted = np.empty(channels, np.float32), np.empty(channels, np.float32)
    share, epsilon = np.float32(1) / np.float32(channels), np.float32(epsilon)
    for row in range(rows):
        count = min(frames, lengths[row // bands])
        toward_x[row, count:] = 0
        for t in range(count):
            total = square = np.float32(0)
            for c in range(channels):
                unit[c] = load(x[row, t, c])
                total += unit[c]
            mean = total * share
            for c in range(channels):
                unit[c] -= mean
                square += unit[c] * unit[c]
            scale = np.float32(1) / np.sqrt(square * share + epsilon)
            plain = along = np.float32(0)
            for c in range(channels):
                unit[c] *= scale
                g = load(gradient[row, left + t, c])
                g = g if unit[c] * weight[c] + bias[c] > 0 else np.float32(0)
                toward_weight[c] += g * unit[c]
                toward_bias[c] += g
                weighted[c] = g * weight[c]
                plain += weighted[c]
                along += weighted[c] * unit[c]
            plain *= share
            along *= share
            into = toward_x[row, t]
            for c in range(channels):
                store(into, c, scale * (weighted[c] - plain - unit[c] * along))


@njit(cache=True, fastmath=True, nogil=True, error_model="numpy")
def _normalise(x: Floats, count: int, epsilon: float, unit: Floats, scales: Floats, left: int) -> None:
    """Rows of x (T, C) with mean 0 and deviation 1, from row `left` of `unit` on; `scales` (T,)."""
    channels = x.shape[1]
    share = np.float32(1) / np.float32(channels)
    for t in range(count):
        total = square = np.float32(0)
        for c in range(channels):
            total += x[t, c]
        mean = total * share
        for c in range(channels):
            square += (x[t, c] - mean) ** 2
        scale = np.float32(1) / np.sqrt(square * share + np.float32(epsilon))
        scales[t] = scale
        for c in range(channels):
            unit[left + t, c] = (x[t, c] - mean) * scale


@njit(cache=True, fastmath=True, nogil=True, error_model="numpy")
def norm_and_context(
    x: Floats,
    lengths: Whole,
    right: int,
    weight: Floats,
    bias: Floats,
    epsilon: float,
    kernel: Floats,
    offset: Floats,
    y: Words,
) -> None:
    """y (B, T, C) = depthwise convolution over time of norm(x (B, T, C)), zero outside of each row's length.

    Args:
        kernel: (K, C); `right` of its taps look ahead. `offset`: (C,), its bias.
    """
    batch, frames, channels = x.shape
    taps = kernel.shape[0]
    left = taps - 1 - right
    normed = np.zeros((frames + taps - 1, channels), np.float32)
    scales, total = np.empty(frames, np.float32), np.empty(channels, np.float32)
    for b in range(batch):
        count = min(frames, lengths[b])
        _normalise(x[b], count, epsilon, normed, scales, left)
        for t in range(left, left + count):
            for c in range(channels):
                normed[t, c] = normed[t, c] * weight[c] + bias[c]
        normed[left + count :] = 0
        for t in range(frames):
            into = y[b, t]
            for c in range(channels):
                total[c] = offset[c]
            for k in range(taps):
                for c in range(channels):
                    total[c] += kernel[k, c] * normed[t + k, c]
            for c in range(channels):
                store(into, c, total[c])


@njit(cache=True, fastmath=True, nogil=True, error_model="numpy")
def norm_and_context_back(
    gradient: Words,
    x: Floats,
    lengths: Whole,
    right: int,
    weight: Floats,
    bias: Floats,
    epsilon: float,
    kernel: Floats,
    toward_x: Floats,
    toward_weight: Floats,
    toward_bias: Floats,
    toward_kernel: Floats,
    toward_offset: Floats,
) -> None:
    """Gradients: `toward_x` is written, the others are added to."""
    batch, frames, channels = x.shape
    taps = kernel.shape[0]
    left = taps - 1 - right
    share = np.float32(1) / np.float32(channels)
    unit = np.zeros((frames + taps - 1, channels), np.float32)
    toward = np.zeros((frames + taps - 1, channels), np.float32)
    scales, g = np.empty(frames, np.float32), np.empty(channels, np.float32)
    for b in range(batch):
        count = min(frames, lengths[b])
        _normalise(x[b], count, epsilon, unit, scales, left)
        toward[:] = 0
        for t in range(frames):
            for c in range(channels):
                g[c] = load(gradient[b, t, c])
                toward_offset[c] += g[c]
            for k in range(taps):
                if left <= t + k < left + count:
                    for c in range(channels):
                        toward[t + k, c] += kernel[k, c] * g[c]
                        toward_kernel[k, c] += (unit[t + k, c] * weight[c] + bias[c]) * g[c]
        toward_x[b, count:] = 0
        for t in range(count):
            plain = along = np.float32(0)
            at = left + t
            for c in range(channels):
                toward_weight[c] += toward[at, c] * unit[at, c]
                toward_bias[c] += toward[at, c]
                weighted = toward[at, c] * weight[c]
                plain += weighted
                along += weighted * unit[at, c]
            plain *= share
            along *= share
            for c in range(channels):
                toward_x[b, t, c] = scales[t] * (toward[at, c] * weight[c] - plain - unit[at, c] * along)


# The loops below are short and many: a loop over more than four arrays is not compiled to vector code, since the
# compiler would have to check at run time that no two of them overlap.


@njit(cache=True, fastmath=True, nogil=True, error_model="numpy")
def _sigmoids(words: Words, y: Floats) -> None:
    for c in range(len(y)):
        y[c] = sigmoid(load(words[c]))


@njit(cache=True, fastmath=True, nogil=True, error_model="numpy")
def _blend(keep: Floats, new: Words, held: Floats) -> None:
    for c in range(len(held)):
        z = load(new[c])
        held[c] = z + keep[c] * (held[c] - z)


@njit(cache=True, fastmath=True, nogil=True, error_model="numpy")
def _product(x: Floats, words: Words, y: Floats) -> None:
    for c in range(len(y)):
        y[c] = x[c] * load(words[c])


@njit(cache=True, fastmath=True, nogil=True, error_model="numpy")
def _store_product(x: Floats, y: Floats, into: Words) -> None:
    for c in range(len(x)):
        store(into, c, x[c] * y[c])


@njit(cache=True, fastmath=True, nogil=True, error_model="numpy")
def gated_memory(gates: Words, memory: Floats, y: Words) -> None:
    """The gated recurrence from `gates` (B, T, 3, C) to `memory` and y = memory * silu(o), (B, T, C)."""
    batch, frames, channels = memory.shape
    held, keep, opened = np.empty(channels, np.float32), np.empty(channels, np.float32), np.empty(channels, np.float32)
    for b in range(batch):
        held[:] = 0
        for t in range(frames):
            _sigmoids(gates[b, t, 1], keep)
            _blend(keep, gates[b, t, 0], held)
            memory[b, t] = held
            _sigmoids(gates[b, t, 2], opened)
            _product(opened, gates[b, t, 2], opened)
            _store_product(held, opened, y[b, t])


@njit(cache=True, fastmath=True, nogil=True, error_model="numpy")
def _output_gate_back(g: Floats, opened: Floats, words: Words, through: Floats) -> None:
    """From the gradient of y to that of the memory, added to `through`, and to d silu(o) * g in `opened`."""
    for c in range(len(g)):
        o, gate = load(words[c]), opened[c]
        through[c] += g[c] * o * gate
        opened[c] = g[c] * gate * (np.float32(1) + o * (np.float32(1) - gate))


@njit(cache=True, fastmath=True, nogil=True, error_model="numpy")
def _forget_gate_back(through: Floats, keep: Floats, change: Floats, into: Words) -> None:
    for c in range(len(keep)):
        store(into, c, through[c] * change[c] * keep[c] * (np.float32(1) - keep[c]))


@njit(cache=True, fastmath=True, nogil=True, error_model="numpy")
def _input_back(through: Floats, keep: Floats, into: Words) -> None:
    for c in range(len(keep)):
        store(into, c, through[c] * (np.float32(1) - keep[c]))
        through[c] *= keep[c]


@njit(cache=True, fastmath=True, nogil=True, error_model="numpy")
def gated_memory_back(gradient: Words, gates: Words, memory: Floats, toward: Words) -> None:
    """The gradient of the gates, `toward` (B, T, 3, C)."""
    batch, frames, channels = memory.shape
    through, change, keep = (
        np.empty(channels, np.float32),
        np.empty(channels, np.float32),
        np.empty(channels, np.float32),
    )
    opened, g = np.empty(channels, np.float32), np.empty(channels, np.float32)
    for b in range(batch):
        through[:] = 0
        for t in range(frames - 1, -1, -1):
            for c in range(channels):
                g[c] = load(gradient[b, t, c])
            _sigmoids(gates[b, t, 2], opened)
            _output_gate_back(g, opened, gates[b, t, 2], through)
            _store_product(opened, memory[b, t], toward[b, t, 2])
            _sigmoids(gates[b, t, 1], keep)
            for c in range(channels):
                change[c] = -load(gates[b, t, 0, c])
            if t:
                change += memory[b, t - 1]
            _forget_gate_back(through, keep, change, toward[b, t, 1])
            _input_back(through, keep, toward[b, t, 0])
