"""A client's audio on its way into the batcher: bytes to samples, and never more than the backlog allows."""

from __future__ import annotations

import asyncio
import collections
import time
from collections.abc import Callable, Sequence

import numpy as np

from streamasr.audio import ENCODINGS, Resampler, unusable
from streamasr.batcher import Batcher
from streamasr.config import EndpointConfig
from streamasr.engine import Engine
from streamasr.errors import AudioError, DecoderError, ProtocolError
from streamasr.hotwords import parse
from streamasr.protocol import endpoint_config
from streamasr.server.metrics import Metrics
from streamasr.stream import Report


def tuned(engine: Engine, endpointing_ms: int | None, hotwords: Sequence[str] | None) -> Engine:
    """The engine as one client wants it; None leaves a value as it is.

    Raises:
        ProtocolError: hotwords that cannot be spelled.
    """
    endpoint: EndpointConfig | None = None
    if endpointing_ms:
        endpoint = endpoint_config(endpointing_ms, engine.endpointer.config)
    try:
        return engine.tuned(endpoint, None if hotwords is None else dict(map(parse, hotwords)))
    except DecoderError as error:
        raise ProtocolError(error.got, error.expected) from None


class Sound:
    """One stream of audio; lives on the event loop.

    Args:
        hear: called with each report.
    """

    def __init__(
        self,
        batcher: Batcher,
        engine: Engine,
        metrics: Metrics,
        backlog_s: float,
        hear: Callable[[Report], None],
        rate_hz: int = 16_000,
        encoding: str = "s16le",
        channels: int = 1,
    ) -> None:
        self.received = 0  # whole frames
        self.heard_s = 0.0
        self.last_audio = time.monotonic()
        self._kind = ENCODINGS[encoding]
        self._channels, self._width = channels, self._kind.itemsize * channels
        self._rest = b""
        self._resampler = Resampler(rate_hz, engine.rate_hz)
        self._backlog_s, self._hear, self._metrics = backlog_s, hear, metrics
        self._arrivals: collections.deque[tuple[int, float]] = collections.deque()
        self._given = 0  # samples handed to the batcher
        self._room = asyncio.Event()
        self._room.set()
        self._over = False
        self.stream = batcher.open(self._report, engine)

    @property
    def over(self) -> bool:
        """Nothing more is heard: it was finished, or failed."""
        return self._over

    def feed(self, data: bytes) -> None:
        """Take in a message of audio; a frame may be spread over two.

        Raises:
            ProtocolError: samples that are not sound.
        """
        whole = self._rest + data
        used = len(whole) - len(whole) % self._width
        self._rest = whole[used:]
        self.last_audio = time.monotonic()
        if not used or self._over:
            return
        frames = np.frombuffer(whole[:used], self._kind).reshape(-1, self._channels).astype(np.float32)
        if self._kind.kind == "i":
            frames /= 32_768
        elif unusable(frames).any():
            raise ProtocolError("a sample that is NaN, infinite or far beyond full scale", "numbers between -1 and 1")
        self.received += len(frames)
        self._give(self._resampler.process(frames))

    def cut(self) -> None:
        """The connection is lost: the beginning of a frame goes with it."""
        self._rest = b""

    def finish(self) -> None:
        """End the stream once all is heard."""
        if not self._over:
            self._over = True
            self._give(self._resampler.flush())
            self.stream.finish()

    def close(self) -> None:
        """Forget the stream at once."""
        self._over = True
        self.stream.close()
        self._room.set()

    async def room(self) -> None:
        """Wait until the backlog allows more."""
        while self.stream.backlog_s > self._backlog_s and not self._over:
            self._room.clear()
            await self._room.wait()
        self.last_audio = time.monotonic()

    def _give(self, samples: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> None:
        if len(samples):
            self._given += len(samples)
            self._arrivals.append((self._given, time.monotonic()))
            self.stream.feed(samples)

    def _report(self, report: Report) -> None:
        now = time.monotonic()
        arrived: float | None = None
        while self._arrivals and self._arrivals[0][0] <= report.samples:
            arrived = self._arrivals.popleft()[1]
        if arrived is not None:
            self._metrics.latency.observe(now - arrived)
        self._metrics.audio.inc(max(0.0, report.time_s - self.heard_s))
        self.heard_s = report.time_s
        self._room.set()
        if report.error:
            self._over = True
        for event in report.events:
            self._metrics.events.labels(type(event).__name__).inc()
        self._hear(report)


def public(error: Exception) -> str:
    """What a client may be told of an error: no path of this machine."""
    if isinstance(error, ProtocolError | AudioError):
        return str(error)
    return "the stream failed; the server's log knows more"
