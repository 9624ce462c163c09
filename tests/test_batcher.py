from __future__ import annotations

import queue
import threading
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from streamasr.batcher import Batcher
from streamasr.bundle import Bundle
from streamasr.config import EndpointConfig, GateConfig
from streamasr.engine import Engine
from streamasr.errors import SampleError
from streamasr.events import End, Event, Final, Partial
from streamasr.recogniser import BatchedRecogniser
from streamasr.rows import answers
from streamasr.stream import Report, Stream
from streamasr.voice import Gate, VoiceDetector
from streamasr.work import Listen, Step
from tests.test_engine import noise_bursts

QUICK = EndpointConfig(silence_before_s=1.0, silence_after_s=0.2, longest_s=1.5)
PATIENCE_S = 60.0


class Caller:
    """One stream and what it was told."""

    def __init__(self, batcher: Batcher, engine: Engine | None = None) -> None:
        self.reports: queue.Queue[Report] = queue.Queue()
        self.stream: Stream = batcher.open(self.reports.put, engine)
        self.events: list[Event] = []

    def until_end(self) -> list[Event]:
        deadline = time.monotonic() + PATIENCE_S
        while not (self.events and isinstance(self.events[-1], End)):
            report = self.reports.get(timeout=max(0.1, deadline - time.monotonic()))
            if report.error:
                raise report.error
            self.events += report.events
        return self.events


@pytest.fixture(scope="module")
def engine(tiny_bundle: Bundle) -> Engine:
    return Engine(tiny_bundle, endpoint=QUICK)


def finals(events: list[Event]) -> list[Final]:
    return [event for event in events if isinstance(event, Final)]


def alone(engine: Engine, samples: np.ndarray) -> list[Final]:
    events, state = engine.feed(samples, engine.start())
    return finals([*events, *engine.finish(state)])


def assert_same(got: list[Final], expected: list[Final]) -> None:
    assert [f.text for f in got] == [f.text for f in expected]
    for one, other in zip(got, expected, strict=True):
        assert [(w.text, w.start_s, w.end_s) for w in one.words] == [(w.text, w.start_s, w.end_s) for w in other.words]
        for w, v in zip(one.words, other.words, strict=True):
            assert w.confidence == pytest.approx(v.confidence, abs=2e-4)


@settings(max_examples=4)
@given(
    cuts=st.lists(st.lists(st.integers(0, 32_000), max_size=8), min_size=2, max_size=4),
    most=st.sampled_from([1, 3, 64]),
)
def test_streams_get_what_each_would_get_alone(engine: Engine, cuts: list[list[int]], most: int) -> None:
    batcher = Batcher(engine, most=most)
    try:
        callers = [Caller(batcher) for _ in cuts]
        sounds = [noise_bursts(2.0, seed) for seed in range(len(cuts))]
        parts = [np.split(sound, sorted(own)) for sound, own in zip(sounds, cuts, strict=True)]
        for turn in range(10):
            for caller, own in zip(callers, parts, strict=True):
                if turn < len(own):
                    caller.stream.feed(own[turn])
        for caller in callers:
            caller.stream.finish()
        for caller, sound in zip(callers, sounds, strict=True):
            assert_same(finals(caller.until_end()), alone(engine, sound))
            assert caller.events[-1] == End(2.0)
        assert batcher.streams == 0
    finally:
        batcher.close()


def test_steps_of_equal_shapes_are_taken_together(engine: Engine) -> None:
    batcher = Batcher(engine, wait_s=0.5)
    try:
        callers = [Caller(batcher) for _ in range(4)]
        for index, caller in enumerate(callers):
            caller.stream.feed(noise_bursts(2.0, index))
            caller.stream.finish()
        for caller in callers:
            caller.until_end()
        assert batcher.load.stepped > 2 * batcher.load.steps
        assert batcher.load.audio_s == pytest.approx(8.0)
    finally:
        batcher.close()


def test_chunks_grow_where_most_streams_wait_and_not_for_one_that_floods(engine: Engine) -> None:
    batcher = Batcher(engine, chunk_s=0.08)
    batcher.close()  # only its rules are asked for
    streams = [batcher.open(lambda report: None) for _ in range(3)]
    for stream, chunks in zip(streams, (1, 2, 100), strict=True):
        stream.feed(np.zeros(chunks * 1280, np.float32))
    assert batcher._longest(streams) == 2 * 1280
    assert batcher._longest(streams[::2]) == 1280
    assert batcher._longest(streams[2:]) == 8 * 1280
    taken = [len(batcher._take(stream, 2 * 1280)[0]) for stream in streams]  # type: ignore[arg-type]
    assert taken == [1280, 2560, 2560]
    unbatched = Batcher(engine, chunk_s=0.08, most=1)
    unbatched.close()
    assert unbatched._longest(streams[2:]) == 1280


@torch.inference_mode()
def test_a_joint_step_equals_single_steps(engine: Engine) -> None:
    states = [engine.model.network.init_state(1) for _ in range(5)]
    for turn in range(4):
        torch.manual_seed(turn)
        requests = [Step(torch.randn(1, 1, 80, 8), state) for state in states]
        joint = answers(engine, requests)
        single = [engine.answer(request) for request in requests]
        for (rows, _), (expected, _) in zip(joint, single, strict=True):
            assert np.allclose(rows, expected, atol=1e-4)
        states = [state for _, state in joint]


@torch.inference_mode()
def test_streams_that_step_in_other_company_each_time_keep_their_own_states(engine: Engine) -> None:
    chance = np.random.default_rng(5)
    first = [Step(torch.randn(1, 1, 80, 80), engine.model.network.init_state(1)) for _ in range(6)]
    alone = together = [engine.answer(step)[1] for step in first]  # from here on their shapes are equal
    for _ in range(12):
        who = [int(stream) for stream in chance.permutation(6)[: chance.integers(1, 7)]]
        energies = [torch.randn(1, 1, 80, 8) for _ in who]
        joint = answers(engine, [Step(x, together[stream]) for x, stream in zip(energies, who, strict=True)])
        alone, together = list(alone), list(together)
        for x, stream, (rows, state) in zip(energies, who, joint, strict=True):
            expected, alone[stream] = engine.answer(Step(x, alone[stream]))
            assert np.allclose(rows, expected, atol=1e-4)
            together[stream] = state


@torch.inference_mode()
def test_voices_are_detected_together_as_alone(tiny_bundle: Bundle) -> None:
    gated = Engine(tiny_bundle, endpoint=QUICK, gate=Gate(GateConfig(), VoiceDetector.load()))
    chance = torch.Generator().manual_seed(2)
    states = [gated.start() for _ in range(5)]
    for stream, state in enumerate(states):  # each at another place within its windows
        request = Listen(torch.randn(320 * stream, generator=chance), state.features, state.voice)
        heard = gated.answer(request)
        states[stream] = state._replace(voice=heard.voice)
    for samples in (1280, 160, 2560):
        requests = [Listen(torch.randn(samples, generator=chance), s.features, s.voice) for s in states]
        joint = answers(gated, requests)
        single = [gated.answer(request) for request in requests]
        for one, other in zip(joint, single, strict=True):
            assert one.probabilities == pytest.approx(other.probabilities, abs=1e-5)
            assert torch.allclose(one.energies, other.energies, atol=1e-4)
            assert torch.allclose(one.voice.hidden, other.voice.hidden, atol=1e-5)
            assert torch.equal(one.voice.samples, other.voice.samples)
            assert torch.equal(one.features.samples, other.features.samples)
        states = [s._replace(features=h.features, voice=h.voice) for s, h in zip(states, joint, strict=True)]


def test_finalize_ends_the_utterance_and_the_stream_goes_on(engine: Engine) -> None:
    sound = noise_bursts(4.0, 7)
    middle = 30_001  # not a whole number of chunks
    events, state = engine.feed(sound[:middle], engine.start())
    more, state = engine.finalize(state)
    rest, state = engine.feed(sound[middle:], state)
    expected = finals([*events, *more, *rest, *engine.finish(state)])
    batcher = Batcher(engine)
    try:
        caller = Caller(batcher)
        caller.stream.feed(sound[:middle])
        caller.stream.finalize()
        caller.stream.feed(sound[middle:])
        caller.stream.finish()
        assert_same(finals(caller.until_end()), expected)
    finally:
        batcher.close()


def test_an_engine_with_other_rules_for_one_stream_only(engine: Engine) -> None:
    sound = noise_bursts(4.0, 3)
    patient = engine.tuned(EndpointConfig(silence_before_s=9.0, silence_after_s=5.0, longest_s=30.0))
    batcher = Batcher(engine)
    try:
        callers = [Caller(batcher), Caller(batcher, patient)]
        for caller in callers:
            caller.stream.feed(sound)
            caller.stream.finish()
        assert_same(finals(callers[0].until_end()), alone(engine, sound))
        assert_same(finals(callers[1].until_end()), alone(patient, sound))
        assert len(finals(callers[0].events)) > len(finals(callers[1].events))
    finally:
        batcher.close()


def test_other_hotwords_begin_an_utterance_and_keep_the_clock(engine: Engine) -> None:
    sound = noise_bursts(4.0, 3)
    batcher = Batcher(engine)
    try:
        caller = Caller(batcher)
        caller.stream.feed(sound[:32_000])
        caller.stream.tune(engine.tuned(hotwords={"nana": 2.0}))
        caller.stream.feed(sound[32_000:])
        caller.stream.finish()
        caller.until_end()
        times = [time_s for final in finals(caller.events) for word in final.words for time_s in (word.start_s,)]
        assert times == sorted(times)
        assert times[-1] > 2.0
        assert times[-1] <= 4.0
    finally:
        batcher.close()


def test_a_bad_stream_ends_with_its_error_and_disturbs_nobody(engine: Engine) -> None:
    sound = noise_bursts(2.0, 1)
    batcher = Batcher(engine)
    try:
        good, bad = Caller(batcher), Caller(batcher)
        bad.stream.feed(np.full(3200, np.nan, np.float32))
        good.stream.feed(sound)
        good.stream.finish()
        with pytest.raises(SampleError):
            bad.until_end()
        assert_same(finals(good.until_end()), alone(engine, sound))
        assert batcher.streams == 0
    finally:
        batcher.close()


def test_a_closed_stream_is_told_nothing_more(engine: Engine) -> None:
    batcher = Batcher(engine)
    try:
        gone, stays = Caller(batcher), Caller(batcher)
        gone.stream.close()
        gone.stream.feed(noise_bursts(1.0))
        gone.stream.finish()
        stays.stream.feed(noise_bursts(1.0))
        stays.stream.finish()
        stays.until_end()
        assert gone.reports.empty()
    finally:
        batcher.close()


def test_a_mark_is_reached_when_the_samples_before_it_are_heard(engine: Engine) -> None:
    batcher = Batcher(engine)
    try:
        caller = Caller(batcher)
        caller.stream.feed(noise_bursts(0.51))
        caller.stream.mark("here")
        heard = 0
        while True:
            report = caller.reports.get(timeout=PATIENCE_S)
            heard = report.samples
            if report.marks:
                break
        assert report.marks == ("here",)
        assert heard == 0.48 * 16_000
    finally:
        batcher.close()


def test_the_recogniser_that_waits(engine: Engine) -> None:
    sound = noise_bursts(3.0, 5)
    batcher = Batcher(engine)
    try:
        recogniser = BatchedRecogniser(batcher)
        state = recogniser.start()
        events: list[Event] = []
        for part in np.split(sound, range(800, len(sound), 800)):
            found, state = recogniser.feed(part, state)
            events += found
        assert isinstance(recogniser.peek(state), Partial)
        events += recogniser.finish(state)
        assert_same(finals(events), alone(engine, sound))
    finally:
        batcher.close()


def test_close_stops_the_thread(engine: Engine) -> None:
    batcher = Batcher(engine)
    batcher.close()
    assert "batcher" not in [thread.name for thread in threading.enumerate()]


def test_a_defect_between_the_steps_is_told_to_all_and_later_streams_are_served(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    batcher = Batcher(engine)
    try:
        callers = [Caller(batcher), Caller(batcher)]
        monkeypatch.setattr(batcher, "_longest", lambda ready: 1 // 0)
        for caller in callers:
            caller.stream.feed(np.zeros(engine.rate_hz, np.float32))
        for caller in callers:
            with pytest.raises(ZeroDivisionError):
                caller.until_end()
        monkeypatch.undo()
        later = Caller(batcher)
        later.stream.feed(np.zeros(engine.rate_hz, np.float32))
        later.stream.finish()
        assert isinstance(later.until_end()[-1], End)
    finally:
        batcher.close()
