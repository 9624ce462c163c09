"""The small format of a language model: a folder with lm.safetensors, config.json and SHA256SUMS.

Beside these may be a recurrent model (`rnn_lm`) and rare words (`rare_words`).

Tensors of order n, in the order of the nodes of `ngram.Trie`:

    words            the vocabulary in UTF-8, lines in the order of their numbers
    n.word           last word of each n-gram, 16 bits if the vocabulary allows it (not stored for n = 1)
    n.log_prob       8-bit numbers of the entries of n.log_prob_book; for n = 1 the values themselves
    n.children       8-bit numbers of children; 255 means the next entry of n.many (not for the highest order)
    n.backoff        as n.log_prob, for the n-grams with children only, or for all if others have one too

Safetensors puts an offset to each tensor in a short header, so loading is a few copies and sums.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from streamasr.checksums import read_listed, write_listed
from streamasr.errors import BundleError
from streamasr.ngram import Trie, link

FORMAT = 1
LEVELS = 256  # entries of a code book
_MANY = 255

Tensors = dict[str, NDArray[Any]]


class Stored(NamedTuple):
    """What a folder holds. `about` is free for the maker: how and from what it was made."""

    words: list[str]
    trie: Trie
    unknown_per_letter: float
    about: dict[str, Any]


def code_book(values: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """At most 256 values, sorted, that lie close to `values` in the mean square (Lloyd's algorithm on a histogram).

    Where there are no more distinct values than that, they are the book.
    """
    if len(values) == 0:
        return np.zeros(1, np.float32)
    distinct = np.unique(np.asarray(values, np.float32))
    if len(distinct) <= LEVELS:
        return distinct
    mass, edges = np.histogram(values.astype(np.float64), 1 << 14)
    centre = (edges[1:] + edges[:-1]) / 2
    below = np.concatenate([[0.0], np.cumsum(mass)])
    moment = np.concatenate([[0.0], np.cumsum(mass * centre)])
    spread = np.cumsum(
        np.cbrt(mass)
    )  # the best density of levels is the cube root of that of values (Panter, Dite 1951)
    book = np.interp((np.arange(LEVELS) + 0.5) / LEVELS * spread[-1], spread, centre)
    for _ in range(30):
        cuts = np.concatenate([[0], np.searchsorted(centre, (book[1:] + book[:-1]) / 2), [len(centre)]])
        count = np.diff(below[cuts])
        book = np.where(count > 0, np.diff(moment[cuts]) / np.maximum(count, 1), book)
    return np.asarray(book, np.float32)


def quantise(values: NDArray[np.floating[Any]], book: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The number of the nearest entry of a sorted book for each value."""
    return np.searchsorted((book[1:] + book[:-1]) / 2, values).astype(np.uint8)


def write_small(folder: Path, stored: Stored) -> None:
    """Write the folder."""
    config = {
        "format": FORMAT,
        "ngrams": list(stored.trie.counts),
        "unknown_per_letter": stored.unknown_per_letter,
        "about": stored.about,
    }
    contents = {
        "config.json": (json.dumps(config, indent=2) + "\n").encode(),
        "lm.safetensors": save(_pack(stored.words, stored.trie)),
    }
    write_listed(folder, contents)


def read_small(folder: Path) -> Stored:
    """Read and verify the folder.

    Raises:
        ChecksumError: a file differs from its checksum. BundleError: the folder holds something else.
        OSError: it cannot be read.
    """
    contents = {name: read_listed(folder, name) for name in ("config.json", "lm.safetensors")}
    try:
        config = json.loads(contents["config.json"])
        if config["format"] != FORMAT:
            found = f"{folder} has format {config['format']!r}"
            raise BundleError(found, f"format {FORMAT}", "Fetch the language model of this version.")
        words, trie = _unpack(load(contents["lm.safetensors"]), config["ngrams"])
        return Stored(words, trie, float(config["unknown_per_letter"]), config.get("about", {}))
    except (KeyError, TypeError, ValueError, IndexError, SafetensorError) as error:
        raise BundleError(f"{folder} is no language model of ours ({error})", "", "Fetch it again.") from error


def _pack(words: list[str], trie: Trie) -> Tensors:
    tensors: Tensors = {"words": np.frombuffer("\n".join(words).encode(), np.uint8)}
    contexts = len(trie.backoff)
    start = 1
    for order, count in enumerate(trie.counts, 1):
        nodes = slice(start, start + count)
        log_prob = trie.log_prob[nodes]
        if order == 1:
            tensors["1.log_prob"] = log_prob
        else:
            narrow = np.uint16 if len(words) <= 1 << 16 else np.uint32
            tensors[f"{order}.word"] = trie.word[nodes].astype(narrow)
            tensors[f"{order}.log_prob_book"] = code_book(log_prob)
            tensors[f"{order}.log_prob"] = quantise(log_prob, tensors[f"{order}.log_prob_book"])
        if start < contexts:
            children = np.diff(trie.first[start : start + count + 1])
            tensors[f"{order}.children"] = np.minimum(children, _MANY).astype(np.uint8)
            tensors[f"{order}.many"] = children[children >= _MANY].astype(np.int32)
            backoff = trie.backoff[nodes]
            if not backoff[children == 0].any():
                backoff = backoff[children > 0]
            if order > 1:
                tensors[f"{order}.backoff_book"] = code_book(backoff)
                tensors[f"{order}.backoff"] = quantise(backoff, tensors[f"{order}.backoff_book"])
            else:
                tensors[f"{order}.backoff"] = backoff
        start += count
    return {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}


@njit(cache=True)
def _look_up(book: NDArray[np.float32], codes: NDArray[np.uint8], values: NDArray[np.float32]) -> None:
    for i in range(codes.shape[0]):
        values[i] = book[codes[i]]


@njit(cache=True)
def _spread(
    children: NDArray[np.uint8],
    many: NDArray[np.int32],
    weights: NDArray[np.float32],
    first: NDArray[np.int32],
    backoff: NDArray[np.float32],
) -> None:
    """Sum up numbers of children into `first[1:]`, and give each node that has some its weight. Sizes are checked."""
    large = given = 0
    every = weights.shape[0] == children.shape[0]
    for i in range(children.shape[0]):
        count = np.int64(children[i])
        if count == 255:
            count = np.int64(many[large])
            large += 1
        first[i + 1] = first[i] + count
        if every or count > 0:
            backoff[i] = weights[given]
            given += 1


def _unpack(tensors: Tensors, counts: list[int]) -> tuple[list[str], Trie]:
    words = tensors["words"].tobytes().decode().split("\n")
    nodes = 1 + sum(counts)
    contexts = nodes - counts[-1] if len(counts) > 1 else 1
    if len(words) != counts[0]:
        raise ValueError(f"{len(words)} words, {counts[0]} announced")
    word = np.full(nodes, -1, np.int32)
    log_prob = np.zeros(nodes, np.float32)
    backoff = np.zeros(contexts, np.float32)
    first = np.zeros(contexts + 1, np.int32)
    first[:2] = 1, 1 + counts[0]
    start = 1
    for order, count in enumerate(counts, 1):
        here = slice(start, start + count)
        word[here] = np.arange(count) if order == 1 else tensors[f"{order}.word"]
        if order == 1:
            log_prob[here] = tensors["1.log_prob"]
        else:
            _look_up(tensors[f"{order}.log_prob_book"], tensors[f"{order}.log_prob"], log_prob[here])
        if start < contexts:
            children, many = tensors[f"{order}.children"], tensors[f"{order}.many"]
            weights = tensors[f"{order}.backoff"]
            if order > 1:
                codes, weights = weights, np.zeros(len(weights), np.float32)
                _look_up(tensors[f"{order}.backoff_book"], codes, weights)
            sizes = {len(children), len(weights)} - {int((children > 0).sum())}
            if sizes - {count} or len(many) != (children == _MANY).sum():
                raise ValueError(f"its {order}-grams do not add up")
            _spread(children, many, weights, first[start : start + count + 1], backoff[here])
        start += count
    if first[-1] != nodes:
        raise ValueError("its numbers of children do not add up")
    return words, link(first, word, log_prob, backoff, tuple(counts))
