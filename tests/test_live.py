"""The live path: nothing that was heard is lost, whatever happens when."""

import threading
from pathlib import Path

import numpy as np
import pytest

from streamasr.audio import Block
from streamasr.captions import Status
from streamasr.errors import AudioError, BundleError, OutputError
from streamasr.events import Event, Final, Overrun, Partial, SourceLost, SourceResumed
from streamasr.export import Saver
from streamasr.live import Loading, Pace, Session
from tests.fakes import FakeEngine, FakeSource, blocks


class Record:
    """A display that remembers."""

    def __init__(self, wants_partials: bool = False) -> None:
        self.closed = self.left = False
        self.wants_partials = wants_partials
        self.events: list[Event] = []
        self.notes: list[str] = []
        self.statuses: list[Status] = []

    def event(self, event: Event) -> None:
        self.events.append(event)

    def note(self, line: str) -> None:
        self.notes.append(line)

    def draw(self, status: Status) -> None:
        self.statuses.append(status)

    def close(self) -> None:
        self.left = True

    @property
    def text(self) -> list[str]:
        return [event.text for event in self.events if isinstance(event, Final)]


@pytest.fixture(autouse=True)
def every_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamasr.live.FRAME_S", 0.0)


def test_everything_is_recognised_to_the_last_word() -> None:
    display, source = Record(), FakeSource(blocks(3.0))
    summary = Session(source, Loading(FakeEngine), display).run()
    assert display.text == ["one two three four", "five six"]
    assert (summary.finals, summary.words, summary.heard_s, summary.dropped_s) == (2, 6, 3.0, 0.0)
    assert source.closed
    assert display.left


def test_what_is_said_while_the_model_loads_waits_for_it() -> None:
    heard, display = threading.Event(), Record()

    def load() -> FakeEngine:
        assert heard.wait(10)
        return FakeEngine()

    Session(FakeSource(blocks(3.0), at_end=heard), Loading(load), display, live=True).run()
    assert display.text == ["one two three four", "five six"]
    assert display.statuses[0].phase == "loading the model"
    assert display.statuses[0].level_db == pytest.approx(-20.0)


def test_a_file_does_not_play_before_the_model_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamasr.live.READ_S", 0.001)
    go, display, source = threading.Event(), Record(), FakeSource(blocks(3.0))

    def draw(status: Status) -> None:
        if status.phase == "loading the model":
            assert len(source._blocks) == 12
            go.set()

    display.draw = draw
    Session(source, Loading(lambda: FakeEngine() if go.wait(10) else None), display).run()
    assert display.text == ["one two three four", "five six"]


def test_only_so_much_is_read_before_the_model_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamasr.live.WAITING_S", 1.0)
    monkeypatch.setattr("streamasr.live.READ_S", 0.001)
    go, display = threading.Event(), Record()
    source = FakeSource(blocks(3.0))

    def draw(status: Status) -> None:
        if status.phase == "loading the model" and len(source._blocks) == 8:
            go.set()
        assert status.phase != "loading the model" or len(source._blocks) >= 8

    display.draw = draw
    Session(source, Loading(lambda: FakeEngine() if go.wait(10) else None), display, live=True).run()
    assert display.text == ["one two three four", "five six"]


def test_stop_flushes_what_was_heard() -> None:
    stop, display = threading.Event(), Record()
    source = FakeSource(blocks(3.0), endless=True, at_end=stop)
    Session(source, Loading(FakeEngine), display, stop=stop).run()
    assert display.text == ["one two three four", "five six"]


def test_stop_before_the_model_is_there_still_gives_the_words() -> None:
    stop, display = threading.Event(), Record()
    source = FakeSource(blocks(3.0), endless=True, at_end=stop)
    Session(source, Loading(lambda: FakeEngine() if stop.wait(10) else None), display, stop=stop, live=True).run()
    assert display.text == ["one two three four", "five six"]


def test_what_a_stopped_microphone_still_holds_is_heard() -> None:
    stop, display = threading.Event(), Record()
    stop.set()
    Session(FakeSource(blocks(3.0), endless=True), Loading(FakeEngine), display, stop=stop, live=True).run()
    assert display.text == ["one two three four", "five six"]
    display = Record()
    Session(FakeSource(blocks(3.0), endless=True), Loading(FakeEngine), display, stop=stop, live=False).run()
    assert display.text == []


def test_a_source_that_fails_loses_nothing_before_the_failure(tmp_path: Path) -> None:
    saver = Saver(tmp_path / "talk.txt")
    display, source = Record(), FakeSource(blocks(3.0), error=AudioError("the file is truncated"))
    with pytest.raises(AudioError, match="truncated"):
        Session(source, Loading(FakeEngine), display, [saver]).run()
    assert display.text == ["one two three four", "five six"]
    assert (tmp_path / "talk.txt").read_text() == "one two three four\nfive six\n"
    assert source.closed
    assert display.left


def test_a_feed_that_fails_keeps_the_state_before_it() -> None:
    class Choosy(FakeEngine):
        def feed(self, samples, state):
            if np.isnan(samples).any():
                raise AudioError("a sample is NaN")
            return super().feed(samples, state)

    display = Record()
    audio = [*blocks(3.0), Block(np.full(10, np.nan, np.float32), 3.0)]
    with pytest.raises(AudioError, match="NaN"):
        Session(FakeSource(audio), Loading(Choosy), display).run()
    assert display.text == ["one two three four", "five six"]


def test_a_model_that_cannot_be_loaded_ends_the_session() -> None:
    def load() -> FakeEngine:
        raise BundleError("the weights are damaged")

    display, source = Record(), FakeSource(blocks(3.0), endless=True)
    with pytest.raises(BundleError, match="damaged"):
        Session(source, Loading(load), display).run()
    assert source.closed
    assert display.left


def test_nobody_reading_ends_the_session_with_all_saved(tmp_path: Path) -> None:
    saver, display = Saver(tmp_path / "talk.txt"), Record()

    def event(event: Event) -> None:
        display.closed = isinstance(event, Final)

    display.event = event
    Session(FakeSource(blocks(60.0)), Loading(FakeEngine), display, [saver]).run()
    assert (tmp_path / "talk.txt").read_text().startswith("one two three four\n")


def test_a_long_gap_ends_the_utterance_and_moves_the_clock() -> None:
    audio = [*blocks(1.0), Block(blocks(0.25)[0].samples, 31.0, skipped_s=30.0), *blocks(0.75)]
    display = Record()
    Session(FakeSource(audio), Loading(FakeEngine), display).run()
    assert display.text == ["one two", "three four"]
    finals = [event for event in display.events if isinstance(event, Final)]
    assert finals[0].end_s == 1.0
    assert finals[1].start_s == 31.0


def test_events_of_the_source_are_told_in_order_and_counted(tmp_path: Path) -> None:
    events = (SourceLost(1.0, "unplugged"), SourceResumed(3.5, 2.5), Overrun(0.5, 4.0, "ring full"))
    silence = Block(np.zeros(0, np.float32), 1.0, events)
    display, saver = Record(), Saver(tmp_path / "talk.jsonl")
    audio = [*blocks(1.0), silence, Block(silence.samples, 1.0, (Overrun(0.25, 4.5, "ring full"),)), *blocks(1.0)]
    summary = Session(FakeSource(audio), Loading(FakeEngine), display, [saver]).run()
    assert summary.dropped_s == 0.75
    assert [note.split(" (")[0].split(";")[0] for note in display.notes] == [
        "the source was lost",
        "the source is back after 2.5 s",
        "audio was dropped",
    ]
    assert [event for event in display.events if isinstance(event, SourceLost | SourceResumed)] == list(events[:2])
    assert (tmp_path / "talk.jsonl").read_text().count('"overrun"') == 2


def test_a_file_that_cannot_be_written_is_told_and_captions_go_on(tmp_path: Path) -> None:
    class Full:
        path = tmp_path / "talk.txt"
        told = False

        def write(self, event: Event) -> None:
            if isinstance(event, Final) and not self.told:
                self.told = True
                raise OutputError("cannot write talk.txt (no space left on device)")

        def close(self) -> None:
            raise OutputError("cannot write talk.txt")

    display = Record()
    with pytest.raises(OutputError):
        Session(FakeSource(blocks(3.0)), Loading(FakeEngine), display, [Full()]).run()
    assert display.text == ["one two three four", "five six"]
    assert display.notes == ["cannot write talk.txt (no space left on device)."]


def test_a_terminal_sees_further_than_the_committed_words_but_never_less() -> None:
    display = Record(wants_partials=True)
    Session(FakeSource(blocks(1.0)), Loading(FakeEngine), display).run()
    partials = [event for event in display.events if isinstance(event, Partial)]
    assert Partial("one two", " perhaps", 0.0, 0.0) in partials


def test_the_pace_follows_what_happens_now() -> None:
    pace = Pace()
    assert pace.real_time_factor is None
    pace.add(1.0, 5.0)
    assert pace.real_time_factor == 5.0
    for _ in range(200):
        pace.add(0.1, 0.01)
    assert pace.real_time_factor == pytest.approx(0.1, rel=0.5)
