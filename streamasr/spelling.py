"""How often letters come in a language, alone and after each other: what spelling alone makes likely.

A network that spells has learnt it as well, so the beam gives a share of it back where a language model says better.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from streamasr.checksums import digest, listed, write_listed
from streamasr.errors import BundleError, ChecksumError
from streamasr.text import ALPHABET

FILE = "spelling.tsv"  # a row for each token but the blank: how often each of them follows it, in a billion pairs
BILLION = 1_000_000_000
SPACE = 1
UNSEEN = 1e-3  # of all pairs, so many count as seen after each letter, drawn as letters are: smooths the rare
RAREST = -8.0  # log-frequency of a letter after another, at least
_FOREIGN = 0  # in place of a token: a character that the alphabet does not have

Pairs = NDArray[np.float64]  # (V, V): the share of each token after each other; 0 with the blank and of two spaces


def pairs_of_words(words: Sequence[str], shares: NDArray[np.float64]) -> Pairs:
    """The shares of pairs where `words`, with spaces around them, come as often as their `shares` (words,) say."""
    tokens = _tokens(f" {' '.join(words)} ")
    word = np.repeat(np.arange(len(words)), [len(one) + 1 for one in words])  # of all tokens but the first
    return _shares(tokens, shares[word] if len(words) else np.ones(1))


def pairs_of_text(sentences: Sequence[str]) -> Pairs:
    """The shares of pairs in sentences, with a space before and after each."""
    tokens = _tokens(f" {' '.join(sentences)} ")
    return _shares(tokens, np.ones(len(tokens) - 1))


def letter_frequencies(pairs: Pairs) -> Mapping[str, float]:
    """The log-frequency of each letter of the alphabet among letters."""
    alone = pairs.sum(0) + 1e-9
    whole = float(alone[SPACE + 1 :].sum())
    return {letter: math.log(alone[token] / whole) for token, letter in enumerate(ALPHABET) if token > SPACE}


def pair_frequencies(pairs: Pairs) -> NDArray[np.float64]:
    """The log-frequency of each token after each other, (V, V); 0 with the blank and of a space after a space."""
    alone = pairs.sum(0)
    smooth = (pairs + UNSEEN * alone) / (pairs.sum(1, keepdims=True) + UNSEEN * max(float(alone.sum()), 1e-30))
    found: NDArray[np.float64] = np.log(np.maximum(smooth, math.exp(RAREST)))
    found[0], found[:, 0], found[SPACE, SPACE] = 0.0, 0.0, 0.0
    return found


def write_spelling(folder: Path, pairs: Pairs) -> None:
    """Put the shares beside the n-grams of a folder in the small format."""
    rows = np.rint(BILLION * pairs[1:, 1:]).astype(int).tolist()
    write_listed(folder, {FILE: "".join("\t".join(map(str, row)) + "\n" for row in rows).encode()})


def read_spelling(folder: Path) -> Pairs | None:
    """Read and verify them; None where a folder has none.

    Raises:
        ChecksumError: the file differs from its checksum. BundleError: it holds something else. OSError.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    data = path.read_bytes()
    if digest(data) != listed(folder).get(FILE):
        raise ChecksumError(f"{path} differs from its checksum", "", "Fetch the language model again.")
    pairs = np.zeros((len(ALPHABET), len(ALPHABET)))
    try:
        pairs[1:, 1:] = np.array([[int(field) for field in line.split("\t")] for line in data.decode().splitlines()])
        if (pairs < 0).any():
            raise ValueError("a share below 0")
    except ValueError as error:
        raise BundleError(f"{path} has no pairs of letters ({error})", "", "Fetch the language model again.") from error
    return pairs / BILLION


def _tokens(text: str) -> NDArray[np.int64]:
    points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    table = np.full(int(points.max()) + 1, _FOREIGN)
    for token, letter in enumerate(ALPHABET[1:], 1):
        if ord(letter) < len(table):
            table[ord(letter)] = token
    return table[points]


def _shares(tokens: NDArray[np.int64], weight: NDArray[np.float64]) -> Pairs:
    """`weight`: (tokens - 1,) of each token but the first, after the one before it."""
    size = len(ALPHABET)
    before, after = tokens[:-1], tokens[1:]
    usable = (before != _FOREIGN) & (after != _FOREIGN) & ((before != SPACE) | (after != SPACE))
    counts = np.bincount(before[usable] * size + after[usable], weight[usable], size * size)
    pairs: Pairs = counts.reshape(size, size) / max(float(counts.sum()), 1e-30)
    return pairs
