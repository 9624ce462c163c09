"""What stands around the loop: averaging, pseudo-labels, release, report."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from streamasr import bundle
from streamasr.errors import BundleError, ManifestError
from streamasr.text import Vocab
from tests.train.corpora import make_corpus, tiny
from train import checkpoint
from train.average import average
from train.average import main as average_main
from train.data import Corpus
from train.evaluate import Heard, hear, word_errors
from train.export import export
from train.fit import Fitted, fit
from train.manifest import read_manifest
from train.pseudo import label
from train.report import Trained, emission_delay_ms, write_report


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("tools") / "corpus")


@pytest.fixture(scope="module")
def fitted(corpus: Path) -> Fitted:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STREAMASR_CACHE", str(corpus.parent / "cache"))
        config = tiny(
            corpus, name="run", keep_every_steps=4, evaluate_every_steps=6, log_every_steps=3, tensorboard=True
        )
        config = replace(config, data=replace(config.data, dev=[str(corpus)]))
        fitted = fit(replace(config, optimiser=replace(config.optimiser, steps=12, ema=0.5)))
    saved = checkpoint.load(fitted.checkpoint)
    bias = next(name for name in reversed(list(saved["average"])) if name.startswith("network") and "bias" in name)
    saved["average"][bias][0] -= 10.0  # the blank: after so few steps it would say nothing else
    checkpoint.save(fitted.checkpoint, saved)
    return fitted


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMASR_CACHE", str(tmp_path / "cache"))
    torch.set_num_threads(1)


def test_average_is_the_mean_of_weights(fitted: Fitted, tmp_path: Path) -> None:
    paths = sorted(fitted.checkpoint.parent.glob("step_*.pt"))
    assert [path.stem for path in paths] == ["step_00000004", "step_00000008", "step_00000012"]
    mean = checkpoint.load(average(paths[1:], tmp_path / "mean.pt"))
    one, two = (checkpoint.load(path) for path in paths[1:])
    for name, weight in mean["model"].items():
        assert torch.allclose(weight, (one["model"][name] + two["model"][name]) / 2, atol=1e-6), name
    assert mean["step"] == 12
    assert list((fitted.checkpoint.parent / "tensorboard").glob("events.*"))
    checkpoint.load_model(tmp_path / "mean.pt")
    with pytest.raises(BundleError, match="no checkpoint to average"):
        average([], tmp_path / "none.pt")


def test_a_run_and_what_stands_beside_it(fitted: Fitted, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = fitted.checkpoint.parent
    latest, early = checkpoint.load(fitted.checkpoint), checkpoint.load(run / "step_00000004.pt")
    released = tmp_path / "released"
    released.mkdir()
    weights = {name: tensor.contiguous() for name, tensor in early["average"].items()}
    save_file(weights, released / "weights.safetensors")
    out = tmp_path / "mean.pt"
    assert average_main([str(run), str(out), "--beside", f"{released}=0.25"]) == 0
    assert capsys.readouterr().out == f"{out}: mean of released (0.25), latest (0.75)\n"
    mean = checkpoint.load(out)
    for name, weight in mean["average"].items():
        expected = 0.75 * latest["average"][name] + 0.25 * early["average"][name]
        assert torch.allclose(weight, expected, atol=1e-6), name
    assert mean["step"] == latest["step"]
    for wrong, told in [
        (f"{released}=1", "less than 1 in all"),
        (f"{released}", "PATH=SHARE"),
        (f"{tmp_path / 'none'}.safetensors=0.5", "cannot be read"),
        (f"{tmp_path / 'none.pt'}=0.5", "cannot be read"),
    ]:
        assert average_main([str(run), str(out), "--beside", wrong]) == 1
        assert told in capsys.readouterr().err


def test_pseudo_labels_are_what_was_heard(fitted: Fitted, corpus: Path, tmp_path: Path) -> None:
    out = label(fitted.checkpoint, corpus, tmp_path / "pseudo", sure=0.0)
    labelled = {u.path.name: u.text for u in read_manifest(out)}
    model, whole = checkpoint.load_model(fitted.checkpoint)[0], Corpus(corpus, 30.0)
    heard = hear(model, whole, Vocab(), list(range(len(whole))))
    assert labelled == {
        u.path.name: found.hypothesis for u, found in zip(whole.utterances, heard, strict=True) if found.hypothesis
    }
    assert labelled
    with pytest.raises(ManifestError, match="surely enough"):
        label(fitted.checkpoint, corpus, tmp_path / "none", sure=1.1)


def test_word_errors_and_spikes(fitted: Fitted, corpus: Path) -> None:
    model, whole = checkpoint.load_model(fitted.checkpoint)[0], Corpus(corpus, 30.0)
    wer, pairs = word_errors(model, whole, Vocab())
    assert len(pairs) == 12
    assert wer >= 0
    for found in hear(model, whole, Vocab(), [3, 1]):
        assert Vocab().decode(found.tokens).split() == found.hypothesis.split()
        assert found.frames == sorted(found.frames)
        assert 0 < found.confidence <= 1


def test_emission_delay_compares_texts_alike() -> None:
    def said(tokens: list[int], frames: list[int]) -> Heard:
        return Heard("", "", tokens, frames, 1.0)

    late = [said([1, 2], [5, 9]), said([3], [4])]
    early = [said([1, 2], [3, 8]), said([4], [0])]
    assert emission_delay_ms(late, early, 40.0) == 60.0
    assert emission_delay_ms(late[1:], early[1:], 40.0) != emission_delay_ms(late[1:], early[1:], 40.0)  # NaN


def test_what_was_found_of_the_same_weights_stays_in_the_facts(fitted: Fitted, tmp_path: Path) -> None:
    toy, errors = tmp_path / "toy", {"greedy": 0.02}
    export(fitted.checkpoint, toy, [], "once")
    bundle.amend(toy, facts={**bundle.read_config(toy)["facts"], "calibration_error": errors})
    export(fitted.checkpoint, toy, [], "again")
    assert bundle.read_config(toy)["facts"]["calibration_error"] == errors
    assert "0.020 (greedy)" in (toy / "CARD.md").read_text()
    saved = checkpoint.load(fitted.checkpoint)
    saved["average"] = {name: tensor * 2 for name, tensor in saved["average"].items()}
    other = tmp_path / "other.pt"
    checkpoint.save(other, saved)
    export(other, toy, [], "other weights")
    assert "calibration_error" not in bundle.read_config(toy)["facts"]


def test_release_and_report(fitted: Fitted, corpus: Path, tmp_path: Path) -> None:
    figures = export(
        fitted.checkpoint,
        tmp_path / "models" / "toy",
        [corpus],
        "python -m train.export run toy",
        limit=4,
        tuned=True,
        picture=tmp_path / "report" / "reliability.png",
    )
    loaded = bundle.load(str(tmp_path / "models" / "toy"))
    content = json.loads((loaded.path / "config.json").read_text())
    assert (
        set(content["beam"]) == {"alpha", "beta", "unknown", "blank", "prior", "pairs", "rnn"}
        and "confidence" not in content
    )  # too few words
    again = export(fitted.checkpoint, loaded.path, [], "again")
    assert again == {} and json.loads((loaded.path / "config.json").read_text())["beam"] == content["beam"]
    export(fitted.checkpoint, loaded.path, [corpus], "python -m train.export run toy", limit=4)
    (measured,) = figures.values()
    assert [each["utterances"] for each in measured] == [4, 4]
    text = (loaded.path / "CARD.md").read_text()
    for wanted in (
        "Lookahead",
        "Licences of the data",
        "RTF",
        "Known failures",
        "python -m train.export run toy",
        "commit",
    ):
        assert wanted in text
    facts = json.loads((loaded.path / "config.json").read_text())["facts"]
    assert facts["step"] == 12
    trained = Trained("streaming", fitted.checkpoint.parent, checkpoint.load_model(fitted.checkpoint)[0], figures)
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "reliability.png").write_bytes(b"")
    report = write_report(tmp_path / "report", "toy", [trained, trained], [corpus], samples=3)
    assert {path.name for path in report.parent.iterdir()} == {
        "report.md",
        "curves.png",
        "spikes.png",
        "reliability.png",
    }
    assert "(reliability.png)" in report.read_text()
    assert "greedy" in report.read_text()
    assert report.read_text().count("  - streaming: `") == 6
