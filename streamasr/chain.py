"""Recurrent blocks in a row as one: a chunk goes through all of them in one compiled call, with one tensor of state.

A block by itself costs as much around its loops as in them where a chunk is two frames: a dozen small tensors come in
and out of each. Here all that the blocks remember lies in one tensor, frame after frame, and many streams are gathered
and scattered by it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from streamasr.blocks import RecurrentBlock
from streamasr.context import Context
from streamasr.dense import Dense, stacked
from streamasr.layers import ConvState, Layer, State, serves
from streamasr.recurrent import GatedState
from streamasr.stack import ResidualState


class ChainState(NamedTuple):
    """What the blocks remember, (B, R, C): of each the normalised frames that its context has still to hear, the inputs
    whose outputs are still to come, and its memory."""

    rows: Tensor


class Chain:
    """Recurrent blocks in a row, prepared for streams on the CPU. Those that look a frame ahead come first.

    Args:
        blocks: prepared, of one shape.
        parts: what each has `fused`.
    """

    def __init__(self, blocks: Sequence[RecurrentBlock], parts: Sequence[tuple[Context, tuple[Dense, Dense]]]) -> None:
        self.blocks = list(blocks)
        contexts, maps = [context for context, _ in parts], [pair for _, pair in parts]
        self._taps = contexts[0].taps
        self._ahead = sum(block.right for block in blocks)
        self._maps = maps[0]
        columns = list(zip(*(context.arrays for context in contexts), strict=True))
        weight, bias, epsilon, kernel, offset = (np.stack(column).astype(np.float32) for column in columns)
        gates, out = (stacked([pair[at] for pair in maps]) for at in range(2))
        self._constants: tuple[Any, ...] = (weight, bias, epsilon, kernel, offset, *gates, *out)

    def step(self, x: Tensor, state: Sequence[State]) -> tuple[Tensor, State]:
        """Next frames (B, C, T) and the blocks' states, or a `ChainState` in the first place, to outputs and state."""
        if x.shape[-1] == 0:
            return x, self.joined(state)
        if serves(x) and (done := self._run(x, self.joined(state).rows)):
            return done
        after = []
        for block, held in zip(self.blocks, self.parted(state), strict=True):
            x, following = block.step(x, cast(ResidualState, held))
            after.append(following)
        return x, self.joined(after)

    def end(self, x: Tensor, state: Sequence[State]) -> Tensor:
        """As `Layer.end`."""
        if serves(x) and (done := self._run(x, self.joined(state).rows, ended=1)):
            return done[0]
        for block, held in zip(self.blocks, self.parted(state), strict=True):
            x = block.end(x, cast(ResidualState, held))
        return x

    def joined(self, states: Sequence[State]) -> ChainState:
        """The states of all blocks as one, where they are not yet."""
        if isinstance(states[0], ChainState):
            return states[0]
        frames: list[Tensor] = []
        for state in states:
            inner, skipped = cast(ResidualState, state)
            context, memory = cast(ConvState, inner[1]), cast(GatedState, inner[2])
            frames += [context.frames, skipped, memory.memory[..., None]]
        return ChainState(torch.cat(frames, 2).transpose(1, 2).contiguous())

    def parted(self, state: Sequence[State]) -> Sequence[State]:
        """The states of the blocks, one by one."""
        if not isinstance(state[0], ChainState):
            return state
        rows, found, at = state[0].rows.transpose(1, 2), list[State](), 0  # (B, C, R)
        steady = self._steady(rows.shape[2])
        for index, block in enumerate(self.blocks):
            waiting = int(index < min(steady, self._ahead))
            held = self._taps - 1 - block.right + waiting
            context, skipped = rows[..., at : at + held], rows[..., at + held : at + held + waiting]
            at += held + waiting + 1
            rest = [()] * (len(block.inner.layers) - 3)
            inner = ((), ConvState(context), GatedState(rows[..., at - 1]), *rest)
            found.append(ResidualState(inner, skipped))
        return found

    def _steady(self, rows: int) -> int:
        """How many of the blocks that look ahead have heard a frame: each of them then holds two frames more."""
        return (rows - len(self.blocks) * self._taps + self._ahead) // 2

    def _run(self, x: Tensor, rows: Tensor, ended: int = 0) -> tuple[Tensor, ChainState] | None:
        """All blocks in one call; None where there are so many frames that torch's products are faster."""
        if not all(dense.suits(x.shape[0] * x.shape[2]) for dense in self._maps):
            return None
        from streamasr.chain_cpu import chain

        steady, (batch, channels, count) = self._steady(rows.shape[1]), x.shape
        now = steady
        for index in range(self._ahead):  # the first frame of each is still to come when the next one begins
            now = max(now, index + 1) if count > 0 else now
            count = max(0, count - (index >= steady) + ended)
        frames = x.permute(2, 0, 1).contiguous()  # (T, B, C)
        y = x.new_empty(count, batch, channels)
        after = x.new_empty(batch, rows.shape[1] + 2 * (now - steady), channels)
        given: tuple[Any, ...] = (frames.numpy(), rows.contiguous().numpy(), self._ahead, steady, ended)
        given += (*self._constants, after.numpy(), y.numpy())
        chain(*given)
        return y.permute(1, 2, 0), ChainState(after)


def chains(layers: Iterable[Layer]) -> dict[int, Chain]:
    """The chains that prepared layers in a row can be worked off as, by the place of the first block of each."""
    found: dict[int, Chain] = {}
    waiting: list[tuple[RecurrentBlock, tuple[Context, tuple[Dense, Dense]]]] = []
    for place, layer in enumerate([*layers, None]):
        parts = layer.fused if isinstance(layer, RecurrentBlock) else None
        if waiting and not (isinstance(layer, RecurrentBlock) and parts and waiting[-1][0].right >= layer.right):
            if len(waiting) > 1:
                found[place - len(waiting)] = Chain([block for block, _ in waiting], [each for _, each in waiting])
            waiting = []
        if isinstance(layer, RecurrentBlock) and parts:
            waiting.append((layer, parts))
    return found
