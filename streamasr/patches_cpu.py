"""Two-dimensional convolutions of a stream, compiled: normalise, rectify, lay patches out as rows, multiply."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamasr.compiled import loops
from streamasr.dense_cpu import product

Floats = NDArray[np.float32]


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


@loops("void(float32[:,:,:,::1], int64, int64, int64, float32[:,::1])")
def patches(frames: Floats, stride: int, outputs: int, first: int, rows: Floats) -> None:
    """What a 3 x 3 convolution multiplies: `rows` (N F', 9 C), written, a row for each output frame and band.

    Args:
        frames: (B, T, F, C). `stride`: over frames and over bands. `outputs`: output frames of each of the batch.
        first: the output frame to begin with, those of the whole batch counted through.
    """
    _, count, bands, channels = frames.shape
    narrowed, wide = (bands - 1) // stride + 1, 3 * channels
    flat = frames.reshape(frames.shape[0], count, bands * channels)
    for n in range(len(rows) // narrowed):
        b, t = (first + n) // outputs, (first + n) % outputs
        for f in range(narrowed):
            begin = (f * stride - 1) * channels
            cut = max(0, -begin)  # beyond the outer bands there are zeros
            length = min(wide, bands * channels - begin) - cut
            for k in range(3):
                row = rows[n * narrowed + f, k * wide : (k + 1) * wide]
                source = flat[b, t * stride + k, begin + cut : begin + cut + length]
                if length < wide:
                    row[:] = np.float32(0)
                target = row[cut : cut + length]
                for i in range(length):
                    target[i] = source[i]


@loops(
    "void(float32[:,:,:,::1], float32[:,:,:,::1], float32[::1], float32[::1], float32, int64, float32[:,:,::1],"
    " float32[::1], int64, float32[:,:,:,::1], float32[:,:,:,::1])"
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
    tile: int,
    frames: Floats,
    y: Floats,
) -> None:
    """The next frames through one convolution, and what comes before it.

    Args:
        x: (B, T, F, C). `held`: (B, L, F, C) frames before it. `scale`, `shift`: (C,) of a normalisation, or empty.
        stride: over frames and over bands. `weight`: (9 C, C') in panels. `bias`: (C',).
        tile: output frames whose patches are laid out at a time.
        frames: (B, L + T + ended, F, C), written but for the last `ended` ones: what the convolution hears.
        y: (B, T', F', C'), written.
    """
    frames_of(x, held, scale, shift, epsilon, frames)
    batch, outputs, bands, channels = y.shape
    flat, one = y.reshape(batch * outputs * bands, channels), np.ones(channels, np.float32)
    rows = np.empty((min(tile, batch * outputs) * bands, 9 * frames.shape[3]), np.float32)
    for first in range(0, batch * outputs, tile):
        begin = first * bands
        part = rows[: len(flat) - begin]
        patches(frames, stride, outputs, first, part)
        product(part, weight, one, bias, flat[begin : begin + len(part)])
