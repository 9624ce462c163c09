"""One step of a long short-term memory for one row, in compiled loops."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamasr.activation_cpu import sigmoid
from streamasr.compiled import loops
from streamasr.dense_cpu import KINDS, product

Floats = NDArray[np.float32]


@loops(
    [
        f"void(float32[::1], float32[::1], {kind}, float32[::1], {kind}, float32[::1], float32[::1], float32[::1])"
        for kind in KINDS
    ]
)
def advance_by_part(
    part: Floats,
    before: Floats,
    back: NDArray[Any],
    gates_scale: Floats,
    out: NDArray[Any],
    out_scale: Floats,
    out_bias: Floats,
    after: Floats,
) -> None:
    """The memory after an input whose part in the gates is known.

    Args:
        part: (4 H,) the input times its matrix, and the bias; gates i, f, g, o.
        before: (2 H + D,) hidden and cell state, and what is not read. `after`: the same, and the output, written.
        back, out: matrices (H, 4 H) and (H, D) `dense_cpu.laid_out`, and their scales.
    """
    cells = len(part) // 4
    linear = np.empty((1, 4 * cells), np.float32)
    product(before[:cells].reshape(1, cells), back, gates_scale, part, linear)
    gate, squashed = linear[0], np.empty(cells, np.float32)
    sigmoid(gate[: 2 * cells], np.float32(1), gate[: 2 * cells])
    sigmoid(gate[2 * cells : 3 * cells], np.float32(2), gate[2 * cells : 3 * cells])  # tanh(x) = 2 sigmoid(2 x) - 1
    sigmoid(gate[3 * cells :], np.float32(1), gate[3 * cells :])
    for c in range(cells):
        new = np.float32(2) * gate[2 * cells + c] - np.float32(1)
        after[cells + c] = gate[cells + c] * before[cells + c] + gate[c] * new
    sigmoid(after[cells : 2 * cells], np.float32(2), squashed)
    hidden = np.empty((1, cells), np.float32)
    for c in range(cells):
        hidden[0, c] = gate[3 * cells + c] * (np.float32(2) * squashed[c] - np.float32(1))
        after[c] = hidden[0, c]
    product(hidden, out, out_scale, out_bias, after[2 * cells :].reshape(1, len(out_bias)))


@loops(
    [
        f"void(int8[::1], float32, float32[::1], {kind}, {kind}, float32[::1], float32[::1], {kind}, float32[::1],"
        " float32[::1], float32[::1])"
        for kind in KINDS
    ]
)
def advance(
    x: NDArray[np.int8],
    scale: float,
    before: Floats,
    inputs: NDArray[Any],
    back: NDArray[Any],
    gates_scale: Floats,
    gates_bias: Floats,
    out: NDArray[Any],
    out_scale: Floats,
    out_bias: Floats,
    after: Floats,
) -> None:
    """The memory after the input x * scale, x (D,), whose matrix is `inputs` (D, 4 H); see `advance_by_part`."""
    row, part = np.empty((1, len(x)), np.float32), np.empty((1, len(gates_bias)), np.float32)
    for d in range(len(x)):
        row[0, d] = np.float32(x[d]) * scale
    product(row, inputs, gates_scale, gates_bias, part)
    advance_by_part(part[0], before, back, gates_scale, out, out_scale, out_bias, after)


@loops("float32(float32[::1], int8[::1])")
def product_of(vector: Floats, word: NDArray[np.int8]) -> float:
    """The sum of vector * word, both (D,)."""
    total = np.float32(0)
    for d in range(len(word)):
        total += vector[d] * np.float32(word[d])
    return total  # type: ignore[no-any-return]
