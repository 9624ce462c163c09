"""One endless stream through the decoder: memory and time per frame, hour by hour.

    python -m benchmarks.endless                                 # the default model on dev/read, 10 hours
    python -m benchmarks.endless --hours 1 --lm none --rendered

Four utterances of the set, over and over again, and ten seconds of random log-probabilities take turns; no utterance is
ever ended.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path

import numpy as np

from streamasr import bundle
from streamasr.config import BeamConfig
from streamasr.ctc import FRAME_S, Decoder
from streamasr.lm import LanguageModel
from streamasr.text import Vocab
from train import logits


def resident_mb() -> float:
    """Resident memory of this process; at its highest where the system does not tell more."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize() / 1e6
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=10.0)
    parser.add_argument("--beam", type=int, default=16)
    parser.add_argument("--chunk", type=int, default=25, help="frames of one call")
    parser.add_argument("--lm", help="language model, in any form that streamasr reads; none; default: the default one")
    logits.add_options(parser, logits.READ)
    options = parser.parse_args()
    lm_path = None if options.lm == "none" else bundle.find_lm(options.lm)
    lm = LanguageModel.load(lm_path) if lm_path else None
    decoder = Decoder(Vocab(), BeamConfig(width=options.beam), lm=lm)
    spoken = [utterance for each in logits.sets_from(options).values() for utterance in each]
    random = np.random.default_rng(0)
    state, words, spoken_frames = decoder.start(), 0, 0
    hour, chunk = round(3600 / FRAME_S), options.chunk
    print(f"{'hour':>5} {'us/frame':>9} {'state kB':>9} {'nodes':>6} {'resident MB':>12} {'words':>8}")
    busy_s, reported, turn = 0.0, 0, 0
    while state.frames < options.hours * hour:
        if turn % 5 == 4:
            noise = random.normal(0.0, 3.0, (250, len(decoder.vocab)))
            rows = (noise - np.log(np.exp(noise).sum(1, keepdims=True))).astype(np.float32)
        else:
            rows = spoken[turn % len(spoken)].log_probs
        turn += 1
        for begin in range(0, len(rows), chunk):
            part = rows[begin : begin + chunk]
            began = time.process_time()
            state = decoder.step(part, state)
            taken, state = decoder.take(state)
            busy_s += time.process_time() - began
            words += len(taken)
            spoken_frames += len(part)
        if state.frames >= (reported + 1) * hour or state.frames >= options.hours * hour:
            reported += 1
            size = sum(array.nbytes for array in state.arrays) / 1e3
            cost = 1e6 * busy_s / spoken_frames
            nodes = len(state.arrays.nodes)
            print(f"{reported:5d} {cost:9.2f} {size:9.1f} {nodes:6d} {resident_mb():12.1f} {words:8d}", flush=True)
            busy_s, spoken_frames = 0.0, 0


if __name__ == "__main__":
    main()
