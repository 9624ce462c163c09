"""Each term of the loss: zero where it should be, positive elsewhere, with a finite gradient."""

from __future__ import annotations

import numpy as np
import torch

from train.config import TechniqueConfig
from train.losses import consistency, ctc_loss, distillation, peak_first, trim_tails

LENGTHS = torch.tensor([9, 6])


def posteriors(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 9, 5, generator=generator).log_softmax(-1).requires_grad_()


def check_gradient(value: torch.Tensor, *inputs: torch.Tensor) -> None:
    assert value > 0
    for gradient in torch.autograd.grad(value, inputs):
        assert torch.isfinite(gradient).all()
        assert gradient.abs().sum() > 0
        assert not gradient[1, 6:].any()  # beyond the second row's length


def test_consistency_is_mutual() -> None:
    one, two = posteriors(1), posteriors(2)
    assert torch.allclose(consistency(one, two, LENGTHS), consistency(two, one, LENGTHS))
    assert consistency(one, one, LENGTHS).abs() < 1e-6
    check_gradient(consistency(one, two, LENGTHS), one, two)


def test_distillation_allows_a_delay() -> None:
    teacher, student = posteriors(1), posteriors(2)
    late = torch.roll(teacher.detach(), 2, 1)
    assert distillation(teacher, late, LENGTHS, delay=2).abs() < 1e-5
    assert distillation(teacher, late, LENGTHS) > 1
    value = distillation(teacher, student, LENGTHS, delay=2)
    check_gradient(value, student)
    assert not torch.autograd.grad(distillation(teacher, student, LENGTHS), teacher, allow_unused=True)[0]


def test_peak_first_prefers_the_earlier_of_two_spikes() -> None:
    """Its gradient on a flat frame before a spike raises the spike's token there."""
    logits = torch.zeros(1, 2, 3, requires_grad=True)
    spike = torch.zeros(1, 2, 3)
    spike[0, 1, 2] = 8.0
    value = peak_first((logits + spike).log_softmax(-1), torch.tensor([2]))
    gradient = torch.autograd.grad(value, logits)[0]
    assert gradient[0, 0, 2] < 0 < gradient[0, 0, 1]
    assert not gradient[0, 1].any()
    log_probs = posteriors(1)
    check_gradient(peak_first(log_probs, LENGTHS), log_probs)


def test_trimmed_tails_leave_room_for_the_text() -> None:
    frames, targets = torch.tensor([400, 400, 100]), torch.tensor([10, 60, 20])
    config = TechniqueConfig(trim_chance=1.0, trim_longest_ms=2000)
    cut = torch.stack(
        [
            trim_tails(frames, targets, config, 10.0, [np.random.default_rng([i, j]) for j in range(3)])
            for i in range(50)
        ]
    )
    assert cut[:, 0].min() < 300
    assert cut[:, 0].min() >= 200
    assert cut[:, 1].min() >= 376
    assert (cut[:, 2] == 100).all()
    never = trim_tails(frames, targets, TechniqueConfig(), 10.0, [np.random.default_rng(0)] * 3)
    assert torch.equal(never, frames)


def test_impossible_utterances_count_nothing() -> None:
    log_probs = posteriors(1)
    targets, target_lengths = torch.tensor([1, 2, *[3] * 12]), torch.tensor([2, 12])
    value = ctc_loss(log_probs, LENGTHS, targets, target_lengths)
    assert torch.isfinite(value)
    assert not torch.autograd.grad(value, log_probs)[0][1].any()
