from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from streamasr import dense
from streamasr.blocks import RecurrentBlock
from streamasr.config import FeatureConfig, ModelConfig
from streamasr.dense import ByBytes, Dense, rounded
from streamasr.errors import ConfigError
from streamasr.layers import Flatten, Layer, Linear
from streamasr.model import AsrModel
from streamasr.stack import Residual
from tests.conftest import TINY
from tests.contract import check_layer


@pytest.mark.parametrize(
    "shape", [{"rnn": "gru"}, {"rnn": "lstm", "bidirectional": True, "back": 4}, {"rnn": "gated", "back": 4}]
)
def test_unknown_recurrences_are_refused(shape: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="Correct the config"):
        RecurrentBlock(ModelConfig(**shape), 0)


ROUNDING = {"float32": 0.0, "int8": 2e-2}  # inputs have 8 bits of the largest number of their row


def prepared(layer: Layer, precision: str) -> Layer:
    layer.eval().requires_grad_(False)
    layer.prepare(precision)
    return layer


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("precision", ["float32", "int8"])
@settings(max_examples=25)
@given(data=st.data())
def test_prepared_block_keeps_the_contract(index: int, precision: str, data: st.DataObject) -> None:
    torch.manual_seed(0)
    block = prepared(RecurrentBlock(TINY, index), precision)
    frames = data.draw(st.integers(2, 40))
    cuts = data.draw(st.lists(st.integers(0, frames), max_size=8))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    x = torch.randn(2, TINY.size, frames, generator=generator)
    check_layer(block, x, cuts, rounding=ROUNDING[precision])


@pytest.mark.parametrize("layer", [Linear(8, 5), Flatten(2, 6, 5)], ids=["linear", "flatten"])
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_prepared_maps_keep_the_contract(layer: Layer, precision: str) -> None:
    shape = (8,) if isinstance(layer, Linear) else (2, 6)
    x = torch.randn(2, *shape, 23)
    check_layer(prepared(layer, precision), x, [1, 2, 9, 9, 14], rounding=ROUNDING[precision])


@settings(max_examples=40)
@given(rows=st.integers(0, 70), depth=st.integers(1, 12), precision=st.sampled_from(["float32", "int8"]))
def test_product_of_any_number_of_rows(rows: int, depth: int, precision: str) -> None:
    torch.manual_seed(rows)
    weight, bias, x = torch.randn(7, depth), torch.randn(7), torch.randn(rows, depth)
    linear = Dense(weight, bias, precision)  # rounds `weight`
    expected = x @ weight.t() + bias
    close = x.abs().amax(1, keepdim=True) / 254 * weight.abs().sum(1) if precision == "int8" and rows else 0.0
    assert ((linear(x) - expected).abs() <= 1.001 * close + 1e-4).all()  # inputs have 8 bits of their largest one


def exact(weight: Tensor, scale: Tensor, bias: Tensor, x: Tensor) -> Tensor:
    return ((x.double() @ weight.t().double()) * scale + bias).float()


def bytes_are_right() -> bool:
    """Whether this processor has instructions for products of bytes."""
    weight, one, x = torch.full((1, 2), 127, dtype=torch.int8), torch.ones(1), torch.ones(1, 2)
    return torch.allclose(ByBytes(weight, one, one)(x), exact(weight, one, one, x))


@pytest.mark.parametrize("rows", [1, 5, 64, 130])
def test_product_of_bytes_is_that_of_rounded_floats_whoever_shares_it(rows: int) -> None:
    torch.manual_seed(rows)
    weight, scale, bias = torch.randint(-127, 128, (24, 64), dtype=torch.int8), torch.rand(24), torch.randn(24)
    product, x = ByBytes(weight, scale, bias), torch.randn(rows, 64)
    y = product(x)
    assert torch.equal(y[:1], product(x[:1]))
    if not bytes_are_right():
        pytest.skip("this processor has no instructions for products of bytes")
    largest = x.abs().amax(1, keepdim=True) / 127
    expected = exact(weight, scale, bias, torch.round(x / largest) * largest)
    torch.testing.assert_close(y, expected, atol=2e-3, rtol=1e-5)  # of some hundreds


@pytest.mark.parametrize("kind", ["right", "cut off", "missing"])
def test_products_of_bytes_serve_only_where_they_are_right(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stand:
        def __init__(self, weight: Tensor, scale: Tensor, bias: Tensor) -> None:
            if kind == "missing":
                raise AttributeError(kind)
            self.y = exact(weight, scale, bias, torch.ones(dense.MANY, weight.shape[1]))
            self.y *= 0.6 if kind == "cut off" else 1

        def __call__(self, _: Tensor) -> Tensor:
            return self.y

    monkeypatch.setattr(dense, "ByBytes", Stand)
    dense.has_fast_bytes.cache_clear()
    try:
        assert dense.has_fast_bytes("int8") is (kind == "right")
    finally:
        dense.has_fast_bytes.cache_clear()


def test_rounding_errs_by_half_a_step_at_most() -> None:
    weight = torch.randn(5, 64) * torch.tensor([1e-3, 1.0, 30.0, 0.0, 1.0])[:, None]
    held, scale = rounded(weight)
    assert held.dtype == torch.int8
    assert torch.all((weight - held * scale[:, None]).abs() <= scale[:, None] * 0.501)


def test_preparing_a_model_changes_nothing_in_float32_and_little_in_int8() -> None:
    torch.manual_seed(0)
    model = AsrModel(FeatureConfig(), TINY, 29).eval().requires_grad_(False)
    energies = torch.randn(1, 1, 80, 64)
    with torch.inference_mode():
        plain, _ = model.network.step(energies, model.network.init_state(1))
        model.prepare()
        same, _ = model.network.step(energies, model.network.init_state(1))
    with torch.no_grad():
        model.prepare("int8")
        near, _ = model.network.step(energies, model.network.init_state(1))
    torch.testing.assert_close(same, plain, atol=1e-4, rtol=1e-4)
    assert 0 < (near - plain).abs().max() < 0.1


def test_a_block_without_context_or_with_another_recurrence_streams_unprepared() -> None:
    for config in (
        ModelConfig(rnn="lstm", size=8, layers=1, context=0),
        ModelConfig(rnn="gated", size=8, layers=1, context=0),
    ):
        block = prepared(RecurrentBlock(config, 0), "float32")
        assert isinstance(block, Residual)
        check_layer(block, torch.randn(1, 8, 12), [3, 4])
