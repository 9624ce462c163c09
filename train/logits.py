"""Log-probabilities to tune and measure the decoder on: of a model on manifests, kept between runs, or rendered."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from streamasr import bundle
from streamasr.checksums import digest
from streamasr.text import Vocab

READ, CROWD = "../shared/corpus/dev/read/manifest.tsv", "../shared/corpus/dev/crowd/manifest.tsv"
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


Sets: TypeAlias = dict[str, list[Utterance]]  # by name, in the order of their manifests


def name_of(manifest: Path) -> str:
    """What a manifest is called in tables: its folder."""
    return (manifest if manifest.is_dir() else manifest.parent).name or str(manifest)


def of_model(model: Path, manifest: Path, limit: int = 0) -> list[Utterance]:
    """Whole utterances with text through the network of a bundle; `limit`: so many, evenly drawn; 0: all."""
    import torch

    from streamasr.audio import read_whole
    from streamasr.errors import AudioError
    from streamasr.evaluation import read_lines
    from streamasr.text import normalise

    network = bundle.load(str(model)).model.eval()
    lines = [(path, text) for path, raw in read_lines(manifest) if (text := normalise(raw))]
    print(f"hearing {name_of(manifest)}: {len(lines)} utterances", file=sys.stderr, flush=True)
    found = []
    for path, text in spread(lines, limit):
        try:
            samples = torch.from_numpy(read_whole(path))[None]
        except AudioError as error:
            print(f"left out: {error}", file=sys.stderr)
            continue
        with torch.inference_mode():
            log_probs, _ = network(samples, torch.tensor([samples.shape[1]]))
        found.append(Utterance(log_probs[0].numpy(), text))
    return found


def kept(model: Path, manifest: Path, limit: int = 0) -> list[Utterance]:
    """As `of_model`, computed once for the same weights and manifest and then read from `cache_root()`/logits."""
    from streamasr.evaluation import read_lines
    from train.data import cache_root

    bundle.verify(model)
    content, lines = bundle.read_config(model), [(str(path.resolve()), text) for path, text in read_lines(manifest)]
    parts = [digest((model / "weights.safetensors").read_bytes()), content.get("features"), content.get("model"), lines]
    key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
    whole, path = (cache_root() / "logits" / f"{key}{number}.npz" for number in ("", f"-{limit}" if limit else ""))
    if whole.is_file():
        return spread(read(whole), limit)
    if path.is_file():
        return read(path)
    utterances = of_model(model, manifest, limit)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.stem}.{os.getpid()}.npz")
    save(partial, utterances)
    partial.replace(path)
    return utterances


def spread(items: Sequence, limit: int) -> list:
    """`limit` of the items, evenly drawn; all for 0."""
    step = len(items) / limit if 0 < limit < len(items) else 1.0
    return [items[int(i * step)] for i in range(min(limit or len(items), len(items)))]


def save(path: Path, utterances: Sequence[Utterance]) -> None:
    """Keep them in a file."""
    rows = {f"log_probs_{i}": u.log_probs for i, u in enumerate(utterances)}
    np.savez(path, texts=np.array([u.text for u in utterances]), **rows)


def read(path: Path) -> list[Utterance]:
    """Read what `save` wrote."""
    with np.load(path) as file:
        return [Utterance(file[f"log_probs_{i}"], str(text)) for i, text in enumerate(file["texts"])]


def add_options(parser: argparse.ArgumentParser, *manifests: str) -> None:
    """Options that say where log-probabilities come from; `manifests`: those that are heard by default."""
    parser.add_argument("--model", help="bundle that gives the log-probabilities; default: the default model")
    parser.add_argument(
        "--manifest", type=Path, action="append", help=f"what it hears; repeat; default: {' '.join(manifests)}"
    )
    parser.add_argument("--limit", type=int, default=0, help="only so many utterances of each, evenly drawn")
    parser.add_argument("--logits", type=Path, action="append", help="a file of `logits.save` instead; repeat")
    parser.add_argument("--rendered", action="store_true", help="made-up ones instead")
    parser.set_defaults(manifests=manifests)


def sets_from(options: argparse.Namespace) -> Sets:
    """The sets that the options of `add_options` ask for.

    Raises:
        BundleError: there is no such model. ManifestError: there is no such manifest.
    """
    if options.rendered:
        return {"rendered": rendered(SENTENCES * 4)}
    if options.logits:
        return {path.stem: spread(read(path), options.limit) for path in options.logits}
    model = bundle.find(options.model)
    manifests = options.manifest or [Path(manifest) for manifest in options.manifests]
    return {name_of(manifest): kept(model, manifest, options.limit) for manifest in manifests}


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
