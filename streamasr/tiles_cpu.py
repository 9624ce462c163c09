"""The innermost part of a matrix product: a few rows times some columns, the sums held in the processor's registers.

numba's loops keep such sums in memory, so this one is written in LLVM's own language: vectors of 16 numbers (or 8),
which LLVM splits into those that the processor has.

There are three arithmetics. In floats, the matrix may be of float32 or of bytes. In pairs, it is of bytes and the rows
are whole numbers of 16 bits: one instruction multiplies two neighbours with two weights and adds (and where there is
AVX-512 VNNI, adds that to the sum, too), so that a core does half as much again, or twice as much; the sums are exact.
In fours, which need that VNNI, rows are bytes, too, and one instruction takes four neighbours.
"""

from __future__ import annotations

import itertools
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
BYTE, SHORT, INTEGER, COUNT = (ir.IntType(bits) for bits in (8, 16, 32, 64))
FLOAT, NOTHING = ir.FloatType(), ir.VoidType()
FETCH = ir.FunctionType(NOTHING, [BYTE.as_pointer(), *[INTEGER] * 3])
FOURS_AT_ONCE = 8  # numbers of a row in one round of a loop: two instructions for each sum
FETCHED = [ir.Constant(INTEGER, number) for number in (0, 3, 1)]  # to be read, into the nearest cache, data


def panels(matrix: NDArray[Any], lanes: int = LANES, together: int = TOGETHER) -> NDArray[Any]:
    """A matrix (K, N) as products read it: (P, K, lanes), columns in panels, zeros beyond the last; P is a multiple of
    `together`.
    """
    depth, columns = matrix.shape
    count = -(-columns // (together * lanes)) * together
    wide = np.zeros((depth, count * lanes), matrix.dtype)
    wide[:, :columns] = matrix
    return np.ascontiguousarray(wide.reshape(depth, count, lanes).transpose(1, 0, 2))


def pair_panels(matrix: NDArray[Any], lanes: int = LANES, together: int = TOGETHER) -> NDArray[Any]:
    """A matrix (K, N) for products in pairs: (P, ceil(K / 2), lanes, 2), as `panels`, two rows side by side."""
    even = np.pad(matrix, ((0, len(matrix) % 2), (0, 0)))
    both = [panels(even[row::2], lanes, together) for row in range(2)]
    return np.ascontiguousarray(np.stack(both, -1))


def four_panels(
    matrix: NDArray[np.int8], shift: int = 0, together: int = TOGETHER, pieces: int = 1
) -> NDArray[np.int8]:
    """A matrix (K, N) for products in fours: (P, 1 + K' / 4, LANES, 4), as `panels`, four rows side by side.

    K' is K made up to a multiple of `FOURS_AT_ONCE`, or K for rows in `pieces`.
    Rows that are multiplied with it are not negative: they may be `shift` more than what they stand for, and the first
    line of a panel, LANES whole numbers of 32 bits, takes off what that adds to its sums.
    """
    even = np.pad(matrix, ((0, -len(matrix) % FOURS_AT_ONCE if pieces == 1 else 0), (0, 0)))
    held = np.stack([panels(even[row::4], LANES, together) for row in range(4)], -1)
    start = -shift * held.sum((1, 3), dtype=np.int32)  # (P, LANES)
    return np.concatenate([start.view(np.int8).reshape(len(held), 1, LANES, 4), held], 1)


def has_wide_vectors() -> bool:
    """Whether the processor has 32 vector registers: twice as many sums fit."""
    return _has("avx512f")


def has_pairs() -> bool:
    """Whether products in pairs are there; they are faster than those of floats."""
    return _has("avx2")


def has_fours() -> bool:
    """Whether products in fours are there; they are the fastest."""
    return _has("avx512vnni")


def _has(feature: str) -> bool:
    return bool(llvmlite.binding.get_host_cpu_features().get(feature, False))


PAIRED, AT_ONCE = ("llvm.x86.avx512.pmaddw.d.512", 16) if _has("avx512bw") else ("llvm.x86.avx2.pmadd.wd", 8)
SUMS, SHORTS = ir.VectorType(INTEGER, AT_ONCE), ir.VectorType(SHORT, 2 * AT_ONCE)  # of one instruction for pairs
llvmlite.binding.initialize_native_asmparser()
FUSED = "vpdpwssd $2, $1, $0" if has_fours() else ""  # multiplies and adds to the sums at once
FOURS = "vpdpbusd $2, $1, $0"  # as that, four bytes at once; those of the first are not negative
# processors with fours fetch by themselves what comes next; asked to, they take up to three times as long
FETCHES = not has_fours()


class _Floats:
    """The instructions of products of floats, `lanes` columns of one panel."""

    inputs = 1  # of a row in one step
    before = 0  # lines of a panel before its first column

    def __init__(self, builder: ir.IRBuilder, held: Any, lanes: int) -> None:
        self.builder, self.held, self.line = (
            builder,
            FLOAT if held == types.float32 else BYTE,
            ir.VectorType(FLOAT, lanes),
        )
        self.zeros = ir.Constant(self.line, [0.0] * lanes)

    def begin(self, place: Any) -> list[Any]:  # noqa: ARG002
        return [self.zeros]

    def columns(self, place: Any) -> list[Any]:
        found = read(self.builder, place, ir.VectorType(self.held, self.line.count))
        if self.held is BYTE:
            whole = self.builder.sext(found, ir.VectorType(INTEGER, self.line.count))
            found = self.builder.sitofp(whole, self.line)
        return [found]

    def spread(self, place: Any) -> Any:
        return everywhere(self.builder, self.builder.load(place), self.line)

    def add(self, total: Any, spread: Any, column: Any) -> Any:
        product = self.builder.fmul(spread, column, flags=("fast",))
        return self.builder.fadd(total, product, flags=("fast",))


class _Pairs:
    """The instructions of products in pairs, `lanes` columns of one panel of bytes or of whole numbers of 16 bits."""

    inputs, before = 2, 0

    def __init__(self, builder: ir.IRBuilder, held: Any, lanes: int) -> None:
        self.builder, self.line, self.parts = builder, SUMS, lanes // SUMS.count
        self.held = SHORT if held == types.int16 else BYTE
        self.zeros = ir.Constant(SUMS, [0] * SUMS.count)
        self.instruction = known(builder, PAIRED, ir.FunctionType(SUMS, [SHORTS, SHORTS]))

    def begin(self, place: Any) -> list[Any]:  # noqa: ARG002
        return [self.zeros] * self.parts

    def columns(self, place: Any) -> list[Any]:
        places = [self.builder.gep(place, [COUNT(part * SHORTS.count)]) for part in range(self.parts)]
        found = [read(self.builder, each, ir.VectorType(self.held, SHORTS.count)) for each in places]
        return found if self.held is SHORT else [self.builder.sext(each, SHORTS) for each in found]

    def spread(self, place: Any) -> Any:
        both = self.builder.load(self.builder.bitcast(place, INTEGER.as_pointer()))
        both.align = 2
        return self.builder.bitcast(everywhere(self.builder, both, SUMS), SHORTS)

    def add(self, total: Any, spread: Any, column: Any) -> Any:
        if FUSED:  # written out, as LLVM makes two instructions of one that would end later
            kind = ir.FunctionType(SUMS, [SHORTS, SHORTS, SUMS])
            return self.builder.asm(kind, FUSED, "=v,v,v,0", [spread, column, total], side_effect=False)
        return self.builder.add(total, self.builder.call(self.instruction, [spread, column]))


class _Fours:
    """The instructions of products in fours, a panel of bytes as `four_panels` lays it out."""

    inputs, before = 4, 1

    def __init__(self, builder: ir.IRBuilder, *_: Any) -> None:
        self.builder, self.line = builder, SUMS

    def begin(self, place: Any) -> list[Any]:
        return self.columns(place)

    def columns(self, place: Any) -> list[Any]:
        return [read(self.builder, place, SUMS)]

    def spread(self, place: Any) -> Any:
        return everywhere(self.builder, read(self.builder, place, INTEGER), SUMS)

    def add(self, total: Any, spread: Any, column: Any) -> Any:
        kind = ir.FunctionType(SUMS, [SUMS, SUMS, SUMS])
        return self.builder.asm(kind, FOURS, "=v,v,v,0", [spread, column, total], side_effect=False)


ARITHMETICS = {"floats": _Floats, "pairs": _Pairs, "fours": _Fours}


def known(builder: ir.IRBuilder, name: str, kind: ir.FunctionType) -> Any:
    """A function that LLVM knows by its name."""
    return builder.module.globals.get(name) or ir.Function(builder.module, kind, name)


def read(builder: ir.IRBuilder, place: Any, kind: Any) -> Any:
    found = builder.load(builder.bitcast(place, kind.as_pointer()))
    found.align = 1
    return found


def everywhere(builder: ir.IRBuilder, number: Any, line: Any) -> Any:
    undefined = ir.Constant(line, ir.Undefined)
    first = builder.insert_element(undefined, number, INTEGER(0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(INTEGER, line.count), [0] * line.count))


def tile(rows: int, wide: int, lanes: int = LANES, *, by: str = "floats", pieces: int = 1) -> Callable[..., None]:
    """A function tile(x, at, stride, apart, weight, n, sums) for compiled loops: `rows` rows times `wide` panels.

    Row r is x[at + r * stride : at + r * stride + K] of x (S,), or so many `pieces` of K / pieces numbers, `apart` from
    where one begins to where the next one does: rows may overlap. `weight` is (P, K, lanes), of float32 or int8. sums
    (rows * wide * lanes or more,) is written, row r @ weight[n + p] at (r * wide + p) * lanes. While a panel is read,
    the next one is fetched from memory (`FETCHES`), but for rows in pieces, whose matrix is small. By "pairs", x is
    int16, `weight` `pair_panels` of int8 or int16 and sums int32; by "fours", x is uint8, `weight` `four_panels` and
    sums int32.
    """

    @intrinsic
    def product_of_tile(_: Any, x: Any, at: Any, stride: Any, apart: Any, weight: Any, n: Any, sums: Any) -> Any:  # noqa: ARG001
        def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            kinds = signature.args
            given, matrix, target = (
                context.make_array(kinds[number])(context, builder, arguments[number]) for number in (0, 4, 6)
            )
            _, begin, step, jump, _, panel, _ = arguments
            arithmetic = ARITHMETICS[by](builder, kinds[4].dtype, lanes)
            line, held = arithmetic.line, lanes * arithmetic.inputs  # numbers of a panel in one step
            lines = builder.extract_value(matrix.shape, 1)
            depth = builder.sub(lines, COUNT(arithmetic.before))
            depth = builder.sdiv(depth, COUNT(pieces)) if pieces > 1 else depth
            first = [builder.add(begin, builder.mul(step, COUNT(row))) for row in range(rows)]
            start = [builder.mul(builder.add(panel, COUNT(number)), lines) for number in range(wide)]
            begun = [builder.gep(matrix.data, [builder.mul(from_, COUNT(held))]) for from_ in start]
            zeros = [sums for place in begun for sums in arithmetic.begin(place)] * rows
            start = [builder.add(from_, COUNT(arithmetic.before)) for from_ in start]
            ahead = builder.mul(lines, COUNT(wide * held))
            fetch = builder.module.declare_intrinsic("llvm.prefetch", [BYTE.as_pointer()], FETCH)

            before = builder.block
            body, after = builder.append_basic_block("depth"), builder.append_basic_block("done")
            builder.branch(body)
            builder.position_at_end(body)
            k = builder.phi(COUNT)
            totals = [builder.phi(line) for _ in zeros]
            grown: list[Any] = list(totals)
            steps = FOURS_AT_ONCE // arithmetic.inputs if by == "fours" and pieces == 1 else 1
            for piece, step_ in itertools.product(range(pieces), range(steps)):
                now = builder.add(k, COUNT(step_))
                columns = []
                for from_ in start:
                    at = builder.add(builder.add(from_, now), builder.mul(depth, COUNT(piece)))
                    place = builder.gep(matrix.data, [builder.mul(at, COUNT(held))])
                    if FETCHES and pieces == 1:
                        next_ = builder.bitcast(builder.gep(place, [ahead]), BYTE.as_pointer())
                        builder.call(fetch, [next_, *FETCHED])
                    columns += arithmetic.columns(place)
                shift = builder.add(builder.mul(now, COUNT(arithmetic.inputs)), builder.mul(jump, COUNT(piece)))
                for row in range(rows):
                    spread = arithmetic.spread(builder.gep(given.data, [builder.add(first[row], shift)]))
                    for number, column in enumerate(columns, row * len(columns)):
                        grown[number] = arithmetic.add(grown[number], spread, column)
            following = builder.add(k, COUNT(steps))
            k.add_incoming(COUNT(0), before)
            k.add_incoming(following, body)
            for total, zero, sum_ in zip(totals, zeros, grown, strict=True):
                total.add_incoming(zero, before)
                total.add_incoming(sum_, body)
            builder.cbranch(builder.icmp_signed("<", following, depth), body, after)

            builder.position_at_end(after)
            for number, sum_ in enumerate(grown):
                place = builder.gep(target.data, [COUNT(number * line.count)])
                builder.store(sum_, builder.bitcast(place, line.as_pointer())).align = 4
            return context.get_dummy_value()

        return types.void(x, types.int64, types.int64, types.int64, weight, types.int64, sums), generate

    return product_of_tile


def line(lanes: int) -> Callable[..., None]:
    """A function line(sums, at, size, scale, bias, first, y, m) for compiled loops: `lanes` sums to their place in y.

    y[m, first + i] = sums[at + i] * size * scale[first + i] + bias[first + i], for sums of float32 or int32.
    """

    @intrinsic
    def line_of_sums(_: Any, sums: Any, at: Any, size: Any, scale: Any, bias: Any, first: Any, y: Any, m: Any) -> Any:  # noqa: ARG001
        def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
            kinds = signature.args
            given, factors, offsets, target = (
                context.make_array(kinds[number])(context, builder, arguments[number]) for number in (0, 3, 4, 6)
            )
            _, begin, factor, _, _, column, _, row = arguments
            floats = ir.VectorType(FLOAT, lanes)
            held = floats if kinds[0].dtype == types.float32 else ir.VectorType(INTEGER, lanes)
            found = read(builder, builder.gep(given.data, [begin]), held)
            found = found if held is floats else builder.sitofp(found, floats)
            found = builder.fmul(found, everywhere(builder, factor, floats))
            found = builder.fmul(found, read(builder, builder.gep(factors.data, [column]), floats))
            found = builder.fadd(found, read(builder, builder.gep(offsets.data, [column]), floats), flags=("contract",))
            columns = builder.extract_value(target.shape, 1)
            place = builder.gep(target.data, [builder.add(builder.mul(row, columns), column)])
            builder.store(found, builder.bitcast(place, floats.as_pointer())).align = 4
            return context.get_dummy_value()

        return types.void(sums, types.int64, types.float32, scale, bias, types.int64, y, types.int64), generate

    return line_of_sums
