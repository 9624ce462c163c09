"""The whole recipe on a toy: what `make train CONFIG=train/configs/debug.toml` does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from streamasr import bundle
from streamasr.errors import BundleError
from train.log import read_log

ROOT = Path(__file__).parents[2]
SHORT = ["optimiser.steps=40", "optimiser.decay_steps=10", "run.evaluate_every_steps=40", "recipe.synth_hours=0.03"]


@pytest.mark.slow
def test_debug_recipe_goes_from_text_to_released_models(tmp_path: Path) -> None:
    environment = {**os.environ, "STREAMASR_CACHE": str(tmp_path), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "train.run", "--config", "train/configs/debug.toml"]
    for override in SHORT:
        command += ["--set", override]

    def start() -> str:
        ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr[-3000:]
        return ended.stdout

    told = start()
    assert "report: " in told
    for run in ("debug_offline", "debug"):
        curve = [line["loss"] for line in read_log(tmp_path / "runs" / run) if "loss" in line]
        assert curve[-1] < 0.7 * curve[0]
    report = tmp_path / "runs" / "debug" / "report"
    assert {path.name for path in report.iterdir()} == {"report.md", "curves.png", "spikes.png"}
    streaming = bundle.load(str(tmp_path / "models" / "debug"))
    offline = bundle.load(str(tmp_path / "models" / "debug_offline"))
    assert not streaming.model_config.bidirectional
    assert offline.model_config.bidirectional
    assert "train.run --config train/configs/debug.toml" in (streaming.path / "CARD.md").read_text()
    from streamasr.engine import Engine

    with pytest.raises(BundleError, match="whole utterance"):
        Engine(offline)
    assert "resuming" not in start()  # all is trained: only measured and released again


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    from train.run import main

    def told(*arguments: str) -> str:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("STREAMASR_CACHE", str(tmp_path))
            patch.setattr(sys, "argv", ["train.run", *arguments])
            patch.setattr(sys, "stderr", stream := __import__("io").StringIO())
            assert main() == 1
        return stream.getvalue()

    assert "cannot be read" in told("--config", str(tmp_path / "nowhere.toml"))
    assert "no set 'train-clean'" in told("--sets", "train-clean")
    missing = told(
        "--config",
        str(ROOT / "train/configs/debug.toml"),
        "--data",
        str(tmp_path / "nothing"),
        "--set",
        "recipe.synth_dev_hours=0.0",
    )
    assert missing.startswith("train.run: ")
    assert missing.count("\n") == 1
