"""Sigmoid of many numbers, 16 at once."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from streamasr.compiled import loops
from streamasr.tiles_cpu import FLOAT, everywhere, known, read

AT_ONCE = 16
LINE = ir.VectorType(FLOAT, AT_ONCE)
CHOICE = ir.FunctionType(LINE, [LINE, LINE])
LARGEST = 16.0  # beyond it a float32 is hardly to be told from 0 or 1
# 1 / (1 + exp(-x)) - 1 / 2 is about x OVER(x^2) / UNDER(x^2), from the highest power on: fitted with the smallest
# largest error (3e-9) from -16 to 16.
OVER = (1.47083312e-11, 8.50507214e-08, 5.56897389e-05, 8.39886326e-03, 0.249999993)
UNDER = (3.30214535e-09, 5.31118182e-06, 1.6334981e-03, 0.116928755, 1.0)


@intrinsic
def _sigmoids(_: Any, x: Any, at: Any, slope: Any, y: Any, to: Any) -> Any:  # noqa: ARG001
    """Of 16 numbers of x from `at` on, to y from `to` on. Loops of numba have vectors half as long, where AVX-512
    multiplies no faster."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        given, target = (
            context.make_array(signature.args[number])(context, builder, arguments[number]) for number in (0, 3)
        )
        _, begin, factor, _, into = arguments
        fast = ("fast",)

        def same(number: float) -> Any:
            return ir.Constant(LINE, [number] * AT_ONCE)

        def sum_of(factors: tuple[float, ...]) -> Any:
            total = same(factors[0])
            for each in factors[1:]:
                total = builder.fadd(builder.fmul(total, square, flags=fast), same(each), flags=fast)
            return total

        number = read(builder, builder.gep(given.data, [begin]), LINE)
        number = builder.fmul(number, everywhere(builder, factor, LINE), flags=fast)
        for name, bound in (("maxnum", -LARGEST), ("minnum", LARGEST)):
            choice = known(builder, f"llvm.{name}.v{AT_ONCE}f32", CHOICE)
            number = builder.call(choice, [number, same(bound)], fastmath=fast)
        square = builder.fmul(number, number, flags=fast)
        odd = builder.fdiv(builder.fmul(number, sum_of(OVER), flags=fast), sum_of(UNDER), flags=fast)
        place = builder.bitcast(builder.gep(target.data, [into]), LINE.as_pointer())
        builder.store(builder.fadd(odd, same(0.5), flags=fast), place).align = 4
        return context.get_dummy_value()

    return types.void(x, types.int64, types.float32, y, types.int64), generate


@loops("void(float32[::1], float32, float32[::1])")
def sigmoid(x: NDArray[np.float32], slope: float, y: NDArray[np.float32]) -> None:
    """y = 1 / (1 + exp(-slope x)) for x (N,), within 2e-7; y may be x."""
    count = len(x) - len(x) % AT_ONCE
    for n in range(0, count, AT_ONCE):
        _sigmoids(x, n, np.float32(slope), y, n)  # type: ignore[call-arg]
    if count < len(x):
        rest = np.zeros(AT_ONCE, np.float32)
        rest[: len(x) - count] = x[count:]
        _sigmoids(rest, 0, np.float32(slope), rest, 0)  # type: ignore[call-arg]
        y[count:] = rest[: len(x) - count]
