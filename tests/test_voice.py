from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.streams import music
from streamasr import voice
from streamasr.batcher import Batcher
from streamasr.bundle import Bundle
from streamasr.config import BeamConfig, EndpointConfig, GateConfig
from streamasr.engine import Engine
from streamasr.errors import ConfigError
from streamasr.events import End, Final, Partial
from streamasr.stream_state import StreamState
from streamasr.voice import CONTEXT, WINDOW, Gate, GateState, VoiceDetector
from streamasr.work import Listen, Step
from tests.test_batcher import Caller, assert_same
from tests.test_engine import RATE_HZ, finals, run

QUICK = EndpointConfig(silence_before_s=1.0, silence_after_s=0.3, longest_s=3.0)


@pytest.fixture(scope="module")
def detector() -> VoiceDetector:
    return VoiceDetector.load()


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    """Five seconds of the bundled recording, (S,)."""
    path = Path(voice.__file__).parent / "data" / "welcome.opus"
    samples, rate_hz = soundfile.read(path, dtype="float32", stop=5 * RATE_HZ)
    assert rate_hz == RATE_HZ
    return samples


def room(seconds: float, seed: int = 0) -> np.ndarray:
    """Noise at -54 dBFS, as in a quiet room."""
    return (np.random.default_rng(seed).standard_normal(round(seconds * RATE_HZ)) * 0.002).astype(np.float32)


def gated(bundle: Bundle, detector: VoiceDetector, **given: float) -> Engine:
    return Engine(bundle, BeamConfig(width=4), QUICK, gate=Gate(GateConfig(**given), detector))


@pytest.fixture(scope="module")
def stream(speech: np.ndarray) -> np.ndarray:
    """Silence, speech, a room, speech, a room."""
    return np.concatenate(
        [np.zeros(2 * RATE_HZ, np.float32), speech[:32_000], room(5.3), speech[24_000:60_000], room(4)]
    )


def heard_by_network(engine: Engine, samples: np.ndarray, cuts: list[int]) -> tuple[list[bytes], StreamState]:
    """The energies of every output frame that the network was asked for, and the last state."""
    requests: list[Step] = []
    state = engine.start()
    with torch.inference_mode():
        for part in np.split(samples, sorted(cuts)):
            work = engine.feeding(part, state)
            try:
                request = next(work)
                while True:
                    requests += [request] if isinstance(request, Step) else []
                    request = work.send(engine.answer(request))
            except StopIteration as end:
                _, state = end.value
    energies = torch.cat([request.energies for request in requests], -1)[0, 0].t()
    return [frame.numpy().round(2).tobytes() for frame in energies], state


@torch.inference_mode()
def test_the_detector_equals_the_model_of_its_package(detector: VoiceDetector, speech: np.ndarray) -> None:
    with pytest.warns(DeprecationWarning):
        package = torch.jit.load(Path(voice.package_data()) / voice.WEIGHTS)
    windows = torch.from_numpy(speech[: 60 * WINDOW]).reshape(-1, WINDOW)
    expected = [package(window, RATE_HZ).item() for window in windows]
    got, _ = detector.step(windows.flatten(), detector.start())
    assert got == pytest.approx(expected, abs=3e-4)  # its memory goes in as 12 bits where products in pairs are fast
    assert max(got) > 0.9
    assert min(got) < 0.1


@settings(max_examples=15)
@given(cuts=st.lists(st.integers(0, RATE_HZ), max_size=12))
def test_any_chunking_finds_the_same_voice(detector: VoiceDetector, speech: np.ndarray, cuts: list[int]) -> None:
    samples = torch.from_numpy(speech[:RATE_HZ])
    whole, end = detector.step(samples, detector.start())
    parts, state = [], detector.start()
    for begin, stop in zip([0, *sorted(cuts)], [*sorted(cuts), RATE_HZ], strict=True):
        assert 0 < detector.missing(state) <= WINDOW
        found, state = detector.step(samples[begin:stop], state)
        parts += found
    assert parts == pytest.approx(whole, abs=1e-5)
    assert len(whole) == RATE_HZ // WINDOW
    assert torch.equal(state.samples, end.samples)
    assert len(end.samples) == CONTEXT + RATE_HZ % WINDOW


def test_noise_and_silence_have_no_voice(detector: VoiceDetector) -> None:
    for samples in (room(3.0), np.zeros(3 * RATE_HZ, np.float32), 5 * room(3.0, 1)):
        got, _ = detector.step(torch.from_numpy(samples), detector.start())
        assert max(got) < GateConfig().voice


@given(
    probabilities=st.lists(st.sampled_from([0.0, 0.0, 0.0, 0.9]), max_size=200),
    cuts=st.lists(st.integers(0, 200), max_size=8),
    is_open=st.booleans(),
)
def test_the_gate_turns_where_it_should_for_any_chunking(
    detector: VoiceDetector, probabilities: list[float], cuts: list[int], is_open: bool
) -> None:
    gate = Gate(GateConfig(voice=0.5, hold_s=0.32, pause_s=0.2), detector)

    def turns(cuts: list[int]) -> list[tuple[int, bool]]:
        state, found = GateState(is_open), []
        for begin, end in zip([0, *cuts], [*cuts, len(probabilities)], strict=True):
            while True:
                at, state = gate.scan(probabilities[begin:end], state)
                if at is None:
                    break
                state = state._replace(open=not state.open)
                begin += at + 1
                found.append((begin, state.open))
        return found

    whole = turns([])
    assert turns(sorted(min(cut, len(probabilities)) for cut in cuts)) == whole
    for windows, opened in whole:
        if opened:
            assert probabilities[windows - 1 - gate.wait] == 0.9
        else:
            assert max(probabilities[windows - gate.pause : windows]) == 0.0


@settings(max_examples=5)
@given(cuts=st.lists(st.integers(0, 15 * RATE_HZ), max_size=25))
def test_what_the_network_hears_does_not_depend_on_the_chunks(
    tiny_bundle: Bundle, detector: VoiceDetector, stream: np.ndarray, cuts: list[int]
) -> None:
    engine = gated(tiny_bundle, detector)
    whole, parts = run(engine, stream, []), run(engine, stream, cuts)
    assert_same(finals(parts), finals(whole))
    assert parts[-1] == whole[-1] == End(len(stream) / RATE_HZ)
    assert len(finals(whole)) >= 2


@pytest.mark.parametrize("size", [320, 1000, 2560, 100_000])
def test_the_network_hears_the_same_frames(
    tiny_bundle: Bundle, detector: VoiceDetector, stream: np.ndarray, size: int
) -> None:
    engine = gated(tiny_bundle, detector)
    once, end = heard_by_network(engine, stream[: 9 * RATE_HZ], [])
    frames, state = heard_by_network(engine, stream[: 9 * RATE_HZ], list(range(size, 9 * RATE_HZ, size)))
    assert set(frames) == set(once)
    assert (state.gate, state.frames, state.shift_s) == (end.gate, end.frames, end.shift_s)


def test_behind_a_gate_that_never_closes_all_is_heard_from_before_the_onset(
    tiny_bundle: Bundle, detector: VoiceDetector, speech: np.ndarray
) -> None:
    plain = Engine(tiny_bundle, BeamConfig(width=4), QUICK)
    engine = gated(tiny_bundle, detector, hold_s=60.0, pause_s=60.0)
    samples = np.concatenate([room(3.0), speech[12_000:], room(3.0), speech])
    state, events = engine.start(), []
    for part in np.split(samples, range(999, len(samples), 4321)):
        found, state = engine.feed(part, state)
        events += found
    events += engine.finish(state)
    assert 1.5 < state.origin / RATE_HZ < 2.9
    expected = run(plain, samples[state.origin :], [])
    assert [f.text for f in finals(events)] == [f.text for f in finals(expected)]
    for own, other in zip(finals(events), finals(expected), strict=True):
        assert own.start_s == pytest.approx(other.start_s + state.origin / RATE_HZ, abs=2e-3)


@settings(max_examples=12)
@given(before=st.integers(0, 40_000))
def test_the_same_words_are_found_whenever_they_come(
    tiny_bundle: Bundle, detector: VoiceDetector, speech: np.ndarray, before: int
) -> None:
    engine = gated(tiny_bundle, detector)
    lead = np.zeros(2 * RATE_HZ, np.float32)  # of which the network hears the last half second
    sounds = [np.concatenate([lead, np.zeros(count, np.float32), speech]) for count in (0, before)]
    one, other = (finals(run(engine, sound, [])) for sound in sounds)
    assert [final.text for final in one] == [final.text for final in other]
    assert all(
        b.start_s - a.start_s == pytest.approx(before / RATE_HZ, abs=2e-3) for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("rules", [{"hold_s": 0.3}, {"pause_s": 0.2}], ids=str)
def test_what_was_decoded_before_the_gate_opened_anew_is_not_decoded_again(
    tiny_bundle: Bundle, detector: VoiceDetector, speech: np.ndarray, rules: dict[str, float]
) -> None:
    engine = gated(tiny_bundle, detector, **rules)
    sound = np.concatenate([speech, np.zeros(5_000, np.float32), speech, np.zeros(5_000, np.float32), speech])
    words = [word for final in finals(run(engine, sound, [])) for word in final.words]
    assert all(a.end_s <= b.start_s + 0.041 for a, b in itertools.pairwise(words))


def test_the_clock_is_exact_after_silence(tiny_bundle: Bundle, detector: VoiceDetector, speech: np.ndarray) -> None:
    """Words after a long silence carry the times that they have without a gate, and so do later ones."""
    samples = np.concatenate([np.zeros(round(40.04 * RATE_HZ), np.float32), speech])
    engine = gated(tiny_bundle, detector)
    events, state = engine.feed(samples, engine.start())
    assert state.gate.open
    words = [word for final in finals([*events, *engine.finish(state)]) for word in final.words]
    assert words
    assert words[0].start_s >= 39.0
    assert words[-1].end_s <= 45.1
    assert state.frames == pytest.approx((state.hops - engine.model.network.right) // 4, abs=2)
    decoded_s = state.beam.frames * engine.frame_s + state.shift_s
    assert decoded_s == pytest.approx(state.origin / RATE_HZ + state.frames * engine.frame_s)


def test_silence_is_spared_and_the_state_stays_small(tiny_bundle: Bundle, detector: VoiceDetector) -> None:
    engine = gated(tiny_bundle, detector)
    for samples in (room(20.0), np.zeros(20 * RATE_HZ, np.float32)):
        state = engine.start()
        work = engine.feeding(samples, state)
        with torch.inference_mode(), pytest.raises(StopIteration) as stop:
            request = next(work)
            while isinstance(request, Listen):  # no step of the network is asked for
                request = work.send(engine.answer(request))
        events, state = stop.value.value
        assert events == []
        assert not state.gate.open
        assert engine.peek(state) == Partial("", "", 20.0, 20.0)
        assert engine.time_s(state) == 20.0
        assert state.history.shape[-1] <= 350


def test_the_gate_closes_after_speech_and_opens_again(
    tiny_bundle: Bundle, detector: VoiceDetector, speech: np.ndarray
) -> None:
    engine = gated(tiny_bundle, detector, hold_s=0.5)
    state, seen, closed_s = engine.start(), [], 0.0
    for part in np.array_split(np.concatenate([speech, np.zeros(8 * RATE_HZ, np.float32), speech]), 180):
        _, state = engine.feed(part, state)
        if not seen or seen[-1] != state.gate.open:
            seen.append(state.gate.open)
        closed_s += 0.1 * (not state.gate.open)
    assert seen[:1] == [False]
    assert seen.count(True) >= 2
    assert closed_s > 3.0


def test_music_does_not_keep_the_network_awake(
    tiny_bundle: Bundle, detector: VoiceDetector, speech: np.ndarray
) -> None:
    """The untrained model finds letters everywhere; two seconds without a voice end that all the same."""
    engine = gated(tiny_bundle, detector)
    plucked = music(20.0, np.random.default_rng(1))
    events, state = engine.feed(np.concatenate([speech, plucked]), engine.start())
    assert not state.gate.open
    last_s = max(event.end_s for event in events if isinstance(event, Final))
    assert last_s < len(speech) / RATE_HZ + 3.0


def test_finalize_and_finish_while_closed_hear_what_has_just_begun(
    tiny_bundle: Bundle, detector: VoiceDetector
) -> None:
    engine = gated(tiny_bundle, detector)
    _, state = engine.feed(room(6.0), engine.start())
    assert not state.gate.open
    _, after = engine.finalize(state)
    assert after.gate.open
    assert engine.time_s(after) == 6.0
    _, after = engine.feed(room(6.0, 2), after)
    ended = engine.finish(after)
    assert ended[-1] == End(12.0)
    _, skipped = engine.skip(10.0, state)
    assert not skipped.gate.open
    assert engine.time_s(skipped) == 16.0


def test_batched_streams_get_what_each_would_get_alone(
    tiny_bundle: Bundle, detector: VoiceDetector, stream: np.ndarray
) -> None:
    engine = gated(tiny_bundle, detector)
    batcher = Batcher(engine)
    try:
        sounds = [stream, stream[:100_000], stream[20_000:]]
        callers = [Caller(batcher) for _ in sounds]
        for caller, sound in zip(callers, sounds, strict=True):
            caller.stream.feed(sound)
            caller.stream.finish()
        for caller, sound in zip(callers, sounds, strict=True):
            assert_same(finals(caller.until_end()), finals(run(engine, sound, [])))
    finally:
        batcher.close()


def test_no_detector(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voice.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"silero-vad is not installed.*--no-gate"):
        VoiceDetector.load()
