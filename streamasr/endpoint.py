"""When an utterance ends: rules on silence as the network hears it.

A frame is quiet when its likeliest token is the blank or the space. Three rules, as in the endpointing of Kaldi's
online decoders: silence without any speech yet, silence after speech, and the utterance too long. The last waits for a
short pause, then for a space, so that it does not cut a word; only far beyond the limit does it cut anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from streamasr.config import EndpointConfig


class EndpointState(NamedTuple):
    """Frames since the utterance began, frames of silence up to now, and whether anything was said."""

    frames: int = 0
    quiet: int = 0
    spoken: bool = False


class Endpoint(NamedTuple):
    """`at` is the last frame of the utterance within the scanned frames; `pause` tells that it ended in silence."""

    at: int
    pause: bool


PAUSE_S = 0.28


class Endpointer:
    """The rules of `config` for frames of `frame_ms`; `space` is the token of the space."""

    def __init__(self, config: EndpointConfig, frame_ms: float, space: int) -> None:
        self.config, self.space = config, space
        self.before, self.after, self.longest, self.pause = (
            max(1, round(seconds * 1000 / frame_ms))
            for seconds in (config.silence_before_s, config.silence_after_s, config.longest_s, PAUSE_S)
        )

    def scan(self, labels: Sequence[int], state: EndpointState) -> tuple[Endpoint | None, EndpointState]:
        """Look for the first endpoint in the likeliest tokens of the next frames.

        Returns:
            the endpoint, and a fresh state; or None, and the state after all the frames.
        """
        frames, quiet, spoken = state
        for index, label in enumerate(labels):
            frames += 1
            if label in (0, self.space):
                quiet += 1
            else:
                quiet, spoken = 0, True
            if quiet >= (self.after if spoken else self.before):
                return Endpoint(index, True), EndpointState()
            if spoken and frames >= self.longest:
                short = quiet >= self.pause
                if short or (frames >= 1.5 * self.longest and label == self.space) or frames >= 2 * self.longest:
                    return Endpoint(index, False), EndpointState()
        return None, EndpointState(frames, quiet, spoken)
