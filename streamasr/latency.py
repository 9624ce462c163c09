"""User-perceived latency: from the end of a word in the sound to the moment when it can be read.

Time is a virtual clock: a chunk arrives when its last sample was said; work on it begins when it is there and the work
before it is done; each piece of work takes what it was measured to take. So waiting for a chunk, lookahead, computing
and queueing all count, and a busy machine's other work does not.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import jiwer
import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from streamasr.bundle import Bundle

Samples = NDArray[np.float32]


class Shown(NamedTuple):
    """What could be read at a moment: all words since the beginning, the first `committed` of which are final."""

    at_s: float
    words: tuple[str, ...]
    committed: int


class Spoken(NamedTuple):
    """A word in the sound."""

    text: str
    start_s: float
    end_s: float


class WordLatency(NamedTuple):
    """Seconds after the end of a word until it was first shown at its place, and until it was final."""

    word: Spoken
    shown_s: float
    committed_s: float


class Clock:
    """The virtual clock of one worker."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def work(self, arrived_s: float, took_s: float) -> float:
        """Work of `took_s` on what arrived at `arrived_s`; returns when it is done."""
        self.now_s = max(self.now_s, arrived_s) + took_s
        return self.now_s


def spoken(bundle: Bundle, samples: Samples, words: Sequence[str]) -> list[Spoken]:
    """When words were said in samples (S,), by forced alignment on the logits of the bundle's own model.

    A word ends with the frame after the last one of its last letter. Nothing where the words do not fit the sound.
    """
    import torch  # the rest of this module goes without it, so that peers need no memory for it
    from torchaudio.functional import forced_align

    tokens = bundle.vocab.encode(" ".join(words))
    sound = torch.from_numpy(np.ascontiguousarray(samples))[None]
    device = bundle.model.features.window.device
    with torch.inference_mode():
        log_probs, lengths = bundle.model(sound.to(device), torch.tensor([len(samples)], device=device))
    log_probs = log_probs[:, : int(lengths[0])].float().cpu()
    repeats = sum(a == b for a, b in itertools.pairwise(tokens))
    if not tokens or len(tokens) + repeats > log_probs.shape[1]:
        return []
    path, _ = forced_align(log_probs, torch.tensor([tokens], dtype=torch.int32), blank=0)
    frames: list[list[int]] = [[] for _ in tokens]  # of each token
    at, before = -1, 0
    for frame, token in enumerate(path[0].tolist()):
        if token and token != before:
            at += 1
        if token:
            frames[at].append(frame)
        before = token
    frame_s, found, first = bundle.model.frame_ms / 1000, [], 0
    for word in words:
        last = first + len(bundle.vocab.encode(word)) - 1
        found.append(Spoken(word, frames[first][0] * frame_s, (frames[last][-1] + 1) * frame_s))
        first = last + 2  # and the space
    return found


def latencies(history: Sequence[Shown], said: Sequence[Spoken]) -> list[WordLatency]:
    """Of every word that was said and that the last of `history` has right."""
    if not history or not history[-1].words or not said:
        return []
    final = history[-1].words
    chunks = jiwer.process_words(" ".join(word.text for word in said), " ".join(final)).alignments[0]
    found = []
    for chunk in chunks:
        if chunk.type != "equal":
            continue
        for word, at in zip(
            said[chunk.ref_start_idx : chunk.ref_end_idx], range(chunk.hyp_start_idx, chunk.hyp_end_idx), strict=True
        ):
            shown_s = next(s.at_s for s in history if len(s.words) > at and s.words[at] == final[at])
            committed_s = next((s.at_s for s in history if s.committed > at), history[-1].at_s)
            found.append(WordLatency(word, shown_s - word.end_s, committed_s - word.end_s))
    return found


def percentiles_ms(seconds: Sequence[float]) -> dict[str, float]:
    """p50, p90 and p99 in milliseconds; nothing of nothing."""
    if not seconds:
        return {}
    return {f"p{q}": round(float(np.percentile(seconds, q)) * 1000) for q in (50, 90, 99)}
