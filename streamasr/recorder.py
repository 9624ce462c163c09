"""The audio that was heard, kept in a file with the same clock as the captions.

The file can be read at every moment, also when the program was killed: the number of samples in its header is brought
up to date with every FLAC block that is whole (RFC 9639, section 8.2), and what is not yet a whole block is all that is
lost then, 0.26 s. libsndfile by itself leaves that number empty until the file is closed, and few programs read on.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

from streamasr.audio import RATE_HZ, Block, Samples
from streamasr.errors import OutputError

GAP_PIECE_S = 10.0
BLOCK_AT, LENGTH_AT, LENGTH_BITS = 8, 18, 36  # in the file: samples of a block; 8 bytes whose last bits are the length


class Recorder:
    """A FLAC file of the samples that the recogniser gets, 16 kHz mono, 24 bits; gaps of the source are silence.

    Raises:
        OutputError: the file exists and holds something, or cannot be written.
    """

    def __init__(self, path: Path, overwrite: bool = False) -> None:
        self.path = path
        if path.suffix.lower() != ".flac":
            raise OutputError(f"--record {path} is no FLAC file", "a name that ends in .flac", "Choose another name.")
        if path.exists() and path.stat().st_size and not overwrite:
            raise OutputError(f"{path} exists", "a new file", "Choose another name, or give --overwrite.")
        try:
            self._file = soundfile.SoundFile(path, "w", RATE_HZ, 1, "PCM_24", format="FLAC")
        except (soundfile.LibsndfileError, OSError) as error:
            raise OutputError(f"{path} cannot be written ({error})", "", "Choose another place.") from None
        self._block = 0  # samples of a FLAC block, as soon as the file tells
        self._given = self._whole = 0  # samples written, and those that the header tells of

    def write(self, block: Block) -> None:
        """Take in a block, the gap before it included.

        Raises:
            OutputError: it cannot be written, as on a full disk.
        """
        try:
            left = round(block.skipped_s * RATE_HZ)
            while left > 0:
                piece = min(left, round(GAP_PIECE_S * RATE_HZ))
                self._append(np.zeros(piece, np.float32))
                left -= piece
            self._append(block.samples)
        except (soundfile.LibsndfileError, OSError) as error:
            raise OutputError(f"{self.path} cannot be written any more ({error})", "", "Free some space.") from None

    def _append(self, samples: Samples) -> None:
        self._file.write(samples)
        self._file.flush()
        self._given += len(samples)
        if not self._block:
            with self.path.open("rb") as header:
                header.seek(BLOCK_AT)
                self._block = int.from_bytes(header.read(2), "big")
        whole = max(0, self._given - 1) // (self._block or 65_535) * self._block  # the encoder waits for one more
        if whole == self._whole:
            return
        with self.path.open("r+b", buffering=0) as header:
            header.seek(LENGTH_AT)
            before = int.from_bytes(header.read(8), "big")
            header.seek(LENGTH_AT)
            header.write(((before >> LENGTH_BITS << LENGTH_BITS) | whole).to_bytes(8, "big"))
        self._whole = whole

    def close(self) -> None:
        """End the file."""
        self._file.close()
