"""Computing for a second of silence, with and without the gate: what `listen` does while nobody speaks.

    python -m benchmarks.idle [--seconds 60] [--model models/small]

Prints one JSON object: processor seconds for a second of audio, blocks of 160 ms fed and a peek after each, as for
the captions in a terminal, once the first ten seconds are over.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
import torch

from benchmarks import streams
from streamasr import bundle
from streamasr.config import GateConfig
from streamasr.engine import Engine
from streamasr.voice import Gate, VoiceDetector

SETTLED_S = 10.0


def idle(engine: Engine, samples: streams.Samples) -> float:
    """Processor seconds for a second of these samples."""
    block = round(streams.BLOCK_S * streams.RATE_HZ)
    state, busy_s = engine.start(), 0.0
    for begin in range(0, len(samples), block):
        began = time.process_time()
        _, state = engine.feed(samples[begin : begin + block], state)
        engine.peek(state)
        if begin >= SETTLED_S * streams.RATE_HZ:
            busy_s += time.process_time() - began
    return busy_s / (len(samples) / streams.RATE_HZ - SETTLED_S)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--model")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, random = bundle.load(options.model), np.random.default_rng(1)
    sounds = {
        "silence": np.zeros(round(options.seconds * streams.RATE_HZ), np.float32),
        "room": streams.room(options.seconds, random),
        "noise at -40 dBFS": streams.room(options.seconds, random, -40.0),
    }
    engines = {"gate": Engine(model, gate=Gate(GateConfig(), VoiceDetector.load())), "no gate": Engine(model)}
    found = {
        kind: {name: round(idle(engine, samples), 4) for name, engine in engines.items()}
        for kind, samples in sounds.items()
    }
    print(json.dumps({"cpu_s_per_s": found, "model": model.name}))


if __name__ == "__main__":
    main()
