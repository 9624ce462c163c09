"""Tune the decoder on log-probabilities of a development set: the grid of word error rates, best last.

    python -m train.tune --model models/small --manifest ../shared/corpus/dev/read/manifest.tsv --save logits.npz \\
        --lm models/english-lm --alpha 0.4,0.6,0.8 --beta 1,2,3 --unknown -4,-2,0

The last lines give the best values as they go into the `beam` table of a model's config.json.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from pathlib import Path

import jiwer

from streamasr.config import BeamConfig
from streamasr.ctc import Decoder
from streamasr.lm import LanguageModel
from streamasr.text import Vocab
from train import logits


def decode(decoder: Decoder, utterance: logits.Utterance) -> str:
    """The text of an utterance."""
    words, _ = decoder.finish(decoder.step(utterance.log_probs, decoder.start()))
    return " ".join(word.text for word in words)


def word_errors(decoder: Decoder, utterances: Sequence[logits.Utterance]) -> float:
    """Word error rate in percent."""
    return 100.0 * float(jiwer.wer([u.text for u in utterances], [decode(decoder, u) for u in utterances]))


def _floats(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    logits.add_options(parser)
    parser.add_argument("--lm", type=Path, help="language model, in any form that streamasr reads")
    parser.add_argument("--width", type=int, default=16)
    for name in ("alpha", "beta", "unknown"):
        default = [getattr(BeamConfig, name)]
        parser.add_argument(f"--{name}", type=_floats, default=default, metavar="X[,X]", help=f"default {default[0]}")
    options = parser.parse_args()
    utterances = logits.from_options(options)
    lm = LanguageModel.load(options.lm) if options.lm else None
    greedy = word_errors(Decoder(Vocab(), BeamConfig(width=1)), utterances)
    plain = word_errors(Decoder(Vocab(), BeamConfig(width=options.width)), utterances)
    print(f"{len(utterances)} utterances; WER greedy {greedy:.2f} %, beam {options.width} without LM {plain:.2f} %")
    if lm is None:
        return
    print(f"{'alpha':>6} {'beta':>6} {'unknown':>8} {'WER %':>7} {'to greedy':>10}")
    found = []
    for alpha, beta, unknown in itertools.product(options.alpha, options.beta, options.unknown):
        config = BeamConfig(width=options.width, alpha=alpha, beta=beta, unknown=unknown)
        wer = word_errors(Decoder(Vocab(), config, lm=lm), utterances)
        found.append((wer, alpha, beta, unknown))
        change = 100.0 * (wer / greedy - 1.0) if greedy else 0.0
        print(f"{alpha:6g} {beta:6g} {unknown:8g} {wer:7.2f} {change:+9.1f} %", flush=True)
    wer, alpha, beta, unknown = min(found)
    print(f"best: {wer:.2f} %\nalpha = {alpha:g}\nbeta = {beta:g}\nunknown = {unknown:g}")


if __name__ == "__main__":
    main()
