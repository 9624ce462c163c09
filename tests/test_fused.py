from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from streamasr import fused

LENGTHS = torch.tensor([17, 1, 12])


def outputs_and_gradients(function: Callable[..., Tensor], *tensors: Tensor) -> list[Tensor]:
    inputs = [t.clone().requires_grad_() for t in tensors]
    y = function(*inputs).float()
    (y * torch.sin(torch.arange(y.numel()).view(y.shape).float())).sum().backward()
    return [y.detach(), *(t.grad.float() for t in inputs if t.grad is not None)]


def agree(ours: list[Tensor], theirs: list[Tensor], precision: torch.dtype) -> None:
    for one, other in zip(ours, theirs, strict=True):
        bound = 2e-5 if precision == torch.float32 else 2e-2
        assert (one - other).abs().max() <= bound * (1 + other.abs().max())


def within(frames: int) -> Tensor:
    return torch.arange(frames) < LENGTHS[:, None]  # (B, T)


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def precision(request: pytest.FixtureRequest) -> torch.dtype:
    torch.manual_seed(1)
    return request.param  # type: ignore[no-any-return]


@pytest.mark.parametrize("margins", [(0, 0), (2, 1)])
def test_rectified_norm_is_torch_s_with_its_gradients(precision: torch.dtype, margins: tuple[int, int]) -> None:
    x, weight, bias = torch.randn(3, 6, 4, 17).to(precision), torch.rand(6) + 0.5, torch.randn(6)

    def ours(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
            y = fused.rectified_norm(x, LENGTHS, margins, weight, bias, 1e-5)
        assert y.dtype == precision
        assert y.is_contiguous(memory_format=torch.channels_last)
        return y

    def theirs(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        y = F.relu(F.layer_norm(x.float().movedim(1, -1), (6,), weight, bias, 1e-5)).movedim(-1, 1)
        return F.pad(y * within(17)[:, None, None], margins)

    agree(*(outputs_and_gradients(function, x, weight, bias) for function in (ours, theirs)), precision)


@pytest.mark.parametrize(("kernel", "right"), [(5, 1), (3, 2), (1, 0)])
def test_norm_and_context_is_torch_s_with_its_gradients(precision: torch.dtype, kernel: int, right: int) -> None:
    tensors = torch.randn(3, 17, 6), torch.rand(6) + 0.5, torch.randn(6), torch.randn(6, 1, kernel), torch.randn(6)

    def ours(x: Tensor, weight: Tensor, bias: Tensor, taps: Tensor, offset: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
            y = fused.norm_and_context(x, LENGTHS, right, weight, bias, 1e-5, taps, offset)
        assert y.dtype == precision
        return y

    def theirs(x: Tensor, weight: Tensor, bias: Tensor, taps: Tensor, offset: Tensor) -> Tensor:
        normed = F.layer_norm(x, (6,), weight, bias, 1e-5) * within(17)[..., None]
        padded = F.pad(normed.transpose(1, 2), (kernel - 1 - right, right))
        return F.conv1d(padded, taps, offset, groups=6).transpose(1, 2)

    agree(*(outputs_and_gradients(function, *tensors) for function in (ours, theirs)), precision)


def test_gated_memory_is_the_recurrence_with_its_gradients(precision: torch.dtype) -> None:
    def theirs(gates: Tensor) -> Tensor:
        z, f, o = gates.float().unbind(2)
        memory, frames = torch.zeros(3, 6), []
        for t in range(gates.shape[1]):
            keep = torch.sigmoid(f[:, t])
            memory = keep * memory + (1 - keep) * z[:, t]
            frames.append(memory * F.silu(o[:, t]))
        return torch.stack(frames, 1)

    gates = torch.randn(3, 17, 3, 6).to(precision)
    agree(*(outputs_and_gradients(function, gates) for function in (fused.gated_memory, theirs)), precision)


def test_streams_take_other_paths() -> None:
    assert fused.suits(torch.zeros(2, 3))
    assert not fused.suits(torch.zeros(0, 3))
    with torch.no_grad():
        assert not fused.suits(torch.zeros(2, 3))
