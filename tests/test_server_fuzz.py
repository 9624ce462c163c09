"""Nonsense of every kind: the server answers with an error or closes that client, and serves the others."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed

from streamasr.bundle import Bundle
from streamasr.engine import Engine
from streamasr.server.running import Running
from streamasr.server.service import CaptionServer
from streamasr.server.settings import Settings
from tests.serving import QUICK, client, get, receive_all, run, warm

PATHS = ["/v1/stream", "/v1/stream?encoding=f32le&channels=2", "/v1/captions", "/"]
PATHS.append("/v1/listen?encoding=linear16&sample_rate=8000")
CONTROLS = [  # of every dialect, sent to any of them, and in any order: audio before config, controls after the end
    '{"type": "finalize"}',
    '{"type": "close"}',
    '{"type": "configure", "endpointing_ms": 300}',
    '{"type": "configure", "hotwords": ["a b", "@"]}',
    '{"type": "KeepAlive"}',
    '{"type": "Finalize"}',
    '{"type": "CloseStream"}',
    '{"reset" : 1}',
    '{"eof" : 1}',
    '{"config": {"sample_rate": 8000}}',
    '{"config": {"sample_rate": 16000, "phrase_list": ["na na"]}}',
    '{"config": {"sample_rate": -1}}',
]
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=12), v, max_size=3),
    max_leaves=8,
)
ITEMS = st.one_of(
    st.binary(max_size=200),
    st.integers(0, 6401).map(bytes),  # silence, perhaps half a sample too much
    st.text(max_size=60),
    st.sampled_from(CONTROLS),
    JSON.map(json.dumps),
)


@pytest.fixture(scope="module")
def fuzzed(tiny_bundle: Bundle) -> Iterator[Running]:
    engine = warm(Engine(tiny_bundle, endpoint=QUICK))
    with Running(lambda: CaptionServer(engine, Settings(port=0), wait_s=0.001)) as running:
        yield running


bounded = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


async def witness(server: CaptionServer) -> None:
    """Somebody else, who is served as ever."""
    async with client(server, "/v1/stream?encoding=f32le") as connection:
        for _ in range(4):
            await connection.send(bytes(1600))
        await connection.send('{"type": "close"}')
        messages = await receive_all(connection)
        assert (messages[-1]["type"], messages[-1]["time_s"]) == ("end", 0.1)


def assert_quiet(caplog: pytest.LogCaptureFixture) -> None:
    """No exception has reached the log."""
    assert not [record for record in caplog.records if record.exc_info or record.getMessage() == "unexpected"]
    assert "Traceback" not in caplog.text
    caplog.clear()


@bounded
@given(talk=st.lists(st.tuples(st.sampled_from(PATHS), st.lists(ITEMS, max_size=6)), min_size=1, max_size=4))
def test_messages_that_mean_nothing(
    fuzzed: Running, caplog: pytest.LogCaptureFixture, talk: list[tuple[str, list[Any]]]
) -> None:
    async def one(path: str, items: list[Any]) -> None:
        async with client(fuzzed.server, path) as connection:
            with contextlib.suppress(ConnectionClosed):
                for item in items:
                    await connection.send(item)

    async def main() -> None:
        await asyncio.gather(witness(fuzzed.server), *(one(path, items) for path, items in talk))
        await witness(fuzzed.server)

    run(main())
    assert_quiet(caplog)


def frame(opcode: int, payload: bytes, final: bool, masked: bool, reserved: int) -> bytes:
    """One websocket frame of a client, right or wrong; the mask is of zeros."""
    first = final << 7 | reserved << 4 | opcode
    if len(payload) < 126:
        return bytes([first, masked << 7 | len(payload)]) + bytes(4 * masked) + payload
    return bytes([first, masked << 7 | 126]) + len(payload).to_bytes(2, "big") + bytes(4 * masked) + payload


FRAMES = st.builds(
    frame,
    opcode=st.sampled_from([0, 1, 2, 2, 2, 3, 8, 9, 10, 15]),
    payload=st.binary(max_size=300) | st.sampled_from(CONTROLS).map(str.encode),
    final=st.booleans(),
    masked=st.sampled_from([True, True, True, False]),
    reserved=st.sampled_from([0, 0, 0, 4]),
)


@bounded
@given(path=st.sampled_from(PATHS), frames=st.lists(FRAMES, max_size=5), missing=st.integers(0, 20))
def test_half_frames_and_broken_ones(
    fuzzed: Running, caplog: pytest.LogCaptureFixture, path: str, frames: list[bytes], missing: int
) -> None:
    """After a good handshake; the last frame is cut short, and then the wire is dead."""
    data = b"".join(frames)
    data = data[: max(0, len(data) - missing)]

    async def broken() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", fuzzed.server.port)
        key = base64.b64encode(bytes(16)).decode()
        request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        writer.write(f"{request}Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode())
        assert b" 101 " in await reader.readline()
        writer.write(data)
        with contextlib.suppress(OSError):
            await writer.drain()
        await asyncio.sleep(0.01)
        writer.transport.abort()

    async def main() -> None:
        await asyncio.gather(witness(fuzzed.server), broken())
        await witness(fuzzed.server)

    run(main())
    assert_quiet(caplog)


@bounded
@given(
    data=st.one_of(
        st.binary(min_size=1, max_size=300), st.text(max_size=80).map(lambda t: f"GET /{t} HTTP/1.1\r\n\r\n".encode())
    )
)
def test_nonsense_instead_of_http(fuzzed: Running, caplog: pytest.LogCaptureFixture, data: bytes) -> None:
    async def main() -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", fuzzed.server.port)
        writer.write(data)
        with contextlib.suppress(OSError):
            await writer.drain()
        writer.close()
        assert (await get(fuzzed.server, "/health"))[0] == 200

    run(main())
    assert_quiet(caplog)
