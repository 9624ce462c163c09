"""The live path: a source is heard from its first moment, and what it gives while the model loads waits for the model.

One thread reads, recognises and draws; the model loads in another; the microphone's own thread only fills its ring.
Several sources take turns: one engine, and a state for each.
"""

from __future__ import annotations

import collections
import concurrent.futures
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from streamasr.audio import RATE_HZ
from streamasr.captions import Display, Status
from streamasr.config import LAG_LIMIT_S
from streamasr.errors import OutputError, StreamasrError
from streamasr.events import End, Event, Final, Overrun, Partial, SourceLost, SourceResumed
from streamasr.export import Saver
from streamasr.recorder import Recorder
from streamasr.track import Track

if TYPE_CHECKING:
    from streamasr.audio import Block, Source

Samples = NDArray[np.float32]

WAITING_S = 30.0  # of audio read while the model loads; then the source has to hold it
LEAST_S = 0.16  # of audio in one call of the engine, unless nothing more comes; the most costs about the same
LATE_S = 1.0  # of audio that waits; then the words in progress are not guessed at in advance
FRAME_S = 0.1  # between two frames of the display
READ_S = 0.1  # the longest wait for a block
DRAIN_S = 1.0  # the longest that a stopped source is still read
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


class Listener(Protocol):
    """Something else that gets the captions, in a thread of its own, and delays nobody."""

    @property
    def notes(self) -> collections.deque[str]:
        """What the user has to be told; taken out as it is shown."""
        ...

    def write(self, event: Event) -> None: ...
    def close(self) -> None: ...


class Session:
    """One run from the first sample to the last word.

    Args:
        source: where the audio comes from, or several `Track`s; closed at the end.
        loading: the engine to come.
        display: where captions are read.
        savers: files that are written as finals come.
        stop: set it to end; what was heard until then is still recognised.
        live: the sound goes on whether or not it is read, as that of microphones and pipes: it is read while the model
            loads, and what the source still holds when `stop` is set was heard too. A file waits for the model instead.
        recorder: keeps the audio, if there is one.
        listeners: programs and services that get the captions too.
        lag_limit_s: a microphone's audio is dropped, and that is told, where more than this waits to be recognised;
            None: all is kept, in memory (64 kB a second), however long it takes.
    """

    def __init__(
        self,
        source: Source | Sequence[Track],
        loading: Loading,
        display: Display,
        savers: Iterable[Saver] = (),
        stop: threading.Event | None = None,
        live: bool = False,
        recorder: Recorder | None = None,
        listeners: Iterable[Listener] = (),
        lag_limit_s: float | None = LAG_LIMIT_S,
    ) -> None:
        self.summary = Summary()
        self._tracks = list(source) if isinstance(source, Sequence) else [Track(source, live, recorder=recorder)]
        self._loading, self._display, self._listeners = loading, display, list(listeners)
        self._savers, self._stop, self._lag_limit_s = list(savers), stop or threading.Event(), lag_limit_s
        self._engine: Recogniser | None = None
        self._error: StreamasrError | None = None
        self._began = self._drawn = time.monotonic()
        self._block_s = self._computing_s = 0.0  # of the last block
        self._pace = Pace()

    def run(self) -> Summary:
        """Until the sources end, `stop` is set or nobody can read the captions any more.

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
            for track in self._tracks:
                track.source.close()
            self._close()
        if self._error:
            raise self._error
        return self.summary

    def _listen(self) -> None:
        while not self._ended and not self._stop.is_set() and not self._display.closed:
            self._step(READ_S)
        give_up = time.monotonic() + DRAIN_S
        heard_s = -1.0
        while not self._ended and time.monotonic() < give_up:
            before_s, heard_s = heard_s, sum(track.heard_s for track in self._tracks)
            if heard_s == before_s:
                break
            self._step(0.0, only_live=True)

    @property
    def _ended(self) -> bool:
        return all(track.ended for track in self._tracks)

    def _step(self, timeout_s: float, only_live: bool = False) -> None:
        """Read, recognise and draw once."""
        tracks = [track for track in self._tracks if track.live or not only_live]
        reads = self._engine is not None or any(self._may_wait(track) for track in tracks)
        if self._engine is None:
            self._engine = self._loading.result(0.0 if reads else timeout_s)
        waits = self._engine is not None and any(track.waiting_s >= LEAST_S for track in tracks)
        for track in tracks:
            idle = self._read(track, 0.0 if waits else timeout_s / len(tracks))
            if self._engine:
                if track.is_paced and self._lag_limit_s is not None:
                    track.shed(self._lag_limit_s)
                if track.waiting and (idle or track.waiting_s >= LEAST_S):
                    self._recognise(self._engine, track)
        self._draw("" if self._engine else "loading the model")

    def _read(self, track: Track, timeout_s: float) -> bool:
        """Take in what a source has, a late microphone's all; true when it had nothing."""
        if track.ended or not (self._engine or self._may_wait(track)):
            return True
        while True:
            try:
                block = track.source.read(timeout_s)
            except StreamasrError as error:
                self._error, track.ended = self._error or error, True
                return True
            track.ended = block.ended
            epoch_s = next((other.began_s for other in self._tracks if other.began_s is not None), None)
            heard = track.hear(block, epoch_s if len(self._tracks) > 1 else None)
            self.summary.heard_s = max(other.heard_s for other in self._tracks)
            self._record(track, heard)
            if track.ended or not len(block.samples) or not (track.is_paced and self._engine):
                return not len(block.samples)
            timeout_s = 0.0

    def _may_wait(self, track: Track) -> bool:
        """Whether more of it may be read before the model is there."""
        unbounded = track.is_paced and self._lag_limit_s is None
        return track.live and (unbounded or track.waiting_s < WAITING_S)

    def _record(self, track: Track, block: Block | None) -> None:
        if track.recorder is None or block is None:
            return
        try:
            track.recorder.write(block)
        except OutputError as error:
            self._display.note(str(error))
            track.recorder = None

    def _recognise(self, engine: Recogniser, track: Track) -> None:
        """The next blocks of a source."""
        block = track.next()
        seconds = len(block.samples) / RATE_HZ
        began = time.perf_counter()
        if track.state is None:
            self._begin(engine, track)
        if block.skipped_s:
            self._take(track, *engine.skip(block.skipped_s, track.state))
        for event in block.events:
            self._tell(track.marked(track.placed(event)), track)
        if seconds:
            self._take(track, *engine.feed(block.samples, track.state))
            self._computing_s = time.perf_counter() - began
            self._block_s = seconds
            self._pace.add(seconds, self._computing_s)

    def _begin(self, engine: Recogniser, track: Track) -> None:
        track.state = engine.start()
        if track.start_s:
            self._take(track, *engine.skip(track.start_s, track.state))

    def _finish(self) -> None:
        """Recognise what waits and flush the engine: the last words."""
        if self._engine is None and any(track.waiting for track in self._tracks):
            while (engine := self._loading.result(READ_S)) is None:
                self._draw("finishing: loading the model")
            self._engine = engine
        while self._engine and (waiting := [track for track in self._tracks if track.waiting]):
            for track in waiting:
                self._recognise(self._engine, track)
            self._draw("finishing")
        ends: list[End] = []
        for track in self._tracks if self._engine else ():
            assert self._engine
            if track.state is None:
                self._begin(self._engine, track)
            for event in self._engine.finish(track.state):
                if isinstance(event, End):
                    ends.append(event)
                else:
                    self._tell(track.marked(event), track)
        if ends:
            self._tell(max(ends, key=lambda end: end.time_s), self._tracks[0])

    def _take(self, track: Track, events: Sequence[Event], state: Any) -> None:
        track.state = state
        for event in events:
            self._tell(track.marked(event), track)

    def _tell(self, event: Event, track: Track) -> None:
        if isinstance(event, Partial):
            track.partial = event
        elif isinstance(event, Final):
            track.partial = None
            self.summary.finals += bool(event.text.strip())
            self.summary.words += len(event.text.split())
        elif isinstance(event, Overrun):
            if event.seconds and not self.summary.dropped_s:
                self._display.note(f"audio was dropped ({event.reason}); the status line counts how much")
            self.summary.dropped_s += event.seconds
        elif isinstance(event, SourceLost):
            self._display.note(f"{_which(event)} was lost ({event.reason}); trying to get it back")
        elif isinstance(event, SourceResumed):
            self._display.note(f"{_which(event)} is back after {event.gap_s:.1f} s")
        for saver in self._savers:
            try:
                saver.write(event)
            except OutputError as error:
                self._display.note(str(error))
        for listener in self._listeners:
            listener.write(event)
        self._display.event(event)

    def _draw(self, phase: str) -> None:
        for listener in self._listeners:
            while listener.notes:
                self._display.note(listener.notes.popleft())
        now = time.monotonic()
        if now - self._drawn < FRAME_S:
            return
        self._drawn = now
        lag_s = max(track.lag_s for track in self._tracks)
        if self._engine and self._display.wants_partials and lag_s < LATE_S:
            for track in self._tracks:
                if track.state is not track.peeked:
                    track.peeked = track.state
                    self._display.event(track.marked(self._peek(self._engine, track)))
        self._display.draw(
            Status(
                phase=phase,
                source=" + ".join(track.label or track.name for track in self._tracks),
                level_db=max(track.level_db for track in self._tracks),
                elapsed_s=now - self._began,
                latency_s=lag_s + self._block_s + self._computing_s if self._block_s else None,
                lag_s=lag_s if self._block_s and any(track.live for track in self._tracks) else 0.0,
                real_time_factor=self._pace.real_time_factor,
                dropped_s=self.summary.dropped_s,
            )
        )

    def _peek(self, engine: Recogniser, track: Track) -> Partial:
        """The last partial, its tentative words brought up to what was heard a moment ago."""
        peeked = engine.peek(track.state)
        committed = track.partial.committed if track.partial else ""
        if not peeked.text.startswith(committed):
            return track.partial or peeked
        return Partial(committed, peeked.text[len(committed) :], peeked.start_s, peeked.end_s)

    def _close(self) -> None:
        for listener in self._listeners:
            listener.close()
            while listener.notes:
                self._display.note(listener.notes.popleft())
        self._display.close()
        for track in self._tracks:
            if track.recorder is not None:
                track.recorder.close()
        for saver in self._savers:
            try:
                saver.close()
            except OutputError as error:
                self._error = self._error or error


def _which(event: SourceLost | SourceResumed) -> str:
    return f"the source [{event.source}]" if event.source else "the source"


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
