"""Streaming log-mel energies.

Windows are laid without centring: `window - hop` zeros stand before the first sample, so frame t ends with sample
(t + 1) * hop, and a frame is there as soon as its last sample is. Energies equal those of torchaudio's
`MelSpectrogram(n_fft=window, win_length=window, hop_length=hop, center=False, power=2, norm=None,
mel_scale="slaney")` on the padded signal, for any chunking.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from streamasr.config import FeatureConfig


class FeatureState(NamedTuple):
    """Samples that belong to windows not yet complete, (B, S)."""

    samples: Tensor


def hertz_to_mel(hertz: float) -> float:
    """Slaney's mel scale: linear to 1 kHz, then logarithmic (Auditory Toolbox, 1998)."""
    return hertz * 3 / 200 if hertz < 1000 else 15 + 27 * math.log(hertz / 1000) / math.log(6.4)


def mel_to_hertz(mel: float) -> float:
    """Inverse of `hertz_to_mel`."""
    return mel * 200 / 3 if mel < 15 else 1000 * math.exp((mel - 15) * math.log(6.4) / 27)


def mel_filters(config: FeatureConfig) -> Tensor:
    """Triangular filters of unit height, (window // 2 + 1, mels)."""
    bins = np.linspace(0, config.rate_hz / 2, config.window // 2 + 1)
    low, high = hertz_to_mel(config.low_hz), hertz_to_mel(config.high_hz)
    edges = np.array([mel_to_hertz(mel) for mel in np.linspace(low, high, config.mels + 2)])
    rising = (bins[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins[:, None]) / (edges[2:] - edges[1:-1])
    return torch.from_numpy(np.maximum(0, np.minimum(rising, falling))).float()


class LogMel(nn.Module):
    """Samples (B, S) in -1..1 to log-mel energies (B, mels, T), normalised by fixed mean and deviation.

    `mean` and `deviation` (mels,) are measured once on the training data and travel with the weights; nothing is
    normalised over time or over the utterance.

    Args:
        together: frames that a stream gives at a time; fewer wait as samples. A network of that stride could do nothing
            with them, and its states keep one shape.
    """

    filters: Tensor
    window: Tensor
    mean: Tensor
    deviation: Tensor

    def __init__(self, config: FeatureConfig, together: int = 1) -> None:
        super().__init__()
        self.config, self.together = config, together
        self.register_buffer("filters", mel_filters(config), persistent=False)
        self.register_buffer("window", torch.hann_window(config.window), persistent=False)
        self.register_buffer("mean", torch.zeros(config.mels))
        self.register_buffer("deviation", torch.ones(config.mels))

    @property
    def _overlap(self) -> int:
        """Samples that a frame shares with the next one."""
        return self.config.window - self.config.hop

    def _frames(self, samples: Tensor) -> Tensor:
        windows = samples.unfold(-1, self.config.window, self.config.hop)  # (B, T, window)
        spectrum = torch.fft.rfft(windows * self.window)
        power = spectrum.real.square() + spectrum.imag.square()
        energies = torch.log(power @ self.filters + self.config.floor)  # (B, T, mels)
        return ((energies - self.mean) / self.deviation).transpose(1, 2)

    def frames_of(self, samples: int) -> int:
        """Number of frames of a whole signal, the flushed tail included."""
        return -(-samples // self.config.hop)

    def complete(self, samples: int) -> int:
        """Number of frames that a stream gives of so many samples, those of the state included."""
        whole = max(0, (samples - self.config.window) // self.config.hop + 1)
        return whole // self.together * self.together

    def forward(self, samples: Tensor) -> Tensor:
        """Whole signals (B, S) to (B, mels, ceil(S / hop)); the last frame is filled up with zeros, as in `flush`."""
        missing = -samples.shape[-1] % self.config.hop
        return self._frames(nn.functional.pad(samples, (self._overlap, missing)))

    def init_state(self, batch: int) -> FeatureState:
        """The state before the first sample."""
        return FeatureState(self.window.new_zeros(batch, self._overlap))

    def step(self, samples: Tensor, state: FeatureState) -> tuple[Tensor, FeatureState]:
        """Next samples (B, S), S >= 0, to the frames (B, mels, T) that they complete, T >= 0."""
        held = torch.cat([state.samples, samples], -1)
        count = self.complete(held.shape[-1])
        rest = FeatureState(held[:, count * self.config.hop :])
        if count == 0:
            return held.new_zeros(held.shape[0], self.config.mels, 0), rest
        return self._frames(held[:, : held.shape[-1] - rest.samples.shape[-1] + self._overlap]), rest

    def flush(self, state: FeatureState) -> Tensor:
        """The last frames, filled up with zeros: (B, mels, 0 to `together`). The state stays as it is."""
        missing = -(state.samples.shape[-1] - self._overlap) % self.config.hop
        held = nn.functional.pad(state.samples, (0, missing))
        if held.shape[-1] < self.config.window:
            return held.new_zeros(held.shape[0], self.config.mels, 0)
        return self._frames(held)
