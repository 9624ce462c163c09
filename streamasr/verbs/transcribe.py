"""`streamasr transcribe`: sound files, as fast as possible, through the same path as `listen`."""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Callable
from pathlib import Path

from streamasr import bundle, export
from streamasr.audio import FileSource
from streamasr.captions import Status
from streamasr.errors import OutputError, StreamasrError
from streamasr.events import End, Event, Final
from streamasr.live import Loading, Session
from streamasr.verbs import shared

FORMATS: dict[str, Callable[[], export.Format]] = {"text": export.Text, "srt": export.Srt, "vtt": export.Vtt}
EXTENSIONS = {"text": ".txt", "json": ".json", "srt": ".srt", "vtt": ".vtt"}


def run(options: argparse.Namespace) -> int:
    """Transcribe each file; a file that fails is told and does not keep the others back."""
    if len(options.files) > 1 and options.format in ("srt", "vtt") and not options.output:
        raise OutputError(
            f"{len(options.files)} files with --format {options.format}", "one file", "Add --output DIR for several."
        )
    bundle.find(options.model)
    loading = Loading(functools.partial(shared.recogniser, options))
    status = 0
    for number, path in enumerate(options.files):
        if options.format == "text" and len(options.files) > 1 and not options.output:
            shared.write(f"{chr(10) if number else ''}==> {path} <==\n")
        try:
            _transcribe(path, loading, options)
        except StreamasrError as error:
            if len(options.files) == 1:
                raise
            shared.say(str(error))
            status = 1
    return status


def _transcribe(path: Path, loading: Loading, options: argparse.Namespace) -> None:
    form = Json(path) if options.format == "json" else FORMATS[options.format]()
    with FileSource(path) as source:
        if not options.output:
            Session(source, loading, Printed(form)).run()
            return
        target = options.output / (path.stem + EXTENSIONS[options.format])
        saver = export.Saver(target, options.overwrite, form)
        Session(source, loading, Printed(None), [saver]).run()
    shared.write(f"{path} -> {target}\n")


class Printed:
    """A display that writes a format, or nothing, to standard output."""

    closed = False
    wants_partials = False

    def __init__(self, form: export.Format | None) -> None:
        self._form = form
        if form:
            shared.write(form.header)

    def event(self, event: Event) -> None:
        if self._form and (text := self._form.write(event)):
            shared.write(text)

    def note(self, line: str) -> None:
        shared.say(line)

    def draw(self, status: Status) -> None:
        pass

    def close(self) -> None:
        pass


class Json:
    """One object for a whole file, given out at its end."""

    header = ""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._finals: list[Final] = []

    def write(self, event: Event) -> str:
        """What to append for this event, or nothing."""
        if isinstance(event, Final) and event.text.strip():
            self._finals.append(event)
        if not isinstance(event, End):
            return ""
        utterances = [export.mapping(final) for final in self._finals]
        for utterance in utterances:
            del utterance["type"]
        text = " ".join(final.text.strip() for final in self._finals)
        whole = {"file": str(self._path), "seconds": round(event.time_s, 3), "text": text, "utterances": utterances}
        return json.dumps(whole, ensure_ascii=False) + "\n"
