"""The live path: a source is heard from its first moment, and what it gives while the model loads waits for the model.

One thread reads, recognises and draws; the model loads in another; the microphone's own thread only fills its ring.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from streamasr.audio import RATE_HZ, FileSource
from streamasr.captions import Display, Status
from streamasr.errors import OutputError, StreamasrError
from streamasr.events import Event, Final, Overrun, Partial, SourceLost, SourceResumed
from streamasr.export import Saver
from streamasr.recorder import Recorder

if TYPE_CHECKING:
    from streamasr.audio import Block, Source

Samples = NDArray[np.float32]

SILENCE_DB = -120.0
WAITING_S = 30.0  # of audio read while the model loads; then the source has to hold it
LEAST_S, MOST_S = 0.16, 1.0  # of audio in one call of the engine, which costs about the same for either
FRAME_S = 0.1  # between two frames of the display
READ_S = 0.1  # the longest wait for a block
DRAIN_S = 1.0  # the longest that a stopped source is still read
METER_FALL_DB = 3.0  # a block
PACE_S = 2.0  # of audio after which a measurement counts half


class Recogniser(Protocol):
    """What the path needs of an `engine.Engine`; `state` is the engine's own."""

    def start(self) -> Any: ...
    def feed(self, samples: Samples, state: Any) -> tuple[Sequence[Event], Any]: ...
    def peek(self, state: Any) -> Partial: ...
    def skip(self, seconds: float, state: Any) -> tuple[Sequence[Event], Any]: ...
    def finish(self, state: Any) -> Sequence[Event]: ...


@dataclass
class Summary:
    """What a session came to."""

    heard_s: float = 0.0
    finals: int = 0
    words: int = 0
    dropped_s: float = 0.0


class Loading:
    """Something being made in another thread, which does not hold up the end of the program."""

    def __init__(self, make: Callable[[], Recogniser]) -> None:
        self._future: concurrent.futures.Future[Recogniser] = concurrent.futures.Future()
        threading.Thread(target=self._run, args=(make,), name="loading", daemon=True).start()

    def _run(self, make: Callable[[], Recogniser]) -> None:
        try:
            self._future.set_result(make())
        except BaseException as error:
            self._future.set_exception(error)

    def result(self, timeout_s: float | None = None) -> Recogniser | None:
        """What was made, or None where that takes longer than `timeout_s`; raises what the making raised."""
        try:
            return self._future.result(timeout_s)
        except concurrent.futures.TimeoutError:
            return None


class Session:
    """One run from the first sample to the last word.

    Args:
        source: where the audio comes from; closed at the end.
        loading: the engine to come.
        display: where captions are read.
        savers: files that are written as finals come.
        recorder: keeps the audio, if there is one.
        stop: set it to end; what was heard until then is still recognised.
        live: the sound goes on whether or not it is read, as that of microphones and pipes: it is read while the model
            loads, and what the source still holds when `stop` is set was heard too. A file waits for the model instead.
    """

    def __init__(
        self,
        source: Source,
        loading: Loading,
        display: Display,
        savers: Iterable[Saver] = (),
        stop: threading.Event | None = None,
        live: bool = False,
        recorder: Recorder | None = None,
    ) -> None:
        self.summary = Summary()
        self._source, self._loading, self._display = source, loading, display
        self._label = Path(source.name).name if isinstance(source, FileSource) else source.name
        self._savers, self._stop, self._live = list(savers), stop or threading.Event(), live
        self._waiting: collections.deque[Block] = collections.deque()
        self._waiting_s = 0.0
        self._recorder = recorder
        self._engine: Recogniser | None = None
        self._state: Any = None
        self._peeked: Any = None  # the state that was peeked at last
        self._partial: Partial | None = None
        self._error: StreamasrError | None = None
        self._began = self._drawn = time.monotonic()
        self._level_db = SILENCE_DB
        self._block_s = self._computing_s = 0.0  # of the last block
        self._pace = Pace()

    def run(self) -> Summary:
        """Until the source ends, `stop` is set or nobody can read the captions any more.

        Raises:
            StreamasrError: what ended the session early; everything heard before is recognised and saved.
        """
        try:
            for part in (self._listen, self._finish):
                try:
                    part()
                except StreamasrError as error:
                    self._error = self._error or error
        finally:
            self._source.close()
            self._close()
        if self._error:
            raise self._error
        return self.summary

    def _listen(self) -> None:
        ended = False
        while not ended and not self._stop.is_set() and not self._display.closed:
            ended = self._step(READ_S)
        give_up = time.monotonic() + DRAIN_S
        while self._live and not ended and time.monotonic() < give_up:
            before_s = self.summary.heard_s
            ended = self._step(0.0) or self.summary.heard_s == before_s

    def _step(self, timeout_s: float) -> bool:
        """Read, recognise and draw once; true when nothing follows."""
        ended = idle = False
        reads = self._engine is not None or (self._live and self._waiting_s < WAITING_S)
        if self._engine is None:
            self._engine = self._loading.result(0.0 if reads else timeout_s)
        if reads:
            try:
                block = self._source.read(0.0 if self._engine and self._waiting_s >= LEAST_S else timeout_s)
            except StreamasrError as error:
                self._error, ended = error, True
            else:
                ended, idle = block.ended, not len(block.samples)
                self._hear(block)
        if self._engine and self._waiting and (idle or self._waiting_s >= LEAST_S):
            self._recognise(self._engine, self._next())
        self._draw("" if self._engine else "loading the model")
        return ended

    def _hear(self, block: Block) -> None:
        seconds = len(block.samples) / RATE_HZ
        if seconds or block.skipped_s or block.events:
            self._waiting.append(block)
            self._record(block)
            self._waiting_s += seconds
            self.summary.heard_s += seconds
        if seconds:
            self._level_db = max(block.level_db, self._level_db - METER_FALL_DB)

    def _next(self) -> Block:
        """The oldest blocks that wait, as one, up to `MOST_S` or to where time is skipped."""
        block = self._waiting.popleft()
        joined, count = [block.samples], len(block.samples)
        events = block.events
        while self._waiting and not self._waiting[0].skipped_s:
            count += len(self._waiting[0].samples)
            if count > MOST_S * RATE_HZ:
                break
            joined.append(self._waiting[0].samples)
            events += self._waiting.popleft().events
        return dataclasses.replace(block, samples=np.concatenate(joined), events=events)

    def _record(self, block: Block) -> None:
        if self._recorder is None:
            return
        try:
            self._recorder.write(block)
        except OutputError as error:
            self._display.note(str(error))
            self._recorder = None

    def _recognise(self, engine: Recogniser, block: Block) -> None:
        seconds = len(block.samples) / RATE_HZ
        self._waiting_s -= seconds
        began = time.perf_counter()
        if self._state is None:
            self._state = engine.start()
        if block.skipped_s:
            self._take(*engine.skip(block.skipped_s, self._state))
        for event in block.events:
            self._tell(event)
        if seconds:
            self._take(*engine.feed(block.samples, self._state))
            self._computing_s = time.perf_counter() - began
            self._block_s = seconds
            self._pace.add(seconds, self._computing_s)

    def _finish(self) -> None:
        """Recognise what waits and flush the engine: the last words."""
        if self._engine is None and self._waiting:
            while (engine := self._loading.result(READ_S)) is None:
                self._draw("finishing: loading the model")
            self._engine = engine
        while self._engine and self._waiting:
            self._recognise(self._engine, self._next())
            self._draw("finishing")
        if self._engine:
            for event in self._engine.finish(self._engine.start() if self._state is None else self._state):
                self._tell(event)

    def _take(self, events: Sequence[Event], state: Any) -> None:
        self._state = state
        for event in events:
            self._tell(event)

    def _tell(self, event: Event) -> None:
        if isinstance(event, Partial):
            self._partial = event
        elif isinstance(event, Final):
            self._partial = None
            self.summary.finals += bool(event.text.strip())
            self.summary.words += len(event.text.split())
        elif isinstance(event, Overrun):
            if event.seconds and not self.summary.dropped_s:
                self._display.note(f"audio was dropped ({event.reason}); the status line counts how much")
            self.summary.dropped_s += event.seconds
        elif isinstance(event, SourceLost):
            self._display.note(f"the source was lost ({event.reason}); trying to get it back")
        elif isinstance(event, SourceResumed):
            self._display.note(f"the source is back after {event.gap_s:.1f} s")
        for saver in self._savers:
            try:
                saver.write(event)
            except OutputError as error:
                self._display.note(str(error))
        self._display.event(event)

    def _draw(self, phase: str) -> None:
        now = time.monotonic()
        if now - self._drawn < FRAME_S:
            return
        self._drawn = now
        if self._engine and self._state is not self._peeked and self._display.wants_partials:
            self._peeked = self._state
            self._display.event(self._peek(self._engine))
        self._display.draw(
            Status(
                phase=phase,
                source=self._label,
                level_db=self._level_db,
                elapsed_s=now - self._began,
                latency_s=self._latency_s(),
                real_time_factor=self._pace.real_time_factor,
                dropped_s=self.summary.dropped_s,
            )
        )

    def _latency_s(self) -> float | None:
        """How long ago the last sample that was recognised was heard; None while nothing is recognised."""
        if not self._block_s:
            return None
        held_s: float = getattr(self._source, "backlog_s", 0.0)
        return held_s + self._waiting_s + self._block_s + self._computing_s

    def _peek(self, engine: Recogniser) -> Partial:
        """The last partial, its tentative words brought up to what was heard a moment ago."""
        peeked = engine.peek(self._state)
        committed = self._partial.committed if self._partial else ""
        if not peeked.text.startswith(committed):
            return self._partial or peeked
        return Partial(committed, peeked.text[len(committed) :], peeked.start_s, peeked.end_s)

    def _close(self) -> None:
        self._display.close()
        if self._recorder is not None:
            self._recorder.close()
        for saver in self._savers:
            try:
                saver.close()
            except OutputError as error:
                self._error = self._error or error


class Pace:
    """Seconds of computing for one second of audio, of late."""

    def __init__(self) -> None:
        self._audio_s = self._computing_s = 0.0

    def add(self, audio_s: float, computing_s: float) -> None:
        """Take in one measurement; older ones fade with the audio that passes."""
        kept = 0.5 ** (audio_s / PACE_S)
        self._audio_s = self._audio_s * kept + audio_s
        self._computing_s = self._computing_s * kept + computing_s

    @property
    def real_time_factor(self) -> float | None:
        """None before anything was measured."""
        return self._computing_s / self._audio_s if self._audio_s else None
