"""Augmentation: of samples with NumPy, of log-mel energies with torch. Every function takes its random generator."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from streamasr.errors import ConfigError
from train.config import AugmentConfig

Samples = NDArray[np.float32]
RATE_HZ = 16_000
LARGEST_COMPRESSION = 0.99  # of a codec: libsndfile refuses MP3 at 16 kHz with more than 0.999


@lru_cache(maxsize=8)
def recordings(folder: str) -> tuple[Path, ...]:
    """The sound files under a folder.

    Raises:
        ConfigError: there is none.
    """
    kinds = (".wav", ".flac", ".ogg", ".opus", ".mp3")
    found = tuple(sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in kinds))
    if not found:
        raise ConfigError(f"{folder} holds no sound file", f"recordings ({', '.join(kinds)})", "Correct [augment].")
    return found


@lru_cache(maxsize=256)
def recording(path: Path, longest_s: float) -> Samples:
    """The first `longest_s` of the first channel of a sound file, (S,) at 16 kHz."""
    with soundfile.SoundFile(path) as file:
        rate_hz = file.samplerate
        samples = file.read(int(longest_s * rate_hz), dtype="float32", always_2d=True)[:, 0]
    return samples if rate_hz == RATE_HZ else soxr.resample(samples, rate_hz, RATE_HZ).astype(np.float32)


def recorded_noise(folder: str, count: int, rng: Generator) -> Samples:
    """A stretch of a recording of the folder, repeated where it is too short, with unit power."""
    paths = recordings(folder)
    sound = recording(paths[int(rng.integers(len(paths)))], 60.0)
    start = int(rng.integers(max(1, len(sound) - count)))
    noise = np.resize(sound[start:], count) if len(sound) else np.zeros(count, np.float32)
    return (noise / (noise.std() + 1e-6)).astype(np.float32)


def even_size(count: int) -> int:
    """A length from `count` on that a Fourier transform is quick with: four bits and zeros."""
    step = 1 << max(0, count.bit_length() - 4)
    return -(-count // step) * step


def coloured_noise(count: int, rng: Generator) -> Samples:
    """Noise of unit power whose spectrum falls with a random power of the frequency, and may hum at the mains."""
    size = even_size(count)
    spectrum: NDArray[Any] = np.fft.rfft(rng.standard_normal(size))
    hertz = np.fft.rfftfreq(size, 1 / RATE_HZ)
    spectrum *= (np.maximum(hertz, 50) / 1000) ** -rng.uniform(0, 1.2)
    noise = np.fft.irfft(spectrum, size)[:count]
    if rng.random() < 0.15:
        mains = rng.choice([50.0, 60.0]) * np.arange(1, 6)[:, None]
        hum = np.sin(2 * np.pi * mains * np.arange(count) / RATE_HZ + rng.uniform(0, 6.28, (5, 1)))
        noise += (hum * rng.exponential(0.4, (5, 1))).sum(0) * noise.std()
    return (noise / (noise.std() + 1e-9)).astype(np.float32)


def convolve(samples: Samples, response: NDArray[Any]) -> Samples:
    """Samples (S,) heard through an impulse response, cut to their own length."""
    size = 1 << int(np.ceil(np.log2(len(samples) + len(response))))
    wet = np.fft.irfft(np.fft.rfft(samples, size) * np.fft.rfft(response, size), size)[: len(samples)]
    return wet.astype(np.float32)


def measured_room(samples: Samples, folder: str, rng: Generator) -> Samples:
    """Reverberate with a recorded impulse response, its direct path moved to the start so that nothing is delayed."""
    paths = recordings(folder)
    response = recording(paths[int(rng.integers(len(paths)))], 2.0)
    response = response[int(np.abs(response).argmax()) :] if len(response) else np.ones(1, np.float32)
    return convolve(samples, response / (np.abs(response).max() + 1e-6))


def room(samples: Samples, rng: Generator) -> Samples:
    """Reverberate: a direct path, a few early reflections and an exponentially decaying diffuse tail."""
    decay_s = rng.uniform(0.1, 0.7)
    count = int(decay_s * RATE_HZ)
    time_s = np.arange(count) / RATE_HZ
    tail = rng.standard_normal(count) * 10 ** (-3 * time_s / decay_s)
    tail[: int(0.002 * RATE_HZ)] = 0
    response = tail * rng.uniform(0.1, 0.8) / (np.linalg.norm(tail) + 1e-9)
    response[0] = 1.0
    for delay in rng.integers(16, 640, 5):
        if delay < count:
            response[delay] += rng.uniform(-0.4, 0.4)
    return convolve(samples, response)


def stretch(samples: Samples, factor: float) -> Samples:
    """The same speech `factor` times as long, at the same pitch: (S,) to about (factor S,).

    Source: Verhelst, Roelands, "An Overlap-Add Technique Based on Waveform Similarity (WSOLA)", 1993.
    """
    hop, search = 320, 160  # 20 ms, 10 ms
    count = int(len(samples) * factor) // hop
    if count < 2 or len(samples) < 4 * hop:
        return samples
    padded = np.pad(samples, (search, 3 * hop + 2 * search))
    window = np.hanning(2 * hop + 1)[:-1].astype(np.float32)
    out = np.zeros((count + 1) * hop, np.float32)
    at = search  # where the window last taken begins in `padded`
    for number in range(count):
        wanted = search + min(int(number * hop / factor), len(samples) - hop)
        if number:
            natural = padded[at + hop : at + 3 * hop : 4]  # what would follow without a cut
            near = padded[wanted - search : wanted + search + 2 * hop : 4]
            similarity = np.correlate(near, natural)
            at = wanted - search + 4 * int(similarity.argmax())
        else:
            at = wanted
        out[number * hop : (number + 2) * hop] += window * padded[at : at + 2 * hop]
    return out


def shift_pitch(samples: Samples, semitones: float) -> Samples:
    """The same speech at another pitch (and another length of the vocal tract), (S,) to about (S,)."""
    factor = 2 ** (semitones / 12)
    return soxr.resample(stretch(samples, factor), RATE_HZ * factor, RATE_HZ, quality="QQ").astype(np.float32)


def band(samples: Samples, rng: Generator) -> Samples:
    """A telephone's, a headset's or a small loudspeaker's band: smooth edges in the frequency domain."""
    size = even_size(len(samples))
    spectrum = np.fft.rfft(samples, size)
    hertz = np.fft.rfftfreq(size, 1 / RATE_HZ)
    low, high = rng.uniform(40, 350), rng.choice([3400.0, 4000.0, 5500.0, 7000.0])
    gain = 1 / (1 + (low / np.maximum(hertz, 1)) ** 4) / (1 + (hertz / high) ** 24)
    tilt = (np.maximum(hertz, 100) / 1000) ** rng.uniform(-0.3, 0.3)
    return np.fft.irfft(spectrum * gain * tilt, size)[: len(samples)].astype(np.float32)


def codec(samples: Samples, rng: Generator) -> Samples:
    """As it comes out of a lossy codec: mu-law telephony, coarse PCM, Opus, Vorbis or MP3."""
    peak = float(np.abs(samples).max()) + 1e-6
    kind = rng.choice(["mu-law", "pcm", "OPUS", "VORBIS", "MPEG_LAYER_III"])
    if kind == "mu-law":
        law = np.sign(samples) * np.log1p(255 * np.abs(samples) / peak) / np.log(256)
        law = np.round(law * 127) / 127
        return (np.sign(law) * np.expm1(np.abs(law) * np.log(256)) / 255 * peak).astype(np.float32)
    if kind == "pcm":
        steps = float(rng.choice([127, 255, 1023]))
        return (np.round(samples / peak * steps) / steps * peak).astype(np.float32)
    return through_file(samples, str(kind), rng.uniform(0.6, LARGEST_COMPRESSION))


def through_file(samples: Samples, subtype: str, compression: float) -> Samples:
    """Encoded and decoded by libsndfile: (S,) to (S,)."""
    content = io.BytesIO()
    peak = float(np.abs(samples).max()) + 1e-6
    form = "MP3" if subtype.startswith("MPEG") else "OGG"
    soundfile.write(
        content, samples * (0.7 / peak), RATE_HZ, format=form, subtype=subtype, compression_level=compression
    )
    content.seek(0)
    heard = soundfile.read(content, dtype="float32")[0][: len(samples)]
    return np.pad(heard, (0, len(samples) - len(heard))) * np.float32(peak / 0.7)


def mix(samples: Samples, noise: Samples, ratio_db: float) -> Samples:
    """Add noise of unit power at a signal-to-noise ratio, measured on the louder half of the signal."""
    power = np.sqrt(np.mean(np.square(samples)) * 1.5 + 1e-10)
    return (samples + noise * (power * 10 ** (-ratio_db / 20))).astype(np.float32)


@dataclass(frozen=True)
class Timing:
    """What augmentation did to time: it was stretched by `factor`, then `before` samples were put in front."""

    factor: float = 1.0
    before: int = 0

    def source(self, places: NDArray[np.float64]) -> NDArray[np.float64]:
        """Where samples at `places` were before augmentation."""
        return (places - self.before) / self.factor


def augment_samples(samples: Samples, other: Samples, config: AugmentConfig, rng: Generator) -> tuple[Samples, Timing]:
    """One utterance as another room, voice speed, microphone and line would have given it.

    Args:
        samples: (S,) in -1..1 at 16 kHz.
        other: another utterance, for babble.

    Returns:
        samples (S',), and where they came from.
    """
    original = len(samples)
    if rng.random() < config.speed_chance:
        factor = rng.uniform(1 - config.speed_range, 1 + config.speed_range)
        samples = soxr.resample(samples, RATE_HZ * factor, RATE_HZ, quality="QQ").astype(np.float32)
    if config.tempo_chance and rng.random() < config.tempo_chance:
        samples = stretch(samples, rng.uniform(1 - config.tempo_range, 1 + config.tempo_range))
    if config.pitch_chance and rng.random() < config.pitch_chance:
        samples = shift_pitch(samples, rng.uniform(-config.pitch_semitones, config.pitch_semitones))
    timing = Timing(len(samples) / max(1, original))
    if rng.random() < config.silence_chance:
        before, after = (rng.uniform(0, config.silence_longest_s, 2) * RATE_HZ).astype(int)
        samples = np.concatenate([np.zeros(before, np.float32), samples, np.zeros(after, np.float32)])
        timing = replace(timing, before=int(before))
    if rng.random() < config.room_chance:
        samples = (
            measured_room(samples, config.rooms, rng) if config.rooms and rng.random() < 0.5 else room(samples, rng)
        )
    if rng.random() < config.babble_chance and len(other):
        voice = np.resize(other, len(samples))
        samples = mix(samples, voice / (voice.std() + 1e-6), rng.uniform(10, 25))
    if rng.random() < config.noise_chance:
        recorded = config.noises and rng.random() < 0.7
        noise = recorded_noise(config.noises, len(samples), rng) if recorded else coloured_noise(len(samples), rng)
        samples = mix(samples, noise, rng.uniform(config.noise_low_db, config.noise_high_db))
    if rng.random() < config.band_chance:
        samples = band(samples, rng)
    if rng.random() < config.codec_chance:
        samples = codec(samples, rng)
    peak = float(np.abs(samples).max()) + 1e-6
    gain = 0.5 / peak * 10 ** (rng.uniform(config.gain_low_db, config.gain_high_db) / 20)
    floor = rng.standard_normal(len(samples)).astype(np.float32) * 10 ** rng.uniform(-5.0, -3.7)
    return np.clip(samples * gain + floor, -1, 1).astype(np.float32), timing


def later(samples: Tensor, longest_ms: float, rng: Generator) -> Tensor:
    """The samples (B, S) behind up to so much silence, which pushes as much out at the end: frames begin elsewhere."""
    by = int(rng.integers(0, round(longest_ms * RATE_HZ / 1000) + 1))
    return torch.nn.functional.pad(samples, (by, 0))[..., : samples.shape[-1]]


def mask_spectrogram(energies: Tensor, lengths: Tensor, config: AugmentConfig, rngs: list[Generator]) -> Tensor:
    """SpecAugment without time warping (Park et al., 2019) on normalised energies (B, mels, T): masks are zeros.

    Args:
        lengths: (B,) frames.
        rngs: one for each utterance, so that its masks do not depend on its batch.
    """
    rows, mels, frames = energies.shape
    bands, times = np.ones((rows, mels, 1), np.float32), np.ones((rows, 1, frames), np.float32)
    for row, (length, rng) in enumerate(zip(lengths.tolist(), rngs, strict=True)):
        for _ in range(config.frequency_masks):
            width = int(rng.integers(0, config.frequency_width + 1))
            at = int(rng.integers(0, mels - width + 1))
            bands[row, at : at + width] = 0
        longest = min(config.time_width, int(length * config.time_share))
        for _ in range(config.time_masks):
            width = int(rng.integers(0, longest + 1))
            at = int(rng.integers(0, max(1, length - width)))
            times[row, :, at : at + width] = 0
    return energies * torch.from_numpy(bands).to(energies.device) * torch.from_numpy(times).to(energies.device)
