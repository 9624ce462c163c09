"""Texts for speech that has none: `python -m train.pseudo CHECKPOINT FOLDER OUT --sure 0.9`.

A trained model, best the offline one, recognises every sound file under a folder; those of which it is sure enough go
into a manifest to train on. Source: Kahn, Lee, Hannun, "Self-Training for End-to-End Speech Recognition", 2020.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import soundfile

from streamasr.errors import ManifestError, StreamasrError
from streamasr.text import Vocab
from train.augment import recordings
from train.checkpoint import load_model
from train.data import Corpus
from train.evaluate import hear


def label(
    checkpoint: Path, folder: Path, out: Path, *, sure: float = 0.9, longest_s: float = 20.0, device: str = "cpu"
) -> Path:
    """Write `out/manifest.tsv` with the files under `folder` and what was recognised in them.

    Args:
        sure: keep an utterance where the geometric mean of its frames' highest probabilities is at least this.

    Returns:
        `out`, a corpus.

    Raises:
        ConfigError: no sound file. ManifestError: nothing was sure enough.
    """
    out.mkdir(parents=True, exist_ok=True)
    listed = []
    for path in recordings(str(folder)):
        try:
            seconds = soundfile.info(path).duration
        except (soundfile.LibsndfileError, OSError):
            continue
        relative = os.path.relpath(path.resolve(), out.resolve())
        listed.append(f"{relative}\t{seconds:.3f}\t?\tx\n")  # any text: it is about to be replaced
    unlabelled = out / "unlabelled.tsv"
    unlabelled.write_text("".join(listed), encoding="utf-8")
    corpus = Corpus(unlabelled, longest_s)
    heard = hear(load_model(checkpoint)[0].to(device), corpus, Vocab(), list(range(len(corpus))), device)
    kept = [
        f"{os.path.relpath(utterance.path.resolve(), out.resolve())}\t{utterance.seconds:.3f}\t?\t{found.hypothesis}\n"
        for utterance, found in zip(corpus.utterances, heard, strict=True)
        if found.hypothesis and found.confidence >= sure
    ]
    unlabelled.unlink()
    print(f"{out}: {len(kept)} of {len(listed)} recordings kept", flush=True)
    if not kept:
        raise ManifestError(f"nothing in {folder} was recognised surely enough", f"{sure:g}", "Lower --sure.")
    (out / "manifest.tsv").write_text("".join(kept), encoding="utf-8")
    return out


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m train.pseudo", description="Recognise unlabelled speech to train on."
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--sure", type=float, default=0.9, help="default: %(default)s")
    parser.add_argument("--longest-s", type=float, default=20.0, help="default: %(default)s")
    parser.add_argument("--device", default="cpu")
    try:
        label(**vars(parser.parse_args()))
    except StreamasrError as error:
        print(f"train.pseudo: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
