"""flite's voices, by the program itself where it is installed."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from streamasr.errors import ConfigError
from train import synth
from train.flite import FliteSpeaker, FliteVoices


def test_flite_is_asked_for_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="no program flite"):
        synth.open_voices("flite")


@pytest.mark.skipif(shutil.which("flite") is None, reason="flite is not installed")
def test_flite_speaks_slower_and_faster() -> None:
    voices = FliteVoices()
    for voice in voices.PITCHES_HZ:
        lengths = []
        for tempo in (0.7, 1.1):
            speaker = FliteSpeaker(voice, tempo, 1.0, 1.05)
            samples = voices.speak("good morning to all of you", speaker, np.random.default_rng(0))
            assert samples is not None and np.abs(samples).max() > 0.05
            lengths.append(len(samples) / synth.VOICE_RATE_HZ)
        assert 0.8 < lengths[1] < lengths[0] < 5.0
    assert len({voices.draw(np.random.default_rng(seed)).voice for seed in range(20)}) == 3
