"""Layers that run on whole utterances in training and on chunks of any size in a stream, with equal results.

The contract: a layer begins with `left` zeros in its buffer, works without padding, keeps the remainder, and emits
only frames whose whole context is there. `right` zeros enter only in its own `flush`. In `forward`, a layer that sees
the future takes frames beyond an utterance's length for zeros, whatever they hold, so that an utterance in a padded
batch gives the same outputs as alone. Time is the last axis.

A state is a NamedTuple of tensors, batch first, and is never changed in place.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from streamasr import fused
from streamasr.dense import Dense
from streamasr.patches import KERNEL, Patches, lines

State: TypeAlias = Any  # a NamedTuple of tensors, or a tuple of such states


def mask_frames(x: Tensor, lengths: Tensor) -> Tensor:
    """Zero the frames of x (B, ..., T) at and beyond `lengths` (B,)."""
    if int(lengths.min()) >= x.shape[-1]:
        return x
    keep = torch.arange(x.shape[-1], device=x.device) < lengths[:, None]  # (B, T)
    return x * keep.reshape(x.shape[0], *[1] * (x.dim() - 2), x.shape[-1])


def serves(x: Tensor) -> bool:
    """Whether prepared weights serve x: on the CPU, without a gradient, and with something in it."""
    return x.is_cpu and not torch.is_grad_enabled() and x.numel() > 0


class Layer(nn.Module):
    """One layer. `stride` is input frames per output frame, `right` the input frames of lookahead."""

    stride: int = 1
    right: int = 0

    def output_lengths(self, lengths: Tensor) -> Tensor:
        """Output frames of utterances of `lengths` input frames."""
        return (lengths + self.stride - 1) // self.stride

    def prepare(self, precision: str) -> None:
        """Lay the weights out for streams on the CPU, in `float32` or `int8`; they must not change after that."""

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Whole utterances, padded to one length: (B, C, T) or (B, C, F, T); frames beyond `lengths` mean nothing."""
        raise TypeError(f"{type(self).__name__} has no forward")

    def init_state(self, batch: int) -> State:
        """The state before the first frame."""
        raise TypeError(f"{type(self).__name__} cannot stream")

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """The frames that `x` completes (there may be none), and the next state."""
        raise TypeError(f"{type(self).__name__} cannot stream")

    def flush(self, state: State) -> Tensor | None:
        """The frames still held back, as if the stream ended here; None if never any. `state` stays valid."""
        raise TypeError(f"{type(self).__name__} cannot stream")

    def end(self, x: Tensor, state: State) -> Tensor:
        """All that is still to come where the stream ends with the frames x: `step` and `flush` at once."""
        y, held = self.step(x, state)
        rest = self.flush(held)
        return y if rest is None else torch.cat([y, rest], -1)


class ConvState(NamedTuple):
    """Frames that further outputs need, (B, C, T) or (B, C, F, T)."""

    frames: Tensor


class Conv(Layer):
    """Convolution over time, or over frequency and time; bounded lookahead of `right` frames.

    With `frequencies` input bands it is two-dimensional and `kernel` x `kernel`, bands padded to keep their number
    (divided by the stride); else one-dimensional. `groups` as in torch.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        stride: int = 1,
        right: int = 0,
        groups: int = 1,
        frequencies: int | None = None,
    ) -> None:
        super().__init__()
        self.stride, self.right, self.left = stride, right, kernel - 1 - right
        self.kernel, self.inputs, self.outputs, self.frequencies = kernel, inputs, outputs, frequencies
        self.depthwise = frequencies is None and groups == inputs == outputs and stride == 1
        self.conv: nn.Conv1d | nn.Conv2d
        if frequencies is None:
            self.conv = nn.Conv1d(inputs, outputs, kernel, stride, groups=groups)
        else:
            self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=(kernel // 2, 0), groups=groups)
        self._patches: Patches | None = None

    @property
    def has_patches(self) -> bool:
        """Whether `Patches` can be made of it."""
        return isinstance(self.conv, nn.Conv2d) and self.kernel == KERNEL and self.conv.groups == 1

    def prepare(self, precision: str) -> None:
        self._patches = self.patches(precision)

    def patches(self, precision: str, norm: nn.LayerNorm | None = None) -> Patches | None:
        """Prepared for streams on the CPU, after a normalisation and rectification; None where its form is another."""
        return Patches(cast(nn.Conv2d, self.conv), norm, precision) if self.has_patches else None

    def _shape(self, batch: int, channels: int, frames: int) -> tuple[int, ...]:
        if self.frequencies is None:
            return batch, channels, frames
        return batch, channels, self.frequencies, frames

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        return self.apply_padded(F.pad(mask_frames(x, lengths), (self.left, self.right)))

    def apply_padded(self, x: Tensor) -> Tensor:
        """The whole convolution of frames with `left` and `right` further ones around them."""
        y: Tensor = self.conv(x)
        return y if y.dim() < 4 else y.contiguous(memory_format=torch.channels_last)

    def init_state(self, batch: int) -> ConvState:
        return ConvState(self.conv.weight.new_zeros(self._shape(batch, self.inputs, self.left)))

    def step(self, x: Tensor, state: ConvState) -> tuple[Tensor, ConvState]:
        if self._patches and serves(x) and (done := self._patches(x, state.frames)):
            return done[0], ConvState(done[1])
        held = torch.cat([state.frames, x], -1)
        count = max(0, (held.shape[-1] - self.kernel) // self.stride + 1)
        rest = ConvState(held[..., count * self.stride :])
        if count == 0:
            shape = list(self._shape(x.shape[0], self.outputs, 0))
            if self.frequencies is not None:
                shape[2] = -(-self.frequencies // self.stride)
            return held.new_zeros(shape), rest
        return self.conv(held[..., : (count - 1) * self.stride + self.kernel]), rest

    def flush(self, state: ConvState) -> Tensor:
        shape = self._shape(state.frames.shape[0], self.inputs, self.right)
        return self.step(state.frames.new_zeros(shape), state)[0]

    def end(self, x: Tensor, state: ConvState) -> Tensor:
        return self.step(F.pad(x, (0, self.right)), state)[0]


class Pointwise(Layer):
    """A layer that treats every frame by itself; it holds nothing."""

    def apply_frames(self, x: Tensor) -> Tensor:
        """x (B, ..., T) to (B, ..., T), frame by frame."""
        raise TypeError(f"{type(self).__name__} has no apply_frames")

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        return self.apply_frames(x)

    def init_state(self, batch: int) -> tuple[()]:
        return ()

    def step(self, x: Tensor, state: tuple[()]) -> tuple[Tensor, tuple[()]]:
        return self.apply_frames(x), state

    def flush(self, state: tuple[()]) -> Tensor | None:
        return None

    def end(self, x: Tensor, state: tuple[()]) -> Tensor:
        return self.apply_frames(x)


class Norm(Pointwise):
    """Layer normalisation over the channels of each frame (and band): (B, C, T) or (B, C, F, T).

    Source: Ba, Kiros, Hinton, "Layer Normalization", 2016.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def apply_frames(self, x: Tensor) -> Tensor:
        if x.dim() == 4 and x.stride(3) > x.stride(2):  # as `patches.lines` lays it out
            return self.norm(x.permute(0, 3, 2, 1)).permute(0, 3, 2, 1)  # type: ignore[no-any-return]
        return self.norm(x.movedim(1, -1)).movedim(-1, 1)  # type: ignore[no-any-return]

    def rectified(self, x: Tensor, lengths: Tensor, margins: tuple[int, int]) -> Tensor:
        """relu of it, zero beyond `lengths`, with margins of zeros in time; in training on the CPU."""
        return fused.rectified_norm(x, lengths, margins, self.norm.weight, self.norm.bias, self.norm.eps)

    def with_context(self, x: Tensor, lengths: Tensor, context: Conv) -> Tensor:
        """The depthwise convolution `context` of it: (B, C, T) to (B, C, T); in training on the CPU."""
        weights = self.norm.weight, self.norm.bias, self.norm.eps, context.conv.weight, cast(Tensor, context.conv.bias)
        return fused.norm_and_context(x.transpose(1, 2), lengths, context.right, *weights).transpose(1, 2)


class Activation(Pointwise):
    """Rectified linear unit."""

    def apply_frames(self, x: Tensor) -> Tensor:
        return F.relu(x)


class Flatten(Pointwise):
    """Channels and bands to channels, then a linear map: (B, C, F, T) to (B, outputs, T)."""

    def __init__(self, channels: int, frequencies: int, outputs: int) -> None:
        super().__init__()
        self.channels = channels
        self.linear = nn.Linear(channels * frequencies, outputs)
        self._dense: Dense | None = None

    def prepare(self, precision: str) -> None:
        weight = self.linear.weight.data  # (outputs, C F)
        turned = weight.view(len(weight), self.channels, -1).transpose(1, 2).flatten(1)  # (outputs, F C)
        self._dense = Dense(turned, self.linear.bias.data, precision)
        weight.copy_(turned.view(len(weight), -1, self.channels).transpose(1, 2).flatten(1))

    def apply_frames(self, x: Tensor) -> Tensor:
        if self._dense and serves(x):
            return self._mapped(x.permute(0, 3, 2, 1), self._dense)
        y: Tensor = self.linear(x.flatten(1, 2).transpose(1, 2)).transpose(1, 2)
        return y.float() if torch.is_autocast_enabled(y.device.type) else y  # what the blocks add up stays exact

    def rectified(self, x: Tensor, norm: nn.LayerNorm) -> Tensor | None:
        """It after a normalisation over channels and rectification, where it is prepared."""
        if self._dense is None:
            return None
        from streamasr.norm_cpu import rectified

        frames = lines(x)
        found = torch.empty_like(frames)
        given, written = (each.view(-1, self.channels).numpy() for each in (frames, found))
        rectified(given, norm.weight.data.numpy(), norm.bias.data.numpy(), norm.eps, written)
        return self._mapped(found, self._dense)

    @staticmethod
    def _mapped(frames: Tensor, dense: Dense) -> Tensor:
        """(B, T, F, C) to (B, outputs, T)."""
        batch, count = frames.shape[:2]
        return dense(frames.reshape(batch * count, -1)).view(batch, count, -1).transpose(1, 2)


class Linear(Pointwise):
    """A linear map of every frame's channels: (B, C, T) to (B, outputs, T)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        self._dense: Dense | None = None

    def prepare(self, precision: str) -> None:
        self._dense = Dense(self.linear.weight.data, self.linear.bias.data, precision)

    def apply_frames(self, x: Tensor) -> Tensor:
        if self._dense and serves(x):
            rows = x.transpose(1, 2).reshape(x.shape[0] * x.shape[2], -1)  # (B T, C)
            return self._dense(rows).view(x.shape[0], x.shape[2], -1).transpose(1, 2)
        return self.linear(x.transpose(1, 2)).transpose(1, 2)  # type: ignore[no-any-return]


class Dropout(Pointwise):
    """Dropout in training, nothing in a stream."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def apply_frames(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.rate, self.training)


def lookahead(channels: int, frames: int) -> Conv:
    """Row convolution: each channel looks `frames` frames ahead (Amodei et al., "Deep Speech 2", 2016, section 3.7)."""
    return Conv(channels, channels, frames + 1, right=frames, groups=channels)
