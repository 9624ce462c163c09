"""What the work on one stream asks for, so that the requests of many streams can be answered together."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from streamasr.features import FeatureState
from streamasr.layers import State
from streamasr.voice import VoiceState

ResultT = TypeVar("ResultT")


class Step(NamedTuple):
    """A request for one step of the network: energies (1, 1, mels, T) and the state before them.

    The answer is a pair: log-probabilities (T', tokens) of float32, and the state after them.
    """

    energies: Tensor
    network: tuple[State, ...]


class Listen(NamedTuple):
    """A request for the energies of samples (S,), and for the voice in them, of whichever there is a state."""

    samples: Tensor
    features: FeatureState | None
    voice: VoiceState | None


class Heard(NamedTuple):
    """The answer: energies (1, mels, T), the probabilities of a voice, and the states after the samples.

    What was not asked for is empty."""

    energies: Tensor
    features: FeatureState | None
    probabilities: list[float]
    voice: VoiceState | None


Request: TypeAlias = Step | Listen
Work: TypeAlias = Generator[Request, Any, ResultT]
"""Work on one stream: it asks for what is dear, and is sent the answers."""


def log_probs(logits: Tensor) -> NDArray[np.float32]:
    """The network's logits (B, tokens, T) as log-probabilities (B, T, tokens) in the processor's memory."""
    return logits.transpose(1, 2).log_softmax(-1).cpu().numpy()
