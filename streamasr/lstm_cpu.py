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
        f"void(int8[::1], float32, float32[::1], {kind}, float32[::1], float32[::1], {kind}, float32[::1],"
        " float32[::1], float32[::1])"
        for kind in KINDS
    ]
)
def advance(
    x: NDArray[np.int8],
    scale: float,
    before: Floats,
    gates: NDArray[Any],
    gates_scale: Floats,
    gates_bias: Floats,
    out: NDArray[Any],
    out_scale: Floats,
    out_bias: Floats,
    after: Floats,
) -> None:
    """The memory after the input x * scale, x (D,).

    Args:
        before: (2 H + D,) hidden and cell state, and what is not read. `after`: the same, and the output, written.
        gates, out: matrices (D + H, 4 H) and (H, D) `dense_cpu.laid_out`, their scales and biases; gates i, f, g, o.
    """
    inputs, cells = len(x), len(gates_bias) // 4
    row, linear = np.empty((1, inputs + cells), np.float32), np.empty((1, 4 * cells), np.float32)
    for d in range(inputs):
        row[0, d] = np.float32(x[d]) * scale
    row[0, inputs:] = before[:cells]
    product(row, gates, gates_scale, gates_bias, linear)
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
    product(hidden, out, out_scale, out_bias, after[2 * cells :].reshape(1, inputs))


@loops("float32(float32[::1], int8[::1])")
def product_of(vector: Floats, word: NDArray[np.int8]) -> float:
    """The sum of vector * word, both (D,)."""
    total = np.float32(0)
    for d in range(len(word)):
        total += vector[d] * np.float32(word[d])
    return total  # type: ignore[no-any-return]
