"""Compiled products of few rows with a large matrix, and the gated recurrence of a chunk.

A product of a handful of rows is bound by reading the matrix, not by arithmetic: so it is read once for a few rows, in
the order in which it lies in memory, and as bytes where it was rounded to bytes. What tiles there are, and when they
work in whole numbers, is told in `tiles_cpu`; rows are made whole by `whole_cpu`. The loops over columns become the
vector instructions that the processor has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamasr.activation_cpu import sigmoid
from streamasr.compiled import inner, loops
from streamasr.tiles_cpu import (
    FOURS_AT_ONCE,
    LANES,
    TOGETHER,
    four_panels,
    has_fours,
    has_pairs,
    has_wide_vectors,
    line,
    pair_panels,
    panels,
    tile,
)
from streamasr.whole_cpu import rounded

Floats = NDArray[np.float32]
ROWS = 6  # of a tile: 12 sums of 8 numbers, and what they are made of, are 15 of a processor's 16 vectors
WIDE = 2 if has_wide_vectors() else 1  # panels of a tile of so many rows
BLOCK = 64  # rows that are multiplied with the whole matrix before the next ones: they stay in a cache
WHOLE_ROWS = 8 if has_wide_vectors() else 4  # of a tile of whole numbers
# of these: how they are multiplied, their type, what their number must be a multiple of, and what is added to them
BY, NUMBERS, INPUTS, SHIFT = ("fours", np.uint8, FOURS_AT_ONCE, 128) if has_fours() else ("pairs", np.int16, 2, 0)
KINDS = ("float32[:,:,::1]", "int8[:,:,:,::1]" if has_pairs() else "int8[:,:,::1]")  # of matrices in panels


def laid_out(matrix: NDArray[Any]) -> NDArray[Any]:
    """A matrix (K, N) of float32 or int8 in the panels that `product` takes on this processor: one of `KINDS`."""
    if matrix.dtype != np.int8 or not has_pairs():
        return panels(matrix)
    return four_panels(matrix, SHIFT) if has_fours() else pair_panels(matrix)


def writer(lanes: int) -> Callable[..., None]:
    """A function of compiled loops: the sums of a tile, scaled and moved, to their place in y.

    That is rows from m on, `wide` panels from the column `first` on; `sizes` (M,) of the rows, or empty for 1.
    """
    whole, half = line(lanes), line(lanes // 2)

    @inner
    def write(
        sums: NDArray[Any],
        rows: int,
        wide: int,
        m: int,
        first: int,
        sizes: Floats,
        scale: Floats,
        bias: Floats,
        y: Floats,
    ) -> None:
        for r in range(rows):
            size = sizes[m + r] if len(sizes) else np.float32(1)
            for panel in range(wide):
                begin, at = first + panel * lanes, (r * wide + panel) * lanes
                if begin + lanes <= y.shape[1]:
                    whole(sums, at, size, scale, bias, begin, y, m + r)
                elif begin + lanes // 2 == y.shape[1]:
                    half(sums, at, size, scale, bias, begin, y, m + r)
                else:
                    for c in range(y.shape[1] - begin):
                        y[m + r, begin + c] = np.float32(sums[at + c]) * size * scale[begin + c] + bias[begin + c]

    return write


def band(rows: int, wide: int, lanes: int = LANES) -> Callable[..., None]:
    """A function of compiled loops: the product of the rows from `begin` to before `end`, `rows` at a time.

    Row m is x[m * stride : m * stride + K] of x (S,), and `wide` panels are read at once, as in `tiles_cpu.tile`.
    """
    multiply, write = tile(rows, wide, lanes), writer(lanes)

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
                multiply(x, m * stride, stride, 0, weight, n, sums)
                write(sums, rows, wide, m, n * lanes, scale[:0], scale, bias, y)

    return band_of_rows


def whole_band(rows: int, wide: int) -> Callable[..., None]:
    """As `band`, for products of whole numbers: x (M, K) is rounded already, by `sizes` (M,)."""
    multiply, write = tile(rows, wide, by=BY), writer(LANES)

    @inner
    def band_of_rows(
        x: NDArray[Any],
        sizes: Floats,
        begin: int,
        end: int,
        weight: NDArray[np.int8],
        scale: Floats,
        bias: Floats,
        y: Floats,
        sums: NDArray[np.int32],
    ) -> None:
        stride = x.shape[1]
        flat = x.reshape(x.size)
        for n in range(0, -(-y.shape[1] // LANES), wide):
            for m in range(begin, end, rows):
                multiply(flat, m * stride, stride, 0, weight, n, sums)
                write(sums, rows, wide, m, n * LANES, sizes, scale, bias, y)

    return band_of_rows


_six, _four, _two, _one = band(ROWS, WIDE), band(4, WIDE), band(2, 2), band(1, TOGETHER)
_whole_many, _whole_four = whole_band(WHOLE_ROWS, WIDE), whole_band(4, WIDE)
_whole_two, _whole_one = whole_band(2, 2), whole_band(1, TOGETHER)


@loops([f"void(float32[:,::1], {kind}, float32[::1], float32[::1], float32[:,::1])" for kind in KINDS])
def product(x: Floats, weight: NDArray[Any], scale: Floats, bias: Floats, y: Floats) -> None:
    """y = x @ weight * scale + bias, for x (M, K), weight (K, N) `laid_out`, scale and bias (N,)."""
    rows, depth = x.shape
    if weight.ndim == 4:
        most = min(rows, BLOCK)
        whole, sizes = np.empty((most, -(-depth // INPUTS) * INPUTS), NUMBERS), np.empty(most, np.float32)
        results = np.empty(WHOLE_ROWS * TOGETHER * LANES, np.int32)
        for begin in range(0, rows, BLOCK):
            end = min(rows - begin, BLOCK)
            z = y[begin : begin + end]
            rounded(x[begin : begin + end], whole[:end], sizes, SHIFT)
            m = end - end % WHOLE_ROWS
            _whole_many(whole, sizes, 0, m, weight, scale, bias, z, results)
            if end - m >= 4:
                _whole_four(whole, sizes, m, m + 4, weight, scale, bias, z, results)
                m += 4
            if end - m >= 2:
                _whole_two(whole, sizes, m, m + 2, weight, scale, bias, z, results)
                m += 2
            if end - m:
                _whole_one(whole, sizes, m, end, weight, scale, bias, z, results)
    else:
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


# A loop over more than four arrays is not compiled to vector code.


@inner
def _blend(keep: Floats, new: Floats, memory: Floats) -> None:
    """memory = keep * memory + (1 - keep) * new, each (C,)."""
    for c in range(len(memory)):
        memory[c] = new[c] + keep[c] * (memory[c] - new[c])


@inner
def _let_out(memory: Floats, linear: Floats, opened: Floats, y: Floats) -> None:
    """y = memory * linear * opened, each (C,)."""
    for c in range(len(y)):
        y[c] = memory[c] * linear[c] * opened[c]


@inner
def _pass(linear: Floats, opened: Floats, memory: Floats, y: Floats) -> None:
    """One frame of `gate`: linear (3 C,), opened (2 C,), memory and y (C,)."""
    channels = len(memory)
    _blend(opened[:channels], linear[:channels], memory)
    _let_out(memory, linear[2 * channels :], opened[channels:], y)


@loops("void(float32[:,:,::1], float32[:,:,::1], float32[:,::1], float32[:,:,::1])")
def gate(linear: Floats, opened: Floats, memory: Floats, y: Floats) -> None:
    """The gated recurrence of `recurrent.GatedRnn` over a chunk.

    Args:
        linear: (T, B, 3 C) z, f and o before their gates. `opened`: (T, B, 2 C) the sigmoids of f and o.
        memory: (B, C) before the chunk; after it when this returns. `y`: (T, B, C), written: what goes to the output.
    """
    for t in range(y.shape[0]):
        for b in range(y.shape[1]):
            _pass(linear[t, b], opened[t, b], memory[b], y[t, b])


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
        f" float32, float32[:,::1], float32[::1], {kind}, float32[::1], float32[::1], {kind}, float32[::1],"
        " float32[::1], float32[:,:,::1], float32[:,:,::1])"
        for kind in KINDS
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
        gates, out: matrices (C, 3 C) and (C, C) `laid_out`, with their scales and biases, as in `product`.
        y: (T', B, C), written.
    """
    count, batch, channels = y.shape
    heard = np.empty((count, batch, channels), np.float32)
    norm_and_context(x, held, weight, bias, epsilon, kernel, offset, normed, heard)
    rows = count * batch
    frames, found, most = heard.reshape(rows, channels), y.reshape(rows, channels), min(rows, BLOCK)
    linear, opened = np.empty((most, 3 * channels), np.float32), np.empty(2 * channels, np.float32)
    for begin in range(0, rows, BLOCK):
        part = frames[begin : begin + BLOCK]
        product(part, gates, gates_scale, gates_bias, linear[: len(part)])
        for r in range(len(part)):
            sigmoid(linear[r, channels:], np.float32(1), opened)
            _pass(linear[r], opened, memory[(begin + r) % batch], part[r])
        product(part, out, out_scale, out_bias, found[begin : begin + BLOCK])
    waiting = skipped.shape[0]
    for t in range(count):
        for b in range(batch):
            for c in range(channels):
                y[t, b, c] += skipped[t, b, c] if t < waiting else x[t - waiting, b, c]
