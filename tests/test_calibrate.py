from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.hotwords import errors
from streamasr.config import BeamConfig
from streamasr.ctc import Decoder
from streamasr.text import Vocab
from train import logits
from train.calibrate import calibration_error, fit, gather, logistic, right_words
from train.tune import word_errors


def test_right_words_are_those_that_were_said() -> None:
    assert right_words("we go to the sea", ["he", "goes", "to", "see", "the", "sea"]) == [0, 0, 1, 0, 1, 1]
    assert right_words("", ["word"]) == [False] and right_words("word", []) == []


def test_fitted_confidences_are_calibrated() -> None:
    random = np.random.default_rng(0)
    features = np.column_stack([np.ones(4000), random.normal(0, 3, 4000), random.normal(-1, 1, 4000)])
    true = np.array([0.5, 0.7, 0.3])
    right = random.uniform(size=4000) < logistic(features, true)
    weights = fit(features, right)
    assert weights == pytest.approx(true, abs=0.15)
    assert calibration_error(logistic(features, weights), right) < 0.03
    assert calibration_error(np.full(100, 0.95), np.arange(100) < 50) == pytest.approx(0.45)


def test_words_are_gathered_with_their_folds(tmp_path: Path) -> None:
    logits.save(tmp_path / "l.npz", logits.rendered(logits.SENTENCES[:2]))
    utterances = logits.read(tmp_path / "l.npz")
    assert [u.text for u in utterances] == list(logits.SENTENCES[:2])
    features, right, folds = gather(BeamConfig(width=4), None, utterances)
    assert features.shape == (len(right), 3) and set(folds) == {0, 1} and np.isfinite(features).all()
    assert 0.0 <= word_errors(Decoder(Vocab(), BeamConfig(width=1)), utterances) <= 200.0


def test_errors_of_listed_and_of_other_words() -> None:
    said, heard = ["turn on the zebra lamp", "yes"], ["turn off the lamp", "yes zebra"]
    missed, others, alarms = errors(said, heard, {"zebra"})
    assert missed == 100.0 and others == pytest.approx(100 * 2 / 5) and alarms == 1
