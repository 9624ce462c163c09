from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from streamasr.layers import Activation, Conv, Dropout, Flatten, Layer, Linear, Norm, lookahead, mask_frames
from streamasr.recurrent import GatedRnn, Rnn, reversal
from streamasr.stack import Residual, Stack
from tests.contract import check_layer, stream

LAYERS: dict[str, tuple[Layer, tuple[int, ...]]] = {
    "conv": (Conv(3, 5, 3, right=1), (3,)),
    "conv, no lookahead": (Conv(3, 5, 4), (3,)),
    "conv, stride 2": (Conv(3, 5, 3, stride=2, right=1), (3,)),
    "conv, all ahead": (lookahead(3, 4), (3,)),
    "conv over bands": (Conv(2, 3, 3, stride=2, right=1, frequencies=7), (2, 7)),
    "norm": (Norm(3), (3,)),
    "norm over bands": (Norm(2), (2, 7)),
    "activation": (Activation(), (3,)),
    "linear": (Linear(3, 4), (3,)),
    "flatten": (Flatten(2, 7, 5), (2, 7)),
    "dropout": (Dropout(0.5), (3,)),
    "lstm": (Rnn(4), (4,)),
    "gated": (GatedRnn(4), (4,)),
    "residual": (Residual([Norm(3), Conv(3, 3, 3, right=1), Activation(), Conv(3, 3, 5, right=2)], (3,)), (3,)),
    "residual gated": (Residual([Norm(4), Conv(4, 4, 3, right=1, groups=4), GatedRnn(4)], (4,)), (4,)),
    "stack": (
        Stack([Conv(3, 4, 3, stride=2, right=1), Residual([Conv(4, 4, 3, right=1)], (4,)), Rnn(4), lookahead(4, 2)]),
        (3,),
    ),
}


@pytest.mark.parametrize("name", LAYERS)
@settings(max_examples=25)
@given(data=st.data())
def test_contract(name: str, data: st.DataObject) -> None:
    layer, shape = LAYERS[name]
    frames = data.draw(st.integers(2, 40))
    cuts = data.draw(st.lists(st.integers(0, frames), max_size=8))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    check_layer(layer, torch.randn(2, *shape, frames, generator=generator), cuts)


def test_stack_folds_stride_and_lookahead() -> None:
    layer = Stack([Conv(1, 1, 3, stride=2, right=1), Conv(1, 1, 5, right=2), Conv(1, 1, 3, stride=2, right=1)])
    assert (layer.stride, layer.right) == (4, 1 + 2 * 2 + 2 * 1)


@pytest.mark.parametrize("kind", [Rnn, GatedRnn, partial(GatedRnn, back=6)])
def test_bidirectional_sees_both_sides_and_no_padding(kind: Callable[..., Rnn | GatedRnn]) -> None:
    layer = kind(4, bidirectional=True)
    x = torch.randn(2, 4, 12)
    lengths = torch.tensor([12, 7])
    with torch.no_grad():
        y = layer(x, lengths)
        alone = layer(x[1:, :, :7], torch.tensor([7]))
        torch.testing.assert_close(y[1:, :, :7], alone)
        changed = x.clone()
        changed[0, :, -1] += 1
        assert not torch.allclose(layer(changed, lengths)[0, :, 0], y[0, :, 0])
    with pytest.raises(TypeError, match="bidirectional"):
        layer.init_state(1)


@pytest.mark.parametrize("back", [0, 6])
def test_both_ways_are_the_same_in_training(back: int) -> None:
    layer, lengths = GatedRnn(4, bidirectional=True, back=back), torch.tensor([12, 7])
    x = torch.randn(2, 4, 12)
    with torch.no_grad():
        expected = layer(x, lengths)
    torch.testing.assert_close(layer(x, lengths).detach(), expected, atol=1e-5, rtol=1e-4)


def test_reversal_keeps_padding_in_place() -> None:
    assert reversal(torch.tensor([4, 2]), 4).tolist() == [[3, 2, 1, 0], [1, 0, 2, 3]]


def test_mask_frames() -> None:
    x = torch.ones(2, 3, 4)
    assert mask_frames(x, torch.tensor([4, 1])).sum().item() == 12 + 3
    assert mask_frames(x, torch.tensor([4, 4])) is x


def test_stream_of_nothing_is_empty() -> None:
    layer = Stack([Conv(3, 4, 3, stride=2, right=1), Rnn(4), lookahead(4, 2)])
    assert stream(layer, torch.zeros(1, 3, 0), []).shape[-1] == 0
