"""The words of a language model as a trie of characters, for a beam that spells.

Characters are the tokens of the acoustic model: 1 space, 2..27 a..z, 28 apostrophe. Node 0 is the empty prefix. The
children of a node are numbered side by side, so a node needs only a bit for each character and its first child.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamasr.compiled import shared

A = 2
LONGEST = 64  # letters; longer words are left out
_SORTED_APOSTROPHE = "{"  # the byte after z, so that bytes sort as tokens do


class Lexicon(NamedTuple):
    """The trie of characters, all arrays `(nodes,)`."""

    mask: NDArray[np.uint32]  # bit c: there is a child for the character c
    first: NDArray[np.int32]  # number of the first child
    word: NDArray[np.int32]  # the word that ends here, or -1
    best: NDArray[np.float32]  # highest unigram log-probability of the words that begin with this prefix


@shared
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
    lower = "\n".join([*words, ""]).lower().replace(_SORTED_APOSTROPHE, "|").replace("'", _SORTED_APOSTROPHE)
    text = np.frombuffer(lower.encode(), np.uint8)
    ends = np.flatnonzero(text == ord("\n"))
    length = np.diff(ends, prepend=-1) - 1
    row = np.repeat(np.arange(len(words)), length + 1)
    strange = np.bincount(row, (text < ord("a")) | (text > ord(_SORTED_APOSTROPHE)), len(words)) > 1  # the line's end
    strange[:skip] = True
    strange |= (length == 0) | (length > LONGEST)
    numbers = np.flatnonzero(~strange)
    length[strange] = 0
    place = np.arange(len(text)) - np.append(0, ends[:-1] + 1)[row]
    wanted = place < length[row]
    table = np.zeros((len(words), max(1, int(length.max(initial=0)))), np.uint8)
    table[row[wanted], place[wanted]] = text[wanted]
    keys = table[numbers].view(f"S{table.shape[1]}")[:, 0]
    if not (keys[1:] > keys[:-1]).all():
        order = np.lexsort((-log_prob[numbers], keys))
        keys, numbers = keys[order], numbers[order]
    if len(keys) == 0:
        return Lexicon(np.zeros(1, np.uint32), np.zeros(1, np.int32), np.full(1, -1, np.int32), np.zeros(1, np.float32))
    fresh = np.concatenate([[True], keys[1:] != keys[:-1]])
    keys, numbers = keys[fresh], numbers[fresh]
    letters = keys.view(np.uint8).reshape(len(keys), -1)  # (words, longest), 0 after the end
    length = length[numbers]
    same = np.append(letters[1:] == letters[:-1], np.zeros((len(keys) - 1, 1), bool), 1)
    common = np.append(0, same.argmin(1))  # letters in common with the word before
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
        token = letters[active[heads], depth].astype(np.float64) - (ord("a") - A)
        mask.append(np.bincount(owner, 2.0**token, count_above).astype(np.uint32))
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
