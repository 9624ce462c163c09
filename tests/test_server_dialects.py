"""Clients of other servers, unchanged: the Vosk examples' way of talking, and Deepgram's own SDK."""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
from typing import Any

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed

from streamasr.bundle import Bundle
from streamasr.engine import Engine
from streamasr.server.service import CaptionServer
from tests.serving import PATIENCE_S, QUICK, alone, client, pcm, receive, receive_all, run, serving, warm
from tests.test_engine import noise_bursts


@pytest.fixture(scope="module")
def engine(tiny_bundle: Bundle) -> Engine:
    return warm(Engine(tiny_bundle, endpoint=QUICK))


# Vosk.


async def vosk_example(server: CaptionServer, sound: bytes, rate_hz: int = 16_000) -> list[dict[str, Any]]:
    """What the example client test.py does: config, then for each 0.2 s a message and its reply, then eof."""
    async with client(server, "/") as connection:
        await connection.send(f'{{ "config" : {{ "sample_rate" : {rate_hz} }} }}')
        replies = []
        size = int(rate_hz * 0.2) * 2
        for start in range(0, len(sound), size):
            await connection.send(sound[start : start + size])
            replies.append(json.loads(await connection.recv()))
        await connection.send('{"eof" : 1}')
        replies.append(json.loads(await connection.recv()))
        with pytest.raises(ConnectionClosed):
            await connection.recv()
        return replies


def vosk_text(replies: list[dict[str, Any]]) -> str:
    return " ".join(reply["text"] for reply in replies if reply.get("text"))


def test_the_vosk_example_gets_one_reply_a_message_and_the_words(engine: Engine) -> None:
    sounds = [pcm(noise_bursts(3.0, seed)) for seed in (8, 9)]

    async def main() -> None:
        async with serving(engine) as server:
            both = await asyncio.gather(*(vosk_example(server, sound) for sound in sounds))
            for replies, sound in zip(both, sounds, strict=True):
                assert len(replies) == 16
                assert vosk_text(replies) == " ".join(alone(engine, sound))
                assert all(set(reply) in ({"partial"}, {"text"}, {"text", "result"}) for reply in replies)
                assert "text" in replies[-1]
            result = next(reply["result"] for reply in both[0] if "result" in reply)
            assert set(result[0]) == {"conf", "start", "end", "word"}

    run(main())


def test_a_vosk_config_touches_its_own_connection_only(engine: Engine) -> None:
    sound = pcm(noise_bursts(2.0, 8))

    async def main() -> None:
        async with serving(engine) as server, client(server, "/") as other:
            await other.send(
                '{"config": {"sample_rate": 16000, "words": false, "max_alternatives": 2, '
                '"phrase_list": ["na", "[unk]"]}}'
            )
            await other.send(sound)
            await receive(other)
            replies = await vosk_example(server, sound)
            assert vosk_text(replies) == " ".join(alone(engine, sound))
            await other.send('{"eof" : 1}')
            last = await receive(other)
            assert list(last) == ["alternatives"]
            assert "result" not in last["alternatives"][0]

    run(main())


def test_vosk_reset_ends_the_utterance_and_default_rate_is_voskss(engine: Engine) -> None:
    async def main() -> None:
        async with serving(engine) as server, client(server, "/") as connection:
            await connection.send('{"reset" : 1}')
            assert await receive(connection) == {"text": ""}
            await connection.send(pcm(noise_bursts(1.0, 3)))
            await receive(connection)
            await connection.send('{"reset" : 1}')
            assert "text" in await receive(connection)
            await connection.send('{"eof" : 1}')
            assert "text" in await receive(connection)
            assert server.metrics.text().count(b"streamasr_audio_seconds_total 2.0")  # 16000 samples at 8 kHz

    run(main())


def test_a_vosk_client_that_talks_nonsense_is_closed(engine: Engine) -> None:
    async def main() -> None:
        async with serving(engine) as server:
            for nonsense in ("{}", "nonsense", '{"config": 5}', '{"config": {"sample_rate": 1e400}}'):
                async with client(server, "/") as connection:
                    await connection.send(nonsense)
                    with pytest.raises(ConnectionClosed):
                        await connection.recv()
                    assert connection.close_code == 1007

    run(main())


# Deepgram.

LISTEN = "/v1/listen?model=nova-3&encoding=linear16&sample_rate=16000&interim_results=true&vad_events=true"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the SDK's own
def test_deepgrams_own_sdk(engine: Engine) -> None:
    sdk = pytest.importorskip("deepgram", reason="deepgram-sdk is not installed")
    from deepgram.core.events import EventType
    from deepgram.environment import DeepgramClientEnvironment

    sound = pcm(noise_bursts(4.0, 12))
    expected = alone(engine, sound)

    def talk(port: int) -> list[Any]:
        address = f"ws://127.0.0.1:{port}"
        environment = DeepgramClientEnvironment(
            base=f"http://127.0.0.1:{port}", production=address, agent=address, agent_rest=address
        )
        deepgram = sdk.DeepgramClient(api_key="secret-token", environment=environment)
        messages: list[Any] = []
        with deepgram.listen.v1.connect(
            model="nova-3",
            encoding="linear16",
            sample_rate=16_000,
            interim_results=True,
            vad_events=True,
            utterance_end_ms=1000,
            keyterm=["nana"],
        ) as connection:
            connection.on(EventType.MESSAGE, messages.append)
            listener = threading.Thread(target=connection.start_listening)
            listener.start()
            connection.send_keep_alive()
            for start in range(0, len(sound), 6400):
                connection.send_media(sound[start : start + 6400])
            connection.send_finalize()
            connection.send_close_stream()
            listener.join(PATIENCE_S)
            assert not listener.is_alive()
        return messages

    async def main() -> list[Any]:
        async with serving(engine.tuned(hotwords={}), token="secret-token") as server:
            return await asyncio.to_thread(talk, server.port)

    messages = run(main())
    kinds = [message.type for message in messages]
    assert kinds[-1] == "Metadata"
    assert messages[-1].duration == 4.0
    assert "SpeechStarted" in kinds
    finals = [message for message in messages if message.type == "Results" and message.is_final]
    assert len(" ".join(m.channel.alternatives[0].transcript for m in finals).split()) >= len(expected)
    assert finals[0].channel.alternatives[0].words[0].confidence > 0
    assert any(message.from_finalize for message in finals)
    for earlier, later in itertools.pairwise(finals):
        assert later.start >= earlier.start + earlier.duration - 0.002
    assert any(not message.is_final for message in messages if message.type == "Results")


def test_deepgram_results_carry_the_words_of_the_stream(engine: Engine) -> None:
    sound = np.concatenate([noise_bursts(2.0, 12), np.zeros(32_000, np.float32)])

    async def main() -> list[dict[str, Any]]:
        async with serving(engine) as server, client(server, f"{LISTEN}&utterance_end_ms=1000") as connection:
            await connection.send(pcm(sound))
            await connection.send('{"type": "CloseStream"}')
            return await receive_all(connection)

    messages = run(main())
    finals = [m for m in messages if m["type"] == "Results" and m["is_final"]]
    assert [m["channel"]["alternatives"][0]["transcript"] for m in finals] == alone(engine, pcm(sound))
    assert all(m["speech_final"] for m in finals)
    assert [m["type"] for m in messages][-1] == "Metadata"
    ends = [m["last_word_end"] for m in messages if m["type"] == "UtteranceEnd"]
    assert len(ends) <= len(finals)


def test_deepgram_without_interim_results_and_with_an_empty_last_message(engine: Engine) -> None:
    async def main() -> list[dict[str, Any]]:
        address = "/v1/listen?encoding=linear16&sample_rate=16000&endpointing=false&keywords=nana:2"
        async with serving(engine) as server, client(server, address) as connection:
            await connection.send(pcm(noise_bursts(2.0, 12)))
            await connection.send(b"")
            return await receive_all(connection)

    messages = run(main())
    assert {m["type"] for m in messages} <= {"Results", "Metadata"}
    assert not [m for m in messages if m["type"] == "Results" and (not m["is_final"] or m["speech_final"])]


@pytest.mark.parametrize("query", ["", "?encoding=flac&sample_rate=16000", "?encoding=linear16&sample_rate=x"])
def test_deepgram_requests_that_cannot_be_heard_are_refused(engine: Engine, query: str) -> None:
    from websockets.exceptions import InvalidStatus

    async def main() -> None:
        async with serving(engine) as server:
            with pytest.raises(InvalidStatus) as refused:
                async with client(server, f"/v1/listen{query}"):
                    pass
            assert refused.value.response.status_code == 400

    run(main())


def test_a_deepgram_client_that_talks_nonsense_is_closed(engine: Engine) -> None:
    async def main() -> None:
        async with serving(engine) as server, client(server, LISTEN) as connection:
            await connection.send('{"type": "Nonsense"}')
            with pytest.raises(ConnectionClosed):
                await connection.recv()
            assert connection.close_code == 1008

    run(main())
