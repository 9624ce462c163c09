"""The caption server and its native dialect, over real sockets of loopback."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from streamasr.bundle import Bundle
from streamasr.client import Sender, captions
from streamasr.engine import Engine
from streamasr.errors import ServerError
from streamasr.events import End, Event, Final, Overrun, Partial, SpeechStarted, Word
from streamasr.server.service import CaptionServer
from streamasr.server.settings import Limits
from tests.serving import QUICK, alone, client, finals, of_type, pcm, receive, receive_all, run, serving, url, warm
from tests.test_engine import noise_bursts

ONE = Final("one two", (Word("one", 0.1, 0.3, 0.9), Word("two", 0.4, 0.6, 0.8)), 0.1, 0.6)


@pytest.fixture(scope="module")
def engine(tiny_bundle: Bundle) -> Engine:
    return warm(Engine(tiny_bundle, endpoint=QUICK))


async def send_sound(server: CaptionServer, sound: bytes, step: int = 3200, **options: Any) -> list[Event]:
    async with Sender(url(server), **options) as sender:
        for start in range(0, len(sound), step):
            await sender.send(sound[start : start + step])
        await sender.close()
        return [event async for event in sender]


async def collect(server: CaptionServer, until: str, **options: Any) -> list[Event]:
    """A subscriber's events up to a final with that text."""
    events: list[Event] = []
    async for event in captions(url(server), **options):
        events.append(event)
        if isinstance(event, Final) and event.text == until:
            break
    return events


async def subscribed(server: CaptionServer, count: int) -> None:
    while len(server.channel.outlets) < count:
        await asyncio.sleep(0.01)


def test_each_sender_gets_its_own_words_and_each_subscriber_the_microphones(engine: Engine) -> None:
    sounds = [pcm(noise_bursts(2.0, seed)) for seed in range(3)]

    async def main() -> None:
        async with serving(engine) as server:
            subscribers = [asyncio.create_task(collect(server, "last")) for _ in range(2)]
            await subscribed(server, 2)
            senders = [asyncio.create_task(send_sound(server, sound)) for sound in sounds]
            server.publish(SpeechStarted(0.1))
            server.publish(Partial("one ", "tw", 0.1, 0.5))
            server.publish(ONE)
            for sender, sound in zip(senders, sounds, strict=True):
                events = await sender
                assert finals(events) == alone(engine, sound)
                assert events[-1] == End(2.0)
            server.publish(Final("last", (), 1.0, 2.0))
            for subscriber in subscribers:
                heard = await subscriber
                assert [e for e in heard if isinstance(e, Final)] == [ONE, Final("last", (), 1.0, 2.0)]

    run(main())


def test_messages_rise_and_say_what_the_events_said(engine: Engine) -> None:
    sound = pcm(noise_bursts(3.0, 4))

    async def main() -> list[dict[str, Any]]:
        async with serving(engine) as server, client(server, "/v1/stream?rate=16000&encoding=s16le") as connection:
            await connection.send(sound)
            await connection.send('{"type": "close"}')
            return await receive_all(connection)

    messages = run(main())
    assert messages[0]["type"] == "ready"
    assert (messages[0]["protocol"], messages[0]["resumed"], messages[0]["received"]) == (1, False, 0)
    seqs = [message["seq"] for message in messages]
    assert seqs == sorted(set(seqs))
    assert [m["text"] for m in of_type(messages, "final")] == alone(engine, sound)
    assert messages[-1] == {"type": "end", "time_s": 3.0, "seq": seqs[-1], "heard_s": 3.0}
    final = of_type(messages, "final")[0]
    assert set(final) == {"type", "text", "words", "start_s", "end_s", "heard_s", "seq"}
    assert set(final["words"][0]) == {"text", "start_s", "end_s", "confidence"}
    committed = ""
    for message in messages:
        if message["type"] == "partial":
            assert message["committed"].startswith(committed)
            committed = message["committed"]
        elif message["type"] == "final":
            committed = ""
    assert of_type(messages, "progress")[-1]["received"] == 48_000


def test_other_rates_encodings_and_channels_are_heard(engine: Engine) -> None:
    samples = noise_bursts(2.0, 2)
    whole = samples.astype("<f4").tobytes()
    stereo = samples.repeat(2).astype("<f4").tobytes()

    async def main() -> None:
        async with serving(engine) as server:
            mono = await send_sound(server, whole, encoding="f32le")
            both = await send_sound(server, stereo, 1001, encoding="f32le", channels=2)
            assert finals(mono) == finals(both) != []
            slow = await send_sound(server, pcm(samples), rate_hz=8_000)
            assert slow[-1] == End(4.0)

    run(main())


def test_finalize_and_configure(engine: Engine) -> None:
    sound = pcm(noise_bursts(2.0, 3))

    async def main() -> list[dict[str, Any]]:
        async with serving(engine) as server, client(server, "/v1/stream?endpointing_ms=30000") as connection:
            await connection.send(sound)
            await connection.send('{"type": "finalize"}')
            await connection.send(
                '{"type": "configure", "partials": false, "hotwords": ["nana"], "endpointing_ms": 200}'
            )
            await connection.send(sound)
            await connection.send('{"type": "close"}')
            return await receive_all(connection)

    messages = run(main())
    ends = [m["end_s"] for m in of_type(messages, "final")]
    assert ends == sorted(ends)
    first = next(i for i, m in enumerate(messages) if m["type"] == "final" and m["end_s"] <= 2.0)
    assert first
    assert of_type(messages, "end")


def test_history_is_told_on_request() -> None:
    async def main() -> None:
        async with serving(None) as server:
            for text in ("a", "b", "c"):
                server.publish(Final(text, (), 0.0, 1.0))
            assert finals(await collect(server, "c", history=2)) == ["b", "c"]

    run(main())


def test_a_slow_subscriber_gets_the_newest_partial_and_every_final() -> None:
    async def main() -> None:
        async with serving(None) as server, client(server, "/v1/captions", max_queue=1) as slow:
            await receive(slow)
            fast = asyncio.create_task(collect(server, "end"))
            await subscribed(server, 2)
            filler = "x" * 20_000
            for number in range(400):
                server.publish(Partial(f"{number} ", filler, 0.0, 1.0))
                if number % 10 == 0:
                    server.publish(Final(f"{number}", (), 0.0, 1.0))
                await asyncio.sleep(0)
            server.publish(Final("end", (), 0.0, 1.0))
            heard = await fast
            assert finals(heard) == [*(str(n) for n in range(0, 400, 10)), "end"]
            got = []
            while not got or got[-1].get("text") != "end":
                got.append(await receive(slow))
            assert [m["text"] for m in of_type(got, "final")] == finals(heard)
            assert len(of_type(got, "partial")) < 300
            assert server.metrics.replaced._value.get() > 0

    run(main())


def test_a_hopeless_subscriber_is_closed_with_a_reason() -> None:
    async def main() -> None:
        limits = Limits(waiting=20)
        async with serving(None, limits=limits) as server, client(server, "/v1/captions", max_queue=1) as hopeless:
            fast = asyncio.create_task(collect(server, "end"))
            await subscribed(server, 2)
            for number in range(200):
                server.publish(Final("y" * 200_000 if number < 100 else "z", (), 0.0, 1.0))
                await asyncio.sleep(0.005)
            server.publish(Final("end", (), 0.0, 1.0))
            assert len(finals(await fast)) == 201
            while len(server.channel.outlets):
                await asyncio.sleep(0.05)
            assert server.metrics.too_slow._value.get() == 1
            assert hopeless

    run(main())


def test_a_sender_far_ahead_is_slowed_down_and_loses_nothing(engine: Engine) -> None:
    sound = pcm(noise_bursts(20.0, 5))

    async def main() -> None:
        async with serving(engine, limits=Limits(backlog_s=1.0)) as server:
            worst = 0.0

            async def watch() -> None:
                nonlocal worst
                while True:
                    worst = max(worst, server.batcher.backlog_s)
                    await asyncio.sleep(0.01)

            watcher = asyncio.create_task(watch())
            events = await send_sound(server, sound, 32_000)
            watcher.cancel()
            assert finals(events) == alone(engine, sound)
            assert worst <= 2.1

    run(main())


def test_limits_refuse_at_once_with_a_reason_and_a_hint(engine: Engine) -> None:
    async def main() -> None:
        async with serving(engine, limits=Limits(streams=1, connections=3)) as server:
            async with client(server, "/v1/stream") as one:
                await receive(one)
                with pytest.raises(ServerError, match="1 streams are open"):
                    await send_sound(server, b"", patience_s=0.1)
                async with client(server, "/v1/captions") as two, client(server, "/v1/captions") as three:
                    await receive(two)
                    await receive(three)
                    with pytest.raises(ServerError, match="3 connections are open"):
                        await collect(server, "", patience_s=0.1)
            while server._open:
                await asyncio.sleep(0.01)
            assert (await send_sound(server, b""))[-1] == End(0.0)  # the stream that waits for its client gives way

    run(main())


def test_idle_streams_end_and_left_ones_are_forgotten(engine: Engine) -> None:
    async def main() -> None:
        async with serving(engine, limits=Limits(idle_s=0.3, resume_s=0.3)) as server:
            async with client(server, "/v1/stream") as idle:
                messages = await receive_all(idle)
                assert messages[-1]["type"] == "end"
                assert (idle.close_code, idle.close_reason) == (1008, "no audio for 0.3 s")
            async with client(server, "/v1/stream") as left:
                identity = (await receive(left))["id"]
                left.transport.abort()
            while server.sessions:
                await asyncio.sleep(0.05)
            async with client(server, f"/v1/stream?resume={identity}&after=0") as late:
                assert (await receive(late))["code"] == "unknown_stream"
            assert server.batcher.streams == 0

    run(main())


def test_a_second_connection_takes_a_stream_over(engine: Engine) -> None:
    async def main() -> None:
        async with serving(engine) as server, client(server, "/v1/stream") as first:
            identity = (await receive(first))["id"]
            await first.send(b"\0" * 3201)  # half a sample too many
            while server.sessions[identity].sound.received < 1600:
                await asyncio.sleep(0.01)
            async with client(server, f"/v1/stream?resume={identity}&after=0") as second:
                ready = await receive(second)
                assert (ready["resumed"], ready["received"], ready["lost"]) == (True, 1600, False)
                await receive_all(first)
                assert first.close_code == 1008
                await second.send('{"type": "close"}')
                assert (await receive_all(second))[-1]["time_s"] == 0.1

    run(main())


def test_stopping_flushes_every_stream_and_tells_every_client(engine: Engine) -> None:
    sound = pcm(noise_bursts(2.0, 3))

    async def main() -> None:
        async with (
            serving(engine) as server,
            client(server, "/v1/stream") as sender,
            client(server, "/v1/captions") as subscriber,
        ):
            await receive(subscriber)
            await sender.send(sound)
            while not server.sessions or next(iter(server.sessions.values())).sound.received < 32_000:
                await asyncio.sleep(0.01)
            stopping = asyncio.create_task(server.stop())
            messages = await receive_all(sender)
            assert [m["text"] for m in of_type(messages, "final")] == alone(engine, sound)
            assert messages[-1]["type"] == "end"
            assert sender.close_code == 1001
            assert (await receive_all(subscriber))[-1]["reason"] == "the server is going away"
            assert subscriber.close_code == 1001
            await stopping

    run(main())


def test_microphone_only_servers_say_so() -> None:
    async def main() -> None:
        async with serving(None) as server:
            with pytest.raises(ServerError, match="streamasr serve"):
                await send_sound(server, b"")
            server.publish(Overrun(0.5, 1.0, "ring full"))
            assert b"streamasr_dropped_seconds_total 0.5" in server.metrics.text()

    run(main())


def test_unsound_samples_end_only_their_own_stream(engine: Engine) -> None:
    async def main() -> None:
        async with serving(engine) as server, client(server, "/v1/stream?encoding=f32le") as bad:
            await bad.send(b"\xff" * 64)
            messages = await receive_all(bad)
            assert of_type(messages, "error")[0]["code"] == "bad_message"
            assert messages[-1]["type"] == "end"
            assert bad.close_code == 1007
            assert (await send_sound(server, b"\0" * 3200))[-1] == End(0.1)

    run(main())


def test_json_of_events_is_plain() -> None:
    async def main() -> None:
        async with serving(None) as server, client(server, "/v1/captions") as connection:
            await receive(connection)
            server.publish(ONE)
            text = await connection.recv()
            assert json.loads(text)["words"][1]["confidence"] == 0.8
            assert "/" not in str(text)

    run(main())
