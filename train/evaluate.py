"""Greedy word errors during training, on whole utterances. The released figures come from `streamasr evaluate`."""

from __future__ import annotations

import jiwer
import torch

from streamasr.model import AsrModel
from streamasr.text import Vocab
from train.data import Corpus


@torch.inference_mode()
def word_errors(model: AsrModel, corpus: Corpus, vocab: Vocab, limit: int, device: str) -> tuple[float, list[tuple[str, str]]]:
    """WER in percent over `limit` utterances spread over the corpus, and (reference, hypothesis) pairs."""
    was_training = model.training
    model.eval()
    step = max(1, len(corpus) // limit) if limit else 1
    chosen = sorted(range(0, len(corpus), step), key=corpus.seconds)
    pairs: list[tuple[str, str]] = []
    for at in range(0, len(chosen), 16):
        group = chosen[at : at + 16]
        signals = [torch.from_numpy(corpus.samples(i)) for i in group]
        lengths = torch.tensor([len(s) for s in signals], device=device)
        padded = torch.nn.utils.rnn.pad_sequence(signals, batch_first=True).to(device)
        log_probs, frames = model(padded, lengths)
        for row, index in enumerate(group):
            best = log_probs[row, : int(frames[row])].argmax(-1).tolist()
            pairs.append((corpus.utterances[index].text, " ".join(vocab.collapse(best).split())))
    model.train(was_training)
    return 100 * jiwer.wer([r for r, _ in pairs], [h for _, h in pairs]), pairs
