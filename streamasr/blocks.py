"""The recurrent block of the network, whose chunk is a few compiled calls on the CPU."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from streamasr.config import ModelConfig
from streamasr.dense import Dense, gated
from streamasr.errors import ConfigError
from streamasr.layers import (
    Conv,
    ConvState,
    Dropout,
    Layer,
    Norm,
    Residual,
    ResidualState,
    serves,
)
from streamasr.recurrent import GatedRnn, GatedState, Rnn

KINDS: dict[str, type[Rnn] | type[GatedRnn]] = {"lstm": Rnn, "gated": GatedRnn}


class RecurrentBlock(Residual):
    """x + recurrence(context(norm(x))): the context is a depthwise convolution, and may be left out.

    Args:
        config: of the whole model.
        index: of the block; the first `config.context_ahead` ones look a frame ahead.

    Raises:
        ConfigError: an unknown kind of recurrence.
    """

    def __init__(self, config: ModelConfig, index: int) -> None:
        if config.rnn not in KINDS:
            raise ConfigError(
                f"the model has rnn = {config.rnn!r}", f"one of {', '.join(KINDS)}", "Correct the config."
            )
        layers: list[Layer] = [Norm(config.size)]
        if config.context:
            kernel = config.context
            right = kernel // 2 if config.bidirectional else int(index < config.context_ahead)
            layers.append(Conv(config.size, config.size, kernel, right=right, groups=config.size))
        layers.append(KINDS[config.rnn](config.size, bidirectional=config.bidirectional))
        if config.dropout:
            layers.append(Dropout(config.dropout))
        super().__init__(layers, (config.size,))
        self._fusible = bool(config.context) and config.rnn == "gated" and not config.bidirectional
        self._kernel: Tensor | None = None  # (K, C)
        self._dense: tuple[Dense, Dense] | None = None

    def prepare(self, precision: str) -> None:
        if self._fusible:
            _, conv, rnn = list(self.inner)[:3]
            self._kernel = cast(Conv, conv).conv.weight.data[:, 0].t().contiguous()
            self._dense = cast(GatedRnn, rnn).prepared(precision)

    def step(self, x: Tensor, state: ResidualState) -> tuple[Tensor, ResidualState]:
        if self._dense is None or self._kernel is None or not serves(x):
            return super().step(x, state)
        _, context, recurrence, *rest = state.inner
        held = context.frames.permute(2, 0, 1).contiguous()  # (L, B, C)
        count = held.shape[0] + x.shape[2] - self._kernel.shape[0] + 1
        if count <= 0:
            return super().step(x, state)
        from streamasr.dense_cpu import norm_and_context

        frames = x.permute(2, 0, 1).contiguous()  # (T, B, C)
        norm = cast(Norm, self.inner.layers[0]).norm
        offset = cast(Tensor, cast(Conv, self.inner.layers[1]).conv.bias)
        normed = x.new_empty(held.shape[0] + frames.shape[0], *frames.shape[1:])
        heard = x.new_empty(count, *frames.shape[1:])
        norm_and_context(
            frames.numpy(),
            held.numpy(),
            norm.weight.numpy(),
            norm.bias.numpy(),
            norm.eps,
            self._kernel.numpy(),
            offset.numpy(),
            normed.numpy(),
            heard.numpy(),
        )
        gates, out = self._dense
        rows = heard.view(-1, frames.shape[2])
        y, memory = gated(gates(rows).view(*heard.shape[:2], -1), recurrence.memory)
        y = out(y.view(rows.shape)).view(heard.shape)
        skipped = state.skipped.permute(2, 0, 1)
        if len(skipped):
            frames = torch.cat([skipped, frames])
        inner = ((), ConvState(normed[count:].permute(1, 2, 0)), GatedState(memory), *rest)
        after = ResidualState(inner, frames[count:].permute(1, 2, 0))
        return y.add_(frames[:count]).permute(1, 2, 0), after
