"""A caption server on loopback for tests, with the tiny model behind it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

import numpy as np
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from streamasr.config import EndpointConfig
from streamasr.engine import Engine
from streamasr.events import Event, Final
from streamasr.server.service import CaptionServer
from streamasr.server.settings import Settings

ResultT = TypeVar("ResultT")
QUICK = EndpointConfig(silence_before_s=1.0, silence_after_s=0.2, longest_s=1.5)
PATIENCE_S = 60.0


def warm(engine: Engine) -> Engine:
    """The engine, its loops compiled: that may take longer than a test waits."""
    _, state = engine.feed(np.random.default_rng(0).standard_normal(32_000).astype(np.float32), engine.start())
    engine.finish(state)
    return engine


def run(work: Coroutine[Any, Any, ResultT]) -> ResultT:
    """Run a test that lives on an event loop, for a bounded time."""
    return asyncio.run(asyncio.wait_for(work, PATIENCE_S))


@contextlib.asynccontextmanager
async def serving(engine: Engine | None, **options: Any) -> AsyncIterator[CaptionServer]:
    """A server on a free port of loopback."""
    server = CaptionServer(engine, Settings(port=0, **options), wait_s=0.005)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


def url(server: CaptionServer, path: str = "") -> str:
    return f"ws://127.0.0.1:{server.port}{path}"


@contextlib.asynccontextmanager
async def client(server: CaptionServer, path: str, **options: Any) -> AsyncIterator[ClientConnection]:
    """A plain websocket, without manners."""
    async with connect(url(server, path), proxy=None, close_timeout=1, **options) as connection:
        yield connection


async def receive(connection: ClientConnection) -> dict[str, Any]:
    return json.loads(await connection.recv())  # type: ignore[no-any-return]


async def receive_all(connection: ClientConnection) -> list[dict[str, Any]]:
    """Every message until the server closes."""
    messages = []
    with contextlib.suppress(ConnectionClosed):
        while True:
            messages.append(json.loads(await connection.recv()))
    return messages


def of_type(messages: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [message for message in messages if message["type"] == kind]


def pcm(samples: np.ndarray) -> bytes:
    """As a client sends it: 16-bit, little endian."""
    return (np.clip(samples, -1, 1) * 32_767).round().astype("<i2").tobytes()


def alone(engine: Engine, sound: bytes) -> list[str]:
    """The finals of a stream that has the engine to itself."""
    samples = np.frombuffer(sound, "<i2").astype(np.float32) / 32_768
    events, state = engine.feed(samples, engine.start())
    return finals([*events, *engine.finish(state)])


def finals(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Final)]


async def http(server: CaptionServer, request: str) -> tuple[int, dict[str, str], bytes]:
    """Send a raw request and read the whole answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    try:
        writer.write(request.encode("latin-1"))
        whole = await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()
    head, _, body = whole.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return int(status.split()[1]) if status else 0, headers, body


async def get(server: CaptionServer, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    more = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return await http(server, f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n{more}\r\n")
