"""Faults of a real device and its process: stalls, clocks that are set, a rate that is another one all at once."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.test_mic import ALIKE, RATE_HZ, place, speech
from tests.virtual_microphone import Recording, VirtualMicrophone, virtual_microphone


@pytest.fixture
def device() -> Iterator[VirtualMicrophone]:
    with virtual_microphone() as microphone:
        yield microphone


@pytest.mark.slow
def test_a_stall_longer_than_the_systems_buffer(device: VirtualMicrophone, tmp_path: Path) -> None:
    """The process is stopped for 16 s, of which PulseAudio keeps 12: what overflowed is told, and keeps its place."""
    said = speech(tmp_path / "long.wav", 24.0, seed=21)
    with Recording(device.env) as recording:
        recording.wait_for("Heard")
        player = subprocess.Popen(["paplay", "--device=vmic", str(tmp_path / "long.wav")], env=device.env)
        time.sleep(2)
        os.kill(recording.process.pid, signal.SIGSTOP)
        time.sleep(16)
        os.kill(recording.process.pid, signal.SIGCONT)
        assert player.wait() == 0
        recording.wait_for("Overrun")
        heard, end = recording.stop()
    pieces = {second: place(said[second * RATE_HZ : (second + 2) * RATE_HZ], heard) for second in (0, 4, 8, 20, 22)}
    assert all(likeness > 0.9 for _, likeness in pieces.values())
    delays_s = [at / RATE_HZ - second for second, (at, _) in pieces.items()]
    assert max(delays_s) - min(delays_s) < 0.1  # before and after the loss: on the same clock
    (overrun,) = recording.events("Overrun")
    assert 2.0 < overrun["seconds"] < 7.0
    assert overrun["reason"] in ("lost by the device", "input overflow")
    assert not recording.events("SourceLost")
    assert end["time_s"] == pytest.approx(end["elapsed_s"], abs=0.3)


@pytest.mark.parametrize(("seconds", "lost"), [(2.0, False), (5.0, True)])
def test_the_sound_cards_callback_hangs(device: VirtualMicrophone, tmp_path: Path, seconds: float, lost: bool) -> None:
    """For 2 s the system keeps what is said; after 3 s the device counts as lost, and is opened anew."""
    said = speech(tmp_path / "after.wav", 3.0, seed=22)
    with Recording(device.env) as recording:
        recording.wait_for("Heard")
        time.sleep(1)
        recording.tell(f"block {seconds}")
        if lost:
            assert "no audio came" in recording.wait_for("SourceLost")["reason"]
            assert seconds - 1 < recording.wait_for("SourceResumed")["gap_s"] < seconds + 30
        else:
            time.sleep(seconds)
        device.play(tmp_path / "after.wav")
        time.sleep(0.5)
        heard, end = recording.stop()
    assert place(said, heard)[1] > ALIKE
    assert bool(recording.events("SourceLost")) == lost
    assert end["time_s"] == pytest.approx(end["elapsed_s"], abs=0.3)


@pytest.mark.parametrize("seconds", [3600.0, -3600.0])
def test_the_time_of_day_is_set(device: VirtualMicrophone, tmp_path: Path, seconds: float) -> None:
    """Nothing of the time line depends on it."""
    said = speech(tmp_path / "said.wav", 3.0, seed=23)
    with Recording(device.env) as recording:
        recording.wait_for("Heard")
        player = subprocess.Popen(["paplay", "--device=vmic", str(tmp_path / "said.wav")], env=device.env)
        time.sleep(1)
        recording.tell(f"wall {seconds}")
        assert player.wait() == 0
        time.sleep(1)
        heard, end = recording.stop()
    assert place(said, heard)[1] > ALIKE
    assert not recording.events("SourceLost", "Overrun")
    assert end["time_s"] == pytest.approx(end["elapsed_s"], abs=0.3)


def test_samples_that_are_no_numbers(device: VirtualMicrophone, tmp_path: Path) -> None:
    """A driver that gives NaN for 0.1 s: that is silence and told; all around it is heard."""
    said = speech(tmp_path / "said.wav", 4.0, seed=26)
    samples, rate_hz = soundfile.read(tmp_path / "said.wav", dtype="float32")
    samples[2 * rate_hz : round(2.1 * rate_hz)] = np.nan
    soundfile.write(tmp_path / "broken.wav", samples, rate_hz, subtype="FLOAT")
    with Recording(device.env) as recording:
        recording.wait_for("Heard")
        device.play(tmp_path / "broken.wav")
        time.sleep(0.5)
        heard, _ = recording.stop()
    assert np.isfinite(heard).all()
    before, after = said[: round(1.99 * RATE_HZ)], said[round(2.11 * RATE_HZ) :]
    assert place(before, heard)[1] > ALIKE
    assert place(after, heard)[1] > ALIKE
    assert place(after, heard)[0] - place(before, heard)[0] == pytest.approx(2.11 * RATE_HZ, abs=2)
    lost = recording.events("Overrun")
    assert sum(each["seconds"] for each in lost) == pytest.approx(0.1, abs=0.001)
    assert all("NaN" in each["reason"] for each in lost)


class Voice:
    """Writes samples into a pipe at a pace, as a sound card does; then silence for ever."""

    def __init__(self, path: Path, rate_hz: int) -> None:
        self._over = threading.Event()
        self._path, self._rate_hz = path, rate_hz
        self._samples = np.zeros(0, np.float32)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def say(self, samples: np.ndarray) -> None:
        """Samples at the pace's rate, from now on."""
        self._samples = samples

    def close(self) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_NONBLOCK)
        began, given, step = time.monotonic(), 0, self._rate_hz // 100
        try:
            while not self._over.is_set():
                part, self._samples = self._samples[:step], self._samples[step:]
                block = np.zeros(step, "<i2")
                block[: len(part)] = 32_000 * part
                with contextlib.suppress(BlockingIOError):  # nobody listens
                    os.write(descriptor, block.tobytes())
                given += step
                time.sleep(max(0.0, began + given / self._rate_hz - time.monotonic()))
        except OSError:  # unplugged
            pass
        finally:
            os.close(descriptor)


@pytest.mark.slow
def test_the_device_goes_on_at_another_rate(device: VirtualMicrophone, tmp_path: Path) -> None:
    """A card that was opened at 44.1 kHz and now gives 48 000 samples a second is noticed, and opened anew."""
    spoken = speech(tmp_path / "said.wav", 4.0, seed=24, rate_hz=48_000)
    samples, _ = soundfile.read(tmp_path / "said.wav", dtype="float32")
    path = device.plug_pipe("card", 44_100)
    voice = Voice(path, 44_100)
    with Recording(device.env) as recording:
        recording.wait_for("Heard")
        time.sleep(4)
        voice.close()
        voice = Voice(path, 48_000)  # the system's settings were changed
        lost = recording.wait_for("SourceLost")
        device.unplug("card")
        voice.close()
        voice = Voice(device.plug_pipe("card", 48_000), 48_000)
        recording.wait_for("SourceResumed")
        time.sleep(1)
        voice.say(samples)
        time.sleep(5.5)
        heard, _ = recording.stop()
    voice.close()
    assert lost["reason"] == "the system changed its sample rate"
    assert lost["time_s"] < 20
    assert place(spoken, heard)[1] > 0.9


@pytest.mark.slow
def test_a_device_that_gives_nothing_at_first(device: VirtualMicrophone, tmp_path: Path) -> None:
    """It opens, but is silent for more than 10 s: it is opened anew, and the gap is that of the real time."""
    spoken = speech(tmp_path / "said.wav", 3.0, seed=25)
    path = device.plug_pipe("card", 16_000)
    with Recording(device.env) as recording:
        recording.wait_for("SourceLost")
        voice = Voice(path, 16_000)
        gap_s = recording.wait_for("SourceResumed")["gap_s"]
        voice.say(spoken)
        time.sleep(4)
        heard, end = recording.stop()
    voice.close()
    assert 9 < gap_s < 40
    assert end["time_s"] < 60
    assert place(spoken, heard)[1] > 0.9
