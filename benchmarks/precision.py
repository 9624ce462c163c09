"""What the optimisations cost in word errors: the plain float32 network against what is run.

    python -m benchmarks.precision dev/read --utterances 40

The same utterances, spread evenly over the manifest, through the same beam and language model, with the network

- plain: torch's own layers, float32, nothing prepared,
- float32: weights laid out for streams, compiled loops,
- int8: the default on the CPU, large matrices in bytes,

each in chunks of 80 ms, 160 ms and 1 s. Prints word errors, their relative distance from the plain network's, and in
how many utterances chunks of another length changed the text, which should be none.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import jiwer
import numpy as np

from benchmarks.peers import chosen
from streamasr.audio import RATE_HZ, read_whole
from streamasr.engine import Engine
from streamasr.events import Final
from streamasr.text import normalise
from streamasr.verbs import engine_options, shared

CHUNKS_S = (0.16, 0.08, 1.0)
PREPARED = ("_dense", "_patches", "_prepared")  # what layers keep of `prepare`


def plain(engine: Engine) -> Engine:
    """The engine, its network back on torch's own layers; only for one loaded in float32."""
    for module in engine.model.network.modules():
        for name in PREPARED:
            if kept := getattr(module, name, None):
                setattr(module, name, {} if isinstance(kept, dict) else None)
    return engine


def text_of(engine: Engine, samples: np.ndarray, chunk_s: float) -> str:
    """What is recognised, fed in chunks."""
    state, size, events = engine.start(), round(chunk_s * RATE_HZ), []
    for at in range(0, len(samples), size):
        found, state = engine.feed(samples[at : at + size], state)
        events += found
    events += engine.finish(state)
    return normalise(" ".join(event.text for event in events if isinstance(event, Final))) or ""


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each kind of network."""
    lines = [line for manifest in options.manifests for line in chosen(manifest, options.utterances)]
    rows: list[dict[str, Any]] = []
    for kind in ("plain", "float32", "int8"):
        options.compute = "float32" if kind == "plain" else kind
        engine = shared.recogniser(options)
        if kind == "plain":
            engine = plain(engine)
        texts = {chunk_s: [text_of(engine, read_whole(path), chunk_s) for path, _ in lines] for chunk_s in CHUNKS_S}
        usual = texts[CHUNKS_S[0]]
        wer = 100 * jiwer.wer([text for _, text in lines], usual)
        changed = sum(len({found[n] for found in texts.values()}) > 1 for n in range(len(lines)))
        first = rows[0]["wer"] if rows else wer
        rows.append({"network": kind, "wer": wer, "relative": 100 * (wer / first - 1), "changed_by_chunks": changed})
        if not options.json:
            print(
                f"{kind:8} word errors {wer:6.2f} % ({rows[-1]['relative']:+.2f} % of the plain network's);"
                f" {changed} of {len(lines)} texts changed with the chunks",
                flush=True,
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifests", metavar="MANIFEST", nargs="+", type=Path)
    parser.add_argument("--utterances", type=int, default=40, help="of each manifest (default: %(default)s)")
    parser.add_argument("--model")
    parser.add_argument("--lm")
    parser.add_argument("--beam", type=int)
    parser.add_argument("--json", action="store_true")
    engine_options.add(parser)
    parser.set_defaults(hotword=[], hotwords=None)
    options = parser.parse_args()
    rows = measure(options)
    if options.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
