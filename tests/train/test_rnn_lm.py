from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from streamasr.config import BeamConfig
from streamasr.ctc import Decoder
from streamasr.lm import LanguageModel
from streamasr.rnn_lm import read_rnn
from streamasr.text import Vocab
from tests.test_train_lm import some_text
from train import lm, rnn_lm


def test_a_packed_batch_tells_each_word_after_those_before_it() -> None:
    heard, told = rnn_lm.packed([np.array([7, 8, 9], np.int32), np.array([5], np.int32)])
    assert heard.tolist() == [[1, 7, 8, 9], [1, 5, 2, 2]]
    assert told.tolist() == [[7, 8, 9, 2], [5, 2, -1, -1]]


def test_every_sentence_is_heard_once_an_epoch() -> None:
    lines = rnn_lm.numbered(["a b c"] * 50 + ["a"] * 9 + ["", "a " * 61], ["<unk>", "<s>", "</s>", "a", "b"])
    assert len(lines) == 59 and lines[0].tolist() == [3, 4, 0]
    got = list(rnn_lm.batches(lines, np.random.default_rng(1)))
    assert sum(len(heard) for heard, _ in got) == 59
    assert sum(int((told >= 0).sum()) for _, told in got) == 50 * 4 + 9 * 2


def test_drawn_words_estimate_the_sum_over_all() -> None:
    torch.manual_seed(0)
    shares = torch.softmax(torch.randn(50), 0)
    network = rnn_lm.Network(shares, 8, 6, dropout=0.0)
    heard, told = torch.tensor([[1, 7]]), torch.tensor([[7, 2]])
    vectors = network(heard)[0]
    logits = vectors @ network.embedding.weight.t() + network.bias
    exact = (torch.logsumexp(logits, 1) - logits.gather(1, told[0][:, None])[:, 0]).mean().item()
    drawing = shares.clone()
    drawn = torch.multinomial(drawing, 200_000, replacement=True)
    estimate, held = network.loss(heard, told, drawn, torch.log(len(drawn) * drawing / drawing.sum()))
    assert estimate.item() == pytest.approx(exact, abs=0.1)
    assert held.item() >= 0


def test_training_goes_on_from_its_checkpoint_and_the_beam_takes_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STREAMASR_CACHE", str(tmp_path / "cache"))
    (tmp_path / "text.txt").write_text("\n".join(some_text(1)))
    (tmp_path / "held.txt").write_text("\n".join(some_text(2, 60)))
    given = ["--text", f"{tmp_path}/text.txt=1", "--held-out", f"{tmp_path}/held.txt"]
    folder = str(tmp_path / "lm")
    assert lm.main([*given, "--vocabulary", "60", "--cutoffs", "0,0", "--prune", "0", "--output", folder]) == 0
    small = ["--words", "40", "--size", "8", "--cells", "12", "--samples", "30", "--rate", "0.01", "--repeat", "1"]
    assert rnn_lm.main([*given, *small, "--hours", "0.0008", "--output", ""]) == 0
    assert read_rnn(Path(folder)) is None
    assert rnn_lm.main([*given, *small, "--hours", "0.0016", "--output", folder]) == 0
    assert (
        rnn_lm.main(
            [*given, *small, "--hours", "0.0001", "--name", "next", "--start-from", "english-rnn-lm", "--output", ""]
        )
        == 0
    )
    shown = [float(part.split(",")[0]) for part in capsys.readouterr().out.split("perplexity ")[1:]]
    assert shown[1] < shown[0] < 40  # of 40 words and an end
    model = LanguageModel.load(folder)
    assert model.rnn and len(model.rnn.words) == 40
    again = tmp_path / "again"
    more = ["--name", "more", "--start-from", folder, "--output", str(again)]
    assert rnn_lm.main([*given, "--repeat", "1", "--hours", "0", *more]) == 0  # its sizes are those of the model
    started = read_rnn(again)
    assert started is not None and started.words == model.rnn.words
    for one, other in zip(model.rnn[1:], started[1:], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    decoder = Decoder(Vocab(), BeamConfig(width=4), lm=model)
    rows = np.full((6, len(Vocab())), -np.log(len(Vocab())), np.float32)
    decoder.finish(decoder.step(rows, decoder.start()))


def test_what_is_missing_is_said_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert rnn_lm.main(["--text", str(tmp_path / "gone.txt"), "--held-out", str(tmp_path / "gone.txt")]) == 1
    assert "gone.txt: No such file" in capsys.readouterr().err


def test_what_cannot_be_begun_with_is_said_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.txt").write_text("\n".join(some_text(1)))
    given = ["--text", f"{tmp_path}/text.txt=1", "--held-out", f"{tmp_path}/text.txt"]
    assert rnn_lm.main([*given, "--start-from", str(tmp_path / "gone")]) == 1
    assert "rnn.safetensors; expected the name of a run" in capsys.readouterr().err
