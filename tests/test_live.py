"""The live path: nothing that was heard is lost, whatever happens when."""

import json
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from streamasr.audio import Block
from streamasr.captions import Status
from streamasr.errors import AudioError, BundleError, OutputError
from streamasr.events import Event, Final, Overrun, Partial, SourceLost, SourceResumed
from streamasr.export import Saver
from streamasr.live import Loading, Pace, Session
from streamasr.track import Track
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


class Ring:
    """A microphone that goes on while the engine computes: every feed lets some seconds of audio come."""

    name = "a fake"

    def __init__(self, seconds: float) -> None:
        self.blocks, self.due, self.closed = blocks(seconds), 0, False

    @property
    def backlog_s(self) -> float:
        return self.due * 0.25

    def read(self, timeout_s: float = 0.1) -> Block:
        if not self.due and self.blocks and timeout_s:
            self.due = 1
        if self.due and self.blocks:
            self.due -= 1
            return self.blocks.pop(0)
        return Block(np.zeros(0, np.float32), 0.0, ended=not self.blocks)

    def close(self) -> None:
        self.closed = True


class Slow(FakeEngine):
    """Needs `factor` seconds for one of audio, while `is_slow` of the state holds."""

    def __init__(self, source: Ring, factor: float, until_s: float = 1e9) -> None:
        super().__init__(" ".join(f"w{number}" for number in range(1000)))
        self.source, self.factor, self.until_s = source, factor, until_s
        self.lags_s: list[float] = []

    def feed(self, samples, state):
        slow = state.samples / 16_000 < self.until_s
        self.source.due = min(
            len(self.source.blocks),
            self.source.due + round(len(samples) / 4000 * (self.factor if slow else 0.2)),
        )
        return super().feed(samples, state)


def heard_late(factor: float, limit_s: float | None, until_s: float = 1e9) -> tuple[Record, Session, float]:
    source, display = Ring(120.0), Record()
    session = Session(source, Loading(lambda: Slow(source, factor, until_s)), display, live=True, lag_limit_s=limit_s)
    session.run()
    return display, session, max(status.lag_s for status in display.statuses)


def test_a_machine_that_is_too_slow_drops_in_the_open_and_keeps_up() -> None:
    """CPU starvation: a second of sound takes 3 s."""
    display, session, lag_s = heard_late(3.0, limit_s=10.0)
    overruns = [event for event in display.events if isinstance(event, Overrun)]
    finals = [event for event in display.events if isinstance(event, Final)]
    told_s = sum(event.seconds for event in overruns)
    heard_s = sum(word.end_s - word.start_s for event in finals for word in event.words)
    assert lag_s <= 10.0 + 3.0
    assert told_s == session.summary.dropped_s > 60
    assert heard_s + told_s == pytest.approx(120.0, abs=0.5)  # every second was recognised or is counted
    assert finals[-1].end_s == pytest.approx(120.0)  # the clock is right
    assert all(event.reason == "the machine was too slow" for event in overruns)
    assert [note for note in display.notes if "dropped" in note] == [
        "audio was dropped (the machine was too slow); the status line counts how much"
    ]


def test_when_the_load_falls_captions_catch_up_and_nothing_is_dropped() -> None:
    display, session, lag_s = heard_late(3.0, limit_s=10.0, until_s=3.0)
    assert 5.0 < lag_s < 10.0
    assert session.summary.dropped_s == 0
    assert len(" ".join(display.text).split()) == 240
    late = [number for number, status in enumerate(display.statuses) if status.lag_s > 1]
    assert late[-1] - late[0] < 20  # steps of at most a second of audio each, at a fifth of real time


def test_never_drop_keeps_all_and_lags() -> None:
    display, session, lag_s = heard_late(3.0, limit_s=None)
    assert session.summary.dropped_s == 0
    assert lag_s > 60
    assert len(" ".join(display.text).split()) == 240


def test_what_is_said_while_the_model_loads_is_no_lag_to_drop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamasr.live.READ_S", 0.001)
    source, display = Ring(40.0), Record()
    full = threading.Event()
    read = source.read

    def until_full(timeout_s: float = 0.1) -> Block:
        if len(source.blocks) < 70 and not full.is_set():
            full.set()
        return read(timeout_s)

    source.read = until_full  # type: ignore[method-assign]
    loading = Loading(lambda: FakeEngine() if full.wait(10) else None)
    summary = Session(source, loading, display, live=True, lag_limit_s=10.0).run()
    assert summary.dropped_s == 0
    assert max(status.lag_s for status in display.statuses) > 10
    assert summary.words == 80


def test_two_sources_share_an_engine_and_are_told_apart(tmp_path: Path) -> None:
    saver, display = Saver(tmp_path / "talk.jsonl"), Record(wants_partials=True)
    tracks = [Track(FakeSource(blocks(3.0)), label="mic"), Track(FakeSource(blocks(1.0)), label="system")]
    summary = Session(tracks, Loading(FakeEngine), display, [saver]).run()
    finals = [event for event in display.events if isinstance(event, Final)]
    assert [event.line for event in finals if event.source == "mic"] == ["[mic] one two three four", "[mic] five six"]
    assert [event.line for event in finals if event.source == "system"] == ["[system] one two"]
    assert summary.heard_s == 3.0
    kinds = [json.loads(line)["type"] for line in (tmp_path / "talk.jsonl").read_text().splitlines()]
    assert kinds == ["final", "final", "final", "end"]
    assert {event.source for event in display.events if isinstance(event, Partial)} == {"mic", "system"}
    assert all(track.source.closed for track in tracks)


def test_one_of_two_sources_fails_and_the_other_is_heard_to_its_end() -> None:
    display = Record()
    broken = FakeSource(blocks(1.0), error=AudioError("the cable is cut"))
    with pytest.raises(AudioError, match="cable"):
        Session(
            [Track(broken, label="a"), Track(FakeSource(blocks(3.0)), label="b")], Loading(FakeEngine), display
        ).run()
    assert sorted(event.line for event in display.events if isinstance(event, Final)) == [
        "[a] one two",
        "[b] five six",
        "[b] one two three four",
    ]


def test_a_source_that_begins_later_keeps_its_distance() -> None:
    track, samples = Track(FakeSource([]), label="b", start_s=100.0), blocks(0.25)[0].samples
    epoch_s = time.monotonic() - 5.25
    block = track.hear(Block(samples, 0.0), epoch_s)
    assert block and block.skipped_s == pytest.approx(5.0, abs=0.2)
    assert track.placed(Overrun(0.1, 0.25, "full")).time_s == pytest.approx(105.25, abs=0.2)


def test_a_session_that_goes_on_begins_where_the_earlier_one_ended() -> None:
    display = Record()
    Session([Track(FakeSource(blocks(1.0)), start_s=60.0)], Loading(FakeEngine), display).run()
    (final,) = (event for event in display.events if isinstance(event, Final))
    assert (final.start_s, final.end_s) == (60.0, 61.0)
