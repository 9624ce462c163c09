"""Utterances in memory-mapped 16-bit samples, and deterministic batches by seconds."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import soundfile
import soxr
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from streamasr.errors import ConfigError, ManifestError
from streamasr.text import Vocab
from train.augment import RATE_HZ, Samples, Timing, augment_samples
from train.config import AugmentConfig, DataConfig
from train.manifest import Skips, Utterance, read_manifest

FRAME = 640  # samples of an output frame (stride 4): 40 ms


def cache_root() -> Path:
    """Where decoded corpora and runs live: $STREAMASR_CACHE, else ~/.cache/streamasr."""
    return Path(os.environ.get("STREAMASR_CACHE", Path.home() / ".cache" / "streamasr"))


def _decode(path: Path) -> NDArray[np.int16] | None:
    try:
        samples, rate_hz = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.LibsndfileError, OSError):
        return None
    mono = samples.mean(1)
    if rate_hz != RATE_HZ:
        mono = soxr.resample(mono, rate_hz, RATE_HZ)
    if not np.isfinite(mono).all():
        return None
    return (np.clip(mono, -1, 1) * 32767).astype(np.int16)


class Corpus:
    """A manifest's utterances, decoded once into one file of 16-bit samples that is mapped into memory."""

    def __init__(self, manifest: Path, longest_s: float, *, workers: int = 2) -> None:
        self.skips = Skips()
        listed = read_manifest(manifest, longest_s=longest_s, skips=self.skips)
        file = manifest / "manifest.tsv" if manifest.is_dir() else manifest
        stamp = f"{file.resolve()}\0{file.stat().st_mtime_ns}\0{longest_s}"
        base = cache_root() / "pcm" / hashlib.sha256(stamp.encode()).hexdigest()[:20]
        if not base.with_suffix(".npy").exists() or len(np.load(base.with_suffix(".npy"))) != len(listed):
            self._build(base, listed, workers)  # the second where audio came or went under the same manifest
        ends = np.load(base.with_suffix(".npy"))
        starts = np.concatenate([[0], ends])[:-1]
        self._file, self._size = base.with_suffix(".pcm"), int(ends[-1]) if len(ends) else 0
        self._samples = self._map()
        self.utterances: list[Utterance] = []
        self._spans: list[tuple[int, int]] = []
        for utterance, start, end in zip(listed, starts, ends, strict=True):
            span = self._samples[start:end]
            if end == start:
                self.skips.add("audio that cannot be decoded", utterance.path.name)
            elif int(np.abs(span[:: max(1, len(span) // 4000)]).max()) < 8:
                self.skips.add("silent", utterance.path.name)
            else:
                self.utterances.append(utterance)
                self._spans.append((int(start), int(end)))

    def _map(self) -> NDArray[np.int16]:
        return np.memmap(self._file, np.int16, "r", shape=(self._size,)) if self._size else np.zeros(0, np.int16)

    def __getstate__(self) -> dict[str, Any]:
        """What another process needs: not the samples, which it maps for itself."""
        return {**self.__dict__, "_samples": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._samples = self._map()

    @staticmethod
    def _build(base: Path, listed: list[Utterance], workers: int) -> None:
        base.parent.mkdir(parents=True, exist_ok=True)
        ends, total = [], 0
        partial = base.with_suffix(f".{os.getpid()}.part")
        with partial.open("wb") as out, ThreadPoolExecutor(workers) as pool:
            for samples in pool.map(_decode, [u.path for u in listed]):
                if samples is not None:
                    out.write(samples.tobytes())
                    total += len(samples)
                ends.append(total)
        partial.replace(base.with_suffix(".pcm"))
        index = base.with_suffix(f".{os.getpid()}.npy")
        np.save(index, np.array(ends, np.int64))
        index.replace(base.with_suffix(".npy"))

    def __len__(self) -> int:
        return len(self.utterances)

    def seconds(self, index: int) -> float:
        """Seconds of one utterance, by its samples."""
        start, end = self._spans[index]
        return (end - start) / RATE_HZ

    def samples(self, index: int) -> Samples:
        """Samples of one utterance, (S,) in -1..1."""
        start, end = self._spans[index]
        return self._samples[start:end].astype(np.float32) / 32768.0


@dataclass(frozen=True)
class Batch:
    """Padded utterances. `samples` (B, S), `lengths` (B,) samples, `targets` concatenated, `target_lengths` (B,).

    `weight` is 0 where a process got an utterance only so as not to stand idle, else 1. `imitated` are a teacher's
    frames (B, T', C) and which of them are there, (B, T').
    """

    epoch: int
    position: int
    items: list[int]
    samples: Tensor
    lengths: Tensor
    targets: Tensor
    target_lengths: Tensor
    weight: float
    imitated: tuple[Tensor, Tensor] | None = None

    @property
    def tokens(self) -> float:
        """Characters of all texts."""
        return self.weight * float(self.target_lengths.sum())

    @property
    def seconds(self) -> float:
        """Seconds of all utterances, padding not counted."""
        return self.weight * float(self.lengths.sum()) / RATE_HZ


class TeacherFrames(Protocol):
    """Where a teacher's frames of a corpus come from: see `train.imitation`."""

    def at(self, item: int, places: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Frames at fractional places (T,) of one utterance, (T, C), and which of them lie inside of it, (T,)."""


@dataclass(frozen=True)
class Span:
    """An utterance within a (joined, augmented) one: it began at sample `start` before augmentation."""

    corpus: int
    item: int
    start: int
    timing: Timing


class Batches:
    """Batches of a run: a function of the seed and the epoch alone, so that a resumed run sees the same ones.

    With `world` processes, each makes its share of every batch: every `world`-th utterance, from the `rank`-th on.
    """

    def __init__(
        self,
        corpora: list[Corpus],
        config: DataConfig,
        augment: AugmentConfig | None,
        vocab: Vocab,
        seed: int,
        rank: int = 0,
        world: int = 1,
        frames: Sequence[TeacherFrames] = (),
    ) -> None:
        self.frames = frames
        self.corpora, self.config, self.augment, self.vocab, self.seed = corpora, config, augment, vocab, seed
        self.rank, self.world = rank, world
        self.items = [(c, i) for c, corpus in enumerate(corpora) for i in range(len(corpus))]
        if not self.items:
            raise ManifestError(
                "there is no utterance to train on", "corpora with audio and text", "Check [data] train."
            )
        self.lengths = np.array([corpora[c].seconds(i) for c, i in self.items])
        for key in ("weights", "final_weights"):
            weights = getattr(config, key)
            if (
                len(weights) > len(corpora)
                or any(w < 0 for w in weights)
                or (len(weights) == len(corpora) and not any(weights))
            ):
                raise ConfigError(
                    f"[data] {key} is {weights}",
                    f"a number from 0 on for each of {len(corpora)} corpora",
                    "Correct it.",
                )

    def weights(self, epoch: int) -> NDArray[np.float64]:
        """How often each item is heard in an epoch, on average, (items,)."""

        def each(weights: list[float]) -> NDArray[np.float64]:
            return np.array([*weights, *[1.0] * (len(self.corpora) - len(weights))], np.float64)

        of_corpus = each(self.config.weights)
        if self.config.final_weights:
            done = min(1.0, epoch / max(1, self.config.curriculum_epochs))
            of_corpus = of_corpus + done * (each(self.config.final_weights) - of_corpus)
        return of_corpus[[c for c, _ in self.items]]

    def plan(self, epoch: int) -> list[list[int]]:
        """Item numbers of every batch of an epoch, in order."""
        rng = np.random.default_rng([self.seed, epoch])
        copies = np.floor(self.weights(epoch) + rng.random(len(self.items))).astype(int)
        chosen = np.repeat(np.arange(len(self.items)), copies)
        lengths = self.lengths[chosen] * np.exp(rng.normal(0, 0.08, len(chosen)))
        plan: list[list[int]] = []
        batch: list[int] = []
        longest = 0.0
        for at in np.argsort(lengths):
            item = int(chosen[at])
            longest_then = max(longest, self.lengths[item])
            if batch and longest_then * (len(batch) + 1) > self.config.batch_s:
                plan.append(batch)
                batch, longest_then = [], self.lengths[item]
            batch.append(item)
            longest = longest_then
        if batch:
            plan.append(batch)
        if epoch >= self.config.short_first_epochs:
            order = rng.permutation(len(plan))
            plan = [plan[i] for i in order]
        return plan

    def utterance(self, epoch: int, item: int) -> tuple[Samples, str, list[Span]]:
        """Augmented samples (S,) and text of one item, and where its sound comes from."""
        corpus, index = self.items[item]
        samples, text = self.corpora[corpus].samples(index), self.corpora[corpus].utterances[index].text
        spans = [Span(corpus, index, 0, Timing())]
        if self.augment is None:
            return samples, text, spans
        rng = np.random.default_rng([self.seed, epoch, item])
        if rng.random() < self.config.join_chance:
            other_corpus, other_index = self.items[int(rng.integers(len(self.items)))]
            addition = self.corpora[other_corpus].samples(other_index)
            if (len(samples) + len(addition)) / RATE_HZ < self.config.join_longest_s:
                pause = np.zeros(int(rng.uniform(0.05, 0.8) * RATE_HZ), np.float32)
                spans.append(Span(other_corpus, other_index, len(samples) + len(pause), Timing()))
                samples = np.concatenate([samples, pause, addition])
                text = f"{text} {self.corpora[other_corpus].utterances[other_index].text}"
        other_corpus, other = self.items[int(rng.integers(len(self.items)))]
        samples, timing = augment_samples(samples, self.corpora[other_corpus].samples(other), self.augment, rng)
        return samples, text, [replace(span, timing=timing) for span in spans]

    def imitated(self, spans: list[Span], count: int) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """The teacher's frames for `count` output frames of an utterance, (count, C), and which are there, (count,)."""
        middles = (np.arange(count) + 0.5) * FRAME
        found, there = None, np.zeros(count, np.bool_)
        for span in spans:
            places = (span.timing.source(middles) - span.start) / FRAME - 0.5
            frames, inside = self.frames[span.corpus].at(span.item, places)
            found = frames if found is None else np.where(inside[:, None], frames, found)
            there |= inside
        assert found is not None
        return found, there

    def make(self, epoch: int, position: int, items: list[int]) -> Batch:
        """Read, augment and pad this process's share of one batch."""
        share = items[self.rank :: self.world]
        weight = 1.0 if share else 0.0
        share = share or items[:1]
        pairs = [self.utterance(epoch, item) for item in share]
        lengths = torch.tensor([len(samples) for samples, _, _ in pairs])
        padded = torch.zeros(len(pairs), int(lengths.max()))
        for row, (samples, _, _) in enumerate(pairs):
            padded[row, : len(samples)] = torch.from_numpy(samples)
        tokens = [self.vocab.encode(text) for _, text, _ in pairs]
        imitated = None
        if self.frames:
            count = -(-padded.shape[1] // FRAME)
            each = [self.imitated(spans, count) for _, _, spans in pairs]
            imitated = (
                torch.from_numpy(np.stack([f for f, _ in each])),
                torch.from_numpy(np.stack([t for _, t in each])),
            )
        return Batch(
            epoch,
            position,
            share,
            padded,
            lengths,
            torch.tensor([t for line in tokens for t in line]),
            torch.tensor([len(line) for line in tokens]),
            weight,
            imitated,
        )

    def _keys(self, epoch: int, position: int) -> Iterator[tuple[int, int, list[int]]]:
        while True:
            for at, items in enumerate(self.plan(epoch)[position:], position):
                yield epoch, at, items
            epoch, position = epoch + 1, 0

    def from_position(self, epoch: int, position: int) -> Iterator[Batch]:
        """Batches for ever from (epoch, position in the epoch) on, prepared ahead in processes, or in a thread."""
        keys = self._keys(epoch, position)
        if self.config.workers:
            yield from DataLoader(
                _Prepared(self),
                batch_size=None,
                sampler=keys,  # type: ignore[arg-type]
                num_workers=self.config.workers,
                multiprocessing_context="spawn",
                prefetch_factor=4,
            )
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(self.make, *next(keys))
            for key in keys:
                following = pool.submit(self.make, *key)
                yield waiting.result()
                waiting = following


class _Prepared(Dataset[Batch]):
    """Batches by their keys, for torch's loader."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches

    def __getitem__(self, key: tuple[int, int, list[int]]) -> Batch:
        return self._batches.make(*key)


def rng_of(*keys: int) -> Generator:
    """A generator that depends on the keys alone."""
    return np.random.default_rng(list(keys))
