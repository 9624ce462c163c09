from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from streamasr import dense
from streamasr.dense_cpu import laid_out, product
from streamasr.tiles_cpu import four_panels, has_fours, has_pairs, pair_panels, panels, tile
from streamasr.whole_cpu import rounded, scaled

with_fours = pytest.mark.skipif(not has_fours(), reason="this processor has no products in fours")
with_pairs = pytest.mark.skipif(not has_pairs(), reason="this processor has no products in pairs")


def called(*shape: int, **options: Any) -> Callable[..., None]:
    """A tile that Python may call."""
    inner = tile(*shape, **options)

    @njit
    def run(x: np.ndarray, at: int, stride: int, apart: int, weight: np.ndarray, n: int, sums: np.ndarray) -> None:
        inner(x, at, stride, apart, weight, n, sums)

    return run  # type: ignore[no-any-return]


@given(depth=st.integers(1, 9), columns=st.integers(1, 70), lanes=st.sampled_from([8, 16]), together=st.integers(1, 4))
def test_panels_hold_every_column_in_its_place(depth: int, columns: int, lanes: int, together: int) -> None:
    matrix = np.arange(1, depth * columns + 1, dtype=np.float32).reshape(depth, columns)
    held = panels(matrix, lanes, together)
    assert held.shape == (-(-columns // lanes // together) * together, depth, lanes)
    wide = held.transpose(1, 0, 2).reshape(depth, -1)
    assert np.array_equal(wide[:, :columns], matrix)
    assert not wide[:, columns:].any()


@pytest.mark.parametrize(("rows", "wide", "lanes"), [(6, 2, 16), (6, 1, 16), (1, 4, 16), (4, 3, 8)])
@pytest.mark.parametrize("kind", [np.float32, np.int8])
@pytest.mark.parametrize("apart", [33, 5])
def test_a_tile_is_the_product_of_its_rows_and_panels(rows: int, wide: int, lanes: int, kind: type, apart: int) -> None:
    run = called(rows, wide, lanes)

    rng = np.random.default_rng(1)
    x, matrix = rng.standard_normal(300, dtype=np.float32), rng.integers(-127, 128, (33, 96)).astype(kind)
    sums = np.full(rows * wide * lanes + 1, np.nan, np.float32)
    run(x, 2, apart, 0, panels(matrix, lanes), 1, sums)
    given = np.stack([x[2 + r * apart :][:33] for r in range(rows)])
    expected = given @ matrix[:, lanes : (1 + wide) * lanes].astype(np.float32)
    np.testing.assert_allclose(sums[:-1].reshape(rows, -1), expected, rtol=1e-4, atol=1e-2)
    assert np.isnan(sums[-1])  # nothing is written beyond


@with_pairs
@pytest.mark.parametrize(("rows", "wide"), [(4, 1), (2, 2), (1, 4)])
@pytest.mark.parametrize("depth", [1, 2, 33])
@pytest.mark.parametrize("kind", [np.int8, np.int16])
def test_a_tile_of_pairs_is_exact(rows: int, wide: int, depth: int, kind: type) -> None:
    run = called(rows, wide, by="pairs")

    rng = np.random.default_rng(1)
    x, matrix = rng.integers(-32767, 32768, (7, depth)), rng.integers(-127, 128, (depth, 96))
    held = np.pad(x, ((0, 0), (0, depth % 2))).astype(np.int16)
    sums = np.full(rows * wide * 16 + 1, -1, np.int32)
    run(held.reshape(-1), 2 * held.shape[1], held.shape[1], 0, pair_panels(matrix.astype(kind)), 1, sums)
    assert np.array_equal(sums[:-1].reshape(rows, -1), x[2 : 2 + rows] @ matrix[:, 16 : (1 + wide) * 16])
    assert sums[-1] == -1  # nothing is written beyond


@with_fours
@pytest.mark.parametrize(("rows", "wide"), [(8, 2), (4, 1), (1, 4)])
@pytest.mark.parametrize("depth", [1, 4, 33])
def test_a_tile_of_fours_is_exact_up_to_the_largest_numbers(rows: int, wide: int, depth: int) -> None:
    run = called(rows, wide, by="fours")

    rng = np.random.default_rng(1)
    x, matrix = rng.integers(-127, 128, (11, depth)), rng.integers(-127, 128, (depth, 96))
    x[2], matrix[:, 20] = 127, 127  # no sum is cut off at 16 bits
    held = np.pad(x + 128, ((0, 0), (0, -depth % 8))).astype(np.uint8)
    sums = np.full(rows * wide * 16 + 1, -1, np.int32)
    run(held.reshape(-1), 2 * held.shape[1], held.shape[1], 0, four_panels(matrix.astype(np.int8), 128), 1, sums)
    assert np.array_equal(sums[:-1].reshape(rows, -1), x[2 : 2 + rows] @ matrix[:, 16 : (1 + wide) * 16])
    assert sums[-1] == -1  # nothing is written beyond


@pytest.mark.parametrize(
    "by", ["floats", pytest.param("pairs", marks=with_pairs), pytest.param("fours", marks=with_fours)]
)
@pytest.mark.parametrize("length", [4, 12, 72])
def test_rows_may_lie_in_pieces(by: str, length: int) -> None:
    run = called(4, 1, by=by, pieces=3)

    rng = np.random.default_rng(length)
    x, matrix = rng.integers(0, 256, 700), rng.integers(-127, 128, (3 * length, 32)).astype(np.int8)
    kind, sums = {"floats": np.float32, "pairs": np.int16, "fours": np.uint8}[by], np.empty(64, np.int32)
    held = {"floats": panels, "pairs": pair_panels, "fours": lambda given: four_panels(given, pieces=3)}[by](matrix)
    sums = sums.astype(np.float32) if by == "floats" else sums
    run(x.astype(kind), 5, 8, 2 * length + 4, held, 1, sums)
    rows = [np.concatenate([x[5 + 8 * r + (2 * length + 4) * p :][:length] for p in range(3)]) for r in range(4)]
    np.testing.assert_allclose(sums.reshape(4, 16), np.stack(rows) @ matrix[:, 16:].astype(int), rtol=1e-5, atol=0.5)


@given(
    depth=st.integers(1, 300),
    size=st.sampled_from([0.0, 1e-20, 1e-3, 1.0, 1e6]),
    kind=st.sampled_from([(np.int8, 0), (np.uint8, 128), (np.int16, 0)]),
    seed=st.integers(0, 99),
)
@settings(max_examples=30)
def test_whole_numbers_stand_for_their_row(depth: int, size: float, kind: tuple[type, int], seed: int) -> None:
    x = size * np.random.default_rng(seed).standard_normal((2, depth)).astype(np.float32)
    whole, sizes = np.full((2, depth + 3), 7, kind[0]), np.empty(2, np.float32)
    rounded(x, whole, sizes, kind[1])
    assert not whole[:, depth:].any()
    meant = whole[:, :depth].astype(np.int32) - kind[1]
    assert np.abs(meant).max() == (127 if size else 0)
    largest = np.abs(x).max(1, keepdims=True)
    assert (np.abs(meant * sizes[:, None] - x) <= largest / 127 * 0.5001).all()


def test_sums_are_scaled_to_what_they_stand_for() -> None:
    rng = np.random.default_rng(1)
    sums, rows, columns, bias = (rng.standard_normal(shape, dtype=np.float32) for shape in ((3, 5), 3, 5, 5))
    y = np.empty((3, 5), np.float32)
    scaled(sums, rows, columns, bias, y)
    np.testing.assert_allclose(y, sums * rows[:, None] * columns + bias, rtol=1e-5, atol=1e-6)


@settings(max_examples=60)
@given(
    rows=st.integers(1, 13),
    depth=st.integers(1, 40),
    columns=st.integers(1, 150),
    kind=st.sampled_from([np.float32, np.int8]),
)
def test_products_of_all_sizes_and_a_row_gives_the_same_in_any_company(
    rows: int, depth: int, columns: int, kind: type
) -> None:
    rng = np.random.default_rng(depth)
    x, matrix = (
        rng.standard_normal((rows, depth), dtype=np.float32),
        rng.integers(-9, 10, (depth, columns)).astype(kind),
    )
    scale, bias = rng.random(columns, dtype=np.float32), rng.random(columns, dtype=np.float32)
    y, alone = np.full((rows, columns), np.nan, np.float32), np.empty((1, columns), np.float32)
    product(x, laid_out(matrix), scale, bias, y)
    close = 1e-3 if kind == np.float32 or not has_pairs() else depth * 9 * float(np.abs(x).max()) / 254 + 1e-3
    np.testing.assert_allclose(y, x @ matrix.astype(np.float32) * scale + bias, rtol=1e-4, atol=close)
    product(x[-1:], laid_out(matrix), scale, bias, alone)
    np.testing.assert_allclose(alone[0], y[-1], rtol=1e-6, atol=1e-6)


def test_bytes_that_the_processor_only_imitates_are_tried_on_one_row_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []

    def imitated(x: torch.Tensor) -> torch.Tensor:
        rows.append(len(x))
        time.sleep(0.2)
        return torch.zeros(len(x), 1024)

    monkeypatch.setattr(dense, "ByBytes", lambda *_: imitated)
    assert not dense.has_fast_bytes.__wrapped__("int8")
    assert rows == [1, 1]
