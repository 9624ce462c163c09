"""Where bfloat16 pays: on GPUs, and on processors with instructions for it; on others it is up to 60 times slower."""

from __future__ import annotations

import functools

import torch


@functools.cache
def has_bfloat16(device_type: str) -> bool:
    """Whether a device ("cuda", "cpu") multiplies numbers of bfloat16 by itself."""
    if device_type != "cpu":
        return True
    return any(there for name, there in torch.cpu.get_capabilities().items() if name.endswith("bf16"))


def product_type(device_type: str) -> torch.dtype:
    """The type of products that need few digits."""
    return torch.bfloat16 if has_bfloat16(device_type) else torch.float32
