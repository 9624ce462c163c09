"""The recurrent block of the network, whose chunk is a few compiled calls on the CPU."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from streamasr.config import ModelConfig
from streamasr.context import Context
from streamasr.dense import Dense, gated
from streamasr.errors import ConfigError
from streamasr.layers import Conv, ConvState, Dropout, Layer, Norm, serves
from streamasr.recurrent import GatedRnn, GatedState, Rnn
from streamasr.stack import Residual, ResidualState

KINDS = ("lstm", "gated")


class RecurrentBlock(Residual):
    """x + recurrence(context(norm(x))): the context is a depthwise convolution, and may be left out.

    Args:
        config: of the whole model.
        index: of the block; the first `config.context_ahead` ones look a frame ahead.

    Raises:
        ConfigError: an unknown kind of recurrence, or memories of a kind that it does not have.
    """

    def __init__(self, config: ModelConfig, index: int) -> None:
        if config.rnn not in KINDS:
            raise ConfigError(
                f"the model has rnn = {config.rnn!r}", f"one of {', '.join(KINDS)}", "Correct the config."
            )
        layers: list[Layer] = [Norm(config.size)]
        if config.context:
            kernel = config.context
            centred = config.bidirectional and not config.back
            right = kernel // 2 if centred else int(index < config.context_ahead)
            layers.append(Conv(config.size, config.size, kernel, right=right, groups=config.size))
        if config.back and not (config.bidirectional and config.rnn == "gated"):
            raise ConfigError(
                f"the model has back = {config.back}, rnn = {config.rnn!r}, bidirectional = {config.bidirectional}",
                "back = 0, or a bidirectional gated model",
                "Correct the config.",
            )
        if config.rnn == "gated":
            layers.append(GatedRnn(config.size, bidirectional=config.bidirectional, back=config.back))
        else:
            layers.append(Rnn(config.size, bidirectional=config.bidirectional))
        if config.dropout:
            layers.append(Dropout(config.dropout))
        super().__init__(layers, (config.size,))
        self._fusible = bool(config.context) and config.rnn == "gated" and not config.bidirectional
        self._dense: tuple[Dense, Dense] | None = None
        self._context: Context | None = None

    def prepare(self, precision: str) -> None:
        if self._fusible:
            first, conv, rnn = list(self.inner)[:3]
            self._context = Context(cast(Norm, first).norm, cast(nn.Conv1d, cast(Conv, conv).conv))
            self._dense = cast(GatedRnn, rnn).prepared(precision)

    @property
    def fused(self) -> tuple[Context, tuple[Dense, Dense]] | None:
        """Its prepared parts, where all of it can be one compiled call."""
        return (self._context, self._dense) if self._context and self._dense else None

    def step(self, x: Tensor, state: ResidualState) -> tuple[Tensor, ResidualState]:
        return self._fused(x, state) or super().step(x, state)

    def flush(self, state: ResidualState) -> Tensor | None:
        done = self._fused(state.skipped[..., :0], state, ended=self.right) if self.right else None
        return done[0] if done else super().flush(state)

    def end(self, x: Tensor, state: ResidualState) -> Tensor:
        done = self._fused(x, state, ended=self.right)
        return done[0] if done else super().end(x, state)

    def _fused(self, x: Tensor, state: ResidualState, ended: int = 0) -> tuple[Tensor, ResidualState] | None:
        """`step` with prepared weights; None where they do not serve. `ended`: zeros in the context after x."""
        if self._dense is None or self._context is None or not (serves(x) or (ended and serves(state.inner[1].frames))):
            return None
        _, context, recurrence, *rest = state.inner
        held = context.frames.permute(2, 0, 1).contiguous()  # (L, B, C)
        known = held.shape[0] + x.shape[2]
        count = known + ended - self._context.taps + 1
        if count <= 0:
            return None
        from streamasr import dense_cpu

        arguments: tuple[Any, ...]
        frames = x.permute(2, 0, 1).contiguous()  # (T, B, C)
        skipped = state.skipped.permute(2, 0, 1).contiguous()
        normed = x.new_empty(known + ended, *frames.shape[1:])
        if ended:
            normed[known:] = 0
        y = x.new_empty(count, *frames.shape[1:])
        if all(dense.suits(count * frames.shape[1]) for dense in self._dense):
            memory = recurrence.memory.clone(memory_format=torch.contiguous_format)
            given = (frames.numpy(), held.numpy(), skipped.numpy(), memory.numpy())
            matrices = (array for dense in self._dense for array in dense.arrays)
            arguments = (*given, *self._context.arrays, *matrices, normed.numpy(), y.numpy())
            dense_cpu.recurrent_block(*arguments)
        else:
            arguments = (frames.numpy(), held.numpy(), *self._context.arrays, normed.numpy(), y.numpy())
            dense_cpu.norm_and_context(*arguments)
            gates, out = self._dense
            rows = y.view(-1, frames.shape[2])
            inner, memory = gated(gates(rows).view(*y.shape[:2], -1), recurrence.memory)
            y = out(inner.view(rows.shape)).view(y.shape)
            late = min(count, len(skipped))
            y[:late] += skipped[:late]
            y[late:] += frames[: count - late]
        following = torch.cat([skipped, frames])[count:] if len(skipped) else frames[count:]
        inner_state = ((), ConvState(normed[count:].permute(1, 2, 0)), GatedState(memory), *rest)
        return y.permute(1, 2, 0), ResidualState(inner_state, following.permute(1, 2, 0))
