from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from streamasr.layers import Activation, Conv, Layer, Norm
from streamasr.stack import Residual
from tests.contract import check_layer, stream


def prepared(layer: Layer, precision: str = "float32") -> Layer:
    layer.eval().requires_grad_(False)
    for part in layer.modules():
        if isinstance(part, Layer):
            part.prepare(precision)
    return layer


def residual(channels: int, bands: int) -> Residual:
    def conv() -> Conv:
        return Conv(channels, channels, 3, right=1, frequencies=bands)

    return Residual([Norm(channels), Activation(), conv(), Norm(channels), Activation(), conv()], (channels, bands))


@pytest.mark.parametrize("kind", ["plain", "narrowing", "residual"])
@settings(max_examples=15)
@given(data=st.data())
def test_prepared_convolutions_keep_the_contract(kind: str, data: st.DataObject) -> None:
    torch.manual_seed(0)
    layers = {
        "plain": Conv(3, 5, 3, right=1, frequencies=7),
        "narrowing": Conv(3, 5, 3, stride=2, right=1, frequencies=7),
        "residual": residual(3, 7),
    }
    frames = data.draw(st.integers(3, 40))
    cuts = data.draw(st.lists(st.integers(0, frames), max_size=8))
    check_layer(prepared(layers[kind]), torch.randn(2, 3, 7, frames), cuts)


@torch.inference_mode()
@pytest.mark.parametrize("bands", [2, 7, 40])
@pytest.mark.parametrize("channels", [3, 24, 33])
def test_bands_and_channels_of_any_number(channels: int, bands: int) -> None:
    torch.manual_seed(0)
    plain = residual(channels, bands).eval().requires_grad_(False)
    x = torch.randn(3, channels, bands, 70)
    expected, _ = plain.step(x, plain.init_state(3))
    found, _ = prepared(plain).step(x, plain.init_state(3))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
@pytest.mark.parametrize("channels", [4, 24])
def test_whole_numbers_of_8_bits_are_near_and_the_same_in_any_chunk(channels: int) -> None:
    torch.manual_seed(0)
    block = residual(channels, 7).eval().requires_grad_(False)
    for part in block.modules():
        if isinstance(part, torch.nn.LayerNorm):
            part.weight.uniform_(-2, 2)
            part.bias.normal_()
    x = torch.randn(2, channels, 7, 50)
    expected = stream(block, x, [])
    found = stream(prepared(block, "int8"), x, [])
    torch.testing.assert_close(found, expected, atol=0.1, rtol=2e-2)
    torch.testing.assert_close(stream(block, x, [1, 2, 5, 21, 40]), found, atol=1e-6, rtol=1e-6)
