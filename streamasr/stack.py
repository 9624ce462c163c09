"""Layers made of layers, by the contract of `layers`: in a row, and beside a path that skips them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from streamasr import fused
from streamasr.layers import Activation, Conv, ConvState, Layer, Norm, State, serves
from streamasr.patches import Patches


class Stack(Layer):
    """Layers in a row."""

    def __init__(self, layers: Sequence[Layer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        for layer in layers:
            self.right += layer.right * self.stride
            self.stride *= layer.stride

    def __iter__(self) -> Iterator[Layer]:
        return iter(cast(Iterable[Layer], self.layers))

    def output_lengths(self, lengths: Tensor) -> Tensor:
        for layer in self:
            lengths = layer.output_lengths(lengths)
        return lengths

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        return self.span(x, lengths, 0, len(self.layers))[0]

    def span(self, x: Tensor, lengths: Tensor, begin: int, end: int) -> tuple[Tensor, Tensor]:
        """The layers from `begin` to before `end` on whole utterances, and the lengths of what comes out of them.

        In training on the CPU, a norm and what comes after it are one pass over the frames.
        """
        waiting = list(self)[begin:end]
        while waiting:
            layer = waiting.pop(0)
            following = waiting[0] if waiting else None
            if isinstance(layer, Norm) and fused.suits(x):
                if isinstance(following, Activation) and x.dim() == 4:
                    waiting.pop(0)
                    conv = waiting.pop(0) if waiting and isinstance(waiting[0], Conv) else None
                    margins = (conv.left, conv.right) if isinstance(conv, Conv) else (0, 0)
                    x = layer.rectified(x, lengths, margins)
                    if isinstance(conv, Conv):
                        x, lengths = conv.apply_padded(x), conv.output_lengths(lengths)
                    continue
                if isinstance(following, Conv) and following.depthwise:
                    waiting.pop(0)
                    x = layer.with_context(x, lengths, following)
                    continue
            x, lengths = layer(x, lengths), layer.output_lengths(lengths)
        return x, lengths

    def init_state(self, batch: int) -> tuple[State, ...]:
        return tuple(layer.init_state(batch) for layer in self)

    def step(self, x: Tensor, state: tuple[State, ...]) -> tuple[Tensor, tuple[State, ...]]:
        following = []
        for layer, held in zip(self, state, strict=True):
            x, held_next = layer.step(x, held)
            following.append(held_next)
        return x, tuple(following)

    def flush(self, state: tuple[State, ...]) -> Tensor | None:
        tail: Tensor | None = None
        for layer, held in zip(self, state, strict=True):
            tail = layer.flush(held) if tail is None else layer.end(tail, held)
        return tail

    def end(self, x: Tensor, state: tuple[State, ...]) -> Tensor:
        for layer, held in zip(self, state, strict=True):
            x = layer.end(x, held)
        return x


class ResidualState(NamedTuple):
    """The inner layers' state, and the inputs whose outputs are still to come, (B, C, ..., T)."""

    inner: tuple[State, ...]
    skipped: Tensor


class Residual(Layer):
    """x + inner(x), the skip path delayed by the inner layers' lookahead. Inner stride must be 1.

    Source: He, Zhang, Ren, Sun, "Identity Mappings in Deep Residual Networks", 2016 (normalisation first).
    """

    def __init__(self, layers: Sequence[Layer], shape: tuple[int, ...]) -> None:
        super().__init__()
        self.inner = Stack(layers)
        self.shape, self.right = shape, self.inner.right
        self._patches: tuple[Patches, Patches] | None = None

    def prepare(self, precision: str) -> None:
        kinds = [type(layer) for layer in self.inner]
        if kinds == 2 * [Norm, Activation, Conv]:
            norm, _, conv, norm2, _, conv2 = (cast(Any, layer) for layer in self.inner)
            first, second = conv.patches(norm.norm), conv2.patches(norm2.norm)
            self._patches = (first, second) if first and second else None

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        return x + self.inner(x, lengths)  # type: ignore[no-any-return]

    def init_state(self, batch: int) -> ResidualState:
        like = next(self.parameters())
        return ResidualState(self.inner.init_state(batch), like.new_zeros(batch, *self.shape, 0))

    def step(self, x: Tensor, state: ResidualState) -> tuple[Tensor, ResidualState]:
        if not (self._patches and serves(x) and (done := self._by_patches(self._patches, x, state.inner))):
            y, inner = self.inner.step(x, state.inner)
        else:
            y, inner = done
        skipped = torch.cat([state.skipped, x], -1)
        count = y.shape[-1]
        return skipped[..., :count] + y, ResidualState(inner, skipped[..., count:])

    @staticmethod
    def _by_patches(
        convolutions: tuple[Patches, Patches], x: Tensor, inner: tuple[State, ...], ended: int = 0
    ) -> tuple[Tensor, tuple[State, ...]] | None:
        """The inner layers in two compiled steps; None where a convolution completes no frame."""
        first = convolutions[0](x, inner[2].frames, ended)
        second = convolutions[1](first[0], inner[5].frames, ended) if first else None
        if not first or not second:
            return None
        return second[0], ((), (), ConvState(first[1]), (), (), ConvState(second[1]))

    def flush(self, state: ResidualState) -> Tensor | None:
        y = self.inner.flush(state.inner)
        return None if y is None else state.skipped + y

    def end(self, x: Tensor, state: ResidualState) -> Tensor:
        done = None
        if self._patches and serves(x):  # each convolution has a lookahead of one frame
            done = self._by_patches(self._patches, x, state.inner, ended=1)
        return torch.cat([state.skipped, x], -1) + (done[0] if done else self.inner.end(x, state.inner))
