"""How many senders in real time the caption server bears, and how long they wait for their events.

    python -m benchmarks.server                             # the default model, batched and one stream after the other
    python -m benchmarks.server --untrained --senders 1 2 4 8 16 --seconds 10
    python -m benchmarks.server --hostile --batch 64 --senders 16   # also beside clients that stall, flood, ...

Each sender plays speech in real time in messages of 100 ms, from a random moment within the first second on. An event
tells how many seconds were heard when it was made (`heard_s`); its latency runs from the moment when the message with
the last of that audio was sent until the event was received. Senders share one other process, so the server has the
rest of the machine. A number of senders passes where the 99th percentile is under 700 ms, every sender's audio was
heard to its end, and the last event came less than 2 s after the last audio. `--batch 1` is one chunk of one stream
after the other, as servers do that share nothing. `cpu` is processor seconds of the server for each second, whatever
else the machine does: where other programs are busy, it says more than the latencies.

With `--hostile` every number of senders is measured twice, the second time beside a subscriber that never reads, a
sender that floods, one that never reads what it is told, one that talks nonsense and comes again, and one that never
ends its handshake.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator
from importlib import resources
from pathlib import Path

import numpy as np
from websockets.asyncio.client import connect

from streamasr.audio import RATE_HZ, read_whole

MESSAGE_S = 0.1
LONGEST_P99_S = 0.7
LONGEST_END_S = 2.0
LIMIT_S = 300.0  # for one measurement, whatever happens


def main() -> None:
    options = _options()
    with contextlib.ExitStack() as stack:
        model = options.model or ""
        if options.untrained:
            model = str(_untrained(Path(stack.enter_context(tempfile.TemporaryDirectory())) / "untrained"))
        sound = _sound(options.seconds)
        print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}; model {model or 'default'}", flush=True)
        print(
            f"{'batch':>6}{'senders':>9}{'p50 ms':>9}{'p99 ms':>9}{'end ms':>9}{'heard s':>10}{'cpu':>7}  passes",
            flush=True,
        )
        for batch in options.batch:
            best = 0
            for senders in options.senders:
                passes = [
                    _measure(senders, batch, model, sound, options.threads, hostile)
                    for hostile in ((False, True) if options.hostile else (False,))
                ]
                if not all(passes):
                    break
                best = senders
            print(f"batch {batch}: {best} senders", flush=True)


def _measure(senders: int, batch: int, model: str, sound: bytes, threads: int, hostile: bool) -> bool:
    with _server(batch, model, senders, threads) as (port, process):
        before_s = _cpu_s(process.pid)
        began = time.monotonic()
        results = asyncio.run(asyncio.wait_for(_senders(port, senders, sound, hostile), LIMIT_S))
        share = (_cpu_s(process.pid) - before_s) / (time.monotonic() - began)
    latencies = np.array([latency for result in results for latency in result.latencies_s])
    heard_s = min(result.heard_s for result in results)
    end_s = max(result.end_s for result in results)
    p50, p99 = np.percentile(latencies, (50, 99)) if len(latencies) else (np.nan, np.nan)
    whole_s = len(sound) / 2 / RATE_HZ
    passes = bool(p99 < LONGEST_P99_S and heard_s >= whole_s - 0.01 and end_s < LONGEST_END_S)
    print(
        f"{batch:>6}{senders:>9}{p50 * 1000:>9.0f}{p99 * 1000:>9.0f}{end_s * 1000:>9.0f}{heard_s:>10.1f}{share:>7.2f}"
        f"  {'yes' if passes else 'no'}{', beside hostile clients' if hostile else ''}",
        flush=True,
    )
    return passes


class Result:
    """What one sender saw."""

    def __init__(self) -> None:
        self.latencies_s: list[float] = []
        self.heard_s = 0.0
        self.end_s = float("inf")


async def _senders(port: int, count: int, sound: bytes, hostile: bool) -> list[Result]:
    results = [Result() for _ in range(count)]
    kinds = (_staller, _flooder, _deaf, _babbler, _mute) if hostile else ()
    bad = [asyncio.create_task(kind(port)) for kind in kinds]
    await asyncio.gather(*(_sender(port, sound, result, random.Random(n)) for n, result in enumerate(results)))
    for task in bad:
        task.cancel()
    await asyncio.gather(*bad, return_exceptions=True)
    return results


async def _sender(port: int, sound: bytes, result: Result, chance: random.Random) -> None:
    await asyncio.sleep(chance.random())
    turn = 2 * round(chance.random() * len(sound) / 2)
    sound = sound[turn:] + sound[:turn]  # each sender at another place of the recording
    sent: list[float] = []
    async with connect(f"ws://127.0.0.1:{port}/v1/stream", proxy=None, compression=None) as connection:
        reader = asyncio.create_task(_reader(connection, sent, result))
        size = round(MESSAGE_S * RATE_HZ) * 2
        began = time.monotonic()
        for number, start in enumerate(range(0, len(sound), size)):
            await asyncio.sleep(max(0.0, began + (number + 1) * MESSAGE_S - time.monotonic()))
            sent.append(time.monotonic())
            await connection.send(sound[start : start + size])
        last = time.monotonic()
        await connection.send('{"type":"close"}')
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(reader, 60.0)
            result.end_s = time.monotonic() - last


async def _reader(connection: AsyncIterator[str], sent: list[float], result: Result) -> None:
    async for text in connection:
        message = json.loads(text)
        if "heard_s" not in message:
            continue
        now, result.heard_s = time.monotonic(), message["heard_s"]
        if message["type"] in ("partial", "final", "speech_started", "progress"):
            index = min(len(sent) - 1, int((message["heard_s"] - 1e-6) / MESSAGE_S))
            result.latencies_s.append(now - sent[index])


async def _staller(port: int) -> None:
    """Subscribes, and never reads."""
    async with connect(f"ws://127.0.0.1:{port}/v1/captions", proxy=None, max_queue=1):
        await asyncio.sleep(LIMIT_S)


async def _flooder(port: int) -> None:
    """Sends an hour of noise as fast as it goes."""
    noise = np.random.default_rng(0).integers(-3000, 3000, RATE_HZ, dtype=np.int16).tobytes()
    async with connect(f"ws://127.0.0.1:{port}/v1/stream", proxy=None, compression=None) as connection:
        for _ in range(3600):
            await connection.send(noise)


async def _deaf(port: int) -> None:
    """Speaks in real time, and never reads what it is told."""
    noise = np.random.default_rng(1).integers(-3000, 3000, RATE_HZ // 10, dtype=np.int16).tobytes()
    async with connect(f"ws://127.0.0.1:{port}/v1/stream", proxy=None, compression=None, max_queue=1) as connection:
        for _ in range(36_000):
            await connection.send(noise)
            await asyncio.sleep(0.1)


async def _mute(port: int) -> None:
    """Begins a handshake, and never ends it."""
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /v1/stream HTTP/1.1\r\nHost: ")
    await asyncio.sleep(LIMIT_S)


async def _babbler(port: int) -> None:
    """Talks nonsense, is closed, and comes again."""
    for _ in range(3000):
        with contextlib.suppress(Exception):
            async with connect(f"ws://127.0.0.1:{port}/v1/stream", proxy=None) as connection:
                for _ in range(100):
                    await connection.send("{" * 1000)
                    await asyncio.sleep(0.001)
        await asyncio.sleep(0.05)


@contextlib.contextmanager
def _server(batch: int, model: str, senders: int, threads: int) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    command = [sys.executable, "-c", "import sys; from streamasr.cli import main; sys.exit(main())"]
    command += ["serve", "--source", "none", "--port", "0", "--batch", str(batch), "--streams", str(senders + 4)]
    command += ["--connections", str(senders + 50)] + (["--model", model] if model else [])
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)} if threads else dict(os.environ)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stderr
        for line in process.stderr:
            if found := re.search(r"http://127\.0\.0\.1:(\d+)/", line):
                break
        else:
            raise SystemExit("the server did not start")
        port = int(found.group(1))
        threading.Thread(target=process.stderr.read, daemon=True).start()  # so that its log never blocks it
        yield port, process
    finally:
        process.terminate()
        process.wait(30)


def _cpu_s(pid: int) -> float:
    """Processor seconds of a process, where the system tells them."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return float("nan")
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _sound(seconds: float) -> bytes:
    """Speech: the bundled recording, again and again."""
    samples = read_whole(str(resources.files("streamasr") / "data" / "welcome.opus"))
    whole = np.tile(samples, int(seconds * RATE_HZ / len(samples)) + 1)[: round(seconds * RATE_HZ)]
    return (np.clip(whole, -1, 1) * 32_767).astype("<i2").tobytes()


def _untrained(path: Path) -> Path:
    """A model of the default's size that has learnt nothing: for its speed only; it mostly hears blanks."""
    import torch

    from streamasr import bundle
    from streamasr.config import FeatureConfig, ModelConfig
    from streamasr.model import AsrModel
    from streamasr.text import Vocab

    config = ModelConfig(channels=24, rnn="gated", size=512, layers=6, context=5, context_ahead=2, lookahead=2)
    torch.manual_seed(0)
    model = AsrModel(FeatureConfig(), config, len(Vocab()))
    with torch.no_grad():
        model.network.layers[-1].linear.bias[0] += 4.0  # type: ignore[union-attr,operator]
    bundle.save(path, model, FeatureConfig(), config, Vocab(), {}, "# untrained\n")
    return path


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="name or directory")
    parser.add_argument("--untrained", action="store_true", help="a model of the default's size, for speed only")
    parser.add_argument("--senders", type=int, nargs="+", default=[4, 8, 12, 16, 24, 32, 48, 60, 72, 84])
    parser.add_argument("--batch", type=int, nargs="+", default=[64, 1])
    parser.add_argument("--seconds", type=float, default=20.0, help="of each sender's audio")
    parser.add_argument("--threads", type=int, default=0, help="of the server's matrix products")
    parser.add_argument("--hostile", action="store_true", help="again beside five clients that mean no good")
    return parser.parse_args()


if __name__ == "__main__":
    main()
