"""Pieces of the network with their gradients for training on the CPU: the loops of `fused_cpu` as torch functions.

Results are of the type that autocast wants (bfloat16 or float32). Streams take other paths, with equal results.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def suits(x: Tensor) -> bool:
    """Whether these loops serve x: on the CPU, with a gradient to come."""
    return x.device.type == "cpu" and torch.is_grad_enabled() and x.numel() > 0


def _compute_type() -> torch.dtype:
    return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32


class _RectifiedNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, lengths: Tensor, margins: tuple[int, int], weight: Tensor, bias: Tensor, epsilon: float
    ) -> Tensor:
        from streamasr.fused_cpu import rectified_norm
        from streamasr.words import words

        batch, bands, frames, channels = x.shape
        left, right = margins
        y = torch.empty(batch, bands, left + frames + right, channels, dtype=_compute_type())
        rows = words(x).reshape(-1, frames, channels)
        into = words(y).reshape(batch * bands, -1, channels)
        rectified_norm(rows, lengths.numpy(), bands, left, weight.numpy(), bias.numpy(), epsilon, into)
        ctx.save_for_backward(x, lengths, weight, bias)
        ctx.left, ctx.epsilon = left, epsilon
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, Tensor, Tensor, None]:
        from streamasr.fused_cpu import rectified_norm_back
        from streamasr.words import words

        x, lengths, weight, bias = ctx.saved_tensors
        batch, bands, frames, channels = x.shape
        toward_x, toward_weight, toward_bias = torch.empty_like(x), torch.zeros_like(weight), torch.zeros_like(bias)
        rectified_norm_back(
            words(gradients[0].contiguous()).reshape(batch * bands, -1, channels),
            words(x).reshape(-1, frames, channels),
            lengths.numpy(),
            bands,
            ctx.left,
            weight.numpy(),
            bias.numpy(),
            ctx.epsilon,
            words(toward_x).reshape(-1, frames, channels),
            toward_weight.numpy(),
            toward_bias.numpy(),
        )
        return toward_x, None, None, toward_weight, toward_bias, None


class _NormAndContext(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        lengths: Tensor,
        right: int,
        weight: Tensor,
        bias: Tensor,
        epsilon: float,
        kernel: Tensor,
        offset: Tensor,
    ) -> Tensor:
        from streamasr.fused_cpu import norm_and_context
        from streamasr.words import words

        y = torch.empty(x.shape, dtype=_compute_type())
        arrays = weight.numpy(), bias.numpy(), epsilon, kernel.numpy(), offset.numpy()
        norm_and_context(x.numpy(), lengths.numpy(), right, *arrays, words(y))
        ctx.save_for_backward(x, lengths, weight, bias, kernel)
        ctx.right, ctx.epsilon = right, epsilon
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        from streamasr.fused_cpu import norm_and_context_back
        from streamasr.words import words

        x, lengths, weight, bias, kernel = ctx.saved_tensors
        toward_x = torch.empty_like(x)
        toward = [torch.zeros_like(each) for each in (weight, bias, kernel, bias)]
        norm_and_context_back(
            words(gradients[0].contiguous()),
            x.numpy(),
            lengths.numpy(),
            ctx.right,
            weight.numpy(),
            bias.numpy(),
            ctx.epsilon,
            kernel.numpy(),
            toward_x.numpy(),
            *(each.numpy() for each in toward),
        )
        return toward_x, None, None, toward[0], toward[1], None, toward[2], toward[3]


class _GatedMemory(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gates: Tensor) -> Tensor:
        from streamasr.fused_cpu import gated_memory
        from streamasr.words import words

        shape = (*gates.shape[:2], gates.shape[3])
        memory, y = torch.empty(shape), torch.empty(shape, dtype=gates.dtype)
        gated_memory(words(gates), memory.numpy(), words(y))
        ctx.save_for_backward(gates, memory)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        from streamasr.fused_cpu import gated_memory_back
        from streamasr.words import words

        gates, memory = ctx.saved_tensors
        toward = torch.empty_like(gates)
        gated_memory_back(words(gradients[0].contiguous()), words(gates), memory.numpy(), words(toward))
        return toward


def rectified_norm(
    x: Tensor, lengths: Tensor, margins: tuple[int, int], weight: Tensor, bias: Tensor, epsilon: float
) -> Tensor:
    """relu(layer norm) over the channels, zero beyond `lengths`, with `margins` of zeros around it in time.

    (B, C, F, T) to (B, C, F, left + T + right), channels last in memory.
    """
    frames = x.permute(0, 2, 3, 1).contiguous()  # (B, F, T, C)
    y: Tensor = _RectifiedNorm.apply(frames, lengths, margins, weight, bias, epsilon)  # type: ignore[no-untyped-call]
    return y.permute(0, 3, 1, 2)


def norm_and_context(
    x: Tensor,
    lengths: Tensor,
    right: int,
    weight: Tensor,
    bias: Tensor,
    epsilon: float,
    kernel: Tensor,
    offset: Tensor,
) -> Tensor:
    """Depthwise convolution over time of the normalised frames: (B, T, C) to (B, T, C).

    Args:
        right: taps that look ahead.
        kernel: (C, 1, K), torch's layout.
    """
    taps = kernel[:, 0].t().contiguous()
    return _NormAndContext.apply(  # type: ignore[no-any-return, no-untyped-call]
        x.float().contiguous(), lengths, right, weight, bias, epsilon, taps, offset
    )


def gated_memory(gates: Tensor) -> Tensor:
    """m[t] = f m[t-1] + (1 - f) z, out m * silu(o), from z, sigmoid^-1(f) and o in (B, T, 3, C): to (B, T, C)."""
    return _GatedMemory.apply(gates.contiguous())  # type: ignore[no-any-return, no-untyped-call]
