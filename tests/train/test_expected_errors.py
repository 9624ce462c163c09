"""The expected word errors are those of the hypotheses, and their gradient is that of the sum it stands for."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import torch

from streamasr.text import Vocab
from train.expected_errors import BEAM, ExpectedErrors, wrong_words

VOCAB = Vocab()
LETTERS = [0, *VOCAB.encode(" ab")]  # what is possible at all here


def frames(rows: int, count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randn(rows, count, len(LETTERS), generator=generator).log_softmax(-1)
    log_probs = torch.full((rows, count, len(VOCAB)), -50.0)
    log_probs[..., LETTERS] = chosen
    return log_probs


def by_enumeration(log_probs: torch.Tensor, said: str) -> torch.Tensor:
    """The expectation over all texts, from all alignments; differentiable."""
    masses: dict[str, list[torch.Tensor]] = {}
    for path in itertools.product(LETTERS, repeat=len(log_probs)):
        text = " ".join(VOCAB.collapse(path).split())
        masses.setdefault(text, []).append(log_probs[range(len(path)), path].sum())
    totals = torch.stack([torch.stack(each).logsumexp(0) for each in masses.values()])
    wrong = torch.tensor([wrong_words(said, text) for text in masses], dtype=totals.dtype)
    return (totals.softmax(0) * wrong).sum()


def test_value_and_gradient_are_those_of_a_sum_over_all_alignments() -> None:
    """There are no spaces here: those at the edges belong to no text."""
    log_probs = frames(2, 5, 0)
    log_probs[..., VOCAB.space] = -50.0
    log_probs.requires_grad_()
    errors = ExpectedErrors(VOCAB, 10_000, None, replace(BEAM, width=500, drop=-30.0, prune_alone=-30.0))
    said, lengths = ["ab", "b"], [5, 4]
    tokens = [torch.tensor(VOCAB.encode(text)) for text in said]
    value = errors(log_probs, torch.tensor(lengths), torch.cat(tokens), torch.tensor([len(t) for t in tokens]))
    expected = sum(
        by_enumeration(log_probs[row, :n], text) for row, (n, text) in enumerate(zip(lengths, said, strict=True))
    )
    assert math.isclose(float(value.detach()), float(expected.detach()), rel_tol=1e-3)
    (found,), (wanted,) = torch.autograd.grad(value, log_probs), torch.autograd.grad(expected, log_probs)
    assert wanted.abs().max() > 0.05
    torch.testing.assert_close(found, wanted, atol=2e-3, rtol=0.02)
    assert not found[1, 4:].any()
