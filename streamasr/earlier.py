"""What an earlier session left in a transcript, so that another one can go on with it (`listen --continue`).

A process that was killed leaves whole events (`export.Saver`); a machine that lost its power may leave half of one.
What can be read of that half is kept, the rest is cut off.
"""

from __future__ import annotations

import json
import re
from typing import NamedTuple

CUE = re.compile(r"(?:(\d+)\n)?(\d+:\d\d:\d\d[,.]\d{3}) --> (\d+:\d\d:\d\d[,.]\d{3})[^\n]*\n((?:[^\n]+\n)+)\n")


class Earlier(NamedTuple):
    """What a transcript held.

    Attributes:
        text: the transcript, whole events only.
        end_s: when its last event ended; 0 where it tells no times.
        cues: how many numbered cues it has.
    """

    text: str
    end_s: float = 0.0
    cues: int = 0


def read(data: bytes, kind: str) -> Earlier:
    """The events of a transcript of that kind: txt, srt, vtt or jsonl."""
    text = data.decode(errors="ignore").replace("\0", "").replace("\r\n", "\n").removeprefix("\ufeff")
    if kind == "jsonl":
        return _json_lines(text)
    if kind == "txt":
        return Earlier(text if not text or text.endswith("\n") else f"{text}\n")
    return _cues(text)


def _json_lines(text: str) -> Earlier:
    kept, end_s = [], 0.0
    for line in text.splitlines():
        try:
            event = json.loads(line)
            end_s = max(end_s, float(event.get("end_s", event.get("time_s", 0.0))))
        except (ValueError, TypeError, AttributeError):
            continue
        kept.append(f"{line}\n")
    return Earlier("".join(kept), end_s)


def _cues(text: str) -> Earlier:
    """SRT or WebVTT: all up to the last cue that has words; an unfinished last line of words is ended."""
    ended = text.rstrip("\n") + "\n\n" if text.strip() else ""
    cues = list(CUE.finditer(ended))
    if not cues:
        return Earlier("")
    last = cues[-1]
    number = max((int(cue[1]) for cue in cues if cue[1]), default=0)
    return Earlier(ended[: last.end()], max(_seconds(cue[3]) for cue in cues), number)


def _seconds(clock: str) -> float:
    hours, minutes, rest = clock.replace(",", ".").split(":")
    return int(hours) * 3600 + int(minutes) * 60 + float(rest)
