"""One long stream: clips with rooms, music, noise and silence between, for minutes or hours; does it stay as good?

    make soak                                      # an hour or more: the dev sets once (SETS="...", ARGS="--hours 10")
    python -m benchmarks.soak MANIFEST ... --minutes 5

Word errors of the stream, sorted into the clips by time, against those of the clips alone; resident memory, the size
of the stream's state and computing time a second, in each tenth. Progress goes to standard error and one JSON object to
standard output; the status is 1 where the stream is more than 5 % (relative) worse or memory has grown.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks import streams
from benchmarks.endless import resident_mb
from streamasr.engine import Engine
from streamasr.verbs import shared

PARTS = 10
WORSE_PERCENT = 5.0  # relative
GROWN_MB = 30.0


@dataclass(frozen=True)
class Part:
    """What was measured in one part of the stream."""

    hours: float
    resident_mb: float
    state_kb: float
    cpu_s_per_s: float


def arrays(state: Any) -> list[Any]:
    """All arrays and tensors in a state."""
    if hasattr(state, "nbytes"):
        return [state]
    return [array for part in state for array in arrays(part)] if isinstance(state, tuple) else []


def size_kb(state: Any) -> float:
    """Of all arrays in a state."""
    return sum(float(array.nbytes) for array in arrays(state)) / 1e3


def endless(clips: Sequence[streams.Clip], random: np.random.Generator) -> Iterator[streams.Segment]:
    """The clips in ever new orders, with rooms, music, noise and silence between."""
    while True:
        order = random.permutation(len(clips))
        for segment in streams.joined([clips[i] for i in order], random, fillings=True):
            yield streams.Segment(segment.samples, segment.kind, order[segment.clip] if segment.clip >= 0 else -1)


def _pause_s(segment: streams.Segment) -> float:
    return len(segment.samples) / streams.RATE_HZ if segment.kind == "room" else 0.0


def measure(clips: Sequence[streams.Clip], engine: Engine, seconds: float, seed: int) -> dict[str, Any]:
    """The object that is printed; `seconds` of stream, to the end of the clip then."""
    random = np.random.default_rng(seed)
    windows, by_itself = streams.Windows(clips), streams.Score()
    heard: dict[int, str] = {}  # alone, by clip
    parts: list[Part] = []
    block = round(streams.BLOCK_S * streams.RATE_HZ)
    state, rest = engine.start(), np.zeros(0, np.float32)
    busy_s = part_busy_s = part_s = at_s = 0.0
    last_s, ordered, kinds = 0.0, True, {}

    def feed(samples: streams.Samples) -> None:
        nonlocal state, busy_s, last_s, ordered
        began = time.process_time()
        events, state = engine.feed(samples, state)
        busy_s += time.process_time() - began
        for word in streams.words_of(events):
            ordered = ordered and last_s <= word.start_s < word.end_s
            last_s = word.end_s
            windows.hear(word)

    for segment, following in itertools.pairwise(endless(clips, random)):
        length_s = len(segment.samples) / streams.RATE_HZ
        if segment.kind != "room":  # its window ends in the middle of the pause; words come once it is known
            windows.add(at_s + length_s + _pause_s(following) / 2, segment)
        at_s += length_s
        kinds[segment.kind] = kinds.get(segment.kind, 0.0) + length_s
        rest = np.concatenate([rest, segment.samples])
        for begin in range(0, len(rest) - block + 1, block):
            feed(rest[begin : begin + block])
        rest = rest[len(rest) - len(rest) % block :]
        if segment.clip >= 0:
            if segment.clip not in heard:
                heard[segment.clip] = streams.alone(clips[segment.clip], engine)
            by_itself.add(clips[segment.clip].text, heard[segment.clip])
        if at_s - part_s >= seconds / PARTS:
            pace = (busy_s - part_busy_s) / (at_s - part_s)
            parts.append(Part(round(at_s / 3600, 4), round(resident_mb(), 1), round(size_kb(state), 1), round(pace, 4)))
            part_s, part_busy_s = at_s, busy_s
            wer = f"{windows.score.wer:.1f} % of words wrong, alone {by_itself.wer:.1f} %"
            sys.stderr.write(f"{parts[-1]}; {wer}\n")
        if at_s >= seconds and segment.kind == "room" and by_itself.clips:
            break
    feed(rest)
    ended = engine.finish(state)
    for word in streams.words_of(ended):
        windows.hear(word)
    windows.finish()
    # the first part holds what is made once, such as the buffers of torch
    grown_mb = parts[-1].resident_mb - parts[min(1, len(parts) - 1)].resident_mb if parts else 0.0
    worse = 100 * (windows.score.wer / by_itself.wer - 1) if by_itself.wer else 100 * windows.score.wer
    return {
        "hours": round(at_s / 3600, 4),
        "clips": by_itself.clips,
        "seconds_of": {kind: round(total, 1) for kind, total in sorted(kinds.items())},
        "wer": {"alone": round(by_itself.wer, 2), "stream": round(windows.score.wer, 2)},
        "worse_percent": round(worse, 2),
        "words_between": dict(sorted(windows.between.items())),
        "memory_grown_mb": round(grown_mb, 1),
        "cpu_s_per_s": {"first": parts[0].cpu_s_per_s, "last": parts[-1].cpu_s_per_s} if parts else {},
        "state_kb": {"most": max((part.state_kb for part in parts), default=0.0)},
        "clock_error_s": round(abs(ended[-1].time_s - at_s), 6),  # type: ignore[union-attr]
        "words_in_order": ordered,
        "gate": engine.gate is not None,
        "model": engine.bundle.name,
        "good": bool(worse <= WORSE_PERCENT and grown_mb <= GROWN_MB and ordered),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    streams.options(parser)
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--hours", type=float, default=1.0, help="default: %(default)g")
    length.add_argument("--minutes", type=float)
    options = parser.parse_args()
    clips = streams.clips_of(options.manifests, options.first)
    seconds = options.minutes * 60 if options.minutes else options.hours * 3600
    result = measure(clips, shared.recogniser(options), seconds, options.seed)
    print(json.dumps(result))
    return 0 if result["good"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
