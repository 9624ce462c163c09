"""CPU starvation: `listen` at a real sound server gets a thirtieth of the processor for a while."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.test_sources import Listening
from tests.virtual_microphone import PATIENCE_S, VirtualMicrophone, virtual_microphone

COST = "0.1"  # seconds of the processor for a second of audio; with a thirtieth of it, three times real time
LIMIT_S = 2.0


@pytest.fixture
def machine() -> Iterator[VirtualMicrophone]:
    with virtual_microphone() as microphone:
        yield microphone


class Starved:
    """Within it, the process runs for 10 ms and waits for 290."""

    def __init__(self, pid: int) -> None:
        self._pid, self._over = pid, threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._over.is_set():
            os.kill(self._pid, signal.SIGSTOP)
            time.sleep(0.29)
            os.kill(self._pid, signal.SIGCONT)
            time.sleep(0.01)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def starve(machine: VirtualMicrophone, folder: Path, seconds: float, *arguments: str) -> tuple[Listening, str, float]:
    """A session that is starved for a while; then some seconds to catch up. What it said, and how long it ran."""
    environment = {**machine.env, "FAKE_COST": COST}
    with Listening(environment, folder, *arguments) as listening:
        listening.wait_for("final")
        first_s = listening.events("final")[0]["end_s"]
        since_s = time.monotonic()
        with Starved(listening.process.pid):
            time.sleep(seconds)
        give_up = time.monotonic() + 2 * PATIENCE_S
        while listening.events("final")[-1]["end_s"] < first_s + time.monotonic() - since_s - 6.0:
            assert time.monotonic() < give_up, "it has not caught up"  # a final comes every 2 s
            time.sleep(0.1)
        elapsed_s = first_s + time.monotonic() - since_s
        return listening, listening.stop(), elapsed_s


def recognised_s(listening: Listening) -> float:
    """Seconds of sound that became words: the fake engine hears one in every half second."""
    return sum(word["end_s"] - word["start_s"] for event in listening.events("final") for word in event["words"])


def test_what_a_starved_machine_cannot_hear_is_dropped_in_the_open(machine: VirtualMicrophone, tmp_path: Path) -> None:
    listening, told, elapsed_s = starve(machine, tmp_path, 12.0, "--lag-limit", str(LIMIT_S))
    dropped_s = sum(event["seconds"] for event in listening.events("overrun"))
    (end,) = listening.events("end")
    assert dropped_s > 2.0
    assert "audio was dropped (the machine was too slow)" in told
    assert float(re.search(r"([\d.]+) s dropped", told)[1]) == pytest.approx(dropped_s, abs=0.1)
    assert recognised_s(listening) + dropped_s == pytest.approx(end["time_s"], abs=0.5)  # nothing without a word
    assert end["time_s"] == pytest.approx(elapsed_s, abs=6.0)  # a final was under way when the clock was looked at


def test_never_drop_keeps_all_of_it(machine: VirtualMicrophone, tmp_path: Path) -> None:
    listening, told, elapsed_s = starve(machine, tmp_path, 8.0, "--never-drop")
    (end,) = listening.events("end")
    assert not listening.events("overrun")
    assert "nothing dropped" in told
    assert recognised_s(listening) == pytest.approx(end["time_s"], abs=0.1)
    assert end["time_s"] == pytest.approx(elapsed_s, abs=6.0)
    assert len(listening.heard()) / 16_000 == pytest.approx(end["time_s"], abs=0.01)
