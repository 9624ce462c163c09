"""Stand-ins for what tests of the outer shell do not test: an engine and a source that follow a script."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from streamasr.audio import RATE_HZ, Block
from streamasr.errors import StreamasrError
from streamasr.events import End, Event, Final, Partial, Word

WORD_S = 0.5


class FakeState(NamedTuple):
    samples: int = 0
    told: int = 0  # samples of the finals so far
    skipped_s: float = 0.0


class FakeEngine:
    """Hears the next word of its text in every half second, and ends an utterance after `utterance` words."""

    def __init__(
        self,
        text: str = "one two three four five six seven eight nine ten",
        utterance: int = 4,
        cost: float = 0.0,  # seconds of the processor for a second of audio
    ) -> None:
        self.words = text.split()
        self.utterance, self.cost = utterance, cost
        self.started = 0

    def start(self) -> FakeState:
        self.started += 1
        return FakeState()

    def feed(self, samples: np.ndarray, state: FakeState) -> tuple[list[Event], FakeState]:
        assert samples.dtype == np.float32
        assert samples.ndim == 1
        until_s = time.thread_time() + self.cost * len(samples) / RATE_HZ
        while time.thread_time() < until_s:
            pass
        state = state._replace(samples=state.samples + len(samples))
        events: list[Event] = []
        length = round(self.utterance * WORD_S * RATE_HZ)
        while state.samples - state.told >= length:
            events.append(self._final(state.told, state.told + length, state.skipped_s))
            state = state._replace(told=state.told + length)
        events.append(Partial(self._text(state.told, state.samples), "", 0.0, 0.0))
        return events, state

    def peek(self, state: FakeState) -> Partial:
        return Partial("", f"{self._text(state.told, state.samples)} perhaps", 0.0, 0.0)

    def skip(self, seconds: float, state: FakeState) -> tuple[list[Event], FakeState]:
        return self._rest(state), state._replace(told=state.samples, skipped_s=state.skipped_s + seconds)

    def finish(self, state: FakeState) -> list[Event]:
        return [*self._rest(state), End(state.samples / RATE_HZ + state.skipped_s)]

    def _rest(self, state: FakeState) -> list[Event]:
        if state.samples == state.told:
            return []
        return [self._final(state.told, state.samples, state.skipped_s)]

    def _text(self, start: int, end: int) -> str:
        return " ".join(word.text for word in self._heard(start, end))

    def _heard(self, start: int, end: int, offset_s: float = 0.0) -> tuple[Word, ...]:
        step = round(WORD_S * RATE_HZ)
        return tuple(
            Word(
                self.words[at // step % len(self.words)],
                at / RATE_HZ + offset_s,
                min(at + step, end) / RATE_HZ + offset_s,
                0.9,
            )
            for at in range(start, end, step)
        )

    def _final(self, start: int, end: int, offset_s: float) -> Final:
        words = self._heard(start, end, offset_s)
        return Final(" ".join(word.text for word in words), words, words[0].start_s, words[-1].end_s)


class FakeSource:
    """Gives `blocks`, then the error if there is one; `endless` goes on with silence until it is closed."""

    def __init__(
        self,
        blocks: Sequence[Block],
        error: StreamasrError | None = None,
        endless: bool = False,
        at_end: threading.Event | None = None,
    ) -> None:
        self.name = "a fake"
        self.closed = False
        self._blocks, self._error, self._endless, self._at_end = list(blocks), error, endless, at_end

    def read(self, timeout_s: float = 0.1) -> Block:
        assert not self.closed
        if self._blocks:
            return self._blocks.pop(0)
        if self._error:
            raise self._error
        if self._at_end:
            self._at_end.set()
        if self._endless:
            time.sleep(min(timeout_s, 0.01))
            return Block(np.zeros(0, np.float32), 0.0)
        return Block(np.zeros(0, np.float32), 0.0, ended=True)

    def close(self) -> None:
        self.closed = True


def blocks(seconds: float, block_s: float = 0.25) -> list[Block]:
    """Audio of that length."""
    count = round(seconds / block_s)
    samples = np.full(round(block_s * RATE_HZ), 0.1, np.float32)
    return [Block(samples, number * block_s) for number in range(count)]


def main() -> int:
    """The command line with a fake engine: `python -c "from tests import fakes; fakes.main()" listen ...`.

    Its cost is that of the environment variable FAKE_COST.
    """
    import os

    from streamasr import bundle, cli
    from streamasr.verbs import shared

    bundle.find = lambda name: name
    shared.recogniser = lambda options, **_: FakeEngine(cost=float(os.environ.get("FAKE_COST", "0")))
    return cli.main()
