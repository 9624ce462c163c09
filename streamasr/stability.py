"""How steady the captions are: a flicker is a word that was shown and then changed or moved.

Counted as in Shangguan et al., "Analyzing the Quality and Stability of a Streaming End-to-End On-Device Speech
Recognizer" (2020): of the words shown before, those after the first one that is different now. The last word may still
grow, which is no flicker.
"""

from __future__ import annotations

from collections.abc import Iterable

from streamasr.events import Event, Final, Partial


def flickers(before: str, after: str) -> int:
    """Words of the text `before` that the text `after` changes."""
    shown, now = before.split(), after.split()
    growing = len(shown) if before.endswith(" ") else len(shown) - 1
    for place, word in enumerate(shown):
        later = now[place] if place < len(now) else ""
        if later != word and not (place == growing and later.startswith(word)):
            return len(shown) - place
    return 0


def flickers_per_minute(events: Iterable[Event], seconds: float) -> float:
    """Flickers in the events of a stream of that many seconds, divided by its minutes."""
    text, count = "", 0
    for event in events:
        if isinstance(event, Partial | Final):
            count += flickers(text, event.text)
            text = event.text if isinstance(event, Partial) else ""
    return 60.0 * count / seconds if seconds > 0 else 0.0
