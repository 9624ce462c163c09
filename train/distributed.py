"""Several processes started by torchrun, on one machine or many; without torchrun, one process and nothing to do.

Gradients are summed by hand, in one flat tensor a step: the network is small, batches are dealt out by utterances, and
the loss is divided by the tokens of all processes, so that the sum is what one process would have computed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.nn import functional as _imported_before_joining  # noqa: F401  see leave()

PATIENCE = timedelta(hours=6)  # others wait while the first process downloads, evaluates and releases


def rank() -> int:
    """Number of this process, over all machines."""
    return int(os.environ.get("RANK", 0))


def local_rank() -> int:
    """Number of this process on its machine."""
    return int(os.environ.get("LOCAL_RANK", 0))


def world() -> int:
    """Number of processes."""
    return int(os.environ.get("WORLD_SIZE", 1))


def join(device: str) -> str:
    """Meet the other processes; returns the device of this one. "auto" is the GPU, where there is one."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        device = f"cuda:{local_rank()}"
        torch.cuda.set_device(device)
    if world() > 1 and not distributed.is_initialized():
        store, number, count = next(distributed.rendezvous("env://", timeout=PATIENCE))
        distributed.init_process_group(
            "nccl" if device.startswith("cuda") else "gloo",
            store=distributed.PrefixStore(_attempt(), store),
            rank=number,
            world_size=count,
            timeout=PATIENCE,
        )
    return device


def _attempt() -> str:
    """A name that is new after every restart.

    torchrun keeps its store over restarts, and what the processes of the attempt before left in it would be taken for
    addresses of living ones. On several machines the counts differ, so that there each restart must get its own store:
    TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in torchrun's environment (see README.md).
    """
    alone = os.environ.get("GROUP_WORLD_SIZE", "1") == "1"
    return f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}" if alone else "attempt"


def leave() -> None:
    """Part from the other processes.

    Nothing may hold the group after this: its threads would outlive it and abort the process where Python ends before
    they do. Functions of torch.distributed.nn take the group that there is when they are imported as a default, and
    optimisers import them; so they are imported with this module, before there is one.
    """
    if distributed.is_initialized():
        distributed.destroy_process_group()


def wait() -> None:
    """Until all processes have come here."""
    if distributed.is_initialized():
        distributed.barrier()


def share(value: Any) -> Any:
    """The first process's value, everywhere."""
    if not distributed.is_initialized():
        return value
    box = [value]
    distributed.broadcast_object_list(box)
    return box[0]


def total(values: list[float], device: str) -> list[float]:
    """Sums over all processes."""
    if not distributed.is_initialized():
        return values
    sums = torch.tensor(values, dtype=torch.float64, device=device)
    distributed.all_reduce(sums)
    return sums.tolist()  # type: ignore[no-any-return]


def sum_gradients(model: nn.Module) -> None:
    """Replace the gradients by their sums over all processes."""
    if not distributed.is_initialized():
        return
    parameters = [p for p in model.parameters() if p.requires_grad]
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    sum_tensors([p.grad for p in parameters if p.grad is not None])


def sum_tensors(tensors: list[Tensor]) -> None:
    """Replace tensors by their sums over all processes."""
    if distributed.is_initialized():
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        distributed.all_reduce(flat)
        _copy_back(flat, tensors)


def copy_from_first(model: nn.Module) -> None:
    """Give every process the first one's weights and buffers."""
    if distributed.is_initialized():
        for tensor in [*model.parameters(), *model.buffers()]:
            content = tensor.detach().contiguous()
            distributed.broadcast(content, 0)
            tensor.detach().copy_(content)


def _copy_back(flat: Tensor, tensors: Iterable[Tensor]) -> None:
    at = 0
    for tensor in tensors:
        tensor.copy_(flat[at : at + tensor.numel()].view_as(tensor))
        at += tensor.numel()
