from __future__ import annotations

import torch
import torchaudio
from hypothesis import given, settings
from hypothesis import strategies as st

from streamasr.config import FeatureConfig
from streamasr.features import LogMel, hertz_to_mel, mel_filters, mel_to_hertz

CONFIG = FeatureConfig()


def reference(samples: torch.Tensor) -> torch.Tensor:
    """torchaudio's log-mel energies of the whole padded signal."""
    transform = torchaudio.transforms.MelSpectrogram(
        CONFIG.rate_hz,
        n_fft=CONFIG.window,
        win_length=CONFIG.window,
        hop_length=CONFIG.hop,
        f_min=CONFIG.low_hz,
        f_max=CONFIG.high_hz,
        n_mels=CONFIG.mels,
        power=2,
        center=False,
        norm=None,
        mel_scale="slaney",
    )
    missing = -samples.shape[-1] % CONFIG.hop
    padded = torch.nn.functional.pad(samples, (CONFIG.window - CONFIG.hop, missing))
    return torch.log(transform(padded) + CONFIG.floor)


@settings(max_examples=40)
@given(
    count=st.integers(1, 4000),
    cuts=st.lists(st.integers(0, 4000), max_size=12),
    seed=st.integers(0, 99),
    volume=st.sampled_from([1.0, 0.1, 1e-3, 0.0]),
)
def test_any_chunking_equals_torchaudio(count: int, cuts: list[int], seed: int, volume: float) -> None:
    samples = torch.randn(2, count, generator=torch.Generator().manual_seed(seed)) * volume
    features = LogMel(CONFIG)
    state, parts = features.init_state(2), []
    for part in torch.tensor_split(samples, sorted(min(c, count) for c in cuts), dim=-1):
        energies, state = features.step(part, state)
        parts.append(energies)
    parts.append(features.flush(state))
    streamed = torch.cat(parts, -1)
    assert streamed.shape[-1] == features.frames_of(count)
    torch.testing.assert_close(streamed, features(samples), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(streamed, reference(samples), atol=1e-3, rtol=1e-3)  # two roundings of quiet bands


def test_one_sample_at_a_time() -> None:
    samples = torch.randn(1, 1000) * 0.1
    features = LogMel(CONFIG)
    state, parts = features.init_state(1), []
    for i in range(1000):
        energies, state = features.step(samples[:, i : i + 1], state)
        parts.append(energies)
    parts.append(features.flush(state))
    torch.testing.assert_close(torch.cat(parts, -1), reference(samples), atol=1e-4, rtol=1e-4)


def test_a_frame_comes_with_its_last_sample() -> None:
    features = LogMel(CONFIG)
    energies, state = features.step(torch.zeros(1, CONFIG.hop - 1), features.init_state(1))
    assert energies.shape == (1, 80, 0)
    energies, _ = features.step(torch.zeros(1, 1), state)
    assert energies.shape == (1, 80, 1)


def test_filters_equal_torchaudio_and_none_is_empty() -> None:
    bins = CONFIG.window // 2 + 1
    expected = torchaudio.functional.melscale_fbanks(
        bins, CONFIG.low_hz, CONFIG.high_hz, CONFIG.mels, CONFIG.rate_hz, norm=None, mel_scale="slaney"
    )
    torch.testing.assert_close(mel_filters(CONFIG), expected, atol=1e-4, rtol=1e-4)
    assert (mel_filters(CONFIG).max(0).values > 0).all()


def test_mel_scale_is_inverted() -> None:
    for hertz in (20.0, 440.0, 999.0, 1000.0, 4000.0, 8000.0):
        assert abs(mel_to_hertz(hertz_to_mel(hertz)) - hertz) < 1e-6


def test_fixed_normalisation() -> None:
    features = LogMel(CONFIG)
    plain = features(torch.ones(1, 1600) * 0.1)
    features.mean.fill_(2.0)
    features.deviation.fill_(4.0)
    torch.testing.assert_close(features(torch.ones(1, 1600) * 0.1), (plain - 2) / 4)
