"""The training loop: it learns, resumes exactly, survives what is not finite, and every technique runs."""

from __future__ import annotations

import math
import os
import signal
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from streamasr.errors import ConfigError
from tests.train.corpora import make_corpus, tiny
from train import checkpoint, fit
from train.config import OptimiserConfig, TechniqueConfig, TrainConfig
from train.log import read_log


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STREAMASR_CACHE", str(tmp_path / "cache"))
    torch.set_num_threads(1)
    return tmp_path / "cache"


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in read_log(folder) if "loss" in line]


def test_loss_falls_and_dev_is_measured(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus")
    config = tiny(corpus, name="a", evaluate_every_steps=25)
    config = replace(
        config,
        data=replace(config.data, dev=[str(corpus)]),
        optimiser=OptimiserConfig(rate=5e-3, warmup_steps=2, steps=25),
    )
    fitted = fit.fit(config)
    assert fitted.finished
    curve = losses(fitted.checkpoint.parent)
    assert len(curve) == 25
    assert sum(curve[-5:]) < 0.7 * sum(curve[:5])
    assert [line["wer"] for line in read_log(fitted.checkpoint.parent) if "dev" in line]


def test_killed_run_resumes_to_the_same_losses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = make_corpus(tmp_path / "corpus")
    whole = fit.fit(with_dropout(tiny(corpus, name="whole")))
    config = with_dropout(tiny(corpus, name="killed", save_every_s=0.0))
    save, calls = checkpoint.save, []

    def die(path: Path, content: dict[str, object]) -> None:
        calls.append(path)
        if len(calls) == 4:
            raise KeyboardInterrupt  # the fourth step is made but never saved
        save(path, content)

    monkeypatch.setattr(checkpoint, "save", die)
    with pytest.raises(KeyboardInterrupt):
        fit.fit(config)
    monkeypatch.setattr(checkpoint, "save", save)
    assert checkpoint.load(tmp_path / "cache/runs/killed/latest.pt")["step"] == 3
    resumed = fit.fit(config)
    assert losses(resumed.checkpoint.parent) == losses(whole.checkpoint.parent)
    ours, theirs = checkpoint.load(resumed.checkpoint), checkpoint.load(whole.checkpoint)
    for name in ("model", "average"):
        assert all(torch.equal(ours[name][key], theirs[name][key]) for key in theirs[name])


def with_dropout(config: TrainConfig) -> TrainConfig:
    return replace(config, model=replace(config.model, dropout=0.1))


def test_signal_stops_after_the_step_and_saves(tmp_path: Path) -> None:
    config = tiny(make_corpus(tmp_path / "corpus"), name="stopped")
    config = replace(config, optimiser=replace(config.optimiser, steps=10_000))
    threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGTERM)).start()
    fitted = fit.fit(config)
    assert not fitted.finished
    saved = checkpoint.load(fitted.checkpoint)
    assert saved["step"] == len(losses(fitted.checkpoint.parent))
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_loss_that_is_not_finite_is_skipped_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = fit.ctc_loss, []

    def poisoned(*arguments: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return real(*arguments) * (math.nan if len(calls) == 3 else 1.0)  # the second step's (two heads a step)

    monkeypatch.setattr(fit, "ctc_loss", poisoned)
    fitted = fit.fit(tiny(make_corpus(tmp_path / "corpus"), name="poisoned"))
    saved = checkpoint.load(fitted.checkpoint)
    assert saved["skipped"] == 1
    assert all(torch.isfinite(weight).all() for weight in saved["model"].values())
    assert sum("reason" in line for line in read_log(fitted.checkpoint.parent)) == 1


def test_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    config = tiny(make_corpus(tmp_path / "corpus"), name="a")
    fit.fit(replace(config, optimiser=replace(config.optimiser, steps=1)))
    with pytest.raises(ConfigError, match="does not fit"):
        fit.fit(replace(config, model=replace(config.model, size=24)))


@pytest.mark.parametrize(
    ("technique", "term"),
    [
        (TechniqueConfig(consistency=0.2), "consistency"),
        (TechniqueConfig(consistency=0.2, shift_ms=20.0), "consistency"),
        (TechniqueConfig(peak_first=0.1), "peak_first"),
        (TechniqueConfig(trim_chance=1.0), "loss"),
        (TechniqueConfig(expected_errors=10.0), "errors"),
    ],
)
def test_technique_runs_and_stays_finite(tmp_path: Path, technique: TechniqueConfig, term: str) -> None:
    config = replace(tiny(make_corpus(tmp_path / "corpus"), name="t"), technique=technique)
    fitted = fit.fit(replace(config, optimiser=replace(config.optimiser, steps=3)))
    lines = [line for line in read_log(fitted.checkpoint.parent) if "loss" in line]
    assert len(lines) == 3
    assert all(math.isfinite(line[term]) and math.isfinite(line["norm"]) for line in lines)


@pytest.mark.parametrize("rnn", ["gated", "lstm"])
def test_student_learns_from_the_bidirectional_teacher(tmp_path: Path, rnn: str) -> None:
    config = tiny(make_corpus(tmp_path / "corpus"), name="offline")
    offline = replace(config.model, bidirectional=True, lookahead=0, context=3, rnn=rnn)
    teacher = fit.fit(replace(config, model=offline, optimiser=replace(config.optimiser, steps=3)))
    technique = TechniqueConfig(distil=1.0, distil_delay=1, teacher=str(teacher.checkpoint), consistency=0.2)
    student = replace(config, technique=technique, run=replace(config.run, name="student"))
    lines = read_log(fit.fit(replace(student, optimiser=replace(config.optimiser, steps=3))).checkpoint.parent)
    assert all(math.isfinite(line["distil"]) and line["distil"] > 0 for line in lines if "loss" in line)


def test_bfloat16_learns_too_and_float32_stands_in_where_processors_have_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus, curves = make_corpus(tmp_path / "corpus"), {}
    for there in (True, False):
        monkeypatch.setattr(fit, "has_bfloat16", lambda _, there=there: there)
        config = tiny(corpus, name=f"half_{there}", precision="bfloat16")
        curves[there] = losses(fit.fit(config).checkpoint.parent)
        assert ("it takes float32" in capsys.readouterr().out) is not there
    whole = losses(fit.fit(tiny(corpus, name="whole")).checkpoint.parent)
    assert curves[False] == whole != curves[True]
    assert len(whole) == 6
    assert curves[True][-1] < curves[True][0]


def test_teacher_is_asked_for(tmp_path: Path) -> None:
    config = tiny(make_corpus(tmp_path / "corpus"), name="a")
    with pytest.raises(ConfigError, match="without a teacher"):
        fit.fit(replace(config, technique=TechniqueConfig(distil=1.0)))


def test_batches_from_other_processes_are_the_same(tmp_path: Path) -> None:
    config = tiny(make_corpus(tmp_path / "corpus"), name="thread")
    config = replace(config, optimiser=replace(config.optimiser, steps=3))
    alone = fit.fit(config)
    other = fit.fit(replace(config, data=replace(config.data, workers=1), run=replace(config.run, name="processes")))
    assert losses(other.checkpoint.parent) == losses(alone.checkpoint.parent)
