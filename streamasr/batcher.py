"""Many streams, one model: one thread takes the steps of all streams, those of equal shapes together.

A stream hands in samples and commands from any thread and gets `Report`s back. Each stream is fed whole chunks, so that
the streams' states have equal shapes and one step of the network serves them all; endpoint rules, re-warming and the
beam are the engine's own, stream by stream. What a stream gets does not depend on who else is connected: only the
rounding of the matrix products may differ in its last bits.

In one round a stream takes one chunk, so one that sends faster than real time waits for its turn like the others. Where
most of them have more waiting, because the machine is busy, chunks are doubled: longer ones cost less for each second.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from streamasr.engine import Engine
from streamasr.errors import StreamasrError
from streamasr.events import End, Event, Partial
from streamasr.rows import Row, Shapes, answers, shapes
from streamasr.stream import Command, Report, Stream
from streamasr.stream_state import StreamState
from streamasr.work import Request, Step, Work

Samples = NDArray[np.float32]
UNIT_S = 0.04  # chunks are whole multiples of this, one output frame of the network
LONGEST_CHUNKS = 8  # the most chunks taken at once of what waits
TIDY_ROUNDS = 64
log = logging.getLogger("streamasr.batcher")


@dataclass
class Load:
    """What a batcher has done; read without a lock, for metrics."""

    rounds: int = 0
    steps: int = 0
    stepped: int = 0  # streams in all steps together
    audio_s: float = 0.0
    busy_s: float = 0.0
    observe: Callable[[int, float], None] | None = None  # streams and seconds of each step


class Batcher:
    """One thread that steps the streams of `engine`'s model.

    Args:
        wait_s: the longest that a stream with enough samples waits for others.
        chunk_s: samples are taken in chunks of this length.
        most: the most streams in one step; 1 is one chunk of one stream after the other.
        deliver: called in the batcher's thread with the reports of a step; by default each goes to its stream's
            `receive` at once.
    """

    def __init__(
        self,
        engine: Engine,
        wait_s: float = 0.01,
        chunk_s: float = 0.08,
        most: int = 64,
        deliver: Callable[[list[tuple[Stream, Report]]], None] | None = None,
    ) -> None:
        self.engine, self.load = engine, Load()
        self._wait_s, self._most = wait_s, most
        self._unit = round(UNIT_S * engine.rate_hz)
        self._chunk = max(1, round(chunk_s / UNIT_S)) * self._unit
        self._deliver = deliver or _hand_out
        self._changed = threading.Condition()
        self._streams: dict[Stream, None] = {}
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name="batcher", daemon=True)
        self._thread.start()

    def open(self, receive: Callable[[Report], None], engine: Engine | None = None) -> Stream:
        """A new stream; `engine` is one on the same model (`Engine.tuned`)."""
        stream = Stream(self, engine or self.engine, receive)
        with self._changed:
            self._streams[stream] = None
        return stream

    @property
    def streams(self) -> int:
        """Streams that are open."""
        return len(self._streams)

    @property
    def backlog_s(self) -> float:
        """Seconds of audio of all streams that wait."""
        return sum(stream.backlog_s for stream in list(self._streams))

    def put(self, stream: Stream, item: Samples | Command) -> None:
        """Append to what waits; see the methods of `Stream`."""
        with self._changed:
            was_ready = self._is_ready(stream)
            stream.waiting.append(item)
            if isinstance(item, Command):
                stream.commands += 1
            else:
                stream.samples += len(item)
            if not was_ready and self._is_ready(stream):
                stream.since = time.monotonic()
                self._changed.notify()

    def forget(self, stream: Stream) -> None:
        """See `Stream.close`."""
        with self._changed:
            stream.over = True
            self._streams.pop(stream, None)
            stream.waiting.clear()
            stream.samples = stream.commands = 0
            self._changed.notify()

    def close(self) -> None:
        """Stop the thread; what waits is dropped."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()

    def _is_ready(self, stream: Stream) -> bool:
        return not stream.over and (stream.commands > 0 or stream.samples >= self._chunk)

    def _work(self) -> None:
        while not self._stopping:
            try:
                self._round()
            except Exception as error:  # a defect here: all who wait must hear of it, and later streams be served
                log.exception("a round failed")
                self._end_all(error)

    def _round(self) -> None:
        """Wait for streams that are ready, and do what they ask for."""
        with self._changed:
            ready = self._wait()
            if self._stopping:
                return
            most = self._longest(ready)
            jobs = [self._take(stream, most) for stream in ready]
        self.load.rounds += 1
        if self.load.rounds % TIDY_ROUNDS == 0:
            self._tidy()
        began = time.perf_counter()
        self._run([_Task(stream, job) for stream, job in zip(ready, jobs, strict=True)])
        self.load.busy_s += time.perf_counter() - began

    def _end_all(self, error: Exception) -> None:
        """End every stream that is open with an error."""
        with self._changed:
            streams = list(self._streams)
            self._streams.clear()
            for stream in streams:
                stream.over = True
        reports = [
            (stream, Report([], stream.engine.time_s(stream.state), stream.state.samples, error=error))
            for stream in streams
        ]
        self._tell(reports)

    def _wait(self) -> list[Stream]:
        """The streams that are ready, once all are or one has waited long enough."""
        while not self._stopping:
            ready = [stream for stream in self._streams if self._is_ready(stream)]
            if not ready:
                self._changed.wait()
                continue
            late_s = time.monotonic() - min(stream.since for stream in ready)
            if len(ready) == len(self._streams) or late_s >= self._wait_s:
                return ready
            self._changed.wait(self._wait_s - late_s)
        return []

    def _longest(self, ready: list[Stream]) -> int:
        """The most samples of one stream in this round, by what waits in half of the streams: one that floods us with
        samples does not change that."""
        if self._most == 1:
            return self._chunk
        typical = sorted(stream.samples for stream in ready)[(len(ready) - 1) // 2]
        most = self._chunk
        while most < LONGEST_CHUNKS * self._chunk and typical >= 2 * most:
            most *= 2
        return most

    def _take(self, stream: Stream, most: int) -> list[Samples | Command]:
        """The samples of one chunk, or all of fewer before a command, and the commands after them."""
        while most > self._chunk and stream.samples < most:
            most //= 2
        parts: list[Samples] = []
        taken = 0
        room = most + (stream.state.origin - stream.state.samples) % self._unit  # back to whole units of its frames
        while stream.waiting and taken < room:
            item = stream.waiting[0]
            if isinstance(item, Command):
                break
            parts.append(item[: room - taken])
            taken += len(parts[-1])
            if len(parts[-1]) < len(item):
                stream.waiting[0] = item[len(parts[-1]) :]
            else:
                stream.waiting.popleft()
        heard = np.concatenate(parts) if parts else np.zeros(0, np.float32)
        commands: list[Command] = []
        while stream.waiting and isinstance(command := stream.waiting[0], Command):
            commands.append(command)
            stream.waiting.popleft()
        if all(command.kind in ("mark", "peek") for command in commands):
            # nothing needs an exact place: what does not fill a unit waits on, so that shapes stay equal
            loose = (stream.state.samples + len(heard) - stream.state.origin) % self._unit
            if loose and loose < len(heard) + bool(commands):
                stream.waiting.appendleft(heard[len(heard) - loose :])
                heard = heard[: len(heard) - loose]
        stream.samples -= len(heard)
        stream.commands -= len(commands)
        return [heard, *commands]

    @torch.inference_mode()
    def _tidy(self) -> None:
        """Streams that were not stepped lately let go of the batch that they were in, which is memory of all in it."""
        for stream in list(self._streams):
            network = stream.state.network
            if isinstance(network, Row):
                if stream.seen == network:
                    stream.state = stream.state._replace(network=network.alone())
                stream.seen = network

    @torch.inference_mode()
    def _run(self, tasks: list[_Task]) -> None:
        """The work of one round, steps of equal shapes together."""
        asking = [task for task in tasks if task.advance(None)]
        self._report([task for task in tasks if task not in asking])
        while asking:
            groups: dict[Shapes, list[_Task]] = {}
            for task in asking:
                assert task.request is not None
                groups.setdefault(shapes(task.request), []).append(task)
            asking = []
            for group in groups.values():
                for start in range(0, len(group), self._most):
                    done, more = self._step(group[start : start + self._most])
                    asking += more
                    self._report(done)

    def _step(self, tasks: list[_Task]) -> tuple[list[_Task], list[_Task]]:
        """One answer for all; the tasks that are done, and those that ask for more."""
        began = time.perf_counter()
        requests = [task.request for task in tasks if task.request is not None]
        try:
            found = answers(self.engine, requests)
        except Exception as error:
            log.exception("a step failed")
            for task in tasks:
                task.error = error
            return tasks, []
        if isinstance(requests[0], Step):
            self.load.steps += 1
            self.load.stepped += len(tasks)
            if self.load.observe:
                self.load.observe(len(tasks), time.perf_counter() - began)
        more = [task for task, answer in zip(tasks, found, strict=True) if task.advance(answer)]
        return [task for task in tasks if task not in more], more

    def _report(self, tasks: list[_Task]) -> None:
        reports = []
        for task in tasks:
            stream, report = task.stream, task.report()
            self.load.audio_s += task.heard / stream.engine.rate_hz
            with self._changed:
                if stream.over:
                    continue
                if report.error or (report.events and isinstance(report.events[-1], End)):
                    stream.over = True
                    self._streams.pop(stream, None)
            reports.append((stream, report))
        self._tell(reports)

    def _tell(self, reports: list[tuple[Stream, Report]]) -> None:
        if reports:
            try:
                self._deliver(reports)
            except Exception:  # a defect of the receiver, who must not stop the others
                log.exception("a report could not be delivered")


class _Task:
    """What one stream does in one round."""

    def __init__(self, stream: Stream, job: list[Samples | Command]) -> None:
        self.stream = stream
        self.heard = len(job[0]) if not isinstance(job[0], Command) else 0
        self.error: Exception | None = None
        self.request: Request | None = None
        self._state, self._events, self._marks = stream.state, [], []  # type: ignore[var-annotated]
        self._work = self._do(job)

    def advance(self, answer: Any) -> bool:
        """Go on with the answer to the last request; true where there is another."""
        try:
            self.request = next(self._work) if answer is None else self._work.send(answer)
        except StopIteration:
            self.request = None
        except StreamasrError as error:
            self.error, self.request = error, None
        except Exception as error:
            log.exception("a stream failed")
            self.error, self.request = error, None
        return self.request is not None

    def report(self) -> Report:
        """What came of it; the stream takes on its new state."""
        self.stream.state = self._state
        time_s = self.stream.engine.time_s(self._state)
        return Report(self._events, time_s, self._state.samples, tuple(self._marks), self.error)

    def _do(self, job: list[Samples | Command]) -> Work[None]:
        stream = self.stream
        for item in job:
            if not isinstance(item, Command):
                if len(item):
                    events, self._state = yield from stream.engine.feeding(item, self._state)
                    self._events += events
            elif item.kind == "mark":
                self._marks.append(item.value)
            elif item.kind == "peek":
                partial: Partial = yield from stream.engine.peeking(self._state)
                self._marks.append((item.value, partial))
            elif item.kind == "finalize":
                events, self._state = yield from stream.engine.finalizing(self._state)
                self._events += events
            elif item.kind == "skip":
                events, self._state = yield from stream.engine.skipping(item.value, self._state)
                self._events += events
            elif item.kind == "tune":
                events, self._state = yield from _tuning(stream.engine, item.value, self._state)
                self._events += events
                stream.engine = item.value
            else:
                self._events += yield from stream.engine.finishing(self._state)
                return


def _tuning(old: Engine, new: Engine, state: StreamState) -> Work[tuple[list[Event], StreamState]]:
    """Go over to another engine; another decoder begins a new utterance."""
    if new.decoder is old.decoder:
        return [], state
    events, ended = yield from old.finalizing(state)
    shift_s = ended.shift_s + ended.beam.frames * old.frame_s
    return events, ended._replace(beam=new.decoder.start(), shift_s=shift_s)


def _hand_out(reports: list[tuple[Stream, Report]]) -> None:
    for stream, report in reports:
        stream.receive(report)
