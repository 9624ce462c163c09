"""Linear maps prepared once for streams on the CPU: the matrix laid out for few rows, in float32 or rounded to bytes.

With `int8` each output's column of the matrix is rounded by its own scale, and, where the processor multiplies whole
numbers, each input row by its own: sums are exact, and a frame's result does not depend on which frames share its
chunk, as it would where inputs are rounded by a scale of the whole chunk.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

TRIED = (4, 8, 12, 16, 24, 32, 64, 128, 256)  # rows
MANY = 64
ABOUT = 1.3  # times as long as the fastest
TRIALS = 8


def rounded(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A matrix (N, K) as bytes (N, K) and the scale of each row (N,): weight is about bytes * scale."""
    scale = (weight.abs().amax(1) / 127).clamp(min=1e-12)
    return torch.round(weight / scale[:, None]).to(torch.int8), scale


@functools.cache
def few(precision: str) -> int:
    """Rows up to which the compiled product is about as fast as torch's on this processor, or faster: measured, once.

    It depends on the processor and on the library that torch brings for it: 8 on one, 64 on another. What comes before
    and after the product costs a third less beside the compiled one, so it may be somewhat slower. A measurement that
    something else disturbs should not decide, so the largest number of rows that passes counts.
    """
    from streamasr.dense_cpu import laid_out, product

    for rows in reversed(TRIED):
        x, whole, packed, scale = _trial(rows, precision)
        vector = scale.numpy()
        arrays = x.numpy(), laid_out(packed.numpy()), vector, vector, np.empty((rows, len(scale)), np.float32)
        calls: list[Callable[[], object]] = [functools.partial(product, *arrays)]
        calls.append(functools.partial(torch.addmm, scale, x, whole))
        if has_fast_bytes(precision):
            calls.append(functools.partial(ByBytes(packed.t(), scale, scale), x))
        ours, *others = _seconds(*calls)
        if ours <= ABOUT * min(others):
            return rows
    return 0


@functools.cache
def has_fast_bytes(precision: str) -> bool:
    """Whether products of bytes are right and faster than those of floats on this processor: tried out, once.

    Where a processor has no instructions for them, sums of two products are cut off at 16 bits, which is wrong.
    """
    if precision != "int8":
        return False
    x, whole, _, scale = _trial(MANY, precision)
    largest = torch.full(whole.t().shape, 127, dtype=torch.int8)
    try:
        product = ByBytes(largest, scale, scale)
        one_s, floats_s = _seconds(lambda: product(x[:1]), lambda: torch.addmm(scale, x, whole), trials=2)
        if one_s > floats_s:  # one row longer than all of them: a stand-in for the instructions, a second for ten rows
            return False
        right = torch.allclose(product(x), largest.float() @ x[0] + scale, rtol=1e-4)
        bytes_s, floats_s = _seconds(lambda: product(x), lambda: torch.addmm(scale, x, whole))
    except (AttributeError, RuntimeError):  # this build of torch, or this processor, has none
        return False
    return right and bytes_s < floats_s


class ByBytes:
    """x @ weight.T * scale + bias by products of bytes alone, for rows x (M, K), rounded each by its own scale.

    It takes what torch's compiler takes for quantised models, a matrix laid out once for the processor's instructions.

    Args:
        weight: (N, K) int8. `scale`, `bias`: (N,).
    """

    def __init__(self, weight: Tensor, scale: Tensor, bias: Tensor) -> None:
        self._weight = torch.ops.onednn.qlinear_prepack(weight.contiguous(), None)
        self._scale, self._bias = scale, bias
        self._plain = torch.ones_like(scale), torch.zeros(len(scale), dtype=torch.int64)  # sums stay whole numbers

    def __call__(self, x: Tensor) -> Tensor:
        """(M, K) to (M, N)."""
        from streamasr import whole_cpu

        whole, sizes = torch.empty(x.shape, dtype=torch.int8), torch.empty(len(x))
        whole_cpu.rounded(x.contiguous().numpy(), whole.numpy(), sizes.numpy(), 0)
        matrix = (self._weight, *self._plain, None)
        products = torch.ops.onednn.qlinear_pointwise(whole, 1.0, 0, *matrix, 1.0, 0, torch.float32, "none", [], "")
        y = torch.empty(len(x), len(self._bias))
        whole_cpu.scaled(products.numpy(), sizes.numpy(), self._scale.numpy(), self._bias.numpy(), y.numpy())
        return y


def _trial(rows: int, precision: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Input, matrix, matrix as it is packed, and scale of a typical size."""
    whole = torch.zeros(512, 1024)
    return (
        torch.ones(rows, 512),
        whole,
        whole.to(torch.int8 if precision == "int8" else torch.float32),
        torch.ones(1024),
    )


def _seconds(*calls: Callable[[], object], trials: int = TRIALS) -> list[float]:
    """What each takes at best; they take turns, so that what disturbs one disturbs all."""
    taken: list[list[float]] = [[] for _ in calls]
    for _ in range(trials):
        for call, seconds in zip(calls, taken, strict=True):
            began = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - began)
    return [min(seconds) for seconds in taken]


class Dense:
    """x @ weight.T + bias for rows x (M, K), on the CPU and without a gradient.

    Args:
        weight: (N, K); with `int8` it is overwritten by what the bytes stand for.
        bias: (N,).
        precision: float32 or int8.
    """

    def __init__(self, weight: Tensor, bias: Tensor, precision: str) -> None:
        from streamasr.dense_cpu import laid_out

        self._bias, self._scale = bias.contiguous(), torch.ones_like(bias)
        self._few = few(precision)
        self._by_bytes: ByBytes | None = None
        bytes_: Tensor | None = None
        if precision == "int8":
            bytes_, self._scale = rounded(weight)
            weight.copy_(bytes_ * self._scale[:, None])
            if has_fast_bytes(precision):
                self._by_bytes = ByBytes(bytes_, self._scale, self._bias)
        self._whole = weight.t().contiguous()  # (K, N)
        self._packed = laid_out((self._whole if bytes_ is None else bytes_.t()).numpy())

    def suits(self, rows: int) -> bool:
        """Whether so few rows are faster with compiled loops."""
        return 0 < rows <= self._few

    def share(self, matrix: NDArray[Any]) -> None:
        """Keep the laid out matrix in the memory of `matrix`, which is equal to it."""
        self._packed = matrix

    @property
    def arrays(self) -> tuple[NDArray[Any], NDArray[np.float32], NDArray[np.float32]]:
        """Matrix, scale and bias as `dense_cpu.product` takes them."""
        return self._packed, self._scale.numpy(), self._bias.numpy()

    def __call__(self, x: Tensor) -> Tensor:
        """(M, K) to (M, N)."""
        if not self.suits(x.shape[0]):
            if self._by_bytes and len(x):
                return self._by_bytes(x)
            return torch.addmm(self._bias, x, self._whole)
        from streamasr.dense_cpu import product

        y = x.new_empty(x.shape[0], self._bias.shape[0])
        product(x.contiguous().numpy(), *self.arrays, y.numpy())
        return y


def stacked(maps: Sequence[Dense]) -> tuple[NDArray[Any], NDArray[np.float32], NDArray[np.float32]]:
    """`arrays` of maps of one shape, one after the other in one array each, which the maps then share."""
    matrices, scales, biases = (np.stack(column) for column in zip(*(each.arrays for each in maps), strict=True))
    for each, matrix in zip(maps, matrices, strict=True):
        each.share(matrix)
    return matrices, scales, biases


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
