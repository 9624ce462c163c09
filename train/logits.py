"""Log-probabilities to tune and measure the decoder on: of a model on a manifest, kept in a file, or rendered."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamasr.text import Vocab

SENTENCES = (
    "the harbour was quiet when the first boats came home",
    "nobody had expected the letter to arrive before sunday",
    "she put the kettle on and looked for the blue cups",
    "we walked along the river until the lights went out",
    "he said that the engine would not start in the cold",
    "it's a pity that the road to the village is closed",
)


class Utterance(NamedTuple):
    """Natural log-probabilities (T, V) and what was said."""

    log_probs: NDArray[np.float32]
    text: str


def of_model(model: Path, manifest: Path, limit: int = 0) -> list[Utterance]:
    """Whole utterances through the network of a bundle."""
    import torch

    from streamasr.audio import read_whole
    from streamasr.bundle import load
    from streamasr.evaluation import read_lines
    from streamasr.text import normalise

    network = load(str(model)).model.eval()
    found = []
    for path, text in list(read_lines(manifest))[: limit or None]:
        samples = torch.from_numpy(read_whole(path))[None]
        with torch.inference_mode():
            log_probs, _ = network(samples, torch.tensor([samples.shape[1]]))
        found.append(Utterance(log_probs[0].numpy(), normalise(text) or ""))
    return found


def save(path: Path, utterances: Sequence[Utterance]) -> None:
    """Keep them in a file."""
    rows = {f"log_probs_{i}": u.log_probs for i, u in enumerate(utterances)}
    np.savez(path, texts=np.array([u.text for u in utterances]), **rows)


def read(path: Path) -> list[Utterance]:
    """Read what `save` wrote."""
    with np.load(path) as file:
        return [Utterance(file[f"log_probs_{i}"], str(text)) for i, text in enumerate(file["texts"])]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options that say where log-probabilities come from."""
    parser.add_argument("--model", type=Path, help="bundle that gives the log-probabilities")
    parser.add_argument("--manifest", type=Path, help="what it hears")
    parser.add_argument("--limit", type=int, default=0, help="only so many utterances")
    parser.add_argument("--save", type=Path, help="keep the log-probabilities in this file")
    parser.add_argument("--logits", type=Path, help="take them from this file; without it or a model: rendered ones")


def from_options(options: argparse.Namespace) -> list[Utterance]:
    """The utterances that the options of `add_options` ask for."""
    if options.model:
        utterances = of_model(options.model, options.manifest, options.limit)
    else:
        utterances = read(options.logits) if options.logits else rendered(SENTENCES * 4)
    utterances = utterances[: options.limit or None]
    if options.save:
        save(options.save, utterances)
    return utterances


def rendered(texts: Sequence[str] = SENTENCES, seed: int = 0, confusion: float = 0.6) -> list[Utterance]:
    """What a peaky network might give: one or two sharp frames a letter, blanks between, and rivals among letters."""
    random, vocab = np.random.default_rng(seed), Vocab()
    found = []
    for text in texts:
        rows = []
        for token in [*vocab.encode(text)]:
            for kind in [0] * int(random.integers(0, 3)) + [token] * int(random.integers(1, 3)) + [0]:
                row = random.normal(0.0, 1.2, len(vocab))
                row[kind] += 8.0 if kind == 0 else 8.0 * random.uniform(0.5, 1.0)
                if kind:
                    row[int(random.integers(2, len(vocab)))] += 8.0 * confusion * random.uniform(0.0, 1.0)
                    row[0] += 8.0 * confusion * random.uniform(0.0, 0.8)
                rows.append(row)
        logits = np.array(rows)
        logits -= np.log(np.exp(logits).sum(1, keepdims=True))
        found.append(Utterance(logits.astype(np.float32), text))
    return found
