"""Long streams made of clips: rooms, music and noise between them, and the words heard sorted back into the clips."""

from __future__ import annotations

import argparse
import collections
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jiwer
import numpy as np
import torch
from numpy.typing import NDArray

from streamasr.audio import RATE_HZ, read_whole
from streamasr.engine import Engine
from streamasr.errors import ManifestError
from streamasr.evaluation import read_lines
from streamasr.events import Event, Final, Word
from streamasr.text import normalise
from streamasr.verbs import engine_options
from streamasr.voice import VoiceDetector

BLOCK_S = 0.16  # what `listen` feeds at a time
Samples = NDArray[np.float32]


@dataclass(frozen=True)
class Clip:
    """One utterance of a manifest, its text normalised."""

    path: Path
    text: str


@dataclass(frozen=True)
class Segment:
    """A piece of a stream; `clip` is -1 between clips, `kind` is clip, room, music, noise or silence."""

    samples: Samples
    kind: str
    clip: int = -1


@dataclass
class Score:
    """Word errors, and words that are missing at the edges of clips."""

    words: int = 0
    errors: int = 0
    deletions: int = 0
    clips: int = 0
    first_deleted: int = 0
    last_deleted: int = 0

    def add(self, text: str, heard: str) -> None:
        """Take in one clip."""
        found = jiwer.process_words(text, heard)
        count = len(text.split())
        self.clips += 1
        self.words += count
        self.errors += found.substitutions + found.deletions + found.insertions
        self.deletions += found.deletions
        gone = [chunk for chunk in found.alignments[0] if chunk.type == "delete"]
        self.first_deleted += any(chunk.ref_start_idx == 0 for chunk in gone)
        self.last_deleted += any(chunk.ref_end_idx == count for chunk in gone)

    @property
    def wer(self) -> float:
        """Word error rate in percent."""
        return 100 * self.errors / max(1, self.words)

    @property
    def edges(self) -> float:
        """Of all first and last words, those that were deleted, in percent."""
        return 100 * (self.first_deleted + self.last_deleted) / max(1, 2 * self.clips)


@dataclass
class Windows:
    """Sorts words, given in order, into the segments of a stream by the middle of their times."""

    clips: Sequence[Clip]
    score: Score = field(default_factory=Score)
    between: collections.Counter[str] = field(default_factory=collections.Counter)
    _open: collections.deque[tuple[float, Segment]] = field(default_factory=collections.deque)
    _words: list[str] = field(default_factory=list)

    def add(self, end_s: float, segment: Segment) -> None:
        """The next window lasts until `end_s` and belongs to the segment, whose samples are forgotten."""
        self._open.append((end_s, Segment(segment.samples[:0], segment.kind, segment.clip)))

    def hear(self, word: Word) -> None:
        """Take in the next word."""
        middle_s = (word.start_s + word.end_s) / 2
        while len(self._open) > 1 and middle_s > self._open[0][0]:
            self._close()
        self._words.append(word.text)

    def finish(self) -> None:
        """No more words."""
        while self._open:
            self._close()

    def _close(self) -> None:
        _, segment = self._open.popleft()
        if segment.clip >= 0:
            self.score.add(self.clips[segment.clip].text, normalise(" ".join(self._words)) or "")
        else:
            self.between[segment.kind] += len(self._words)
        self._words = []


def options(parser: argparse.ArgumentParser) -> None:
    """Manifests, and what `streamasr` asks to make an engine."""
    parser.add_argument("manifests", metavar="MANIFEST", nargs="+", type=Path)
    parser.add_argument("--first", metavar="N", type=int, default=0, help="of each manifest; default: all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--model")
    parser.add_argument("--lm")
    parser.add_argument("--beam", type=int)
    engine_options.add(parser)
    parser.set_defaults(hotword=[], hotwords=None, compute="cpu")


def clips_of(manifests: Sequence[Path], first: int = 0) -> list[Clip]:
    """The utterances that have a text, in order; the first ones of each manifest.

    Raises:
        ManifestError: a manifest that cannot be read, or nothing in all of them.
    """
    clips: list[Clip] = []
    for manifest in manifests:
        own = [Clip(path, text) for path, raw in read_lines(manifest) if (text := normalise(raw))]
        clips += own[: first or None]
    if not clips:
        raise ManifestError("no utterance with a text", "audio with text", "Check the manifests.")
    return clips


def room(seconds: float, random: np.random.Generator, level_db: float | None = None) -> Samples:
    """Noise as in a room, falling with the frequency, with a little hum; -60 to -50 dBFS if no level is given."""
    count = round(seconds * RATE_HZ)
    spectrum = np.fft.rfft(random.standard_normal(count))
    hertz = np.fft.rfftfreq(count, 1 / RATE_HZ)
    noise = np.fft.irfft(spectrum / np.sqrt(np.maximum(hertz, 60.0)), count)
    times_s = np.arange(count) / RATE_HZ
    noise = noise / max(1e-9, float(noise.std())) + 0.3 * np.sin(2 * np.pi * 100 * times_s)
    level = random.uniform(-60, -50) if level_db is None else level_db
    return (noise * 10 ** (level / 20)).astype(np.float32)


def music(seconds: float, random: np.random.Generator) -> Samples:
    """Chords of plucked tones over a beat, about -25 dBFS."""
    count = round(seconds * RATE_HZ)
    sound = np.zeros(count + RATE_HZ)
    beat = round(60 / random.uniform(80, 130) * RATE_HZ)
    times_s = np.arange(RATE_HZ) / RATE_HZ
    for at in range(0, count, beat):
        root = 110 * 2 ** (random.integers(0, 12) / 12)
        for interval in (0, 4, 7, 12):
            hertz = root * 2 ** (interval / 12)
            for harmonic in (1, 2, 3, 4):
                tone = np.sin(2 * np.pi * hertz * harmonic * times_s) * np.exp(-times_s * (2 + harmonic))
                sound[at : at + RATE_HZ] += tone / harmonic
        sound[at : at + 1600] += 0.5 * random.standard_normal(1600) * np.exp(-np.arange(1600) / 300)
    sound = sound[:count] / max(1e-9, float(sound[:count].std()))
    return (sound * 10 ** (-25 / 20)).clip(-1, 1).astype(np.float32)


def joined(clips: Sequence[Clip], random: np.random.Generator, fillings: bool = False) -> Iterator[Segment]:
    """The clips, each between 0.3 and 5 s of room; `fillings`: after every eighth music, noise or silence."""
    yield Segment(room(random.uniform(0.3, 5.0), random), "room")
    for number, clip in enumerate(clips):
        yield Segment(read_whole(clip.path), "clip", number)
        yield Segment(room(random.uniform(0.3, 5.0), random), "room")
        if fillings and (number + 1) % min(8, len(clips)) == 0:
            seconds = random.uniform(5, 20)
            kind = str(random.choice(["music", "noise", "silence"]))
            if kind == "music":
                yield Segment(music(seconds, random), kind)
            elif kind == "noise":
                yield Segment(room(seconds, random, -40.0), kind)
            else:
                yield Segment(np.zeros(round(seconds * RATE_HZ), np.float32), kind)
            yield Segment(room(random.uniform(0.3, 5.0), random), "room")


def words_of(events: Sequence[Event]) -> list[Word]:
    """The words of all finals."""
    return [word for event in events if isinstance(event, Final) for word in event.words]


def alone(clip: Clip, engine: Engine) -> str:
    """What is heard of one clip by itself, normalised."""
    events, state = engine.feed(read_whole(clip.path), engine.start())
    return normalise(" ".join(word.text for word in words_of([*events, *engine.finish(state)]))) or ""


class SpeechEnds:
    """From the end of what a voice detector takes for speech to the final of it, in seconds of audio."""

    def __init__(self, detector: VoiceDetector | None = None) -> None:
        self._detector = detector or VoiceDetector.load()
        self._ends: collections.deque[tuple[float, float]] = collections.deque()  # of speech, of the pause after it
        self.delays_s: list[float] = []

    @torch.inference_mode()
    def add(self, samples: Samples, start_s: float, pause_s: float) -> None:
        """A clip that begins at `start_s` of the stream and has a pause after it."""
        probabilities, _ = self._detector.step(torch.from_numpy(samples), self._detector.start())
        voiced = np.flatnonzero(np.array(probabilities) >= 0.5)
        if len(voiced):
            end_s = start_s + (voiced[-1] + 1) * 512 / RATE_HZ
            self._ends.append((end_s, start_s + len(samples) / RATE_HZ + pause_s))

    def final(self, event: Final, now_s: float) -> None:
        """A final came when `now_s` of the stream were heard."""
        while self._ends and event.end_s > self._ends[0][0] - 0.5:
            end_s, until_s = self._ends.popleft()
            if event.end_s <= until_s and now_s <= until_s:  # the pause was long enough
                self.delays_s.append(now_s - end_s)
