from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streamasr.config import EndpointConfig
from streamasr.endpoint import Endpointer, EndpointState

RULES = Endpointer(EndpointConfig(silence_before_s=0.4, silence_after_s=0.2, longest_s=2.0), 40.0, 1)
LABELS = st.lists(st.sampled_from([0, 0, 0, 1, 5, 6]), max_size=300)


def ends(labels: list[int], cuts: list[int]) -> list[tuple[int, bool]]:
    """Endpoints as absolute frames, scanning in chunks."""
    state, found, at = EndpointState(), [], 0
    for begin, end in zip([0, *cuts], [*cuts, len(labels)], strict=True):
        part = labels[begin:end]
        while True:
            endpoint, state = RULES.scan(part, state)
            if endpoint is None:
                break
            at_frame = end - len(part) + endpoint.at
            found.append((at_frame, endpoint.pause))
            part = part[endpoint.at + 1 :]
        at = end
    assert at == len(labels)
    return found


@given(labels=LABELS, cuts=st.lists(st.integers(0, 300), max_size=10))
def test_any_chunking_finds_the_same_endpoints(labels: list[int], cuts: list[int]) -> None:
    inside = sorted(min(cut, len(labels)) for cut in cuts)
    assert ends(labels, inside) == ends(labels, [])


@given(labels=LABELS)
def test_an_utterance_is_never_longer_than_twice_the_limit_nor_cut_in_speech_before_it(labels: list[int]) -> None:
    previous = -1
    for at, pause in ends(labels, []):
        assert at - previous <= 2 * 50
        if not pause:
            assert at - previous >= 50
        else:
            assert all(label in (0, 1) for label in labels[at - 4 : at + 1])
        previous = at


def test_silence_after_speech() -> None:
    assert ends([5, 0, 0, 0, 0, 0, 0], []) == [(5, True)]


def test_silence_without_speech_takes_longer() -> None:
    assert ends([0] * 10, []) == [(9, True)]
    assert ends([0] * 9, []) == []


def test_too_long_waits_for_a_pause() -> None:
    speech = [5, 0] * 26 + [0] * 7
    at, pause = ends(speech, [])[0]
    assert not pause or at > 50
    assert at >= 50


def test_too_long_without_a_pause_ends_at_a_space_then_anywhere() -> None:
    assert ends([5, 6] * 40 + [1, 5], [])[0] == (80, False)
    assert ends([5, 6] * 100, [])[0] == (99, False)


@given(labels=LABELS)
def test_it_never_fires_inside_a_word_before_twice_the_limit(labels: list[int]) -> None:
    """A word is letters with at most blanks between; a short one may be cut only far beyond the longest utterance."""
    previous = -1
    for at, _ in ends(labels, []):
        if at - previous < 2 * 50:
            assert labels[at] in (0, 1)
        previous = at


@given(labels=LABELS, quiet=st.integers(1, 4))
def test_a_pause_shorter_than_the_rule_ends_nothing(labels: list[int], quiet: int) -> None:
    spoken = [5, *[0] * quiet] * 8  # less than the longest utterance
    assert ends(spoken, []) == []
    assert all(at >= len(spoken) - 1 for at, pause in ends(spoken + labels, []) if pause)
