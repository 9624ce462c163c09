"""Two-dimensional convolutions of short chunks on the CPU, as matrix products; a normalisation before it included.

Torch's convolution costs as much for its preparations as for its arithmetic where a chunk is a few frames.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

KERNEL = 3


def lines(x: Tensor) -> Tensor:
    """(B, C, F, T) as (B, T, F, C), the order in memory of what `Patches` gives."""
    return x.permute(0, 3, 2, 1).contiguous()


class Patches:
    """A 3 x 3 convolution of frames in a stream, prepared once.

    Args:
        conv: its padding is one band on either side and no frame.
        norm: a layer normalisation over channels, with rectification, before it.
    """

    def __init__(self, conv: nn.Conv2d, norm: nn.LayerNorm | None = None) -> None:
        from streamasr.patches_cpu import LANES, WIDE
        from streamasr.tiles_cpu import panels

        assert conv.kernel_size == (KERNEL, KERNEL) and conv.bias is not None and conv.groups == 1
        weight = conv.weight.data.permute(2, 3, 1, 0)  # (band, frame, input, output)
        self._weight = panels(weight.reshape(-1, weight.shape[3]).contiguous().numpy(), LANES, WIDE)
        self._bias = conv.bias.data.numpy()
        self._stride = conv.stride[0]
        scale, shift = (norm.weight.data, norm.bias.data) if norm else 2 * (torch.zeros(0),)
        self._scale, self._shift = scale.numpy(), shift.numpy()
        self._epsilon = norm.eps if norm else 0.0

    def __call__(self, x: Tensor, held: Tensor, ended: int = 0) -> tuple[Tensor, Tensor] | None:
        """Next frames and those before them, (B, C, F, T), to the outputs (B, C', F', T') and what is held after them.

        None where no output is complete. `ended`: frames of zeros that come after x, behind the normalisation.
        """
        from streamasr.patches_cpu import convolution

        new, old = lines(x), lines(held)
        batch, count, bands, channels = new.shape
        outputs = (old.shape[1] + count + ended - KERNEL) // self._stride + 1
        if outputs <= 0:
            return None
        frames = new.new_empty(batch, old.shape[1] + count + ended, bands, channels)
        if ended:
            frames[:, old.shape[1] + count :] = 0
        narrowed = (bands - 1) // self._stride + 1
        y = new.new_empty(batch, outputs, narrowed, len(self._bias))
        given = (new.numpy(), old.numpy(), self._scale, self._shift, self._epsilon, self._stride)
        convolution(*given, self._weight, self._bias, frames.numpy(), y.numpy())
        return y.permute(0, 3, 2, 1), frames[:, outputs * self._stride :].permute(0, 3, 2, 1)
