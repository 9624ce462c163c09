"""Modified Kneser-Ney n-grams (Chen and Goodman, TR-10-98, 1998), interpolated, on sorted arrays.

An n-gram is one unsigned 64-bit integer: the word numbers side by side, the first word in the highest bits. So sorting
integers sorts n-grams, the history is a shift and the shorter n-gram a mask; nothing loops over n-grams in Python.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamasr.ngram import START

Keys = NDArray[np.uint64]
Doubles = NDArray[np.float64]


class Counted(NamedTuple):
    """The n-grams of one order that occur, sorted, and how often. Both `(rows,)`."""

    keys: Keys
    count: NDArray[np.int64]


class Grams(NamedTuple):
    """The n-grams of one order in a model, sorted. All `(rows,)`, probabilities linear."""

    keys: Keys
    prob: Doubles  # p(last word | the words before)
    backoff: Doubles  # weight of shorter histories after this one
    share: Doubles  # part of all places of the text where this n-gram stands


def bits_for(vocabulary: int, order: int) -> int:
    """Bits of a word number. Raises ValueError if n-grams of that order do not fit into 64."""
    bits = max(1, (vocabulary - 1).bit_length())
    if bits * order > 64:
        raise ValueError(f"{order}-grams of {vocabulary} words take {bits * order} bits; at most 64 can be counted")
    return bits


def count(stream: NDArray[np.int64], order: int, bits: int) -> list[Counted]:
    """Count the n-grams of orders 1 to `order`; `stream`: word numbers, each sentence from `<s>` to `</s>`."""
    words = stream.astype(np.uint64)
    inside = words != START
    keys, valid = words, np.ones(len(words), bool)
    counted = [_unique(keys)]
    for n in range(2, order + 1):
        keys = (keys[:-1] << np.uint64(bits)) | words[n - 1 :]
        valid = valid[:-1] & inside[n - 1 :]
        counted.append(_unique(keys[valid]))
    return counted


def discounts(counts: NDArray[np.int64]) -> Doubles:
    """What is taken from counts of 0, 1, 2 and 3 or more; 0.5, 1, 1.5 where the text is too small to tell."""
    n1, n2, n3, n4 = (int((counts == n).sum()) for n in (1, 2, 3, 4))
    if min(n1, n2, n3, n4) > 0:
        y = n1 / (n1 + 2 * n2)
        found = np.array([0.0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3])
        if (found >= 0).all() and (found <= np.arange(4)).all():
            return found
    return np.array([0.0, 0.5, 1.0, 1.5])


def estimate(counted: list[Counted], bits: int, vocabulary: int, cutoffs: tuple[int, ...]) -> list[Grams]:
    """A model of the counted n-grams; those of order n seen at most `cutoffs[n - 1]` times are left to back-off.

    Orders below the highest count the different words before an n-gram (for those that begin a sentence: occurrences).
    `cutoffs` must not fall; that of order 1 is 0, as every word of the vocabulary stays.
    """
    if list(cutoffs) != sorted(cutoffs) or cutoffs[0] != 0 or len(cutoffs) != len(counted):
        raise ValueError(f"cut-offs {cutoffs}: expected {len(counted)} numbers that begin with 0 and do not fall")
    total = int(counted[0].count.sum())
    model: list[Grams] = []
    for n, (keys, occurrences) in enumerate(counted, 1):
        adjusted = occurrences.copy()
        if n < len(counted):
            longer = counted[n].keys & _mask(n, bits)
            adjusted[keys >> np.uint64(bits * (n - 1)) != START] = _unique(longer).count
        if n == 1:
            adjusted[keys == START] = 0
        discount = discounts(adjusted)[np.minimum(adjusted, 3)]
        if n == 1:
            seen = keys.astype(np.int64)
            prob, share = np.zeros(vocabulary), np.zeros(vocabulary)
            prob[seen] = (adjusted - discount) / adjusted.sum()
            prob += discount.sum() / adjusted.sum() / (vocabulary - 1)
            prob[START] = 0
            share[seen] = occurrences / total
            model.append(Grams(np.arange(vocabulary, dtype=np.uint64), prob, np.ones(vocabulary), share))
            continue
        kept = occurrences > cutoffs[n - 1]
        history = keys >> np.uint64(bits)
        heads = np.flatnonzero(np.concatenate([[True], history[1:] != history[:-1]]))
        size = np.add.reduceat(adjusted, heads)
        left = np.add.reduceat(np.where(kept, discount, adjusted), heads) / size
        lengths = np.diff(np.append(heads, len(keys)))
        below = model[-1]
        place = np.searchsorted(below.keys, history[heads])
        listed = below.keys[np.minimum(place, len(below.keys) - 1)] == history[heads]
        below.backoff[place[listed]] = left[listed]
        prob = ((adjusted - discount) / np.repeat(size, lengths))[kept]
        shorter = np.searchsorted(below.keys, keys[kept] & _mask(n - 1, bits))
        prob += np.repeat(left, lengths)[kept] * below.prob[shorter]
        model.append(Grams(keys[kept], prob, np.ones(len(prob)), occurrences[kept] / total))
    return model


def unpack(keys: Keys, order: int, bits: int) -> NDArray[np.int64]:
    """The word numbers of n-grams, `(rows, order)`."""
    shifts = np.arange(order - 1, -1, -1, dtype=np.uint64) * np.uint64(bits)
    return ((keys[:, None] >> shifts) & _mask(1, bits)).astype(np.int64)


def _mask(words: int, bits: int) -> np.uint64:
    return np.uint64((1 << (bits * words)) - 1)


def _unique(keys: Keys) -> Counted:
    ordered = np.sort(keys)
    heads = np.flatnonzero(np.concatenate([[len(ordered) > 0], ordered[1:] != ordered[:-1]])[: len(ordered)])
    return Counted(ordered[heads], np.diff(np.append(heads, len(ordered))))
