"""The audio that was heard, kept in a file with the same clock as the captions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

from streamasr.audio import RATE_HZ, Block
from streamasr.errors import OutputError

GAP_PIECE_S = 10.0


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

    def write(self, block: Block) -> None:
        """Take in a block, the gap before it included.

        Raises:
            OutputError: it cannot be written, as on a full disk.
        """
        try:
            left = round(block.skipped_s * RATE_HZ)
            while left > 0:
                piece = min(left, round(GAP_PIECE_S * RATE_HZ))
                self._file.write(np.zeros(piece, np.float32))
                left -= piece
            self._file.write(block.samples)
            self._file.flush()
        except (soundfile.LibsndfileError, OSError) as error:
            raise OutputError(f"{self.path} cannot be written any more ({error})", "", "Free some space.") from None

    def close(self) -> None:
        """End the file."""
        self._file.close()
