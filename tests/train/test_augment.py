"""Augmentation keeps speech speech: finite, in range, of the right length and pitch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from streamasr.errors import ConfigError
from train.augment import (
    LARGEST_COMPRESSION,
    augment_samples,
    later,
    mask_spectrogram,
    measured_room,
    recorded_noise,
    shift_pitch,
    stretch,
    through_file,
)
from train.config import AugmentConfig

RATE_HZ = 16_000
EVERYTHING = AugmentConfig(
    speed_chance=1,
    tempo_chance=1,
    pitch_chance=1,
    noise_chance=1,
    babble_chance=1,
    room_chance=1,
    band_chance=1,
    codec_chance=1,
    silence_chance=1,
)


def tone(hertz: float = 400.0, seconds: float = 1.5) -> np.ndarray:
    return np.sin(2 * np.pi * hertz * np.arange(int(seconds * RATE_HZ)) / RATE_HZ).astype(np.float32) * np.float32(0.5)


def pitch_hz(samples: np.ndarray) -> float:
    middle = (
        samples[len(samples) // 4 : -len(samples) // 4]
        * np.hanning(len(samples) // 2 + len(samples) % 2)[: len(samples[len(samples) // 4 : -len(samples) // 4])]
    )
    spectrum = np.abs(np.fft.rfft(middle, 1 << 17))
    return float(spectrum.argmax()) * RATE_HZ / (1 << 17)


@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_tempo_keeps_the_pitch(factor: float) -> None:
    longer = stretch(tone(), factor)
    assert len(longer) == pytest.approx(1.5 * RATE_HZ * factor, abs=700)
    assert pitch_hz(longer) == pytest.approx(400, rel=0.01)


@pytest.mark.parametrize("semitones", [-3.0, 4.0])
def test_pitch_keeps_the_length(semitones: float) -> None:
    shifted = shift_pitch(tone(), semitones)
    assert len(shifted) == pytest.approx(1.5 * RATE_HZ, abs=700)
    assert pitch_hz(shifted) == pytest.approx(400 * 2 ** (semitones / 12), rel=0.02)


@pytest.mark.parametrize("compression", [0.6, 0.9, LARGEST_COMPRESSION])
@pytest.mark.parametrize("subtype", ["OPUS", "VORBIS", "MPEG_LAYER_III"])
def test_codecs_keep_length_and_level(subtype: str, compression: float) -> None:
    heard = through_file(tone(), subtype, compression)
    assert heard.dtype == np.float32
    assert len(heard) == len(tone())
    assert heard.std() == pytest.approx(tone().std(), rel=0.15)


def test_everything_at_once_stays_finite_and_in_range(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("noise", "room"):
        (tmp_path / name).mkdir()
        soundfile.write(tmp_path / name / "a.wav", 0.1 * rng.standard_normal(9000), 22_050)
    config = replace(EVERYTHING, noises=str(tmp_path / "noise"), rooms=str(tmp_path / "room"))
    for seed in range(6):
        out, timing = augment_samples(tone(), tone(210.0, 0.5), config, np.random.default_rng(seed))
        assert 0 <= timing.before < len(out)
        assert out.dtype == np.float32
        assert np.isfinite(out).all()
        assert np.abs(out).max() <= 1
        again, _ = augment_samples(tone(), tone(210.0, 0.5), config, np.random.default_rng(seed))
        assert np.array_equal(out, again)


def test_measured_room_delays_nothing(tmp_path: Path) -> None:
    response = np.zeros(4000, np.float32)
    response[500] = 0.8  # the direct path arrives late in the recording
    soundfile.write(tmp_path / "room.wav", response, RATE_HZ, subtype="FLOAT")
    heard = measured_room(tone(), str(tmp_path), np.random.default_rng(0))
    assert np.allclose(heard, tone(), atol=1e-4)


def test_folder_without_recordings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no sound file"):
        recorded_noise(str(tmp_path), 100, np.random.default_rng(0))


def test_later_samples_are_the_same_behind_silence() -> None:
    samples = torch.arange(1.0, 2001.0).repeat(2, 1)
    seen = set()
    for seed in range(20):
        shifted = later(samples, 20.0, np.random.default_rng(seed))
        by = int((shifted[0] == 0).sum())
        assert 0 <= by <= 320
        assert torch.equal(shifted[:, by:], samples[:, : 2000 - by])
        seen.add(by)
    assert len(seen) > 10


def test_masks_of_an_utterance_do_not_depend_on_its_batch() -> None:
    def rng(row: int) -> np.random.Generator:
        return np.random.default_rng(row)

    energies = torch.ones(3, 80, 200)
    together = mask_spectrogram(energies, torch.tensor([200, 150, 90]), AugmentConfig(), [rng(0), rng(1), rng(2)])
    alone = mask_spectrogram(energies[:1, :, :150], torch.tensor([150]), AugmentConfig(), [rng(1)])
    assert torch.equal(together[1, :, :150], alone[0])
    assert 0 < (together == 0).float().mean() < 0.6
