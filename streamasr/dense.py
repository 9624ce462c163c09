"""Linear maps prepared once for streams on the CPU: the matrix laid out for few rows, in float32 or rounded to bytes.

Rounded is only the matrix, each output's column by its own scale; the arithmetic stays float32. So a frame's result
does not depend on which frames share its chunk, as it would where inputs are rounded by a scale of the whole chunk.
"""

from __future__ import annotations

import torch
from torch import Tensor

FEW = {"float32": 12, "int8": 64}  # rows up to which the compiled product is faster than torch's
DEPTH_STEP = 4


def rounded(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A matrix (N, K) as bytes (N, K) and the scale of each row (N,): weight is about bytes * scale."""
    scale = (weight.abs().amax(1) / 127).clamp(min=1e-12)
    return torch.round(weight / scale[:, None]).to(torch.int8), scale


class Dense:
    """x @ weight.T + bias for rows x (M, K), on the CPU and without a gradient.

    Args:
        weight: (N, K); with `int8` it is overwritten by what the bytes stand for.
        bias: (N,).
        precision: float32 or int8.
    """

    def __init__(self, weight: Tensor, bias: Tensor, precision: str) -> None:
        self._bias, self._scale = bias.contiguous(), torch.ones_like(bias)
        self._few = FEW[precision] if weight.shape[1] % DEPTH_STEP == 0 else 0
        bytes_: Tensor | None = None
        if precision == "int8":
            bytes_, self._scale = rounded(weight)
            weight.copy_(bytes_ * self._scale[:, None])
        self._whole = weight.t().contiguous()  # (K, N)
        self._packed = self._whole if bytes_ is None else bytes_.t().contiguous()

    def __call__(self, x: Tensor) -> Tensor:
        """(M, K) to (M, N)."""
        if not 0 < x.shape[0] <= self._few:
            return torch.addmm(self._bias, x, self._whole)
        from streamasr.dense_cpu import product

        y = x.new_empty(x.shape[0], self._bias.shape[0])
        product(x.contiguous().numpy(), self._packed.numpy(), self._scale.numpy(), self._bias.numpy(), y.numpy())
        return y


def gated(linear: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
    """`recurrent.GatedRnn` between its maps: linear (T, B, 3 C), memory (B, C) to y (T, B, C) and the next memory."""
    from streamasr.dense_cpu import gate

    opened = torch.sigmoid(linear[..., memory.shape[1] :])
    y, memory = (
        linear.new_empty(*linear.shape[:2], memory.shape[1]),
        memory.clone(memory_format=torch.contiguous_format),
    )
    gate(linear.numpy(), opened.numpy(), memory.numpy(), y.numpy())
    return y, memory
