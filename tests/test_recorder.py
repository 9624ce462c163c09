from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from streamasr.audio import RATE_HZ, Block
from streamasr.errors import OutputError
from streamasr.recorder import Recorder


def test_samples_and_gaps_keep_their_clock(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "a.flac")
    samples = np.sin(np.arange(RATE_HZ) / 9).astype(np.float32) * 0.5
    recorder.write(Block(samples, 0.0))
    recorder.write(Block(samples, 13.5, skipped_s=12.5))
    recorder.close()
    heard, rate_hz = soundfile.read(tmp_path / "a.flac", dtype="float32")
    assert rate_hz == RATE_HZ
    assert len(heard) == round(14.5 * RATE_HZ)
    assert np.abs(heard[:RATE_HZ] - samples).max() < 1e-6
    assert np.abs(heard[RATE_HZ:-RATE_HZ]).max() == 0
    assert np.abs(heard[-RATE_HZ:] - samples).max() < 1e-6


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"\.flac"):
        Recorder(tmp_path / "a.wav")
    with pytest.raises(OutputError, match="cannot be written"):
        Recorder(tmp_path / "none" / "a.flac")
    (tmp_path / "b.flac").write_bytes(b"kept")
    with pytest.raises(OutputError, match="exists"):
        Recorder(tmp_path / "b.flac")
    assert (tmp_path / "b.flac").read_bytes() == b"kept"
    Recorder(tmp_path / "b.flac", overwrite=True).close()


def test_the_file_can_be_read_at_every_moment(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "a.flac")
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, 5 * RATE_HZ).astype(np.float32)
    for at in range(0, len(samples), 800):
        recorder.write(Block(samples[at : at + 800], at / RATE_HZ))
        if at > RATE_HZ:  # as it would be left if the program were killed now
            shutil.copy(tmp_path / "a.flac", tmp_path / "b.flac")
            heard, _ = soundfile.read(tmp_path / "b.flac", dtype="float32")
            assert 0 <= at + 800 - len(heard) <= 4096
            assert np.abs(heard - samples[: len(heard)]).max() < 1e-6
    recorder.close()
    assert soundfile.info(tmp_path / "a.flac").frames == len(samples)
