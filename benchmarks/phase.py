"""Do words depend on the moment when they come? Each clip is heard again a few milliseconds later.

    python -m benchmarks.phase dev/read [--utterances 40] [--model models/small]

Prints one JSON object: words that change against the clip as it is, in percent, for each delay, with the gate (which
lays frames from the onset of the voice) and without, and the word errors of each. Also what a gain and a detour over
44.1 kHz change. Decoding is that of `streamasr transcribe`: beam, language model, the default preset.
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import soxr
import torch
from numpy.typing import NDArray

from benchmarks.peers import chosen
from streamasr import cli
from streamasr.audio import RATE_HZ, read_whole
from streamasr.engine import Engine
from streamasr.events import Final
from streamasr.verbs import shared

Samples = NDArray[np.float32]
DELAYS_MS = (5, 10, 20, 30, 40, 1000)
FLOOR = 1e-4  # of the noise that fills the delay: -80 dBFS


def changed(sounds: list[Samples]) -> dict[str, list[Samples]]:
    """Each way of hearing the sounds again, by name."""
    random = np.random.default_rng(0)

    def delayed(samples: Samples, delay_ms: int) -> Samples:
        noise = random.standard_normal(delay_ms * RATE_HZ // 1000) * FLOOR
        return np.concatenate([noise.astype(np.float32), samples])

    def detour(samples: Samples) -> Samples:
        back: Samples = soxr.resample(soxr.resample(samples, RATE_HZ, 44_100), 44_100, RATE_HZ)
        return back.astype(np.float32)

    found = {f"{delay_ms} ms later": [delayed(s, delay_ms) for s in sounds] for delay_ms in DELAYS_MS}
    found |= {"0.9 times as loud": [s * np.float32(0.9) for s in sounds]}
    return found | {"over 44.1 kHz": [detour(s) for s in sounds]}


def text_of(engine: Engine, samples: Samples) -> str:
    """What is heard."""
    events, state = engine.feed(samples, engine.start())
    return " ".join(event.text for event in [*events, *engine.finish(state)] if isinstance(event, Final))


def compared(engine: Engine, sounds: list[Samples], texts: list[str]) -> dict[str, Any]:
    """Percent of words that change, and word errors, for each way of hearing."""
    plain = [text_of(engine, samples) for samples in sounds]
    found: dict[str, Any] = {"as it is": {"wer": round(100 * jiwer.wer(texts, plain), 1)}}
    for name, others in changed(sounds).items():
        heard = [text_of(engine, samples) for samples in others]
        words, errors = (round(100 * jiwer.wer(reference, heard), 1) for reference in (plain, texts))
        found[name] = {"changed": words, "wer": errors}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--utterances", type=int, default=40)
    parser.add_argument("--model")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = ["--model", options.model] if options.model else []
    engine = shared.recogniser(cli.parser().parse_args(["transcribe", *model, "-"]))
    without = copy.copy(engine)
    without.gate = None
    lines = chosen(options.manifest, options.utterances)
    sounds, texts = [read_whole(str(path)) for path, _ in lines], [text for _, text in lines]
    found = {"gate": compared(engine, sounds, texts), "no gate": compared(without, sounds, texts)}
    print(json.dumps({"model": engine.bundle.name, "utterances": len(lines), **found}, indent=1))


if __name__ == "__main__":
    main()
