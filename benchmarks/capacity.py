"""How many streams in real time this machine bears, and how many seconds of audio a second as fast as it goes.

    python -m benchmarks.capacity streams                         # 60 streams on all cores, 20 s in real time
    python -m benchmarks.capacity streams --streams 32 64 96 --processes 1
    python -m benchmarks.capacity files dev/read --utterances 60  # throughput, and word errors

Both share the work among `--processes` (default: one for each core), each with an engine of its own on one thread.

Streams: blocks of 80 ms in real time through a batcher, each stream from a moment of its own on. The wait of a block
counts from when its last sample was said until its events are there, and the block itself is added: what a sample waits
at most. A number passes where the 99th percentile of all waits is under 700 ms and every stream was heard to its end.

Files: each goes in at once, as `streamasr transcribe` reads it, and comes out as finals; a process that is free takes
the next one, the largest first. The clock runs from when all models are loaded until the last process is done; `one
core` is by processor time, which other programs do not change.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import functools
import json
import multiprocessing
import os
import time
from importlib import resources
from pathlib import Path
from typing import Any

import jiwer
import numpy as np

from benchmarks.peers import chosen
from streamasr.audio import RATE_HZ, read_whole
from streamasr.events import Final
from streamasr.latency import percentiles_ms
from streamasr.text import normalise
from streamasr.verbs import engine_options, shared

BLOCK_S = 0.08
LONGEST_P99_MS = 700
SETTLED_S = 2.0  # at the beginning, not counted
END_S = 5.0  # for what waits when all is said

_engine: Any = None


def _load(options: argparse.Namespace) -> None:
    """In each process, once."""
    global _engine
    _engine = shared.recogniser(options)
    samples = read_whole(str(resources.files("streamasr") / "data" / "welcome.opus"))[: 6 * RATE_HZ]
    _engine.feed(samples, _engine.start())


def _loaded(barrier_s: float) -> int:
    time.sleep(barrier_s)  # so that each process takes one of these
    return os.getpid()


def pool(options: argparse.Namespace) -> concurrent.futures.ProcessPoolExecutor:
    """Processes with an engine each, loaded."""
    context = multiprocessing.get_context("spawn")
    workers = concurrent.futures.ProcessPoolExecutor(options.processes, context, _load, (options,))
    while len(set(workers.map(_loaded, [0.2] * options.processes))) < options.processes:
        pass
    return workers


def real_time(streams: int, seconds: float, seed: int) -> dict[str, Any]:
    """So many streams in real time in this process: waits in seconds, streams heard to their end, processor time."""
    from streamasr.batcher import Batcher
    from streamasr.stream import Report

    sound = read_whole(str(resources.files("streamasr") / "data" / "welcome.opus"))
    block, random = round(BLOCK_S * RATE_HZ), np.random.default_rng(seed)
    batcher = Batcher(_engine, chunk_s=BLOCK_S)
    waits: list[float] = []
    heard = [0] * streams
    began_s = time.monotonic() + 0.2 + random.random(streams)  # the first sample of each
    settled_s = float(began_s.max()) + SETTLED_S

    def receive(index: int, report: Report) -> None:
        now_s = time.monotonic()
        if report.samples > heard[index] and now_s > settled_s:
            waits.append(now_s - began_s[index] - report.samples / RATE_HZ + (report.samples - heard[index]) / RATE_HZ)
        heard[index] = max(heard[index], report.samples)

    opened = [batcher.open(functools.partial(receive, index)) for index in range(streams)]
    places = random.integers(0, len(sound) - block, streams)
    due = sorted((began_s[i] + (n + 1) * BLOCK_S, i, n) for i in range(streams) for n in range(int(seconds / BLOCK_S)))
    cpu_s = time.process_time()
    for at_s, index, number in due:
        time.sleep(max(0.0, at_s - time.monotonic()))
        start = (places[index] + number * block) % (len(sound) - block)
        opened[index].feed(sound[start : start + block])
    cpu_s = time.process_time() - cpu_s
    whole, give_up_s = int(seconds / BLOCK_S) * block - block + 1, time.monotonic() + END_S  # the rest waits for more
    while min(heard) < whole and time.monotonic() < give_up_s:
        time.sleep(0.05)
    batcher.close()
    return {"waits_s": waits, "complete": sum(samples >= whole for samples in heard), "cpu": cpu_s / (seconds + 1)}


def whole(path: str) -> tuple[str, float, float]:
    """The text of a file, seconds of audio, and processor time."""
    cpu_s = time.process_time()
    samples = read_whole(path)
    events, state = _engine.feed(samples, _engine.start())
    events += _engine.finish(state)
    text = " ".join(event.text for event in events if isinstance(event, Final))
    return text, len(samples) / RATE_HZ, time.process_time() - cpu_s


def measure_streams(options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each number of streams."""
    rows = []
    with pool(options) as workers:
        for streams in options.streams:
            shares = [
                streams // options.processes + (n < streams % options.processes) for n in range(options.processes)
            ]
            tasks = [workers.submit(real_time, share, options.seconds, n) for n, share in enumerate(shares) if share]
            found = [task.result() for task in tasks]
            wait_ms = percentiles_ms([wait for one in found for wait in one["waits_s"]])
            complete = sum(one["complete"] for one in found)
            passes = complete == streams and wait_ms.get("p99", np.inf) < LONGEST_P99_MS
            cores = round(sum(one["cpu"] for one in found), 2)
            rows.append({"streams": streams, "wait_ms": wait_ms, "heard": complete, "cores": cores, "passes": passes})
            if not options.json:
                print(_row(rows[-1]), flush=True)
    return rows


def _row(row: dict[str, Any]) -> str:
    waits = ", ".join(f"{name} {value:.0f}" for name, value in row["wait_ms"].items())
    verdict = "passes" if row["passes"] else "does not pass"
    return (
        f"{row['streams']:4} streams: wait {waits} ms; {row['cores']:.2f} cores busy; {row['heard']} heard: {verdict}"
    )


def measure_files(options: argparse.Namespace) -> dict[str, Any]:
    """Throughput and word errors."""
    lines = chosen(options.manifest, options.utterances)
    lines.sort(key=lambda line: -line[0].stat().st_size)
    with pool(options) as workers:
        began_s = time.perf_counter()
        found = list(workers.map(whole, [str(path.resolve()) for path, _ in lines]))
        wall_s = time.perf_counter() - began_s
    finals = [normalise(text) or "" for text, _, _ in found]
    audio_s = sum(seconds for _, seconds, _ in found)
    return {
        "audio_s": round(audio_s, 1),
        "throughput": round(audio_s / wall_s, 1),
        "throughput_one_core": round(audio_s / sum(cpu_s for _, _, cpu_s in found), 1),
        "wer": round(100 * jiwer.wer([text for _, text in lines], finals), 2),
        "processes": options.processes,
    }


def main() -> None:
    options = _options()
    load = round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None
    if options.kind == "streams":
        rows = measure_streams(options)
        if options.json:
            print(json.dumps({"load": load, "processes": options.processes, "streams": rows}))
        return
    report = {"load": load, **measure_files(options)}
    if options.json:
        print(json.dumps(report))
        return
    print(
        f"{report['audio_s']} s of audio: {report['throughput']} s a second on {report['processes']} processes (load"
        f" {load}), {report['throughput_one_core']} s a second of one core's time; word errors {report['wer']} %"
    )


def _options() -> argparse.Namespace:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    common.add_argument("--compute", choices=sorted(shared.PRECISIONS), default="auto")
    common.add_argument("--model")
    common.add_argument("--lm")
    common.add_argument("--beam", type=int)
    common.add_argument("--json", action="store_true")
    engine_options.add(common)
    common.set_defaults(hotword=[], hotwords=None)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True)
    streams = kinds.add_parser("streams", parents=[common])
    streams.add_argument("--streams", type=int, nargs="+", default=[60])
    streams.add_argument("--seconds", type=float, default=20.0)
    whole = kinds.add_parser("files", parents=[common])
    whole.add_argument("manifest", type=Path)
    whole.add_argument("--utterances", type=int, default=60)
    return parser.parse_args()


if __name__ == "__main__":
    main()
