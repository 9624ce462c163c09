"""Compiled loops around two-dimensional convolutions of a stream: normalise, rectify, and lay patches out as rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamasr.compiled import loops

Floats = NDArray[np.float32]


@loops(
    "void(float32[:,:,:,::1], float32[:,:,:,::1], boolean, float32[::1], float32[::1], float32, int64,"
    " float32[:,:,:,::1], float32[:,::1])"
)
def patches(
    x: Floats,
    held: Floats,
    normalises: bool,
    weight: Floats,
    bias: Floats,
    epsilon: float,
    stride: int,
    frames: Floats,
    rows: Floats,
) -> None:
    """What a 3 x 3 convolution multiplies, a row for each output frame and band.

    Args:
        x: (B, T, F, C) new frames; where `normalises`, layer normalisation and rectification come first.
        held: (B, L, F, C) frames before them, ready for the convolution.
        weight, bias, epsilon: of the normalisation.
        stride: over frames and over bands.
        frames: (B, L + T, F, C), written: all frames, ready for the convolution.
        rows: (B T' F', 9 C), written: (frame, band, channel) of each patch; beyond the outer bands there are zeros.
    """
    batch, count, bands, channels = x.shape
    before = held.shape[1]
    share = np.float32(1) / np.float32(channels)
    for b in range(batch):
        frames[b, :before] = held[b]
        if not normalises:
            frames[b, before:] = x[b]
            continue
        for t in range(count):
            for f in range(bands):
                total = square = np.float32(0)
                for c in range(channels):
                    total += x[b, t, f, c]
                mean = total * share
                for c in range(channels):
                    square += (x[b, t, f, c] - mean) ** 2
                scale = np.float32(1) / np.sqrt(square * share + epsilon)
                for c in range(channels):
                    y = (x[b, t, f, c] - mean) * scale * weight[c] + bias[c]
                    frames[b, before + t, f, c] = max(y, np.float32(0))
    outputs = (before + count - 3) // stride + 1
    narrowed = (bands - 1) // stride + 1
    wide = 3 * channels
    flat = frames.reshape(batch, before + count, bands * channels)
    for b in range(batch):
        for t in range(outputs):
            for f in range(narrowed):
                row = rows[(b * outputs + t) * narrowed + f]
                first = (f * stride - 1) * channels
                for k in range(3):
                    source = flat[b, t * stride + k]
                    if first >= 0 and first + wide <= bands * channels:
                        for i in range(wide):
                            row[k * wide + i] = source[first + i]
                    else:
                        for i in range(wide):
                            at = first + i
                            row[k * wide + i] = source[at] if 0 <= at < bands * channels else np.float32(0)
