"""One connection's way out: messages wait in a bounded outbox, so that a slow client delays nobody."""

from __future__ import annotations

import asyncio
import contextlib
import time

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from streamasr.journal import Message, Outbox
from streamasr.server.metrics import Metrics

TRY_AGAIN = 1013
LONGEST_REASON = 120  # bytes of a close frame's reason


class Outlet:
    """Sends what is put in, in order, from a task of its own.

    Args:
        most: messages that must arrive and wait; with more the client is closed.
        partials: whether the client wants them.
    """

    def __init__(self, connection: ServerConnection, most: int, metrics: Metrics, partials: bool = True) -> None:
        self.connection, self.partials = connection, partials
        self.sending_since: float | None = None  # monotonic time, while the client takes nothing
        self._outbox, self._metrics = Outbox(most), metrics
        self._wake = asyncio.Event()
        self._end: tuple[int, str] | None = None
        self._closing: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """Messages not yet sent."""
        return len(self._outbox)

    def put(self, message: Message) -> None:
        """Queue a message."""
        if self._closing or (message.kind == "partial" and not self.partials):
            return
        before = self._outbox.replaced
        self._outbox.put(message)
        self._metrics.replaced.inc(self._outbox.replaced - before)
        if self._outbox.full:
            self._metrics.too_slow.inc()
            self.drop(TRY_AGAIN, "too slow: more events wait than can be kept; resume later")
        self._wake.set()

    def end(self, code: int = 1000, reason: str = "") -> None:
        """Close once all is sent."""
        self._end = self._end or (code, reason)
        self._wake.set()

    def drop(self, code: int, reason: str) -> None:
        """Close now; what waits is not sent."""
        if not self._closing:
            self._closing = asyncio.create_task(close(self.connection, code, reason))
            self._wake.set()

    async def run(self) -> None:
        """Send until the end or the loss of the connection, then close it."""
        try:
            while not self._closing:
                message = self._outbox.take()
                if message is None:
                    if self._end:
                        await close(self.connection, *self._end)
                        break
                    self._wake.clear()
                    await self._wake.wait()
                    continue
                self.sending_since = time.monotonic()
                await self.connection.send(message.text)
                self.sending_since = None
        except ConnectionClosed:
            pass
        finally:
            self.sending_since = None
            if self._closing:
                await self._closing


async def close(connection: ServerConnection, code: int, reason: str) -> None:
    """Close a connection, whatever its state."""
    short = reason.encode()[:LONGEST_REASON].decode(errors="ignore")
    with contextlib.suppress(ConnectionClosed, OSError):
        await connection.close(code, short)
