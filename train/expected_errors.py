"""The word errors that a decoder may expect to make: what is measured in the end, as a term of the loss.

The beam decodes each utterance of a batch with a language model; among its best hypotheses, a number of wrong words is
expected. The gradient makes hypotheses likelier that have fewer than that, and the others less likely.

Sources: Prabhavalkar et al., "Minimum Word Error Rate Training for Attention-based Sequence-to-Sequence Models", 2018
(hypotheses of a beam, their probabilities shared out among them, and the mean taken off); Graves, Jaitly, "Towards
End-to-End Speech Recognition with Recurrent Neural Networks", 2014 (the gradient of an expected loss through CTC).
"""

from __future__ import annotations

import jiwer
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from streamasr import bundle
from streamasr.config import BeamConfig
from streamasr.ctc import Decoder
from streamasr.lm import LanguageModel
from streamasr.text import Vocab
from train.ctc_cpu import align

# A narrow beam that commits nothing early. The language model counts for less than in use, so that the network learns
# to tell words apart that it does not tell apart.
BEAM = BeamConfig(
    width=48, tail_s=30.0, alpha=0.8, beta=0.4, unknown=-1.0, blank=0.3, prior=0.4, rnn=0.0, prune=-5.0, drop=-12.0
)
LEAST = 1e-4  # of a wrong word: what counts less has no gradient


class ExpectedErrors:
    """The term for batches of log-probabilities over `vocab`.

    Args:
        hypotheses: at most so many of each utterance.
        lm: the language model; without one the letters speak for themselves.
    """

    def __init__(self, vocab: Vocab, hypotheses: int, lm: LanguageModel | None, config: BeamConfig = BEAM) -> None:
        self.vocab, self.hypotheses = vocab, hypotheses
        self.decoder = Decoder(vocab, config, lm=lm)
        self.offsets = self.decoder.offsets.astype(np.float32)

    @classmethod
    def load(cls, vocab: Vocab, hypotheses: int) -> ExpectedErrors:
        """With the default language model, if it is installed."""
        place = bundle.find_lm(None)
        return cls(vocab, hypotheses, LanguageModel.load(place) if place else None)

    def __call__(self, log_probs: Tensor, lengths: Tensor, targets: Tensor, target_lengths: Tensor) -> Tensor:
        """The sum of the expected wrong words of (B, T, V) log-probabilities; arguments as in `losses.ctc_loss`."""
        rows = log_probs.detach().float().cpu().numpy()
        gradient, expected = np.zeros_like(rows), 0.0
        texts = np.split(targets.cpu().numpy(), np.cumsum(target_lengths.cpu().numpy())[:-1])
        for row, frames, text, slope in zip(rows, lengths.tolist(), texts, gradient, strict=True):
            if frames and len(text):
                expected += self._one(row[:frames], self.vocab.decode(text.tolist()), slope[:frames])
        surrogate = (log_probs * torch.from_numpy(gradient).to(log_probs)).sum()
        return surrogate - surrogate.detach() + expected

    def _one(self, log_probs: NDArray[np.float32], said: str, gradient: NDArray[np.float32]) -> float:
        """The expected wrong words of one utterance (T, V); their gradient is added to `gradient`."""
        found = self.decoder.alternatives(self.decoder.step(log_probs, self.decoder.start()), self.hypotheses)
        scores = np.array([score for _, score in found])
        shares = np.exp(scores - scores.max())
        shares /= shares.sum()
        wrong = np.array([wrong_words(said, text) for text, _ in found], np.float64)
        expected = float(shares @ wrong)
        heard = np.exp(log_probs + self.offsets)
        for (text, _), weight in zip(found, shares * (wrong - expected), strict=True):
            if abs(weight) >= LEAST:
                slope = np.zeros_like(gradient)
                align(heard, len(heard), np.array(self.vocab.encode(text), np.int64), slope)
                gradient -= np.float32(weight) * slope
        return expected


def wrong_words(said: str, heard: str) -> int:
    """Substitutions, deletions and insertions."""
    found = jiwer.process_words(said, heard)
    return int(found.substitutions + found.deletions + found.insertions)
