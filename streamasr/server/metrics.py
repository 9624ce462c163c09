"""What `/metrics` tells, in Prometheus' format."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
LATENCIES_S = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0, 1.5, 2.0, 5.0, 10.0)
STEPS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """One server's numbers."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.connections = Gauge("streamasr_connections", "Websockets open now.", ["dialect"], registry=registry)
        self.opened = Counter("streamasr_connections_opened", "Websockets opened.", ["dialect"], registry=registry)
        self.refused = Counter("streamasr_refused", "Requests refused.", ["status"], registry=registry)
        self.streams = Gauge("streamasr_streams", "Streams of audio open now.", registry=registry)
        self.detached = Gauge("streamasr_streams_detached", "Streams waiting for their client.", registry=registry)
        self.resumed = Counter("streamasr_streams_resumed", "Streams taken up again.", registry=registry)
        self.audio = Counter("streamasr_audio_seconds", "Audio heard, in seconds.", registry=registry)
        self.events = Counter("streamasr_events", "Events of all streams.", ["type"], registry=registry)
        self.replaced = Counter(
            "streamasr_messages_replaced", "Partials never sent because newer ones came.", registry=registry
        )
        self.too_slow = Counter(
            "streamasr_clients_dropped", "Clients closed because they took nothing.", registry=registry
        )
        self.dropped = Counter("streamasr_dropped_seconds", "Audio of the microphone dropped.", registry=registry)
        self.latency = Histogram(
            "streamasr_latency_seconds",
            "From audio received to its events queued.",
            buckets=LATENCIES_S,
            registry=registry,
        )
        self.step = Histogram("streamasr_step_seconds", "Of the network.", buckets=STEPS_S, registry=registry)
        self.batch = Histogram("streamasr_batch_streams", "In one step.", buckets=BATCHES, registry=registry)
        self._registry = registry

    def measure(self, name: str, about: str, read: Callable[[], float]) -> None:
        """A gauge that is read when it is asked for."""
        Gauge(name, about, registry=self._registry).set_function(read)

    def text(self) -> bytes:
        """The whole page."""
        return generate_latest(self.registry)
