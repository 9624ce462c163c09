"""What the clock tells of a capture: audio that was lost before it came to us, and a rate that is another one now.

Both compare how much came with how much time has passed. They run on the sound card's thread: a few numbers a call.
"""

from __future__ import annotations

import itertools


class LossMeter:
    """Finds audio that was lost before it came to us, from how far what came lags behind the clock.

    Blocks come late and in bursts, but never early: the least lag within a window is what lateness leaves, and it grows
    only when audio is lost (and by the drift of the device's clock, which is far less). After a stall the blocks that
    were held back come in a burst; so two windows must agree.
    """

    WINDOW_S = 0.5
    STALLED_S = 0.2  # a pause between calls that begins a new window
    AGREE_S = 0.015
    LEAST_S, LEAST_FLAGGED_S = 0.1, 0.03  # the smallest loss that is believed; with an overflow flag of the device

    def __init__(self) -> None:
        self._lag_s: float | None = None  # without loss
        self._before_s = self._least_s = float("inf")
        self._called_s = float("-inf")
        self._until_s = 0.0

    def add(self, now_s: float, heard_s: float, flagged: bool = False) -> float:
        """Take in that `heard_s` of audio, losses found so far included, have come; seconds newly found to be lost."""
        if now_s - self._called_s > self.STALLED_S:
            if self._lag_s is None and self._called_s > float("-inf"):
                self._lag_s = self._least_s
            self._before_s = self._least_s = float("inf")
            self._until_s = now_s + self.WINDOW_S
        self._called_s = now_s
        self._least_s = min(self._least_s, now_s - heard_s)
        if now_s < self._until_s:
            return 0.0
        least_s, before_s = self._least_s, self._before_s
        self._before_s, self._least_s, self._until_s = least_s, float("inf"), now_s + self.WINDOW_S
        if self._lag_s is None or least_s - self._lag_s < (self.LEAST_FLAGGED_S if flagged else self.LEAST_S):
            self._lag_s = least_s
            return 0.0
        if abs(least_s - before_s) > self.AGREE_S:
            return 0.0
        self._before_s = self._lag_s
        return least_s - self._lag_s


RATES_HZ = (8_000, 11_025, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 88_200, 96_000, 192_000)
RATIOS = frozenset(one / other for one in RATES_HZ for other in RATES_HZ if abs(one / other - 1) > 0.03)


class RateMeter:
    """Finds that a device delivers at another rate than it was opened with, as when the system changes its settings.

    The least lag within a window is what lateness leaves (see `LossMeter`). Where it grows or falls by the same share
    of the time in several windows in a row, and that share is one of two usual rates, the rate has changed: audio that
    is lost comes in no such share, and what was held back comes once.
    """

    WINDOW_S, WINDOWS = 2.0, 3
    STALLED_S = 0.2
    TOLERANCE = 0.01

    def __init__(self) -> None:
        self._heard_s = 0.0
        self._called_s = float("-inf")
        self._least_s, self._until_s = float("inf"), 0.0
        self._leasts_s: list[tuple[float, float]] = []  # when a window ended, its least lag

    def add(self, now_s: float, seconds: float) -> bool:
        """Take in that `seconds` of audio, at the rate asked for, came now; true when that rate is another one."""
        self._heard_s += seconds
        if now_s - self._called_s > self.STALLED_S:
            self._leasts_s, self._least_s, self._until_s = [], float("inf"), now_s + self.WINDOW_S
        self._called_s = now_s
        self._least_s = min(self._least_s, now_s - self._heard_s)
        if now_s < self._until_s:
            return False
        self._leasts_s = [*self._leasts_s[-self.WINDOWS :], (now_s, self._least_s)]
        self._least_s, self._until_s = float("inf"), now_s + self.WINDOW_S
        steps = [
            1 - (lag_s - before_s) / (until_s - since_s)
            for (since_s, before_s), (until_s, lag_s) in itertools.pairwise(self._leasts_s)
        ]
        return len(steps) == self.WINDOWS and any(
            all(abs(step - ratio) < self.TOLERANCE for step in steps) for ratio in RATIOS
        )
