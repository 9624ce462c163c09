"""Capture: a real device (a virtual microphone) that is played to, unplugged and replugged, and a simulated one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import example, given, settings
from hypothesis import strategies as st

from streamasr import mic
from streamasr.devices import Device, choose
from streamasr.errors import DeviceLost, NoInputDevice, UnknownDevice
from streamasr.events import Overrun, SourceLost, SourceResumed
from tests.virtual_microphone import Recording, VirtualMicrophone, virtual_microphone, without_devices

RATE_HZ = 16_000
ALIKE = 0.95  # a sample lost or repeated leaves 0.91 at most, but at the very ends; the sound server once left 0.969

# A real device


@pytest.fixture
def device() -> Iterator[VirtualMicrophone]:
    with virtual_microphone() as microphone:
        yield microphone


def speech(path: Path, seconds: float, seed: int, rate_hz: int = 44_100) -> np.ndarray:
    """Write noise with the rhythm and the band of speech, which is like nothing but itself; as heard at 16 kHz."""
    random = np.random.default_rng(seed)
    noise = random.standard_normal(round(seconds * rate_hz))
    spectrum = np.fft.rfft(noise)
    hertz = np.fft.rfftfreq(len(noise), 1 / rate_hz)
    noise = np.fft.irfft(spectrum * (hertz > 100) * (hertz < 6000), len(noise))
    syllables = np.r_[0, random.random(round(seconds * 8)), 0]
    loudness = np.interp(np.linspace(0, len(syllables) - 1, len(noise)), np.arange(len(syllables)), syllables)
    samples = (noise / np.abs(noise).max() * loudness).astype(np.float32)
    soundfile.write(path, samples, rate_hz, subtype="FLOAT")
    return soxr.resample(samples, rate_hz, RATE_HZ)


def place(needle: np.ndarray, hay: np.ndarray) -> tuple[int, float]:
    """Where `needle` is in `hay`, and how like it what is there is (1: the same shape and loudness).

    It is found to a fraction of a sample, as the device's rate is another one.
    """
    size = 1 << int(np.ceil(np.log2(len(needle) + len(hay))))
    products = np.fft.irfft(np.fft.rfft(hay, size) * np.conj(np.fft.rfft(needle, size)), size)[: len(hay)]
    at = int(np.argmax(products))
    found = np.zeros_like(needle)
    part = hay[at : at + len(needle)]
    found[: len(part)] = part
    ours, theirs = np.fft.rfft(needle), np.fft.rfft(found)
    cross, radians = theirs * np.conj(ours), np.linspace(0, np.pi, len(ours))
    shift = np.sum(np.abs(cross) * radians * np.angle(cross)) / np.sum(np.abs(cross) * radians**2)
    moved = np.fft.irfft(ours * np.exp(1j * radians * shift), len(needle))
    error = np.sqrt(np.mean((found - moved) ** 2) / np.mean(needle**2))
    return at, 1 - float(error)


def test_what_is_played_is_what_is_heard(device: VirtualMicrophone, tmp_path: Path) -> None:
    expected = speech(tmp_path / "speech.wav", 8.0, seed=1)
    with Recording(device.env) as recording:
        assert recording.wait_for("Opened")["name"] == "default"
        recording.wait_for("Heard")
        device.play(tmp_path / "speech.wav")
        time.sleep(0.5)
        heard, end = recording.stop()
        assert recording.errors == ""
    _, likeness = place(expected, heard)
    assert likeness > ALIKE
    assert not recording.events("Overrun", "SourceLost")
    assert end["time_s"] == pytest.approx(end["elapsed_s"], abs=0.3)
    assert not end["torch"]


def test_unplugged_and_replugged(device: VirtualMicrophone, tmp_path: Path) -> None:
    first, second = (speech(tmp_path / f"{seed}.wav", 3.0, seed) for seed in (1, 2))
    with Recording(device.env) as recording:
        recording.wait_for("Heard")
        device.play(tmp_path / "1.wav")
        device.unplug()
        lost = recording.wait_for("SourceLost")
        time.sleep(3.0)
        device.plug()
        resumed = recording.wait_for("SourceResumed")
        device.play(tmp_path / "2.wav")
        time.sleep(0.5)
        heard, end = recording.stop()
    assert lost["reason"] == "the device stopped"
    assert resumed["gap_s"] > 2.9
    assert resumed["time_s"] - lost["time_s"] == pytest.approx(resumed["gap_s"], abs=0.1)
    assert end["time_s"] == pytest.approx(end["elapsed_s"], abs=0.3)  # the time line has kept the gap
    before, likeness = place(first, heard)
    assert likeness > 0.5  # the very end may have been on its way
    assert before / RATE_HZ + 2.5 < lost["time_s"]
    after, likeness = place(second, heard)
    assert likeness > ALIKE
    assert after / RATE_HZ > resumed["time_s"]
    silence = heard[round(lost["time_s"] * RATE_HZ) + 1 : round(resumed["time_s"] * RATE_HZ) - 1]
    assert not silence.any()
    assert len(recording.events("SourceLost")) == len(recording.events("SourceResumed")) == 1


def test_unplugged_in_the_middle_of_speech(device: VirtualMicrophone, tmp_path: Path) -> None:
    speech(tmp_path / "long.wav", 30.0, seed=3)
    with Recording(device.env) as recording:
        recording.wait_for("Heard")
        player = subprocess.Popen(["paplay", "--device=vmic", str(tmp_path / "long.wav")], env=device.env, stderr=-3)
        time.sleep(3)
        device.unplug()
        player.wait()
        lost = recording.wait_for("SourceLost")
        device.plug()
        recording.wait_for("SourceResumed")
        heard, _ = recording.stop()
    said = heard[: round(lost["time_s"] * RATE_HZ)]
    assert len(said) / RATE_HZ > 1
    assert np.abs(said[-RATE_HZ // 2 :]).max() > 0.05  # heard to the end


def test_the_sound_server_dies_and_comes_back(device: VirtualMicrophone, tmp_path: Path) -> None:
    expected = speech(tmp_path / "speech.wav", 2.0, seed=4)
    with Recording(device.env) as recording:
        recording.wait_for("Heard")
        device.stop()
        recording.wait_for("SourceLost")
        device.start()
        recording.wait_for("SourceResumed")
        device.play(tmp_path / "speech.wav")
        time.sleep(0.5)
        heard, end = recording.stop()
    assert place(expected, heard)[1] > ALIKE
    assert end["time_s"] == pytest.approx(end["elapsed_s"], abs=0.3)


def test_another_microphone_becomes_the_default(device: VirtualMicrophone, tmp_path: Path) -> None:
    expected = speech(tmp_path / "speech.wav", 3.0, seed=5)
    with Recording(device.env) as recording:
        recording.wait_for("Heard")
        time.sleep(1)
        device.plug("headset")
        device.make_default("headset")
        time.sleep(3)
        device.play(tmp_path / "speech.wav", "headset")
        time.sleep(0.5)
        heard, end = recording.stop()
    assert place(expected, heard)[1] > ALIKE
    assert end["time_s"] == pytest.approx(end["elapsed_s"], abs=0.3)


def test_a_stopped_process_loses_nothing_that_the_system_has_kept(device: VirtualMicrophone, tmp_path: Path) -> None:
    expected = speech(tmp_path / "speech.wav", 6.0, seed=6)
    with Recording(device.env) as recording:
        recording.wait_for("Heard")
        player = subprocess.Popen(["paplay", "--device=vmic", str(tmp_path / "speech.wav")], env=device.env)
        time.sleep(2)
        os.kill(recording.process.pid, signal.SIGSTOP)
        time.sleep(3)
        os.kill(recording.process.pid, signal.SIGCONT)
        assert player.wait() == 0
        time.sleep(1)
        heard, end = recording.stop()
    assert not recording.events("SourceLost", "Overrun")
    assert place(expected, heard)[1] > ALIKE
    assert end["time_s"] == pytest.approx(end["elapsed_s"], abs=0.3)


def test_a_late_reader_is_told_what_was_dropped(device: VirtualMicrophone, tmp_path: Path) -> None:
    expected = speech(tmp_path / "speech.wav", 2.0, seed=7)
    with Recording(device.env, ring_s=1.0) as recording:
        recording.wait_for("Heard")
        recording.tell("sleep 2.5")
        recording.wait_for("Overrun")
        recording.tell("sleep 6")
        recording.wait_for("Overrun")
        device.play(tmp_path / "speech.wav")
        time.sleep(0.5)
        heard, end = recording.stop()
    short, long = (each["seconds"] for each in recording.events("Overrun"))
    assert 1.3 < short < 2.2 and 4.8 < long < 6
    assert {each["reason"] for each in recording.events("Overrun")} == {"ring full"}
    assert place(expected, heard)[1] > ALIKE
    assert end["time_s"] == pytest.approx(end["elapsed_s"], abs=0.3)


def test_a_suspended_machine(device: VirtualMicrophone, tmp_path: Path) -> None:
    """The clock of the test machine jumps as it does in suspend; the capture itself is real."""
    expected = speech(tmp_path / "speech.wav", 2.0, seed=8)
    with Recording(device.env) as recording:
        recording.wait_for("Heard")
        time.sleep(2)
        recording.tell("jump 3600")
        assert "suspended" in recording.wait_for("SourceLost")["reason"]
        assert recording.wait_for("SourceResumed")["gap_s"] == pytest.approx(3600, abs=5)
        device.play(tmp_path / "speech.wav")
        time.sleep(0.5)
        heard, end = recording.stop()
    assert place(expected, heard[3600 * RATE_HZ :])[1] > ALIKE
    assert end["time_s"] == pytest.approx(end["elapsed_s"], abs=0.3)
    assert len(recording.events("SourceLost")) == 1


def test_devices_by_number_and_name(device: VirtualMicrophone) -> None:
    with Recording(device.env, device=0) as recording:
        assert recording.wait_for("Opened")["name"] == "pulse"
    with Recording(device.env, device="PUL") as recording:
        assert recording.wait_for("Opened")["name"] == "pulse"
    with Recording(device.env, device="pluse") as recording:
        message = recording.wait_for("UnknownDevice")["message"]
    assert "'pluse'" in message and "0 'pulse'" in message and "\n" not in message


def test_a_device_that_refuses(device: VirtualMicrophone) -> None:
    """PortAudio lists a device that then cannot be opened."""
    script = (
        "import sys; from streamasr import mic, devices; devices.list_devices(); print('listed', flush=True);"
        "sys.stdin.readline(); mic.Microphone()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", script], env=device.env, **pipes) as process:
        assert process.stdout and process.stdout.readline() == "listed\n"
        device.stop()
        _, errors = process.communicate("go\n")
    last = errors.splitlines()[-1]
    assert last.startswith("streamasr.errors.DeviceLost: the device 'default' cannot be opened")
    assert "ALSA lib" not in errors and "Expression" not in errors


def run(script: str, env: dict[str, str]) -> str:
    """What the script prints, run in a process of its own; nothing may appear on standard error."""
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.stdout


def test_no_microphone_at_all(tmp_path: Path) -> None:
    script = """
from streamasr import devices, errors, mic
print(devices.list_devices())
try:
    mic.Microphone()
except errors.NoInputDevice as error:
    print(error)
"""
    if not sys.platform.startswith("linux"):
        pytest.skip("only ALSA can be told to have no device")
    devices, error = run(script, without_devices(tmp_path)).splitlines()
    assert devices == "()"
    assert (
        error
        == "there is no input device; expected a microphone. Plug one in, and see that the sound settings show it."
    )


def test_without_portaudio(tmp_path: Path) -> None:
    """sounddevice, where the library is missing, fails with OSError as soon as it is imported."""
    (tmp_path / "sounddevice.py").write_text("raise OSError('PortAudio library not found')")
    script = """
from streamasr import errors, mic
try:
    mic.Microphone()
except errors.NoPortAudio as error:
    print(error)
"""
    message = run(script, {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(__file__).parent.parent}"})
    assert "PortAudio library not found" in message and "Install it: " in message
    if sys.platform == "linux":
        assert "portaudio" in message.split("Install it: ")[1]


def test_importing_opens_nothing() -> None:
    """The microphone can listen before torch is imported, and files are transcribed without PortAudio."""
    script = "import sys, streamasr.mic; print([name for name in ('torch', 'sounddevice') if name in sys.modules])"
    assert run(script, dict(os.environ)) == "[]\n"


# Choosing a device

DEVICES = tuple(
    Device(number, name, host, 2, 48_000.0, number == 3)
    for number, name, host in [
        (0, "Blue Yeti", "MME"),
        (2, "HD Webcam C920", "MME"),
        (3, "Blue Yeti", "WASAPI"),
        (5, "Blue Snowball", "WASAPI"),
        (6, "Yeti", "MME"),
    ]
)


@pytest.mark.parametrize(
    ("wanted", "number"),
    [(None, 3), (2, 2), ("5", 5), (" 6 ", 6), ("blue yeti", 3), ("yeti", 6), ("webcam", 2), ("Snow", 5), ("HD", 2)],
)
def test_choosing(wanted: int | str | None, number: int) -> None:
    assert choose(DEVICES, wanted).number == number


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (1, "no input device is called 1"),
        (-1, "no input device is called -1"),
        ("", "no input device is called ''"),
        ("blue", "'blue' fits 3 input devices; expected one of 0 'Blue Yeti', 3 'Blue Yeti', 5 'Blue Snowball'"),
        ("snowbell", "5 'Blue Snowball'"),
        ("xxx", "0 'Blue Yeti'"),
    ],
)
def test_choosing_in_vain(wanted: int | str, message: str) -> None:
    with pytest.raises(UnknownDevice) as caught:
        choose(DEVICES, wanted)
    assert message in str(caught.value)


def test_choosing_among_none() -> None:
    with pytest.raises(NoInputDevice):
        choose((), "yeti")


# A simulated device: every sample says when it was spoken, so the time line can be checked at every sample


class World:
    """A clock, and a device that speaks one sample per 1/16000 s whether somebody listens or not."""

    def __init__(self) -> None:
        self.now = 0.0
        self.plugged = True
        self.blind_until = 0.0  # the device loses its audio until then
        self.suspended = 0.0
        self.held: list[tuple[int, int]] | None = None  # blocks held back while the process stalls
        self.spoken = 0
        self.flag = False
        self.capture: Any = None

    # what mic.py takes from the module time
    def monotonic(self) -> float:
        return self.now - self.suspended

    def sleep(self, seconds: float) -> None:
        self.pass_time(max(seconds, 1e-4))

    @staticmethod
    def value(sample: np.ndarray) -> np.ndarray:
        """What the device says at a sample; never 0, which is silence."""
        return (sample + 1) / 2**20

    def pass_time(self, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until:
            self.now += min(until - self.now, 0.02)
            end = round(self.now * RATE_HZ)
            begin, self.spoken = self.spoken, end
            if self.now <= self.blind_until:
                self.flag = True
            elif self.held is not None:
                self.held.append((begin, end))
            else:
                self.deliver(begin, end)

    def deliver(self, begin: int, end: int) -> None:
        if self.capture is None or not self.plugged or begin == end:
            return
        samples = self.value(np.arange(begin, end)).astype(np.float32)
        status = type("Flags", (), {"input_overflow": self.flag})
        self.flag = False
        self.capture._callback(samples[:, None], end - begin, None, status)

    def suspend(self, seconds: float) -> None:
        """The machine sleeps; nobody hears what is said."""
        self.now += seconds
        self.suspended += seconds
        self.spoken = round(self.now * RATE_HZ)

    def stall(self, seconds: float) -> None:
        """The process is stopped; the system keeps the audio and delivers it in a burst."""
        self.held = []
        self.pass_time(seconds)
        held, self.held = self.held, None
        for begin, end in held:
            self.deliver(begin, end)
            self.now += 0.004
        begin, self.spoken = self.spoken, round(self.now * RATE_HZ)
        self.deliver(begin, self.spoken)

    def unplug(self) -> None:
        self.plugged = False
        if self.capture:
            self.capture._finished()


class SimulatedCapture(mic._Capture):
    """A capture of the simulated device in place of a PortAudio stream."""

    world: World

    def _open(self, library: Any, device: Device, ring_s: float) -> Any:
        if not self.world.plugged:
            raise DeviceLost("it is unplugged")
        self.rate_hz = float(RATE_HZ)
        self.ring = mic.Ring(round(ring_s * RATE_HZ), 1)
        self.world.capture = self
        return type("Stream", (), {"active": True})

    def close(self) -> None:
        mic._open_captures.discard(self)
        if self.world.capture is self:
            self.world.capture = None


ACTIONS = st.one_of(
    st.tuples(st.just("listen"), st.floats(0.0, 6.0)),
    st.tuples(st.just("sleep"), st.floats(0.0, 12.0)),
    st.tuples(st.just("stall"), st.floats(0.0, 5.0)),
    st.tuples(st.just("lose"), st.floats(0.2, 1.5)),
    st.tuples(st.just("unplug"), st.floats(0.0, 8.0)),
    st.tuples(st.just("suspend"), st.floats(30.0, 100.0)),
)


@settings(max_examples=40, deadline=None)
@example(actions=[("stall", 3.0), ("stall", 3.0)], ring_s=4.0)
@given(actions=st.lists(ACTIONS, max_size=8), ring_s=st.sampled_from([1.0, 4.0, 30.0]))
def test_the_time_line_is_that_of_the_real_audio(actions: list[tuple[str, float]], ring_s: float) -> None:
    world = World()
    SimulatedCapture.world = world
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mic, "time", world)
        patch.setattr(mic, "clock_s", lambda: world.now)
        patch.setattr(mic, "_Capture", SimulatedCapture)
        patch.setattr(mic, "find_device", lambda wanted: Device(0, "simulated", "none", 1, RATE_HZ, True))
        patch.setattr(mic, "portaudio", lambda: None)
        patch.setattr(mic, "_initialise_again", lambda library: None)
        microphone = mic.Microphone(ring_s=ring_s)
        first = world.now
        heard: list[tuple[int, np.ndarray]] = []
        events: list[Any] = []
        time_s = 0.0

        def listen(seconds: float) -> None:
            nonlocal time_s
            until = world.now + seconds
            while world.now < until:
                block = microphone.read(0.1)
                assert block.start_s == pytest.approx(time_s + block.skipped_s, abs=1e-6)
                assert block.skipped_s >= 0 and not block.ended
                heard.append((round(block.start_s * RATE_HZ), block.samples))
                events.extend(block.events)
                time_s = block.start_s + len(block.samples) / RATE_HZ

        listen(2.0)
        for action, seconds in actions:
            if action == "listen":
                listen(seconds)
            elif action == "sleep":
                world.pass_time(seconds)
            elif action == "stall":
                world.stall(seconds)
            elif action == "lose":
                world.blind_until = world.now + seconds
                listen(seconds + 3.0)
            elif action == "unplug":
                world.unplug()
                listen(seconds)
                world.plugged = True
                listen(4.0)
            elif action == "suspend":
                world.suspend(seconds)
                listen(4.0)
        listen(5.0)

    position = -1.0
    counted = 0
    for start, samples in heard:
        spoken = samples * 2**20 - 1
        real = np.flatnonzero(samples)
        counted += len(real)
        if not len(real):
            continue
        said = spoken[real]
        assert said[0] > position and (np.diff(said) > 0).all()  # in order, none twice
        position = said[-1]
        late_s = (start + real - said) / RATE_HZ + first
        # what is lost inside the device is noticed up to two windows later; everything else is exact
        slack_s = 1.6 if any(action == "lose" for action, _ in actions) else 0.03
        assert np.abs(late_s).max() < slack_s
    assert time_s == pytest.approx(world.now - first, abs=0.2)
    missing_s = world.now - first - counted / RATE_HZ
    told_s = sum(each.seconds for each in events if isinstance(each, Overrun))
    told_s += sum(each.gap_s for each in events if isinstance(each, SourceResumed))
    assert missing_s == pytest.approx(told_s, abs=0.1 + 0.05 * len(actions))
    assert sum(isinstance(each, SourceLost) for each in events) == sum(
        isinstance(each, SourceResumed) for each in events
    )
    if all(action in ("listen", "stall") for action, _ in actions) and sum(s for _, s in actions) < ring_s - 1:
        assert not events


def test_samples_that_are_no_numbers_are_heard_as_silence(monkeypatch: Any) -> None:
    world = World()
    SimulatedCapture.world = world
    monkeypatch.setattr(mic, "time", world)
    monkeypatch.setattr(mic, "clock_s", lambda: world.now)
    monkeypatch.setattr(mic, "_Capture", SimulatedCapture)
    monkeypatch.setattr(mic, "find_device", lambda wanted: Device(0, "simulated", "none", 1, RATE_HZ, True))
    monkeypatch.setattr(World, "value", staticmethod(lambda at: np.where((at >= 100) & (at < 260), np.nan, 0.5)))
    with mic.Microphone() as microphone:
        blocks = [microphone.read(0.1) for _ in range(10)]
    samples = np.concatenate([block.samples for block in blocks])
    assert np.flatnonzero(samples != 0.5).tolist() == list(range(100, 260)) and not samples[100:260].any()
    (event,) = [event for block in blocks for event in block.events]
    assert isinstance(event, Overrun) and event.seconds == pytest.approx(0.01) and "NaN" in event.reason
    assert microphone.read().ended


# Finding what was lost


def test_lateness_is_no_loss_and_loss_is_measured() -> None:
    random, meter = np.random.default_rng(0), mic.LossMeter()
    heard_s, found_s = 0.0, 0.0
    for count in range(20_000):
        now_s = 5.0 + 1.0001 * count * 0.01 + random.exponential(0.003)  # blocks come late; the device's clock is slow
        heard_s += 0.01
        if count == 10_000:
            heard_s -= 0.5  # 50 blocks were lost
        lost_s = meter.add(now_s, heard_s)
        heard_s += lost_s
        found_s += lost_s
        assert bool(found_s) == (count > 10_000) or 10_000 < count <= 10_160
    assert found_s == pytest.approx(0.5, abs=0.02)


def test_a_small_loss_is_believed_when_the_device_says_so() -> None:
    for flagged in (False, True):
        meter, heard_s, found_s = mic.LossMeter(), 0.0, 0.0
        for count in range(1000):
            heard_s += 0.01 if count != 500 else -0.05
            lost_s = meter.add(count * 0.01, heard_s, flagged)
            heard_s, found_s = heard_s + lost_s, found_s + lost_s
        assert found_s == pytest.approx(0.06 if flagged else 0.0, abs=1e-6)
