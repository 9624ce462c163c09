"""The client: addresses, refusals and lost servers; `test_server.py` tests it against a live one."""

from __future__ import annotations

import asyncio

import pytest

from streamasr.client import Sender, address, captions
from streamasr.errors import ProtocolError, ServerError
from tests.serving import run, serving, url


def test_addresses() -> None:
    assert address("127.0.0.1:2700", "/v1/captions", {}) == "ws://127.0.0.1:2700/v1/captions"
    assert (
        address("https://captions.example/", "/v1/stream", {"rate": "8000"})
        == "wss://captions.example/v1/stream?rate=8000"
    )
    assert address("ws://h/other?a=1", "/v1/stream", {"b": "2"}) == "ws://h/other?a=1&b=2"
    for wrong in ("ftp://host", "ws://", ""):
        with pytest.raises(ServerError, match="is no address"):
            address(wrong, "/", {})


async def first(where: str) -> object:
    async for event in captions(where, patience_s=0.2):
        return event
    return None


def test_no_server_is_one_clear_line() -> None:
    async def main() -> None:
        listener = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
        port = listener.sockets[0].getsockname()[1]
        with pytest.raises(ServerError, match="cannot be reached"):
            await first(f"ws://127.0.0.1:{port}")
        listener.close()
        await listener.wait_closed()
        with pytest.raises(ServerError, match=r"cannot be reached .* Is the server running\?"):
            async with Sender(f"ws://127.0.0.1:{port}", patience_s=0.2):
                pass

    run(main())


def test_another_server_is_not_taken_for_one() -> None:
    from websockets.asyncio.server import ServerConnection, serve

    async def other(connection: ServerConnection) -> None:
        await connection.send("hello")
        await connection.wait_closed()

    async def main() -> None:
        async with serve(other, "127.0.0.1", 0) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            with pytest.raises(ProtocolError):
                await first(f"ws://127.0.0.1:{port}")

    run(main())


def test_a_refusal_is_told_in_the_servers_words() -> None:
    async def main() -> None:
        async with serving(None, token="correct-horse") as server:
            with pytest.raises(ServerError, match=r"status 401\): a token is needed"):
                await first(url(server))

    run(main())
