from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import decoder as benchmark
from benchmarks.hotwords import errors
from streamasr import bundle
from streamasr.config import BeamConfig
from streamasr.ctc import Decoder
from streamasr.text import Vocab
from tests.train.corpora import make_corpus
from train import calibrate, logits, tune
from train.calibrate import Gathered, calibration_error, fit, gather, held_out, logistic, right_words
from train.tune import descend, word_errors

ARPA = "\\data\\\nngram 1=6\n\n\\1-grams:\n-1 <unk>\n-99 <s>\n-1 </s>\n-0.5 the\n-0.6 road\n-0.7 boats\n\n\\end\\\n"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMASR_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def arpa(tmp_path: Path) -> str:
    (tmp_path / "lm.arpa").write_text(ARPA)
    return str(tmp_path / "lm.arpa")


@pytest.fixture
def copy(tiny_path: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_path, tmp_path / "copy"))


def test_right_words_are_those_that_were_said() -> None:
    assert right_words("we go to the sea", ["he", "goes", "to", "see", "the", "sea"]) == [0, 0, 1, 0, 1, 1]
    assert right_words("", ["word"]) == [False] and right_words("word", []) == []


def test_fitted_confidences_are_calibrated_on_words_that_the_fit_did_not_see() -> None:
    random = np.random.default_rng(0)
    features = np.column_stack([np.ones(4000), random.normal(0, 3, 4000), random.normal(-1, 1, 4000)])
    true = np.array([0.5, 0.7, 0.3])
    right = random.uniform(size=4000) < logistic(features, true)
    weights = fit(features, right)
    assert weights == pytest.approx(true, abs=0.15)
    assert calibration_error(logistic(features, weights), right) < 0.03
    assert calibration_error(np.full(100, 0.95), np.arange(100) < 50) == pytest.approx(0.45)
    half = np.arange(4000) % 2
    confidence = held_out(Gathered(features, right, half, half))
    first = half == 0
    assert confidence[first] == pytest.approx(logistic(features[first], fit(features[~first], right[~first])))
    features[:, 1] = 9.0  # greedy: all hypotheses agree
    assert fit(features, right)[1] == 0.0


def test_words_are_gathered_with_their_sets_and_halves(tmp_path: Path) -> None:
    logits.save(tmp_path / "l.npz", logits.rendered(logits.SENTENCES[:2]))
    utterances = logits.read(tmp_path / "l.npz")
    assert [u.text for u in utterances] == list(logits.SENTENCES[:2])
    found = gather(BeamConfig(width=4), None, {"one": utterances, "two": utterances})
    assert found.features.shape == (len(found.right), 3) and np.isfinite(found.features).all()
    assert set(found.half) == {0, 1} and set(found.set) == {0, 1}
    assert 0.0 <= word_errors(Decoder(Vocab(), BeamConfig(width=1)), utterances) <= 200.0


def test_a_descent_finds_the_least_errors_within_the_bounds() -> None:
    asked = []

    def errors(point: tuple[float, ...]) -> float:
        asked.append(point)
        return sum(
            (value - best) ** 2 for value, best in zip(point, (0.45, -1.5, 1.0, 0.3, 0.2, 0.4, 0.5), strict=True)
        )

    found, least = descend(errors, (0.8, 0.0, -4.0, 0.6, 0.3, 0.2, 0.6))
    assert found == pytest.approx((0.45, -1.5, 0.0, 0.3, 0.2, 0.4, 0.5), abs=0.051)  # `unknown` may not be above 0
    assert len(asked) == len(set(asked)) and all(point[2] <= 0 for point in asked)
    assert least == min(map(errors, list(asked)))


def test_two_commands_tune_and_calibrate_a_model(
    copy: Path, arpa: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    heard = tmp_path / "heard.npz"
    logits.save(heard, logits.rendered(logits.SENTENCES * 2))
    given = ["--model", str(copy), "--logits", str(heard), "--lm", arpa, "--write"]
    assert tune.main([*given, "--alpha", "0.4", "--unknown", "0", "--width", "4", "--halvings", "0"]) == 0
    shown = capsys.readouterr().out
    assert "greedy" in shown and "best:" in shown and shown.count("heard") == 1
    tuned = bundle.load(str(copy)).beam_config()
    assert f"alpha = {tuned.alpha:g}" in shown and f"blank = {tuned.blank:g}" in shown
    assert calibrate.main([*given, "--plot", str(tmp_path / "plots" / "reliability.png")]) == 0
    shown = capsys.readouterr().out
    assert (tmp_path / "plots" / "reliability.png").read_bytes().startswith(b"\x89PNG")
    loaded = bundle.load(str(copy))
    assert set(loaded.confidence) == {"language_model", "letters", "greedy"}
    assert set(loaded.facts["calibration_error"]) == set(loaded.confidence)
    assert loaded.confidence["greedy"].agreed == 0.0
    weights = loaded.confidence["language_model"]
    expected = replace(
        tuned, confidence_bias=weights.bias, confidence_agreed=weights.agreed, confidence_peak=weights.peak
    )
    assert loaded.beam_config() == expected


def test_too_few_words_are_not_fitted_on(capsys: pytest.CaptureFixture[str]) -> None:
    done = calibrate.calibrate({"letters": BeamConfig()}, None, {"one": logits.rendered(logits.SENTENCES[:1])})
    assert done.confidence == {} and "too few" in capsys.readouterr().out


def test_a_set_is_heard_once(copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = make_corpus(tmp_path / "corpus", 6)
    first = logits.kept(copy, corpus)
    assert len(first) == 6 and all(u.log_probs.shape[1] == 29 and u.text for u in first)
    monkeypatch.setattr(logits, "of_model", lambda *_: pytest.fail("it was heard again"))
    again = logits.kept(copy, corpus)
    assert all(np.array_equal(a.log_probs, b.log_probs) for a, b in zip(first, again, strict=True))
    assert [u.text for u in logits.kept(copy, corpus, 2)] == [first[0].text, first[3].text]
    bundle.amend(copy, beam={"alpha": 0.1})  # the network is the same
    assert len(logits.kept(copy, corpus)) == 6


@pytest.mark.parametrize("command", [tune.main, calibrate.main])
@pytest.mark.parametrize("given", [["--model", "none"], ["--manifest", "none.tsv"], ["--lm", "none.arpa"]])
def test_what_is_not_there_is_one_clear_line(
    command: object, given: list[str], copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = [] if given[0] == "--model" else ["--model", str(copy)]
    assert command([*given, *more, *(["--rendered"] if given[0] == "--lm" else [])]) == 1  # type: ignore[operator]
    assert capsys.readouterr().err.count("\n") == 1


def test_errors_of_listed_and_of_other_words() -> None:
    said, heard = ["turn on the zebra lamp", "yes"], ["turn off the lamp", "yes zebra"]
    missed, others, alarms = errors(said, heard, {"zebra"})
    assert missed == 100.0 and others == pytest.approx(100 * 2 / 5) and alarms == 1


def test_the_table_of_decoders_has_a_row_for_each(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(*_: object) -> benchmark.Build:
        raise ImportError("not installed")

    monkeypatch.setattr(benchmark, "PEERS", {"peer": missing})
    monkeypatch.setattr(benchmark, "network_ms", lambda model: 20.0)
    given = ["decoder", "--rendered", "--model", str(copy), "--lm", "none", "--beams", "2,4"]
    monkeypatch.setattr("sys.argv", given)
    benchmark.main()
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + 1 + 2 * 3 and sum("left out: not installed" in row for row in rows) == 2
    assert json.dumps(rows).count("streamasr, 4 frames a call") == 2


def test_the_network_is_timed(copy: Path) -> None:
    assert benchmark.network_ms(copy, seconds=0.5) >= 0.0
