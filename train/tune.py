"""Tune the decoder on log-probabilities of development sets: the grid of word error rates, best last.

    python -m train.tune --write                                  # the default model, in its own config.json
    python -m train.tune --model models/small --manifest DEV/manifest.tsv --write
    python -m train.tune --alpha 0.4,0.6,0.8 --beta 1 --unknown=-4,-2,0 --refine 0

All values of the grid are tried first, then, `--refine` times, the neighbours of the best at half the distance. What
counts is the word error rate over all sets together. `--write` puts the best into the `beam` table of the model's
config.json, where every user of the model finds it. The network hears a set once; its log-probabilities are kept in
~/.cache/streamasr/logits.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import jiwer

from streamasr import bundle
from streamasr.config import BeamConfig
from streamasr.ctc import Decoder
from streamasr.errors import StreamasrError
from streamasr.lm import LanguageModel
from streamasr.text import Vocab
from train import logits

NAMES = ("alpha", "beta", "unknown")
GRID = ((0.3, 0.5, 0.7, 0.9), (-0.5, 0.25, 1.0, 1.75), (-4.0, -2.0))


def decode(decoder: Decoder, utterance: logits.Utterance) -> str:
    """The text of an utterance."""
    words, _ = decoder.finish(decoder.step(utterance.log_probs, decoder.start()))
    return " ".join(word.text for word in words)


def word_errors(decoder: Decoder, utterances: Sequence[logits.Utterance]) -> float:
    """Word error rate in percent."""
    return _percent(_errors(decoder, utterances))


def _errors(decoder: Decoder, utterances: Sequence[logits.Utterance]) -> tuple[int, int]:
    """Wrong words, and words that were said."""
    if not utterances:
        return 0, 0
    found = jiwer.process_words([u.text for u in utterances], [decode(decoder, u) for u in utterances])
    wrong = found.substitutions + found.deletions + found.insertions
    return wrong, found.hits + found.substitutions + found.deletions


def _percent(errors: tuple[int, int]) -> float:
    return 100.0 * errors[0] / max(1, errors[1])


def measure(config: BeamConfig, lm: LanguageModel | None, sets: logits.Sets) -> tuple[float, list[float]]:
    """Word error rate in percent over all sets together, and of each."""
    decoder = Decoder(Vocab(), config, lm=lm)
    errors = [_errors(decoder, utterances) for utterances in sets.values()]
    return _percent((sum(wrong for wrong, _ in errors), sum(said for _, said in errors))), [*map(_percent, errors)]


def neighbours(best: Sequence[float], axes: Sequence[Sequence[float]]) -> list[list[float]]:
    """For each axis the best value, and those halfway to the next ones that were tried; one beyond the end of them."""
    found = []
    for value, axis in zip(best, map(sorted, axes), strict=True):
        at = axis.index(value)
        below = value - axis[at - 1] if at > 0 else axis[1] - value if len(axis) > 1 else 0.0
        above = axis[at + 1] - value if at + 1 < len(axis) else below
        found.append(sorted({round(value - below / 2, 6), value, round(value + above / 2, 6)}))
    return found


def tune(
    config: BeamConfig, lm: LanguageModel, sets: logits.Sets, axes: Sequence[Sequence[float]] = GRID, refine: int = 1
) -> BeamConfig:
    """The best `config` with other alpha, beta and unknown; prints what was tried."""
    greedy, shown = measure(replace(config, width=1), None, sets)
    plain, plain_shown = measure(config, None, sets)
    print(f"{'alpha':>7} {'beta':>7} {'unknown':>8} {'WER %':>7} {'to greedy':>10}" + "".join(f"{n:>9}" for n in sets))
    for name, wer, each in (("greedy", greedy, shown), (f"beam {config.width}, no model", plain, plain_shown)):
        print(f"{name:>24} {wer:7.2f} {_change(wer, greedy)}" + "".join(f"{x:9.2f}" for x in each), flush=True)
    found: dict[tuple[float, ...], float] = {}
    for turn in range(refine + 1):
        if turn:
            axes = neighbours(min(found, key=lambda point: (found[point], point)), axes)
        for point in itertools.product(*axes):
            alpha, beta, unknown = point
            if point in found or alpha < 0 or unknown > 0:
                continue
            tried = replace(config, alpha=alpha, beta=beta, unknown=unknown)
            found[point], each = measure(tried, lm, sets)
            row = f"{alpha:7g} {beta:7g} {unknown:8g} {found[point]:7.2f} {_change(found[point], greedy)}"
            print(row + "".join(f"{x:9.2f}" for x in each), flush=True)
    best = min(found, key=lambda point: (found[point], point))
    print(f"best: {found[best]:.2f} %, {_change(found[best], greedy).strip()} against greedy")
    return replace(config, **dict(zip(NAMES, best, strict=True)))


def _change(wer: float, greedy: float) -> str:
    return f"{100.0 * (wer / greedy - 1.0) if greedy else 0.0:+8.1f} %"


def write(model: Path, config: BeamConfig) -> None:
    """Put alpha, beta and unknown into the `beam` table of a bundle.

    Raises:
        BundleError, ChecksumError, ConfigError: the bundle is damaged.
    """
    table = bundle.read_config(model).get("beam", {})
    bundle.amend(model, beam={**table, **{name: getattr(config, name) for name in NAMES}})


def _floats(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    logits.add_options(parser, logits.READ, logits.CROWD)
    parser.add_argument("--lm", help="language model, in any form that streamasr reads; default: the default one")
    parser.add_argument("--width", type=int, default=BeamConfig.width)
    for name, axis in zip(NAMES, GRID, strict=True):
        shown = ",".join(f"{value:g}" for value in axis)
        parser.add_argument(f"--{name}", type=_floats, default=list(axis), metavar="X[,X]", help=f"default {shown}")
    parser.add_argument("--refine", type=int, default=1, help="rounds among the neighbours of the best (default 1)")
    parser.add_argument("--write", action="store_true", help="put the best into the model's config.json")
    options = parser.parse_args(arguments)
    began = time.perf_counter()
    try:
        sets = logits.sets_from(options)
        lm_path = bundle.find_lm(options.lm)
        if lm_path is None:
            parser.error("there is no language model to tune: give one with --lm")
        axes = [getattr(options, name) for name in NAMES]
        base = BeamConfig(width=options.width)
        best = tune(base, LanguageModel.load(lm_path), sets, axes, options.refine)
        for name in NAMES:
            print(f"{name} = {getattr(best, name):g}")
        if options.write:
            write(bundle.find(options.model), best)
            print(f"written to {bundle.find(options.model) / 'config.json'}")
    except StreamasrError as error:
        print(f"train.tune: {error}", file=sys.stderr)
        return 1
    print(f"{time.perf_counter() - began:.0f} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
