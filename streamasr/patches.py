"""Two-dimensional convolutions of short chunks on the CPU, as matrix products; a normalisation before it included.

Torch's convolution costs as much for its preparations as for its arithmetic where a chunk is a few frames.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

KERNEL = 3
HEARD, LARGEST = 255, 127  # the largest whole number that is heard, and of a matrix


def lines(x: Tensor) -> Tensor:
    """(B, C, F, T) as (B, T, F, C), the order in memory of what `Patches` gives."""
    return x.permute(0, 3, 2, 1).contiguous()


class Kernel:
    """The matrix of a 3 x 3 convolution as compiled loops take it, in whole numbers where those are faster.

    Args:
        conv: its padding is one band on either side and no frame.
        norm: a layer normalisation over channels, with rectification, before it.
        precision: float32, or int8 for whole numbers of 8 bits.
    """

    def __init__(self, conv: nn.Conv2d, norm: nn.LayerNorm | None, precision: str) -> None:
        from streamasr.patches_cpu import MULTIPLE, laid_out

        assert conv.kernel_size == (KERNEL, KERNEL) and conv.bias is not None and conv.groups == 1
        weight = conv.weight.data.permute(3, 2, 1, 0)  # (frame, band, input, output)
        matrix = weight.reshape(-1, weight.shape[3])
        scale, shift = (norm.weight.data, norm.bias.data) if norm else 2 * (torch.zeros(0),)
        self.scale, self.shift, self.bias = scale.numpy(), shift.numpy(), conv.bias.data.numpy()
        self.epsilon, self.stride = norm.eps if norm else 0.0, conv.stride[0]
        self.unit, self.size = 1.0, torch.ones(matrix.shape[1]).numpy()
        if norm and precision == "int8" and MULTIPLE and len(scale) % MULTIPLE == 0:
            bound = float((scale.abs() * math.sqrt(len(scale) - 1) + shift).clamp(min=1e-6).max())  # of what is heard
            size = (matrix.abs().amax(0) / LARGEST).clamp(min=1e-12)
            matrix = torch.round(matrix / size).to(torch.int8)
            self.unit, self.size = bound / HEARD, (size * bound / HEARD).numpy()
        self.matrix = laid_out(matrix.contiguous().numpy())


class Patches:
    """A 3 x 3 convolution of frames in a stream, prepared once; see `Kernel`."""

    def __init__(self, conv: nn.Conv2d, norm: nn.LayerNorm | None = None, precision: str = "float32") -> None:
        self._kernel = Kernel(conv, norm, precision)

    def __call__(self, x: Tensor, held: Tensor, ended: int = 0) -> tuple[Tensor, Tensor] | None:
        """Next frames and those before them, (B, C, F, T), to the outputs (B, C', F', T') and what is held after them.

        None where no output is complete. `ended`: frames of zeros that come after x, behind the normalisation.
        """
        from streamasr.patches_cpu import convolution

        k = self._kernel
        new, old = lines(x), lines(held)
        batch, count, bands, channels = new.shape
        outputs = (old.shape[1] + count + ended - KERNEL) // k.stride + 1
        if outputs <= 0:
            return None
        frames = new.new_empty(batch, old.shape[1] + count + ended, bands, channels)
        if ended:
            frames[:, old.shape[1] + count :] = 0
        narrowed = (bands - 1) // k.stride + 1
        y = new.new_empty(batch, outputs, narrowed, len(k.bias))
        given = (new.numpy(), old.numpy(), k.scale, k.shift, k.epsilon, k.stride, k.unit)
        convolution(*given, k.matrix, k.size, k.bias, frames.numpy(), y.numpy())
        return y.permute(0, 3, 2, 1), frames[:, outputs * k.stride :].permute(0, 3, 2, 1)


class ResidualPatches:
    """x + conv(relu(norm(conv(relu(norm(x)))))) of frames in a stream, prepared once; the convolutions as in `Patches`.

    Args:
        pairs: convolutions of one frame of lookahead and stride 1, and the normalisations before them.
    """

    def __init__(self, pairs: Sequence[tuple[nn.LayerNorm, nn.Conv2d]], precision: str) -> None:
        first, second = (Kernel(conv, norm, precision) for norm, conv in pairs)
        self._norms = np.stack([first.scale, first.shift, second.scale, second.shift])
        self._numbers = np.array([first.epsilon, second.epsilon, first.unit, second.unit], np.float32)
        self._matrices = first.matrix, second.matrix
        self._columns = np.stack([first.size, first.bias, second.size, second.bias])

    def __call__(
        self, x: Tensor, held: Tensor, between: Tensor, skipped: Tensor, ended: int = 0
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Next frames (B, C, F, T), those before each convolution, and inputs whose outputs are still to come.

        Returns:
            outputs (B, C, F, T'), and what each convolution holds then. `ended`: one frame of zeros comes after x.
        """
        from streamasr.patches_cpu import HELD, residual

        new, *before = (lines(each) for each in (x, held, between, skipped))
        batch, count, bands, channels = new.shape
        known, outputs, after = count, count, []
        for each in before[:2]:
            known = each.shape[1] + outputs
            outputs = max(0, known + ended - HELD)
            after.append(new.new_empty(batch, 0 if ended else known - outputs, bands, channels))
        y = new.new_empty(batch, outputs, bands, channels)
        given, written = ([each.numpy() for each in tensors] for tensors in ((new, *before), (*after, y)))
        arguments: tuple[Any, ...] = (
            *given,
            ended,
            self._norms,
            self._numbers,
            *self._matrices,
            self._columns,
            *written,
        )
        residual(*arguments)
        found = [each.permute(0, 3, 2, 1) for each in (y, *after)]
        return found[0], found[1], found[2]
