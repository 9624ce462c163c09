"""The Vosk dialect, at `/`: one reply for each message of audio; a config touches its own connection only."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

from streamasr.errors import ProtocolError
from streamasr.events import End
from streamasr.protocol_vosk import Eof, Reset, VoskConfig, VoskReplies, parse_vosk
from streamasr.server.logs import note
from streamasr.server.outlet import close
from streamasr.server.sound import Sound, public, tuned
from streamasr.stream import Report

if TYPE_CHECKING:
    from streamasr.server.service import CaptionServer

UNSUPPORTED, FAILED, GOING_AWAY = 1007, 1011, 1001


class VoskSession:
    """One client."""

    def __init__(self, server: CaptionServer, connection: ServerConnection) -> None:
        self.last_active = time.monotonic()
        self.sending_since: float | None = None
        self._server, self._connection = server, connection
        self._config = VoskConfig(server.settings.vosk_rate_hz)
        self._replies = VoskReplies()
        self._sound: Sound | None = None
        self._waiters: list[asyncio.Future[None]] = []

    async def serve(self) -> None:
        """Until the client has had its last reply."""
        try:
            async for message in self._connection:
                self.last_active = time.monotonic()
                if isinstance(message, str):
                    given = parse_vosk(message, self._config)
                    if isinstance(given, VoskConfig):
                        self._configure(given)
                    elif isinstance(given, Reset):
                        if self._sound:
                            self._sound.stream.finalize()
                            await self._heard(self._sound)
                        await self._send(self._replies.reply(self._config, ended=True))
                    elif isinstance(given, Eof):
                        await self._finish()
                        break
                else:
                    sound = self._open()
                    sound.feed(message)
                    await sound.room()
                    await self._heard(sound)
                    await self._send(self._replies.reply(self._config))
        except ConnectionClosed:
            pass
        except ProtocolError as error:
            await close(self._connection, UNSUPPORTED, str(error))
        except _Failed as failed:
            note("stream_failed", kind=type(failed.error).__name__)
            await close(self._connection, FAILED, public(failed.error))
        finally:
            if self._sound:
                self._sound.close()

    async def stop(self) -> None:
        """The server goes away: what was heard is told."""
        with contextlib.suppress(asyncio.TimeoutError, ConnectionClosed, _Failed):
            await asyncio.wait_for(self._finish(), 5.0)
        await close(self._connection, GOING_AWAY, "the server is going away")

    def drop(self, code: int, reason: str) -> None:
        """Close now."""
        self._server.spawn(close(self._connection, code, reason))

    def _configure(self, config: VoskConfig) -> None:
        if self._sound and config.rate_hz != self._config.rate_hz:
            raise ProtocolError("sample_rate was changed after the first audio", "config before audio")
        if self._sound and config.phrases != self._config.phrases:
            self._sound.stream.tune(tuned(self._server.engine, None, config.phrases))
        self._config = config

    def _open(self) -> Sound:
        if self._sound is None:
            server = self._server
            engine = tuned(server.engine, None, self._config.phrases or None)
            limits = server.limits
            self._sound = Sound(
                server.batcher, engine, server.metrics, limits.backlog_s, self._hear, self._config.rate_hz
            )
        return self._sound

    async def _finish(self) -> None:
        if self._sound and not self._sound.over:
            self._sound.finish()
            await self._next()
        await self._send(self._replies.reply(self._config, ended=True))
        await close(self._connection, 1000, "")

    async def _heard(self, sound: Sound) -> None:
        """Wait until all audio so far is heard."""
        sound.stream.mark(None)
        await self._next()

    def _next(self) -> asyncio.Future[None]:
        """Done at the next mark, or at the end of the stream."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        return waiter

    def _hear(self, report: Report) -> None:
        self._replies.hear(report.events)
        ended = bool(report.events) and isinstance(report.events[-1], End)
        if not (report.error or report.marks or ended):
            return
        for waiter in self._waiters:
            if report.error and not waiter.done():
                waiter.set_exception(_Failed(report.error))
            elif not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()

    async def _send(self, text: str) -> None:
        self.sending_since = time.monotonic()
        await self._connection.send(text)
        self.sending_since = None


class _Failed(Exception):
    """The stream is over because of `error`."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error
