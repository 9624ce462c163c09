"""Is there a voice? A small network for that, and the gate that spares the recogniser's network where there is none.

The detector is that of the package silero-vad (https://github.com/snakers4/silero-vad, MIT): its weights, run here with
an explicit state, and all windows of a chunk at once, which is faster than the package's own model. It hears windows of
512 samples (32 ms) laid from the beginning of the stream, each with the 64 samples before it, so what it finds does not
depend on the chunks.

The gate opens a moment after the first window with a voice in it, when the onset of the voice can be told (`onset`);
then the recogniser hears what was said before, too. It may close after every 0.96 s without a voice.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from streamasr.config import GateConfig
from streamasr.errors import ConfigError

RATE_HZ = 16_000
WINDOW = 512  # samples
CONTEXT = 64  # samples before a window that are heard with it
WEIGHTS = "silero_vad.jit"
CELLS = 128


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
        basis = weights["stft.forward_basis_buffer"][:, 0]  # of a Fourier transform, its window multiplied in
        self._shape, self._layers = basis[0].detach().float().contiguous().numpy(), _laid_out(weights)

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
        held = torch.cat([state.samples, samples])
        count = (len(held) - CONTEXT) // WINDOW
        if count == 0:
            return [], state._replace(samples=held)
        from streamasr.voice_cpu import FRAME, frames_of, probabilities

        hidden, cell = state.hidden.clone(), state.cell.clone()
        frames, found = torch.empty(4 * count, FRAME), np.empty(count, np.float32)
        frames_of(held.numpy(), self._shape, frames.numpy())
        spectrum = torch.view_as_real(torch.fft.rfft(frames)).numpy()
        arrays: tuple[Any, ...] = (spectrum, *self._layers, hidden.numpy()[0], cell.numpy()[0], found)
        probabilities(*arrays)
        return found.tolist(), VoiceState(held[count * WINDOW :].clone(), hidden, cell)


def _laid_out(weights: dict[str, Tensor]) -> list[NDArray[Any]]:
    """The weights as `voice_cpu.probabilities` takes them."""
    from streamasr.tiles_cpu import panels
    from streamasr.voice_cpu import matrix_back

    layers: list[Tensor] = []
    for index, (first, last) in enumerate(((0, 3), (0, 3), (1, 3), (1, 2))):  # taps that meet more than padding
        kernel = weights[f"encoder.{index}.reparam_conv.weight"].permute(2, 1, 0)[first:last]  # (K, inputs, outputs)
        layers += [kernel.reshape(-1, kernel.shape[2]), weights[f"encoder.{index}.reparam_conv.bias"]]
    layers += [weights["decoder.rnn.weight_ih"].t(), weights["decoder.rnn.bias_ih"] + weights["decoder.rnn.bias_hh"]]
    layers += [weights["decoder.rnn.weight_hh"].t()]
    layers += [torch.cat([weights["decoder.decoder.2.weight"].flatten(), weights["decoder.decoder.2.bias"]])]
    *arrays, back, out = (layer.detach().float().contiguous().numpy() for layer in layers)
    return [*(panels(array) if array.ndim == 2 else array for array in arrays), *matrix_back(back), out]


def package_data() -> Path | None:
    """The data of the package silero-vad, which is not imported: it would set torch's threads."""
    found = importlib.util.find_spec("silero_vad")
    places = found.submodule_search_locations if found else None
    return Path(places[0]) / "data" if places else None


class GateState(NamedTuple):
    """Whether the gate is open; the last windows, all without a voice; windows since the voice that will open it."""

    open: bool = False
    quiet: int = 0
    since: int = 0


class Gate:
    """When the recogniser's network is to hear, by the rules of `config`."""

    def __init__(self, config: GateConfig, detector: VoiceDetector) -> None:
        self.config, self.detector = config, detector
        spans_s = config.hold_s, config.after_s, config.pause_s
        self.hold, self.wait, self.pause = (-(-round(seconds * RATE_HZ) // WINDOW) for seconds in spans_s)  # windows

    def scan(self, probabilities: Sequence[float], state: GateState) -> tuple[int | None, GateState]:
        """Look for the first window after which the gate opens, or after which an open one may close.

        Returns:
            the window's index, and the state after it, open as it was before; or None, and the state after all windows.
        """
        is_open, quiet, since = state
        for index, probability in enumerate(probabilities):
            quiet = 0 if probability >= self.config.voice else quiet + 1
            if not is_open:
                since += bool(since or quiet == 0)
            paused = quiet >= self.hold or (quiet > 0 and quiet % self.pause == 0)
            if paused if is_open else since > self.wait:
                return index, GateState(is_open, quiet)
        return None, GateState(is_open, quiet, since)

    def is_over(self, state: GateState) -> bool:
        """Whether there has been no voice for so long that an utterance ends with it."""
        return state.quiet >= self.hold
