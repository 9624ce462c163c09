from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from streamasr.context import Context
from streamasr.layers import Norm, lookahead
from streamasr.stack import Stack
from tests.contract import check_layer


def head(channels: int) -> Stack:
    torch.manual_seed(0)
    stack = Stack([Norm(channels), lookahead(channels, 2)])
    torch.nn.init.normal_(stack.layers[0].norm.weight)
    return stack.eval().requires_grad_(False)


@settings(max_examples=20)
@given(cuts=st.lists(st.integers(0, 21), max_size=8), channels=st.sampled_from([1, 7, 32]))
def test_prepared_contexts_keep_the_contract(cuts: list[int], channels: int) -> None:
    stack = head(channels)
    stack.prepare("float32")
    check_layer(stack, torch.randn(2, channels, 21), cuts)


@torch.inference_mode()
def test_it_is_norm_and_convolution_and_waits_for_whole_frames() -> None:
    stack = head(5)
    norm, conv = list(stack)
    context = Context(norm.norm, conv.conv)  # type: ignore[attr-defined]
    held, x = torch.randn(3, 5, 2), torch.randn(3, 5, 9)
    assert context(x[..., :0], held) is None
    found = context(x, held)
    assert found is not None
    y, rest = found
    normed = torch.cat([held, norm.apply_frames(x)], -1)  # type: ignore[attr-defined]
    torch.testing.assert_close(y, conv.conv(normed), atol=1e-5, rtol=1e-4)  # type: ignore[attr-defined]
    torch.testing.assert_close(rest, normed[..., -2:], atol=1e-5, rtol=1e-4)
    ended = context(x, held, ended=2)
    assert ended is not None and ended[0].shape[2] == 11
    assert ended[0][..., :9] == pytest.approx(y)
