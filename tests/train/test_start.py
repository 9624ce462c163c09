from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from streamasr.errors import ManifestError
from streamasr.text import Vocab
from tests.conftest import TINY
from train import checkpoint
from train.config import TrainConfig
from train.start import Aligned, batches, fit, frame_labels, frame_loss, read_alignments


def test_letters_are_spread_over_their_word() -> None:
    vocab = Vocab()
    labels = frame_labels((("ab", 0.0, 0.4), ("c", 0.48, 0.56)), 20, 0.04, vocab)
    assert vocab.decode(labels) == "ab c"
    assert labels[2] == vocab.encode("a")[0]
    assert labels[7] == vocab.encode("b")[0]


def test_letters_that_meet_move_on() -> None:
    labels = frame_labels((("abcd", 0.0, 0.04),), 10, 0.04, Vocab())
    assert Vocab().decode(labels) == "abcd"
    assert Vocab().decode(frame_labels((("abcd", 0.0, 0.04),), 2, 0.04, Vocab())).startswith("a")


def test_loss_is_least_at_the_labels() -> None:
    labels = torch.tensor([[0, 3, -100]])
    right = torch.nn.functional.one_hot(torch.tensor([[0, 3, 5]]), 29).float() * 9
    assert frame_loss(right.log_softmax(-1), labels) < 0.1 < frame_loss(torch.zeros(1, 3, 29).log_softmax(-1), labels)


def test_batches_hold_each_utterance_once() -> None:
    aligned = [Aligned(Path(str(i)), (("a", 0.0, 1.0),)) for i in range(30)]
    plan = batches(aligned, [1.0 + i % 7 for i in range(30)], 12.0, np.random.default_rng(1))
    assert sorted(i for batch in plan for i in batch) == list(range(30))


def test_first_steps_teach_and_can_be_started_from(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    aligned = []
    for index in range(6):
        tones = [np.sin(np.arange(4800) * step) for step in (0.2, 0.9)]
        soundfile.write(tmp_path / f"{index}.wav", np.concatenate(tones) * 0.3 + rng.normal(0, 0.01, 9600), 16_000)
        aligned.append(Aligned(tmp_path / f"{index}.wav", (("aa", 0.0, 0.3), ("b", 0.3, 0.6))))
    config = TrainConfig(model=replace(TINY, intermediate=1))
    config = replace(config, data=replace(config.data, batch_s=2.0), optimiser=replace(config.optimiser, rate=5e-3))
    losses = fit(config, aligned, tmp_path / "start.pt", 40, "0.wav", 5)
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:5])
    assert checkpoint.load(tmp_path / "start.pt")["step"] == 40


def test_alignments_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("{")
    with pytest.raises(ManifestError, match=r"a\.jsonl"):
        read_alignments(tmp_path / "a.jsonl")
