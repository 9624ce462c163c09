"""Numbers of 32 and 16 bits in compiled loops: bfloat16 arrays are handled as their bits (uint16).

`load` and `store` work on float32 and on bfloat16 arrays alike; arithmetic is float32 in between.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, overload
from numpy.typing import NDArray
from torch import Tensor

Words = NDArray[Any]  # float32, or uint16 that are the bits of bfloat16


def words(x: Tensor) -> Words:
    """A contiguous tensor's memory as loops take it: float32, or the bits of bfloat16."""
    if x.dtype == torch.bfloat16:
        return x.view(torch.int16).numpy().view(np.uint16)
    array: Words = x.numpy()
    return array


@intrinsic
def floor(typing_context: Any, number: Any) -> Any:
    """The whole float32 below; NumPy's, called on a number, does not compile to vector code."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.call(builder.module.declare_intrinsic("llvm.floor", [ir.FloatType()]), [arguments[0]])

    return types.float32(types.float32), generate


@intrinsic
def larger(typing_context: Any, one: Any, other: Any) -> Any:
    """The larger of two float32; a loop with Python's max does not compile to vector code."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = ir.FloatType()
        largest = builder.module.declare_intrinsic("llvm.maxnum", [kind], ir.FunctionType(kind, [kind, kind]))
        return builder.call(largest, arguments, fastmath=("fast",))

    return types.float32(types.float32, types.float32), generate


@intrinsic
def power_of_two(typing_context: Any, exponent: Any) -> Any:
    """2 to the power of a whole float32 within -126..127."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word = ir.IntType(32)
        biased = builder.add(builder.fptosi(arguments[0], word), ir.Constant(word, 127))
        return builder.bitcast(builder.shl(biased, ir.Constant(word, 23)), ir.FloatType())

    return types.float32(types.float32), generate


@intrinsic
def half_of(typing_context: Any, number: Any) -> Any:
    """The bits (uint16) of a float32 as bfloat16, rounded to the nearest even."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word = ir.IntType(32)
        bits = builder.bitcast(arguments[0], word)
        odd = builder.and_(builder.lshr(bits, ir.Constant(word, 16)), ir.Constant(word, 1))
        rounded = builder.add(bits, builder.add(odd, ir.Constant(word, 0x7FFF)))
        return builder.trunc(builder.lshr(rounded, ir.Constant(word, 16)), ir.IntType(16))

    return types.uint16(types.float32), generate


@intrinsic
def float_of_half(typing_context: Any, bits: Any) -> Any:
    """The float32 with these bits (uint16) of bfloat16."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word = ir.IntType(32)
        wide = builder.shl(builder.zext(arguments[0], word), ir.Constant(word, 16))
        return builder.bitcast(wide, ir.FloatType())

    return types.float32(types.uint16), generate


def load(word: Any) -> float:
    """The number that a word stands for."""
    raise TypeError("only compiled code may call this")


def store(into: Words, at: int, number: float) -> None:
    """Put a number into an array (N,), rounded to the nearest even where it is bfloat16."""
    raise TypeError("only compiled code may call this")


@overload(load, inline="always")
def _load(word: Any) -> Any:
    if word == types.uint16:

        def widened(word: Any) -> Any:
            return float_of_half(word)  # type: ignore[call-arg]

        return widened

    def same(word: Any) -> Any:
        return word

    return same


@overload(store, inline="always")
def _store(into: Any, at: Any, number: Any) -> Any:
    if into.dtype == types.uint16:

        def rounded(into: Any, at: Any, number: Any) -> None:
            into[at] = half_of(np.float32(number))  # type: ignore[call-arg]

        return rounded

    def plain(into: Any, at: Any, number: Any) -> None:
        into[at] = number

    return plain


@njit(inline="always", error_model="numpy")
def exponential(x: float) -> float:
    """e to the power of x, relative error below 5e-7: unlike the C library's it compiles to vector code.

    Source: Moshier, "Methods and Programs for Mathematical Functions", 1989 (reduction and order of the polynomial).
    """
    x = min(max(x, np.float32(-87.0)), np.float32(88.0))
    power: Any = floor(x * np.float32(1.44269504) + np.float32(0.5))  # type: ignore[call-arg]
    r = x - power * np.float32(0.693359375) + power * np.float32(2.12194440e-4)
    p = np.float32(1.9875691e-4)
    p = p * r + np.float32(1.3981999e-3)
    p = p * r + np.float32(8.3334519e-3)
    p = p * r + np.float32(4.1665796e-2)
    p = p * r + np.float32(1.6666665e-1)
    p = p * r + np.float32(0.5)
    p = p * r * r + r + np.float32(1)
    return p * power_of_two(power)


@njit(inline="always", error_model="numpy")
def sigmoid(x: float) -> float:
    """1 / (1 + exp(-x))."""
    return np.float32(1) / (np.float32(1) + exponential(-x))  # type: ignore[no-any-return]
