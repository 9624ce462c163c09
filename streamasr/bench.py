"""What `streamasr bench` measures: cost, latency, start, memory, and how many streams a core bears.

Computing is measured in processor time of this process on one thread, so that other programs on a busy machine do not
count; on a GPU in time of the wall clock. When audio arrives is simulated (`latency.Clock`), nothing is waited for.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from streamasr.audio import RATE_HZ, read_whole
from streamasr.batcher import Batcher
from streamasr.engine import Engine
from streamasr.evaluation import read_lines
from streamasr.events import Event, Final, Partial
from streamasr.latency import Clock, Shown, WordLatency, latencies, percentiles_ms, spoken
from streamasr.stream import Stream
from streamasr.text import normalise

Samples = NDArray[np.float32]

CHUNK_S = 0.05  # of the single stream: what a microphone gives at least (`mic.BLOCK_S`)
FRAME_S = 0.1  # between two guesses at the words in progress, as between two frames of `live`
MOST_S = 1.0  # of waiting audio heard at once
RTF_CHUNKS_S = (0.08, 0.16, 0.32, 1.0)
STREAM_CHUNK_S = 0.08  # as in `streamasr serve`
STREAM_SECONDS = 4.0
STREAM_STEPS = (4, 8, 16, 24, 32, 48, 64, 96, 128)
LONGEST_P99_S = 0.7
START_LIMIT_S = 120.0


@dataclass(frozen=True)
class Recording:
    """Something to hear, and what is said in it (normalised), if that is known."""

    name: str
    samples: Samples
    words: tuple[str, ...]


def recordings(what: Path | None, limit: int = 0) -> Iterator[Recording]:
    """The bundled recording, a sound file, or lines of a manifest (.tsv, or the directory of one), `limit` at most.

    Where there are more, they are spread evenly over the manifest.

    Raises:
        ManifestError, AudioError: what is given cannot be read.
    """
    if what is None:
        folder = resources.files("streamasr") / "data"
        text = normalise((folder / "welcome.txt").read_text(encoding="utf-8").replace("\n", " ")) or ""
        yield Recording("bundled", read_whole(str(folder / "welcome.opus")), tuple(text.split()))
    elif what.suffix == ".tsv" or what.is_dir():
        lines = list(read_lines(what))
        count = min(limit or len(lines), len(lines))
        for place in np.linspace(0, len(lines) - 1, count).round().astype(int):
            path, raw = lines[place]
            yield Recording(path.name, read_whole(str(path)), tuple((normalise(raw) or "").split()))
    else:
        yield Recording(what.name, read_whole(str(what)), ())


class Screen:
    """What can be read, as events come: `history` is its every change."""

    def __init__(self) -> None:
        self.history: list[Shown] = []
        self._done: list[str] = []

    def take(self, event: Event, at_s: float) -> None:
        """An event that came at `at_s`."""
        if isinstance(event, Final):
            self._done += event.text.split()
            self.history.append(Shown(at_s, tuple(self._done), len(self._done)))
        elif isinstance(event, Partial):
            committed = event.committed.split() if event.committed.endswith(" ") else event.committed.split()[:-1]
            words = (*self._done, *event.text.split())
            self.history.append(Shown(at_s, words, len(self._done) + len(committed)))


def heard(engine: Engine, samples: Samples, chunk_s: float = CHUNK_S) -> tuple[Screen, list[tuple[Final, float]]]:
    """One stream as the live path hears it: all that waits at once, and a peek as often as the screen is drawn.

    Returns:
        what could be read, and the finals with the moments when they came.
    """
    clock, screen, finals, drawn_s = Clock(), Screen(), [], -FRAME_S
    state, at, chunk = engine.start(), 0, round(chunk_s * RATE_HZ)
    while at < len(samples):
        there = int(clock.now_s * RATE_HZ) - at  # what was said while the last piece was worked on
        count = min(max(chunk, there - there % chunk), round(MOST_S * RATE_HZ), len(samples) - at)
        arrived_s = (at + count) / RATE_HZ
        began = time.thread_time()
        events, state = engine.feed(samples[at : at + count], state)
        now_s = clock.work(arrived_s, time.thread_time() - began)
        for event in events:
            screen.take(event, now_s)
            if isinstance(event, Final):
                finals.append((event, now_s))
        at += count
        if now_s - drawn_s < FRAME_S:
            continue
        drawn_s, began = now_s, time.thread_time()
        peeked = engine.peek(state)
        committed = next((e.committed for e in reversed(events) if isinstance(e, Partial)), "")
        now_s = clock.work(arrived_s, time.thread_time() - began)
        if peeked.text.startswith(committed):
            screen.take(Partial(committed, peeked.text[len(committed) :], peeked.start_s, peeked.end_s), now_s)
    began = time.thread_time()
    events = engine.finish(state)
    now_s = clock.work(len(samples) / RATE_HZ, time.thread_time() - began)
    for event in events:
        screen.take(event, now_s)
        if isinstance(event, Final):
            finals.append((event, now_s))
    return screen, finals


def real_time_factor(engine: Engine, samples: Samples, chunk_s: float) -> float:
    """Seconds of computing on one thread for a second of audio, fed in chunks."""
    state, size = engine.start(), round(chunk_s * RATE_HZ)
    began = time.thread_time()
    for at in range(0, len(samples), size):
        _, state = engine.feed(samples[at : at + size], state)
    engine.finish(state)
    return (time.thread_time() - began) / (len(samples) / RATE_HZ)


def word_latency(engine: Engine, sounds: list[Recording]) -> dict[str, Any]:
    """Latency of words, to the first partial and of finals, in milliseconds."""
    words: list[WordLatency] = []
    firsts, ends = [], []
    for sound in sounds:
        screen, finals = heard(engine, sound.samples)
        final_words = [word for final, _ in finals for word in (normalise(final.text) or "").split()]
        said = spoken(engine.bundle, sound.samples, sound.words or final_words)
        found = latencies(screen.history, said)
        words += found
        shown = [item.at_s for item in screen.history if item.words]
        if said and shown:
            firsts.append(shown[0] - said[0].start_s)
        ended_s = {latency.word.text: latency.word.end_s for latency in found}
        for final, now_s in finals:
            last = final.text.split()[-1]
            if last in ended_s:
                near = [w.word.end_s for w in found if w.word.text == last and abs(w.word.end_s - final.end_s) < 0.5]
                ends += [now_s - near[0]] if near else []
    return {
        "words": len(words),
        "shown_ms": percentiles_ms([word.shown_s for word in words]),
        "committed_ms": percentiles_ms([word.committed_s for word in words]),
        "first_partial_ms": percentiles_ms(firsts),
        "speech_end_to_final_ms": percentiles_ms(ends),
        "shown_s": [round(word.shown_s, 3) for word in words],
        "committed_s": [round(word.committed_s, 3) for word in words],
    }


def round_costs(
    engine: Engine, streams: int, samples: Samples, seconds: float, clock: Callable[[], float]
) -> list[float]:
    """Seconds of computing for each round of `STREAM_CHUNK_S` of so many streams through a batcher."""
    size, done = round(STREAM_CHUNK_S * RATE_HZ), threading.Semaphore(0)
    batcher = Batcher(engine, wait_s=60.0, chunk_s=STREAM_CHUNK_S)
    try:
        opened: list[Stream] = [batcher.open(lambda _report: done.release()) for _ in range(streams)]
        costs = []
        for number in range(round(seconds / STREAM_CHUNK_S)):
            began = clock()
            for index, stream in enumerate(opened):  # each at another place of the recording
                start = (number * size + index * 7919) % (len(samples) - size)
                stream.feed(samples[start : start + size])
            for _ in opened:
                done.acquire()
            costs.append(clock() - began)
        return costs
    finally:
        batcher.close()


def stream_capacity(engine: Engine, samples: Samples, seconds: float = STREAM_SECONDS) -> dict[str, Any]:
    """How many streams one core (or the GPU) bears: the p99 of the wait for a sample's events is below 700 ms.

    The wait counts from when the sample was said: for its chunk, for the rounds before it, and for its own round.
    """
    clock = time.perf_counter if engine.device.type == "cuda" else time.process_time
    round_costs(engine, 2, samples, 1.0, clock)  # warm
    best, tried = 0, {}
    for streams in STREAM_STEPS:
        worker, waits = Clock(), []
        for number, cost_s in enumerate(round_costs(engine, streams, samples, seconds, clock)):
            arrived_s = (number + 1) * STREAM_CHUNK_S
            waits.append(worker.work(arrived_s, cost_s) - arrived_s + STREAM_CHUNK_S)
        share = sum(w > LONGEST_P99_S for w in waits) / len(waits)
        keeps_up = worker.now_s - seconds < 2 * STREAM_CHUNK_S  # no queue that grows
        tried[streams] = percentiles_ms(waits)["p99"]
        if share > 0.01 or not keeps_up:
            break
        best = streams
    return {"streams": best, "p99_ms": tried}


def start_up(model: str | None) -> dict[str, float]:
    """Seconds from a fresh process to an open source, and to all loaded; its peak memory in MB."""
    command = [sys.executable, "-c", "import sys; from streamasr.cli import main; sys.exit(main())"]
    command += ["listen", "--source", "-", "--plain", *(["--model", model] if model else [])]
    began = time.perf_counter()
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert process.stdin and process.stdout
    listening_s = 0.0
    try:
        for line in process.stdout:
            if b"listening" in line:
                listening_s = time.perf_counter() - began
                break
        process.stdin.write(bytes(2 * RATE_HZ))  # a second of silence waits for the model
        process.stdin.close()
        process.stdout.read()
        process.wait(START_LIMIT_S)
    finally:
        process.kill()
    return {
        "listening_s": round(listening_s, 2),
        "loaded_s": round(time.perf_counter() - began, 2),
        **_memory(),
    }


def _memory() -> dict[str, float]:
    """Peak memory of the processes that were started and are over, where the system tells it."""
    try:
        import resource
    except ImportError:  # not on Windows
        return {}
    unit = 1 if sys.platform == "darwin" else 1024
    return {"memory_mb": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit / 1e6)}


def machine() -> str:
    """The processor in words."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{name}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}"


def measure(engine: Engine, what: Path | None, limit: int = 0, quick: bool = False) -> dict[str, Any]:
    """All measurements: see the module's functions for each.

    Raises:
        ManifestError, AudioError: `what` cannot be read.
    """
    torch.set_num_threads(1)
    sounds = list(recordings(what, limit))
    joined = np.concatenate([sound.samples for sound in sounds])
    warm = joined[: 2 * RATE_HZ]
    real_time_factor(engine, warm, CHUNK_S)
    engine.peek(engine.feed(warm, engine.start())[1])
    part = joined[: 60 * RATE_HZ]
    report: dict[str, Any] = {
        "model": engine.bundle.name,
        "machine": machine(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "audio": sounds[0].name if len(sounds) == 1 else f"{len(sounds)} utterances of {what}",
        "audio_s": round(len(joined) / RATE_HZ, 1),
        "lookahead_ms": engine.model.lookahead_ms,
        "rtf": {f"{chunk_s:g}": round(real_time_factor(engine, part, chunk_s), 4) for chunk_s in RTF_CHUNKS_S},
        "latency": word_latency(engine, sounds),
    }
    if not quick:
        report["streams"] = stream_capacity(engine, joined if len(joined) > RATE_HZ else np.tile(joined, 20))
        report["streams_on"] = "the GPU" if engine.device.type == "cuda" else "one core"
        report["start"] = start_up(str(engine.bundle.path))
    return report
