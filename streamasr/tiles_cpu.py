"""The innermost part of a matrix product: a few rows times some columns, the sums held in the processor's registers.

numba's loops keep such sums in memory, so this one is written in LLVM's own language: vectors of 16 numbers (or 8),
which LLVM splits into those that the processor has.
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

LANES = 16  # columns of a panel, where nothing else is said
TOGETHER = 4  # panels that are read at once at most
FETCH = ir.FunctionType(ir.VoidType(), [ir.IntType(8).as_pointer(), *[ir.IntType(32)] * 3])
FETCHED = [ir.Constant(ir.IntType(32), number) for number in (0, 3, 1)]  # to be read, into the nearest cache, data
FLOAT, BYTE, INTEGER, COUNT = ir.FloatType(), ir.IntType(8), ir.IntType(32), ir.IntType(64)


def panels(matrix: NDArray[Any], lanes: int = LANES, together: int = TOGETHER) -> NDArray[Any]:
    """A matrix (K, N) as products read it: (P, K, lanes), columns in panels, zeros beyond the last; P is a multiple of
    `together`.
    """
    depth, columns = matrix.shape
    count = -(-columns // (together * lanes)) * together
    wide = np.zeros((depth, count * lanes), matrix.dtype)
    wide[:, :columns] = matrix
    return np.ascontiguousarray(wide.reshape(depth, count, lanes).transpose(1, 0, 2))


def has_wide_vectors() -> bool:
    """Whether the processor has 32 vector registers: twice as many sums fit."""
    return bool(llvmlite.binding.get_host_cpu_features().get("avx512f", False))


def tile(rows: int, wide: int, lanes: int = LANES) -> Callable[..., None]:
    """A function tile(x, at, stride, weight, n, sums) for compiled loops: `rows` rows times `wide` panels.

    Row r is x[at + r * stride : at + r * stride + K] of x (S,): rows may overlap. `weight` is (P, K, lanes), of float32
    or int8. sums (rows * wide * lanes or more,) is written, row r @ weight[n + p] at (r * wide + p) * lanes.
    """
    line = ir.VectorType(FLOAT, lanes)

    @intrinsic
    def product_of_tile(_: Any, x: Any, at: Any, stride: Any, weight: Any, n: Any, sums: Any) -> Any:  # noqa: ARG001
        def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            kinds = signature.args
            inputs, matrix, target = (
                context.make_array(kinds[number])(context, builder, arguments[number]) for number in (0, 3, 5)
            )
            _, begin, step, _, panel, _ = arguments
            depth = builder.extract_value(matrix.shape, 1)
            held = FLOAT if kinds[3].dtype == types.float32 else BYTE
            found_line = ir.VectorType(held, lanes)
            first = [builder.add(begin, builder.mul(step, COUNT(row))) for row in range(rows)]
            start = [builder.mul(builder.add(panel, COUNT(number)), depth) for number in range(wide)]

            fetch = builder.module.declare_intrinsic("llvm.prefetch", [BYTE.as_pointer()], FETCH)
            before = builder.block
            body, after = builder.append_basic_block("depth"), builder.append_basic_block("done")
            builder.branch(body)
            builder.position_at_end(body)
            k = builder.phi(COUNT)
            totals = [builder.phi(line) for _ in range(rows * wide)]
            columns = []
            for from_ in start:
                place = builder.gep(matrix.data, [builder.mul(builder.add(from_, k), COUNT(lanes))])
                next_ = builder.gep(place, [builder.mul(depth, COUNT(wide * lanes))])
                builder.call(fetch, [builder.bitcast(next_, BYTE.as_pointer()), *FETCHED])
                found = builder.load(builder.bitcast(place, found_line.as_pointer()))
                found.align = 1
                if held is BYTE:
                    found = builder.sitofp(builder.sext(found, ir.VectorType(INTEGER, lanes)), line)
                columns.append(found)
            grown = []
            for row in range(rows):
                one = builder.load(builder.gep(inputs.data, [builder.add(first[row], k)]))
                undefined = ir.Constant(line, ir.Undefined)
                everywhere = ir.Constant(ir.VectorType(INTEGER, lanes), [0] * lanes)
                spread = builder.shuffle_vector(
                    builder.insert_element(undefined, one, INTEGER(0)), undefined, everywhere
                )
                for number, column in enumerate(columns):
                    part = builder.fmul(spread, column, flags=("fast",))
                    grown.append(builder.fadd(totals[row * wide + number], part, flags=("fast",)))
            following = builder.add(k, COUNT(1))
            k.add_incoming(COUNT(0), before)
            k.add_incoming(following, body)
            for total, sum_ in zip(totals, grown, strict=True):
                total.add_incoming(ir.Constant(line, [0.0] * lanes), before)
                total.add_incoming(sum_, body)
            builder.cbranch(builder.icmp_signed("<", following, depth), body, after)

            builder.position_at_end(after)
            for number, sum_ in enumerate(grown):
                place = builder.gep(target.data, [COUNT(number * lanes)])
                builder.store(sum_, builder.bitcast(place, line.as_pointer())).align = 4
            return context.get_dummy_value()

        return types.void(x, types.int64, types.int64, weight, types.int64, sums), generate

    return product_of_tile
