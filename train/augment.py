"""Augmentation: of samples with NumPy, of log-mel energies with torch. Every function takes its random generator."""

from __future__ import annotations

from typing import Any

import numpy as np
import soxr
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from train.config import AugmentConfig

Samples = NDArray[np.float32]
RATE_HZ = 16_000


def coloured_noise(count: int, rng: Generator) -> Samples:
    """Noise of unit power whose spectrum falls with a random power of the frequency, and may hum at the mains."""
    spectrum: NDArray[Any] = np.fft.rfft(rng.standard_normal(count))
    hertz = np.fft.rfftfreq(count, 1 / RATE_HZ)
    spectrum *= (np.maximum(hertz, 50) / 1000) ** -rng.uniform(0, 1.2)
    noise = np.fft.irfft(spectrum, count)
    if rng.random() < 0.15:
        mains = rng.choice([50.0, 60.0]) * np.arange(1, 6)[:, None]
        hum = np.sin(2 * np.pi * mains * np.arange(count) / RATE_HZ + rng.uniform(0, 6.28, (5, 1)))
        noise += (hum * rng.exponential(0.4, (5, 1))).sum(0) * noise.std()
    return (noise / (noise.std() + 1e-9)).astype(np.float32)


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
    size = 1 << int(np.ceil(np.log2(len(samples) + count)))
    wet = np.fft.irfft(np.fft.rfft(samples, size) * np.fft.rfft(response, size), size)[: len(samples)]
    return wet.astype(np.float32)


def band(samples: Samples, rng: Generator) -> Samples:
    """A telephone's, a headset's or a small loudspeaker's band: smooth edges in the frequency domain."""
    spectrum = np.fft.rfft(samples)
    hertz = np.fft.rfftfreq(len(samples), 1 / RATE_HZ)
    low, high = rng.uniform(40, 350), rng.choice([3400.0, 4000.0, 5500.0, 7000.0])
    gain = 1 / (1 + (low / np.maximum(hertz, 1)) ** 4) / (1 + (hertz / high) ** 24)
    tilt = (np.maximum(hertz, 100) / 1000) ** rng.uniform(-0.3, 0.3)
    return np.fft.irfft(spectrum * gain * tilt, len(samples)).astype(np.float32)


def codec(samples: Samples, rng: Generator) -> Samples:
    """Quantise as mu-law telephony and coarse PCM do."""
    peak = float(np.abs(samples).max()) + 1e-6
    if rng.random() < 0.5:
        law = np.sign(samples) * np.log1p(255 * np.abs(samples) / peak) / np.log(256)
        law = np.round(law * 127) / 127
        return (np.sign(law) * np.expm1(np.abs(law) * np.log(256)) / 255 * peak).astype(np.float32)
    steps = float(rng.choice([127, 255, 1023]))
    return (np.round(samples / peak * steps) / steps * peak).astype(np.float32)


def mix(samples: Samples, noise: Samples, ratio_db: float) -> Samples:
    """Add noise of unit power at a signal-to-noise ratio, measured on the louder half of the signal."""
    power = np.sqrt(np.mean(np.square(samples)) * 1.5 + 1e-10)
    return (samples + noise * (power * 10 ** (-ratio_db / 20))).astype(np.float32)


def augment_samples(samples: Samples, other: Samples, config: AugmentConfig, rng: Generator) -> Samples:
    """One utterance as another room, voice speed, microphone and line would have given it.

    Args:
        samples: (S,) in -1..1 at 16 kHz.
        other: another utterance, for babble.
    """
    if rng.random() < config.speed_chance:
        factor = rng.uniform(1 - config.speed_range, 1 + config.speed_range)
        samples = soxr.resample(samples, RATE_HZ * factor, RATE_HZ, quality="QQ").astype(np.float32)
    if rng.random() < config.silence_chance:
        before, after = (rng.uniform(0, config.silence_longest_s, 2) * RATE_HZ).astype(int)
        samples = np.concatenate([np.zeros(before, np.float32), samples, np.zeros(after, np.float32)])
    if rng.random() < config.room_chance:
        samples = room(samples, rng)
    if rng.random() < config.babble_chance and len(other):
        voice = np.resize(other, len(samples))
        samples = mix(samples, voice / (voice.std() + 1e-6), rng.uniform(10, 25))
    if rng.random() < config.noise_chance:
        samples = mix(samples, coloured_noise(len(samples), rng), rng.uniform(config.noise_low_db, config.noise_high_db))
    if rng.random() < config.band_chance:
        samples = band(samples, rng)
    if rng.random() < config.codec_chance:
        samples = codec(samples, rng)
    peak = float(np.abs(samples).max()) + 1e-6
    gain = 0.5 / peak * 10 ** (rng.uniform(config.gain_low_db, config.gain_high_db) / 20)
    floor = rng.standard_normal(len(samples)).astype(np.float32) * 10 ** rng.uniform(-5.0, -3.7)
    return np.clip(samples * gain + floor, -1, 1).astype(np.float32)


def mask_spectrogram(energies: Tensor, lengths: Tensor, config: AugmentConfig, rng: Generator) -> Tensor:
    """SpecAugment without time warping (Park et al., 2019) on normalised energies (B, mels, T): masks are zeros."""
    keep = torch.ones_like(energies)
    mels = energies.shape[1]
    for row, length in enumerate(lengths.tolist()):
        for _ in range(config.frequency_masks):
            width = int(rng.integers(0, config.frequency_width + 1))
            at = int(rng.integers(0, mels - width + 1))
            keep[row, at : at + width] = 0
        longest = min(config.time_width, int(length * config.time_share))
        for _ in range(config.time_masks):
            width = int(rng.integers(0, longest + 1))
            at = int(rng.integers(0, max(1, length - width)))
            keep[row, :, at : at + width] = 0
    return energies * keep
