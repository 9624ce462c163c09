"""The terms that training minimises. Each is a sum over utterances (or frames); the loop divides by the tokens."""

from __future__ import annotations

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor, nn

from train.config import TechniqueConfig
from train.ctc_cpu import ctc_sum


def ctc_loss(log_probs: Tensor, lengths: Tensor, targets: Tensor, target_lengths: Tensor) -> Tensor:
    """CTC (Graves et al., 2006) of (B, T, V) and concatenated targets; impossible utterances count nothing."""
    if log_probs.device.type == "cpu":
        return ctc_sum(log_probs.float(), lengths, targets, target_lengths)
    return nn.functional.ctc_loss(
        log_probs.transpose(0, 1).float(),
        targets.to(log_probs.device),
        lengths.cpu(),
        target_lengths.cpu(),
        reduction="sum",
        zero_infinity=True,
    )


def frames_within(lengths: Tensor, frames: int) -> Tensor:
    """True (B, frames) before each row's length."""
    return torch.arange(frames, device=lengths.device) < lengths[:, None]


def divergence(target: Tensor, log_probs: Tensor, keep: Tensor) -> Tensor:
    """Kullback-Leibler divergence of log-probabilities (B, T, V) from `target`, over the frames `keep` (B, T)."""
    target = target.detach().float()
    each = (target.exp() * (target - log_probs.float())).sum(-1)
    return torch.where(keep, each, 0.0).sum()


def consistency(first: Tensor, second: Tensor, lengths: Tensor) -> Tensor:
    """Mutual divergence of two views of the same utterances, each the other's fixed target.

    Source: Yao et al., "CR-CTC: Consistency regularization on CTC for improved speech recognition", 2024.
    """
    keep = frames_within(lengths, first.shape[1])
    return (divergence(second, first, keep) + divergence(first, second, keep)) / 2


def distillation(teacher: Tensor, student: Tensor, lengths: Tensor, delay: int = 0) -> Tensor:
    """Divergence of the student's frame t + delay from the teacher's frame t.

    Source: Kurata, Audhkhasi, "Improved Knowledge Distillation from Bi-directional to Uni-directional LSTM CTC for
    End-to-End Speech Recognition", 2018.
    """
    frames = min(teacher.shape[1], student.shape[1])
    keep = frames_within(lengths, frames)[:, delay:]
    return divergence(teacher[:, : frames - delay], student[:, delay:frames], keep)


def peak_first(log_probs: Tensor, lengths: Tensor) -> Tensor:
    """Divergence of each frame from the one after it: every frame learns to say now what the next will say.

    Source: Tian et al., "Peak-First CTC: Reducing the Peak Latency of CTC Models by Applying Peak-First
    Regularization", 2022.
    """
    keep = frames_within(lengths, log_probs.shape[1])[:, 1:]
    return divergence(log_probs[:, 1:], log_probs[:, :-1], keep)


def trim_tails(
    frames: Tensor, target_lengths: Tensor, config: TechniqueConfig, hop_ms: float, rngs: list[Generator]
) -> Tensor:
    """Shorter lengths (B,) in feature frames for some of the utterances, never too short for their text.

    Source: Song et al., "TrimTail: Low-Latency Streaming ASR with Simple but Effective Spectrogram-Level Length
    Penalty", 2022.
    """
    longest = int(config.trim_longest_ms / hop_ms)
    cuts = [int(r.integers(0, longest + 1)) if r.random() < config.trim_chance else 0 for r in rngs]
    needed = (target_lengths * 6 + 16).to(frames)  # 1.5 output frames a token at stride 4
    return torch.maximum(frames - torch.from_numpy(np.array(cuts)).to(frames), torch.minimum(frames, needed))
