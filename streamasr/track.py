"""One source on its way into the engine: what waits between them, its place on the common clock, and its own state."""

from __future__ import annotations

import collections
import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from streamasr.audio import RATE_HZ, FileSource
from streamasr.events import End, Event, Overrun, Partial, SourceLost, SourceResumed
from streamasr.recorder import Recorder

if TYPE_CHECKING:
    from streamasr.audio import Block, Source

SILENCE_DB = -120.0
METER_FALL_DB = 3.0  # a block
MOST_S = 1.0  # of audio in one call of the engine
TOO_SLOW = "the machine was too slow"


class Track:
    """A source and what came of it so far.

    Args:
        source: where the audio comes from.
        live: the sound goes on whether or not it is read, as that of microphones and pipes.
        label: what its events are marked with; "" for the only source.
        recorder: keeps the audio, if there is one.
        start_s: the time of the first sample, where a transcript goes on.

    Attributes:
        waiting: blocks that were read and are not recognised yet, `waiting_s` of audio.
        heard_s: seconds read so far.
        state, peeked: the engine's state, and the one that was peeked at last.
        partial: the last one, while an utterance is in progress.
    """

    def __init__(
        self,
        source: Source,
        live: bool = False,
        label: str = "",
        recorder: Recorder | None = None,
        start_s: float = 0.0,
    ) -> None:
        self.source, self.live, self.label, self.recorder = source, live, label, recorder
        self.name = Path(source.name).name if isinstance(source, FileSource) else source.name
        self.waiting: collections.deque[Block] = collections.deque()
        self.waiting_s = self.heard_s = 0.0
        self.state: Any = None
        self.peeked: Any = None
        self.partial: Partial | None = None
        self.ended = False
        self.level_db = SILENCE_DB
        self.start_s = start_s
        self.began_s: float | None = None  # on the monotonic clock: the first sample
        self._shift_s = start_s  # from the source's clock to that of the captions
        self._bound_s: float | None = None

    @property
    def lag_s(self) -> float:
        """Seconds of audio that wait to be recognised."""
        held_s: float = getattr(self.source, "backlog_s", 0.0)
        return self.waiting_s + held_s

    @property
    def is_paced(self) -> bool:
        """It goes on while nobody reads, and what it holds until it is read is bounded: a microphone."""
        return self.live and hasattr(self.source, "backlog_s")

    def hear(self, block: Block, epoch_s: float | None = None) -> Block | None:
        """Take in what was read; it waits from now on. Returns it with the gap that belongs before it, or None.

        Args:
            block: what the source gave.
            epoch_s: where there are several sources, when the first one began: this one keeps its distance.
        """
        seconds = len(block.samples) / RATE_HZ
        if not (seconds or block.skipped_s or block.events):
            return None
        if seconds and self.began_s is None:
            self.began_s = time.monotonic() - self.lag_s - seconds
            if epoch_s is not None and self.began_s > epoch_s:
                later_s = self.began_s - epoch_s
                self._shift_s += later_s
                block = dataclasses.replace(block, skipped_s=block.skipped_s + later_s)
        self.waiting.append(block)
        self.waiting_s += seconds
        self.heard_s += seconds
        if seconds:
            self.level_db = max(block.level_db, self.level_db - METER_FALL_DB)
        return block

    def next(self) -> Block:
        """The oldest blocks that wait, as one, up to `MOST_S` or to where time is skipped."""
        block = self.waiting.popleft()
        joined, count = [block.samples], len(block.samples)
        events = block.events
        while self.waiting and not self.waiting[0].skipped_s:
            count += len(self.waiting[0].samples)
            if count > MOST_S * RATE_HZ:
                break
            joined.append(self.waiting[0].samples)
            events += self.waiting.popleft().events
        samples = np.concatenate(joined)
        self.waiting_s -= len(samples) / RATE_HZ
        return dataclasses.replace(block, samples=samples, events=events)

    def shed(self, limit_s: float) -> None:
        """Where more than `limit_s` waits, let the oldest go until half of that waits, and say so in what is left.

        What waits when this is called first was said while the model was loaded: it is the bound until it is less.
        """
        lag_s, slack_s = self.lag_s, limit_s / 2
        usual_s = lag_s + slack_s
        self._bound_s = max(limit_s, usual_s if self._bound_s is None else min(self._bound_s, usual_s))
        if lag_s <= self._bound_s:
            return
        dropped_s, skipped_s, events = 0.0, 0.0, list[Event]()
        while len(self.waiting) > 1 and self.lag_s > limit_s / 2:
            block = self.waiting.popleft()
            seconds = len(block.samples) / RATE_HZ
            self.waiting_s -= seconds
            dropped_s += seconds
            skipped_s += block.skipped_s
            events += block.events
        if dropped_s:
            first = self.waiting[0]
            events.append(Overrun(dropped_s, first.start_s, TOO_SLOW))
            skipped_s += dropped_s + first.skipped_s
            self.waiting[0] = dataclasses.replace(first, skipped_s=skipped_s, events=(*events, *first.events))

    def placed(self, event: Event) -> Event:
        """An event of the source itself, on the clock of the captions."""
        if self._shift_s and isinstance(event, Overrun | SourceLost | SourceResumed):
            return dataclasses.replace(event, time_s=event.time_s + self._shift_s)
        return event

    def marked(self, event: Event) -> Event:
        """The event with the label of this source."""
        if not self.label or isinstance(event, End):
            return event
        return dataclasses.replace(event, source=self.label)
