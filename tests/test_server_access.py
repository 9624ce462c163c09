"""Who is let in, what is refused, and what never leaves the machine."""

from __future__ import annotations

import asyncio
import datetime
import json
import logging
import ssl
from pathlib import Path

import pytest
from websockets.exceptions import InvalidStatus

from streamasr.bundle import Bundle
from streamasr.engine import Engine
from streamasr.errors import ConfigError, ServerError
from streamasr.events import End, Final
from streamasr.server import logs
from streamasr.server.access import Gate
from streamasr.server.service import CaptionServer
from streamasr.server.settings import Limits, Settings, read_token, split_address
from tests.serving import QUICK, client, get, http, receive, receive_all, run, serving, warm
from tests.test_server import collect, send_sound

TOKEN = "correct-horse-battery"


@pytest.fixture(scope="module")
def engine(tiny_bundle: Bundle) -> Engine:
    return warm(Engine(tiny_bundle, endpoint=QUICK))


def test_loopback_by_default_and_elsewhere_only_on_purpose() -> None:
    assert Settings().host == "127.0.0.1"
    for host in ("0.0.0.0", "::", "192.168.1.5", "example.org"):
        with pytest.raises(ConfigError, match="--token-file FILE, or --no-auth"):
            Settings(host=host)
        Settings(host=host, token=TOKEN)
        Settings(host=host, no_auth=True)
    assert TOKEN not in repr(Settings(token=TOKEN))


def test_addresses() -> None:
    assert split_address("8000") == ("127.0.0.1", 8000)
    assert split_address("0.0.0.0:8000") == ("0.0.0.0", 8000)
    assert split_address("[::1]:8000") == ("::1", 8000)
    assert split_address("example") == ("example", 2700)
    assert split_address(":8000") == ("127.0.0.1", 8000)
    with pytest.raises(ConfigError):
        split_address("host:http")


def test_tokens_are_read_from_the_first_line(tmp_path: Path) -> None:
    path = tmp_path / "token"
    for content in (None, "", "short\n", "with a space in it\n", b"\xff\xfe token token"):
        if content is not None:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(ConfigError):
            read_token(path)
    path.write_text(TOKEN + "\nsecond line\n")
    assert read_token(path) == TOKEN


async def status_of(server: CaptionServer, path: str, **headers: str) -> int:
    try:
        async with client(server, path, additional_headers=headers) as connection:
            await receive(connection)
            return 101
    except InvalidStatus as refused:
        return refused.response.status_code


def test_the_token_opens_by_header_query_and_subprotocol(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with serving(None, token=TOKEN) as server:
            assert await status_of(server, "/v1/captions") == 401
            assert await status_of(server, "/v1/captions", Authorization=f"Bearer {TOKEN}x") == 401
            assert await status_of(server, "/v1/captions?token=wrong") == 401
            assert await status_of(server, "/v1/captions", Authorization=f"Bearer {TOKEN}") == 101
            assert await status_of(server, "/v1/captions", Authorization=f"Token {TOKEN}") == 101
            assert await status_of(server, f"/v1/captions?token={TOKEN}") == 101
            async with client(server, "/v1/captions", subprotocols=["token", TOKEN]) as connection:
                assert connection.subprotocol == "token"
            with pytest.raises(ServerError, match="this is not the token"):
                await collect(server, "", token="wrong-token")
            assert (await get(server, "/metrics"))[0] == 401
            assert (await get(server, "/metrics", Authorization=f"Bearer {TOKEN}"))[0] == 200
            assert (await get(server, "/health"))[0] == 200

    with caplog.at_level(logging.DEBUG):
        run(main())
    ours = [record for record in caplog.records if record.name.startswith("streamasr")]
    assert ours
    assert TOKEN not in "".join(f"{record.getMessage()} {vars(record)}" for record in ours)


def test_pages_of_other_origins_are_refused() -> None:
    async def main() -> None:
        async with serving(None, origins=("https://overlay.example",)) as server:
            here = f"http://127.0.0.1:{server.port}"
            assert await status_of(server, "/v1/captions", Origin="https://evil.example") == 403
            assert await status_of(server, "/v1/captions", Origin="null") == 403
            assert await status_of(server, "/v1/captions", Origin="https://overlay.example") == 101
            assert await status_of(server, "/v1/captions", Origin=here) == 101

    run(main())


def test_a_strangers_name_for_this_address_does_not_pass_for_ours() -> None:
    from websockets.datastructures import Headers

    pointed = Headers({"Host": "evil.example:2700", "Origin": "http://evil.example:2700"})
    assert Gate(Settings()).refuse(pointed, None)
    assert Gate(Settings(host="0.0.0.0", no_auth=True)).refuse(pointed, None)
    assert Gate(Settings(token=TOKEN)).refuse(pointed, TOKEN) is None  # the page would have to know the token
    numbers = Headers({"Host": "192.168.1.5:2700", "Origin": "http://192.168.1.5:2700"})
    assert Gate(Settings(host="0.0.0.0", no_auth=True)).refuse(numbers, None) is None


def test_plain_http(engine: Engine) -> None:
    async def main() -> None:
        async with serving(engine) as server:
            status, headers, body = await get(server, "/health")
            assert (status, json.loads(body)["status"]) == (200, "ok")
            assert json.loads(body)["model"] == "tiny"
            status, headers, body = await get(server, "/")
            assert status == 200
            assert b"<html" in body
            assert "default-src 'none'" in headers["content-security-policy"]
            assert headers["x-content-type-options"] == "nosniff"
            assert (await get(server, "/v1/stream"))[0] == 426
            for path in (
                "/../pyproject.toml",
                "/page/index.html",
                "/index.html",
                "/%2e%2e/x",
                "//etc/passwd",
                "/x" * 3000,
            ):
                status, _, body = await get(server, path)
                assert status in (404, 414, 431, 0, 400)
                assert b"/work" not in body
                assert b"/usr" not in body
            status, _, body = await get(server, "/metrics")
            assert b"streamasr_latency_seconds_bucket" in body
            assert (await http(server, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"))[0] in (400, 405, 0)
            assert (await get(server, "/health"))[0] == 200

    run(main())


def test_requests_that_mean_nothing_are_refused_with_a_reason(engine: Engine) -> None:
    async def main() -> None:
        async with serving(engine) as server:
            for path, status in (
                ("/v1/stream?encoding=mp3", 400),
                ("/v1/stream?rate=0", 400),
                ("/v1/stream?rate=16000.5", 400),
                ("/v1/stream?nonsense=1", 400),
                ("/v1/captions?after=x", 400),
                ("/v1/stream?" + "a=1&" * 400, 400),
                ("/nowhere", 404),
            ):
                assert await status_of(server, path) == status

    run(main())


def test_large_messages_compression_and_deep_json_are_refused(engine: Engine) -> None:
    async def main() -> None:
        async with serving(engine, limits=Limits(message_bytes=100_000, bad_messages=3)) as server:
            async with client(server, "/v1/stream", compression="deflate") as connection:
                assert not connection.protocol.extensions  # so nothing can blow up after it was received
                await connection.send(bytes(200_000))
                await receive_all(connection)
                assert connection.close_code == 1009
            async with client(server, "/v1/stream") as connection:
                ready = await receive(connection)
                assert ready["type"] == "ready"
                for text in ("[" * 9 + "]" * 9, '{"type": "' + "x" * 50_000 + '"}', '{"type": 1e999}', "1" * 9_000):
                    await connection.send(text)
                messages = await receive_all(connection)
                assert [m["code"] for m in messages if m["type"] == "error"] == ["bad_message"] * 4
                assert connection.close_code == 1007
                assert all(len(json.dumps(m)) < 500 for m in messages)

    run(main())


def test_half_a_handshake_keeps_nobody_out(engine: Engine) -> None:
    async def main() -> None:
        async with serving(engine) as server:
            silent = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(5)]
            for _, writer in silent:
                writer.write(b"GET /v1/stream HTTP/1.1\r\nHost: ")
            assert (await send_sound(server, bytes(3200)))[-1] == End(0.1)
            for _, writer in silent:
                writer.close()

    run(main())


def test_captions_over_tls(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    trusted = ssl.create_default_context(cafile=str(certificate))

    async def main() -> None:
        async with serving(None, certificate=certificate, key=key) as server:
            from streamasr.client import captions

            server.publish(Final("safe", (), 0.0, 1.0))
            async for event in captions(f"wss://localhost:{server.port}", history=1, tls=trusted):
                assert event == Final("safe", (), 0.0, 1.0)
                break

    run(main())


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for localhost, signed by itself."""
    import shutil
    import subprocess

    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=DNS:localhost",
            "-keyout",
            str(key),
            "-out",
            str(certificate),
        ],
        check=True,
        capture_output=True,
    )
    return certificate, key


def test_tls_files_that_do_not_fit_are_one_clear_line(tmp_path: Path) -> None:
    broken = tmp_path / "broken.pem"
    broken.write_text("nonsense")
    with pytest.raises(ConfigError, match="cannot be used for TLS"):
        Settings(certificate=broken, key=broken).tls()
    with pytest.raises(ConfigError, match="only one"):
        Settings(certificate=broken)


def test_a_port_in_use_is_one_clear_line() -> None:
    async def main() -> None:
        async with serving(None) as server:
            other = CaptionServer(None, Settings(port=server.port))
            with pytest.raises(ServerError, match="cannot listen on 127"):
                await other.start()

    run(main())


def test_logs_are_lines_of_json() -> None:
    line = logs._Lines(as_json=True)
    record = logging.LogRecord("streamasr.server", logging.INFO, "", 0, "closed", None, None)
    record.fields = {"code": 1000, "dialect": "vosk"}
    fields = json.loads(line.format(record))
    assert (fields["event"], fields["code"], fields["level"]) == ("closed", 1000, "info")
    datetime.datetime.strptime(fields["time"], "%Y-%m-%dT%H:%M:%S.%fZ")
    assert logs._Lines(as_json=False).format(record).endswith("closed code=1000 dialect=vosk")
