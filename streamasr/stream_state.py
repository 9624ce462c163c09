"""What is known of one stream between two calls of the engine."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from streamasr.ctc import BeamState
from streamasr.endpoint import EndpointState
from streamasr.features import FeatureState
from streamasr.layers import State
from streamasr.voice import GateState, VoiceState


class StreamState(NamedTuple):
    """Everything known of one stream.

    Attributes:
        features: the log-mel state; of no use while the gate is closed.
        history: the last energies given to the network, (1, mels, H), to warm up a fresh network state.
        network: the network's state.
        beam: the decoder's state.
        endpoint: the state of the endpoint rules.
        origin: the sample that frames are laid from.
        hops: feature frames heard since `origin`.
        frames: output frames from `origin` on that are decoded.
        ahead: output frames that were decoded ahead of the network, which will give them again.
        samples: samples heard, over all.
        skipped_s: seconds of gaps, over all.
        shift_s: time of the decoder's frame 0.
        last: the last Partial's committed and tentative text.
        begun: a SpeechStarted was sent for this utterance.
        gate: whether the network hears at all; while the gate is closed, `frames` stands still.
        voice: the voice detector's state, where there is a gate.
        recent: the last pieces of samples, each (S,), where there is a gate; `remembered` samples in all.
    """

    features: FeatureState
    history: Tensor
    network: tuple[State, ...]
    beam: BeamState
    endpoint: EndpointState = EndpointState()
    origin: int = 0
    hops: int = 0
    frames: int = 0
    ahead: int = 0
    samples: int = 0
    skipped_s: float = 0.0
    shift_s: float = 0.0
    last: tuple[str, str] = ("", "")
    begun: bool = False
    gate: GateState = GateState(open=True)
    voice: VoiceState | None = None
    recent: tuple[Tensor, ...] = ()
    remembered: int = 0
