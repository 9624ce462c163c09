"""What faults cost: speech goes into a virtual microphone, something happens to `streamasr listen`, words are counted.

    python -m benchmarks.faults ../shared/corpus/dev/read [--only unplugged ...] [--seconds 24]

Prints a JSON object for each fault: `lost_s`, seconds of speech that the recording of `--record` does not hold;
`lost_words`, words that were said in them (by the times that the same model finds in the file that is played);
`told_s`, seconds that `listen` itself said were lost; `clock_s`, by how much the time line was off after the fault;
`unwritten_percent`, word errors of the transcript against the model's words of the recording: what was heard, but not
written. It needs PulseAudio, and takes the seconds of speech and a start of the program for each fault.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import soundfile

from benchmarks import streams
from streamasr.engine import Engine
from streamasr.verbs import shared
from tests.virtual_microphone import VirtualMicrophone, virtual_microphone

RATE_HZ = streams.RATE_HZ
PIECE_S = 0.25
QUIET = 0.003  # root mean square; pieces below it hold no speech
ALIKE = 0.7
AT_S = 8.0  # after the first word
AWAY_S = 3.0


class Speaker:
    """Speaks a file into the microphone, on its own clock: what is said while it is unplugged is not said again."""

    def __init__(self, machine: VirtualMicrophone, samples: streams.Samples, folder: Path) -> None:
        self._machine, self._samples, self._folder = machine, samples, folder
        self._players: list[subprocess.Popen[bytes]] = []
        self.began = time.monotonic()

    def speak(self, sink: str = "vmic") -> None:
        """From where the speaker is now."""
        at = round((time.monotonic() - self.began) * RATE_HZ)
        path = self._folder / f"{len(self._players)}.wav"
        soundfile.write(path, self._samples[at:], RATE_HZ)
        command = ["paplay", "--latency-msec=50", f"--device={sink}", str(path)]
        self._players.append(subprocess.Popen(command, env=self._machine.env, stderr=subprocess.DEVNULL))

    def close(self) -> None:
        """To the end."""
        for player in self._players:
            player.wait()


@dataclass(frozen=True)
class Session:
    """What a fault can be done to."""

    machine: VirtualMicrophone
    speaker: Speaker
    pid: int


def nothing(_session: Session) -> None:
    """For comparison."""


def unplugged(session: Session) -> None:
    """The microphone is pulled out in the middle of speech and is back after 3 s."""
    session.machine.unplug()
    time.sleep(AWAY_S)
    session.machine.plug()
    session.speaker.speak()


def another_default(session: Session) -> None:
    """A headset is plugged in and becomes the default; both hear the session.speaker."""
    session.machine.plug("headset")
    session.speaker.speak("headset")
    time.sleep(0.5)
    session.machine.make_default("headset")


def crash(session: Session) -> None:
    """The sound server dies and is back after 3 s."""
    session.machine.stop()
    time.sleep(AWAY_S)
    session.machine.start()
    session.speaker.speak()


def stalled(session: Session) -> None:
    """The process is stopped for 3 s."""
    with stopped(session.pid):
        time.sleep(AWAY_S)


def starved(session: Session) -> None:
    """The process gets a twentieth of the processor for 6 s."""
    until = time.monotonic() + 6.0
    while time.monotonic() < until:
        with stopped(session.pid):
            time.sleep(0.19)
        time.sleep(0.01)


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


FAULTS: dict[str, Callable[[Session], None]] = {
    each.__name__: each for each in (nothing, unplugged, another_default, crash, stalled, starved)
}


def places(samples: streams.Samples, heard: streams.Samples) -> dict[int, float | None]:
    """Where each piece of speech is in what was heard, seconds later than in the file; None where it is not."""
    size, found = round(PIECE_S * RATE_HZ), dict[int, float | None]()
    length = 1 << int(np.ceil(np.log2(len(heard) + size)))
    spectrum = np.fft.rfft(heard, length)
    sums = np.concatenate([[0.0], np.cumsum(heard.astype(np.float64) ** 2)])
    energies = sums[size:] - sums[:-size]
    for number in range(len(samples) // size):
        piece = samples[number * size : (number + 1) * size]
        if np.sqrt(np.mean(piece**2)) < QUIET:
            continue
        products = np.fft.irfft(spectrum * np.conj(np.fft.rfft(piece, length)))[: len(energies)]
        alike = products / np.sqrt(np.maximum(energies, 1e-6) * float(np.sum(piece**2)))
        at = int(np.argmax(alike))
        found[number] = at / RATE_HZ - number * PIECE_S if alike[at] > ALIKE else None
    return found


def measure(fault: str, samples: streams.Samples, engine: Engine, arguments: list[str]) -> dict[str, object]:
    """One session with one fault."""
    words = heard_words(engine, samples)
    with virtual_microphone() as machine, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        saved, recorded = folder / "talk.jsonl", folder / "talk.flac"
        command = [sys.executable, "-c", "import sys; from streamasr.cli import main; sys.exit(main())", "listen"]
        command += ["--save", str(saved), "--record", str(recorded), *arguments]
        process = subprocess.Popen(command, env=machine.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not recorded.exists() or recorded.stat().st_size < 10_000:  # it listens
            time.sleep(0.1)
        time.sleep(15.0)  # and the model is there
        speaker = Speaker(machine, samples, folder)
        speaker.speak()
        time.sleep(AT_S)
        FAULTS[fault](Session(machine, speaker, process.pid))
        speaker.close()
        time.sleep(2.0)
        process.terminate()
        status = process.wait()
        heard, _ = soundfile.read(recorded, dtype="float32")
        events = [json.loads(line) for line in saved.read_text().splitlines()]
    found = places(samples, heard)
    gone = sorted(number for number, delay_s in found.items() if delay_s is None)
    delays_s = [delay_s for delay_s in found.values() if delay_s is not None]
    usual_s = float(np.median(delays_s[: round(AT_S / PIECE_S / 2)]))
    late_s = float(np.median(delays_s[-8:])) - usual_s
    lost = [word for word in words if any(word.start_s < (n + 1) * PIECE_S and word.end_s > n * PIECE_S for n in gone)]
    written = " ".join(event["text"] for event in events if event["type"] == "final")
    again = " ".join(word.text for word in heard_words(engine, heard))
    told_s = sum(event.get("seconds", 0.0) + event.get("gap_s", 0.0) for event in events)
    return {
        "fault": fault,
        "status": status,
        "said_words": len(words),
        "lost_s": round(len(gone) * PIECE_S, 2),
        "lost_words": len(lost),
        "told_s": round(told_s, 2),
        "clock_s": round(late_s, 3),
        "unwritten_percent": round(100 * jiwer.wer(again, written), 1),
        "model": engine.bundle.name,
    }


def heard_words(engine: Engine, samples: streams.Samples) -> list[Any]:
    """The words of all of it."""
    events, state = engine.feed(samples, engine.start())
    return streams.words_of([*events, *engine.finish(state)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    streams.options(parser)
    parser.add_argument("--only", nargs="+", choices=FAULTS, default=list(FAULTS))
    parser.add_argument("--seconds", type=float, default=24.0, help="of speech; default: %(default)g")
    options = parser.parse_args()
    engine = shared.recogniser(options)
    parts: list[streams.Samples] = []
    for clip in streams.clips_of(options.manifests, options.first):
        parts += [streams.read_whole(clip.path), np.zeros(RATE_HZ // 2, np.float32)]
        if sum(map(len, parts)) > options.seconds * RATE_HZ:
            break
    samples = np.concatenate(parts)
    arguments = ["--model", options.model] if options.model else []
    for fault in options.only:
        print(json.dumps(measure(fault, samples, engine, arguments)), flush=True)


if __name__ == "__main__":
    main()
