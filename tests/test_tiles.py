from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from streamasr.dense_cpu import product
from streamasr.tiles_cpu import panels, tile


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
    inner = tile(rows, wide, lanes)

    @njit
    def run(x: np.ndarray, at: int, stride: int, weight: np.ndarray, n: int, sums: np.ndarray) -> None:
        inner(x, at, stride, weight, n, sums)

    rng = np.random.default_rng(1)
    x, matrix = rng.standard_normal(300, dtype=np.float32), rng.integers(-127, 128, (33, 96)).astype(kind)
    sums = np.full(rows * wide * lanes + 1, np.nan, np.float32)
    run(x, 2, apart, panels(matrix, lanes), 1, sums)
    given = np.stack([x[2 + r * apart :][:33] for r in range(rows)])
    expected = given @ matrix[:, lanes : (1 + wide) * lanes].astype(np.float32)
    np.testing.assert_allclose(sums[:-1].reshape(rows, -1), expected, rtol=1e-4, atol=1e-2)
    assert np.isnan(sums[-1])  # nothing is written beyond


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
    product(x, panels(matrix), scale, bias, y)
    np.testing.assert_allclose(y, x @ matrix.astype(np.float32) * scale + bias, rtol=1e-4, atol=1e-3)
    product(x[-1:], panels(matrix), scale, bias, alone)
    np.testing.assert_allclose(alone[0], y[-1], rtol=1e-6, atol=1e-6)
