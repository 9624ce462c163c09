"""A microphone made of a private PulseAudio server, so that tests really record: play into it, unplug it, replug it.

The server, its socket and the ALSA configuration that leads to it live in a temporary folder; programs that are to hear
it are started with `VirtualMicrophone.env`. The user's own sound system and home are left alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

PATIENCE_S = 60.0  # for what happens at once on an idle machine
SINK = "vmic"
ALSA = """</usr/share/alsa/alsa.conf>
pcm.!default { type pulse }
ctl.!default { type pulse }
"""
TWO_SINKS = """load-module module-null-sink sink_name={microphone} format=float32le rate=44100
load-module module-null-sink sink_name={speakers} format=float32le rate=44100
set-default-source {microphone}.monitor
set-default-sink {speakers}
"""
NO_DEVICES = 'pcm.broken { type plug, slave.pcm "missing" }\n'  # with no name at all PortAudio aborts


def missing() -> str:
    """Why there can be no virtual microphone here, or ""."""
    if sys.platform != "linux":
        return "PulseAudio's null sink is only used on Linux"
    for program in ("pulseaudio", "pactl", "paplay"):
        if not shutil.which(program):
            return f"{program} is not installed (apt-get install pulseaudio pulseaudio-utils)"
    if not any(Path("/usr/lib").glob("*/alsa-lib/libasound_module_pcm_pulse.so")):
        return "ALSA's PulseAudio plugin is not installed (apt-get install libasound2-plugins)"
    return ""


class VirtualMicrophone:
    """A running server whose sink `vmic` can be heard as the default input device "default".

    With `speakers` it has another sink of that name, which is the default output; else `vmic` is that, too.
    """

    def __init__(self, folder: Path, speakers: str = "") -> None:
        self.folder, self.speakers = folder, speakers
        for name in ("home", "run", "state"):
            (folder / name).mkdir(mode=0o700)
        (folder / "alsa.conf").write_text(ALSA)
        self.env = {
            **os.environ,
            "HOME": str(folder / "home"),
            "XDG_RUNTIME_DIR": str(folder / "run"),
            "PULSE_RUNTIME_PATH": str(folder / "run"),
            "PULSE_STATE_PATH": str(folder / "state"),
            "PULSE_SERVER": f"unix:{folder / 'run' / 'socket'}",
            "ALSA_CONFIG_PATH": str(folder / "alsa.conf"),
        }
        for name in ("PULSE_SOURCE", "PULSE_SINK", "PIPEWIRE_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS"):
            self.env.pop(name, None)
        self._server: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server and plug the microphone in."""
        command = ["pulseaudio", "-n", "--system=false", "--daemonize=no", "--use-pid-file=no", "--exit-idle-time=-1"]
        command += ["--disable-shm=yes", "--log-target=file:" + str(self.folder / "log")]
        if self.speakers:
            (self.folder / "sinks").write_text(TWO_SINKS.format(microphone=SINK, speakers=self.speakers))
            command += ["-F", str(self.folder / "sinks")]
        command += ["-L", f"module-native-protocol-unix socket={self.folder / 'run' / 'socket'} auth-anonymous=1"]
        self._server = subprocess.Popen(command, env=self.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        give_up = time.monotonic() + PATIENCE_S
        while self._pactl("info", check=False).returncode:
            if self._server.poll() is not None or time.monotonic() > give_up:
                raise RuntimeError("PulseAudio does not start: " + (self.folder / "log").read_text())
            time.sleep(0.05)
        if not self.speakers:
            self.plug()

    def stop(self) -> None:
        """Stop the server, as when the sound system crashes; the microphone is gone with it."""
        if self._server:
            self._server.terminate()
            self._server.wait()
            self._server = None

    def plug(self, sink: str = SINK) -> None:
        """Plug a microphone in; with no other it is the default."""
        self._pactl("load-module", "module-null-sink", f"sink_name={sink}", "format=float32le", "rate=44100")

    def unplug(self, name: str = SINK) -> None:
        """Pull the microphone out."""
        modules = self._pactl("list", "short", "modules").stdout.splitlines()
        for line in modules:
            number, _, *arguments = line.split("\t")
            if {f"sink_name={name}", f"source_name={name}"} & set(" ".join(arguments).split()):
                self._pactl("unload-module", number)

    def plug_pipe(self, name: str, rate_hz: int) -> Path:
        """Plug a microphone in that gives what is written to a pipe, at whatever pace; the path of the pipe."""
        path = self.folder / name
        arguments = ["format=s16le", f"rate={rate_hz}", "channels=1", f"file={path}"]
        self._pactl("load-module", "module-pipe-source", f"source_name={name}", *arguments)
        self._pactl("set-default-source", name)
        return path

    def make_default(self, sink: str) -> None:
        """Choose the default input among several that are plugged in."""
        self._pactl("set-default-source", f"{sink}.monitor")

    def play(self, path: str | Path, sink: str = SINK) -> None:
        """Speak a sound file into the microphone; returns when it has been played."""
        command = ["paplay", f"--device={sink}", str(path)]
        subprocess.run(command, env=self.env, check=True, timeout=PATIENCE_S + 600, capture_output=True)

    def _pactl(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["pactl", *arguments], env=self.env, check=check, capture_output=True, text=True, timeout=PATIENCE_S
        )


@contextlib.contextmanager
def virtual_microphone(speakers: str = "") -> Iterator[VirtualMicrophone]:
    """A microphone for a test; where PulseAudio is not installed the test is skipped with the reason."""
    if reason := missing():
        import pytest

        pytest.skip(reason)
    folder = Path(tempfile.mkdtemp(prefix="vmic-"))  # a short path: a socket's may have 107 characters
    microphone = VirtualMicrophone(folder, speakers)
    try:
        microphone.start()
        yield microphone
    finally:
        microphone.stop()
        shutil.rmtree(folder, ignore_errors=True)


def without_devices(folder: Path) -> dict[str, str]:
    """An environment in which ALSA has no device that works, whatever the machine has."""
    (folder / "alsa.conf").write_text(NO_DEVICES)
    return {**os.environ, "ALSA_CONFIG_PATH": str(folder / "alsa.conf"), "HOME": str(folder)}


RECORDER = """
import dataclasses, json, sys, threading, time
import numpy as np
from streamasr import mic

options = json.loads(sys.argv[1])
stop = threading.Event()
commands = []

def obey():
    for line in sys.stdin:
        commands.append(line.strip())
    stop.set()

def say(kind, **what):
    print(json.dumps({"kind": kind, **what}), flush=True)

def block_callback(ring, seconds):
    real = ring.write

    def late(samples):
        ring.write = real
        time.sleep(seconds)
        real(samples)

    ring.write = late

def set_wall_clock(seconds):
    real, real_ns = time.time, time.time_ns
    time.time = lambda: real() + seconds
    time.time_ns = lambda: real_ns() + round(seconds * 1e9)

threading.Thread(target=obey, daemon=True).start()
try:
    source = mic.Microphone(options.get("device"), **options.get("options", {}))
except Exception as error:
    say(type(error).__name__, message=str(error))
    sys.exit(1)
say("Opened", name=source.name)
parts, time_s, began, until = [], 0.0, None, 0.0
with source:
    while True:
        stopping = stop.is_set()
        block = source.read(0.0 if stopping else 0.1)
        assert abs(block.start_s - time_s - block.skipped_s) < 1e-3, (block.start_s, time_s, block.skipped_s)
        time_s = block.start_s + len(block.samples) / 16000
        parts += [np.zeros(round(block.skipped_s * 16000), np.float32), block.samples]
        if began is None and len(block.samples):
            began = mic.clock_s() - time_s
            say("Heard")
        for event in block.events:
            say(type(event).__name__, **dataclasses.asdict(event))
        if stopping and not len(block.samples):
            break
        if commands:
            command, _, value = commands.pop().partition(" ")
            if command == "sleep":
                time.sleep(float(value))
            elif command == "jump":
                real = mic.clock_s
                mic.clock_s = lambda: real() + float(value)
            elif command == "block":
                block_callback(source._capture.ring, float(value))
            elif command == "wall":
                set_wall_clock(float(value))
            say("Done", command=command)
        until = mic.clock_s()
np.save(options["out"], np.concatenate(parts))
say("End", time_s=time_s, elapsed_s=until - began, torch="torch" in sys.modules)
"""


class Recording:
    """A process that listens through `streamasr.mic.Microphone` and tells what happens.

    With `options` as keyword arguments of `Microphone`. Use `wait_for` to act when something has happened.
    """

    def __init__(self, env: dict[str, str], device: int | str | None = None, **options: Any) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="recording-"))
        arguments = json.dumps({"device": device, "out": str(self._folder / "heard.npy"), "options": options})
        self.process = subprocess.Popen(
            [sys.executable, "-c", RECORDER, arguments],
            env={**env, "PYTHONPATH": str(Path(__file__).parent.parent)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.told: list[dict[str, Any]] = []
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._errors: list[str] = []
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._follow, self._complain)]
        for thread in self._threads:
            thread.start()

    def _follow(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def _complain(self) -> None:
        assert self.process.stderr
        self._errors.extend(self.process.stderr)

    @property
    def errors(self) -> str:
        """What the process printed on standard error."""
        return "".join(self._errors)

    def wait_for(self, kind: str, timeout_s: float = PATIENCE_S) -> dict[str, Any]:
        """The next thing told of that kind: Opened, Heard, an event's or error's name, End."""
        give_up = time.monotonic() + timeout_s
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, give_up - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"no {kind} within {timeout_s} s, but {self.told}; {self.errors}") from None
            if line is None:
                raise AssertionError(f"the recorder ended before {kind}: {self.told}; {self.errors}")
            self.told.append(json.loads(line))
            if self.told[-1]["kind"] == kind:
                return self.told[-1]

    def tell(self, command: str) -> None:
        """Make the process do something between two reads.

        "sleep 3": it does not read for so long; "block 3": the sound card's callback hangs; "jump 100": its clock goes
        on as in suspend; "wall -3600": the time of day is set.
        """
        assert self.process.stdin
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        self.wait_for("Done")

    def stop(self) -> tuple[np.ndarray, dict[str, Any]]:
        """End it; all samples of the time line, skipped ones as zeros, and the End that was told."""
        assert self.process.stdin
        self.process.stdin.close()
        end = self.wait_for("End")
        return np.load(self._folder / "heard.npy"), end

    def events(self, *kinds: str) -> list[dict[str, Any]]:
        """What was told of these kinds so far."""
        return [each for each in self.told if each["kind"] in kinds]

    def __enter__(self) -> Recording:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self.process.stdin and self.process.stdout and self.process.stderr
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for thread in self._threads:
            thread.join()
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        self.process.stdout.close()
        self.process.stderr.close()
        shutil.rmtree(self._folder, ignore_errors=True)
