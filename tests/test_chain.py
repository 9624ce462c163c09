from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from streamasr import dense
from streamasr.blocks import RecurrentBlock
from streamasr.chain import Chain, ChainState, chains
from streamasr.config import ModelConfig
from streamasr.layers import Layer
from streamasr.stack import Stack
from tests.contract import check_layer, stream

SHAPE = ModelConfig(rnn="gated", size=16, layers=4, context=5, context_ahead=2)


def chained(precision: str = "float32", **changes: Any) -> Stack:
    torch.manual_seed(0)
    config = ModelConfig(**{**vars(SHAPE), **changes})
    stack = Stack([RecurrentBlock(config, index) for index in range(config.layers)])
    stack.eval().requires_grad_(False)
    for part in stack.modules():
        if isinstance(part, Layer):
            part.prepare(precision)
    stack.chains = chains(stack)
    return stack


@pytest.mark.parametrize("changes", [{}, {"context_ahead": 0}, {"context": 3, "layers": 2}, {"dropout": 0.1}], ids=str)
@settings(max_examples=15)
@given(data=st.data())
def test_blocks_as_one_keep_the_contract(changes: dict[str, Any], data: st.DataObject) -> None:
    frames = data.draw(st.integers(3, 40))
    cuts = data.draw(st.lists(st.integers(0, frames), max_size=8))
    stack = chained(**changes)
    assert list(stack.chains) == [0]
    check_layer(stack, torch.randn(2, 16, frames), cuts)


@torch.inference_mode()
@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("cuts", [[1, 2, 3, 4, 5], [3, 3, 9], [20]])
def test_it_gives_the_same_numbers_as_the_blocks(precision: str, cuts: list[int]) -> None:
    x, together = torch.randn(3, 16, 40), chained(precision)
    apart = chained(precision)
    apart.chains = {}
    torch.testing.assert_close(stream(together, x, cuts), stream(apart, x, cuts), atol=1e-5, rtol=1e-4)


@torch.inference_mode()
def test_a_state_is_one_tensor_and_can_be_parted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    stack, x = chained(), torch.randn(2, 16, 9)
    plain = chained()
    plain.chains = {}
    for count in range(9):
        _, state = stack.step(x[..., :count], stack.init_state(2))
        _, expected = plain.step(x[..., :count], plain.init_state(2))
        assert isinstance(state[0], ChainState) and state[1:] == ((), (), ())
        parted = stack.chains[0].parted(state)
        for one, other in zip(_tensors(parted), _tensors(expected), strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
        _, after = stack.step(x, expected)  # a state of before the blocks were joined
        torch.testing.assert_close(_tensors(after)[0], _tensors(stack.step(x, state)[1])[0], atol=1e-5, rtol=1e-4)
    y, after = stack.step(x, state)
    monkeypatch.setattr(dense.Dense, "suits", lambda *_: False)  # too many rows for the compiled products
    large, held = stack.step(x, state)
    torch.testing.assert_close(large, y, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(_tensors(held)[0], _tensors(after)[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(stack.end(x, state), plain.end(x, expected), atol=1e-5, rtol=1e-4)


def _tensors(state: Any) -> list[Tensor]:
    return [state] if isinstance(state, Tensor) else [tensor for part in state for tensor in _tensors(part)]


def test_only_blocks_in_a_row_that_can_be_are_joined() -> None:
    lstm = ModelConfig(rnn="lstm", size=16, layers=2, context=5)
    gated = [RecurrentBlock(SHAPE, index) for index in (0, 1, 2, 0)]
    for block in gated:
        block.prepare("float32")
    layers = [RecurrentBlock(lstm, 0), *gated[:3], RecurrentBlock(lstm, 1), gated[3]]
    found = chains(layers)
    assert list(found) == [1]
    assert cast(Chain, found[1]).blocks == gated[:3]
    assert list(chains([gated[2], gated[0], gated[1]])) == [1]  # those that look ahead come first
