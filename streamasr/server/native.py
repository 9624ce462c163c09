"""The native dialect: `/v1/captions` and `/v1/stream`, as `docs/protocol.md` describes them."""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import TYPE_CHECKING

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from streamasr import protocol
from streamasr.errors import ProtocolError
from streamasr.events import End, Event, Overrun
from streamasr.journal import Journal, Message
from streamasr.server.logs import note
from streamasr.server.outlet import Outlet, close
from streamasr.server.sound import Sound, public, tuned
from streamasr.stream import Report

if TYPE_CHECKING:
    from streamasr.server.service import CaptionServer

PROGRESS_S = 1.0
BAD_DATA, POLICY, GOING_AWAY, LOST = 1007, 1008, 1001, 1006


class Channel:
    """The microphone's captions: one journal, any number of subscribers."""

    def __init__(self, server: CaptionServer) -> None:
        self.id = secrets.token_urlsafe(12)
        self.journal = Journal()
        self.outlets: set[Outlet] = set()
        self._server = server
        self.over = False

    def publish(self, event: Event) -> None:
        """Tell every subscriber."""
        if self.over:
            return
        if isinstance(event, Overrun):
            self._server.metrics.dropped.inc(event.seconds)
        self._send(self.journal.add_event(event))
        if isinstance(event, End):
            self.over = True
            self._close(1000, "the captions have ended")

    def stop(self) -> None:
        """The server goes away."""
        if not self.over:
            self.over = True
            fields = {"type": "end", "time_s": 0.0, "reason": "the server is going away"}
            self._send(self.journal.add(fields, clears=True))
            self._close(GOING_AWAY, "the server is going away")

    def _send(self, message: Message) -> None:
        for outlet in self.outlets:
            outlet.put(message)

    def _close(self, code: int, reason: str) -> None:
        for outlet in self.outlets:
            outlet.end(code, reason)

    async def serve(self, connection: ServerConnection, request: protocol.CaptionRequest) -> None:
        """One subscriber, until either side closes."""
        outlet = Outlet(connection, self._server.limits.waiting, self._server.metrics, request.partials)
        resumed = request.resume == self.id
        after = request.after if resumed else self.journal.last(request.history)
        ready = {
            "type": "ready",
            "seq": max(after, 0),
            "protocol": protocol.VERSION,
            "id": self.id,
            "resumed": resumed,
            "lost": resumed and self.journal.lost(after),
            "model": self._server.model,
        }
        outlet.put(Message(-1, protocol.dumps(ready)))
        for message in self.journal.after(after):
            outlet.put(message)
        if self.over:
            outlet.end()
        self.outlets.add(outlet)
        self._server.outlets.add(outlet)
        writer = asyncio.create_task(outlet.run())
        bad = 0
        try:
            async for text in connection:
                try:
                    if isinstance(text, bytes):
                        raise ProtocolError("audio was sent to /v1/captions", "nothing, or close")
                    if not isinstance(protocol.parse_control(text), protocol.Close):
                        raise ProtocolError("a control of streams was sent to /v1/captions", "nothing, or close")
                    outlet.end()
                except ProtocolError as error:
                    bad += 1
                    if bad > self._server.limits.bad_messages:
                        outlet.drop(POLICY, "too many messages that mean nothing")
                    outlet.put(_error("bad_message", str(error), self.journal.seq))
        except ConnectionClosed:
            pass
        finally:
            self.outlets.discard(outlet)
            self._server.outlets.discard(outlet)
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)


class Session:
    """One sender's stream. It outlives its connection for a while, for the client to come back."""

    def __init__(self, server: CaptionServer, request: protocol.StreamRequest) -> None:
        self.id = secrets.token_urlsafe(18)
        self.request = request
        self.journal = Journal()
        self.outlet: Outlet | None = None
        self.detached_at: float | None = None
        self._server = server
        self._progress_s = 0.0
        self.stopped_at: float | None = None
        self._engine = tuned(server.engine, request.endpointing_ms, request.hotwords or None)
        self._end_code, self._end_reason = 1000, ""
        self.sound = Sound(
            server.batcher,
            self._engine,
            server.metrics,
            server.limits.backlog_s,
            self._hear,
            request.rate_hz,
            request.encoding,
            request.channels,
        )

    @property
    def ended(self) -> bool:
        """`end` was written into the journal."""
        return self.stopped_at is not None

    def finish(self, code: int = 1000, reason: str = "") -> None:
        """Flush the stream; `end` follows, then the connection is closed."""
        self._end_code, self._end_reason = code, reason
        self.sound.finish()

    async def serve(self, connection: ServerConnection, after: int, resumed: bool) -> None:
        """One connection of the client, until either side closes."""
        outlet = Outlet(connection, self._server.limits.waiting, self._server.metrics, self.request.partials)
        earlier, self.outlet, self.detached_at = self.outlet, outlet, None
        if earlier:
            earlier.drop(POLICY, "the stream was taken up by another connection")
        if resumed:
            self.sound.cut()
        ready = {
            "type": "ready",
            "seq": max(after, 0),
            "protocol": protocol.VERSION,
            "id": self.id,
            "resumed": resumed,
            "lost": resumed and self.journal.lost(after),
            "received": self.sound.received,
            "model": self._server.model,
            "encoding": self.request.encoding,
            "rate_hz": self.request.rate_hz,
            "channels": self.request.channels,
            "resume_s": self._server.limits.resume_s,
        }
        outlet.put(Message(-1, protocol.dumps(ready)))
        for message in self.journal.after(max(after, 0)):
            outlet.put(message)
        if self.ended:
            outlet.end(self._end_code, self._end_reason)
        self._server.outlets.add(outlet)
        writer = asyncio.create_task(outlet.run())
        try:
            await self._read(connection, outlet)
        except ConnectionClosed:
            pass
        finally:
            self._server.outlets.discard(outlet)
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)
            if self.outlet is outlet:
                self.outlet = None
                self.sound.cut()
                self.detached_at = time.monotonic()
                if self.ended and not outlet.waiting and connection.close_code not in (None, LOST):
                    self._server.forget(self)

    async def _read(self, connection: ServerConnection, outlet: Outlet) -> None:
        bad = 0
        async for message in connection:
            if self.outlet is not outlet:
                return
            try:
                if isinstance(message, bytes):
                    if self.sound.over:
                        raise ProtocolError("audio after close", "nothing more")
                    self.sound.feed(message)
                    await self.sound.room()
                else:
                    self._control(protocol.parse_control(message))
            except ProtocolError as error:
                bad += 1
                self._put(self.journal.add(_fields("bad_message", str(error))))
                if isinstance(message, bytes) or bad > self._server.limits.bad_messages:
                    self.finish(BAD_DATA, "messages that mean nothing")

    def _control(self, control: protocol.Control) -> None:
        self.sound.last_audio = time.monotonic()
        if isinstance(control, protocol.Close):
            self.finish()
        elif self.sound.over:
            raise ProtocolError("a control after close", "nothing more")
        elif isinstance(control, protocol.Finalize):
            self.sound.stream.finalize()
        else:
            if control.partials is not None and self.outlet:
                self.outlet.partials = control.partials
            if control.hotwords is not None or control.endpointing_ms is not None:
                self._engine = tuned(self._engine, control.endpointing_ms, control.hotwords)
                self.sound.stream.tune(self._engine)

    def _hear(self, report: Report) -> None:
        heard_s = round(report.time_s, 3)
        for event in report.events:
            self._put(self.journal.add_event(event, heard_s=heard_s))
        if report.error:
            note("stream_failed", kind=type(report.error).__name__)
            self._put(self.journal.add(_fields("stream_failed", public(report.error))))
            self._put(self.journal.add({"type": "end", "time_s": heard_s}, clears=True))
        if report.error or (report.events and isinstance(report.events[-1], End)):
            self.stopped_at = time.monotonic()
            if self.outlet:
                self.outlet.end(self._end_code, self._end_reason)
        elif report.time_s - self._progress_s >= PROGRESS_S:
            self._progress_s = report.time_s
            fields = {"type": "progress", "received": self.sound.received, "heard_s": heard_s}
            self._put(self.journal.add(fields, "progress"))

    def _put(self, message: Message) -> None:
        if self.outlet:
            self.outlet.put(message)


async def serve_stream(server: CaptionServer, connection: ServerConnection, request: protocol.StreamRequest) -> None:
    """A new stream, or one that was left."""
    if request.resume:
        session = server.sessions.get(request.resume)
        if session is None:
            text = protocol.dumps({**_fields("unknown_stream", "there is no such stream any more"), "seq": 0})
            await connection.send(text)
            await close(connection, POLICY, "there is no such stream any more")
            return
        server.metrics.resumed.inc()
        await session.serve(connection, request.after, resumed=True)
        return
    try:
        session = Session(server, request)
    except ProtocolError as error:
        await connection.send(protocol.dumps({**_fields("bad_request", str(error)), "seq": 0}))
        await close(connection, POLICY, str(error))
        return
    server.sessions[session.id] = session
    await session.serve(connection, 0, resumed=False)


def _fields(code: str, message: str) -> protocol.Fields:
    return {"type": "error", "code": code, "message": message}


def _error(code: str, message: str, seq: int) -> Message:
    return Message(seq, protocol.dumps({**_fields(code, message), "seq": seq}))
