from __future__ import annotations

import numpy as np
import pytest

from streamasr.meters import RateMeter

BLOCK_S = 0.02


def found_after(seconds: float, ratio: float, random: np.random.Generator, lost_s: float = 0.0) -> float | None:
    """When a meter says that the rate is another one, of blocks that come late by up to 8 ms; None where it never does.

    Args:
        ratio: of the device's rate to the one that was asked for.
        lost_s: audio that is lost in the middle.
    """
    meter, blocks = RateMeter(), int(seconds / BLOCK_S)
    for number in range(blocks):
        said_s = (number + 1) * BLOCK_S + (lost_s if number > blocks / 2 else 0.0)
        if meter.add(said_s + random.uniform(0, 0.008), BLOCK_S * ratio):
            return said_s
    return None


@pytest.mark.parametrize("ratio", [48_000 / 44_100, 44_100 / 48_000, 2.0, 16_000 / 48_000])
def test_another_rate_is_found(ratio: float) -> None:
    found_s = found_after(20, ratio, np.random.default_rng(1))
    assert found_s is not None
    assert found_s < 10


@pytest.mark.parametrize("lost_s", [0.0, 0.05, 0.15])
def test_the_same_rate_with_drift_and_losses_is_not(lost_s: float) -> None:
    for seed, drift in enumerate((0.0, 1e-4, -3e-4)):
        assert found_after(60, 1 + drift, np.random.default_rng(seed), lost_s) is None
