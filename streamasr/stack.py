"""Layers made of layers, by the contract of `layers`: in a row, and beside a path that skips them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol, cast

import torch
from torch import Tensor, nn

from streamasr import fused
from streamasr.context import Context
from streamasr.layers import Activation, Conv, ConvState, Flatten, Layer, Norm, State, serves
from streamasr.patches import Patches, ResidualPatches


class Joined(Protocol):
    """Layers in a row that are worked off as one; their state stands in the place of the first one's."""

    @property
    def blocks(self) -> Sequence[Layer]: ...

    def step(self, x: Tensor, state: Sequence[State]) -> tuple[Tensor, State]: ...

    def end(self, x: Tensor, state: Sequence[State]) -> Tensor: ...

    def parted(self, state: Sequence[State]) -> Sequence[State]: ...


class Stack(Layer):
    """Layers in a row.

    Attributes:
        chains: of those that are worked off as one in a stream, by the place of the first.
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self._order = tuple(layers)  # the same, without a look into torch's tables at every step
        for layer in layers:
            self.right += layer.right * self.stride
            self.stride *= layer.stride
        # by the place of a norm: what so many layers do
        self._prepared: dict[int, tuple[int, Patches | Context | Flatten]] = {}
        self.chains: Mapping[int, Joined] = {}

    def __iter__(self) -> Iterator[Layer]:
        return iter(self._order)

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

    def prepare(self, precision: str) -> None:
        layers = list(self)
        for at, norm in enumerate(layers):
            following, then = (*layers[at + 1 : at + 3], None, None)[:2]
            if not isinstance(norm, Norm):
                continue
            if isinstance(following, Activation) and isinstance(then, Conv):
                if patches := then.patches(precision, norm.norm):
                    self._prepared[at] = (3, patches)
            elif isinstance(following, Activation) and isinstance(then, Flatten):
                self._prepared[at] = (3, then)
            elif isinstance(following, Conv) and following.depthwise:
                self._prepared[at] = (2, Context(norm.norm, cast(nn.Conv1d, following.conv)))

    def init_state(self, batch: int) -> tuple[State, ...]:
        return tuple(layer.init_state(batch) for layer in self)

    def step(self, x: Tensor, state: tuple[State, ...]) -> tuple[Tensor, tuple[State, ...]]:
        layers, before, after = self._order, list(state), list[State]()
        while (at := len(after)) < len(layers):
            if chain := self.chains.get(at):
                count = len(chain.blocks)
                x, held = chain.step(x, before[at : at + count])
                after += [held, *[()] * (count - 1)]
                continue
            if done := self._at_once(at, x, before):
                count, x, held = done
                after += [*[()] * (count - 1), held]
                continue
            x, held = layers[at].step(x, before[at])
            after.append(held)
        return x, tuple(after)

    def flush(self, state: tuple[State, ...]) -> Tensor | None:
        tail, parted = None, list(state)
        for at, chain in self.chains.items():
            last = at + len(chain.blocks)
            parted[at:last] = chain.parted(parted[at:last])
        for layer, held in zip(self, parted, strict=True):
            tail = layer.flush(held) if tail is None else layer.end(tail, held)
        return tail

    def end(self, x: Tensor, state: tuple[State, ...]) -> Tensor:
        layers, before, at = self._order, list(state), 0
        while at < len(layers):
            if chain := self.chains.get(at):
                count = len(chain.blocks)
                x, at = chain.end(x, before[at : at + count]), at + count
                continue
            if done := self._at_once(at, x, before, ended=True):
                x, at = done[1], at + done[0]
                continue
            x, at = layers[at].end(x, before[at]), at + 1
        return x

    def _at_once(
        self, at: int, x: Tensor, before: Sequence[State], ended: bool = False
    ) -> tuple[int, Tensor, State] | None:
        """The layers from `at` on that are prepared as one call: their number, what comes out of them, and the last
        one's state then; None where there are none, or no frame is complete."""
        if at not in self._prepared or not serves(x):
            return None
        count, prepared = self._prepared[at]
        last = at + count - 1
        if isinstance(prepared, Flatten):
            y = prepared.rectified(x, cast(Norm, self._order[at]).norm)
            return None if y is None else (count, y, ())
        done = prepared(x, before[last].frames, ended=self._order[last].right if ended else 0)
        return (count, done[0], ConvState(done[1])) if done else None


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
        self._patches: ResidualPatches | None = None

    def prepare(self, precision: str) -> None:
        layers = list(self.inner)
        if tuple(map(type, layers)) != 2 * (Norm, Activation, Conv):
            return
        pairs = [(cast(Norm, layers[at]).norm, cast(Conv, layers[at + 2])) for at in (0, 3)]
        if all(conv.has_patches and conv.right == 1 and conv.stride == 1 for _, conv in pairs):
            self._patches = ResidualPatches([(norm, cast(nn.Conv2d, conv.conv)) for norm, conv in pairs], precision)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        return x + self.inner(x, lengths)  # type: ignore[no-any-return]

    def init_state(self, batch: int) -> ResidualState:
        like = next(self.parameters())
        return ResidualState(self.inner.init_state(batch), like.new_zeros(batch, *self.shape, 0))

    def step(self, x: Tensor, state: ResidualState) -> tuple[Tensor, ResidualState]:
        if self._patches and serves(x):
            y, held, between = self._patches(x, state.inner[2].frames, state.inner[5].frames, state.skipped)
            late = y.shape[-1] - state.skipped.shape[-1]
            waiting = x[..., late:].clone() if late >= 0 else torch.cat([state.skipped[..., y.shape[-1] :], x], -1)
            return y, ResidualState(((), (), ConvState(held), (), (), ConvState(between)), waiting)
        y, inner = self.inner.step(x, state.inner)
        skipped, count = _joined(state.skipped, x), y.shape[-1]  # (B, T, ..., C)
        summed = skipped[:, :count] + y.transpose(1, -1)
        return summed.transpose(1, -1), ResidualState(inner, skipped[:, count:].transpose(1, -1))

    def flush(self, state: ResidualState) -> Tensor | None:
        y = self.inner.flush(state.inner)
        return None if y is None else state.skipped + y

    def end(self, x: Tensor, state: ResidualState) -> Tensor:
        if self._patches and serves(x):
            return self._patches(x, state.inner[2].frames, state.inner[5].frames, state.skipped, ended=1)[0]
        return (_joined(state.skipped, x) + self.inner.end(x, state.inner).transpose(1, -1)).transpose(1, -1)


def _joined(first: Tensor, then: Tensor) -> Tensor:
    """Frames (B, C, ..., T) after others, as (B, T, ..., C): that is how they lie in memory where they come from."""
    return torch.cat([first.transpose(1, -1), then.transpose(1, -1)], 1)
