"""Is there a voice? A small network for that, and the gate that spares the recogniser's network where there is none.

The detector is that of the package silero-vad (https://github.com/snakers4/silero-vad, MIT): its weights, run here with
an explicit state, and all windows of a chunk at once, which is faster than the package's own model. It hears windows of
512 samples (32 ms) laid from the beginning of the stream, each with the 64 samples before it, so what it finds does not
depend on the chunks.

The gate opens after the first window with a voice in it, and then the recogniser hears what was said just before, too.
It may close only at every fifth window (160 ms, a whole number of frames of every layer), so that few chunks are split.
"""

from __future__ import annotations

import importlib.util
import itertools
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from streamasr.config import GateConfig
from streamasr.errors import ConfigError

RATE_HZ = 16_000
WINDOW = 512  # samples
CONTEXT = 64  # samples before a window that are heard with it
WEIGHTS = "silero_vad.jit"
CELLS = 128
GRID = 5  # windows
STRIDES = (1, 2, 2, 1)  # of the detector's convolutions


class VoiceState(NamedTuple):
    """The context and the samples of a window not yet complete, (S,); hidden and cell state, each (1, 128)."""

    samples: Tensor
    hidden: Tensor
    cell: Tensor


class VoiceDetector:
    """Probabilities of a voice, one for each window. Runs on the CPU.

    Args:
        weights: the tensors of the detector for 16 kHz, by name.
    """

    def __init__(self, weights: dict[str, Tensor]) -> None:
        self._weights = weights
        self._spectrum = weights["stft.forward_basis_buffer"][:, 0].t().contiguous()  # (256, 2 * 129)
        convs = [f"encoder.{layer}.reparam_conv" for layer in range(len(STRIDES))]
        self._convs = [
            (weights[f"{conv}.weight"].flatten(1).t().contiguous(), weights[f"{conv}.bias"]) for conv in convs
        ]

    @classmethod
    def load(cls) -> VoiceDetector:
        """The detector of the installed package.

        Raises:
            ConfigError: the package is missing, or has no such weights.
        """
        places = package_data()
        path = places / WEIGHTS if places else None
        if path is None or not path.is_file():
            got = "silero-vad is not installed" if path is None else f"{path} is missing"
            raise ConfigError(f"no voice detector: {got}", "silero-vad 6.2.1 or later", "Install it, or add --no-gate.")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of torch.jit, all over
            whole = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]
        weights: dict[str, Tensor] = whole.state_dict()
        kind = "_model."  # the other one is for 8 kHz
        return cls({name.removeprefix(kind): tensor for name, tensor in weights.items() if name.startswith(kind)})

    def start(self) -> VoiceState:
        """The state before the first sample."""
        return VoiceState(torch.zeros(CONTEXT), torch.zeros(1, CELLS), torch.zeros(1, CELLS))

    def missing(self, state: VoiceState) -> int:
        """Samples that complete the next window."""
        return WINDOW + CONTEXT - len(state.samples)

    def step(self, samples: Tensor, state: VoiceState) -> tuple[list[float], VoiceState]:
        """Next samples (S,) at 16 kHz, S >= 0, to the probabilities of the windows that they complete."""
        return self.step_together([samples], [state])[0]

    def step_together(
        self, samples: Sequence[Tensor], states: Sequence[VoiceState]
    ) -> list[tuple[list[float], VoiceState]]:
        """`step` of several streams at once; each may complete another number of windows."""
        held = [torch.cat([state.samples, more]) for state, more in zip(states, samples, strict=True)]
        counts = [(len(own) - CONTEXT) // WINDOW for own in held]
        order = sorted(range(len(held)), key=lambda stream: -counts[stream])  # most windows first
        order = [stream for stream in order if counts[stream]]
        found: list[list[float]] = [[] for _ in held]
        after = [state._replace(samples=own) for state, own in zip(states, held, strict=True)]
        if not order:
            return list(zip(found, after, strict=True))
        windows = [held[stream].unfold(0, CONTEXT + WINDOW, WINDOW) for stream in order]  # (W, 576) each
        firsts = list(itertools.accumulate([0, *(counts[stream] for stream in order[:-1])]))
        frames = self._encode(torch.cat(windows))
        hidden, cell = (torch.cat([states[stream][part] for stream in order]) for part in (1, 2))
        for turn in range(counts[order[0]]):
            active = [stream for stream in order if counts[stream] > turn]
            rows = frames[[first + turn for first in firsts[: len(active)]]]
            probabilities, heard = self._remember(rows, (hidden[: len(active)], cell[: len(active)]))
            hidden, cell = (
                torch.cat([new, old[len(active) :]]) for new, old in zip(heard, (hidden, cell), strict=True)
            )
            for stream, probability in zip(active, probabilities, strict=True):
                found[stream].append(probability)
        for row, stream in enumerate(order):
            rest = held[stream][counts[stream] * WINDOW :].clone()
            after[stream] = VoiceState(rest, hidden[row : row + 1], cell[row : row + 1])
        return list(zip(found, after, strict=True))

    def _encode(self, windows: Tensor) -> Tensor:
        """Windows (W, 576) to what the recurrent cell hears, (W, 128)."""
        padded = F.pad(windows[:, None], (0, CONTEXT), mode="reflect")[:, 0]
        spectrum = padded.unfold(1, 256, 128) @ self._spectrum  # (W, 4, 258)
        real, imaginary = spectrum.chunk(2, -1)
        x = (real.square() + imaginary.square()).sqrt()  # (W, 4, 129)
        for (weight, bias), stride in zip(self._convs, STRIDES, strict=True):  # as products, which few frames suit
            taps = F.pad(x, (0, 0, 1, 1)).unfold(1, 3, stride)  # (W, T, C, 3)
            rows = torch.addmm(bias, taps.reshape(-1, weight.shape[0]), weight)
            x = rows.relu_().view(*taps.shape[:2], -1)
        return x[:, 0]

    def _remember(self, frames: Tensor, before: tuple[Tensor, Tensor]) -> tuple[list[float], tuple[Tensor, Tensor]]:
        """The next frame of each stream, (B, 128): its probability of a voice, and hidden and cell state after it."""
        weights, rnn = self._weights, "decoder.rnn"
        matrices = (weights[f"{rnn}.{kind}"] for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
        hidden, cell = torch.lstm_cell(frames, before, *matrices)
        logits = F.linear(hidden.relu(), weights["decoder.decoder.2.weight"][..., 0])
        probabilities: list[float] = (logits[:, 0] + weights["decoder.decoder.2.bias"]).sigmoid().tolist()
        return probabilities, (hidden, cell)


def package_data() -> Path | None:
    """The data of the package silero-vad, which is not imported: it would set torch's threads."""
    found = importlib.util.find_spec("silero_vad")
    places = found.submodule_search_locations if found else None
    return Path(places[0]) / "data" if places else None


class GateState(NamedTuple):
    """Whether the gate is open, windows so far, and windows without a voice since a voice or the last try to close."""

    open: bool = False
    windows: int = 0
    quiet: int = 0


class Gate:
    """When the recogniser's network is to hear, by the rules of `config`."""

    def __init__(self, config: GateConfig, detector: VoiceDetector) -> None:
        self.config, self.detector = config, detector
        self.hold = -(-round(config.hold_s * RATE_HZ) // WINDOW)  # windows

    def scan(self, probabilities: Sequence[float], state: GateState) -> tuple[int | None, GateState]:
        """Look for the first window after which the gate opens, or after which an open one may close.

        Returns:
            the window's index, and the state after it, open as it was before; or None, and the state after all windows.
        """
        is_open, windows, quiet = state
        for index, probability in enumerate(probabilities):
            windows += 1
            quiet = 0 if probability >= self.config.voice else quiet + 1
            if (quiet >= self.hold and windows % GRID == 0) if is_open else quiet == 0:
                return index, GateState(is_open, windows, quiet)
        return None, GateState(is_open, windows, quiet)
