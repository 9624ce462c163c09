"""A normalisation and the depthwise convolution after it, in a stream on the CPU, as one compiled call."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn


class Context:
    """A layer normalisation over channels and a depthwise convolution over time, prepared once.

    `arrays` is as `dense_cpu.norm_and_context` takes them: weight, bias, epsilon, kernel (K, C), offset.
    """

    def __init__(self, norm: nn.LayerNorm, conv: nn.Conv1d) -> None:
        kernel = conv.weight.data[:, 0].t().contiguous()  # (K, C)
        weights = norm.weight.data.numpy(), norm.bias.data.numpy(), norm.eps
        self.taps = len(kernel)
        self.arrays: tuple[Any, ...] = (*weights, kernel.numpy(), cast(Tensor, conv.bias).data.numpy())

    def __call__(self, x: Tensor, held: Tensor, ended: int = 0) -> tuple[Tensor, Tensor] | None:
        """Next frames and those before them, (B, C, T), to the outputs (B, C, T') and what is held after them.

        None where no output is complete. `ended`: frames of zeros that come after x, behind the normalisation.
        """
        count = held.shape[2] + x.shape[2] + ended - self.taps + 1
        if count <= 0:
            return None
        from streamasr.dense_cpu import norm_and_context

        frames, before = x.permute(2, 0, 1).contiguous(), held.permute(2, 0, 1).contiguous()  # (T, B, C)
        known = len(before) + len(frames)
        normed, y = frames.new_empty(known + ended, *frames.shape[1:]), frames.new_empty(count, *frames.shape[1:])
        if ended:
            normed[known:] = 0
        arguments: tuple[Any, ...] = (frames.numpy(), before.numpy(), *self.arrays, normed.numpy(), y.numpy())
        norm_and_context(*arguments)
        return y.permute(1, 2, 0), normed[count:].permute(1, 2, 0)
