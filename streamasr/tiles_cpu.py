"""The innermost part of a matrix product: a few rows times some columns, the sums held in the processor's registers.

numba's loops keep such sums in memory, so this one is written in LLVM's own language: vectors of 16 numbers, which LLVM
splits into those that the processor has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

LANES = 16  # columns of a panel
FLOAT, BYTE, INTEGER, COUNT = ir.FloatType(), ir.IntType(8), ir.IntType(32), ir.IntType(64)
LINE = ir.VectorType(FLOAT, LANES)


def panels(matrix: NDArray[Any]) -> NDArray[Any]:
    """A matrix (K, N) as `product` reads it: (P, K, 16), columns in panels of 16, zeros beyond the last."""
    depth, columns = matrix.shape
    count = -(-columns // LANES)
    wide = np.zeros((depth, count * LANES), matrix.dtype)
    wide[:, :columns] = matrix
    return np.ascontiguousarray(wide.reshape(depth, count, LANES).transpose(1, 0, 2))


def has_wide_vectors() -> bool:
    """Whether the processor has 32 vector registers: twice as many sums fit."""
    return bool(llvmlite.binding.get_host_cpu_features().get("avx512f", False))


def tile(rows: int, wide: int) -> Callable[..., None]:
    """A function tile(x, m, weight, n, sums) for compiled loops: `rows` rows times `wide` panels.

    x is (M, K), `weight` (P, K, 16) of float32 or int8; sums (rows * wide * 16 or more,) is written, x[m + r] @
    weight[n + p] at (r * wide + p) * 16.
    """

    @intrinsic
    def product_of_tile(_: Any, x: Any, m: Any, weight: Any, n: Any, sums: Any) -> Any:  # noqa: ARG001
        def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            kinds = signature.args
            arrays = [context.make_array(kinds[at])(context, builder, arguments[at]) for at in (0, 2, 4)]
            inputs, matrix, target = arrays
            depth = builder.extract_value(inputs.shape, 1)
            held = FLOAT if kinds[2].dtype == types.float32 else BYTE
            line = ir.VectorType(held, LANES)
            first = [builder.mul(builder.add(arguments[1], COUNT(row)), depth) for row in range(rows)]
            start = [builder.mul(builder.add(arguments[3], COUNT(panel)), depth) for panel in range(wide)]

            before = builder.block
            body, after = builder.append_basic_block("depth"), builder.append_basic_block("done")
            builder.branch(body)
            builder.position_at_end(body)
            k = builder.phi(COUNT)
            totals = [builder.phi(LINE) for _ in range(rows * wide)]
            columns = []
            for at in start:
                place = builder.gep(matrix.data, [builder.mul(builder.add(at, k), COUNT(LANES))])
                found = builder.load(builder.bitcast(place, line.as_pointer()))
                found.align = 1
                if held is BYTE:
                    found = builder.sitofp(builder.sext(found, ir.VectorType(INTEGER, LANES)), LINE)
                columns.append(found)
            grown = []
            for row in range(rows):
                one = builder.load(builder.gep(inputs.data, [builder.add(first[row], k)]))
                undefined = ir.Constant(LINE, ir.Undefined)
                everywhere = ir.Constant(ir.VectorType(INTEGER, LANES), [0] * LANES)
                spread = builder.shuffle_vector(
                    builder.insert_element(undefined, one, INTEGER(0)), undefined, everywhere
                )
                for panel, column in enumerate(columns):
                    part = builder.fmul(spread, column, flags=("fast",))
                    grown.append(builder.fadd(totals[row * wide + panel], part, flags=("fast",)))
            following = builder.add(k, COUNT(1))
            k.add_incoming(COUNT(0), before)
            k.add_incoming(following, body)
            for total, sum_ in zip(totals, grown, strict=True):
                total.add_incoming(ir.Constant(LINE, [0.0] * LANES), before)
                total.add_incoming(sum_, body)
            builder.cbranch(builder.icmp_signed("<", following, depth), body, after)

            builder.position_at_end(after)
            for at, sum_ in enumerate(grown):
                place = builder.gep(target.data, [COUNT(at * LANES)])
                builder.store(sum_, builder.bitcast(place, LINE.as_pointer())).align = 4
            return context.get_dummy_value()

        return types.void(x, types.int64, weight, types.int64, sums), generate

    return product_of_tile
