"""Two-dimensional convolutions of a stream, compiled: normalise, rectify, multiply.

What a 3 x 3 convolution hears at one band are three pieces of neighbouring numbers, of three bands each: so tiles read
them where they are, and nothing is copied into patches.

What it hears after a normalisation and rectification lies between 0 and a bound that the normalisation sets. It may
therefore be told in whole numbers of 8 bits of one unit, whatever chunk it comes in, where the processor multiplies
those faster (`tiles_cpu`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamasr.compiled import inner, loops
from streamasr.dense_cpu import BY, NUMBERS, WHOLE_ROWS, writer
from streamasr.norm_cpu import rectified
from streamasr.tiles_cpu import four_panels, has_fours, has_pairs, has_wide_vectors, pair_panels, panels, tile

Floats = NDArray[np.float32]
Whole = NDArray[Any]  # as `NUMBERS`
KINDS = ("float32[:,:,::1]", "int8[:,:,:,::1]")[: 2 if has_pairs() else 1]  # of matrices
BLOCK, HELD = 16, 2  # frames that a residual block takes at once, so that they stay in a cache; those held before them
LANES, WIDE = (16, 2) if has_wide_vectors() else (8, 3)  # the usual 24 channels fill three panels of 8
TAPS = 3
# channels that are heard in whole numbers are a multiple of this; 0: none are
MULTIPLE = (4 if has_fours() else 2) if has_pairs() else 0


def laid_out(matrix: NDArray[Any]) -> NDArray[Any]:
    """A matrix (9 C, C') of float32 or int8, rows by frame, band and input, as `convolution` takes it."""
    if matrix.dtype != np.int8:
        return panels(matrix, LANES, WIDE)
    return four_panels(matrix, together=WIDE, pieces=TAPS) if has_fours() else pair_panels(matrix, LANES, WIDE)


@loops("void(float32[:,:,:,::1], float32[:,:,:,::1], float32[::1], float32[::1], float32, float32[:,:,:,::1])")
def frames_of(x: Floats, held: Floats, weight: Floats, bias: Floats, epsilon: float, frames: Floats) -> None:
    """`held` (B, L, F, C), then `x` (B, T, F, C), into `frames` (B, L + T or more, F, C).

    Where there is a `weight` (C,), layer normalisation and rectification come before that.
    """
    batch, count, bands, channels = x.shape
    before = held.shape[1]
    for b in range(batch):
        frames[b, :before] = held[b]
        new = frames[b, before : before + count]
        if len(weight) == 0:
            new[:] = x[b]
        else:
            rows = count * bands
            rectified(x[b].reshape(rows, channels), weight, bias, epsilon, new.reshape(rows, channels))


@inner
def _rounded(x: Floats, inverse: float, y: Whole) -> None:
    """y = x * inverse, to the nearest whole number, both (N,), for x that is not negative."""
    for n in range(len(x)):
        y[n] = np.int32(x[n] * inverse + np.float32(0.5))


def band(rows: int, by: str) -> Callable[..., None]:
    """A function of compiled loops: the outputs y (F', C') of one frame from the band `begin` to before `end`.

    Args of it:
        lines: (S,) frames with a band of zeros on either side, the first of three at `at`.
        step: numbers from band to band. `apart`: from frame to frame.
        weight, scale, bias: of `convolution`. `sums`: for a tile.
    """
    multiply, write = tile(rows, WIDE, LANES, by=by, pieces=TAPS), writer(LANES)

    @inner
    def bands_of_frame(
        lines: NDArray[Any],
        at: int,
        step: int,
        apart: int,
        begin: int,
        end: int,
        weight: NDArray[Any],
        scale: Floats,
        bias: Floats,
        y: Floats,
        sums: NDArray[Any],
    ) -> None:
        for n in range(0, -(-y.shape[1] // LANES), WIDE):
            for m in range(begin, end, rows):
                multiply(lines, at + m * step, step, apart, weight, n, sums)
                write(sums, rows, WIDE, m, n * LANES, scale[:0], scale, bias, y)

    return bands_of_frame


_several, _single = band(4, "floats"), band(1, "floats")
_whole_many, _whole_several, _whole_single = (band(rows, BY) for rows in (WHOLE_ROWS, 4, 1))


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
        unit: of the whole numbers that it hears, where `weight` is of int8.
        weight: (9 C, C') `laid_out`. `size`, `bias`: (C',) of its columns.
        frames: (B, L + T + ended, F, C), written but for the last `ended` ones: what the convolution hears.
        y: (B, T', F', C'), written.
    """
    frames_of(x, held, scale, shift, epsilon, frames)
    batch, outputs, bands = y.shape[:3]
    count, channels = frames.shape[1], frames.shape[3]
    step, apart, several = stride * channels, (frames.shape[2] + 2) * channels, bands - bands % 4
    numbers = apart - 2 * channels
    if weight.ndim == 4:
        whole, results = np.zeros(count * apart, NUMBERS), np.empty(WHOLE_ROWS * WIDE * LANES, np.int32)
        inverse, many = np.float32(1) / np.float32(unit), bands - bands % WHOLE_ROWS
        for b in range(batch):
            for t in range(count):
                begin = t * apart + channels
                _rounded(frames[b, t].reshape(numbers), inverse, whole[begin : begin + numbers])
            for t in range(outputs):
                at, z = t * stride * apart, y[b, t]
                _whole_many(whole, at, step, apart, 0, many, weight, size, bias, z, results)
                _whole_several(whole, at, step, apart, many, several, weight, size, bias, z, results)
                _whole_single(whole, at, step, apart, several, bands, weight, size, bias, z, results)
    else:
        lines, sums = np.zeros(count * apart, np.float32), np.empty(4 * WIDE * LANES, np.float32)
        for b in range(batch):
            for t in range(count):
                begin = t * apart + channels
                lines[begin : begin + numbers] = frames[b, t].reshape(numbers)
            for t in range(outputs):
                at, z = t * stride * apart, y[b, t]
                _several(lines, at, step, apart, 0, several, weight, size, bias, z, sums)
                _single(lines, at, step, apart, several, bands, weight, size, bias, z, sums)


@inner
def _add(x: Floats, y: Floats) -> None:
    """y += x, both (N,)."""
    for n in range(len(y)):
        y[n] += x[n]


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
                _add(past.reshape(bands * channels), y[b, t].reshape(bands * channels))
            done += given
            known, known_between = known + new - ready, known_between + ready - given
            for t in range(max(known, 0)):
                heard[t] = heard[ready + t]
            for t in range(max(known_between, 0)):
                between[t] = between[given + t]
        if not ended:
            after[b], after_between[b] = heard[: after.shape[1]], between[: after_between.shape[1]]
