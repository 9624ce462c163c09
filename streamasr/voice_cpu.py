"""The voice detector's network in compiled calls: all windows of a chunk, a layer at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamasr.activation_cpu import sigmoid
from streamasr.compiled import loops
from streamasr.dense_cpu import product, writer
from streamasr.tiles_cpu import LANES, TOGETHER, has_pairs, pair_panels, panels, tile

Floats = NDArray[np.float32]
FRAME, STEP, BANDS = 256, 128, 129  # samples, samples, and of a spectrum
FINE = 4095  # what 1 is in whole numbers of 12 bits: the hidden state of the cell, where products in pairs are fast
BACK = "int16[:,:,:,::1]" if has_pairs() else "float32[:,:,::1]"  # that matrix


@loops("void(float32[::1], float32[::1], float32[:,::1])")
def frames_of(heard: Floats, shape: Floats, frames: Floats) -> None:
    """The four frames of each window, times `shape` (256,), to `frames` (4 W, 256), written.

    Args:
        heard: at least 64 + 512 W samples, 64 before each window of 512 being heard with it.
    """
    for r in range(len(frames)):
        begin, first = 512 * (r // 4), r % 4 * STEP
        for i in range(min(FRAME, 576 - first)):
            frames[r, i] = heard[begin + first + i] * shape[i]
        for i in range(576 - first, FRAME):  # reflected at its end
            frames[r, i] = heard[begin + 1150 - first - i] * shape[i]


_one_by_pairs, _write = tile(1, TOGETHER, by="pairs"), writer(LANES)


@loops(f"void(float32[::1], {BACK}, float32[::1], float32[::1], float32[:,::1])")
def back_map(hidden: Floats, weight: NDArray[Any], size: Floats, bias: Floats, y: Floats) -> None:
    """y (1, 512) = hidden (128,) @ weight * size + bias, for a hidden state between -1 and 1."""
    if weight.ndim == 4:
        shorts, sums = np.empty(len(hidden), np.int16), np.empty(TOGETHER * LANES, np.int32)
        for c in range(len(hidden)):
            shorts[c] = np.int16(np.rint(hidden[c] * np.float32(FINE)))
        for n in range(0, y.shape[1] // LANES, TOGETHER):
            _one_by_pairs(shorts, 0, 0, 0, weight, n, sums)
            _write(sums, 1, TOGETHER, 0, n * LANES, size[:0], size, bias, y)
    else:
        product(hidden.reshape(1, len(hidden)), weight, size, bias, y)


@loops(
    "void(float32[:,:,::1], float32[:,:,::1], float32[::1], float32[:,:,::1], float32[::1],"
    " float32[:,:,::1], float32[::1], float32[:,:,::1], float32[::1], float32[:,:,::1], float32[::1],"
    f" {BACK}, float32[::1], float32[::1], float32[::1], float32[::1], float32[::1])"
)
def probabilities(
    spectrum: Floats,
    weight1: Floats,
    bias1: Floats,
    weight2: Floats,
    bias2: Floats,
    weight3: Floats,
    bias3: Floats,
    weight4: Floats,
    bias4: Floats,
    weight_in: Floats,
    bias: Floats,
    weight_back: NDArray[Any],
    size_back: Floats,
    out: Floats,
    hidden: Floats,
    cell: Floats,
    found: Floats,
) -> None:
    """`found` (W,) is written: the probability of a voice in each window.

    Args:
        spectrum: (4 W, 129, 2) real and imaginary parts of the spectra of the windows' frames.
        weight1 to weight4, biases: of the convolutions, (taps x inputs, outputs), in panels as all matrices.
        weight_in, bias, weight_back: (128, 512), (512,), (128, 512) of the recurrent cell; gates i, f, g, o.
        size_back: (512,) of the columns of `weight_back`, as `matrix_back` gives them.
        out: (129,) the last map and its bias.
        hidden, cell: (128,) before the chunk; after it when this returns.
    """
    windows, one = len(found), np.ones(512, np.float32)
    x1 = np.zeros((4 * windows, 3 * BANDS), np.float32)
    row = np.empty(BANDS, np.float32)
    for w in range(windows):
        for t in range(4):
            for c in range(BANDS):
                row[c] = np.sqrt(spectrum[4 * w + t, c, 0] ** 2 + spectrum[4 * w + t, c, 1] ** 2)
            for k in range(3):
                to = t + 1 - k
                if 0 <= to < 4:
                    x1[4 * w + to, k * BANDS : (k + 1) * BANDS] = row
    y1 = np.empty((4 * windows, 128), np.float32)
    product(x1, weight1, one[:128], bias1, y1)
    x2 = np.zeros((2 * windows, 3 * 128), np.float32)
    for w in range(windows):
        for to in range(2):
            for k in range(3):
                t = 2 * to + k - 1
                if t >= 0:
                    for c in range(128):
                        x2[2 * w + to, k * 128 + c] = max(y1[4 * w + t, c], np.float32(0))
    y2 = np.empty((2 * windows, 64), np.float32)
    product(x2, weight2, one[:64], bias2, y2)
    for r in range(2 * windows):
        for c in range(64):
            y2[r, c] = max(y2[r, c], np.float32(0))
    y3 = np.empty((windows, 64), np.float32)
    product(y2.reshape(windows, 128), weight3, one[:64], bias3, y3)
    for w in range(windows):
        for c in range(64):
            y3[w, c] = max(y3[w, c], np.float32(0))
    y4 = np.empty((windows, 128), np.float32)
    product(y3, weight4, one[:128], bias4, y4)
    for w in range(windows):
        for c in range(128):
            y4[w, c] = max(y4[w, c], np.float32(0))
    gates, back = np.empty((windows, 512), np.float32), np.empty((1, 512), np.float32)
    product(y4, weight_in, one, bias, gates)
    squashed = np.empty(128, np.float32)
    for w in range(windows):
        back_map(hidden, weight_back, size_back, gates[w], back)
        gate = back[0]
        sigmoid(gate[:256], np.float32(1), gate[:256])
        sigmoid(gate[256:384], np.float32(2), gate[256:384])  # tanh(x) = 2 sigmoid(2 x) - 1
        sigmoid(gate[384:], np.float32(1), gate[384:])
        for c in range(128):
            cell[c] = gate[128 + c] * cell[c] + gate[c] * (np.float32(2) * gate[256 + c] - np.float32(1))
        sigmoid(cell, np.float32(2), squashed)
        total = out[128]
        for c in range(128):
            hidden[c] = gate[384 + c] * (np.float32(2) * squashed[c] - np.float32(1))
            total += out[c] * max(hidden[c], np.float32(0))
        found[w] = np.float32(1) / (np.float32(1) + np.exp(-total))


def matrix_back(matrix: Floats) -> tuple[NDArray[Any], Floats]:
    """The matrix (128, 512) for `back_map`, laid out, and the sizes of its columns."""
    if not has_pairs():
        return panels(matrix), np.ones(matrix.shape[1], np.float32)
    size = np.maximum(np.abs(matrix).max(0) / FINE, 1e-12)
    return pair_panels(np.rint(matrix / size).astype(np.int16)), (size / FINE).astype(np.float32)
