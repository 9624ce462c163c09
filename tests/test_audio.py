"""Sources: files of any kind, raw PCM, pacing, the streaming resampler, and how each ends badly."""

from __future__ import annotations

import io
import os
import re
import struct
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from streamasr import audio
from streamasr.audio import RATE_HZ, Block, FileSource, PulledSource, RawSource, Resampler, level_db, read_whole
from streamasr.errors import AudioError, SampleError

FORMATS = {
    "wav": ("WAV", "PCM_16"),
    "float.wav": ("WAV", "FLOAT"),
    "w64": ("W64", "PCM_24"),
    "rf64": ("RF64", "PCM_16"),
    "aiff": ("AIFF", "PCM_16"),
    "au": ("AU", "PCM_16"),
    "caf": ("CAF", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "ogg": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
}


def voice(seconds: float = 2.0, rate_hz: int = RATE_HZ, channels: int = 1) -> np.ndarray:
    """(n, channels) something like speech: a few gliding tones, louder and softer."""
    t = np.arange(round(seconds * rate_hz)) / rate_hz
    tones = [np.sin(2 * np.pi * (f * t + 40 * np.sin(3 * t + f))) for f in (200.0, 500.0, 1300.0, 2900.0)]
    mono = 0.15 * np.mean(tones, axis=0) * (1 + np.sin(2 * np.pi * 2 * t))
    return np.repeat(mono[:, None], channels, axis=1).astype(np.float32)


def heard(source: PulledSource, timeout_s: float = 0.1) -> tuple[np.ndarray, list[Block], AudioError | None]:
    """Read to the end; what was heard, the blocks, and the error that ended it."""
    blocks: list[Block] = []
    error = None
    with source:
        try:
            while not blocks or not blocks[-1].ended:
                blocks.append(source.read(timeout_s))
        except AudioError as caught:
            error = caught
            with pytest.raises(type(caught), match=re.escape(str(caught))):
                source.read()
        else:
            assert source.read().ended and not len(source.read().samples)
    samples = np.concatenate([block.samples for block in blocks]) if blocks else np.zeros(0, np.float32)
    position = 0
    for block in blocks:
        assert block.samples.dtype == np.float32 and block.samples.ndim == 1
        assert block.start_s == pytest.approx(position / RATE_HZ)
        assert not block.skipped_s and not block.events
        position += len(block.samples)
    return samples, blocks, error


def likeness(a: np.ndarray, b: np.ndarray) -> float:
    """Correlation of two signals of about the same length, 1 for the same shape."""
    count = min(len(a), len(b))
    return float(np.corrcoef(a[:count], b[:count])[0, 1])


# The resampler


@settings(max_examples=30)
@given(
    rate_hz=st.sampled_from([8_000, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000]),
    channels=st.integers(1, 3),
    cuts=st.lists(st.integers(0, 3_000), max_size=12),
    count=st.integers(0, 12_000),
    seed=st.integers(0, 1000),
)
def test_resampling_in_pieces_equals_resampling_the_whole(
    rate_hz: int, channels: int, cuts: list[int], count: int, seed: int
) -> None:
    frames = np.random.default_rng(seed).standard_normal((count, channels)).astype(np.float32) / 5
    mono = frames.mean(axis=1, dtype=np.float32)
    expected = mono if rate_hz == RATE_HZ else soxr.resample(mono, rate_hz, RATE_HZ, quality="HQ")
    resampler = Resampler(rate_hz)
    pieces = [resampler.process(piece) for piece in np.split(frames, np.minimum(np.cumsum(cuts), count).astype(int))]
    got = np.concatenate([*pieces, resampler.flush()])
    assert len(got) == len(expected)
    assert abs(len(got) - count * RATE_HZ / rate_hz) <= 1
    np.testing.assert_allclose(got, expected, atol=1e-6)


@pytest.mark.parametrize("rate_hz", [0, -16_000, 12, 5_000_000, float("nan")])
def test_a_rate_that_cannot_be(rate_hz: float) -> None:
    with pytest.raises(AudioError, match="has a rate of"):
        Resampler(rate_hz)


# Files


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize(("rate_hz", "channels"), [(16_000, 1), (48_000, 2), (8_000, 1), (44_100, 6)])
def test_every_kind_of_file(ending: str, rate_hz: int, channels: int, tmp_path: Path) -> None:
    container, encoding = FORMATS[ending]
    if encoding == "MPEG_LAYER_III":
        channels = min(channels, 2)
    if encoding == "OPUS" and rate_hz == 44_100:
        rate_hz = 24_000  # Opus knows no 44.1 kHz
    path, frames = tmp_path / f"voice.{ending}", voice(2.0, rate_hz, channels)
    soundfile.write(path, frames, rate_hz, format=container, subtype=encoding)
    samples, blocks, error = heard(FileSource(path))
    assert error is None
    assert len(blocks) >= 2
    assert len(samples) / RATE_HZ == pytest.approx(2.0, abs=0.001)
    assert likeness(samples, voice(2.0)[:, 0]) > 0.97
    if channels <= 2:  # with six, lossy codecs take the last one for a subwoofer
        assert level_db(samples) == pytest.approx(level_db(voice(2.0)[:, 0]), abs=0.5)


@settings(max_examples=20)
@given(block_s=st.floats(0.0005, 3.0), rate_hz=st.sampled_from([16_000, 22_050]))
def test_blocks_of_any_length_give_the_same_samples(block_s: float, rate_hz: int, tmp_path_factory: Any) -> None:
    path = tmp_path_factory.getbasetemp() / f"blocks-{rate_hz}.wav"
    if not path.exists():
        soundfile.write(path, voice(1.3, rate_hz, 2), rate_hz)
    samples, _, error = heard(FileSource(path, block_s=block_s))
    assert error is None
    np.testing.assert_allclose(samples, read_whole(path), atol=1e-6)


def test_read_whole_is_what_is_in_the_file(tmp_path: Path) -> None:
    path, frames = tmp_path / "voice.flac", voice(3.21)
    soundfile.write(path, frames, RATE_HZ)
    np.testing.assert_allclose(read_whole(path), frames[:, 0], atol=1 / 32768)


def test_a_long_file_is_not_read_whole(tmp_path: Path) -> None:
    path, minute = tmp_path / "long.wav", voice(60.0, 48_000, 2)
    with soundfile.SoundFile(path, "w", 48_000, 2, "PCM_16") as file:
        for _ in range(2):
            file.write(minute)
    count = 0
    with FileSource(path) as source:
        source.read()
        tracemalloc.start()
        try:
            while not (block := source.read()).ended:
                count += len(block.samples)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert count > (2 * 60 - 3) * RATE_HZ
    assert peak < 4e6  # the file holds 46 MB of samples


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.mkdir(), "is a directory"),
        (lambda path: path.touch(), "is empty"),
        (lambda path: path.write_text("no sound at all\n" * 100), "is not a sound file"),
        (lambda path: path.write_bytes(os.urandom(5000)), "is not a sound file"),
        (lambda path: path.write_bytes(b"RIFF\x10\0\0\0WAVE"), "is not a sound file"),
        (lambda path: path.write_bytes(b"fLaC" + os.urandom(3000)), "is not a sound file"),
        (lambda path: soundfile.write(path, np.zeros(0), 16_000, format="WAV"), "holds no samples"),
        (lambda path: soundfile.write(path, voice(0.1), 50, format="WAV"), "has a rate of 50 Hz"),
    ],
)
def test_files_that_cannot_be_heard(make: Any, message: str, tmp_path: Path, capfd: Any) -> None:
    path = tmp_path / "voice.wav"
    make(path)
    with pytest.raises(AudioError, match=message) as caught, FileSource(path) as source:
        while not source.read().ended:
            pass
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = tmp_path / "voice.wav"
    soundfile.write(path, voice(0.1), RATE_HZ)
    path.chmod(0)
    with pytest.raises(AudioError, match="cannot be read"):
        FileSource(path)


@pytest.mark.parametrize("ending", sorted(set(FORMATS) - {"caf"}))
def test_what_there_is_of_a_truncated_file_is_heard_before_the_error(ending: str, tmp_path: Path, capfd: Any) -> None:
    container, encoding = FORMATS[ending]
    whole, path = tmp_path / "whole", tmp_path / f"cut.{ending}"
    frames = voice(4.0) + 0.01 * np.random.default_rng(0).standard_normal((4 * RATE_HZ, 1)).astype(np.float32)
    soundfile.write(whole, frames, RATE_HZ, format=container, subtype=encoding)
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    samples, _, error = heard(FileSource(path))
    assert error is not None and "is truncated" in str(error) and "s could be read" in str(error)
    assert 0.9 < len(samples) / RATE_HZ < 2.6  # half of the bytes; a page of Ogg holds up to a second
    assert likeness(samples, frames[:, 0]) > 0.95
    assert capfd.readouterr() == ("", "")


def test_what_a_damaged_piece_gave_before_the_damage_is_heard(tmp_path: Path, monkeypatch: Any) -> None:
    path = tmp_path / "voice.wav"
    soundfile.write(path, voice(1.0), RATE_HZ)
    source, whole = FileSource(path), read_whole(path)
    read = source._file.read

    def damaged(**options: Any) -> Any:
        if source._file.tell() + len(options["out"]) > 6000:
            read(dtype="float32", out=options["out"][: 6000 - source._file.tell()])
            raise soundfile.LibsndfileError(1)
        return read(**options)

    monkeypatch.setattr(source._file, "read", damaged)
    samples, _, error = heard(source)
    assert np.array_equal(samples, whole[:6000])
    assert error is not None and "0.38 s could be read" in str(error)


@pytest.mark.parametrize("length", [0xFFFFFFFF, 0x7FFFFFFF, 0xFFFFF000])
def test_a_wav_written_to_a_pipe_does_not_know_its_length(length: int, tmp_path: Path) -> None:
    path = tmp_path / "piped.wav"
    soundfile.write(path, voice(1.0), RATE_HZ)
    data = bytearray(path.read_bytes())
    at = data.index(b"data") + 4
    data[at : at + 4] = struct.pack("<I", length)
    path.write_bytes(data)
    samples, _, error = heard(FileSource(path))
    assert error is None and len(samples) == RATE_HZ


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
def test_samples_that_are_no_numbers_end_a_file(value: float, tmp_path: Path) -> None:
    path, frames = tmp_path / "voice.wav", voice(3.0, 44_100, 2)
    frames[50_000, 1] = value
    soundfile.write(path, frames, 44_100, subtype="FLOAT")
    samples, _, error = heard(FileSource(path))
    assert isinstance(error, SampleError) and "1.134 s" in str(error)
    assert np.isfinite(samples).all() and len(samples) == round(50_000 * RATE_HZ / 44_100)


# Pacing


class Clock:
    """A monotonic clock that moves only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.now += seconds


@settings(max_examples=25)
@given(pauses=st.lists(st.floats(0, 0.4), max_size=10), timeout_s=st.floats(0.001, 0.3))
def test_pacing_follows_the_clock_and_does_not_drift(
    pauses: list[float], timeout_s: float, tmp_path_factory: Any
) -> None:
    path = tmp_path_factory.getbasetemp() / "paced.wav"
    if not path.exists():
        soundfile.write(path, voice(3.0), RATE_HZ)
    clock, pauses = Clock(), list(pauses)
    with pytest.MonkeyPatch.context() as patch, FileSource(path, realtime=True) as source:
        patch.setattr(audio, "time", clock)
        began, given = clock.now, 0
        while not (block := source.read(timeout_s)).ended:
            given += len(block.samples)
            elapsed = clock.now - began
            assert given / RATE_HZ <= elapsed + 1e-6  # nothing is heard before it is spoken
            if len(block.samples) and not pauses:
                assert given / RATE_HZ > min(elapsed, 3.0) - 0.05 - 4.1  # never further behind than the reader was
            if pauses:
                clock.now += pauses.pop()
        given += len(block.samples)
    assert given == 3 * RATE_HZ
    assert clock.now - began < 3.0 + 0.1 + sum(pauses) + 4.0


def test_an_undisturbed_reader_ends_with_the_sound(tmp_path: Path, monkeypatch: Any) -> None:
    path, clock = tmp_path / "paced.wav", Clock()
    soundfile.write(path, voice(30.0, 44_100), 44_100)
    monkeypatch.setattr(audio, "time", clock)
    samples, blocks, _ = heard(FileSource(path, realtime=True))
    assert len(samples) == 30 * RATE_HZ
    assert clock.now - 1000 == pytest.approx(30.0, abs=0.1)
    assert max(len(block.samples) for block in blocks) <= 0.1 * RATE_HZ


# Raw samples


@settings(max_examples=40)
@given(
    encoding=st.sampled_from(["s16le", "f32le"]),
    channels=st.integers(1, 3),
    sizes=st.lists(st.integers(1, 400), min_size=1, max_size=20),
    rest=st.integers(0, 11),
)
def test_raw_samples_in_pieces_of_any_size(encoding: str, channels: int, sizes: list[int], rest: int) -> None:
    width = {"s16le": 2, "f32le": 4}[encoding] * channels
    rest %= width
    frames = voice(0.05, RATE_HZ, channels)
    data = (frames * 32768).astype("<i2").tobytes() if encoding == "s16le" else frames.tobytes()
    data += bytes(rest)

    class Pipe(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            assert size is not None and size > 0
            return super().read(min(size, sizes[self.tell() % len(sizes)]))

    samples, _, error = heard(RawSource(Pipe(data), RATE_HZ, encoding, channels))
    np.testing.assert_allclose(samples, frames[:, 0], atol=1 / 30_000)
    if rest:
        assert f"in the middle of a sample ({rest} of {width} bytes)" in str(error)
    else:
        assert error is None


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (b"", {}, "is empty"),
        (b"\1", {}, "in the middle of a sample"),
        (b"RIFF" + bytes(100), {}, "begins like a sound file"),
        (np.float32([0.1, np.nan]).tobytes(), {"encoding": "f32le"}, "NaN"),
        (b"\0\0", {"encoding": "mp3"}, "encoding 'mp3' is unknown; expected s16le or f32le"),
        (b"\0\0", {"channels": 0}, "0 channels"),
        (b"\0\0", {"rate_hz": 3}, "has a rate of 3 Hz"),
    ],
)
def test_raw_samples_that_cannot_be_heard(data: bytes, options: dict[str, Any], message: str) -> None:
    with pytest.raises(AudioError, match=re.escape(message)):
        source = RawSource(io.BytesIO(data), **options)
        while not source.read().ended:
            pass


def test_a_live_pipe_is_heard_at_once_and_a_quiet_one_does_not_block() -> None:
    out, into = os.pipe()
    with os.fdopen(out, "rb") as stream, RawSource(stream) as source:
        assert not len(source.read(0.01).samples)
        os.write(into, b"\0\1" * 100 + b"\0")
        assert len(source.read(5).samples) == 100
        block = source.read(0.01)
        assert not len(block.samples) and not block.ended
        threading.Timer(0.1, lambda: (os.write(into, b"\1"), os.close(into))).start()
        assert source.read(5).samples.tolist() == [1 / 128]
        assert source.read(5).ended


def test_a_terminal_is_not_a_pipe() -> None:
    pty = pytest.importorskip("pty")
    master, slave = pty.openpty()
    with os.fdopen(slave, "rb", buffering=0) as stream, pytest.raises(AudioError, match="is a terminal"):
        RawSource(stream)
    os.close(master)


def test_through_a_real_pipe() -> None:
    """A whole process at the other end, which dies in the middle of a sample."""
    script = "import sys; sys.stdout.buffer.write(b'\\0\\x40' * 48000 + b'\\0')"
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
        assert process.stdout
        samples, _, error = heard(RawSource(process.stdout, 48_000))
    assert len(samples) == RATE_HZ
    assert np.abs(samples[1000:-1000] - 0.5).max() < 0.01
    assert error is not None and "in the middle of a sample" in str(error)


# Levels


def test_levels() -> None:
    assert level_db(np.ones(100, np.float32)) == pytest.approx(0)
    assert level_db(np.full(100, 0.1, np.float32)) == pytest.approx(-20)
    assert level_db(np.zeros(100, np.float32)) == level_db(np.zeros(0, np.float32)) == -120
    assert Block(np.full(10, 0.01, np.float32), 0.0).level_db == pytest.approx(-40)


def test_no_torch_and_no_sound_card_are_needed() -> None:
    """The microphone opens before torch is imported; files are read without PortAudio."""
    script = "import sys, streamasr.audio; sys.exit(any(name in sys.modules for name in ('torch', 'sounddevice')))"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
