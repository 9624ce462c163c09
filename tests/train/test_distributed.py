"""Several processes with Gloo: the curve of one process, and a restart after one of them dies."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.train.corpora import make_corpus, tiny
from train import checkpoint, fit
from train.log import read_log

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMASR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    torch.set_num_threads(1)


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in read_log(folder) if "loss" in line]


@pytest.mark.slow
def test_two_processes_give_the_curve_of_one(tmp_path: Path) -> None:
    corpus, runs = make_corpus(tmp_path / "corpus", utterances=13), tmp_path / "runs"
    alone = fit.fit(tiny(corpus, name="one"), runs=runs)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "tests.train.worker", str(corpus), str(runs), "two"]
    meeting = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    workers = [
        subprocess.Popen(command, cwd=ROOT, env={**meeting, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(2)
    ]
    assert [worker.wait(timeout=400) for worker in workers] == [0, 0]
    assert losses(runs / "two") == pytest.approx(losses(alone.checkpoint.parent), rel=1e-4)
    ours, theirs = checkpoint.load(runs / "two" / "latest.pt"), checkpoint.load(alone.checkpoint)
    assert ours["heard_h"] == pytest.approx(theirs["heard_h"])
    for name, weight in theirs["model"].items():
        assert torch.allclose(ours["model"][name], weight, atol=2e-3), name


@pytest.mark.slow
def test_torchrun_starts_again_from_the_checkpoint(tmp_path: Path) -> None:
    corpus, runs = make_corpus(tmp_path / "corpus", utterances=13), tmp_path / "runs"
    alone = fit.fit(tiny(corpus, name="one"), runs=runs)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"]
    command += ["-m", "tests.train.worker", str(corpus), str(runs), "elastic", "die"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert "resuming elastic at step" in ended.stdout + ended.stderr
    assert losses(runs / "elastic") == pytest.approx(losses(alone.checkpoint.parent), rel=1e-4)
