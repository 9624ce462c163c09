"""Corpora with lines that are good for nothing: each is counted and named, or refused with its number."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from streamasr.errors import ConfigError, ManifestError
from streamasr.text import Vocab
from tests.train.corpora import make_corpus
from train.config import DataConfig
from train.data import Batches, Corpus
from train.manifest import Skips, read_manifest


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMASR_CACHE", str(tmp_path / "cache"))


def write(folder: Path, *lines: str) -> Path:
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for name, seconds, level in (("good", 2, 0.1), ("long", 40, 0.1), ("silent", 2, 0.0), ("short", 0.1, 0.1)):
        soundfile.write(folder / f"{name}.wav", level * rng.standard_normal(int(seconds * 16_000)), 16_000)
    (folder / "broken.wav").write_bytes(b"RIFF, and nothing else")
    (folder / "manifest.tsv").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return folder


def test_useless_lines_are_counted_and_named(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "corpus",
        "good.wav\t2.0\ts\tIt's 3 o'clock, Mr. Smith!",
        "",
        "missing.wav\t2.0\ts\tnobody there",
        "good.wav\t2.0\ts\t",
        "good.wav\t2.0\ts\t...",
        "good.wav\t2.0\ts\tдобрый день",
        "long.wav\t40.0\ts\tfar too long",
        "short.wav\t0.1\ts\tno",
        "silent.wav\t2.0\ts\tnot a sound",
        "broken.wav\t2.0\ts\tnot a file",
        f"good.wav\t2.0\ts\t{'far more than anyone can say ' * 4}",
    )
    corpus = Corpus(folder, 30.0)
    assert [utterance.text for utterance in corpus.utterances] == ["it's three o'clock mister smith"]
    assert dict(corpus.skips.counts) == {
        "audio missing": 1,
        "no text": 2,
        "text the alphabet cannot spell": 1,
        "longer than 30 s": 1,
        "shorter than 0.4 s": 1,
        "more text than frames": 1,
        "silent": 1,
        "audio that cannot be decoded": 1,
    }
    assert corpus.skips.examples["silent"] == ["silent.wav"]
    assert "audio missing: 1 (missing.wav" in corpus.skips.report()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("good.wav\t2.0\ttext without a speaker", r"line 2 has 3 columns; expected 4"),
        ("good.wav\t2.0\ts\ta\tb", r"line 2 has 5 columns; expected 4"),
        ("good.wav\ttwo\ts\ttext", r"line 2 has 'two' for seconds"),
    ],
)
def test_line_of_the_wrong_form_is_refused_with_its_number(tmp_path: Path, line: str, message: str) -> None:
    folder = write(tmp_path / "corpus", "good.wav\t2.0\ts\tfine", line)
    with pytest.raises(ManifestError, match=message):
        read_manifest(folder, skips=Skips())


def test_missing_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="cannot be read"):
        read_manifest(tmp_path)


def test_nothing_to_train_on_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "corpus", "missing.wav\t2.0\ts\tnobody")
    with pytest.raises(ManifestError, match="no utterance to train on"):
        Batches([Corpus(folder, 30.0)], DataConfig(), None, Vocab(), 1)


def test_batches_depend_on_seed_and_epoch_alone(tmp_path: Path) -> None:
    corpus = Corpus(make_corpus(tmp_path / "corpus"), 30.0)
    config = DataConfig(batch_s=4.0, weights=[1.5])
    one, two = (Batches([corpus], config, None, Vocab(), 1) for _ in range(2))
    assert one.plan(3) == two.plan(3)
    assert one.plan(3) != one.plan(4)
    assert {item for batch in one.plan(3) for item in batch} == set(range(12))
    batches = one.from_position(3, 1)
    for position in range(1, 3):
        batch = next(batches)
        assert (batch.epoch, batch.position, batch.items) == (3, position, two.plan(3)[position])


def test_processes_share_every_batch(tmp_path: Path) -> None:
    corpus = Corpus(make_corpus(tmp_path / "corpus"), 30.0)
    whole = Batches([corpus], DataConfig(batch_s=4.0), None, Vocab(), 1)
    shares = [Batches([corpus], DataConfig(batch_s=4.0), None, Vocab(), 1, rank, 3) for rank in range(3)]
    for position, items in enumerate(whole.plan(0)):
        batch, parts = whole.make(0, position, items), [share.make(0, position, items) for share in shares]
        assert sorted(item for part in parts if part.weight for item in part.items) == sorted(items)
        assert sum(part.tokens for part in parts) == batch.tokens
        assert sum(part.seconds for part in parts) == pytest.approx(batch.seconds)


def test_curriculum_moves_the_weights(tmp_path: Path) -> None:
    corpora = [Corpus(make_corpus(tmp_path / name), 30.0) for name in "ab"]
    config = DataConfig(weights=[1.0, 0.0], final_weights=[0.0, 2.0], curriculum_epochs=4)
    batches = Batches(corpora, config, None, Vocab(), 1)
    assert [list(batches.weights(epoch)[[0, 12]]) for epoch in (0, 2, 4, 9)] == [[1, 0], [0.5, 1], [0, 2], [0, 2]]
    with pytest.raises(ConfigError, match="weights"):
        Batches(corpora, DataConfig(weights=[1.0, -1.0]), None, Vocab(), 1)


def test_joined_utterances_carry_both_texts(tmp_path: Path) -> None:
    from tests.train.corpora import NO_AUGMENTATION

    corpus = Corpus(make_corpus(tmp_path / "corpus"), 30.0)
    batches = Batches([corpus], DataConfig(join_chance=1.0), NO_AUGMENTATION, Vocab(), 1)
    samples, text, _ = batches.utterance(0, 0)
    first = corpus.utterances[0].text
    assert text.startswith(f"{first} ")
    assert len(samples) > len(corpus.samples(0)) + 1000
