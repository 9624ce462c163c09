from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from streamasr import narrow


def outputs_and_gradients(function: Callable[..., Tensor], *tensors: Tensor) -> list[Tensor]:
    inputs = [t.clone().requires_grad_() for t in tensors]
    y = function(*inputs)
    (y * torch.sin(torch.arange(y.numel()).view(y.shape).float())).sum().backward()
    return [y.detach(), *(t.grad for t in inputs if t.grad is not None)]


@pytest.mark.parametrize("shape", [(2, 5, 7, 24), (3, 1), (40, 64)])
def test_layer_norm_is_torch_s_with_its_gradients(shape: tuple[int, ...]) -> None:
    torch.manual_seed(1)
    x, weight, bias = torch.randn(shape) * 3 + 1, torch.rand(shape[-1]) + 0.5, torch.randn(shape[-1])
    ours = outputs_and_gradients(lambda a, w, b: narrow.layer_norm(a, w, b, 1e-5), x, weight, bias)
    theirs = outputs_and_gradients(lambda a, w, b: F.layer_norm(a, shape[-1:], w, b, 1e-5), x, weight, bias)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize(("batch", "channels", "frames", "kernel"), [(3, 8, 20, 5), (1, 1, 3, 3), (2, 33, 9, 1)])
def test_depthwise_is_torch_s_with_its_gradients(batch: int, channels: int, frames: int, kernel: int) -> None:
    torch.manual_seed(1)
    x, weight, bias = torch.randn(batch, channels, frames), torch.randn(channels, 1, kernel), torch.randn(channels)
    ours = outputs_and_gradients(narrow.depthwise_conv, x, weight, bias)
    theirs = outputs_and_gradients(lambda a, w, b: F.conv1d(a, w, b, groups=channels), x, weight, bias)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_a_stream_without_gradients_takes_torch_s() -> None:
    assert narrow.suits(torch.zeros(2, 3))
    assert not narrow.suits(torch.zeros(0, 3))
    with torch.no_grad():
        assert not narrow.suits(torch.zeros(2, 3))
