"""The long stream of `make soak`, for two minutes at full speed, on pieces of the bundled recording."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from benchmarks import soak, streams
from streamasr import engine as path
from streamasr.bundle import Bundle
from streamasr.config import BeamConfig, EndpointConfig, GateConfig
from streamasr.engine import Engine
from streamasr.events import Final, Word
from streamasr.text import normalise
from streamasr.voice import Gate, VoiceDetector
from streamasr.work import Step
from tests.test_engine import RATE_HZ, noise_bursts

DATA = Path(path.__file__).parent / "data"


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[streams.Clip]:
    """Three pieces of the recording, by way of a manifest."""
    folder = tmp_path_factory.mktemp("clips")
    samples, rate_hz = soundfile.read(DATA / "welcome.opus", dtype="float32")
    words = (normalise((DATA / "welcome.txt").read_text()) or "").split()
    lines = []
    for number, part in enumerate(np.array_split(samples, 3)):
        soundfile.write(folder / f"{number}.flac", part, rate_hz)
        own = words[number * len(words) // 3 : (number + 1) * len(words) // 3]
        lines.append(f"{number}.flac\t{len(part) / rate_hz:.3f}\t?\t{' '.join(own)}\n")
    (folder / "manifest.tsv").write_text("".join(lines))
    return streams.clips_of([folder])


def test_two_minutes_of_stream(tiny_bundle: Bundle, clips: list[streams.Clip]) -> None:
    """An untrained model: its words mean nothing, but clock, order, memory and windows do."""
    gate = Gate(GateConfig(), VoiceDetector.load())
    result = soak.measure(clips, Engine(tiny_bundle, BeamConfig(width=2), gate=gate), 120.0, seed=1)
    assert result["hours"] >= 120 / 3600
    assert result["clock_error_s"] < 1e-6
    assert result["words_in_order"]
    assert result["clips"] >= 9
    assert len(result["seconds_of"]) > 2  # something between, too
    assert result["state_kb"]["most"] < 500
    assert result["memory_grown_mb"] < 30
    assert result["gate"]


def test_a_long_utterance_is_cut_and_the_network_hears_three_seconds_again(tiny_bundle: Bundle) -> None:
    """Speech without a pause: the longest rule cuts, and a fresh state of the network is warmed up."""
    engine = Engine(tiny_bundle, endpoint=EndpointConfig(silence_before_s=90.0, silence_after_s=60.0, longest_s=4.0))
    fresh = engine.model.network.init_state(1)
    rewarmed_s: list[float] = []
    finals = 0
    state = engine.start()
    with torch.inference_mode():
        for part in np.split(noise_bursts(20.0), range(2560, 20 * RATE_HZ, 2560)):
            work = engine.feeding(part, state)
            try:
                request = next(work)
                while True:
                    if not isinstance(request, Step):
                        pass
                    elif state.hops and all(map(torch.equal, soak.arrays(request.network), soak.arrays(fresh))):
                        rewarmed_s.append(request.energies.shape[-1] / 100)
                    request = work.send(engine.answer(request))
            except StopIteration as end:
                events, state = end.value
                finals += sum(isinstance(event, Final) for event in events)
    assert finals >= 2
    assert len(rewarmed_s) >= finals
    assert all(path.WARM_SPEECH_S <= seconds <= path.WARM_SPEECH_S + 1 for seconds in rewarmed_s)


def test_words_are_sorted_into_windows(clips: list[streams.Clip]) -> None:
    windows = streams.Windows([streams.Clip(Path(), "one two"), streams.Clip(Path(), "three four")])
    nothing = np.zeros(0, np.float32)
    windows.add(3.0, streams.Segment(nothing, "clip", 0))
    windows.add(6.0, streams.Segment(nothing, "music"))
    windows.add(9.0, streams.Segment(nothing, "clip", 1))
    for text, at_s in (("one", 1.0), ("la", 4.0), ("three", 6.9), ("five", 7.5)):
        windows.hear(Word(text, at_s, at_s + 0.2, 1.0))
    windows.finish()
    score = windows.score
    assert (score.words, score.errors, score.first_deleted, score.last_deleted) == (4, 2, 0, 1)
    assert windows.between == {"music": 1}


def test_what_is_made_has_the_level_and_length_that_it_should() -> None:
    random = np.random.default_rng(0)
    for made, low_db, high_db in (
        (streams.room(2.0, random), -61, -49),
        (streams.room(2.0, random, -40.0), -41, -39),
        (streams.music(2.0, random), -30, -24),
    ):
        assert len(made) == 2 * RATE_HZ
        assert low_db < 20 * np.log10(made.std()) < high_db
