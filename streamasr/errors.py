"""What can go wrong for a user, in one tree.

Every error says what was got, what was expected and what to do next, in one line; the command line prints that line
and exits with a non-zero status, and nothing that was already transcribed is lost.

    StreamasrError
    ├── ConfigError          a configuration value or key that means nothing
    ├── AudioError           a file, a pipe or samples that cannot be heard
    │   └── SampleError      NaN or infinite samples
    ├── DeviceError          a sound device
    │   ├── NoPortAudio      the PortAudio library is not installed
    │   ├── NoInputDevice    the machine has no microphone at all
    │   ├── UnknownDevice    no device has that number or name
    │   └── DeviceLost       the device is busy, was refused or vanished
    ├── BundleError          a model that is missing or cannot be read
    │   └── ChecksumError    weights that differ from their checksum
    ├── ManifestError        a corpus manifest
    ├── DecoderError         logits, language model or hotwords that the decoder cannot use
    ├── OutputError          a transcript that cannot be written
    ├── ProtocolError        a message or request that means nothing to the other side
    └── ServerError          a caption server that cannot start, refused, or was lost
"""

from __future__ import annotations


class StreamasrError(Exception):
    """Root of the tree.

    Args:
        got: what was met, as a clause ("the file talk.wav is empty").
        expected: what would have been right, as a noun phrase ("a sound file with samples"), or "".
        advice: what to do next, as an imperative sentence ("Record it again."), or "".
    """

    def __init__(self, got: str, expected: str = "", advice: str = "") -> None:
        self.got, self.expected, self.advice = got, expected, advice
        line = got + (f"; expected {expected}" if expected else "") + "."
        super().__init__(" ".join((line + (f" {advice}" if advice else "")).split()))


class ConfigError(StreamasrError):
    """A configuration value or key that means nothing."""


class AudioError(StreamasrError):
    """A file, a pipe or samples that cannot be heard."""


class SampleError(AudioError):
    """NaN or infinite samples."""


class DeviceError(StreamasrError):
    """A sound device."""


class NoPortAudio(DeviceError):
    """The PortAudio library is not installed."""


class NoInputDevice(DeviceError):
    """The machine has no microphone at all."""


class UnknownDevice(DeviceError):
    """No device has that number or name."""


class DeviceLost(DeviceError):
    """The device is busy, was refused or vanished."""


class BundleError(StreamasrError):
    """A model that is missing or cannot be read."""


class ChecksumError(BundleError):
    """Weights that differ from their checksum."""


class ManifestError(StreamasrError):
    """A corpus manifest."""


class DecoderError(StreamasrError):
    """Logits, language model or hotwords that the decoder cannot use."""


class OutputError(StreamasrError):
    """A transcript that cannot be written."""


class ProtocolError(StreamasrError):
    """A message or request that means nothing to the other side."""


class ServerError(StreamasrError):
    """A caption server that cannot start, refused, or was lost."""
