"""Rows of floats as whole numbers, for products whose sums are whole, and back."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamasr.compiled import loops

Floats = NDArray[np.float32]
DIGITS = 127 * 16_384  # the largest whole number that three digits stand for
SIZE = 0x7FFFFFFF  # of the bits of a float32, all but its sign
SHORT, LONG = 2**15 - 1, 2**31 - 1  # the largest of 16 and of 32 bits


@loops("float32(float32[::1])")
def largest_of(x: Floats) -> float:
    """The largest size of the numbers x (K,), and at least 1e-30."""
    bits = x.view(np.int32)  # without their signs they are in the order of the numbers, and become vector instructions
    most = np.empty(1, np.int32)
    most.view(np.float32)[0] = 1e-30
    largest = most[0]
    for k in range(len(bits)):
        size = bits[k] & np.int32(SIZE)
        largest = size if size > largest else largest
    most[0] = largest
    found: float = most.view(np.float32)[0]
    return found


@loops("void(float32[:,::1], int16[:,::1], float32[::1])")
def shorts(x: Floats, y: NDArray[np.int16], sizes: Floats) -> None:
    """Each row of x (M, K) as whole numbers of 16 bits, x is about y * size, to 15 bits of its largest one.

    Args:
        y: (M, K or K + 1), written; zeros beyond K. `sizes`: (M,), written.
    """
    rows, depth = x.shape
    most = np.float32(min(SHORT, LONG // (127 * depth)))  # so that no sum is too large
    for m in range(rows):
        largest = largest_of(x[m])
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
    whole = np.empty(depth, np.int32)
    for m in range(rows):
        largest = largest_of(x[m])
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
