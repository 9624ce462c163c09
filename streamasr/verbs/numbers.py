"""Numbers on the command line; nothing heavy here."""

from __future__ import annotations

import argparse
from collections.abc import Callable


def whole(text: str) -> int:
    """A whole number above 0."""
    if not (text.isascii() and text.isdecimal()) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def seconds(least: float, most: float = 1e6) -> Callable[[str], float]:
    """What reads a number of seconds from `least` to `most`."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from {least:g} to {most:g}")
        return value

    return read
