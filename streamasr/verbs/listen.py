"""`streamasr listen`: captions of what is being said."""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from types import FrameType

from streamasr import bundle, warm
from streamasr.audio import RATE_HZ, FileSource, RawSource, Source
from streamasr.captions import Display, Plain, Terminal, clock
from streamasr.container import quiet
from streamasr.errors import NoInputDevice, OutputError
from streamasr.export import Saver
from streamasr.live import Listener, Loading, Session, Summary
from streamasr.recorder import Recorder
from streamasr.track import Track
from streamasr.verbs import listen_options, server_options, shared

LONGEST_PAUSE_S = 86_400.0  # between a transcript and what continues it; a longer one is not kept


def run(options: argparse.Namespace) -> int:
    """Listen until the sources end or somebody stops it."""
    bundle.find(options.model)  # a wrong name is told before anything starts
    with contextlib.ExitStack() as undo, stopping() as stop, server_options.captions_server(options) as server:
        savers = _savers(options, undo)
        listeners = _listeners(options)
        tracks, notices = _tracks(options, savers, undo)
        first = [warm.NOTICE] if shared.is_first_start(options) else []
        loading = Loading(functools.partial(shared.recogniser, options, tell=lambda _: None))
        display = _display(options)
        undo.callback(display.close)
        if isinstance(display, Plain) and not notices:
            notices = [f"listening to {' and '.join(track.source.name for track in tracks)}; Ctrl-C stops"]
        for notice in [*notices, *first]:
            display.note(notice)
        shown = server.published(display)
        undo.pop_all()  # from here on the session closes them
        lag_limit_s = None if options.never_drop else options.lag_limit
        session = Session(tracks, loading, shown, savers, stop, listeners=listeners, lag_limit_s=lag_limit_s)
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


def _savers(options: argparse.Namespace, undo: contextlib.ExitStack) -> list[Saver]:
    savers: list[Saver] = []
    for path in [*options.save, *options.go_on]:
        if path.resolve() in (saver.path.resolve() for saver in savers):
            raise OutputError(f"{path} is to be saved twice", "different files", "Leave one out.")
        saver = Saver(path, options.overwrite, append=path in options.go_on)
        undo.callback(saver.discard)
        savers.append(saver)
    return savers


def _listeners(options: argparse.Namespace) -> list[Listener]:
    listeners: list[Listener] = []
    if options.on_final is not None:
        from streamasr.programs import Program

        listeners.append(Program(options.on_final))
    if options.obs is not None:
        from streamasr.obs import Obs, read_password

        password = read_password(options.obs_password_file) if options.obs_password_file else ""
        listeners.append(Obs(options.obs, password))
    return listeners


def _tracks(
    options: argparse.Namespace, savers: list[Saver], undo: contextlib.ExitStack
) -> tuple[list[Track], list[str]]:
    """The sources, open, and what the user must be told about them."""
    start_s = max((saver.end_s + _pause_s(saver) for saver in savers), default=0.0)
    notices = [f"{saver.path} goes on at {clock(start_s)}" for saver in savers if saver.end_s]
    if notices and options.record:
        notices.append(f"{options.record} begins at {clock(start_s)} of the transcript")
    tracks: list[Track] = []
    for what, label in zip(options.source, listen_options.labels(options), strict=True):
        recorder = None
        if options.record:
            recorder = Recorder(_record_path(options.record, label), options.overwrite)
            undo.callback(recorder.close)
        source, notice = _source(options, what)
        undo.callback(source.close)
        notices += [notice] if notice else []
        tracks.append(Track(source, not isinstance(source, FileSource), label, recorder, start_s))
    return tracks, notices


def _pause_s(saver: Saver) -> float:
    """Seconds between a transcript's last event and now, as far as they are to be kept."""
    return saver.silent_s if saver.silent_s <= LONGEST_PAUSE_S else 0.0


def _record_path(path: Path, label: str) -> Path:
    """One file for each source: talk.flac, or talk.mic.flac and talk.system.flac."""
    if not label:
        return path
    word = re.sub(r"[^\w-]+", "-", label)
    return path.with_name(f"{path.stem}.{word}{path.suffix}")


def _source(options: argparse.Namespace, what: str) -> tuple[Source, str]:
    """A source, open, and what the user must be told about it."""
    if what == listen_options.PIPE:
        rate_hz, encoding = options.rate or RATE_HZ, options.encoding or "s16le"
        return RawSource(sys.stdin.buffer, rate_hz, encoding, options.channels or 1), ""
    if listen_options.is_file(what):
        return FileSource(what, realtime=options.realtime), ""

    from streamasr.mic import Microphone

    if what == listen_options.SYSTEM:
        return Microphone(loopback=True), ""
    if what.startswith(listen_options.DEVICE):
        return Microphone(what.removeprefix(listen_options.DEVICE)), ""
    try:
        return Microphone(options.device), ""
    except NoInputDevice:
        if options.device is not None or len(options.source) > 1:
            raise
        recording = resources.files("streamasr") / "data" / "welcome.opus"
        notice = "no microphone was found, so a recording is played through the same path instead"
        return FileSource(str(recording), realtime=True), notice


def _display(options: argparse.Namespace) -> Display:
    capable = sys.stdout.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
    if options.plain or not capable:
        return Plain()
    return Terminal(
        hint="Listening. Speak; Ctrl-C stops."
        if listen_options.MICROPHONE in options.source
        else "Listening. Ctrl-C stops."
    )


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
