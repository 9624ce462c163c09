"""The microphone: PortAudio's callback fills a ring, the reader empties it, and a device that vanishes is got back.

The time line is that of the real audio. Audio that the ring or the device lost, and the time during which the device
was away, keep their place: up to `FILL_S` as silence, and what is longer as a jump (`Block.skipped_s`).

PortAudio lists the devices once, when it is initialised; so it is initialised again before a lost device is looked for.
That closes every stream of the process, so it is left out while another `Microphone` captures.
"""

from __future__ import annotations

import collections
import contextlib
import re
import sys
import time
from types import ModuleType, TracebackType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamasr.audio import RATE_HZ, Block, Resampler, Samples, unusable
from streamasr.container import quiet
from streamasr.devices import Device, find_device, find_loopback, led_to, list_devices, portaudio
from streamasr.errors import DeviceError, DeviceLost, UnknownDevice
from streamasr.events import Event, Overrun, SourceLost, SourceResumed
from streamasr.meters import LossMeter, RateMeter
from streamasr.ring import Ring

__all__ = ["Device", "LossMeter", "Microphone", "find_device", "list_devices"]

RING_S = 30.0  # heard while the model loads or the reader is late
CALLBACK_S = 0.02  # between two calls of PortAudio
BLOCK_S = 0.05  # the shortest block, where the reader waits for it
MOST_S = 1.0  # the longest block
POLL_S = 0.01
FILL_S = 2.0  # a longer gap is skipped
START_S = 10.0  # silence of the callback after the start, and later, after which the device counts as lost
STALL_S = 3.0
SUSPENDED_S = 0.5
RETRY_S, SLOWEST_RETRY_S = 0.25, 2.0  # pause before trying again; it doubles
OTHER_RATES_HZ = (48_000, 44_100, 32_000, 16_000, 8_000)  # for a device that refuses its own default
INVALID_RATE, INVALID_CHANNELS = -9997, -9998  # PaErrorCode

OVERFLOW, LOST, FULL = "input overflow", "lost by the device", "ring full"
RATE_CHANGED = "the system changed its sample rate"
SUSPENDED = "the machine or the device was suspended"
BROKEN_SAMPLES = "NaN or infinite samples, heard as silence"

_open_captures: set[_Capture] = set()


def clock_s() -> float:
    """A clock that never jumps and goes on while the machine is suspended."""
    if sys.platform == "linux":
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    if sys.platform == "darwin":
        return time.clock_gettime(time.CLOCK_MONOTONIC)
    return time.monotonic()


class Loss(NamedTuple):
    """`seconds` were lost before the frame `position`."""

    position: int
    seconds: float
    reason: str


class _Capture:
    """One open stream of one device: what the callback fills, and how it fares."""

    def __init__(self, device: Device, ring_s: float) -> None:
        self.losses: collections.deque[Loss] = collections.deque(maxlen=1000)
        self.began_s = self.heard_s = clock_s()  # the first frame's beginning, the last frame's end; now if none comes
        self.failure = ""
        self._meter = LossMeter()
        self._suspended_s = 0.0  # by how much the clock is ahead of one that stops while the machine is suspended
        self._verdict_s = 0.0  # when an overflow flag without a measurable loss is reported as such
        self._idle_s, self._seen, self._polled_s = 0.0, 0, time.monotonic()
        self._rate = RateMeter()
        with quiet(), led_to(device.target):
            self._stream = self._open(portaudio(), device, ring_s)
        _open_captures.add(self)

    def _open(self, library: ModuleType, device: Device, ring_s: float) -> Any:
        """Open and start the device at its own rate, with its own channels but not more than the first two."""
        refusal = ""
        for channels in dict.fromkeys((min(device.channels, 2), device.channels, 1)):
            for rate_hz in dict.fromkeys((device.rate_hz, *OTHER_RATES_HZ)):
                self.rate_hz = rate_hz
                self.ring = Ring(round(ring_s * rate_hz), channels)
                try:
                    stream = library.InputStream(
                        rate_hz,
                        blocksize=round(CALLBACK_S * rate_hz),
                        device=device.number,
                        channels=channels,
                        dtype="float32",
                        callback=self._callback,
                        finished_callback=self._finished,
                    )
                    stream.start()
                    return stream
                except library.PortAudioError as error:
                    refusal = str(error.args[0])
                    code = error.args[1] if len(error.args) > 1 else 0
                    if code == INVALID_CHANNELS:
                        break
                    if code != INVALID_RATE:
                        raise _refused(device, refusal) from None
        raise _refused(device, refusal)

    def _callback(self, block: NDArray[np.float32], count: int, _times: Any, status: Any) -> None:
        """On PortAudio's thread: copy, add up, return."""
        if self.failure:
            return
        now_s = clock_s()
        suspended_s = now_s - time.monotonic()
        if not self.ring.written:
            self.began_s, self._suspended_s = now_s - count / self.rate_hz, suspended_s
        if suspended_s > self._suspended_s + SUSPENDED_S:
            self.failure = SUSPENDED
            return
        if status.input_overflow and not self._verdict_s:
            self._verdict_s = now_s + 3 * LossMeter.WINDOW_S
        if self._rate.add(now_s, count / self.rate_hz):
            self.failure = RATE_CHANGED
            return
        self.ring.write(block)
        lost_s = self._meter.add(now_s, self.ring.written / self.rate_hz, bool(self._verdict_s))
        if lost_s > self.ring.capacity / self.rate_hz / 2:
            self.heard_s = now_s - lost_s
            self.failure = SUSPENDED
            return
        self.heard_s = now_s
        if lost_s:
            self.ring.write_silence(round(lost_s * self.rate_hz))
        if lost_s or 0 < self._verdict_s < now_s:
            self.losses.append(Loss(self.ring.written, lost_s, OVERFLOW if self._verdict_s else LOST))
            self._verdict_s = 0.0

    def _finished(self) -> None:
        self.failure = self.failure or "the device stopped"

    def check(self) -> str:
        """Why no more audio will come, or ""; to be called regularly while there is none.

        The time that counts as a stall is what the caller saw, so a process that was itself stopped loses nothing.
        """
        now_s = time.monotonic()
        step_s, self._polled_s = min(now_s - self._polled_s, 0.1), now_s
        self._idle_s = self._idle_s + step_s if self._seen == self.ring.written else 0.0
        self._seen = self.ring.written
        if not self.failure and not self._stream.active:
            self.failure = "the device stopped"
        if self._idle_s > (STALL_S if self._seen else START_S):
            self.failure = self.failure or f"no audio came for {self._idle_s:.0f} s"
        return self.failure

    def close(self) -> None:
        """Give the device back."""
        _open_captures.discard(self)
        with quiet():
            self._stream.abort(ignore_errors=True)
            self._stream.close(ignore_errors=True)


class Microphone:
    """A `Source` that hears an input device from the moment it is made until `close`.

    Args:
        device: number, name or part of a name; None for the system's default input.
        loopback: hear what the machine plays instead.
        ring_s: seconds of audio kept for a reader that is late.

    Raises:
        NoPortAudio: the library is not installed.
        NoInputDevice: there is no input device at all.
        UnknownDevice: no device, or more than one, fits `device`.
        DeviceLost: the device is busy or refuses. Later failures are `SourceLost` events, and are retried for ever.
    """

    def __init__(self, device: int | str | None = None, ring_s: float = RING_S, loopback: bool = False) -> None:
        if isinstance(device, str) and device.strip().isdecimal():
            device = int(device)
        self._wanted: tuple[int | str | None, ...] = (device,)
        self._ring_s, self._loopback = ring_s, loopback
        self._blocks: collections.deque[Block] = collections.deque()  # to be given out
        self._position = 0  # samples of the time line so far
        self._base_s = 0.0  # time of the first frame of this capture
        self._away_s: float | None = 0.0  # on the clock: when the audio stopped; None while it comes
        self._filled_s = 0.0  # of the present gap
        self._retry_s, self._retry_at_s = RETRY_S, 0.0
        self._capture: _Capture | None = None
        self._closed = False
        self._connect()
        self._away_s = None
        if isinstance(device, int):  # numbers change when devices come and go, also those that ALSA puts into names
            self._wanted = (self.name, re.sub(r"\s*\(hw:\d+,\d+\)$", "", self.name))

    def _connect(self) -> None:
        device = find_loopback() if self._loopback else None
        for wanted in () if device else self._wanted:
            with contextlib.suppress(UnknownDevice):
                device = find_device(wanted)
                break
        device = device or find_device(self._wanted[0])
        capture = _Capture(device, self._ring_s)
        self.name = device.name
        self._resampler = Resampler(capture.rate_hz)
        self._capture = capture

    @property
    def backlog_s(self) -> float:
        """Seconds of audio that wait to be read."""
        return self._capture.ring.waiting / self._capture.rate_hz if self._capture else 0.0

    def read(self, timeout_s: float = 0.1) -> Block:
        """See `Source.read`; never raises, and ends only after `close`."""
        deadline = time.monotonic() + timeout_s
        while not self._closed:
            left_s = deadline - time.monotonic()
            if not self._blocks:
                self._listen(self._capture, left_s <= 0) if self._capture else self._reconnect()
            if self._blocks:
                return self._blocks.popleft()
            if left_s <= 0:
                break
            time.sleep(min(max(BLOCK_S - self.backlog_s, POLL_S), left_s))
        return Block(np.zeros(0, np.float32), self._position / RATE_HZ, ended=self._closed)

    def _listen(self, capture: _Capture, hurry: bool) -> None:
        """Give out what came: at least `BLOCK_S` of it, unless there is no time to wait for that."""
        failure = capture.check()
        if capture.ring.waiting < BLOCK_S * capture.rate_hz and not (failure or hurry):
            return self._fill()
        taken = capture.ring.read(round(MOST_S * capture.rate_hz))
        if not len(taken.samples) and not taken.dropped:
            return self._lose(capture, failure) if failure else self._fill()
        events: list[Event] = []
        skipped_s = 0.0
        if self._away_s is not None:
            skipped_s = self._resume(capture, self._away_s, events)
        if taken.dropped:
            dropped_s = taken.dropped / capture.rate_hz
            if dropped_s <= FILL_S:
                self._give(self._resampler.process(np.zeros((taken.dropped, capture.ring.channels), np.float32)))
            else:
                self._give(self._resampler.flush())
                self._resampler = Resampler(capture.rate_hz)
                skipped_s = self._base_s + taken.position / capture.rate_hz - self._position / RATE_HZ
            events.append(Overrun(dropped_s, self._base_s + taken.position / capture.rate_hz, FULL))
        end = taken.position + len(taken.samples)
        while capture.losses and capture.losses[0].position <= end:
            loss = capture.losses.popleft()
            events.append(Overrun(loss.seconds, self._base_s + loss.position / capture.rate_hz, loss.reason))
        bad = unusable(taken.samples)
        if bad.any():
            taken.samples[bad] = 0
            seconds = float(bad.sum()) / capture.rate_hz
            events.append(Overrun(seconds, self._base_s + end / capture.rate_hz, BROKEN_SAMPLES))
        self._give(self._resampler.process(taken.samples), tuple(events), skipped_s)
        return None

    def _give(self, samples: Samples, events: tuple[Event, ...] = (), skipped_s: float = 0.0) -> None:
        skipped = round(skipped_s * RATE_HZ)
        start = self._position + skipped
        self._position = start + len(samples)
        if len(samples) or events:
            self._blocks.append(Block(samples, start / RATE_HZ, events, skipped_s=skipped / RATE_HZ))

    def _lose(self, capture: _Capture, reason: str) -> None:
        capture.close()
        self._capture = None
        self._retry_at_s = time.monotonic() + self._retry_s
        if self._away_s is None:
            self._away_s, self._filled_s = capture.heard_s, 0.0
            samples = self._resampler.flush()
            lost = SourceLost((self._position + len(samples)) / RATE_HZ, reason)
            self._give(samples, (lost,))

    def _fill(self) -> None:
        """While the device is away, silence takes its place as time passes, up to `FILL_S`."""
        if self._away_s is None:
            return
        due_s = min(clock_s() - self._away_s - 4 * BLOCK_S, FILL_S) - self._filled_s
        if due_s >= BLOCK_S:
            self._give(np.zeros(round(due_s * RATE_HZ), np.float32))
            self._filled_s += due_s

    def _resume(self, capture: _Capture, away_s: float, events: list[Event]) -> float:
        """Begin the time line of a capture that replaces a lost one; seconds that it skips."""
        gap_s = max(capture.began_s - away_s, self._filled_s)
        rest_s = gap_s - self._filled_s
        skips = gap_s > FILL_S
        if not skips:
            self._give(np.zeros(round(rest_s * RATE_HZ), np.float32))
        self._base_s = self._position / RATE_HZ + (rest_s if skips else 0.0)
        self._away_s, self._retry_s = None, RETRY_S
        events.append(SourceResumed(self._base_s, gap_s))
        return rest_s if skips else 0.0

    def _reconnect(self) -> None:
        """Try to get a device back, ever more slowly."""
        self._fill()
        if time.monotonic() < self._retry_at_s:
            return
        try:
            if not _open_captures:
                _initialise_again(portaudio())
            self._connect()
        except DeviceError:
            self._retry_s = min(2 * self._retry_s, SLOWEST_RETRY_S)
            self._retry_at_s = time.monotonic() + self._retry_s

    def close(self) -> None:
        """Give the device back; what was not read is lost."""
        self._closed = True
        if self._capture:
            self._capture.close()
            self._capture = None

    def __enter__(self) -> Microphone:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _initialise_again(library: ModuleType) -> None:
    """Let PortAudio see the devices that are there now; sounddevice has no public name for this."""
    with quiet():
        with contextlib.suppress(library.PortAudioError):  # an earlier attempt may have ended between the two steps
            library._terminate()
        try:
            library._initialize()
        except library.PortAudioError as error:
            raise DeviceLost(f"PortAudio does not start ({error.args[0]})", "a working sound system") from None


def _refused(device: Device, reason: str) -> DeviceLost:
    reason = reason.removeprefix("Error opening InputStream: ").removeprefix("Error starting stream: ")
    return DeviceLost(
        f"the device {device.name!r} cannot be opened ({reason})",
        "a microphone that is free",
        "Close the program that uses it, or choose another one: streamasr devices",
    )
