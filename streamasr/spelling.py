"""How often letters come in English, alone and after each other: what spelling alone makes likely.

A network that spells has learnt it as well, so the beam takes a share of it off what the network says where a language
model says it better. That is the network's, whatever the language model is: a few words for a menu, say.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from importlib import resources

import numpy as np
from numpy.typing import NDArray

from streamasr.text import ALPHABET

FILE = "spelling.tsv"  # a row for each token but the blank: how often each of them follows it, in a billion pairs
BILLION = 1_000_000_000
SPACE = 1
UNSEEN = 1e-3  # of all pairs, so many count as seen after each letter, drawn as letters are: smooths the rare
RAREST = -8.0  # log-frequency of a letter after another, at least
_FOREIGN = 0  # in place of a token: a character that the alphabet does not have

Pairs = NDArray[np.float64]  # (V, V): the share of each token after each other; 0 with the blank and of two spaces


def pairs_of_text(sentences: Sequence[str]) -> Pairs:
    """The shares of pairs in sentences, with a space before and after each."""
    points = np.frombuffer(f" {' '.join(sentences)} ".encode("utf-32-le"), np.uint32)
    table = np.full(int(points.max()) + 1, _FOREIGN)
    for token, letter in enumerate(ALPHABET[1:], 1):
        if ord(letter) < len(table):
            table[ord(letter)] = token
    size, tokens = len(ALPHABET), table[points]
    before, after = tokens[:-1], tokens[1:]
    usable = (before != _FOREIGN) & (after != _FOREIGN) & ((before != SPACE) | (after != SPACE))
    counts = np.bincount(before[usable] * size + after[usable], minlength=size * size).reshape(size, size)
    return counts / max(1, int(counts.sum()))


def letter_frequencies(pairs: Pairs) -> NDArray[np.float64]:
    """The log-frequency of each letter among letters, (V,); 0 of the blank and of the space."""
    alone = pairs.sum(0)[SPACE + 1 :] + 1e-9
    found = np.zeros(len(pairs))
    found[SPACE + 1 :] = np.log(alone / alone.sum())
    return found


def pair_frequencies(pairs: Pairs) -> NDArray[np.float64]:
    """The log-frequency of each token after each other, (V, V); 0 with the blank and of a space after a space."""
    alone = pairs.sum(0)
    smooth = (pairs + UNSEEN * alone) / (pairs.sum(1, keepdims=True) + UNSEEN * max(float(alone.sum()), 1e-30))
    found: NDArray[np.float64] = np.log(np.maximum(smooth, math.exp(RAREST)))
    found[0], found[:, 0], found[SPACE, SPACE] = 0.0, 0.0, 0.0
    return found


def written(pairs: Pairs) -> str:
    """The shares as the package holds them."""
    rows = np.rint(BILLION * pairs[1:, 1:]).astype(int).tolist()
    return "".join("\t".join(map(str, row)) + "\n" for row in rows)


def parsed(text: str) -> Pairs:
    """The shares from what `written` made of them."""
    pairs = np.zeros((len(ALPHABET), len(ALPHABET)))
    pairs[1:, 1:] = np.array([[int(field) for field in line.split("\t")] for line in text.splitlines()])
    return pairs / BILLION


@functools.cache
def english() -> Pairs:
    """Those of the texts that the default language model is made from."""
    return parsed((resources.files("streamasr") / "data" / FILE).read_text(encoding="ascii"))
