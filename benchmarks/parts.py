"""Where the time of a chunk goes: features, voice detector, each part of the network, decoder, and the rest.

    python -m benchmarks.parts                        # one stream, chunks of 160 ms
    python -m benchmarks.parts --streams 32 --chunk 0.08 --compute float32

Prints microseconds of processor time of a chunk, and what part of a second of audio that is. `rest` is what is between
the parts: the engine's own steps, endpoint rules, events. With more streams they step together, as in the server, and
all figures are those of one stream's share.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable
from importlib import resources
from typing import Any

import numpy as np
import torch

from streamasr import rows
from streamasr.audio import RATE_HZ, read_whole
from streamasr.engine import Engine
from streamasr.stream_state import StreamState
from streamasr.verbs import engine_options, shared
from streamasr.work import Request


class Parts:
    """Processor time of functions, by name; of functions within functions only what is not in the inner ones."""

    def __init__(self) -> None:
        self.spent_s: dict[str, float] = defaultdict(float)
        self._inner_s = [0.0]

    def watch(self, owner: Any, method: str, name: str) -> None:
        """Count the time of `owner.method` under `name`."""
        setattr(owner, method, self.counted(getattr(owner, method), name))

    def counted(self, function: Callable[..., Any], name: str) -> Callable[..., Any]:
        """The function, its time counted."""

        def run(*arguments: Any, **options: Any) -> Any:
            self._inner_s.append(0.0)
            began = time.thread_time()
            try:
                return function(*arguments, **options)
            finally:
                took_s = time.thread_time() - began
                self.spent_s[name] += took_s - self._inner_s.pop()
                self._inner_s[-1] += took_s

        return run


def watch(engine: Engine) -> Parts:
    """Watch the parts of an engine."""
    parts = Parts()
    parts.watch(engine.model.features, "step", "features")
    if engine.gate:
        parts.watch(engine.gate.detector, "step", "voice detector")
    names = [type(layer).__name__ for layer in engine.model.network]
    first, last = names.index("RecurrentBlock"), len(names) - names[::-1].index("RecurrentBlock")
    for index, layer in enumerate(engine.model.network):
        room = "front" if index < first else "recurrent blocks" if index < last else "head"
        parts.watch(layer, "step", f"network, {room}")
    for chain in engine.model.network.chains.values():
        parts.watch(chain, "step", "network, recurrent blocks")
    parts.watch(engine.decoder, "step", "decoder, step")
    parts.watch(engine.decoder, "read", "decoder, read")
    return parts


def alone(engine: Engine, samples: np.ndarray, chunk: int) -> int:
    """One stream; the number of chunks."""
    state = engine.start()
    for at in range(0, len(samples) - chunk + 1, chunk):
        _, state = engine.feed(samples[at : at + chunk], state)
    return len(samples) // chunk


@torch.inference_mode()
def together(engine: Engine, samples: np.ndarray, chunk: int, streams: int, chunks: int) -> int:
    """Many streams, each at another place of the recording; the number of chunks of all."""
    states: list[StreamState] = [engine.start() for _ in range(streams)]
    for number in range(chunks):
        work = []
        for index, state in enumerate(states):
            at = (number * chunk + index * 7919) % (len(samples) - chunk)
            work.append(engine.feeding(samples[at : at + chunk], state))
        answers: dict[int, Any] = dict.fromkeys(range(streams))
        while answers:
            groups: dict[Any, dict[int, Request]] = defaultdict(dict)
            for index, answer in answers.items():
                try:
                    request = work[index].send(answer)
                    groups[rows.shapes(request)][index] = request
                except StopIteration as end:
                    states[index] = end.value[1]
            answers = {}
            for group in groups.values():
                answers |= zip(group, rows.answers(engine, list(group.values())), strict=True)
    return chunks * streams


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=1)
    parser.add_argument("--chunk", type=float, default=0.16, help="seconds (default: %(default)s)")
    parser.add_argument("--compute", choices=sorted(shared.PRECISIONS), default="auto")
    parser.add_argument("--model")
    parser.add_argument("--lm")
    parser.add_argument("--beam", type=int)
    parser.add_argument("--json", action="store_true")
    engine_options.add(parser)
    parser.set_defaults(hotword=[], hotwords=None)
    options = parser.parse_args()
    engine = shared.recogniser(options)
    samples = read_whole(str(resources.files("streamasr") / "data" / "welcome.opus"))
    chunk = round(options.chunk * RATE_HZ)
    alone(engine, samples[: 3 * RATE_HZ], chunk)  # warm
    parts = watch(engine)
    run = parts.counted(alone if options.streams == 1 else together, "rest")
    extra = () if options.streams == 1 else (options.streams, 40)
    count = run(engine, samples, chunk, *extra)
    chunk_us = {name: 1e6 * spent_s / count for name, spent_s in parts.spent_s.items()}
    whole_us = sum(chunk_us.values())
    if options.json:
        print(json.dumps({"chunk_us": chunk_us, "whole_us": whole_us, "rtf": whole_us / 1e6 / options.chunk}))
        return
    for name, spent_us in sorted(chunk_us.items(), key=lambda item: -item[1]):
        print(f"{name:28}{spent_us:8.0f} us {100 * spent_us / whole_us:5.1f} %")
    print(f"{'all':28}{whole_us:8.0f} us, real-time factor {whole_us / 1e6 / options.chunk:.4f}")


if __name__ == "__main__":
    main()
