"""A client of the caption server: subscribe to captions, or send audio and get its events.

    async for event in captions("ws://127.0.0.1:2700"):
        print(event)

    async with Sender("ws://127.0.0.1:2700", rate_hz=16_000) as sender:
        await sender.send(pcm)  # bytes of 16-bit samples, as they come
        await sender.close()
        async for event in sender:
            print(event)

A lost connection is made again, and what was missed is fetched, for `patience_s` seconds; nothing is heard twice.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import NamedTuple
from urllib.parse import urlencode, urlsplit, urlunsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

from streamasr import protocol
from streamasr.errors import ProtocolError, ServerError
from streamasr.events import End, Event

UNSENT_S = 60.0  # of audio that the server has not acknowledged; then `send` waits
PAUSES_S = (0.2, 0.5, 1.0, 2.0, 4.0)
OPEN_S = 10.0
WIDTHS = {"s16le": 2, "f32le": 4}


def address(url: str, path: str, query: dict[str, str]) -> str:
    """The websocket's address: `url` may be ws, wss, http or https, with or without the path.

    Raises:
        ServerError: it is no address.
    """
    parts = urlsplit(url if "://" in url else f"ws://{url}")
    schemes = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}
    if parts.scheme not in schemes or not parts.hostname:
        raise ServerError(f"{url!r} is no address of a caption server", "ws://HOST:PORT", "Try: ws://127.0.0.1:2700")
    whole = path if parts.path in ("", "/") else parts.path
    given = "&".join(filter(None, (parts.query, urlencode(query))))
    return urlunsplit((schemes[parts.scheme], parts.netloc, whole, given, ""))


async def captions(
    url: str,
    token: str = "",
    history: int = 0,
    patience_s: float = 60.0,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[Event]:
    """The events of `/v1/captions`, until the server says `end`; with `history`, that many earlier ones first.

    Raises:
        ServerError: refused, or lost for longer than `patience_s`. ProtocolError: it is no caption server.
    """
    line = _Line(url, token, patience_s, tls)
    identity, after = "", -1
    while True:
        resumed = {"resume": identity, "after": str(after)} if identity else {"history": str(history)}
        connection = await line.open("/v1/captions", resumed)
        try:
            async for text in connection:
                fields = protocol.parse_json(_text(text), longest=10**6)
                if fields.get("type") == "ready":
                    identity, after = str(fields.get("id", "")), int(fields.get("seq", 0))
                    line.found()
                    continue
                after = max(after, int(fields.get("seq", after)))
                event = protocol.event_of(fields)
                if event:
                    yield event
                if isinstance(event, End):
                    return
            raise line.ended(connection)
        except ConnectionClosed:
            line.lost(connection)
        finally:
            await connection.close()


class _Entry(NamedTuple):
    """Something to send: audio from frame `start` on, or a control after it."""

    start: int
    data: bytes | str


class Sender:
    """One stream of audio to `/v1/stream`; iterate for its events while, or after, sending.

    Args:
        url: of the server.
        rate_hz, encoding, channels: of the audio; encoding is "s16le" or "f32le".
        hotwords: phrases to expect.
        endpointing_ms: silence that ends an utterance.
        patience_s: how long a lost connection is made again.

    Raises:
        ServerError: refused, or lost for too long (from `async with`, `send` or the iteration).
    """

    def __init__(
        self,
        url: str,
        token: str = "",
        rate_hz: int = 16_000,
        encoding: str = "s16le",
        channels: int = 1,
        hotwords: Sequence[str] = (),
        endpointing_ms: int | None = None,
        patience_s: float = 60.0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._line = _Line(url, token, patience_s, tls)
        self._query = {"encoding": encoding, "rate": str(rate_hz), "channels": str(channels)}
        if hotwords:
            self._query["hotwords"] = ",".join(hotwords)
        if endpointing_ms is not None:
            self._query["endpointing_ms"] = str(endpointing_ms)
        self._width = WIDTHS[encoding] * channels
        self._most = round(UNSENT_S * rate_hz)
        self._entries: collections.deque[_Entry] = collections.deque()
        self._first = 0  # number of the first entry kept
        self._next = 0  # number of the next entry to send on this connection
        self._frames = 0  # handed in
        self._known = 0  # frames that the server is known to have
        self._rest = b""
        self._after = 0
        self._changed = asyncio.Condition()
        self._ready = asyncio.Event()
        self._messages: asyncio.Queue[protocol.Fields | Exception] = asyncio.Queue(maxsize=1000)
        self._task: asyncio.Task[None] | None = None
        self._error: Exception | None = None
        self.id = ""

    async def __aenter__(self) -> Sender:
        self._task = asyncio.create_task(self._run())
        await self._ready.wait()
        if self._error:
            raise self._error
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def send(self, data: bytes) -> None:
        """Send audio; waits while the server is far behind."""
        whole = self._rest + data
        used = len(whole) - len(whole) % self._width
        self._rest = whole[used:]
        if not used:
            return
        async with self._changed:
            await self._changed.wait_for(lambda: self._error or self._frames - self._known < self._most)
            if self._error:
                raise self._error
            self._entries.append(_Entry(self._frames, whole[:used]))
            self._frames += used // self._width
            self._changed.notify_all()

    async def finalize(self) -> None:
        """End the utterance now; the stream goes on."""
        await self._control({"type": "finalize"})

    async def configure(
        self,
        partials: bool | None = None,
        endpointing_ms: int | None = None,
        hotwords: Sequence[str] | None = None,
    ) -> None:
        """Change the stream from here on; None leaves a value as it is."""
        given = {"partials": partials, "endpointing_ms": endpointing_ms}
        fields = {"type": "configure", **{name: value for name, value in given.items() if value is not None}}
        if hotwords is not None:
            fields["hotwords"] = list(hotwords)
        await self._control(fields)

    async def close(self) -> None:
        """No more audio: the last words follow, then `End`."""
        await self._control({"type": "close"})

    async def __aiter__(self) -> AsyncIterator[Event]:
        async for fields in self.messages():
            if event := protocol.event_of(fields):
                yield event

    async def messages(self) -> AsyncIterator[protocol.Fields]:
        """The messages behind the events, `progress` and `error` among them, up to `end`."""
        while True:
            message = await self._messages.get()
            if isinstance(message, Exception):
                raise message
            yield message
            if message.get("type") == "end":
                return

    async def _control(self, fields: protocol.Fields) -> None:
        async with self._changed:
            if self._error:
                raise self._error
            self._entries.append(_Entry(self._frames, protocol.dumps(fields)))
            self._changed.notify_all()

    async def _run(self) -> None:
        try:
            while not await self._talk():
                pass
        except (ServerError, ProtocolError) as error:
            await self._fail(error)

    async def _fail(self, error: Exception) -> None:
        async with self._changed:
            self._error = error
            self._changed.notify_all()
        self._ready.set()
        await self._messages.put(error)

    async def _talk(self) -> bool:
        """One connection; true after `end`."""
        query = {"resume": self.id, "after": str(self._after)} if self.id else self._query
        connection = await self._line.open("/v1/stream", query)
        pump: asyncio.Task[None] | None = None
        try:
            async for text in connection:
                fields = protocol.parse_json(_text(text), longest=10**6)
                kind = fields.get("type")
                if kind == "ready":
                    self.id = str(fields.get("id", ""))
                    await self._acknowledge(int(fields.get("received", 0)))
                    self._next = self._first
                    pump = asyncio.create_task(self._pump(connection))
                    self._line.found()
                    self._ready.set()
                    continue
                if kind == "error" and pump is None:
                    raise ServerError(f"the server says: {fields.get('message')}", "", "Start a new stream.")
                if kind == "progress":
                    await self._acknowledge(int(fields.get("received", 0)))
                self._after = max(self._after, int(fields.get("seq", 0)))
                await self._messages.put(fields)
                if kind == "end":
                    return True
            raise self._line.ended(connection)
        except ConnectionClosed:
            self._line.lost(connection)
            return False
        finally:
            if pump:
                pump.cancel()
                await asyncio.gather(pump, return_exceptions=True)
            await connection.close()

    async def _acknowledge(self, received: int) -> None:
        """Forget what the server has; the rest is sent again after a lost connection."""
        async with self._changed:
            self._known = max(self._known, received)
            while self._entries and self._end_of(self._entries[0]) <= self._known:
                first = self._entries[0]
                if isinstance(first.data, str) and (first.start >= self._known or self._next <= self._first):
                    break
                self._entries.popleft()
                self._first += 1
            if self._entries and isinstance(data := self._entries[0].data, bytes):
                skipped = max(0, self._known - self._entries[0].start)
                self._entries[0] = _Entry(self._entries[0].start + skipped, data[skipped * self._width :])
            self._changed.notify_all()

    def _end_of(self, entry: _Entry) -> int:
        return entry.start + (len(entry.data) // self._width if isinstance(entry.data, bytes) else 0)

    async def _pump(self, connection: ClientConnection) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                async with self._changed:
                    await self._changed.wait_for(lambda: self._next < self._first + len(self._entries))
                    entry = self._entries[max(0, self._next - self._first)]
                    self._next = max(self._next, self._first) + 1
                await connection.send(entry.data)


class _Line:
    """Opens connections, and knows how long it has been trying."""

    def __init__(self, url: str, token: str, patience_s: float, tls: ssl.SSLContext | None) -> None:
        self._url, self._token, self._patience_s, self._tls = url, token, patience_s, tls
        self._lost_at: float | None = None
        self._ever = False

    def found(self) -> None:
        """The server has answered."""
        self._lost_at, self._ever = None, True

    def lost(self, connection: ClientConnection) -> None:
        """The connection broke; raises where that was the server's decision."""
        if connection.close_code not in (None, 1001, 1006, 1011, 1012, 1013):
            raise self.ended(connection)
        self._lost_at = self._lost_at or time.monotonic()

    def ended(self, connection: ClientConnection) -> ServerError:
        """The error for a connection that was closed without `end`."""
        reason = connection.close_reason or f"code {connection.close_code}"
        return ServerError(f"the server closed the connection ({reason})", "", "Look at the server's log.")

    async def open(self, path: str, query: dict[str, str]) -> ClientConnection:
        """A connection; tries again for a while where there was one before or the server is full."""
        target = address(self._url, path, query)
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        options = {"ssl": self._tls} if self._tls else {}
        attempt = 0
        while True:
            try:
                return await connect(
                    target,
                    additional_headers=headers,
                    open_timeout=OPEN_S,
                    max_size=2**22,
                    compression=None,
                    proxy=None,
                    **options,  # type: ignore[arg-type]
                )
            except InvalidURI:
                raise ServerError(f"{self._url!r} is no address", "ws://HOST:PORT", "Correct it.") from None
            except InvalidStatus as error:
                status, reason = error.response.status_code, _reason(error.response.body)
                problem: ServerError = ServerError(f"the server refuses (status {status}): {reason}", "", "")
                if status != 503:
                    raise problem from None
            except (OSError, asyncio.TimeoutError, InvalidHandshake, ConnectionClosed) as error:
                reason = (getattr(error, "strerror", None) or type(error).__name__).lower()
                problem = ServerError(f"{self._url} cannot be reached ({reason})", "", "Is the server running?")
                if not self._ever:
                    raise problem from None
            now = time.monotonic()
            self._lost_at = self._lost_at or now
            if now - self._lost_at >= self._patience_s:
                raise problem
            await asyncio.sleep(PAUSES_S[min(attempt, len(PAUSES_S) - 1)])
            attempt += 1


def _reason(body: bytes | bytearray | None) -> str:
    try:
        return str(protocol.parse_json((body or b"").decode())["error"])
    except (ProtocolError, UnicodeDecodeError, KeyError):
        return "no reason was given"


def _text(message: str | bytes) -> str:
    if isinstance(message, bytes):
        raise ProtocolError("the server sent a binary message", "a caption server")
    return message
