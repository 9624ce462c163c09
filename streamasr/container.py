"""Sound files on disk: opening one, and telling whether it is whole."""

from __future__ import annotations

import contextlib
import math
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import soundfile

from streamasr.errors import AudioError

LENGTHS = re.compile(r"^\s*(?:data|SSND|Data Size|riff|Riff size)\s*:\s*(\d+) \(should be (\d+)\)", re.MULTILINE)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what C libraries print on standard error (mpg123, ALSA, PortAudio) off the user's terminal.

    It acts on the whole process. What Python itself prints on `sys.stderr` still arrives.
    """
    shown = sys.stderr
    try:
        kept = os.dup(2)
    except OSError:  # there is no standard error
        yield
        return
    try:
        with Path(os.devnull).open("wb") as nowhere:
            if shown is sys.__stderr__ and shown is not None:
                shown.flush()
                sys.stderr = os.fdopen(
                    os.dup(kept), "w", encoding=shown.encoding, errors="backslashreplace", buffering=1
                )
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        if sys.stderr is not shown:
            sys.stderr.close()
            sys.stderr = shown


class SequentialFile(soundfile.SoundFile):
    """A sound file that is only read onwards.

    `soundfile` seeks to where it is after every read of a seekable file; in MP3, where a frame may borrow bits from
    those before it, the samples after each such seek are wrong (by 0.28 of full scale, with libsndfile 1.2.2).
    """

    def seekable(self) -> bool:
        """False: so nothing seeks."""
        return False


def open_sound(path: Path) -> SequentialFile:
    """Open a sound file, or say in one line why that cannot be."""
    if path.is_dir():
        raise AudioError(f"{path} is a directory", "a sound file", "Name the files in it.")
    try:
        if path.is_file() and path.stat().st_size == 0:
            raise AudioError(f"{path} is empty (0 bytes)", "a sound file with samples", "Record it again.")
        with path.open("rb"):
            pass
        with quiet():
            return SequentialFile(path)
    except FileNotFoundError:
        raise AudioError(f"{path} does not exist", "a sound file", "Check the path.") from None
    except OSError as error:
        raise AudioError(f"{path} cannot be read ({error.strerror})", "a readable sound file") from None
    except (soundfile.SoundFileError, TypeError, ValueError):
        raise AudioError(
            f"{path} is not a sound file that libsndfile reads",
            "WAV, FLAC, Ogg, Opus or MP3",
            f"Convert it: ffmpeg -i {path} {path.stem}.wav",
        ) from None


def missing_s(file: SequentialFile, path: Path) -> float:
    """Seconds that the header promises and the file has not; 0 if it is whole or the header does not know,
    infinity if the end is missing and the header does not know how much.

    libsndfile reads on to the end of a truncated file as if nothing was wrong, and only says so in its log. A length of
    2 GiB or more in a WAV header is that of a program that wrote to a pipe and could not know it.
    """
    if file.format == "OGG":
        return 0.0 if _ogg_is_whole(path) else math.inf
    log = LENGTHS.search(file.extra_info)
    if not log or not file.frames:
        return 0.0
    promised, actual = int(log[1]), int(log[2])
    if promised >= 0x7FFF_0000 and file.format in ("WAV", "WAVEX"):
        return 0.0
    return max(promised - actual, 0) / max(actual, 1) * float(file.frames / file.samplerate)


def _ogg_is_whole(path: Path) -> bool:
    """Whether the last page of an Ogg file is complete and marked as the last (RFC 3533, section 6)."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 70_000))  # a page has at most 65 307 bytes
        tail = file.read()
    at = tail.rfind(b"OggS")
    page = tail[at:]
    if at < 0 or len(page) < 27 or len(page) < 27 + page[26]:
        return False
    return bool(page[5] & 4) and len(page) >= 27 + page[26] + sum(page[27 : 27 + page[26]])
