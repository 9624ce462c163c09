"""The acoustic model: log-mel features, residual CNN, LSTM layers, row convolution, CTC head."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from streamasr.blocks import RecurrentBlock
from streamasr.captured import Captured, Recorder, cuda_graph
from streamasr.chain import chains
from streamasr.config import FeatureConfig, ModelConfig
from streamasr.features import FeatureState, LogMel
from streamasr.layers import Activation, Conv, Flatten, Layer, Linear, Norm, State, lookahead
from streamasr.stack import Residual, Stack


class ModelState(NamedTuple):
    """The whole state of a batch of streams, batch first in every tensor."""

    features: FeatureState
    network: tuple[State, ...]


def _residual_2d(channels: int, frequencies: int) -> Residual:
    def conv() -> Conv:
        return Conv(channels, channels, 3, right=1, frequencies=frequencies)

    return Residual(
        [Norm(channels), Activation(), conv(), Norm(channels), Activation(), conv()], (channels, frequencies)
    )


class AsrModel(nn.Module):
    """Deep Speech 2 family (Amodei et al., 2016): samples at 16 kHz to log-probabilities of `tokens` characters.

    One output frame stands for `frame_ms` (time stride 4). The streaming variant looks `lookahead_ms` ahead; the
    bidirectional one sees the whole utterance and has only `forward`.
    """

    def __init__(self, features: FeatureConfig, config: ModelConfig, tokens: int) -> None:
        super().__init__()
        self.config = config
        self.features = LogMel(features)
        c, half, quarter = config.channels, -(-features.mels // 2), -(-features.mels // 4)
        front: list[Layer] = [Conv(1, c, 3, stride=2, right=1, frequencies=features.mels)]
        front += [_residual_2d(c, half) for _ in range(config.blocks)]
        front += [Norm(c), Activation(), Conv(c, c, 3, stride=2, right=1, frequencies=half)]
        front += [_residual_2d(c, quarter) for _ in range(config.blocks)]
        front += [Norm(c), Activation(), Flatten(c, quarter, config.size)]
        rnns: list[Layer] = [RecurrentBlock(config, index) for index in range(config.layers)]
        head: list[Layer] = [Norm(config.size)]
        if config.lookahead:
            head += [lookahead(config.size, config.lookahead), Activation()]
        head.append(Linear(config.size, tokens))
        self.network = Stack([*front, *rnns, *head])
        self.features.together = self.network.stride
        for module in self.network.modules():
            if isinstance(module, nn.Conv2d):  # channels last is several times as fast on the CPU
                module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
        self.tap = len(front) + config.intermediate if config.intermediate else 0
        self.tap_head = nn.Sequential(nn.LayerNorm(config.size), nn.Linear(config.size, tokens)) if self.tap else None

    @property
    def frame_ms(self) -> float:
        """Milliseconds of one output frame."""
        return self.network.stride * self.features.config.hop_ms

    @property
    def lookahead_ms(self) -> float:
        """Milliseconds of audio beyond an output frame's first feature frame that it depends on."""
        return self.network.right * self.features.config.hop_ms

    @property
    def parameter_count(self) -> int:
        """Number of weights used in a stream."""
        return sum(parameter.numel() for parameter in self.network.parameters())

    def prepare(self, precision: str = "float32") -> None:
        """Lay the weights out for streams on the CPU; `int8` rounds its matrices. They must not change after that."""
        for module in self.network.modules():
            if isinstance(module, Layer):
                module.prepare(precision)
        self.network.chains = chains(self.network)

    def capture(self, recorder: Recorder = cuda_graph, dtype: torch.dtype = torch.float16) -> None:
        """Record the steps of streams on a GPU, in half precision; the weights must not change after that."""
        self.network = Captured(self.network, recorder, dtype)

    def encode(self, energies: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Whole utterances from features.

        Args:
            energies: (B, mels, T), zero beyond `lengths`.
            lengths: (B,) frames.

        Returns:
            log-probabilities (B, T', tokens), their lengths (B,), and those of the intermediate head or None.
        """
        x = energies[:, None].to(next(self.network.parameters()).dtype)
        x, lengths = self.network.span(x, lengths, 0, self.tap)
        tapped = self.tap_head(x.transpose(1, 2)).log_softmax(-1) if self.tap_head is not None else None
        x, lengths = self.network.span(x, lengths, self.tap, len(self.network.layers))
        return x.transpose(1, 2).float().log_softmax(-1), lengths, tapped

    def forward(self, samples: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Whole utterances (B, S) of `lengths` (B,) samples, zero beyond.

        Returns:
            log-probabilities (B, T', tokens), and their lengths (B,).
        """
        energies = self.features(samples)
        frames = (lengths + self.features.config.hop - 1) // self.features.config.hop
        keep = torch.arange(energies.shape[-1], device=energies.device) < frames[:, None]
        log_probs, lengths, _ = self.encode(energies * keep[:, None], frames)
        return log_probs, lengths

    def init_state(self, batch: int) -> ModelState:
        """The state of `batch` streams before their first sample."""
        return ModelState(self.features.init_state(batch), self.network.init_state(batch))

    def step(self, samples: Tensor, state: ModelState) -> tuple[Tensor, ModelState]:
        """Next samples (B, S) to the log-probabilities (B, T', tokens) that they complete, T' >= 0."""
        energies, features = self.features.step(samples, state.features)
        logits, network = self.network.step(energies[:, None], state.network)
        return logits.transpose(1, 2).log_softmax(-1), ModelState(features, network)

    def flush(self, state: ModelState) -> Tensor:
        """The log-probabilities still held back, as if the stream ended here: (B, T', tokens). Pure."""
        energies = self.features.flush(state.features)
        return self.network.end(energies[:, None], state.network).transpose(1, 2).log_softmax(-1)
