"""Sources of sound: files, raw PCM from a pipe, and the streaming resampler that every source shares.

A source is read block by block: mono float32 at 16 kHz. When it fails (a truncated file, a pipe that stops in the
middle of a sample, a sample that is not a number), everything before the failure has been delivered; then `read` raises
one `AudioError`. So whoever reads finishes the stream, keeps the text, and only then reports the error.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Protocol, TypeVar

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from streamasr.container import missing_s, open_sound, quiet
from streamasr.errors import AudioError, SampleError
from streamasr.events import Event

RATE_HZ = 16_000
LOWEST_RATE_HZ, HIGHEST_RATE_HZ = 1_000, 1_000_000
LOUDEST = 1e6  # full scale is 1.0; beyond this the numbers are not sound, and their energies would overflow
PIECE = 4096  # frames decoded in one call: what comes after a damaged place in them may be lost
ENCODINGS: dict[str, np.dtype[np.int16] | np.dtype[np.float32]] = {"s16le": np.dtype("<i2"), "f32le": np.dtype("<f4")}

Samples = NDArray[np.float32]
SourceT = TypeVar("SourceT", bound="PulledSource")


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """What one `Source.read` returns.

    Attributes:
        samples: (n,) mono float32 at 16 kHz; n is 0 when nothing came in time.
        start_s: time of the first sample since the source began.
        events: what happened before the end of these samples, in order.
        ended: nothing follows.
        skipped_s: the time line jumps by so much just before these samples: a gap too long to be filled with silence.
            The reader ends the utterance and lets its clock jump too. Only a microphone ever does this.
    """

    samples: Samples
    start_s: float
    events: tuple[Event, ...] = ()
    ended: bool = False
    skipped_s: float = 0.0

    @property
    def level_db(self) -> float:
        """Level of the samples in dB, 0 for a full-scale square wave, not below -120."""
        return level_db(self.samples)


class Source(Protocol):
    """Anything that can be listened to."""

    @property
    def name(self) -> str:
        """What the user calls it: a path, "standard input", the name of a device."""
        ...

    def read(self, timeout_s: float = 0.1) -> Block:
        """The next block; an empty one if none came within `timeout_s`.

        Raises:
            AudioError: the source failed; everything that could be heard was delivered before.
        """
        ...

    def close(self) -> None:
        """Give back the file or device; reading has ended."""
        ...


def level_db(samples: Samples) -> float:
    """Root-mean-square level of (n,) samples in dB of full scale, not below -120; silence if there are none."""
    if not len(samples):
        return -120.0
    return float(10 * np.log10(max(np.dot(samples, samples) / len(samples), 1e-12)))


def unusable(frames: Samples) -> NDArray[np.bool_]:
    """(n,) true where a frame of (n, channels) is NaN, infinite, or so large that it cannot be sound."""
    sizes = np.abs(frames)
    if sizes.max(initial=0) <= LOUDEST:  # false for NaN
        return np.zeros(len(frames), np.bool_)
    bad: NDArray[np.bool_] = np.asarray(~(sizes <= LOUDEST).all(axis=1))
    return bad


class Resampler:
    """Streaming resampler to mono: soxr's high-quality filter over the mean of all channels.

    The concatenated outputs equal those of one `process` call over the whole signal; the filter delays its output by
    some 40 ms, and `flush` gives the rest, so that n samples in are always round(n * output / input rate) out.
    """

    def __init__(self, rate_hz: float, output_hz: float = RATE_HZ, name: str = "the sound") -> None:
        if not LOWEST_RATE_HZ <= rate_hz <= HIGHEST_RATE_HZ:
            raise AudioError(f"{name} has a rate of {rate_hz:g} Hz", f"{LOWEST_RATE_HZ} to {HIGHEST_RATE_HZ} Hz")
        self._stream = None if rate_hz == output_hz else soxr.ResampleStream(rate_hz, output_hz, 1, "float32", "HQ")

    def process(self, frames: Samples) -> Samples:
        """Take (n, channels) frames, give (m,) samples."""
        channels = frames.shape[1]
        mono = np.ascontiguousarray(frames[:, 0]) if channels == 1 else frames @ np.full(channels, 1 / channels, "f4")
        return self._run(mono, last=False)

    def flush(self) -> Samples:
        """The (m,) samples still held back; the resampler must not be used afterwards."""
        return self._run(np.zeros(0, np.float32), last=True)

    def _run(self, mono: Samples, last: bool) -> Samples:
        if self._stream is None:
            return mono
        samples: Samples = self._stream.resample_chunk(mono, last=last)
        return samples


class PulledSource(ABC):
    """What files and pipes share: they are checked, resampled, paced if asked, and end well.

    With `realtime`, a block is given out when its last sample would have been spoken, counted from the first `read` on
    a monotonic clock, so pacing does not drift; a reader that falls behind is given blocks at once until it is level.
    """

    def __init__(self, name: str, source_hz: float, rate_hz: int, realtime: bool, block_s: float | None) -> None:
        self.name = name
        self._resampler = Resampler(source_hz, rate_hz, name)
        self._source_hz, self._rate_hz, self._realtime = source_hz, rate_hz, realtime
        self._block = max(1, round(source_hz * (block_s or (0.05 if realtime else 1.0))))
        self._began: float | None = None  # monotonic time of the first read
        self._heard = 0  # frames decoded
        self._given = 0  # samples delivered
        self._over = False
        self._error: AudioError | None = None

    def _ready(self, timeout_s: float) -> bool:  # noqa: ARG002
        """Wait until `_decode` would not wait; false if that is later than `timeout_s`."""
        return True

    @abstractmethod
    def _decode(self, count: int) -> Samples | None:
        """Up to `count` frames (n, channels); None at the end.

        Sets `_error` instead of the end where the rest cannot be heard.
        """

    @abstractmethod
    def close(self) -> None:
        """Give back the file or pipe."""

    def read(self, timeout_s: float = 0.1) -> Block:
        """See `Source.read`."""
        if self._error and self._over:
            raise self._error
        if self._over or not self._due(timeout_s) or not self._ready(timeout_s):
            return Block(np.zeros(0, np.float32), self._given / self._rate_hz, ended=self._over)
        frames = self._decode(self._block)
        samples = np.zeros(0, np.float32)
        if frames is not None:
            samples = self._resampler.process(self._checked(frames))
        if frames is None or self._error:
            self._over = True
            samples = np.concatenate([samples, self._resampler.flush()])
        start_s = self._given / self._rate_hz
        self._given += len(samples)
        return Block(samples, start_s, ended=self._over and self._error is None)

    def _due(self, timeout_s: float) -> bool:
        """Wait until the next block is due; false if that is later than `timeout_s`."""
        if not self._realtime:
            return True
        now = time.monotonic()
        if self._began is None:
            self._began = now
        wait_s = self._began + (self._heard + self._block) / self._source_hz - now
        time.sleep(min(max(wait_s, 0.0), timeout_s))
        return wait_s <= timeout_s

    def _checked(self, frames: Samples) -> Samples:
        """The frames before the first unusable one."""
        bad = unusable(frames)
        if bad.any():
            frames = frames[: int(bad.argmax())]
            at_s = (self._heard + len(frames)) / self._source_hz
            self._error = SampleError(
                f"{self.name} holds a sample at {at_s:.3f} s that is NaN, infinite or far beyond full scale",
                "numbers between -1 and 1",
                "Check its encoding or convert it to 16-bit samples.",
            )
        self._heard += len(frames)
        return frames

    def __enter__(self: SourceT) -> SourceT:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class FileSource(PulledSource):
    """Any sound file that libsndfile reads (WAV, FLAC, Ogg, Opus, MP3, ...), decoded block by block.

    Args:
        path: the file.
        rate_hz: rate of the samples given out.
        realtime: pace it like a microphone.
        block_s: length of a block; by default 1 s at full speed and 50 ms in real time.

    Raises:
        AudioError: the file is missing, a directory, empty, or not a sound file.
    """

    def __init__(
        self, path: str | Path, rate_hz: int = RATE_HZ, realtime: bool = False, block_s: float | None = None
    ) -> None:
        self._file = open_sound(Path(path))
        try:
            super().__init__(str(path), self._file.samplerate, rate_hz, realtime, block_s)
            self._missing_s = missing_s(self._file, Path(path))
        except AudioError:
            self._file.close()
            raise

    @property
    def seconds(self) -> float:
        """Length according to the header."""
        return float(self._file.frames / self._file.samplerate)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _decode(self, count: int) -> Samples | None:
        frames: Samples = np.full((count, self._file.channels), np.nan, np.float32)
        filled, damaged = 0, False
        with quiet() if self._file.format == "MP3" else contextlib.nullcontext():
            while filled < count:
                place = frames[filled : filled + PIECE]
                try:
                    decoded = len(self._file.read(dtype="float32", out=place))
                except soundfile.SoundFileError:  # what was decoded before is there
                    missing = np.isnan(place[:, 0])
                    filled += int(missing.argmax()) if missing.any() else len(place)
                    damaged = True
                    break
                filled += decoded
                if not decoded:
                    break
        if filled < count:
            self._error = self._damage(self._heard + filled, damaged)
        return frames[:filled] if filled else None

    def _damage(self, heard: int, damaged: bool) -> AudioError | None:
        """The error to end with after `heard` frames; none for a whole file."""
        if not heard and not damaged:
            return AudioError(f"{self.name} holds no samples", "a sound file with samples", "Record it again.")
        heard_s = heard / self._source_hz
        lost_s = max(self._missing_s, self.seconds - heard_s)
        if lost_s < 0.05 and not damaged:
            return None
        lost = "the end is missing" if math.isinf(lost_s) else f"about {lost_s:.2f} s are missing"
        return AudioError(
            f"{self.name} is truncated or damaged: {heard_s:.2f} s could be read, {lost}",
            "the whole file",
            "What was heard is kept; fetch or record the file again for the rest.",
        )


class RawSource(PulledSource):
    """Raw interleaved PCM from a pipe or any binary stream, given out as soon as it comes.

    Args:
        stream: where the bytes come from, `sys.stdin.buffer` as a rule.
        rate_hz: rate of the samples in the stream.
        encoding: "s16le" or "f32le".
        channels: interleaved channels.
        realtime: pace it like a microphone (a live pipe paces itself).
        block_s: the longest block.
        name: what errors call the stream.

    Raises:
        AudioError: an encoding, rate or number of channels that cannot be, or a stream that is a terminal.
    """

    def __init__(
        self,
        stream: BinaryIO,
        rate_hz: float = RATE_HZ,
        encoding: str = "s16le",
        channels: int = 1,
        realtime: bool = False,
        block_s: float | None = None,
        name: str = "standard input",
    ) -> None:
        if encoding not in ENCODINGS:
            raise AudioError(
                f"the encoding {encoding!r} is unknown", " or ".join(ENCODINGS), "Give --encoding one of these."
            )
        if not 1 <= channels <= 64:
            raise AudioError(f"{name} is said to have {channels} channels", "1 to 64")
        if stream.isatty():
            raise AudioError(
                f"{name} is a terminal",
                f"raw {encoding} samples from a pipe",
                f"Try: ffmpeg -i talk.mp4 -f {encoding} -ac 1 -ar {RATE_HZ} - | streamasr listen --source -",
            )
        super().__init__(name, rate_hz, RATE_HZ, realtime, block_s)
        self._stream, self._encoding, self._channels = stream, encoding, channels
        self._descriptor: int | None = None
        with contextlib.suppress(OSError):  # io.BytesIO and its like have none
            self._descriptor = stream.fileno()
        self._rest = b""  # the bytes of an unfinished frame

    def close(self) -> None:
        """Leave the stream to whoever opened it."""

    def _decode(self, count: int) -> Samples | None:
        kind = ENCODINGS[self._encoding]
        width = kind.itemsize * self._channels
        chunk = self._receive(count * width - len(self._rest))
        if not chunk:
            self._error = self._ending(width)
            return None
        whole = self._rest + chunk
        if self._heard == 0 and whole[:4] in (b"RIFF", b"fLaC", b"OggS"):
            self._error = AudioError(
                f"{self.name} begins like a sound file",
                f"raw {self._encoding} samples without a header",
                "Name the file itself, or convert it: ffmpeg -i - -f s16le -ac 1 -ar 16000 -",
            )
            return None
        used = len(whole) - len(whole) % width
        self._rest = whole[used:]
        frames = np.frombuffer(whole[:used], kind).reshape(-1, self._channels).astype(np.float32)
        if kind.kind == "i":
            frames /= 32768
        return frames

    def _ready(self, timeout_s: float) -> bool:
        if self._descriptor is None or os.name != "posix":  # elsewhere one cannot wait for a pipe: reading blocks
            return True
        return bool(select.select([self._descriptor], [], [], timeout_s)[0])

    def _receive(self, size: int) -> bytes:
        """Up to `size` bytes, as soon as there are some; none at the end."""
        if self._descriptor is None:
            return self._stream.read(size)
        try:
            return os.read(self._descriptor, size)
        except OSError as error:
            self._error = AudioError(f"{self.name} cannot be read ({error.strerror})", "raw samples from a pipe")
            return b""

    def _ending(self, width: int) -> AudioError | None:
        """The error to end with; none after whole samples."""
        if self._error:
            return self._error
        if self._rest:
            return AudioError(
                f"{self.name} ended in the middle of a sample ({len(self._rest)} of {width} bytes)",
                f"whole {self._encoding} samples of {self._channels} channel(s)",
                "What was heard before is kept; check --encoding and --channels, or whether the sender died.",
            )
        if not self._heard:
            return AudioError(f"{self.name} is empty", f"raw {self._encoding} samples", "Check the sending command.")
        return None


def read_whole(path: str | Path, rate_hz: int = RATE_HZ) -> Samples:
    """All (n,) samples of a file, for evaluation and training; errors are those of `FileSource` and its `read`."""
    blocks: list[Samples] = []
    with FileSource(path, rate_hz) as source:
        while True:
            block = source.read()
            blocks.append(block.samples)
            if block.ended:
                return np.concatenate(blocks)
