"""Log-probabilities for decoder tests: random ones, and text rendered as a peaky CTC network would give it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamasr.text import Vocab

Rows = NDArray[np.float32]


def log_softmax(logits: NDArray[np.float64]) -> Rows:
    top = logits - logits.max(-1, keepdims=True)
    return (top - np.log(np.exp(top).sum(-1, keepdims=True))).astype(np.float32)


def noise(random: np.random.Generator, frames: int, tokens: int, peak: float = 3.0) -> Rows:
    return log_softmax(random.normal(0.0, peak, (frames, tokens)))


def render(text: str, vocab: Vocab, seed: int = 0, peak: float = 7.0, confusion: float = 0.8) -> Rows:
    """One sharp frame for each character (sometimes two), blanks between, and rivals among the letters."""
    random = np.random.default_rng(seed)
    rows = []
    for token in vocab.encode(text):
        for kind in [0] * int(random.integers(1, 4)) + [token] * int(random.integers(1, 3)):
            row = random.normal(0.0, 1.0, len(vocab))
            row[kind] += peak * (random.uniform(0.6, 1.0) if kind else 1.0)
            if kind:
                row[int(random.integers(2, len(vocab)))] += peak * confusion * random.uniform(0.0, 1.0)
            rows.append(row)
    rows += [np.eye(len(vocab))[0] * peak] * 3
    return log_softmax(np.array(rows))
