"""A batcher's streams for a caller that waits for each result, as the live path does."""

from __future__ import annotations

import collections
import threading
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from streamasr.batcher import Batcher
from streamasr.events import End, Event, Partial
from streamasr.stream import Report

Samples = NDArray[np.float32]


class BatchedRecogniser:
    """What `live.Session` asks of an engine, done by a batcher."""

    def __init__(self, batcher: Batcher) -> None:
        self._batcher = batcher

    def start(self) -> _Waiting:
        """A stream of its own."""
        return _Waiting(self._batcher)

    def feed(self, samples: Samples, state: _Waiting) -> tuple[Sequence[Event], _Waiting]:
        """As `Engine.feed`; the samples that do not fill a chunk are heard with the next ones."""
        state.stream.feed(samples)
        state.stream.mark(None)
        return state.result().events, state

    def peek(self, state: _Waiting) -> Partial:
        """As `Engine.peek`."""
        state.stream.peek(None)
        partial: Partial = state.result().marks[0][1]
        return partial

    def skip(self, seconds: float, state: _Waiting) -> tuple[Sequence[Event], _Waiting]:
        """As `Engine.skip`."""
        state.stream.skip(seconds)
        state.stream.mark(None)
        return state.result().events, state

    def finish(self, state: _Waiting) -> Sequence[Event]:
        """As `Engine.finish`."""
        state.stream.finish()
        return state.result().events


class _Waiting:
    """A stream whose reports are waited for."""

    def __init__(self, batcher: Batcher) -> None:
        self._arrived = threading.Semaphore(0)
        self._reports: collections.deque[Report] = collections.deque()
        self.stream = batcher.open(self._receive)

    def _receive(self, report: Report) -> None:
        self._reports.append(report)
        self._arrived.release()

    def result(self) -> Report:
        """The reports up to the next mark or the end, as one."""
        events: list[Event] = []
        while True:
            self._arrived.acquire()
            report = self._reports.popleft()
            events += report.events
            if report.error:
                raise report.error
            if report.marks or (events and isinstance(events[-1], End)):
                return report._replace(events=events)
