"""Layer normalisation of few channels, and depthwise convolution, with their gradients: compiled loops for the CPU.

Torch's own are several times as slow on the CPU where an example has few channels or each channel its own kernel; the
front of the network consists of the first, its recurrent layers of the second. Used in training; streams take torch's.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

WIDEST = 64  # channels


def suits(x: Tensor) -> bool:
    """Whether these loops serve x: on the CPU, with a gradient to come."""
    return x.device.type == "cpu" and torch.is_grad_enabled() and x.numel() > 0


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
        from streamasr.narrow_cpu import norm

        x = x.contiguous()
        rows = x.view(-1, x.shape[-1])
        y, moments = torch.empty_like(rows), rows.new_empty(len(rows), 2)
        norm(rows.numpy(), weight.numpy(), bias.numpy(), epsilon, y.numpy(), moments.numpy())
        ctx.save_for_backward(x, weight, moments)
        return y.view(x.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        from streamasr.narrow_cpu import norm_back

        x, weight, moments = ctx.saved_tensors
        channels = x.shape[-1]
        toward_x, toward_weight, toward_bias = torch.empty_like(x), torch.zeros(channels), torch.zeros(channels)
        norm_back(
            gradients[0].float().contiguous().view(-1, channels).numpy(),
            x.view(-1, channels).numpy(),
            weight.numpy(),
            moments.numpy(),
            toward_x.view(-1, channels).numpy(),
            toward_weight.numpy(),
            toward_bias.numpy(),
        )
        return toward_x, toward_weight, toward_bias, None


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        from streamasr.narrow_cpu import depthwise

        x, kernel = x.contiguous(), weight.t().contiguous()
        y = x.new_empty(x.shape[0], x.shape[1] - kernel.shape[0] + 1, x.shape[2])
        depthwise(x.numpy(), kernel.numpy(), bias.numpy(), y.numpy())
        ctx.save_for_backward(x, kernel)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        from streamasr.narrow_cpu import depthwise_back

        x, kernel = ctx.saved_tensors
        toward_x, toward_kernel, toward_bias = torch.zeros_like(x), torch.zeros_like(kernel), x.new_zeros(x.shape[2])
        depthwise_back(
            gradients[0].float().contiguous().numpy(),
            x.numpy(),
            kernel.numpy(),
            toward_x.numpy(),
            toward_kernel.numpy(),
            toward_bias.numpy(),
        )
        return toward_x, toward_kernel.t(), toward_bias


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
    """As torch's layer_norm over the last axis, in float32: (..., C) to (..., C)."""
    return _Norm.apply(x.float(), weight, bias, epsilon)  # type: ignore[no-any-return, no-untyped-call]


def depthwise_conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Each channel's own kernel over time, without padding, in float32: (B, C, T) to (B, C, T - K + 1).

    Args:
        weight: (C, 1, K), torch's layout.
        bias: (C,).
    """
    y: Tensor = _Depthwise.apply(x.float().transpose(1, 2), weight[:, 0], bias)  # type: ignore[no-untyped-call]
    return y.transpose(1, 2)
