"""Rows of floats as whole numbers, for products whose sums are whole, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamasr.compiled import loops
from streamasr.words import larger

Floats = NDArray[np.float32]
MOST = 127  # the largest whole number of a row: as exact as the matrix, which is rounded to as many bits


@loops("float32(float32[::1])")
def largest_of(x: Floats) -> float:
    """The largest size of the numbers x (K,), and at least 1e-30."""
    largest = np.float32(1e-30)
    for k in range(len(x)):
        largest = larger(largest, abs(x[k]))  # type: ignore[call-arg]
    return largest  # type: ignore[no-any-return]


@loops([f"void(float32[:,::1], {kind}[:,::1], float32[::1], int64)" for kind in ("int8", "uint8", "int16")])
def rounded(x: Floats, y: NDArray[Any], sizes: Floats, shift: int) -> None:
    """Each row of x (M, K) as whole numbers from -127 to 127 by its own scale: x is about (y - shift) * size.

    Args:
        y: (M, K or more), written; zeros beyond K. `sizes`: (M,), written.
    """
    (rows, depth), up = x.shape, np.float32(shift)
    for m in range(rows):
        largest = largest_of(x[m])
        sizes[m] = largest / np.float32(MOST)
        inverse = np.float32(MOST) / largest
        y[m, depth:] = 0
        for k in range(depth):
            y[m, k] = np.int32(np.rint(x[m, k] * inverse) + up)


@loops("void(float32[:,::1], float32[::1], float32[::1], float32[::1], float32[:,::1])")
def scaled(products: Floats, rows: Floats, columns: Floats, bias: Floats, y: Floats) -> None:
    """From products (M, N) of whole numbers, those of what they stand for: of the scales `rows` (M,) and `columns`
    (N,), plus `bias` (N,)."""
    for m in range(y.shape[0]):
        for n in range(y.shape[1]):
            y[m, n] = products[m, n] * rows[m] * columns[n] + bias[n]
