"""Recurrent layers; they keep the contract of `layers`."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from streamasr import fused
from streamasr.dense import Dense
from streamasr.layers import Layer
from streamasr.recurrence import recur


class RnnState(NamedTuple):
    """Hidden and cell state of a long short-term memory, each (B, C)."""

    hidden: Tensor
    cell: Tensor


class Rnn(Layer):
    """Long short-term memory over (B, C, T); in both directions, their outputs added, it cannot stream.

    Source: Hochreiter, Schmidhuber, "Long Short-Term Memory", 1997; sum of directions: Amodei et al.,
    "Deep Speech 2", 2016.
    """

    def __init__(self, channels: int, *, bidirectional: bool = False) -> None:
        super().__init__()
        self.channels, self.bidirectional = channels, bidirectional
        self.ahead = nn.LSTM(channels, channels)
        self.back = nn.LSTM(channels, channels) if bidirectional else None
        for lstm in filter(None, (self.ahead, self.back)):
            weights = dict(lstm.named_parameters())
            with torch.no_grad():
                weights["bias_ih_l0"].zero_()
                weights["bias_hh_l0"].zero_()
                weights["bias_ih_l0"][channels : 2 * channels].fill_(1.0)  # remember by default
                for gate in weights["weight_hh_l0"].chunk(4):
                    nn.init.orthogonal_(gate)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        frames = x.permute(2, 0, 1)  # (T, B, C)
        y = self.ahead(frames)[0]
        if self.back is not None:
            order = reversal(lengths, x.shape[-1]).t()[..., None].expand_as(frames)  # (T, B, C)
            y = y + self.back(frames.gather(0, order))[0].gather(0, order)
        return y.permute(1, 2, 0)  # type: ignore[no-any-return]

    def init_state(self, batch: int) -> RnnState:
        if self.bidirectional:
            raise TypeError("a bidirectional layer cannot stream")
        zeros = next(self.ahead.parameters()).new_zeros(batch, self.channels)
        return RnnState(zeros, zeros)

    def step(self, x: Tensor, state: RnnState) -> tuple[Tensor, RnnState]:
        if x.shape[-1] == 0:
            return x, state
        y, (hidden, cell) = self.ahead(x.permute(2, 0, 1), (state.hidden[None], state.cell[None]))
        return y.permute(1, 2, 0), RnnState(hidden[0], cell[0])

    def flush(self, state: RnnState) -> Tensor | None:
        return None


class GatedState(NamedTuple):
    """Memory of a gated linear recurrence, (B, C)."""

    memory: Tensor


class GatedRnn(Layer):
    """Gated linear recurrence over (B, C, T): m[t] = f[t] m[t-1] + (1 - f[t]) z[t], out = W (m * silu(o)).

    z, f and o are linear in the input frame, so that all frames of a chunk share one matrix product and only the
    element-wise recurrence runs frame by frame.

    Args:
        channels: of the frames, and memories that run forwards.
        bidirectional: half of these memories run backwards, or `back` more of them do.

    Sources: Lei et al., "Simple Recurrent Units for Highly Parallelizable Recurrence", 2018; Feng et al., "Were RNNs
    All We Needed?", 2024.
    """

    def __init__(self, channels: int, *, bidirectional: bool = False, back: int = 0) -> None:
        super().__init__()
        self.channels, self.bidirectional = channels, bidirectional
        memories = channels + back
        self.ahead = channels if back else channels // 2  # of the bidirectional variant, the ones that run forwards
        self.gates = nn.Linear(channels, 3 * memories)
        self.out = nn.Linear(memories, channels)
        with torch.no_grad():  # memories of 1 to 32 frames
            frames = 2 ** torch.linspace(0, 5, memories)[torch.randperm(memories)]
            self.gates.bias[memories : 2 * memories] = torch.log(frames)

    def prepared(self, precision: str) -> tuple[Dense, Dense]:
        """The weights of `gates` and `out` laid out for streams on the CPU."""
        gates, out = (Dense(linear.weight.data, linear.bias.data, precision) for linear in (self.gates, self.out))
        return gates, out

    def _gates(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Forget gate, gated input and output gate of frames (T, B, C)."""
        z, f, o = self.gates(x).chunk(3, -1)
        keep = torch.sigmoid(f)
        return keep, (1 - keep) * z, F.silu(o)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        gates = self.gates(x.transpose(1, 2))  # (B, T, 3 M)
        if self.bidirectional:
            order = reversal(lengths, x.shape[-1])[..., None, None]  # (B, T, 1, 1)
            ahead, back = gates.unflatten(-1, (3, -1)).tensor_split((self.ahead,), -1)
            reverse = self._memories(back.gather(1, order.expand_as(back)))
            reverse = reverse.gather(1, order[..., 0].expand_as(reverse))
            return self.out(torch.cat([self._memories(ahead), reverse], -1)).transpose(1, 2)  # type: ignore[no-any-return]
        return self.out(self._memories(gates.unflatten(-1, (3, -1)))).transpose(1, 2)  # type: ignore[no-any-return]

    @staticmethod
    def _memories(gates: Tensor) -> Tensor:
        """Memories, output gates applied: (B, T, 3, M) to (B, T, M)."""
        if fused.suits(gates):
            return fused.gated_memory(gates)
        z, f, o = gates.transpose(0, 1).unbind(2)
        keep = torch.sigmoid(f)
        return (recur(keep, (1 - keep) * z) * F.silu(o)).transpose(0, 1)

    def init_state(self, batch: int) -> GatedState:
        if self.bidirectional:
            raise TypeError("a bidirectional layer cannot stream")
        return GatedState(self.out.weight.new_zeros(batch, self.channels))

    def step(self, x: Tensor, state: GatedState) -> tuple[Tensor, GatedState]:
        if x.shape[-1] == 0:
            return x, state
        keep, new, out = self._gates(x.permute(2, 0, 1))
        memories, memory = [], state.memory
        for k, n in zip(keep, new, strict=True):
            memory = torch.addcmul(n, k, memory)
            memories.append(memory)
        return self.out(torch.stack(memories) * out).permute(1, 2, 0), GatedState(memory)

    def flush(self, state: GatedState) -> Tensor | None:
        return None


def reversal(lengths: Tensor, frames: int) -> Tensor:
    """Indices (B, frames) that reverse the first `lengths` frames of each row and leave the rest in place."""
    at = torch.arange(frames, device=lengths.device)[None]
    return torch.where(at < lengths[:, None], lengths[:, None] - 1 - at, at)
