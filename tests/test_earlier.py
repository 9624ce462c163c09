from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamasr.earlier import Earlier, read
from streamasr.events import Final, Word
from streamasr.export import JsonLines, Srt, Vtt


def final(number: int) -> Final:
    start_s = 2.0 * number
    return Final(f"caption{number}", (Word(f"caption{number}", start_s, start_s + 1.5, 0.9),), start_s, start_s + 1.5)


def transcript(kind: str, count: int) -> tuple[str, list[int]]:
    """A transcript of so many finals, and where each event ends in its bytes."""
    writer = {"srt": Srt, "vtt": Vtt, "jsonl": JsonLines}[kind]()
    text, ends = writer.header, []
    for number in range(count):
        text += writer.write(final(number))
        ends.append(len(text))
    return text, ends


@pytest.mark.parametrize("kind", ["srt", "vtt", "jsonl"])
def test_a_whole_transcript_stays_as_it_is(kind: str) -> None:
    text, _ = transcript(kind, 3)
    earlier = read(text.encode(), kind)
    assert earlier.text == text
    assert earlier.end_s == pytest.approx(5.5)
    assert earlier.cues == (3 if kind == "srt" else 0)


@given(st.sampled_from(["srt", "vtt", "jsonl"]), st.data())
def test_of_a_transcript_cut_anywhere_the_whole_events_are_kept(kind: str, data: st.DataObject) -> None:
    text, ends = transcript(kind, 3)
    at = data.draw(st.integers(0, len(text)))
    earlier = read(text[:at].encode(), kind)
    whole = [end for end in ends if end <= at]
    if whole:
        assert earlier.text.startswith(text[: whole[-1]].rstrip("\n"))
        assert earlier.end_s >= 2.0 * (len(whole) - 1) + 1.5
    again = read(earlier.text.encode(), kind)
    assert again == earlier  # nothing more is to be mended
    if kind == "jsonl":
        assert all(json.loads(line) for line in earlier.text.splitlines())


def test_text_lines_and_foreign_files() -> None:
    assert read(b"one\ntwo", "txt") == Earlier("one\ntwo\n")
    assert read(b"", "txt") == Earlier("")
    assert read(b"no captions here", "srt") == Earlier("")
    assert read(b"\xff\xfe\0\0", "jsonl") == Earlier("")
    assert read(b'[1]\n"text"\n{"end_s": "x"}\n', "jsonl") == Earlier("")
