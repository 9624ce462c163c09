"""Voices of flite, the program of that name: three people's, changed in height, tempo and size."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import soundfile
import soxr
from numpy.random import Generator
from numpy.typing import NDArray

from streamasr.errors import ConfigError
from train.synth import VOICE_RATE_HZ

Samples = NDArray[np.float32]


@dataclass(frozen=True)
class FliteSpeaker:
    """One of flite's voices, changed: `tempo` and `pitch` are factors, `formants` > 1 is a shorter vocal tract."""

    voice: str
    tempo: float
    pitch: float
    formants: float


class FliteVoices:
    """Speakers around three voices of flite, each the recordings of one person."""

    PITCHES_HZ: ClassVar = {"rms": 100.0, "slt": 170.0, "awb": 130.0}

    def __init__(self) -> None:
        if shutil.which("flite") is None:
            raise ConfigError("there is no program flite", "flite on the PATH", "Install flite, or take hibari.")

    def draw(self, rng: Generator) -> FliteSpeaker:
        """A voice at another height, tempo and size."""
        voice = sorted(self.PITCHES_HZ)[int(rng.integers(len(self.PITCHES_HZ)))]
        return FliteSpeaker(voice, rng.uniform(0.65, 1.1), rng.uniform(0.85, 1.25), rng.uniform(0.92, 1.1))

    def speak(self, sentence: str, speaker: FliteSpeaker, rng: Generator) -> Samples | None:
        stretch = speaker.formants / (speaker.tempo * rng.uniform(0.95, 1.05))
        pitch_hz = self.PITCHES_HZ[speaker.voice] * speaker.pitch / speaker.formants
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "spoken.wav"
            command = ["flite", "-voice", speaker.voice, "-t", sentence, "-o", str(path)]
            command += ["--setf", f"duration_stretch={stretch:.3f}", "--setf", f"int_f0_target_mean={pitch_hz:.1f}"]
            if subprocess.run(command, capture_output=True, check=False).returncode:
                return None
            samples, rate_hz = soundfile.read(path, dtype="float32")
        spoken = soxr.resample(samples, rate_hz * speaker.formants, VOICE_RATE_HZ)  # faster, higher, smaller
        return np.asarray(spoken, np.float32)
