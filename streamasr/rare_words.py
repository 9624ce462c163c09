"""Words that are too rare for n-grams: the language model knows how they are spelled, and how often each comes.

To n-grams, and to the recurrent model, they are the unknown word; of its probability each takes its share. So a
vocabulary can be several times as large for a few hundred kilobytes, and a name or a technical term is no longer a
choice between what it sounds like and spelling it letter by letter.
"""

from __future__ import annotations

import lzma
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamasr.checksums import read_listed, write_listed
from streamasr.errors import BundleError

FILE = "rare.txt.xz"  # lines: a word, a tab, the log of its share in hundredths


class RareWords(NamedTuple):
    """`log_share`: (words,) of the unknown word's probability; the shares of all add to less than 1."""

    words: tuple[str, ...]
    log_share: NDArray[np.float32]


NONE = RareWords((), np.zeros(0, np.float32))


def write_rare(folder: Path, rare: RareWords) -> None:
    """Put them beside the n-grams of a folder in the small format."""
    hundredths = np.rint(100 * rare.log_share.astype(np.float64)).astype(int).tolist()
    lines = (f"{word}\t{number}\n" for word, number in zip(rare.words, hundredths, strict=True))
    write_listed(folder, {FILE: lzma.compress("".join(lines).encode(), preset=9)})


def read_rare(folder: Path) -> RareWords:
    """Read and verify them; `NONE` where a folder has none.

    Raises:
        ChecksumError: the file differs from its checksum. BundleError: it holds something else. OSError.
    """
    path = folder / FILE
    if not path.is_file():
        return NONE
    data = read_listed(folder, FILE)
    try:
        fields = lzma.decompress(data).decode().replace("\n", "\t").split("\t")
        log_share = np.array(fields[1::2], np.float32) / np.float32(100)
        if len(fields) % 2 == 0 or np.exp(log_share.astype(np.float64)).sum() > 1.0:
            raise ValueError("its words and shares do not fit each other")
        return RareWords(tuple(fields[:-1:2]), log_share)
    except (lzma.LZMAError, ValueError) as error:
        raise BundleError(
            f"{path} is no list of rare words ({error})", "", "Fetch the language model again."
        ) from error
