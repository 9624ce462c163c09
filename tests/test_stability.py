from __future__ import annotations

import pytest

from streamasr.events import End, Final, Partial
from streamasr.stability import flickers, flickers_per_minute


@pytest.mark.parametrize(
    ("before", "after", "count"),
    [
        ("", "", 0),
        ("", "we go", 0),
        ("we g", "we go", 0),
        ("we g ", "we go", 1),
        ("we go", "we", 1),
        ("we go", "he goes", 2),
        ("we go to", "we got to", 2),
        ("we go to ", "we go to the sea", 0),
    ],
)
def test_words_that_change_are_counted(before: str, after: str, count: int) -> None:
    assert flickers(before, after) == count


def test_utterances_are_compared_with_themselves_only() -> None:
    events = [
        Partial("", "we g", 0.0, 0.4),
        Partial("we ", "got", 0.0, 0.6),
        Final("we go", (), 0.0, 0.8),
        Partial("", "now", 1.0, 1.4),
        Final("now", (), 1.0, 1.4),
        End(30.0),
    ]
    assert flickers_per_minute(events, 30.0) == 2.0
    assert flickers_per_minute([], 0.0) == 0.0
