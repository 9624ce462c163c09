"""Do the first and last words of clips get lost in a stream? Clips joined by 0.3 to 5 s of room, against clips alone.

    python -m benchmarks.edges ../shared/corpus/dev/read ../shared/corpus/dev/crowd [--first 30] [--no-gate]

Prints one JSON object. `edges_deleted` are first and last words that are missing, in percent of all first and last
words; `more` is what the stream loses beyond the clips alone. `final_after_speech_ms` is in the stream's own time, from
the end of speech to the final, where the pause was long enough for one; computing comes on top.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np

from benchmarks import streams
from streamasr.engine import Engine
from streamasr.events import Final
from streamasr.verbs import shared


def measure(clips: list[streams.Clip], engine: Engine, seed: int) -> dict[str, object]:
    """The object that is printed."""
    by_itself = streams.Score()
    for clip in clips:
        by_itself.add(clip.text, streams.alone(clip, engine))
    random = np.random.default_rng(seed)
    windows, ends = streams.Windows(clips), streams.SpeechEnds()
    block = round(streams.BLOCK_S * streams.RATE_HZ)
    state, busy_s, at_s = engine.start(), 0.0, 0.0
    rest = np.zeros(0, np.float32)
    segments = list(streams.joined(clips, random))
    for index, segment in enumerate(segments):
        seconds = len(segment.samples) / streams.RATE_HZ
        if segment.kind == "clip":
            pause_s = len(segments[index + 1].samples) / streams.RATE_HZ
            ends.add(segment.samples, at_s, pause_s)
            windows.add(at_s + seconds + pause_s / 2, segment)
        at_s += seconds
        rest = np.concatenate([rest, segment.samples])
        while len(rest) >= block:
            began = time.process_time()
            events, state = engine.feed(rest[:block], state)
            busy_s += time.process_time() - began
            rest = rest[block:]
            for event in events:
                if isinstance(event, Final):
                    ends.final(event, engine.time_s(state))
            for word in streams.words_of(events):
                windows.hear(word)
    events, state = engine.feed(rest, state)
    for word in streams.words_of([*events, *engine.finish(state)]):
        windows.hear(word)
    windows.finish()
    joined, delays_ms = windows.score, 1000 * np.array(ends.delays_s or [np.nan])
    return {
        "clips": len(clips),
        "seconds": round(at_s, 1),
        "gate": engine.gate is not None,
        "edges_deleted": {"alone": round(by_itself.edges, 2), "stream": round(joined.edges, 2)},
        "more": round(joined.edges - by_itself.edges, 2),
        "first_deleted": {"alone": by_itself.first_deleted, "stream": joined.first_deleted},
        "last_deleted": {"alone": by_itself.last_deleted, "stream": joined.last_deleted},
        "wer": {"alone": round(by_itself.wer, 2), "stream": round(joined.wer, 2)},
        "final_after_speech_ms": {
            "p50": round(float(np.percentile(delays_ms, 50))) if ends.delays_s else None,
            "p90": round(float(np.percentile(delays_ms, 90))) if ends.delays_s else None,
            "finals": len(ends.delays_s),
        },
        "cpu_s_per_s": round(busy_s / at_s, 4),
        "model": engine.bundle.name,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    streams.options(parser)
    options = parser.parse_args()
    clips = streams.clips_of(options.manifests, options.first)
    print(json.dumps(measure(clips, shared.recogniser(options), options.seed)))


if __name__ == "__main__":
    main()
