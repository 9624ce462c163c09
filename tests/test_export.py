"""The four formats, and files that stay valid whatever happens."""

import itertools
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamasr import export
from streamasr.errors import OutputError
from streamasr.events import End, Final, Overrun, Partial, SpeechStarted, Word


def final(text: str, start_s: float = 1.0, seconds_a_word: float = 0.4) -> Final:
    words = tuple(
        Word(word, start_s + i * seconds_a_word, start_s + (i + 0.9) * seconds_a_word, 0.9)
        for i, word in enumerate(text.split())
    )
    return Final(text, words, start_s, words[-1].end_s if words else start_s)


@st.composite
def finals(draw: st.DrawFn) -> list[Final]:
    texts = draw(
        st.lists(
            st.lists(st.text("abcdefg'", min_size=1, max_size=12), min_size=1, max_size=50).map(" ".join), max_size=5
        )
    )
    start_s, result = 0.0, []
    for text in texts:
        result.append(final(text, start_s, draw(st.floats(0.05, 2.0))))
        start_s = result[-1].end_s + draw(st.floats(0.0, 3.0))
    return result


def seconds(clock: str) -> float:
    hours, minutes, rest = clock.replace(",", ".").split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(rest)


def parsed_srt(text: str) -> list[tuple[int, float, float, list[str]]]:
    """A strict reader: numbers from one, a time line, one or more lines of text, an empty line."""
    result = []
    for block in re.findall(r"(.+?)\n\n", text, re.DOTALL):
        number, times, *lines = block.split("\n")
        start, end = re.fullmatch(r"(\d\d+:\d\d:\d\d,\d{3}) --> (\d\d+:\d\d:\d\d,\d{3})", times).groups()
        result.append((int(number), seconds(start), seconds(end), lines))
    assert "".join(re.findall(r".+?\n\n", text, re.DOTALL)) == text
    return result


@given(finals())
def test_srt_is_valid_ordered_and_complete(events: list[Final]) -> None:
    srt = export.Srt()
    cues = parsed_srt("".join(srt.write(event) for event in events))
    assert [cue[0] for cue in cues] == list(range(1, len(cues) + 1))
    assert [word for cue in cues for line in cue[3] for word in line.split()] == [
        word for event in events for word in event.text.split()
    ]
    for _, start_s, end_s, lines in cues:
        assert start_s < end_s
        assert 1 <= len(lines) <= export.CUE_LINES
        assert max(map(len, lines)) <= export.LINE_LETTERS
    assert all(before[2] <= after[1] for before, after in itertools.pairwise(cues))


def test_a_long_final_becomes_cues_of_about_the_same_length() -> None:
    cues = export.cues(final(" ".join(["seven"] * 33), seconds_a_word=0.3))
    assert [sum(len(line.split()) for line in cue.lines) for cue in cues] == [12, 12, 9]  # not 14, 14, 5


def test_vtt_escapes_and_srt_keeps_its_arrow() -> None:
    event = Final("a < b & c --> d", (), 3599.9996, 3602.0)
    assert export.Vtt().write(event) == "01:00:00.000 --> 01:00:02.000\na &lt; b &amp; c --&gt; d\n\n"
    assert "a < b & c -> d" in export.Srt().write(event)


def test_text_of_a_final_without_words_is_nothing() -> None:
    for kind in (export.Text, export.Srt, export.Vtt):
        assert kind().write(Final("", (), 1.0, 2.0)) == ""


def test_json_lines_hold_what_will_not_change() -> None:
    lines = export.JsonLines()
    assert lines.write(Partial("a", "b", 0.0, 1.0)) == lines.write(SpeechStarted(0.0)) == ""
    assert json.loads(lines.write(final("hello"))) == {
        "type": "final",
        "text": "hello",
        "words": [{"text": "hello", "start_s": 1.0, "end_s": 1.36, "confidence": 0.9}],
        "start_s": 1.0,
        "end_s": 1.36,
    }
    assert json.loads(lines.write(Overrun(0.5, 2.0, "ring full")))["type"] == "overrun"
    assert json.loads(lines.write(End(2.0))) == {"type": "end", "time_s": 2.0}


def test_a_file_is_whole_after_every_event(tmp_path: Path) -> None:
    savers = [export.Saver(tmp_path / f"talk.{name}") for name in export.FORMATS]
    assert (tmp_path / "talk.vtt").read_text() == "WEBVTT\n\n"
    for number in range(1, 4):
        for saver in savers:
            saver.write(final("one two three", start_s=number * 2.0))
        assert len(parsed_srt((tmp_path / "talk.srt").read_text())) == number
        assert (tmp_path / "talk.txt").read_text() == "one two three\n" * number
        assert len((tmp_path / "talk.jsonl").read_text().splitlines()) == number
        assert (tmp_path / "talk.vtt").read_text().count(" --> ") == number
    for saver in savers:
        saver.close()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("talk.doc", r"unknown extension '\.doc'; expected one of \.txt, \.srt, \.vtt, \.jsonl\."),
        ("talk", "has no extension"),
        ("missing/talk.txt", r"cannot write .*talk\.txt \(no such file or directory\)"),
        ("folder.txt", r"cannot write .*folder\.txt \(is a directory\)"),
    ],
)
def test_what_cannot_be_saved_is_refused(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(OutputError, match=message):
        export.Saver(tmp_path / name)


def test_an_earlier_transcript_is_not_overwritten_unasked(tmp_path: Path) -> None:
    path = tmp_path / "talk.vtt"
    path.write_text("WEBVTT\n\n")  # nothing in it
    saver = export.Saver(path)
    saver.write(final("kept"))
    saver.close()
    with pytest.raises(OutputError, match="exists; expected a new file"):
        export.Saver(path)
    assert "kept" in path.read_text()
    export.Saver(path, overwrite=True).close()
    assert path.read_text() == "WEBVTT\n\n"


def test_discard_leaves_nothing(tmp_path: Path) -> None:
    saver = export.Saver(tmp_path / "talk.vtt")
    saver.discard()
    assert not list(tmp_path.iterdir())


class FullDisk:
    """A raw file on a disk that is full while `free` is small: it writes what fits, then refuses."""

    def __init__(self, file, free: int) -> None:
        self.file, self.free, self.closed = file, free, False

    def write(self, data: bytes) -> int:
        if not self.free:
            raise OSError(28, "No space left on device")
        count = min(self.free, len(data))
        self.free -= count
        return self.file.write(data[:count])

    def truncate(self, size: int) -> None:
        self.file.truncate(size)

    def seek(self, size: int) -> None:
        self.file.seek(size)

    def close(self) -> None:
        self.closed = True
        self.file.close()


def test_a_full_disk_is_told_once_and_nothing_is_lost_when_there_is_room_again(tmp_path: Path) -> None:
    path = tmp_path / "talk.srt"
    saver = export.Saver(path)
    saver.write(final("one"))
    saver._file = disk = FullDisk(saver._file, free=10)
    with pytest.raises(OutputError, match="no space left on device"):
        saver.write(final("two", 3.0))
    saver.write(final("three", 5.0))  # not told again
    assert [cue[3] for cue in parsed_srt(path.read_text())] == [["one"]]
    disk.free = 10_000
    saver.write(final("four", 7.0))
    assert [cue[3] for cue in parsed_srt(path.read_text())] == [["one"], ["two"], ["three"], ["four"]]
    saver.close()


def test_what_stays_missing_is_told_at_the_end(tmp_path: Path) -> None:
    saver = export.Saver(tmp_path / "talk.txt")
    saver._file = FullDisk(saver._file, free=0)
    with pytest.raises(OutputError, match="Captions go on"):
        saver.write(final("one"))
    with pytest.raises(OutputError, match="Its last 4 bytes are missing"):
        saver.close()
    saver.close()
