"""The options that concern the caption server, for the verbs `listen`, `serve` and `subscribe`; nothing heavy here."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from streamasr.verbs import numbers

if TYPE_CHECKING:
    from streamasr.captions import Display
    from streamasr.server.running import Running
    from streamasr.server.settings import Settings

PORT = 2700

SERVE = """One port for everything: the page at http://HOST:PORT/, websockets of the native protocol (/v1/captions,
/v1/stream), of Vosk's clients (/) and of Deepgram's (/v1/listen), and /health and /metrics.

examples:
  streamasr serve                                    the microphone's captions, and streams of other programs
  streamasr serve --source none                      streams of other programs only
  openssl rand -hex 24 > token && streamasr serve --host 0.0.0.0 --token-file token
"""

SUBSCRIBE = """examples:
  streamasr subscribe ws://127.0.0.1:2700            captions of a server that runs `listen --serve` or `serve`
  streamasr subscribe wss://captions.example --token-file token --save talk.srt
"""


def add_listen(verb: argparse.ArgumentParser) -> None:
    """`--serve` of `listen`."""
    group = verb.add_argument_group("captions for others")
    group.add_argument("--serve", metavar="[HOST:]PORT", help="give the captions to any number of subscribers")
    _access(group)


def add_serve(verb: argparse.ArgumentParser) -> None:
    """The options of `serve`."""
    where = verb.add_argument_group("address and access")
    where.add_argument("--host", default="127.0.0.1", help="default: %(default)s")
    where.add_argument("--port", type=int, default=PORT, help="default: %(default)s")
    _access(where)
    source = verb.add_argument_group("captions of its own")
    source.add_argument(
        "--source", metavar="WHAT", default="mic", help="mic (default), none, a sound file, or - for raw PCM at 16 kHz"
    )
    source.add_argument("--device", metavar="NAME", help="microphone: number, name or part of a name")
    limits = verb.add_argument_group("limits")
    limits.add_argument("--connections", metavar="N", type=numbers.whole, default=200, help="default: %(default)s")
    limits.add_argument("--streams", metavar="N", type=numbers.whole, default=64, help="senders; default: %(default)s")
    limits.add_argument(
        "--idle", metavar="SECONDS", type=numbers.seconds(0.001), default=60.0, help="default: %(default)g"
    )
    limits.add_argument(
        "--resume",
        metavar="SECONDS",
        type=numbers.seconds(0.001),
        default=60.0,
        help="a lost client may come back; %(default)g",
    )
    limits.add_argument(
        "--backlog",
        metavar="SECONDS",
        type=numbers.seconds(0.001),
        default=10.0,
        help="audio of one stream that waits; %(default)g",
    )
    work = verb.add_argument_group("work")
    work.add_argument("--batch", metavar="N", type=numbers.whole, default=64, help="streams in one step; %(default)s")
    work.add_argument("--chunk", metavar="MS", type=numbers.whole, default=80, help="audio in one step; %(default)s")
    work.add_argument(
        "--vosk-rate", metavar="HZ", type=numbers.whole, default=8000, help="of Vosk clients without a config"
    )
    work.add_argument("--log", choices=("text", "json"), default="text", help="default: %(default)s")


def add_subscribe(verb: argparse.ArgumentParser) -> None:
    """The options of `subscribe`."""
    verb.add_argument("url", metavar="URL")
    verb.add_argument("--token-file", metavar="FILE", type=Path, help="the server's token")
    verb.add_argument("--history", metavar="N", type=numbers.whole, default=0, help="captions of before; default: none")
    verb.add_argument(
        "--save", metavar="FILE", type=Path, action="append", default=[], help=".txt, .srt, .vtt or .jsonl; repeatable"
    )
    verb.add_argument("--overwrite", action="store_true", help="replace files that exist")
    verb.add_argument("--plain", action="store_true", help="one line for each caption, as where there is no terminal")


def settings(options: argparse.Namespace, host: str, port: int, accepts_audio: bool) -> Settings:
    """The server's settings.

    Raises:
        ConfigError: see `Settings`, `read_token`.
    """
    from streamasr.server.settings import Limits, Settings, read_token

    limits = Limits()
    if accepts_audio:
        limits = Limits(
            connections=options.connections,
            streams=options.streams,
            idle_s=options.idle,
            resume_s=options.resume,
            backlog_s=options.backlog,
        )
    return Settings(
        host=host,
        port=port,
        token=read_token(options.token_file) if options.token_file else "",
        no_auth=options.no_auth,
        certificate=options.certificate,
        key=options.key,
        origins=tuple(options.origin),
        limits=limits,
        vosk_rate_hz=options.vosk_rate if accepts_audio else 8000,
    )


class CaptionsFor:
    """The server of `listen --serve`. It starts when the source is open already: its imports take a while."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._given: Settings | None = None
        self._running: Running | None = None
        if options.serve is not None:
            from streamasr import bundle
            from streamasr.server.settings import split_address

            self._given = settings(options, *split_address(options.serve), accepts_audio=False)
            self._given.tls()
            self._model = Path(options.model or bundle.DEFAULT_NAME).name

    def published(self, display: Display) -> Display:
        """The display, whose events all subscribers get too; itself without `--serve`.

        Raises:
            ServerError: the address cannot be used.
        """
        given = self._given
        if given is None:
            return display
        from streamasr.server.running import Running
        from streamasr.server.service import CaptionServer

        self._running = Running(lambda: CaptionServer(None, given, self._model))
        display.note(f"captions for others at {self._running.address}")
        return self._running.published(display)

    def close(self) -> None:
        """Tell the subscribers that it is over."""
        if self._running:
            self._running.close()


@contextlib.contextmanager
def captions_server(options: argparse.Namespace) -> Iterator[CaptionsFor]:
    """The server of `listen --serve` while the block lasts.

    Raises:
        ConfigError: an address or access that cannot be.
    """
    server = CaptionsFor(options)
    try:
        yield server
    finally:
        server.close()


def _access(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--token-file", metavar="FILE", type=Path, help="ask clients for the token in its first line")
    group.add_argument("--no-auth", action="store_true", help="let everybody in who reaches the address")
    group.add_argument("--certificate", metavar="FILE", type=Path, help="TLS: the certificate chain (PEM)")
    group.add_argument("--key", metavar="FILE", type=Path, help="TLS: its key (PEM)")
    group.add_argument(
        "--origin", metavar="URL", action="append", default=[], help="let pages of this origin in; repeatable"
    )
