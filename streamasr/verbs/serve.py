"""`streamasr serve`: captions for others, of the microphone here and of whatever they send."""

from __future__ import annotations

import argparse
import sys
import threading
from importlib import resources

import numpy as np

from streamasr import bundle
from streamasr.audio import FileSource, RawSource, Source
from streamasr.errors import NoInputDevice, StreamasrError
from streamasr.live import Loading, Session
from streamasr.recogniser import BatchedRecogniser
from streamasr.server import logs
from streamasr.server.running import Quiet, Running
from streamasr.server.service import CaptionServer
from streamasr.verbs import listen, server_options, shared

WAIT_S = 0.2


def run(options: argparse.Namespace) -> int:
    """Serve until somebody stops it."""
    bundle.find(options.model)
    settings = server_options.settings(options, options.host, options.port, accepts_audio=True)
    settings.tls()
    logs.configure(options.log == "json")
    with listen.stopping() as stop:
        engine = shared.recogniser(options)
        _, state = engine.feed(np.zeros(engine.rate_hz, np.float32), engine.start())  # loads all before anybody waits
        engine.finish(state)

        def make() -> CaptionServer:
            return CaptionServer(engine, settings, chunk_s=options.chunk / 1000, most=options.batch)

        with Running(make) as running:
            shared.say(f"captions at {running.address}; Ctrl-C stops")
            if options.source != "none":
                _hear(options, running, stop)
            while not stop.wait(WAIT_S):
                pass
    return 0


def _hear(options: argparse.Namespace, running: Running, stop: threading.Event) -> None:
    """The captions of the server's own source, until it ends; senders are served all the while."""
    try:
        source = _source(options)
        if source is None:
            return
        logs.note("source", name=source.name if options.source == "mic" else options.source)
        recogniser = BatchedRecogniser(running.server.batcher)
        session = Session(
            source,
            Loading(lambda: recogniser),
            running.published(Quiet(shared.say)),
            stop=stop,
            live=not isinstance(source, FileSource),
        )
        session.run()
        if not stop.is_set():
            logs.note("source_ended", seconds=round(session.summary.heard_s, 3))
    except StreamasrError as error:
        shared.say(str(error))


def _source(options: argparse.Namespace) -> Source | None:
    if options.source == "-":
        return RawSource(sys.stdin.buffer)
    if options.source == "demo":
        return FileSource(str(resources.files("streamasr") / "data" / "welcome.opus"), realtime=True)
    if options.source != "mic":
        return FileSource(options.source, realtime=True)

    from streamasr.mic import Microphone

    try:
        return Microphone(options.device)
    except NoInputDevice:
        if options.device is not None:
            raise
        shared.say("no microphone was found; other programs can send their audio all the same")
        return None
