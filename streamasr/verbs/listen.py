"""`streamasr listen`: captions of what is being said."""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import signal
import sys
import threading
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from types import FrameType

from streamasr import bundle
from streamasr.audio import RATE_HZ, FileSource, RawSource, Source
from streamasr.captions import Display, Plain, Terminal, clock
from streamasr.container import quiet
from streamasr.errors import NoInputDevice, OutputError, StreamasrError
from streamasr.export import Saver
from streamasr.live import Loading, Session, Summary
from streamasr.recorder import Recorder
from streamasr.verbs import server_options, shared


def run(options: argparse.Namespace) -> int:
    """Listen until the source ends or somebody stops it."""
    bundle.find(options.model)  # a wrong name is told before anything starts
    with stopping() as stop, server_options.captions_server(options) as server:
        savers = _savers(options)
        try:
            recorder = Recorder(options.record, options.overwrite) if options.record else None
            source, notice = _source(options)
        except StreamasrError:
            for saver in savers:
                saver.discard()
            raise
        loading = Loading(functools.partial(shared.recogniser, options))
        display = _display(options)
        if notice or isinstance(display, Plain):
            display.note(notice or f"listening to {source.name}; Ctrl-C stops")
        try:
            display = server.published(display)
        except StreamasrError:
            source.close()
            display.close()
            for saver in savers:
                saver.discard()
            raise
        live = not isinstance(source, FileSource)
        session = Session(source, loading, display, savers, stop, live, recorder)
        try:
            with quiet():  # PortAudio tells of lost devices in its own words
                session.run()
        finally:
            with contextlib.suppress(OSError):
                sys.stderr.write(f"streamasr: {summary_line(session.summary, [saver.path for saver in savers])}\n")
    return 0


def summary_line(summary: Summary, saved: list[Path]) -> str:
    """What a session came to, in one line."""
    parts = [
        f"heard {clock(summary.heard_s)}",
        f"{summary.finals} caption{'s' * (summary.finals != 1)}, {summary.words} word{'s' * (summary.words != 1)}",
        f"{summary.dropped_s:.1f} s dropped" if summary.dropped_s else "nothing dropped",
    ]
    if saved:
        parts.append(f"saved {', '.join(map(str, saved))}")
    return "; ".join(parts)


def _savers(options: argparse.Namespace) -> list[Saver]:
    savers: list[Saver] = []
    try:
        for path in options.save:
            if path.resolve() in (saver.path.resolve() for saver in savers):
                raise OutputError(f"--save {path} was given twice", "different files", "Leave one out.")
            savers.append(Saver(path, options.overwrite))
    except OutputError:
        for saver in savers:
            saver.discard()
        raise
    return savers


def _source(options: argparse.Namespace) -> tuple[Source, str]:
    """The source, open, and what the user must be told about it."""
    if options.source == "-":
        rate_hz, encoding = options.rate or RATE_HZ, options.encoding or "s16le"
        return RawSource(sys.stdin.buffer, rate_hz, encoding, options.channels or 1), ""
    if options.source != "mic":
        return FileSource(options.source, realtime=options.realtime), ""

    from streamasr.mic import Microphone

    try:
        return Microphone(options.device), ""
    except NoInputDevice:
        if options.device is not None:
            raise
        recording = resources.files("streamasr") / "data" / "welcome.opus"
        notice = "no microphone was found, so a recording is played through the same path instead"
        return FileSource(str(recording), realtime=True), notice


def _display(options: argparse.Namespace) -> Display:
    capable = sys.stdout.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
    if options.plain or not capable:
        return Plain()
    return Terminal(hint="Listening. Speak; Ctrl-C stops." if options.source == "mic" else "Listening. Ctrl-C stops.")


@contextlib.contextmanager
def stopping() -> Iterator[threading.Event]:
    """An event that Ctrl-C, SIGTERM or a closed terminal sets; a second Ctrl-C interrupts at once."""
    stop = threading.Event()

    def handle(number: int, _frame: FrameType | None) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()

    signals = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)]
    kept = {number: signal.getsignal(number) for number in signals}
    for number, handler in kept.items():
        if handler != signal.SIG_IGN:  # as under nohup
            signal.signal(number, handle)
    try:
        yield stop
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
