"""What a stream tells its listeners. All times are seconds of the real audio since the stream began.

`source` is the label of the source that an event came from, where there are several; else "".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Word:
    """One recognised word; `confidence` is a probability in 0..1."""

    text: str
    start_s: float
    end_s: float
    confidence: float


@dataclass(frozen=True, slots=True)
class SpeechStarted:
    """The first word of an utterance began at `time_s`."""

    time_s: float
    source: str = ""


@dataclass(frozen=True, slots=True)
class Partial:
    """What is known of the utterance in progress.

    `committed` only ever grows until the Final that begins with it; `tentative` may change.
    The two concatenate: `committed + tentative` is the text, spaces included.
    """

    committed: str
    tentative: str
    start_s: float
    end_s: float
    source: str = ""

    @property
    def text(self) -> str:
        return self.committed + self.tentative


@dataclass(frozen=True, slots=True)
class Final:
    """An utterance that will not change any more."""

    text: str
    words: tuple[Word, ...]
    start_s: float
    end_s: float
    source: str = ""

    @property
    def line(self) -> str:
        """The text, after the label of its source where it has one."""
        return f"[{self.source}] {self.text}" if self.source else self.text


@dataclass(frozen=True, slots=True)
class Overrun:
    """`seconds` of audio before `time_s` were dropped; `reason` says where ("ring full", "input overflow")."""

    seconds: float
    time_s: float
    reason: str
    source: str = ""


@dataclass(frozen=True, slots=True)
class SourceLost:
    """The audio source failed at `time_s`; capture is being retried."""

    time_s: float
    reason: str
    source: str = ""


@dataclass(frozen=True, slots=True)
class SourceResumed:
    """The audio source is back at `time_s`, after a gap that the timeline keeps."""

    time_s: float
    gap_s: float
    source: str = ""


@dataclass(frozen=True, slots=True)
class End:
    """Nothing follows: `time_s` seconds were heard."""

    time_s: float


Event: TypeAlias = SpeechStarted | Partial | Final | Overrun | SourceLost | SourceResumed | End
