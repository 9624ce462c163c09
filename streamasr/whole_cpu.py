"""Rows of floats as whole numbers, for products whose sums are whole, and back."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamasr.compiled import loops
from streamasr.tiles_cpu import LANES

Floats = NDArray[np.float32]
DIGITS = 127 * 16_384  # the largest whole number that three digits stand for
SHORT, LONG = 2**15 - 1, 2**31 - 1  # the largest of 16 and of 32 bits


@loops("void(float32[::1], float32[::1])")
def largest_of(x: Floats, lanes: Floats) -> None:
    """The largest sizes of every 16th number of x (K,), `lanes` (16,), and at least 1e-30."""
    for n in range(LANES):  # a plain maximum would not become vector instructions
        lanes[n] = np.float32(1e-30)
    for k in range(0, len(x), LANES):
        for n in range(min(LANES, len(x) - k)):
            size = abs(x[k + n])
            lanes[n] = size if size > lanes[n] else lanes[n]


@loops("void(float32[:,::1], int16[:,::1], float32[::1])")
def shorts(x: Floats, y: NDArray[np.int16], sizes: Floats) -> None:
    """Each row of x (M, K) as whole numbers of 16 bits, x is about y * size, to 15 bits of its largest one.

    Args:
        y: (M, K or K + 1), written; zeros beyond K. `sizes`: (M,), written.
    """
    rows, depth = x.shape
    most = np.float32(min(SHORT, LONG // (127 * depth)))  # so that no sum is too large
    lanes = np.empty(LANES, np.float32)
    for m in range(rows):
        largest_of(x[m], lanes)
        largest = lanes.max()
        sizes[m] = largest / most
        inverse = most / largest
        y[m, depth:] = 0
        for k in range(depth):
            y[m, k] = np.int16(np.rint(x[m, k] * inverse))


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
        largest_of(x[m], lanes)
        largest = lanes.max()
        scale[m] = largest / np.float32(DIGITS)
        inverse = np.float32(DIGITS) / largest
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
