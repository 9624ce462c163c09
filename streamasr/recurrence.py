"""The linear recurrence m[t] = keep[t] * m[t-1] + new[t] over whole utterances, with its gradient.

On the CPU a compiled loop; on the GPU a parallel scan of log2(T) steps (Hillis, Steele, "Data Parallel Algorithms",
1986).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def _scan(keep: Tensor, new: Tensor) -> Tensor:
    """Parallel scan over the first axis; differentiable by torch."""
    reach = 1
    while reach < new.shape[0]:
        new = torch.cat([new[:reach], torch.addcmul(new[reach:], keep[reach:], new[:-reach])])
        keep = torch.cat([keep[:reach], keep[reach:] * keep[:-reach]])
        reach *= 2
    return new


class _Loop(torch.autograd.Function):
    """The recurrence as a loop over frames, compiled for the CPU."""

    @staticmethod
    def forward(ctx: Any, keep: Tensor, new: Tensor) -> Tensor:
        from streamasr.recurrence_cpu import loop

        keep, memory = keep.contiguous(), new.contiguous().clone()
        count = memory[0].numel()
        loop(keep.view(-1, count).numpy(), memory.view(-1, count).numpy())
        ctx.save_for_backward(keep, memory)
        return memory

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        from streamasr.recurrence_cpu import loop_back

        keep, memory = ctx.saved_tensors
        toward_new = gradients[0].contiguous().clone()
        toward_keep = torch.empty_like(keep)
        count = memory[0].numel()
        loop_back(*(t.view(-1, count).numpy() for t in (keep, memory, toward_new, toward_keep)))
        return toward_keep, toward_new


def recur(keep: Tensor, new: Tensor) -> Tensor:
    """m[t] = keep[t] * m[t-1] + new[t] with m[-1] = 0, for (T, B, C)."""
    if keep.device.type != "cpu" or new.shape[0] == 0:
        return _scan(keep, new)
    low = new.dtype
    memory: Tensor = _Loop.apply(keep.float(), new.float())  # type: ignore[no-untyped-call]
    return memory.to(low)
