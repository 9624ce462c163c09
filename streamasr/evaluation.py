"""Word and character errors of an engine on a manifest, heard as a stream, one utterance at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jiwer

from streamasr.audio import FileSource
from streamasr.engine import Engine
from streamasr.errors import AudioError, ManifestError
from streamasr.events import Event, Final
from streamasr.stability import flickers_per_minute
from streamasr.text import normalise


@dataclass(frozen=True)
class Scored:
    """One utterance: its normalised reference, and what was recognised."""

    name: str
    reference: str
    hypothesis: str
    seconds: float


def read_lines(manifest: Path) -> Iterator[tuple[Path, str]]:
    """Audio paths and texts of a manifest (tab-separated: path, seconds, speaker, text), or of a directory's.

    Raises:
        ManifestError: no such file, or a line of the wrong form, with its number.
    """
    path = manifest / "manifest.tsv" if manifest.is_dir() else manifest
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path} cannot be read ({error})", "a manifest in UTF-8", "Check the path.") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        columns = line.split("\t")
        if len(columns) != 4:
            raise ManifestError(
                f"{path}, line {number} has {len(columns)} columns",
                "4, tab-separated: audio path, seconds, speaker, text",
                "Correct that line.",
            )
        yield path.parent / columns[0], columns[3]


def transcribe(path: Path, engine: Engine) -> tuple[list[Event], float, float]:
    """One file through `engine.feed`: its events, its seconds, and the seconds that the engine took."""
    events: list[Event] = []
    state, heard_s, busy_s = engine.start(), 0.0, 0.0
    with FileSource(path) as source:
        while True:
            block = source.read()
            began = time.perf_counter()
            found, state = engine.feed(block.samples, state)
            busy_s += time.perf_counter() - began
            heard_s += len(block.samples) / engine.rate_hz
            events += found
            if block.ended:
                break
    began = time.perf_counter()
    events += engine.finish(state)
    return events, heard_s, busy_s + time.perf_counter() - began


def evaluate(
    manifest: Path, engine: Engine, limit: int = 0, progress: Callable[[Scored], None] | None = None
) -> dict[str, Any]:
    """Word and character error rate in percent, real-time factor, seconds, utterances, flickers of tentative words.

    Lines whose text is empty or cannot be spelled, and files that cannot be heard, are counted in `skipped`.

    Raises:
        ManifestError: see `read_lines`; or nothing was left to score.
    """
    scored: list[Scored] = []
    skipped, busy_s, flickered = 0, 0.0, 0.0
    for path, raw in read_lines(manifest):
        reference = normalise(raw)
        if not reference:
            skipped += 1
            continue
        try:
            events, heard_s, took_s = transcribe(path, engine)
        except AudioError:
            skipped += 1
            continue
        hypothesis = " ".join(event.text for event in events if isinstance(event, Final))
        scored.append(Scored(path.name, reference, hypothesis, heard_s))
        busy_s += took_s
        flickered += flickers_per_minute(events, heard_s) * heard_s / 60 if heard_s else 0.0
        if progress is not None:
            progress(scored[-1])
        if limit and len(scored) >= limit:
            break
    if not scored:
        raise ManifestError(f"{manifest} has no utterance that can be scored", "audio with text", "Check its paths.")
    references, hypotheses = [s.reference for s in scored], [normalise(s.hypothesis) or "" for s in scored]
    seconds = sum(s.seconds for s in scored)
    return {
        "wer": round(100 * jiwer.wer(references, hypotheses), 2),
        "cer": round(100 * jiwer.cer(references, hypotheses), 2),
        "rtf": round(busy_s / seconds, 4),
        "seconds": round(seconds, 1),
        "utterances": len(scored),
        "flickers_per_minute": round(flickered / seconds * 60, 2),
        "skipped": skipped,
        "model": engine.bundle.name,
    }
