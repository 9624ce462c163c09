"""Make confidences honest: fit them to how often words are right on a development set.

    python -m train.calibrate --logits logits.npz --lm models/english-lm --plot reliability.png

Each recognised word is aligned with what was said. Its confidence is a logistic function of its share of the beam and
of the mean log-probability of its letters (Platt 1999); the weights are fitted by Newton's method. The expected
calibration error (Naeini et al. 2015, ten bins of equal width) is measured on words that the fit did not see: ten folds
of utterances. The last lines go into the `beam` table of a model's config.json.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import jiwer
import numpy as np
from numpy.typing import NDArray

from streamasr.config import BeamConfig
from streamasr.ctc import Decoder
from streamasr.lm import LanguageModel
from streamasr.text import Vocab
from train import logits

Floats = NDArray[np.float64]
BINS = 10
FOLDS = 10
SHRINK = 1e-3  # ridge on the weights, so that a fit exists where all words are right


def right_words(reference: str, hypothesis: Sequence[str]) -> list[bool]:
    """Whether each recognised word was said, by the best alignment of the two texts."""
    right = [False] * len(hypothesis)
    if hypothesis and reference:
        for chunk in jiwer.process_words(reference, " ".join(hypothesis)).alignments[0]:
            if chunk.type == "equal":
                right[chunk.hyp_start_idx : chunk.hyp_end_idx] = [True] * (chunk.hyp_end_idx - chunk.hyp_start_idx)
    return right


def gather(
    config: BeamConfig, lm: LanguageModel | None, utterances: Sequence[logits.Utterance]
) -> tuple[Floats, NDArray[np.bool_], NDArray[np.int64]]:
    """Of all recognised words: features (N, 3), namely 1, log-odds of agreement, mean peak; which were right; folds."""
    agreed = Decoder(Vocab(), replace(config, confidence_bias=0.0, confidence_agreed=1.0, confidence_peak=0.0), lm=lm)
    peak = Decoder(Vocab(), replace(config, confidence_bias=0.0, confidence_agreed=0.0, confidence_peak=1.0), lm=lm)
    rows, right, folds = [], [], []
    for number, utterance in enumerate(utterances):
        state = agreed.step(utterance.log_probs, agreed.start())
        words, _ = agreed.finish(state)
        again, _ = peak.finish(peak.step(utterance.log_probs, peak.start()))
        rows += [(1.0, _log_odds(a.confidence), _log_odds(b.confidence)) for a, b in zip(words, again, strict=True)]
        right += right_words(utterance.text, [word.text for word in words])
        folds += [number % FOLDS] * len(words)
    return np.array(rows), np.array(right), np.array(folds)


def _log_odds(p: float) -> float:
    return math.log(p / (1.0 - p))


def logistic(features: Floats, weights: Floats) -> Floats:
    """Probabilities (N,)."""
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(features @ weights, -50.0, 50.0))))


def fit(features: Floats, right: NDArray[np.bool_]) -> Floats:
    """Weights (3,) of the logistic function, by Newton's method."""
    weights = np.zeros(features.shape[1])
    for _ in range(50):
        p = logistic(features, weights)
        gradient = features.T @ (p - right) + SHRINK * weights
        curvature = (features * (p * (1 - p))[:, None]).T @ features + SHRINK * np.eye(len(weights))
        step = np.linalg.solve(curvature, gradient)
        weights = weights - step
        if np.abs(step).max() < 1e-8:
            break
    return weights


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
    return sum(count * abs(mean - share) for count, mean, share in bins(confidence, right)) / len(confidence)


def plot(confidence: Floats, right: NDArray[np.bool_], path: Path) -> None:
    """The reliability diagram."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    filled = [row for row in bins(confidence, right) if row[0]]
    _, axes = pyplot.subplots(figsize=(5, 5))
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1)
    axes.plot([mean for _, mean, _ in filled], [share for _, _, share in filled], marker="o")
    axes.set(xlabel="confidence", ylabel="share of right words", xlim=(0, 1), ylim=(0, 1))
    axes.set_title(f"{len(right)} words, calibration error {calibration_error(confidence, right):.3f}")
    pyplot.savefig(path, dpi=120, bbox_inches="tight")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    logits.add_options(parser)
    parser.add_argument("--lm", type=Path, help="language model, in any form that streamasr reads")
    parser.add_argument("--plot", type=Path, help="write the reliability diagram to this picture")
    for name in ("width", "alpha", "beta", "unknown"):
        default = getattr(BeamConfig, name)
        parser.add_argument(f"--{name}", type=type(default), default=default, help=f"default {default}")
    options = parser.parse_args()
    utterances = logits.from_options(options)
    config = BeamConfig(width=options.width, alpha=options.alpha, beta=options.beta, unknown=options.unknown)
    features, right, folds = gather(config, LanguageModel.load(options.lm) if options.lm else None, utterances)
    before = logistic(features, np.array([config.confidence_bias, config.confidence_agreed, config.confidence_peak]))
    held_out = np.zeros(len(right))
    for fold in range(FOLDS):
        inside = folds == fold
        held_out[inside] = logistic(features[inside], fit(features[~inside], right[~inside]))
    print(f"{len(right)} words, {100 * right.mean():.1f} % right")
    print(
        f"calibration error as configured {calibration_error(before, right):.4f}, fitted (held out) "
        f"{calibration_error(held_out, right):.4f}"
    )
    print(f"{'confidence':>12} {'words':>7} {'mean':>7} {'right':>7}")
    for index, (count, mean, share) in enumerate(bins(held_out, right)):
        print(f"{index / BINS:5.1f} to {(index + 1) / BINS:3.1f} {count:7d} {mean:7.3f} {share:7.3f}")
    if options.plot:
        plot(held_out, right, options.plot)
    for name, weight in zip(("bias", "agreed", "peak"), fit(features, right), strict=True):
        print(f"confidence_{name} = {weight:.4f}")


if __name__ == "__main__":
    main()
