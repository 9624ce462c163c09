"""The words of a language model as a trie of characters, for a beam that spells.

Characters are the tokens of the acoustic model: 1 space, 2..27 a..z, 28 apostrophe. Node 0 is the empty prefix. The
children of a node are numbered side by side, so a node needs only a bit for each character and its first child.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

A, APOSTROPHE = 2, 28
_SORTED_APOSTROPHE = "{"  # the byte after z, so that bytes sort as tokens do
_SPELLING = frozenset("abcdefghijklmnopqrstuvwxyz'")


class Lexicon(NamedTuple):
    """The trie of characters, all arrays `(nodes,)`."""

    mask: NDArray[np.uint32]  # bit c: there is a child for the character c
    first: NDArray[np.int32]  # number of the first child
    word: NDArray[np.int32]  # the word that ends here, or -1
    best: NDArray[np.float32]  # highest unigram log-probability of the words that begin with this prefix


@njit(cache=True)
def descend(mask: NDArray[np.uint32], first: NDArray[np.int32], node: int, character: int) -> int:
    """The child of `node` for a character, or -1 (also for a `node` of -1)."""
    if node < 0 or (mask[node] >> np.uint32(character)) & np.uint32(1) == 0:
        return -1
    bits = mask[node] & ((np.uint32(1) << np.uint32(character)) - np.uint32(1))
    bits = bits - ((bits >> np.uint32(1)) & np.uint32(0x55555555))  # population count (Warren, Hacker's Delight 5-1)
    bits = (bits & np.uint32(0x33333333)) + ((bits >> np.uint32(2)) & np.uint32(0x33333333))
    bits = (bits + (bits >> np.uint32(4))) & np.uint32(0x0F0F0F0F)
    bits = bits + (bits >> np.uint32(8))
    bits = (bits + (bits >> np.uint32(16))) & np.uint32(0x3F)
    return int(first[node] + np.int64(bits))


def spell(words: list[str], log_prob: NDArray[np.float32], skip: int) -> Lexicon:
    """The trie of `words[skip:]`; `log_prob`: (len(words),) unigrams.

    Upper case counts as lower; of words that then agree the most probable one stands. Words that the alphabet cannot
    spell are left out, but keep their place in the n-grams.
    """
    spelled = {i: word.lower() for i, word in enumerate(words) if i >= skip and word}
    numbers = np.array([i for i, word in spelled.items() if _SPELLING.issuperset(word)], np.int64)
    keys = np.array([spelled[i].replace("'", _SORTED_APOSTROPHE).encode() for i in numbers.tolist()], "S")
    order = np.lexsort((-log_prob[numbers], keys))
    keys, numbers = keys[order], numbers[order]
    if len(keys) == 0:
        return Lexicon(np.zeros(1, np.uint32), np.zeros(1, np.int32), np.full(1, -1, np.int32), np.zeros(1, np.float32))
    fresh = np.concatenate([[True], keys[1:] != keys[:-1]])
    keys, numbers = keys[fresh], numbers[fresh]
    letters = keys.view(np.uint8).reshape(len(keys), -1).astype(np.int64)  # (words, longest), 0 after the end
    length = (letters > 0).sum(1)
    common = np.concatenate([[0], (letters[1:] == letters[:-1]).cumprod(1).sum(1)])  # with the word before
    token = letters - ord("a") + A
    weight = log_prob[numbers]

    mask, first, word, best = [], [], [], [np.array([weight.max()])]
    parent = np.zeros(len(keys), np.int64)  # node of each word's prefix one letter shorter
    base, above, count_above = 1, 0, 1
    ends = np.full(1, -1, np.int64)
    for depth in range(letters.shape[1]):
        active = np.flatnonzero(length > depth)
        new = common[active] <= depth
        heads = np.flatnonzero(new)
        node = base + np.cumsum(new) - 1
        owner = parent[active[heads]] - above
        mask.append(np.bincount(owner, 2.0 ** token[active[heads], depth], count_above).astype(np.uint32))
        first.append(base + np.searchsorted(owner, np.arange(count_above)))
        word.append(ends)
        best.append(np.maximum.reduceat(weight[active], heads))
        ends = np.full(len(heads), -1, np.int64)
        last = length[active] == depth + 1
        ends[node[last] - base] = numbers[active[last]]
        parent[active] = node
        above, count_above = base, len(heads)
        base += len(heads)
    mask.append(np.zeros(count_above, np.uint32))
    first.append(np.zeros(count_above, np.int64))
    word.append(ends)
    return Lexicon(
        np.concatenate(mask),
        np.concatenate(first).astype(np.int32),
        np.concatenate(word).astype(np.int32),
        np.concatenate(best).astype(np.float32),
    )
