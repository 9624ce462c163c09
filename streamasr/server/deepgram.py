"""The Deepgram dialect, at `/v1/listen`."""

from __future__ import annotations

import asyncio
import datetime
import hashlib
import time
import uuid
from typing import TYPE_CHECKING

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from streamasr.errors import ProtocolError
from streamasr.events import End
from streamasr.journal import Message
from streamasr.protocol import Fields, dumps
from streamasr.protocol_deepgram import (
    SILENCE_LIMIT_S,
    CloseStream,
    DeepgramMessages,
    DeepgramRequest,
    FinalizeNow,
    parse_deepgram_control,
)
from streamasr.server.logs import note
from streamasr.server.outlet import Outlet
from streamasr.server.sound import Sound, public, tuned
from streamasr.stream import Report

if TYPE_CHECKING:
    from streamasr.server.service import CaptionServer

DATA, FAILED, GOING_AWAY = 1008, 1011, 1001
LONG_SILENCE_MS = 20_000  # where a client switches endpointing off


class DeepgramSession:
    """One client.

    Raises:
        ProtocolError: hotwords that cannot be spelled.
    """

    def __init__(self, server: CaptionServer, connection: ServerConnection, request: DeepgramRequest) -> None:
        self._server = server
        self.outlet = Outlet(connection, server.limits.waiting, server.metrics)
        self.id = str(uuid.uuid4())
        self.last_active = time.monotonic()
        self._seq = 0
        self._messages = DeepgramMessages(request, self.id, server.model)
        self._created = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds")
        self._digest = hashlib.sha256()
        self._code, self._reason = 1000, ""
        endpointing_ms = LONG_SILENCE_MS if request.endpointing_ms == 0 else request.endpointing_ms
        self.sound = Sound(
            server.batcher,
            tuned(server.engine, endpointing_ms, request.hotwords or None),
            server.metrics,
            server.limits.backlog_s,
            self._hear,
            request.rate_hz,
            "s16le",
            request.channels,
        )

    @property
    def idle_s(self) -> float:
        """Seconds without audio or KeepAlive, beyond what the service allows; below 0: none."""
        return time.monotonic() - self.last_active - SILENCE_LIMIT_S

    async def serve(self) -> None:
        """Until either side closes."""
        writer = asyncio.create_task(self.outlet.run())
        self._server.outlets.add(self.outlet)
        try:
            async for message in self.outlet.connection:
                self.last_active = time.monotonic()
                if isinstance(message, bytes):
                    if message:
                        self._digest.update(message)
                        self.sound.feed(message)
                        await self.sound.room()
                        self.last_active = time.monotonic()
                    else:  # older clients end so
                        self.finish()
                else:
                    self._control(message)
        except ConnectionClosed:
            pass
        except ProtocolError as error:
            self.drop(DATA, f"DATA-0000: {error}")
        finally:
            self._server.outlets.discard(self.outlet)
            self.sound.close()
            if not self.outlet.connection.close_code:
                await asyncio.wait([writer], timeout=self._server.limits.send_s)
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)

    def finish(self, code: int = 1000, reason: str = "") -> None:
        """Flush the stream; Metadata follows, then the connection is closed."""
        if not self.sound.over:
            self._code, self._reason = code, reason
            self.sound.finish()

    async def stop(self) -> None:
        """The server goes away: what was heard is told."""
        self.finish(GOING_AWAY, "the server is going away")

    def drop(self, code: int, reason: str) -> None:
        """Close now."""
        self.outlet.drop(code, reason)

    def _control(self, text: str) -> None:
        control = parse_deepgram_control(text)
        if self.sound.over:
            return
        if isinstance(control, CloseStream):
            self.finish()
        elif isinstance(control, FinalizeNow):
            self.sound.stream.finalize()
            self.sound.stream.mark("finalized")

    def _hear(self, report: Report) -> None:
        finalized = "finalized" in report.marks
        for fields, kind in self._messages.of(report.events, report.time_s, finalized):
            self._put(fields, kind)
        if report.error:
            note("stream_failed", kind=type(report.error).__name__)
            self.drop(FAILED, public(report.error))
        elif report.events and isinstance(report.events[-1], End):
            self._put(self._messages.metadata(report.time_s, self._created, self._digest.hexdigest()))
            self.outlet.end(self._code, self._reason)

    def _put(self, fields: Fields, kind: str = "") -> None:
        self._seq += 1
        self.outlet.put(Message(self._seq, dumps(fields), kind, clears=not kind))
