"""Compiled products of few rows with a large matrix, and the gated recurrence of a chunk.

A product of a handful of rows is bound by reading the matrix, not by arithmetic: so it is read once for four rows, in
the order in which it lies in memory, and as bytes where it was rounded to bytes. Of many rows `digits` and `join` make
a product of bytes alone, which processors with instructions for these do several times as fast as one of floats, and to
as many digits. The loops over columns become the vector instructions that the processor has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamasr.activation_cpu import sigmoid
from streamasr.compiled import inner, loops
from streamasr.tiles_cpu import LANES, TOGETHER, has_wide_vectors, tile

Floats = NDArray[np.float32]
LARGEST = 127 * 16384  # that three digits stand for
ROWS = 6  # of a tile: 12 sums of 8 numbers, and what they are made of, are 15 of a processor's 16 vectors
WIDE = 2 if has_wide_vectors() else 1  # panels of a tile of so many rows


@loops("void(float32[::1], int64, int64, int64, int64, float32[::1], float32[::1], float32[:,::1])")
def write(sums: Floats, rows: int, wide: int, m: int, first: int, scale: Floats, bias: Floats, y: Floats) -> None:
    """The sums of a tile, scaled and moved, to their place in y: rows from m on, `wide` columns from `first` on."""
    for r in range(rows):
        for c in range(min(wide, y.shape[1] - first)):
            y[m + r, first + c] = sums[r * wide + c] * scale[first + c] + bias[first + c]


def band(rows: int, wide: int, lanes: int = LANES) -> Callable[..., None]:
    """A function of compiled loops: the product of the rows from `begin` to before `end`, `rows` at a time.

    Row m is x[m * stride : m * stride + K] of x (S,), and `wide` panels are read at once, as in `tiles_cpu.tile`.
    """
    multiply = tile(rows, wide, lanes)

    @inner
    def band_of_rows(
        x: Floats,
        stride: int,
        begin: int,
        end: int,
        weight: NDArray[Any],
        scale: Floats,
        bias: Floats,
        y: Floats,
        sums: Floats,
    ) -> None:
        for n in range(0, -(-y.shape[1] // lanes), wide):
            for m in range(begin, end, rows):
                multiply(x, m * stride, stride, weight, n, sums)
                write(sums, rows, wide * lanes, m, n * lanes, scale, bias, y)

    return band_of_rows


_six, _four, _two, _one = band(ROWS, WIDE), band(4, WIDE), band(2, 2), band(1, TOGETHER)


@loops(
    [
        f"void(float32[:,::1], {kind}[:,:,::1], float32[::1], float32[::1], float32[:,::1])"
        for kind in ("float32", "int8")
    ]
)
def product(x: Floats, weight: NDArray[Any], scale: Floats, bias: Floats, y: Floats) -> None:
    """y = x @ weight * scale + bias, for x (M, K), weight (K, N) in panels (`tiles_cpu`), scale and bias (N,)."""
    rows, depth = x.shape
    flat, sums = x.reshape(rows * depth), np.empty(ROWS * TOGETHER * LANES, np.float32)
    m = rows - rows % ROWS
    _six(flat, depth, 0, m, weight, scale, bias, y, sums)
    if rows - m >= 4:
        _four(flat, depth, m, m + 4, weight, scale, bias, y, sums)
        m += 4
    if rows - m >= 2:
        _two(flat, depth, m, m + 2, weight, scale, bias, y, sums)
        m += 2
    if rows - m:
        _one(flat, depth, m, rows, weight, scale, bias, y, sums)


@loops("void(float32[:,::1], int8[:,::1], float32[::1])")
def digits(x: Floats, y: NDArray[np.int8], scale: Floats) -> None:
    """Each row of x as three digits and a scale: x is about scale * (16384 high + 128 middle + low), to 21 bits.

    Args:
        x: (M, K). `y`: (3 M, K), written: all high digits, then all middle ones, then all low ones.
        scale: (M,), written.
    """
    rows, depth = x.shape
    lanes, whole = np.empty(LANES, np.float32), np.empty(depth, np.int32)
    for m in range(rows):
        for n in range(LANES):  # a plain maximum would not become vector instructions
            lanes[n] = np.float32(1e-30)
        for k in range(0, depth, LANES):
            for n in range(min(LANES, depth - k)):
                size = abs(x[m, k + n])
                lanes[n] = size if size > lanes[n] else lanes[n]
        largest = lanes.max()
        scale[m] = largest / np.float32(LARGEST)
        inverse = np.float32(LARGEST) / largest
        for k in range(depth):
            whole[k] = np.int32(np.rint(x[m, k] * inverse))
        for k in range(depth):
            high = (whole[k] + np.int32(8192)) >> np.int32(14)
            rest = whole[k] - (high << np.int32(14))
            middle = (rest + np.int32(64)) >> np.int32(7)
            y[m, k] = high
            y[rows + m, k] = middle
            y[2 * rows + m, k] = rest - (middle << np.int32(7))


@loops("void(float32[:,::1], float32[::1], float32[::1], float32[::1], float32[:,::1])")
def join(products: Floats, rows: Floats, columns: Floats, bias: Floats, y: Floats) -> None:
    """From products (3 M, N) of digits with a matrix, the product (M, N) of what they stand for, plus bias (N,).

    `rows` (M,) are the scales of the digits, `columns` (N,) those of the matrix.
    """
    count = y.shape[0]
    for m in range(count):
        for n in range(y.shape[1]):
            whole = (
                np.float32(16384) * products[m, n]
                + np.float32(128) * products[count + m, n]
                + products[2 * count + m, n]
            )
            y[m, n] = whole * rows[m] * columns[n] + bias[n]


@loops("void(float32[:,:,::1], float32[:,:,::1], float32[:,::1], float32[:,:,::1])")
def gate(linear: Floats, opened: Floats, memory: Floats, y: Floats) -> None:
    """The gated recurrence of `recurrent.GatedRnn` over a chunk.

    Args:
        linear: (T, B, 3 C) z, f and o before their gates. `opened`: (T, B, 2 C) the sigmoids of f and o.
        memory: (B, C) before the chunk; after it when this returns. `y`: (T, B, C), written: what goes to the output.
    """
    channels = memory.shape[1]
    for t in range(y.shape[0]):
        for b in range(y.shape[1]):
            for c in range(channels):
                keep = opened[t, b, c]
                new = keep * memory[b, c] + (np.float32(1) - keep) * linear[t, b, c]
                memory[b, c] = new
                y[t, b, c] = new * linear[t, b, 2 * channels + c] * opened[t, b, channels + c]


@loops(
    "void(float32[:,:,::1], float32[:,:,::1], float32[::1], float32[::1], float32, float32[:,::1], float32[::1],"
    " float32[:,:,::1], float32[:,:,::1])"
)
def norm_and_context(
    x: Floats,
    held: Floats,
    weight: Floats,
    bias: Floats,
    epsilon: float,
    kernel: Floats,
    offset: Floats,
    normed: Floats,
    y: Floats,
) -> None:
    """Layer normalisation of each frame, then a depthwise convolution over frames.

    Args:
        x: (T, B, C). `held`: (L, B, C) normalised frames before it. `weight`, `bias`: (C,) of the normalisation.
        kernel: (K, C) and `offset` (C,) of the convolution.
        normed: (L + T, B, C), written: all normalised frames; what stands beyond is heard, too, as it is.
        y: (N, B, C), written, where N frames have their whole context in `normed`.
    """
    before, (frames, batch, channels) = held.shape[0], x.shape
    share = np.float32(1) / np.float32(channels)
    for t in range(before):
        for b in range(batch):
            for c in range(channels):
                normed[t, b, c] = held[t, b, c]
    for t in range(frames):
        for b in range(batch):
            total = square = np.float32(0)
            for c in range(channels):
                total += x[t, b, c]
            mean = total * share
            for c in range(channels):
                square += (x[t, b, c] - mean) ** 2
            scale = np.float32(1) / np.sqrt(square * share + epsilon)
            for c in range(channels):
                normed[before + t, b, c] = (x[t, b, c] - mean) * scale * weight[c] + bias[c]
    for t in range(y.shape[0]):
        for b in range(batch):
            for c in range(channels):
                y[t, b, c] = offset[c]
            for k in range(kernel.shape[0]):
                for c in range(channels):
                    y[t, b, c] += kernel[k, c] * normed[t + k, b, c]


@loops(
    [
        "void(float32[:,:,::1], float32[:,:,::1], float32[:,:,::1], float32[:,::1], float32[::1], float32[::1],"
        f" float32, float32[:,::1], float32[::1], {kind}[:,:,::1], float32[::1], float32[::1], {kind}[:,:,::1],"
        " float32[::1], float32[::1], float32[:,:,::1], float32[:,:,::1])"
        for kind in ("float32", "int8")
    ]
)
def recurrent_block(
    x: Floats,
    held: Floats,
    skipped: Floats,
    memory: Floats,
    weight: Floats,
    bias: Floats,
    epsilon: float,
    kernel: Floats,
    offset: Floats,
    gates: NDArray[Any],
    gates_scale: Floats,
    gates_bias: Floats,
    out: NDArray[Any],
    out_scale: Floats,
    out_bias: Floats,
    normed: Floats,
    y: Floats,
) -> None:
    """A chunk of `blocks.RecurrentBlock`, all its parts.

    Args:
        x, held, weight to offset, normed: as in `norm_and_context`.
        skipped: (S, B, C) inputs whose outputs are still to come. `memory`: as in `gate`.
        gates, out: matrices (C, 3 C) and (C, C) in panels, with their scales and biases, as in `product`.
        y: (T', B, C), written.
    """
    count, batch, channels = y.shape
    heard = np.empty((count, batch, channels), np.float32)
    norm_and_context(x, held, weight, bias, epsilon, kernel, offset, normed, heard)
    rows = count * batch
    linear = np.empty((rows, 3 * channels), np.float32)
    product(heard.reshape(rows, channels), gates, gates_scale, gates_bias, linear)
    opened = np.empty((rows, 2 * channels), np.float32)
    for r in range(rows):
        sigmoid(linear[r, channels:], np.float32(1), opened[r])
    gate(linear.reshape(count, batch, 3 * channels), opened.reshape(count, batch, 2 * channels), memory, heard)
    product(heard.reshape(rows, channels), out, out_scale, out_bias, y.reshape(rows, channels))
    waiting = skipped.shape[0]
    for t in range(count):
        for b in range(batch):
            for c in range(channels):
                y[t, b, c] += skipped[t, b, c] if t < waiting else x[t - waiting, b, c]
