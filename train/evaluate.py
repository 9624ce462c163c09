"""Greedy word errors on whole utterances: `python -m train.evaluate CHECKPOINT MANIFEST...`

Used during training, and for the bidirectional model, which cannot stream. The released figures of a streaming model
come from `streamasr evaluate`.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import jiwer
import torch

from streamasr.errors import ManifestError, StreamasrError
from streamasr.model import AsrModel
from streamasr.text import Vocab
from train.checkpoint import load_model
from train.data import Corpus


@dataclass(frozen=True)
class Heard:
    """One utterance: its text, what was recognised, the frame of each recognised token, and how sure the frames are."""

    reference: str
    hypothesis: str
    tokens: list[int]
    frames: list[int]
    confidence: float


@torch.inference_mode()
def hear(model: AsrModel, corpus: Corpus, vocab: Vocab, chosen: list[int], device: str = "cpu") -> list[Heard]:
    """Recognise utterances greedily, in batches of like lengths; in the order of `chosen`."""
    was_training = model.training
    model.eval()
    found: dict[int, Heard] = {}
    order = sorted(chosen, key=corpus.seconds)
    for at in range(0, len(order), 16):
        group = order[at : at + 16]
        signals = [torch.from_numpy(corpus.samples(i)) for i in group]
        lengths = torch.tensor([len(s) for s in signals], device=device)
        padded = torch.nn.utils.rnn.pad_sequence(signals, batch_first=True).to(device)
        log_probs, counts = model(padded, lengths)
        for row, index in enumerate(group):
            sure, best = log_probs[row, : int(counts[row])].float().max(-1)
            path = best.tolist()
            frames = [t for t, token in enumerate(path) if token and (t == 0 or token != path[t - 1])]
            text = " ".join(vocab.collapse(path).split())
            confidence = float(sure.mean().exp()) if len(path) else 0.0
            found[index] = Heard(corpus.utterances[index].text, text, [path[t] for t in frames], frames, confidence)
    model.train(was_training)
    return [found[index] for index in chosen]


def word_errors(
    model: AsrModel, corpus: Corpus, vocab: Vocab, limit: int = 0, device: str = "cpu"
) -> tuple[float, list[tuple[str, str]]]:
    """WER in percent over `limit` utterances spread over the corpus (0: all), and (reference, hypothesis) pairs.

    Raises:
        ManifestError: the corpus has no utterance.
    """
    if not len(corpus):
        raise ManifestError(
            "a development set has no utterance that can be used", "audio with text", "Check its paths."
        )
    step = max(1, len(corpus) // limit) if limit else 1
    chosen = sorted(range(0, len(corpus), step), key=corpus.seconds)
    pairs = [(heard.reference, heard.hypothesis) for heard in hear(model, corpus, vocab, chosen, device)]
    return 100 * jiwer.wer([r for r, _ in pairs], [h for _, h in pairs]), pairs


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m train.evaluate", description="Greedy word errors of a checkpoint.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("manifests", type=Path, nargs="+", help="manifests or directories")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    try:
        model = load_model(arguments.checkpoint)[0].to(arguments.device)
        for manifest in arguments.manifests:
            wer, pairs = word_errors(model, Corpus(manifest, 40.0), Vocab(), 0, arguments.device)
            print(f"{manifest}: WER {wer:.2f} % on {len(pairs)} utterances")
    except StreamasrError as error:
        print(f"train.evaluate: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
