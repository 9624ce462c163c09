"""The network is pulled, clients are killed: nobody else notices, and whoever comes back has missed nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import sys
from collections.abc import AsyncIterator
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamasr import bundle
from streamasr.audio import RATE_HZ, read_whole
from streamasr.bundle import Bundle
from streamasr.client import Sender, captions
from streamasr.engine import Engine
from streamasr.events import Event, Final
from streamasr.recogniser import BatchedRecogniser
from streamasr.server.service import CaptionServer
from tests.serving import QUICK, alone, finals, of_type, pcm, run, serving, url, warm
from tests.test_engine import noise_bursts
from tests.test_server import subscribed

MESSAGE_S = 0.2
PULL_S = 5.0


@pytest.fixture(scope="module")
def engine(tiny_bundle: Bundle) -> Engine:
    return warm(Engine(tiny_bundle, endpoint=QUICK))


class Network:
    """A wire between a client and a server. It can break, which both sides notice, or hold everything back."""

    def __init__(self) -> None:
        self.port = 0
        self.down = False
        self.writers: set[asyncio.StreamWriter] = set()
        self.open = asyncio.Event()
        self.open.set()

    async def pull(self, seconds: float) -> None:
        """Connections break, and no new one is made for a while."""
        self.down = True
        for writer in list(self.writers):
            writer.transport.abort()
        await asyncio.sleep(seconds)
        self.down = False

    async def hold(self, seconds: float) -> None:
        """Connections stay, and nothing passes for a while."""
        self.open.clear()
        await asyncio.sleep(seconds)
        self.open.set()


@contextlib.asynccontextmanager
async def faulty(port: int) -> AsyncIterator[Network]:
    network = Network()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(4096):
                await network.open.wait()
                writer.write(data)
                await writer.drain()
        writer.close()

    async def join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        network.writers.add(writer)
        if network.down:
            writer.transport.abort()
            return
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        network.writers.add(far_writer)
        await asyncio.gather(carry(reader, far_writer), carry(far_reader, writer))

    server = await asyncio.start_server(join, "127.0.0.1", 0)
    network.port = server.sockets[0].getsockname()[1]
    try:
        yield network
    finally:
        await network.pull(0)
        server.close()


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["pull", "hold"])
def test_five_seconds_without_a_network_in_mid_sentence(fault: str) -> None:
    """The released model hears the bundled recording in real time; the speaker does not wait for the network."""
    model = warm(Engine(bundle.load(precision="int8")))
    sound = pcm(read_whole(str(resources.files("streamasr") / "data" / "welcome.opus")))
    undisturbed = alone(model, sound)

    async def main() -> list[dict[str, Any]]:
        async with serving(model) as server, faulty(server.port) as network:
            async with Sender(f"ws://127.0.0.1:{network.port}", patience_s=30) as sender:
                reader = asyncio.create_task(_listen(sender))
                trouble: asyncio.Task[None] | None = None
                size = round(MESSAGE_S * RATE_HZ) * 2
                for start in range(0, len(sound), size):
                    await sender.send(sound[start : start + size])
                    await asyncio.sleep(MESSAGE_S)
                    if trouble is None and start >= 2 * 2 * RATE_HZ and _inside(server):
                        trouble = asyncio.create_task(getattr(network, fault)(PULL_S))
                await sender.close()
                messages = await reader
                assert trouble
                assert trouble.done()
            assert server.metrics.resumed._value.get() == (fault == "pull")
            return messages

    messages = run(main())
    assert [m["text"] for m in of_type(messages, "final")] == undisturbed != []
    seqs = [m["seq"] for m in messages]
    assert seqs == sorted(set(seqs))
    assert messages[-1]["time_s"] == pytest.approx(len(sound) / 2 / RATE_HZ, abs=0.001)


def _inside(server: CaptionServer) -> bool:
    """Whether the last word of the only stream is not final yet."""
    told = [json.loads(message.text)["type"] for message in next(iter(server.sessions.values())).journal.after(0)]
    return [kind for kind in told if kind != "progress"][-1:] == ["partial"]


async def _listen(sender: Sender) -> list[dict[str, Any]]:
    return [message async for message in sender.messages()]


def test_a_stream_goes_on_after_several_lost_connections(engine: Engine) -> None:
    sound = pcm(noise_bursts(6.0, 11))

    async def main() -> None:
        async with serving(engine) as server, faulty(server.port) as network:
            async with Sender(f"ws://127.0.0.1:{network.port}", patience_s=30) as sender:
                reader = asyncio.create_task(_listen(sender))
                for number, start in enumerate(range(0, len(sound), 6400)):
                    await sender.send(sound[start : start + 6400])
                    await asyncio.sleep(0.02)
                    if number in (5, 22):
                        await network.pull(0.3)
                    while number in (10, 25) and not server.metrics.resumed._value.get() >= number // 10:
                        await asyncio.sleep(0.01)
                await sender.close()
                messages = await reader
            assert [m["text"] for m in of_type(messages, "final")] == alone(engine, sound)
            seqs = [m["seq"] for m in messages]
            assert seqs == sorted(set(seqs))
            assert server.metrics.resumed._value.get() == 2
            assert messages[-1]["time_s"] == 6.0

    run(main())


def test_a_subscriber_that_comes_back_misses_nothing(engine: Engine) -> None:
    async def main() -> None:
        async with serving(None) as server, faulty(server.port) as network:
            reader = asyncio.create_task(_subscribe(network.port))
            await subscribed(server, 1)
            server.publish(Final("a", (), 0.0, 1.0))
            await asyncio.sleep(0.1)
            await network.pull(0.2)
            for text in "bcd":
                server.publish(Final(text, (), 1.0, 2.0))
            assert [e.text for e in await reader if isinstance(e, Final)] == ["a", "b", "c", "d"]

    run(main())


async def _subscribe(port: int) -> list[Event]:
    events: list[Event] = []
    async for event in captions(f"ws://127.0.0.1:{port}"):
        events.append(event)
        if isinstance(event, Final) and event.text == "d":
            break
    return events


CLIENT = """
import asyncio, sys
from pathlib import Path
from websockets.asyncio.client import connect

async def send(connection, sound, go_on):
    for start in range(0, len(sound), 3200):
        await connection.send(sound[start : start + 3200])
        await asyncio.sleep(0.02)
        while start >= len(sound) // 2 and not go_on.exists():  # in mid stream until somebody was killed
            await asyncio.sleep(0.02)
    await connection.send('{"type": "close"}')

async def main(url, path="", go_on=""):
    async with connect(url, proxy=None) as connection:
        print(await connection.recv(), flush=True)
        if path:
            sending = asyncio.create_task(send(connection, Path(path).read_bytes(), Path(go_on)))
        async for text in connection:
            print(text, flush=True)

asyncio.run(main(*sys.argv[1:]))
"""
CLIENTS = ["first subscriber", "second subscriber", "first sender", "second sender", "third sender"]


@pytest.mark.parametrize("victim", CLIENTS)
def test_a_killed_client_disturbs_nobody(
    engine: Engine, caplog: pytest.LogCaptureFixture, tmp_path: Path, victim: str
) -> None:
    """Two subscribers, three senders and the microphone; one of the clients, each a process, dies by SIGKILL."""
    sounds = {name: noise_bursts(3.0, seed) for seed, name in enumerate(CLIENTS) if "sender" in name}
    spoken = noise_bursts(4.0, 20)

    async def main() -> None:
        async with serving(engine) as server:
            clients = {}
            for name in CLIENTS:
                arguments = [url(server, "/v1/captions")]
                if name in sounds:
                    path = tmp_path / name
                    path.write_bytes(pcm(sounds[name]))
                    arguments = [url(server, "/v1/stream"), str(path), str(tmp_path / "go on")]
                clients[name] = await asyncio.create_subprocess_exec(
                    sys.executable, "-c", CLIENT, *arguments, stdout=asyncio.subprocess.PIPE
                )
            for process in clients.values():
                assert process.stdout
                assert json.loads(await process.stdout.readline())["type"] == "ready"
            await subscribed(server, 2)
            half = asyncio.Event()
            speaking = asyncio.create_task(_speak(server, spoken, half))
            await half.wait()
            clients[victim].kill()
            (tmp_path / "go on").touch()
            outputs = await asyncio.gather(*(process.communicate() for process in clients.values()))
            assert await speaking == alone(engine, pcm(spoken))
            for name, (output, _) in zip(CLIENTS, outputs, strict=True):
                if name != victim:
                    messages = [json.loads(line) for line in output.splitlines()]
                    expected = alone(engine, pcm(sounds.get(name, spoken)))
                    assert [m["text"] for m in of_type(messages, "final")] == expected != []
                    assert messages[-1]["type"] == "end"
            assert [name for name in CLIENTS if clients[name].returncode] == [victim]

    with caplog.at_level(logging.DEBUG, "streamasr"):
        run(main())
    assert not [record for record in caplog.records if record.exc_info]


async def _speak(server: CaptionServer, spoken: np.ndarray, half: asyncio.Event) -> list[str]:
    """The server's own microphone, in a thread as `serve` has it: its finals."""
    loop = asyncio.get_running_loop()
    events: list[Event] = []

    def tell(found: Any) -> None:
        for event in found:
            events.append(event)
            loop.call_soon_threadsafe(server.publish, event)

    def work() -> None:
        recogniser = BatchedRecogniser(server.batcher)
        state = recogniser.start()
        heard = np.round(spoken * 32_767) / 32_768  # as it is in 16 bits
        for number, start in enumerate(range(0, len(heard), 1600)):
            found, state = recogniser.feed(heard[start : start + 1600].astype(np.float32), state)
            tell(found)
            if number == len(heard) // 3200:
                loop.call_soon_threadsafe(half.set)
        tell(recogniser.finish(state))

    await asyncio.to_thread(work)
    return finals(events)
