"""Two-dimensional convolutions of a stream, compiled: normalise, rectify, lay out, multiply."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamasr.compiled import loops
from streamasr.dense_cpu import band
from streamasr.tiles_cpu import has_wide_vectors

Floats = NDArray[np.float32]
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


_several, _single = band(4, WIDE, LANES), band(1, WIDE, LANES)


@loops(
    "void(float32[:,:,:,::1], float32[:,:,:,::1], float32[::1], float32[::1], float32, int64, float32[:,:,::1],"
    " float32[::1], float32[:,:,:,::1], float32[:,:,:,::1])"
)
def convolution(
    x: Floats,
    held: Floats,
    scale: Floats,
    shift: Floats,
    epsilon: float,
    stride: int,
    weight: Floats,
    bias: Floats,
    frames: Floats,
    y: Floats,
) -> None:
    """The next frames through one convolution, and what comes before it.

    Args:
        x: (B, T, F, C). `held`: (B, L, F, C) frames before it. `scale`, `shift`: (C,) of a normalisation, or empty.
        stride: over frames and over bands.
        weight: (9 C, C'), rows by band, frame and input, in panels of `LANES`. `bias`: (C',).
        frames: (B, L + T + ended, F, C), written but for the last `ended` ones: what the convolution hears.
        y: (B, T', F', C'), written.
    """
    frames_of(x, held, scale, shift, epsilon, frames)
    batch, outputs, bands, channels = y.shape
    line = np.zeros((frames.shape[2] + 2, 3, frames.shape[3]), np.float32)
    flat, apart = line.reshape(line.size), stride * 3 * frames.shape[3]
    one, sums = np.ones(channels, np.float32), np.empty(4 * WIDE * LANES, np.float32)
    whole = bands - bands % 4
    for b in range(batch):
        for t in range(outputs):
            line_of(frames[b], t * stride, line)
            _several(flat, apart, 0, whole, weight, one, bias, y[b, t], sums)
            _single(flat, apart, whole, bands, weight, one, bias, y[b, t], sums)
