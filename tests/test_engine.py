from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamasr.bundle import Bundle
from streamasr.config import BeamConfig, EndpointConfig
from streamasr.engine import Engine
from streamasr.errors import BundleError, SampleError
from streamasr.events import End, Event, Final, Partial, SpeechStarted
from streamasr.stream_state import StreamState

RATE_HZ = 16_000
QUICK = EndpointConfig(silence_before_s=1.0, silence_after_s=0.2, longest_s=1.5)


def noise_bursts(seconds: float, seed: int = 0) -> np.ndarray:
    """Bursts of coloured noise with pauses between."""
    rng = np.random.default_rng(seed)
    count = int(seconds * RATE_HZ)
    bursts = np.repeat(rng.random(count // 1600 + 1) > 0.45, 1600)[:count]
    tones = np.sin(np.cumsum(np.repeat(rng.uniform(0.02, 1.5, count // 800 + 1), 800)[:count]))
    return ((rng.standard_normal(count) * 0.05 + tones * 0.2) * bursts).astype(np.float32)


def run(engine: Engine, samples: np.ndarray, cuts: list[int]) -> list[Event]:
    state, events = engine.start(), []
    for part in np.split(samples, sorted(cuts)):
        found, state = engine.feed(part, state)
        events += found
    return events + engine.finish(state)


def finals(events: list[Event]) -> list[Final]:
    return [event for event in events if isinstance(event, Final)]


@settings(max_examples=12)
@given(cuts=st.lists(st.integers(0, 6 * RATE_HZ), max_size=20), seed=st.integers(0, 5), width=st.sampled_from([1, 4]))
def test_any_chunking_gives_the_same_finals(tiny_bundle: Bundle, cuts: list[int], seed: int, width: int) -> None:
    engine = Engine(tiny_bundle, BeamConfig(width=width), QUICK)
    samples = noise_bursts(6.0, seed)
    whole, parts = run(engine, samples, []), run(engine, samples, cuts)
    assert [f.text for f in finals(parts)] == [f.text for f in finals(whole)]
    assert [(w.text, w.start_s, w.end_s) for f in finals(parts) for w in f.words] == [
        (w.text, w.start_s, w.end_s) for f in finals(whole) for w in f.words
    ]
    assert finals(whole)


@settings(max_examples=10)
@given(seed=st.integers(0, 20), chunk=st.integers(300, 4000))
def test_committed_text_is_never_retracted(tiny_bundle: Bundle, seed: int, chunk: int) -> None:
    engine = Engine(tiny_bundle, BeamConfig(width=6), QUICK)
    samples = noise_bursts(5.0, seed)
    committed = ""
    for event in run(engine, samples, list(range(chunk, len(samples), chunk))):
        if isinstance(event, Partial):
            assert event.committed.startswith(committed)
            committed = event.committed
        elif isinstance(event, Final):
            assert (event.text + " ").startswith(committed)
            committed = ""


def test_order_and_times_of_events(tiny_bundle: Bundle) -> None:
    engine = Engine(tiny_bundle, endpoint=QUICK)
    samples = noise_bursts(6.0)
    events = run(engine, samples, list(range(1000, len(samples), 1000)))
    assert events[-1] == End(6.0)
    begun, last_s = False, 0.0
    for event in events[:-1]:
        if isinstance(event, SpeechStarted):
            assert not begun
            begun = True
        else:
            assert begun
            assert isinstance(event, Partial | Final)
            if isinstance(event, Final):
                begun = False
                for word in event.words:
                    assert last_s <= word.start_s < word.end_s <= 6.1
                    assert 0 <= word.confidence <= 1
                    last_s = word.end_s


def test_peek_is_pure_and_sees_what_is_held_back(tiny_bundle: Bundle) -> None:
    engine = Engine(tiny_bundle, endpoint=EndpointConfig())
    samples = noise_bursts(3.0, 3)
    state = engine.start()
    _, state = engine.feed(samples, state)
    peeked = engine.peek(state)
    assert engine.peek(state) == peeked
    ended = finals(engine.finish(state))
    assert peeked.text.strip() == " ".join(f.text for f in ended)


def test_finalize_ends_the_utterance_and_the_stream_goes_on(tiny_bundle: Bundle) -> None:
    engine = Engine(tiny_bundle, endpoint=EndpointConfig())
    samples = noise_bursts(6.0, 2)
    state = engine.start()
    _, state = engine.feed(samples[: 3 * RATE_HZ], state)
    first, state = engine.finalize(state)
    again, state = engine.finalize(state)
    assert finals(first)
    assert not finals(again)
    _, state = engine.feed(samples[3 * RATE_HZ :], state)
    second = finals(engine.finish(state))
    assert second[0].start_s >= finals(first)[0].end_s - 0.5
    assert second[-1].end_s <= 6.1


def test_skip_lets_the_clock_jump(tiny_bundle: Bundle) -> None:
    engine = Engine(tiny_bundle, endpoint=EndpointConfig())
    samples = noise_bursts(2.0, 2)
    state = engine.start()
    _, state = engine.feed(samples, state)
    events, state = engine.skip(100.0, state)
    assert finals(events)
    assert engine.time_s(state) == pytest.approx(102.0)
    _, state = engine.feed(samples, state)
    ended = engine.finish(state)
    assert all(102.0 <= f.start_s <= 104.1 for f in finals(ended))
    assert [w.text for f in finals(ended) for w in f.words] == [w.text for f in finals(events) for w in f.words]
    assert ended[-1] == End(104.0)


def test_long_utterances_are_cut_and_memory_is_bounded(tiny_bundle: Bundle) -> None:
    def size(state: StreamState) -> int:
        def count(part: object) -> int:
            if hasattr(part, "nbytes"):
                return int(part.nbytes)
            return sum(count(p) for p in part) if isinstance(part, tuple) else 0

        return count(state)

    engine = Engine(tiny_bundle, endpoint=EndpointConfig(longest_s=2.0))
    samples = noise_bursts(10.0)
    state, sizes, events = engine.start(), [], []
    for _ in range(6):
        found, state = engine.feed(samples, state)
        events += found
        sizes.append(size(state))
    assert max(sizes) < 4_200_000  # bytes: three seconds of energies, 640 hypotheses with a full tail
    assert all(f.end_s - f.start_s <= 4.5 for f in finals(events))


def test_samples_that_are_no_numbers(tiny_bundle: Bundle) -> None:
    engine = Engine(tiny_bundle)
    samples = noise_bursts(1.0)
    state = engine.start()
    _, state = engine.feed(samples, state)
    broken = samples.copy()
    broken[7] = np.nan
    with pytest.raises(SampleError, match="sample 16007 is nan"):
        engine.feed(broken, state)
    engine.finish(state)


def test_an_empty_stream(tiny_bundle: Bundle) -> None:
    engine = Engine(tiny_bundle)
    state = engine.start()
    events, state = engine.feed(np.zeros(0, np.float32), state)
    assert events == []
    assert [e for e in engine.finish(state) if not isinstance(e, Final | SpeechStarted)] == [End(0.0)]


def test_offline_models_are_refused(tiny_bundle: Bundle) -> None:
    from dataclasses import replace

    offline = replace(tiny_bundle, model_config=replace(tiny_bundle.model_config, bidirectional=True))
    with pytest.raises(BundleError, match="whole utterance"):
        Engine(offline)


def test_alternatives_are_other_ends_of_the_utterance(tiny_bundle: Bundle) -> None:
    engine = Engine(tiny_bundle, BeamConfig(width=8))
    _, state = engine.feed(noise_bursts(1.0), engine.start())
    found, words = engine.alternatives(state, 4), engine.decoder.finish(state.beam)[0]
    assert 1 < len(found) <= 4 and len({text for text, _ in found}) == len(found)
    assert found[0][0] == " ".join(word.text for word in words)
    assert [log_prob for _, log_prob in found] == sorted((log_prob for _, log_prob in found), reverse=True)
