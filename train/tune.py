"""Tune the decoder on log-probabilities of development sets: one number at a time, for as long as errors become fewer.

    python -m train.tune --write                                  # the default model, in its own config.json
    python -m train.tune --model models/small --manifest DEV/manifest.tsv --write
    python -m train.tune --alpha 0.6 --blank 0 --halvings 0       # another beginning, large steps only

Each number of the decoder is tried a step up and a step down; what makes fewer errors is kept. Where none does, the
steps are halved, `--halvings` times. What counts is the word error rate over all sets together. `--write` puts the best
into the `beam` table of the model's config.json, where every user of the model finds it. The network hears a set once;
its log-probabilities are kept in ~/.cache/streamasr/logits.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
from collections.abc import Callable, Sequence
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

Point = tuple[float, ...]  # a value for each of NAMES

NAMES = ("alpha", "beta", "unknown", "blank", "prior", "pairs", "rnn")
BEGINNING = (1.0, 0.4, -2.0, 0.4, 0.3, 0.2, 0.7)
STEPS = (0.2, 0.5, 2.0, 0.4, 0.1, 0.1, 0.1)
BOUNDS = ((0.0, 9.0), (-9.0, 9.0), (-99.0, 0.0), (-9.0, 9.0), (0.0, 1.0), (0.0, 1.0), (0.0, 0.9))


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


def descend(errors: Callable[[Point], float], point: Point, halvings: int = 2) -> tuple[Point, float]:
    """The best point that is found from `point` on, and its errors; `errors` is asked for each point once."""
    errors = functools.cache(errors)
    for halving in range(halvings + 1):
        better = True
        while better:
            before = errors(point)
            for axis, (low, high) in enumerate(BOUNDS):
                for way in (STEPS[axis], -STEPS[axis]):
                    moved = round(min(high, max(low, point[axis] + way / 2**halving)), 6)
                    tried = (*point[:axis], moved, *point[axis + 1 :])
                    if errors(tried) < errors(point):
                        point = tried
                        break
            better = errors(point) < before
    return point, errors(point)


def tune(
    config: BeamConfig, lm: LanguageModel, sets: logits.Sets, beginning: Point = BEGINNING, halvings: int = 2
) -> BeamConfig:
    """`config` with the best numbers of `NAMES`; prints what was tried."""
    greedy, shown = measure(replace(config, width=1), None, sets)
    plain, plain_shown = measure(config, None, sets)
    print("".join(f"{n:>8}" for n in NAMES) + f" {'WER %':>7} {'to greedy':>10}" + "".join(f"{n:>9}" for n in sets))
    for name, wer, each in (("greedy", greedy, shown), (f"beam {config.width}, no model", plain, plain_shown)):
        print(f"{name:>32} {wer:7.2f} {_change(wer, greedy)}" + "".join(f"{x:9.2f}" for x in each), flush=True)

    def at(point: Point) -> BeamConfig:
        return replace(config, **dict(zip(NAMES, point, strict=True)))

    def errors(point: Point) -> float:
        wer, each = measure(at(point), lm, sets)
        row = "".join(f"{value:8g}" for value in point) + f" {wer:7.2f} {_change(wer, greedy)}"
        print(row + "".join(f"{x:9.2f}" for x in each), flush=True)
        return wer

    best, least = descend(errors, beginning, halvings)
    print(f"best: {least:.2f} %, {_change(least, greedy).strip()} against greedy")
    return at(best)


def _change(wer: float, greedy: float) -> str:
    return f"{100.0 * (wer / greedy - 1.0) if greedy else 0.0:+8.1f} %"


def write(model: Path, config: BeamConfig) -> None:
    """Put the numbers of `NAMES` into the `beam` table of a bundle.

    Raises:
        BundleError, ChecksumError, ConfigError: the bundle is damaged.
    """
    table = bundle.read_config(model).get("beam", {})
    bundle.amend(model, beam={**table, **{name: getattr(config, name) for name in NAMES}})


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    logits.add_options(parser, logits.READ, logits.CROWD)
    parser.add_argument("--lm", help="language model, in any form that streamasr reads; default: the default one")
    parser.add_argument("--width", type=int, default=BeamConfig.width)
    for name, value in zip(NAMES, BEGINNING, strict=True):
        parser.add_argument(f"--{name}", type=float, default=value, metavar="X", help=f"begin here (default {value:g})")
    parser.add_argument("--halvings", type=int, default=2, help="how often the steps are halved (default 2)")
    parser.add_argument("--write", action="store_true", help="put the best into the model's config.json")
    options = parser.parse_args(arguments)
    began = time.perf_counter()
    try:
        sets = logits.sets_from(options)
        lm_path = bundle.find_lm(options.lm)
        if lm_path is None:
            parser.error("there is no language model to tune: give one with --lm")
        beginning = tuple(getattr(options, name) for name in NAMES)
        base = BeamConfig(width=options.width)
        best = tune(base, LanguageModel.load(lm_path), sets, beginning, options.halvings)
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
