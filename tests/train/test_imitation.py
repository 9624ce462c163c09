"""A teacher's frames: read, kept, found again after augmentation, and learnt from."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from streamasr.errors import BundleError, ConfigError
from streamasr.text import Vocab
from tests.train.corpora import make_corpus, tiny
from train import checkpoint, fit, imitation
from train.augment import Timing
from train.config import TechniqueConfig
from train.data import FRAME, Batches, Corpus, Span
from train.log import read_log
from train.losses import frames_within

SIZE, MELS = 16, 80


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STREAMASR_CACHE", str(tmp_path / "cache"))
    torch.set_num_threads(1)
    return tmp_path / "cache"


def write_whisper(folder: Path) -> Path:
    """A tiny encoder with random weights, two layers and two heads, in CTranslate2's format."""
    rng = np.random.default_rng(1)
    shapes: dict[str, tuple[int, ...]] = {
        "conv1/weight": (SIZE, MELS, 3),
        "conv1/bias": (SIZE,),
        "conv2/weight": (SIZE, SIZE, 3),
        "conv2/bias": (SIZE,),
        "position_encodings/encodings": (1500, SIZE),
        "layer_norm/gamma": (SIZE,),
        "layer_norm/beta": (SIZE,),
    }
    for layer in ("layer_0", "layer_1"):
        for name, out, inner in (
            ("self_attention/linear_0", 3 * SIZE, SIZE),
            ("self_attention/linear_1", SIZE, SIZE),
            ("ffn/linear_0", 4 * SIZE, SIZE),
            ("ffn/linear_1", SIZE, 4 * SIZE),
        ):
            shapes |= {f"{layer}/{name}/weight": (out, inner), f"{layer}/{name}/bias": (out,)}
        for name in ("self_attention", "ffn"):
            shapes |= {f"{layer}/{name}/layer_norm/{part}": (SIZE,) for part in ("gamma", "beta")}
    tensors = {
        f"encoder/{name}": (rng.standard_normal(shape) * 0.3).astype(np.float16) for name, shape in shapes.items()
    }
    tensors["encoder/num_heads"] = np.array(2, np.int16)
    kinds = {kind: number for number, kind in imitation.KINDS.items()}

    def text(value: str) -> bytes:
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    content = struct.pack("<I", 6) + text("WhisperSpec") + struct.pack("<II", 3, len(tensors))
    for name, tensor in tensors.items():
        content += text(name) + struct.pack(f"<B{tensor.ndim}I", tensor.ndim, *tensor.shape)
        content += struct.pack("<BI", kinds[tensor.dtype.type], tensor.nbytes) + tensor.tobytes()
    folder.mkdir()
    (folder / "model.bin").write_bytes(content)
    return folder


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = make_corpus(tmp_path / "corpus")
    encoder = imitation.Encoder(write_whisper(tmp_path / "whisper"))
    imitation.prepare(Corpus(folder, 20.0), folder.name, encoder)
    return folder


def test_frames_are_those_of_the_encoder(tmp_path: Path, corpus: Path) -> None:
    utterances = Corpus(corpus, 20.0)
    frames = imitation.Frames(corpus.name, len(utterances))
    assert frames.size == SIZE
    samples = torch.zeros(1, imitation.WINDOW)
    heard = torch.from_numpy(utterances.samples(0))
    samples[0, : len(heard)] = heard * (0.5 / heard.abs().max())
    middle, last = imitation.Encoder(tmp_path / "whisper")(samples)
    expected = torch.cat([middle, last], -1)[0].float()
    count = len(heard) // FRAME  # the first utterance; others follow it in the window, which changes little
    kept, inside = frames.at(0, np.arange(count, dtype=np.float64))
    assert inside.all()
    wanted = ((expected[0::2] + expected[1::2]) / 2)[:count].numpy()
    assert np.corrcoef(kept.ravel(), wanted.ravel())[0, 1] > 0.9


def test_frames_between_and_outside(corpus: Path) -> None:
    frames = imitation.Frames(corpus.name, 12)
    (low, high, between), inside = frames.at(3, np.array([1.0, 2.0, 1.25]))
    np.testing.assert_allclose(between, 0.75 * low + 0.25 * high, atol=1e-3)
    assert inside.all()
    assert frames.at(3, np.array([-1.0, 0.0, 1e6]))[1].tolist() == [False, True, False]


def test_frames_follow_the_sound_through_augmentation(corpus: Path) -> None:
    config = tiny(corpus, name="a")
    frames = imitation.Frames(corpus.name, 12)
    batches = Batches([Corpus(corpus, 20.0)], config.data, None, Vocab(), 1, frames=[frames])
    plain, _ = batches.imitated([Span(0, 2, 0, Timing())], 8)
    later, there = batches.imitated([Span(0, 2, 0, Timing(before=3 * FRAME))], 11)
    assert there.tolist() == [False] * 3 + [True] * 8
    np.testing.assert_allclose(later[3:], plain, atol=1e-6)
    slower, _ = batches.imitated([Span(0, 2, 0, Timing(factor=2.0))], 16)
    np.testing.assert_allclose((slower[0::2] + slower[1::2])[1:-1] / 2, plain[1:-1], atol=0.6)


def test_imitation_is_learnt(corpus: Path) -> None:
    config = replace(tiny(corpus, name="imitating"), technique=TechniqueConfig(imitate=1.0))
    config = replace(config, optimiser=replace(config.optimiser, steps=30))
    fitted = fit.fit(config)
    curve = [line["imitate"] for line in read_log(fitted.checkpoint.parent) if "imitate" in line]
    assert sum(curve[-5:]) < 0.8 * sum(curve[:5])


def test_a_trained_model_begins_with_the_best_maps(corpus: Path) -> None:
    config = replace(tiny(corpus, name="plain"), optimiser=replace(tiny(corpus).optimiser, steps=2))
    trained = fit.fit(config).checkpoint
    imitating = replace(config, technique=TechniqueConfig(imitate=1.0), run=replace(config.run, name="imitating"))
    fitted = fit.fit(imitating, start_from=trained)
    first = next(line["imitate"] for line in read_log(fitted.checkpoint.parent) if "imitate" in line)

    model = checkpoint.load_model(trained)[0]
    utterances = Corpus(corpus, 20.0)
    frames = imitation.Frames(corpus.name, len(utterances))
    batches = Batches([utterances], config.data, None, Vocab(), 1, frames=[frames])
    made = [batches.make(1, *each) for each in enumerate(batches.plan(1))]
    maps = imitation.Imitation(model, SIZE)
    maps.measure(frames.sample())

    def error() -> float:
        total = 0.0
        for batch in made:
            counts = -(-batch.lengths // FRAME)
            model(batch.samples, batch.lengths)
            assert batch.imitated is not None
            wanted, there = batch.imitated
            total += float(maps(wanted, there & frames_within(counts, there.shape[1])).detach())
        return total

    before = error()
    maps.solve(model, made, ridge=1e-6)
    best = error()
    assert best < 0.8 * before and first < before
    for head in maps.heads:
        torch.manual_seed(1)
        kept = head[1].weight.data.clone()
        head[1].weight.data += 0.01 * torch.randn_like(kept)
        assert error() > best
        head[1].weight.data.copy_(kept)


def test_what_is_missing_is_told(tmp_path: Path, corpus: Path) -> None:
    with pytest.raises(ConfigError, match=r"no frames of other.*train\.imitation"):
        imitation.frames_of(["other"], [12])
    ours, none = imitation.frames_of(["corpus", "other"], [12, 3])
    assert ours.size == none.size == SIZE
    assert not none.at(0, np.zeros(4))[1].any()
    with pytest.raises(ConfigError, match="frames of 12 utterances of corpus; expected 13"):
        imitation.Frames("corpus", 13)
    (tmp_path / "bad").mkdir()
    for content in (b"", b"\6\0\0\0nonsense"):
        (tmp_path / "bad/model.bin").write_bytes(content)
        with pytest.raises(BundleError, match="cannot be read"):
            imitation.Encoder(tmp_path / "bad")
