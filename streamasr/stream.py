"""One stream of a batcher as its owner sees it: what it hands in, and what is reported of it."""

from __future__ import annotations

import collections
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from streamasr.engine import Engine
from streamasr.events import Event
from streamasr.stream_state import StreamState

Samples = NDArray[np.float32]


class Report(NamedTuple):
    """What became of a stream's last samples and commands.

    Attributes:
        events: in order; the last one is `End` when the stream is over.
        time_s: seconds of audio heard so far, gaps included.
        samples: samples heard so far.
        marks: what was given to `Stream.mark` and is reached now.
        error: the stream is over because of this.
    """

    events: Sequence[Event]
    time_s: float
    samples: int
    marks: tuple[Any, ...] = ()
    error: Exception | None = None


@dataclass(frozen=True, slots=True)
class Command:
    """Something to do between two samples."""

    kind: str  # finalize | finish | peek | skip | tune | mark
    value: Any = None


class Mailbox(Protocol):
    """Where streams put what is to be done: a batcher."""

    def put(self, stream: Stream, item: Samples | Command) -> None: ...
    def forget(self, stream: Stream) -> None: ...


class Stream:
    """One stream of a batcher; its methods may be called from any thread."""

    def __init__(self, mailbox: Mailbox, engine: Engine, receive: Callable[[Report], None]) -> None:
        self.receive = receive
        self.engine = engine
        self.state: StreamState = engine.start()  # only the batcher's thread touches it
        self.waiting: collections.deque[Samples | Command] = collections.deque()
        self.samples = 0  # that wait
        self.commands = 0  # that wait
        self.since = 0.0  # monotonic time when there was first enough for a chunk
        self.over = False
        self.seen: object = None  # the state of the network when it was last looked at
        self._mailbox = mailbox

    @property
    def backlog_s(self) -> float:
        """Seconds of audio that wait."""
        return self.samples / self.engine.rate_hz

    def feed(self, samples: Samples) -> None:
        """Hear these samples, (S,) float32 mono at the model's rate."""
        if len(samples):
            self._mailbox.put(self, samples)

    def finalize(self) -> None:
        """End the utterance once all samples until now are heard."""
        self._mailbox.put(self, Command("finalize"))

    def finish(self) -> None:
        """End the stream once all samples until now are heard; the last event is `End`."""
        self._mailbox.put(self, Command("finish"))

    def skip(self, seconds: float) -> None:
        """Let the clock jump once all samples until now are heard."""
        self._mailbox.put(self, Command("skip", seconds))

    def peek(self, token: Any) -> None:
        """Ask for the best guess at all that was heard: a report with the mark (token, Partial)."""
        self._mailbox.put(self, Command("peek", token))

    def tune(self, engine: Engine) -> None:
        """Go on with an engine on the same model; where it has other hotwords, the utterance ends."""
        self._mailbox.put(self, Command("tune", engine))

    def mark(self, token: Any) -> None:
        """Ask for a report once whatever can be heard of the samples until now is heard."""
        self._mailbox.put(self, Command("mark", token))

    def close(self) -> None:
        """Forget the stream; nothing more is reported."""
        self._mailbox.forget(self)
