"""A recurrent language model of words, beside the n-grams: it has heard the whole sentence, and knows what is alike.

A long short-term memory hears a word and gives a vector; the log-probability of a next word is that vector times the
word's own, plus a bias. Nothing is normalised: training holds the sum of all words at about one (Devlin et al., "Fast
and Robust Neural Network Joint Models for Statistical Machine Translation", 2014), so that a word costs one short
product instead of one for each word of the vocabulary. Vectors of words that are heard and that are told are the same
(Press, Wolf, "Using the Output Embedding to Improve Language Models", 2017). Matrices are rounded to bytes, each row by
its own scale.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from streamasr.checksums import read_listed, write_listed
from streamasr.errors import BundleError
from streamasr.ngram import SPECIALS

FILE = "rnn.safetensors"
Bytes = NDArray[np.int8]
Floats = NDArray[np.float32]


class RnnLm(NamedTuple):
    """V words, D numbers of each, H cells. Word numbers are its own: `words`, the three special ones first."""

    words: tuple[str, ...]
    embedding: Bytes  # (V, D)
    scale: Floats  # (V,)
    bias: Floats  # (V,)
    gates: Bytes  # (4 H, D + H): i, f, g, o
    gates_scale: Floats  # (4 H,)
    gates_bias: Floats  # (4 H,)
    out: Bytes  # (D, H)
    out_scale: Floats  # (D,)
    out_bias: Floats  # (D,)

    @property
    def cells(self) -> int:
        return len(self.gates) // 4


def write_rnn(folder: Path, rnn: RnnLm) -> None:
    """Put it beside the n-grams of a folder in the small format."""
    tensors = {name: np.ascontiguousarray(array) for name, array in rnn._asdict().items() if name != "words"}
    data = save({"words": np.frombuffer("\n".join(rnn.words).encode(), np.uint8), **tensors})
    write_listed(folder, {FILE: data})


def read_rnn(folder: Path) -> RnnLm | None:
    """Read and verify it; None where a folder has none.

    Raises:
        ChecksumError: it differs from its checksum. BundleError: the file holds something else. OSError.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    data = read_listed(folder, FILE)
    try:
        tensors = load(data)
        words = tuple(tensors.pop("words").tobytes().decode().split("\n"))
        rnn = RnnLm(words, **tensors)
    except (KeyError, TypeError, ValueError, SafetensorError) as error:
        raise BundleError(f"{path} is no language model of ours ({error})", "", "Fetch it again.") from error
    size, width, cells = len(rnn.words), rnn.embedding.shape[-1], rnn.cells
    expected = ((size, width), (size,), (size,), (4 * cells, width + cells), (4 * cells,), (4 * cells,))
    shapes = tuple(array.shape for array in rnn[1:])
    if shapes != (*expected, (width, cells), (width,), (width,)) or rnn.words[: len(SPECIALS)] != SPECIALS:
        raise BundleError(f"the tensors of {path} do not fit each other", "", "Fetch the language model again.")
    return rnn
