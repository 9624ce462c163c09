"""Transcripts as text, SRT, WebVTT and JSON lines, written event by event; a file is valid at every moment.

Formats: SubRip as players read it, and WebVTT (https://www.w3.org/TR/webvtt1/). A long utterance becomes several
cues of at most two lines of 42 characters and seven seconds, as subtitles are read.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

from streamasr.earlier import read
from streamasr.errors import OutputError
from streamasr.events import Event, Final, Partial, SpeechStarted, Word

LINE_LETTERS = 42
CUE_LINES = 2
CUE_LONGEST_S = 7.0
CUE_SHORTEST_S = 0.5


class Cue(NamedTuple):
    """One subtitle; `end_s` is after `start_s`."""

    start_s: float
    end_s: float
    lines: tuple[str, ...]


class Format(Protocol):
    """How events become text, `header` first."""

    @property
    def header(self) -> str:
        """What a file begins with."""
        ...

    def write(self, event: Event) -> str:
        """What to append for this event, or nothing."""
        ...


class Text:
    """One line for each final."""

    header = ""

    def write(self, event: Event) -> str:
        """What to append for this event, or nothing."""
        return f"{_one_line(event.line)}\n" if isinstance(event, Final) and event.text.strip() else ""


class JsonLines:
    """One object for each event that will not change: finals, what was dropped or lost, and the end."""

    header = ""

    def write(self, event: Event) -> str:
        """What to append for this event, or nothing."""
        if isinstance(event, Partial | SpeechStarted):
            return ""
        return json.dumps(mapping(event), ensure_ascii=False) + "\n"


class Srt:
    """Numbered cues; those of several sources carry labels and may overlap.

    Args:
        number: of the last cue that the file has already.
        end_s: when that ended.
    """

    header = ""

    def __init__(self, number: int = 0, end_s: float = 0.0) -> None:
        self._number, self._after_s = number, end_s
        self._ends_s: dict[str, float] = {}  # of the last cue of each source

    def write(self, event: Event) -> str:
        """What to append for this event, or nothing."""
        parts = []
        for cue in _cues_after(event, self._ends_s, self._after_s):
            self._number += 1
            body = "\n".join(cue.lines).replace("-->", "->")
            parts.append(f"{self._number}\n{_clock(cue.start_s, ',')} --> {_clock(cue.end_s, ',')}\n{body}\n\n")
        return "".join(parts)


class Vtt:
    """WebVTT cues, without numbers; those of several sources carry labels and may overlap."""

    header = "WEBVTT\n\n"

    def __init__(self, end_s: float = 0.0) -> None:
        self._after_s = end_s
        self._ends_s: dict[str, float] = {}

    def write(self, event: Event) -> str:
        """What to append for this event, or nothing."""
        parts = []
        for cue in _cues_after(event, self._ends_s, self._after_s):
            body = "\n".join(cue.lines).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
            parts.append(f"{_clock(cue.start_s, '.')} --> {_clock(cue.end_s, '.')}\n{body}\n\n")
        return "".join(parts)


FORMATS: dict[str, Callable[[], Format]] = {"txt": Text, "srt": Srt, "vtt": Vtt, "jsonl": JsonLines}


class Saver:
    """A transcript file that grows event by event, each written at once.

    When a write fails, the file is cut back to its last whole event, what is missing is kept, and every later event
    tries again.

    Args:
        path: the file; its extension is the format.
        overwrite: replace a file that has something in it already.
        form: the format, where the extension does not name it.
        append: go on after what an earlier session left in the file, if there is one. `end_s` is when that ended, by
            its own clock, and `silent_s` how long ago it was written; both are 0 for a new file.

    Raises:
        OutputError: an unknown extension, a file that cannot be written, or one that has something in it.
    """

    def __init__(
        self, path: str | Path, overwrite: bool = False, form: Format | None = None, append: bool = False
    ) -> None:
        self.path = Path(path).expanduser()
        self.end_s = self.silent_s = 0.0
        self._format = form or format_of(self.path)
        self._missing = b""
        self._failed = False
        self._length = 0
        header = self._format.header.encode()
        self._is_new = not self.path.exists()
        if append and not self._is_new:
            self._go_on()
            return
        try:
            if not overwrite and self.path.is_file() and self.path.stat().st_size > len(header):
                raise OutputError(f"{self.path} exists", "a new file", "Choose another name, or add --overwrite.")
            self._file: IO[bytes] = self.path.open("wb", buffering=0)
        except OSError as error:
            raise _unwritable(self.path, error) from error
        try:
            self._append(header)
        except OSError as error:
            self.discard()
            raise _unwritable(self.path, error) from error

    def _go_on(self) -> None:
        """Open the file behind its last whole event."""
        try:
            written_s = self.path.stat().st_mtime
            before = self.path.read_bytes()
            earlier = read(before, self.path.suffix.lower().removeprefix("."))
            if not earlier.text and before.strip() != self._format.header.strip().encode():
                raise OutputError(f"{self.path} holds no captions", f"a {self.path.suffix} transcript", "Name another.")
            if isinstance(self._format, Srt):
                self._format = Srt(earlier.cues, earlier.end_s)
            elif isinstance(self._format, Vtt):
                self._format = Vtt(earlier.end_s)
            after = (earlier.text or self._format.header).encode()
            self._file = self.path.open("r+b", buffering=0)
            if after != before:
                self._file.write(after)
                self._file.truncate(len(after))
            self._file.seek(len(after))
        except OSError as error:
            raise _unwritable(self.path, error) from error
        self._length = len(after)
        if earlier.text:
            self.end_s, self.silent_s = earlier.end_s, max(0.0, time.time() - written_s)

    def write(self, event: Event) -> None:
        """Append the event.

        Raises:
            OutputError: the first write that fails after one that did not.
        """
        self._missing += self._format.write(event).encode()
        if not self._missing:
            return
        try:
            self._append(self._missing)
        except OSError as error:
            if not self._failed:
                self._failed = True
                raise _unwritable(self.path, error, "Captions go on; what is missing is tried again.") from error
        else:
            self._missing, self._failed = b"", False

    def close(self) -> None:
        """Try once more what could not be written, and close.

        Raises:
            OutputError: something is still missing.
        """
        if self._file.closed:
            return
        try:
            if self._missing:
                self._append(self._missing)
            self._file.close()
        except OSError as error:
            self._file.close()
            raise _unwritable(self.path, error, f"Its last {len(self._missing)} bytes are missing.") from error

    def discard(self) -> None:
        """Close without a trace: for when nothing was begun."""
        self._file.close()
        if self._is_new:
            with contextlib.suppress(OSError):
                self.path.unlink()

    def _append(self, data: bytes) -> None:
        left = memoryview(data)
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError:
            with contextlib.suppress(OSError):
                self._file.truncate(self._length)
                self._file.seek(self._length)
            raise
        self._length += len(data)


def format_of(path: Path) -> Format:
    """The format that a file's extension names.

    Raises:
        OutputError: an unknown extension.
    """
    known = ", ".join(f".{name}" for name in FORMATS)
    try:
        return FORMATS[path.suffix.lower().removeprefix(".")]()
    except KeyError:
        got = f"{path} has the unknown extension {path.suffix!r}" if path.suffix else f"{path} has no extension"
        raise OutputError(got, f"one of {known}", "Name the file by its format.") from None


def mapping(event: Event) -> dict[str, Any]:
    """The event as plain values for JSON; `type` is the event's name in snake case, times are rounded to 1 ms.

    `source` is there only where the event has one.
    """
    kind = re.sub(r"(?<!^)(?=[A-Z])", "_", type(event).__name__).lower()
    values = _rounded(dataclasses.asdict(event))
    if not values.get("source"):
        values.pop("source", None)
    return {"type": kind, **values}


def cues(final: Final, not_before_s: float = 0.0) -> list[Cue]:
    """The final as subtitles in order, none before `not_before_s`, none overlapping."""
    result = []
    for group in _balanced(_timed_words(final), _is_cue):
        start_s = max(group[0].start_s, not_before_s)
        end_s = max(group[-1].end_s, start_s + CUE_SHORTEST_S)
        lines = _balanced(group, _is_line)
        result.append(Cue(start_s, end_s, tuple(" ".join(word.text for word in line) for line in lines)))
        not_before_s = end_s
    return result


def _cues_after(event: Event, ends_s: dict[str, float], after_s: float) -> list[Cue]:
    """The cues of a final after those of its own source, each with the label; takes in when they end."""
    if not isinstance(event, Final):
        return []
    found = cues(event, ends_s.get(event.source, after_s))
    if found:
        ends_s[event.source] = found[-1].end_s
    if event.source:
        found = [cue._replace(lines=(f"[{event.source}] {cue.lines[0]}", *cue.lines[1:])) for cue in found]
    return found


def _timed_words(final: Final) -> list[Word]:
    """The words of the final's text with times; those of a rewritten text are spread evenly over its letters."""
    texts = final.text.split()
    if len(texts) == len(final.words):
        return [dataclasses.replace(word, text=text) for word, text in zip(final.words, texts, strict=True)]
    letters = sum(map(len, texts))
    seconds_a_letter = max(0.0, final.end_s - final.start_s) / max(1, letters)
    words, start_s = [], final.start_s
    for text in texts:
        end_s = start_s + len(text) * seconds_a_letter
        words.append(Word(text, start_s, end_s, 1.0))
        start_s = end_s
    return words


Fits = Callable[[list[Word], int], bool]  # words, letters of a line


def _is_line(words: list[Word], letters: int) -> bool:
    return sum(len(word.text) + 1 for word in words) - 1 <= letters


def _is_cue(words: list[Word], letters: int) -> bool:
    long = words[-1].end_s - words[0].start_s > CUE_LONGEST_S
    return not long and len(_filled(words, letters, _is_line)) <= CUE_LINES


def _balanced(words: Sequence[Word], fits: Fits) -> list[list[Word]]:
    """The words in as few groups as fit, and these of about the same length."""
    fewest = len(_filled(words, LINE_LETTERS, fits))
    tried = (_filled(words, letters, fits) for letters in range(1, LINE_LETTERS + 1))
    return next(groups for groups in tried if len(groups) == fewest)


def _filled(words: Sequence[Word], letters: int, fits: Fits) -> list[list[Word]]:
    """The words in groups, each filled until the next word does not fit."""
    groups: list[list[Word]] = []
    for word in words:
        if groups and fits([*groups[-1], word], letters):
            groups[-1].append(word)
        else:
            groups.append([word])
    return groups


def _clock(time_s: float, point: str) -> str:
    """Seconds as 00:00:00,000 with the given decimal point."""
    milliseconds = round(time_s * 1000)
    minutes, milliseconds = divmod(milliseconds, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{milliseconds // 1000:02}{point}{milliseconds % 1000:03}"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 3)
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value


def _unwritable(path: Path, error: OSError, advice: str = "Choose a file that you may write.") -> OutputError:
    reason = (error.strerror or str(error) or os.strerror(error.errno or 0)).lower()
    return OutputError(f"cannot write {path} ({reason})", "", advice)
