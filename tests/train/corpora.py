"""Tiny corpora: every letter is a tone, so that a tiny network learns them in a few steps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

from streamasr.config import ModelConfig
from train.config import AugmentConfig, DataConfig, OptimiserConfig, RunConfig, TrainConfig

RATE_HZ = 16_000
LETTERS = "abc "
NO_AUGMENTATION = AugmentConfig(
    speed_chance=0.0,
    noise_chance=0.0,
    babble_chance=0.0,
    room_chance=0.0,
    band_chance=0.0,
    codec_chance=0.0,
    silence_chance=0.0,
    frequency_width=8,
    time_width=4,
)


def tones(text: str, rng: np.random.Generator) -> np.ndarray:
    """A tone of 0.12 s for each letter, silence for a space: float32 (S,)."""
    time_s = np.arange(int(0.12 * RATE_HZ)) / RATE_HZ
    parts = [
        np.sin(2 * np.pi * 300 * 2.2 ** LETTERS.index(letter) * time_s + rng.uniform(0, 6)) * (letter != " ")
        for letter in text
    ]
    return (0.3 * np.concatenate(parts)).astype(np.float32)


def make_corpus(folder: Path, utterances: int = 12, seed: int = 1) -> Path:
    """A folder with a manifest of random words over "abc"."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    lines = []
    for number in range(utterances):
        words = ["".join(rng.choice(list("abc"), rng.integers(2, 4))) for _ in range(rng.integers(1, 4))]
        text = " ".join(words)
        samples = np.pad(tones(text, rng), 2000)
        soundfile.write(folder / f"{number}.wav", samples, RATE_HZ)
        lines.append(f"{number}.wav\t{len(samples) / RATE_HZ:.3f}\ts{number % 3}\t{text}\n")
    (folder / "manifest.tsv").write_text("".join(lines))
    return folder


def tiny(train: Path, **run: object) -> TrainConfig:
    """A run on that corpus: 60 thousand weights, batches of four seconds, a line for every step."""
    settings = {
        "threads": 1,
        "log_every_steps": 1,
        "evaluate_every_steps": 10_000,
        "tensorboard": False,
        "device": "cpu",
    }
    return TrainConfig(
        model=ModelConfig(channels=4, rnn="gated", size=32, layers=2, lookahead=2, intermediate=1),
        data=DataConfig(train=[str(train)], batch_s=6.0),
        augment=NO_AUGMENTATION,
        optimiser=OptimiserConfig(rate=5e-3, warmup_steps=2, steps=6),
        run=RunConfig(**{**settings, **run}),  # type: ignore[arg-type]
    )
