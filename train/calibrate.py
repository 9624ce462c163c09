"""Make confidences honest: fit them to how often words are right on development sets.

    python -m train.calibrate --write                                     # the default model, in its own config.json
    python -m train.calibrate --model models/small --manifest DEV/manifest.tsv --plot reliability.png --write

Each recognised word is aligned with what was said. Its confidence is a logistic function of the log-odds of its share
of the beam and of the probability of its letters (Platt 1999); the weights are fitted by Newton's method, for each way
to decode: a beam with the language model, a beam without, greedy. The expected calibration error (Naeini et al. 2015,
ten bins of equal width) is measured on words that the fit did not see: each half of every set by what the other halves
gave. `--write` puts weights fitted on all words into the `confidence` table of the model's config.json. Tune first.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import jiwer
import numpy as np
from numpy.typing import NDArray

from streamasr import bundle
from streamasr.config import DECODINGS, BeamConfig, ConfidenceConfig, from_mapping
from streamasr.ctc import Decoder
from streamasr.errors import StreamasrError
from streamasr.lm import LanguageModel
from streamasr.text import Vocab
from train import logits

Floats = NDArray[np.float64]
BINS = 10
SHRINK = 1e-3  # ridge on the weights, so that a fit exists where all words are right
FEWEST = 20  # words that a fit needs


class Gathered(NamedTuple):
    """All recognised words of some sets."""

    features: Floats  # (N, 3): 1, log-odds of agreement, log-odds of the letters
    right: NDArray[np.bool_]  # (N,) whether the word was said
    half: NDArray[np.int64]  # (N,) 0 in the first half of the utterances of its set, 1 in the second
    set: NDArray[np.int64]  # (N,) number of its set


def right_words(reference: str, hypothesis: Sequence[str]) -> list[bool]:
    """Whether each recognised word was said, by the best alignment of the two texts."""
    right = [False] * len(hypothesis)
    if hypothesis and reference:
        for chunk in jiwer.process_words(reference, " ".join(hypothesis)).alignments[0]:
            if chunk.type == "equal":
                right[chunk.hyp_start_idx : chunk.hyp_end_idx] = [True] * (chunk.hyp_end_idx - chunk.hyp_start_idx)
    return right


def gather(config: BeamConfig, lm: LanguageModel | None, sets: logits.Sets) -> Gathered:
    """What the decoder finds in the sets, and what of it is right."""
    ways = ((0.0, 1.0, 0.0), (0.0, 0.0, 1.0))  # a confidence that is one of the features alone
    agreed, peak = (Decoder(Vocab(), _weighted(config, ConfidenceConfig(*way)), lm=lm) for way in ways)
    rows: list[tuple[float, float, float]] = []
    right, halves, numbers = [], [], []
    for number, utterances in enumerate(sets.values()):
        for place, utterance in enumerate(utterances):
            words, _ = agreed.finish(agreed.step(utterance.log_probs, agreed.start()))
            again, _ = peak.finish(peak.step(utterance.log_probs, peak.start()))
            rows += [(1.0, _log_odds(a.confidence), _log_odds(b.confidence)) for a, b in zip(words, again, strict=True)]
            right += right_words(utterance.text, [word.text for word in words])
            halves += [2 * place // len(utterances)] * len(words)
            numbers += [number] * len(words)
    return Gathered(np.array(rows).reshape(-1, 3), np.array(right, bool), np.array(halves), np.array(numbers))


def _weighted(config: BeamConfig, weights: ConfidenceConfig) -> BeamConfig:
    return replace(config, confidence_bias=weights.bias, confidence_agreed=weights.agreed, confidence_peak=weights.peak)


def _log_odds(p: float) -> float:
    return math.log(p / (1.0 - p))


def logistic(features: Floats, weights: Floats) -> Floats:
    """Probabilities (N,)."""
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(features @ weights, -50.0, 50.0))))


def fit(features: Floats, right: NDArray[np.bool_]) -> Floats:
    """Weights (3,) of the logistic function, by Newton's method; 0 for a feature that is always the same."""
    used = np.ptp(features, axis=0) > 1e-9 if len(features) else np.zeros(features.shape[1], bool)
    used[0] = True
    columns, weights = features[:, used], np.zeros(int(used.sum()))
    for _ in range(50):
        p = logistic(columns, weights)
        gradient = columns.T @ (p - right) + SHRINK * weights
        curvature = (columns * (p * (1 - p))[:, None]).T @ columns + SHRINK * np.eye(len(weights))
        step = np.linalg.solve(curvature, gradient)
        weights = weights - step
        if np.abs(step).max() < 1e-8:
            break
    all_weights = np.zeros(features.shape[1])
    all_weights[used] = weights
    return all_weights


def held_out(found: Gathered) -> Floats:
    """The confidence of each word by a fit on the other halves."""
    confidence = np.zeros(len(found.right))
    for half in (0, 1):
        inside = found.half == half
        confidence[inside] = logistic(found.features[inside], fit(found.features[~inside], found.right[~inside]))
    return confidence


def bins(confidence: Floats, right: NDArray[np.bool_]) -> list[tuple[int, float, float]]:
    """For each bin: how many words, their mean confidence, the share of them that was right."""
    place = np.minimum((confidence * BINS).astype(int), BINS - 1)
    found = []
    for index in range(BINS):
        inside = place == index
        count = int(inside.sum())
        found.append((count, confidence[inside].mean(), right[inside].mean()) if count else (0, 0.0, 0.0))
    return found


def calibration_error(confidence: Floats, right: NDArray[np.bool_]) -> float:
    """Expected calibration error, 0..1."""
    return sum(count * abs(mean - share) for count, mean, share in bins(confidence, right)) / max(1, len(confidence))


def plot(measured: Mapping[str, tuple[Floats, NDArray[np.bool_]]], path: Path) -> None:
    """The reliability diagram: of each way to decode the confidences (N,) and whether the words were right (N,)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1)
    for name, (confidence, right) in measured.items():
        filled = [row for row in bins(confidence, right) if row[0]]
        shown = f"{name.replace('_', ' ')}: {len(right)} words, error {calibration_error(confidence, right):.3f}"
        axes.plot([mean for _, mean, _ in filled], [share for _, _, share in filled], marker="o", label=shown)
    axes.set(xlabel="confidence", ylabel="share of right words", xlim=(0, 1), ylim=(0, 1), title="Held-out words")
    axes.legend(loc="upper left", fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


class Calibrated(NamedTuple):
    """Weights, and the expected calibration error on held-out words, of each way to decode that could be fitted."""

    confidence: dict[str, ConfidenceConfig]
    error: dict[str, float]


def calibrate(
    configs: Mapping[str, BeamConfig], lm: LanguageModel | None, sets: logits.Sets, picture: Path | None = None
) -> Calibrated:
    """Fit the confidences of each way to decode; prints what was found, and draws it to `picture`."""
    done = Calibrated({}, {})
    measured = {}
    for way, config in configs.items():
        model = lm if way == "language_model" else None
        if way == "language_model" and lm is None:
            continue
        found = gather(config, model, sets)
        if len(found.right) < FEWEST or min(np.bincount(found.half, minlength=2)) < FEWEST // 2:
            print(f"{way}: {len(found.right)} words are too few to fit on")
            continue
        given = [config.confidence_bias, config.confidence_agreed, config.confidence_peak]
        before, after = logistic(found.features, np.array(given)), held_out(found)
        weights = ConfidenceConfig(*(round(float(weight), 4) for weight in fit(found.features, found.right)))
        done.confidence[way] = weights
        done.error[way] = round(calibration_error(after, found.right), 4)
        measured[way] = after, found.right
        print(f"{way}: {len(found.right)} words, {100 * found.right.mean():.1f} % right; expected calibration error")
        for name, of in [("all", found.right >= 0), *((name, found.set == i) for i, name in enumerate(sets))]:
            errors = [calibration_error(confidence[of], found.right[of]) for confidence in (before, after)]
            print(f"  {name:>10}: as configured {errors[0]:.4f}, fitted, on held-out words {errors[1]:.4f}")
        print(f"  {'confidence':>12} {'words':>7} {'mean':>7} {'right':>7}")
        for index, (count, mean, share) in enumerate(bins(after, found.right)):
            print(f"  {index / BINS:5.1f} to {(index + 1) / BINS:3.1f} {count:7d} {mean:7.3f} {share:7.3f}")
        print(f"  bias = {weights.bias}\n  agreed = {weights.agreed}\n  peak = {weights.peak}", flush=True)
    if picture and measured:
        plot(measured, picture)
    return done


def write(model: Path, done: Calibrated) -> None:
    """Put the weights into the `confidence` table of a bundle, and the errors into its facts.

    Raises:
        BundleError, ChecksumError: the bundle is damaged.
    """
    content = bundle.read_config(model)
    facts = {**content.get("facts", {}), "calibration_error": done.error}
    tables = {way: weights.__dict__ for way, weights in done.confidence.items()}
    bundle.amend(model, confidence={**content.get("confidence", {}), **tables}, facts=facts)


def ways(model: Path | None, width: int = 0) -> dict[str, BeamConfig]:
    """The decoder's numbers of a bundle on disk for each way to decode; of none, the defaults."""
    content = bundle.read_config(model) if model else {}
    beam = from_mapping(BeamConfig, content.get("beam", {}), f"{model} [beam]")
    beam = replace(beam, width=width or beam.width)
    found = {way: replace(beam, width=1) if way == "greedy" else beam for way in DECODINGS}
    for way, table in content.get("confidence", {}).items():
        found[way] = _weighted(found[way], from_mapping(ConfidenceConfig, table, f"{model} [confidence] {way}"))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    logits.add_options(parser, logits.READ, logits.CROWD)
    parser.add_argument("--lm", help="language model, in any form that streamasr reads; default: the default one")
    parser.add_argument("--plot", type=Path, help="write the reliability diagram to this picture")
    parser.add_argument("--width", type=int, default=0, help="hypotheses kept; default: the model's own number")
    parser.add_argument("--write", action="store_true", help="put the weights into the model's config.json")
    options = parser.parse_args(arguments)
    began = time.perf_counter()
    try:
        model = None if options.rendered or (options.logits and not options.model) else bundle.find(options.model)
        lm_path = bundle.find_lm(options.lm)
        lm = LanguageModel.load(lm_path) if lm_path else None
        done = calibrate(ways(model, options.width), lm, logits.sets_from(options), options.plot)
        if options.write:
            write(bundle.find(options.model), done)
            print(f"written to {bundle.find(options.model) / 'config.json'}")
    except StreamasrError as error:
        print(f"train.calibrate: {error}", file=sys.stderr)
        return 1
    print(f"{time.perf_counter() - began:.0f} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
