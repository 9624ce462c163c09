"""What the machine plays, alone and beside the microphone: `listen` on a real sound server."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from tests.test_cli import FAKE, REPOSITORY
from tests.test_mic import ALIKE, place, speech
from tests.virtual_microphone import PATIENCE_S, VirtualMicrophone, virtual_microphone

RATE_HZ = 16_000
SPEAKERS = "speakers"


@pytest.fixture
def machine() -> Iterator[VirtualMicrophone]:
    """A sound server with a microphone, which is the default input, and loudspeakers, which are the default output."""
    with virtual_microphone(SPEAKERS) as microphone:
        yield microphone


class Listening:
    """`streamasr listen` with a fake engine, and what it wrote."""

    def __init__(self, env: dict[str, str], folder: Path, *arguments: str) -> None:
        self.folder = folder
        self.saved = folder / "talk.jsonl"
        command = [*FAKE, "listen", *arguments, "--save", str(self.saved), "--record", str(folder / "talk.flac")]
        self.process = subprocess.Popen(
            command, cwd=REPOSITORY, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )

    def events(self, *kinds: str) -> list[dict[str, Any]]:
        lines = self.saved.read_text().splitlines() if self.saved.exists() else []
        return [event for line in lines if (event := json.loads(line))["type"] in kinds]

    def wait_for(self, kind: str, count: int = 1, source: str | None = None) -> None:
        give_up = time.monotonic() + PATIENCE_S
        while len([event for event in self.events(kind) if event.get("source") == source]) < count:
            assert time.monotonic() < give_up, (kind, self.events(kind))
            assert self.process.poll() is None
            time.sleep(0.05)

    def stop(self) -> str:
        """End it as Ctrl-C does; what it said."""
        self.process.send_signal(signal.SIGTERM)
        said = self.process.stderr.read()
        assert self.process.wait() == 0, said
        return said

    def heard(self, label: str = "") -> np.ndarray:
        """The sound that was kept."""
        samples, rate_hz = soundfile.read(self.folder / f"talk{label and '.'}{label}.flac", dtype="float32")
        assert rate_hz == RATE_HZ
        return samples

    def __enter__(self) -> Listening:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.process.stderr.close()


def test_what_the_machine_plays_is_heard_and_the_microphone_is_not(machine: VirtualMicrophone, tmp_path: Path) -> None:
    played, said = (speech(tmp_path / f"{seed}.wav", 3.0, seed) for seed in (11, 12))
    with Listening(machine.env, tmp_path, "--source", "system") as listening:
        listening.wait_for("final")
        machine.play(tmp_path / "11.wav", SPEAKERS)
        machine.play(tmp_path / "12.wav")
        time.sleep(0.5)
        told = listening.stop()
    assert "listening to the system's sound" in told
    assert place(played, listening.heard())[1] > ALIKE
    assert place(said, listening.heard())[1] < 0.2
    assert not listening.events("overrun", "source_lost")


def test_microphone_and_system_at_once_are_told_apart(machine: VirtualMicrophone, tmp_path: Path) -> None:
    """Both speak at the same time; each is heard by itself, on one clock, and its captions carry its name."""
    played, said = (speech(tmp_path / f"{seed}.wav", 4.0, seed) for seed in (13, 14))
    with Listening(machine.env, tmp_path, "--source", "mic", "--source", "system") as listening:
        listening.wait_for("final", source="mic")
        listening.wait_for("final", source="system")
        player = subprocess.Popen(["paplay", f"--device={SPEAKERS}", str(tmp_path / "13.wav")], env=machine.env)
        machine.play(tmp_path / "14.wav")
        assert player.wait() == 0
        time.sleep(0.5)
        listening.stop()
    places = {}
    for label, mine, other in (("mic", said, played), ("system", played, said)):
        at, likeness = place(mine, listening.heard(label))
        places[label] = at / RATE_HZ
        assert likeness > ALIKE
        assert place(other, listening.heard(label))[1] < 0.2
    assert places["mic"] == pytest.approx(places["system"], abs=1.0)  # begun together; the players need their time
    finals = listening.events("final")
    assert {event["source"] for event in finals} == {"mic", "system"}
    for label in ("mic", "system"):
        starts_s = [event["start_s"] for event in finals if event["source"] == label]
        assert starts_s == sorted(starts_s)


def test_the_sound_system_crashes_under_two_sources(machine: VirtualMicrophone, tmp_path: Path) -> None:
    """Both are lost; each comes back as what it was, with the gap on its time line."""
    said, played = (speech(tmp_path / f"{seed}.wav", 3.0, seed) for seed in (15, 16))
    with Listening(machine.env, tmp_path, "--source", "mic", "--source", "system") as listening:
        for label in ("mic", "system"):
            listening.wait_for("final", source=label)
        machine.stop()
        for label in ("mic", "system"):
            listening.wait_for("source_lost", source=label)
        machine.start()
        for label in ("mic", "system"):
            listening.wait_for("source_resumed", source=label)
        player = subprocess.Popen(["paplay", f"--device={SPEAKERS}", str(tmp_path / "16.wav")], env=machine.env)
        machine.play(tmp_path / "15.wav")
        assert player.wait() == 0
        time.sleep(0.5)
        told = listening.stop()
    for label, mine in (("mic", said), ("system", played)):
        assert f"the source [{label}] was lost" in told and f"the source [{label}] is back" in told
        at, likeness = place(mine, listening.heard(label))
        (resumed,) = (event for event in listening.events("source_resumed") if event["source"] == label)
        assert likeness > ALIKE
        assert at / RATE_HZ > resumed["time_s"] - 1.0 and resumed["gap_s"] > 0.2
