"""`streamasr subscribe`: the captions of a server, here."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
import time
from urllib.parse import urlsplit

from streamasr.captions import Display, Plain, Status, Terminal
from streamasr.client import captions
from streamasr.errors import OutputError
from streamasr.events import Event
from streamasr.export import Saver
from streamasr.server.settings import read_token

DRAW_S = 0.1


def run(options: argparse.Namespace) -> int:
    """Show captions until the server ends them or somebody stops it."""
    token = read_token(options.token_file) if options.token_file else ""
    savers: list[Saver] = []
    try:
        for path in options.save:
            savers.append(Saver(path, options.overwrite))
    except OutputError:
        for saver in savers:
            saver.discard()
        raise
    capable = sys.stdout.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
    display: Display = Plain() if options.plain or not capable else Terminal(hint="Waiting for captions. Ctrl-C stops.")
    try:
        asyncio.run(_show(options, token, display, savers))
    finally:
        display.close()
        for saver in savers:
            saver.close()
    return 0


async def _show(options: argparse.Namespace, token: str, display: Display, savers: list[Saver]) -> None:
    reading = asyncio.create_task(_read(options, token, display, savers))
    loop = asyncio.get_running_loop()
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            with contextlib.suppress(NotImplementedError):  # where only Ctrl-C's exception is known
                loop.add_signal_handler(getattr(signal, name), reading.cancel)
    label, began = urlsplit(options.url).netloc or options.url, time.monotonic()
    while not reading.done() and not display.closed:
        display.draw(Status("", label, elapsed_s=time.monotonic() - began))
        await asyncio.wait([reading], timeout=DRAW_S)
    reading.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await reading


async def _read(options: argparse.Namespace, token: str, display: Display, savers: list[Saver]) -> None:
    async for event in captions(options.url, token, options.history):
        _take(event, display, savers)


def _take(event: Event, display: Display, savers: list[Saver]) -> None:
    display.event(event)
    for saver in savers:
        try:
            saver.write(event)
        except OutputError as error:
            display.note(str(error))
