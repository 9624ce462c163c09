"""The caption server: one event loop, one port, one batcher for all streams."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Coroutine
from http import HTTPStatus
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

from streamasr import protocol
from streamasr.batcher import Batcher
from streamasr.engine import Engine
from streamasr.errors import ProtocolError, ServerError
from streamasr.events import Event
from streamasr.protocol_deepgram import DeepgramRequest, parse_deepgram_request
from streamasr.server import pages
from streamasr.server.access import Gate, single
from streamasr.server.deepgram import DeepgramSession
from streamasr.server.logs import SOCKETS, defect, note
from streamasr.server.metrics import CONTENT_TYPE, Metrics
from streamasr.server.native import GOING_AWAY, Channel, Session, serve_stream
from streamasr.server.outlet import TRY_AGAIN, Outlet, close
from streamasr.server.settings import Settings
from streamasr.server.vosk import VoskSession
from streamasr.stream import Report, Stream

RETRY_S = 5
SWEEP_S = 0.5
STOP_S = 10.0  # to flush streams at the end
LONGEST_TARGET = 4096
DIALECTS = {"/v1/captions": "captions", "/v1/stream": "stream", "/v1/listen": "deepgram", "/": "vosk"}


class Ticket(NamedTuple):
    """What a request was found to be before its websocket was opened."""

    dialect: str
    request: protocol.CaptionRequest | protocol.StreamRequest | DeepgramRequest | None


class CaptionServer:
    """Everything that lives on the event loop.

    Args:
        engine: None where only the microphone's captions are served.
        batcher_options: of the `Batcher`.
    """

    def __init__(self, engine: Engine | None, settings: Settings, model: str = "", **batcher_options: Any) -> None:
        self.settings, self.limits, self.metrics = settings, settings.limits, Metrics()
        self.model = model or (engine.bundle.name if engine else "")
        self.channel = Channel(self)
        self.sessions: dict[str, Session] = {}
        self.outlets: set[Outlet] = set()
        self.port = settings.port
        self._vosk: set[VoskSession] = set()
        self._deepgram: set[DeepgramSession] = set()
        self._engine, self._batcher = engine, None if engine is None else self._make_batcher(engine, batcher_options)
        self._gate, self._pages = Gate(settings), pages.load()
        self._open = 0
        self._stopping = False
        self._began = time.monotonic()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: Server | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._measure()

    @property
    def engine(self) -> Engine:
        """The engine; only asked for where streams are served."""
        assert self._engine is not None
        return self._engine

    @property
    def batcher(self) -> Batcher:
        """The batcher; only asked for where streams are served."""
        assert self._batcher is not None
        return self._batcher

    async def start(self) -> None:
        """Listen.

        Raises:
            ServerError: the address cannot be used. ConfigError: TLS files that cannot.
        """
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(_unexpected)
        settings = self.settings
        try:
            self._server = await serve(
                self._handle,
                settings.host,
                settings.port,
                ssl=settings.tls(),
                process_request=self._process,
                select_subprotocol=_subprotocol,
                compression=None,  # so no message is larger than what came over the wire
                max_size=self.limits.message_bytes,
                max_queue=4,
                open_timeout=10,
                close_timeout=2,
                logger=SOCKETS,
                server_header="streamasr",
                create_connection=self._connection,  # type: ignore[arg-type]  # any factory will do
            )
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise ServerError(
                f"cannot listen on {settings.host} port {settings.port} ({reason})",
                "a free port of this machine",
                "Choose another with --port.",
            ) from None
        self.port = next(iter(self._server.sockets)).getsockname()[1]
        self.spawn(self._sweep())
        note("listening", host=settings.host, port=self.port, tls=bool(settings.certificate), model=self.model)

    async def stop(self) -> None:
        """Take nobody new, flush every stream, tell every client, close."""
        self._stopping = True
        note("stopping", streams=self._streams(), connections=self._open)
        for session in list(self.sessions.values()):
            session.finish(GOING_AWAY, "the server is going away")
        for talking in self._vosk:
            self.spawn(talking.stop())
        for listening in self._deepgram:
            self.spawn(listening.stop())
        self.channel.stop()
        deadline = time.monotonic() + STOP_S
        while self._open and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        if self._server:
            self._server.close(code=GOING_AWAY, reason="the server is going away")
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._server.wait_closed(), 5.0)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._batcher is not None:
            await asyncio.get_running_loop().run_in_executor(None, self._batcher.close)
        note("stopped")

    def publish(self, event: Event) -> None:
        """An event of the microphone, for all subscribers; from the event loop."""
        self.channel.publish(event)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something beside; it ends with the server."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _make_batcher(self, engine: Engine, options: dict[str, Any]) -> Batcher:
        batcher = Batcher(engine, deliver=self._deliver, **options)
        batcher.load.observe = self._observe
        return batcher

    def _observe(self, streams: int, seconds: float) -> None:
        self.metrics.step.observe(seconds)
        self.metrics.batch.observe(streams)

    def _deliver(self, reports: list[tuple[Stream, Report]]) -> None:
        """From the batcher's thread to the loop."""
        if self._loop:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(_dispatch, reports)

    def _measure(self) -> None:
        measure = self.metrics.measure
        measure("streamasr_outbox_messages", "Waiting to be sent.", lambda: float(sum(o.waiting for o in self.outlets)))
        measure("streamasr_subscribers", "Of the microphone's captions.", lambda: float(len(self.channel.outlets)))
        if self._batcher is not None:
            batcher = self._batcher
            measure("streamasr_backlog_seconds", "Audio waiting to be heard.", lambda: batcher.backlog_s)
            measure(
                "streamasr_real_time_factor",
                "Seconds of computing for a second of audio, since the start.",
                lambda: batcher.load.busy_s / batcher.load.audio_s if batcher.load.audio_s else 0.0,
            )

    def _streams(self) -> int:
        live = sum(not session.ended for session in self.sessions.values())
        return live + len(self._vosk) + len(self._deepgram)

    # Before a websocket is opened.

    def _connection(self, *arguments: Any, **options: Any) -> ServerConnection:
        return _Counted(self, *arguments, **options)

    def _process(self, connection: ServerConnection, request: Request) -> Response | None:
        """Answer plain HTTP and refusals; None opens the websocket."""
        try:
            response = self._route(connection, request)
        except Exception:
            defect("request_failed")
            response = pages.refusal(500, "the request failed; the server's log knows more")
        if response is not None and response.status_code >= 400:
            self.metrics.refused.labels(str(response.status_code)).inc()
        return response

    def _route(self, connection: ServerConnection, request: Request) -> Response | None:
        if len(request.path) > LONGEST_TARGET:
            return pages.refusal(414, "the address is too long")
        target = urlsplit(request.path)
        try:
            query = parse_qsl(target.query, keep_blank_values=True, max_num_fields=300)
        except ValueError:
            return pages.refusal(400, "the query has too many fields")
        token = next((value for key, value in query if key == "token"), None)
        query = [(key, value) for key, value in query if key != "token"]
        if (single(request.headers, "Upgrade") or "").lower() != "websocket":
            return self._page(request, target.path, token)
        dialect = DIALECTS.get(target.path)
        if dialect is None:
            return pages.refusal(404, f"there is nothing here; websockets are at {', '.join(DIALECTS)}")
        if refused := self._gate.refuse(request.headers, token):
            note("refused", status=refused.status, dialect=dialect)
            return pages.refusal(refused.status, refused.reason)
        if self._stopping:
            return pages.refusal(503, "the server is going away", RETRY_S)
        if dialect != "captions" and self._engine is None:
            return pages.refusal(404, "this server only gives the microphone's captions; `streamasr serve` takes audio")
        if self._open > self.limits.connections:
            return pages.refusal(503, f"{self.limits.connections} connections are open, the most here", RETRY_S)
        try:
            wanted = _parse(dialect, query)
        except ProtocolError as error:
            return pages.refusal(400, str(error))
        resumes = isinstance(wanted, protocol.StreamRequest) and wanted.resume
        if dialect != "captions" and not resumes and not self._make_room():
            return pages.refusal(503, f"{self.limits.streams} streams are open, the most here", RETRY_S)
        connection.ticket = Ticket(dialect, wanted)  # type: ignore[attr-defined]
        return None

    def _page(self, request: Request, path: str, token: str | None) -> Response:
        if getattr(request, "method", "GET") not in ("GET", "HEAD"):
            return pages.refusal(405, "only GET is understood")
        if path == "/health":
            status = HTTPStatus.SERVICE_UNAVAILABLE if self._stopping else HTTPStatus.OK
            fields = {
                "status": "stopping" if self._stopping else "ok",
                "model": self.model,
                "streams": self._streams(),
                "subscribers": len(self.channel.outlets),
                "uptime_s": round(time.monotonic() - self._began, 1),
            }
            return pages.answer_json(status, fields)
        if path == "/metrics":
            if refused := self._gate.unknown(request.headers, token):
                return pages.refusal(refused.status, refused.reason)
            self.metrics.streams.set(self._streams())
            self.metrics.detached.set(sum(s.detached_at is not None for s in self.sessions.values()))
            return pages.answer(HTTPStatus.OK, self.metrics.text(), CONTENT_TYPE)
        if path in self._pages:
            return pages.answer(HTTPStatus.OK, *self._pages[path])
        if path in DIALECTS:
            return pages.refusal(426, "this is a websocket")
        return pages.refusal(404, "there is nothing here")

    def _make_room(self) -> bool:
        """Whether one more stream fits; one that waits for its client gives way."""
        if self._streams() < self.limits.streams:
            return True
        sessions = self.sessions.values()
        waiting = [session for session in sessions if session.detached_at is not None and not session.ended]
        if not waiting:
            return False
        self.forget(min(waiting, key=lambda session: session.detached_at or 0.0))
        return True

    # Websockets.

    async def _handle(self, connection: ServerConnection) -> None:
        ticket: Ticket = connection.ticket  # type: ignore[attr-defined]
        self.metrics.opened.labels(ticket.dialect).inc()
        self.metrics.connections.labels(ticket.dialect).inc()
        began = time.monotonic()
        try:
            await self._converse(connection, ticket)
        except ConnectionClosed:
            pass
        except Exception:  # this client is closed, the others go on
            defect("connection_failed", dialect=ticket.dialect)
            await close(connection, 1011, "the connection failed; the server's log knows more")
        finally:
            self.metrics.connections.labels(ticket.dialect).dec()
            seconds = round(time.monotonic() - began, 3)
            note("closed", dialect=ticket.dialect, seconds=seconds, code=connection.close_code)

    async def _converse(self, connection: ServerConnection, ticket: Ticket) -> None:
        wanted = ticket.request
        if isinstance(wanted, protocol.CaptionRequest):
            await self.channel.serve(connection, wanted)
        elif isinstance(wanted, protocol.StreamRequest):
            await serve_stream(self, connection, wanted)
        elif isinstance(wanted, DeepgramRequest):
            try:
                listening = DeepgramSession(self, connection, wanted)
            except ProtocolError as error:
                await close(connection, 1008, f"DATA-0000: {error}")
                return
            self._deepgram.add(listening)
            try:
                await listening.serve()
            finally:
                self._deepgram.discard(listening)
        else:
            talking = VoskSession(self, connection)
            self._vosk.add(talking)
            try:
                await talking.serve()
            finally:
                self._vosk.discard(talking)

    async def _sweep(self) -> None:
        """Now and then: streams that nobody comes back to, clients that are idle or take nothing."""
        while True:
            await asyncio.sleep(SWEEP_S)
            now = time.monotonic()
            for session in list(self.sessions.values()):
                if session.detached_at is not None:
                    if now - session.detached_at > self.limits.resume_s:
                        self.forget(session)
                elif not session.sound.over and now - session.sound.last_audio > self.limits.idle_s:
                    session.finish(1008, f"no audio for {self.limits.idle_s:g} s")
            for outlet in list(self.outlets):
                if outlet.sending_since and now - outlet.sending_since > self.limits.send_s:
                    self.metrics.too_slow.inc()
                    outlet.drop(TRY_AGAIN, f"nothing was taken for {self.limits.send_s:g} s")
            for listening in list(self._deepgram):
                if listening.idle_s > 0:
                    listening.drop(1011, "NET-0001: no audio or KeepAlive within 10 s")
            for talking in list(self._vosk):
                if talking.sending_since and now - talking.sending_since > self.limits.send_s:
                    talking.drop(TRY_AGAIN, "nothing was taken")
                elif now - talking.last_active > self.limits.idle_s:
                    talking.drop(1008, f"no audio for {self.limits.idle_s:g} s")

    def forget(self, session: Session) -> None:
        """Nobody comes back to this stream."""
        self.sessions.pop(session.id, None)
        session.sound.close()


class _Counted(ServerConnection):
    """Refused before it has said anything where too many are open already."""

    def __init__(self, owner: CaptionServer, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._owner = owner

    def connection_made(self, transport: Any) -> None:
        self._owner._open += 1
        super().connection_made(transport)
        if self._owner._open > self._owner.limits.connections + 50:  # these are not even heard
            transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        self._owner._open -= 1
        super().connection_lost(error)


def _parse(
    dialect: str, query: list[tuple[str, str]]
) -> protocol.CaptionRequest | protocol.StreamRequest | DeepgramRequest | None:
    if dialect == "captions":
        return protocol.parse_caption_request(dict(query))
    if dialect == "stream":
        return protocol.parse_stream_request(dict(query))
    return parse_deepgram_request(query) if dialect == "deepgram" else None


def _subprotocol(_: ServerConnection, offered: Any) -> Subprotocol | None:
    """A browser that sends its token as a subprotocol must get the name of it back."""
    names = [name for name in offered if name.lower() in ("token", "bearer")]
    return names[0] if names else None


def _dispatch(reports: list[tuple[Stream, Report]]) -> None:
    for stream, report in reports:
        try:
            stream.receive(report)
        except Exception:  # must not take the reports of the others along
            defect("report_failed")


def _unexpected(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    error = context.get("exception")
    kind = type(error).__name__ if error else ""
    note("unexpected", logging.WARNING, reason=context.get("message", ""), kind=kind)
