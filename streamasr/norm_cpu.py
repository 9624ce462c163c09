"""Layer normalisation of short rows, in vectors: loops over 24 numbers would be compiled to one number at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

from streamasr.compiled import loops
from streamasr.tiles_cpu import COUNT, FLOAT, everywhere, known, read

Floats = NDArray[np.float32]
LANES = 8
LINE = ir.VectorType(FLOAT, LANES)
REDUCED = ir.FunctionType(FLOAT, [FLOAT, LINE])
LARGER = ir.FunctionType(LINE, [LINE, LINE])


def _normaliser() -> Callable[..., None]:
    """A function normalise(x, at, scale, shift, epsilon, y, to) for compiled loops, of rows (C,), C a multiple of 8.

    y[to : to + C] = max(norm(x[at : at + C]) * scale + shift, 0) for x and y of one dimension.
    """

    @intrinsic
    def rectified_norm(_: Any, x: Any, at: Any, scale: Any, shift: Any, epsilon: Any, y: Any, to: Any) -> Any:  # noqa: ARG001
        def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            given, factors, offsets, target = (
                context.make_array(signature.args[number])(context, builder, arguments[number])
                for number in (0, 2, 3, 5)
            )
            _, begin, _, _, smallest, _, into = arguments
            channels = builder.extract_value(factors.shape, 0)
            vectors = builder.sdiv(channels, COUNT(LANES))
            zeros = ir.Constant(LINE, [0.0] * LANES)
            reduced = known(builder, f"llvm.vector.reduce.fadd.v{LANES}f32", REDUCED)
            root = builder.module.declare_intrinsic("llvm.sqrt", [FLOAT])
            larger = known(builder, f"llvm.maxnum.v{LANES}f32", LARGER)
            fast = ("fast",)
            count = builder.sitofp(channels, FLOAT)

            def numbers(array: Any, first: Any) -> Any:
                return read(builder, builder.gep(array.data, [first]), LINE)

            def mean_of(term: Callable[[Any], Any]) -> Any:
                total = cgutils.alloca_once_value(builder, zeros)  # type: ignore[no-untyped-call]
                with cgutils.for_range(builder, vectors) as loop:
                    number = numbers(given, builder.add(begin, builder.mul(loop.index, COUNT(LANES))))
                    builder.store(builder.fadd(builder.load(total), term(number), flags=fast), total)
                whole = builder.call(reduced, [ir.Constant(FLOAT, 0.0), builder.load(total)], fastmath=fast)
                return builder.fdiv(whole, count, flags=fast)

            mean = everywhere(builder, mean_of(lambda number: number), LINE)

            def square(number: Any) -> Any:
                apart = builder.fsub(number, mean, flags=fast)
                return builder.fmul(apart, apart, flags=fast)

            deviation = builder.call(root, [builder.fadd(mean_of(square), smallest)])
            size = everywhere(builder, builder.fdiv(ir.Constant(FLOAT, 1.0), deviation), LINE)
            with cgutils.for_range(builder, vectors) as loop:
                channel = builder.mul(loop.index, COUNT(LANES))
                unit = builder.fmul(
                    builder.fsub(numbers(given, builder.add(begin, channel)), mean, flags=fast), size, flags=fast
                )
                moved = builder.fadd(
                    builder.fmul(unit, numbers(factors, channel), flags=fast), numbers(offsets, channel), flags=fast
                )
                place = builder.gep(target.data, [builder.add(into, channel)])
                found = builder.call(larger, [moved, zeros], fastmath=fast)
                builder.store(found, builder.bitcast(place, LINE.as_pointer())).align = 4
            return context.get_dummy_value()

        return types.void(x, types.int64, scale, shift, types.float32, y, types.int64), generate

    return rectified_norm


_normalise = _normaliser()


@loops("void(float32[:,::1], float32[::1], float32[::1], float32, float32[:,::1])")
def rectified(x: Floats, scale: Floats, shift: Floats, epsilon: float, y: Floats) -> None:
    """y = max(norm(x) * scale + shift, 0), row by row, x and y (M, C), scale and shift (C,); y may be x."""
    rows, channels = x.shape
    if channels % LANES == 0:
        flat, found = x.reshape(x.size), y.reshape(y.size)
        for m in range(rows):
            _normalise(flat, m * channels, scale, shift, np.float32(epsilon), found, m * channels)
        return
    share = np.float32(1) / np.float32(channels)
    for m in range(rows):
        total = square = np.float32(0)
        for c in range(channels):
            total += x[m, c]
        mean = total * share
        for c in range(channels):
            square += (x[m, c] - mean) ** 2
        size = np.float32(1) / np.sqrt(square * share + epsilon)
        for c in range(channels):
            y[m, c] = max((x[m, c] - mean) * size * scale[c] + shift[c], np.float32(0))
