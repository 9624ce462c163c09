from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamasr.onset import SMOOTHED, onset


def voice(level: float = 0.2, count: int = 6_000, seed: int = 0) -> np.ndarray:
    """A sound that swells for a tenth of a second."""
    noise = np.random.default_rng(seed).standard_normal(count).astype(np.float32)
    return noise * np.minimum(np.arange(count) / 1600, 1).astype(np.float32) * level


@given(before=st.integers(SMOOTHED + 1, 5_000), more=st.integers(1, 3_000), seed=st.integers(0, 9))
def test_it_moves_with_the_sound(before: int, more: int, seed: int) -> None:
    sound = voice(seed=seed)
    first = onset(np.concatenate([np.zeros(before, np.float32), sound]))
    later = onset(np.concatenate([np.zeros(before + more, np.float32), sound]))
    assert first is not None
    assert later == first + more
    assert before < first < before + 1600


@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_a_little_more_or_less_loud_moves_it_little(factor: float) -> None:
    sound = np.concatenate([np.zeros(1000, np.float32), voice()])
    one, other = onset(sound), onset(sound * np.float32(factor))
    assert one is not None
    assert other is not None
    assert abs(one - other) < 60


def test_noise_before_it_calls_for_a_higher_level() -> None:
    noise = np.random.default_rng(3).standard_normal(8_000).astype(np.float32) * 0.02  # -34 dBFS
    noise[2_000:] += voice()
    found = onset(noise)
    assert found is not None
    assert 2_000 < found < 3_600


@pytest.mark.parametrize("sound", [np.zeros(9_000), np.ones(9_000), np.zeros(0), np.ones(50)], ids=repr)
def test_where_nothing_begins_there_is_none(sound: np.ndarray) -> None:
    assert onset(sound) is None
