"""Two-dimensional convolutions of a stream, compiled: normalise, rectify, lay out, multiply.

What a convolution hears after that lies between 0 and a bound that the normalisation sets. Where products in pairs are
fast (`tiles_cpu`) it may therefore be told in whole numbers of 12 bits of one unit, whatever chunk it comes in.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamasr.compiled import inner, loops
from streamasr.dense_cpu import WHOLE_ROWS, band, writer
from streamasr.tiles_cpu import has_pairs, has_wide_vectors, tile

Floats = NDArray[np.float32]
Shorts = NDArray[np.int16]
KINDS = ("float32[:,:,::1]", "int16[:,:,:,::1]")[: 2 if has_pairs() else 1]  # of matrices
BLOCK, HELD = 16, 2  # frames that a residual block takes at once, so that they stay in a cache; those held before them
LANES, WIDE = (16, 2) if has_wide_vectors() else (8, 3)  # the usual 24 channels fill three panels of 8


@loops("void(float32[:,:,:,::1], float32[:,:,:,::1], float32[::1], float32[::1], float32, float32[:,:,:,::1])")
def frames_of(x: Floats, held: Floats, weight: Floats, bias: Floats, epsilon: float, frames: Floats) -> None:
    """`held` (B, L, F, C), then `x` (B, T, F, C), into `frames` (B, L + T or more, F, C).

    Where there is a `weight` (C,), layer normalisation and rectification come before that.
    """
    batch, count, bands, channels = x.shape
    before = held.shape[1]
    share = np.float32(1) / np.float32(channels)
    for b in range(batch):
        frames[b, :before] = held[b]
        if len(weight) == 0:
            frames[b, before : before + count] = x[b]
            continue
        for t in range(count):
            for f in range(bands):
                source, target = x[b, t, f], frames[b, before + t, f]
                total = square = np.float32(0)
                for c in range(channels):
                    total += source[c]
                mean = total * share
                for c in range(channels):
                    square += (source[c] - mean) ** 2
                scale = np.float32(1) / np.sqrt(square * share + epsilon)
                for c in range(channels):
                    target[c] = max((source[c] - mean) * scale * weight[c] + bias[c], np.float32(0))


@loops("void(float32[:,:,::1], int64, float32[:,:,::1])")
def line_of(frames: Floats, begin: int, line: Floats) -> None:
    """`line` (F + 2, 3, C) from three frames of `frames` (T, F, C), from `begin` on; its outer bands stay as they are.

    What a 3 x 3 convolution multiplies at one band are then the neighbouring numbers of three bands.
    """
    _, bands, channels = frames.shape
    for k in range(3):
        for f in range(bands):
            source, target = frames[begin + k, f], line[1 + f, k]
            for c in range(channels):
                target[c] = source[c]


@loops("void(float32[:,:,::1], int64, float32, int16[:,:,::1])")
def short_line_of(frames: Floats, begin: int, unit: float, line: Shorts) -> None:
    """As `line_of`, of frames that are not negative, in whole numbers of the size `unit`."""
    _, bands, channels = frames.shape
    inverse = np.float32(1) / unit
    for k in range(3):
        for f in range(bands):
            source, target = frames[begin + k, f], line[1 + f, k]
            for c in range(channels):
                target[c] = np.int16(source[c] * inverse + np.float32(0.5))


_several, _single = band(4, WIDE, LANES), band(1, WIDE, LANES)
_many_by_pairs, _four_by_pairs, _one_by_pairs = (tile(rows, WIDE, LANES, by="pairs") for rows in (WHOLE_ROWS, 4, 1))
_write = writer(LANES)


@inner
def _by_pairs(line: Shorts, apart: int, weight: Shorts, scale: Floats, bias: Floats, y: Floats, sums: Any) -> None:
    """The outputs y (F', C') of one frame, from the numbers of its `line` (S,), `apart` from band to band."""
    bands, channels = y.shape
    many, whole = bands - bands % WHOLE_ROWS, bands - bands % 4
    for n in range(0, -(-channels // LANES), WIDE):
        for m in range(0, many, WHOLE_ROWS):
            _many_by_pairs(line, m * apart, apart, weight, n, sums)
            _write(sums, WHOLE_ROWS, WIDE, m, n * LANES, scale[:0], scale, bias, y)
        for m in range(many, whole, 4):
            _four_by_pairs(line, m * apart, apart, weight, n, sums)
            _write(sums, 4, WIDE, m, n * LANES, scale[:0], scale, bias, y)
        for m in range(whole, bands):
            _one_by_pairs(line, m * apart, apart, weight, n, sums)
            _write(sums, 1, WIDE, m, n * LANES, scale[:0], scale, bias, y)


@loops(
    [
        "void(float32[:,:,:,::1], float32[:,:,:,::1], float32[::1], float32[::1], float32, int64, float32,"
        f" {kind}, float32[::1], float32[::1], float32[:,:,:,::1], float32[:,:,:,::1])"
        for kind in KINDS
    ]
)
def convolution(
    x: Floats,
    held: Floats,
    scale: Floats,
    shift: Floats,
    epsilon: float,
    stride: int,
    unit: float,
    weight: NDArray[Any],
    size: Floats,
    bias: Floats,
    frames: Floats,
    y: Floats,
) -> None:
    """The next frames through one convolution, and what comes before it.

    Args:
        x: (B, T, F, C). `held`: (B, L, F, C) frames before it. `scale`, `shift`: (C,) of a normalisation, or empty.
        stride: over frames and over bands.
        unit: of the whole numbers that it hears, where `weight` is of int16.
        weight: (9 C, C'), rows by band, frame and input, in panels of `LANES`. `size`, `bias`: (C',) of its columns.
        frames: (B, L + T + ended, F, C), written but for the last `ended` ones: what the convolution hears.
        y: (B, T', F', C'), written.
    """
    frames_of(x, held, scale, shift, epsilon, frames)
    batch, outputs, bands = y.shape[:3]
    apart = stride * 3 * frames.shape[3]
    if weight.ndim == 4:
        shorts, whole_sums = (
            np.zeros((frames.shape[2] + 2, 3, frames.shape[3]), np.int16),
            np.empty(WHOLE_ROWS * WIDE * LANES, np.int32),
        )
        flat_shorts = shorts.reshape(shorts.size)
        for b in range(batch):
            for t in range(outputs):
                short_line_of(frames[b], t * stride, unit, shorts)
                _by_pairs(flat_shorts, apart, weight, size, bias, y[b, t], whole_sums)
    else:
        line, sums = (
            np.zeros((frames.shape[2] + 2, 3, frames.shape[3]), np.float32),
            np.empty(4 * WIDE * LANES, np.float32),
        )
        flat = line.reshape(line.size)
        whole = bands - bands % 4
        for b in range(batch):
            for t in range(outputs):
                line_of(frames[b], t * stride, line)
                _several(flat, apart, 0, whole, weight, size, bias, y[b, t], sums)
                _single(flat, apart, whole, bands, weight, size, bias, y[b, t], sums)


@loops(
    [
        "void(float32[:,:,:,::1], float32[:,:,:,::1], float32[:,:,:,::1], float32[:,:,:,::1], int64, float32[:,::1],"
        f" float32[::1], {kind}, {kind}, float32[:,::1], float32[:,:,:,::1], float32[:,:,:,::1], float32[:,:,:,::1])"
        for kind in KINDS
    ]
)
def residual(
    x: Floats,
    held: Floats,
    held_between: Floats,
    skipped: Floats,
    ended: int,
    norms: Floats,
    numbers: Floats,
    first: NDArray[Any],
    second: NDArray[Any],
    columns: Floats,
    after: Floats,
    after_between: Floats,
    y: Floats,
) -> None:
    """The next frames through a residual block: x + convolution(convolution(x)), each as in `convolution`.

    Args:
        x: (B, T, F, C). `held`, `held_between`: (B, L, F, C) what the convolutions heard before.
        skipped: (B, S, F, C) inputs whose outputs are still to come. `ended`: 1 for a frame of zeros after the last.
        norms: (4, C) scale and shift of both normalisations. `numbers`: (4,) their epsilons, units of what is heard.
        first, second: the matrices. `columns`: (4, C) their columns' sizes and biases.
        after, after_between: (B, 2 or fewer, F, C), written: what is held then.
        y: (B, T', F, C), written.
    """
    batch, count, bands, channels = x.shape
    shape = (HELD + BLOCK + 2, bands, channels)
    heard, between, middle = np.empty(shape, np.float32), np.empty(shape, np.float32), np.empty(shape, np.float32)
    waiting = skipped.shape[1]
    for b in range(batch):
        known, known_between, done = held.shape[1], held_between.shape[1], 0
        heard[:known], between[:known_between] = held[b], held_between[b]
        for begin in range(0, max(count, 1), BLOCK):
            new = min(BLOCK, count - begin)
            zeros = ended if begin + new == count else 0
            frames = heard[: known + new + zeros]
            frames[known + new :] = 0
            ready = max(0, len(frames) - HELD)
            convolution(
                x[b][begin : begin + new].reshape(1, new, bands, channels),
                heard[:known].reshape(1, known, bands, channels),
                norms[0],
                norms[1],
                numbers[0],
                1,
                numbers[2],
                first,
                columns[0],
                columns[1],
                frames.reshape(1, len(frames), bands, channels),
                middle[:ready].reshape(1, ready, bands, channels),
            )
            frames_between = between[: known_between + ready + zeros]
            frames_between[known_between + ready :] = 0
            given = max(0, len(frames_between) - HELD)
            convolution(
                middle[:ready].reshape(1, ready, bands, channels),
                between[:known_between].reshape(1, known_between, bands, channels),
                norms[2],
                norms[3],
                numbers[1],
                1,
                numbers[3],
                second,
                columns[2],
                columns[3],
                frames_between.reshape(1, len(frames_between), bands, channels),
                y[b][done : done + given].reshape(1, given, bands, channels),
            )
            for t in range(done, done + given):
                past = skipped[b, t] if t < waiting else x[b, t - waiting]
                for f in range(bands):
                    for c in range(channels):
                        y[b, t, f, c] += past[f, c]
            done += given
            known, known_between = known + new - ready, known_between + ready - given
            for t in range(max(known, 0)):
                heard[t] = heard[ready + t]
            for t in range(max(known_between, 0)):
                between[t] = between[given + t]
        if not ended:
            after[b], after_between[b] = heard[: after.shape[1]], between[: after_between.shape[1]]
