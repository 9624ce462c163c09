"""The n-gram trie with back-off, as flat arrays that compiled code reads.

An ARPA model gives, for each n-gram it lists, log p(last word | the words before), and for each history it lists a
back-off weight for the words not listed after it (Katz 1987). Here the n-grams form a trie, numbered breadth first:
node 0 is the empty history, node 1 + w the word w alone, then the bigrams, the trigrams and so on, the children of one
node side by side and sorted by word. A history is the node of its longest suffix that can still matter: one integer.

Word numbers: 0 `<unk>`, 1 `<s>`, 2 `</s>`, then the words. All logarithms are natural.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from streamasr.compiled import shared
from streamasr.errors import DecoderError

UNKNOWN, START, END = 0, 1, 2
SPECIALS = ("<unk>", "<s>", "</s>")
LONGEST = 5  # order
LN10 = math.log(10.0)
NEVER = -99.0 * LN10  # the log-probability of what is never predicted, such as <s>

Ints = NDArray[np.int32]
Floats = NDArray[np.float32]


class Level(NamedTuple):
    """All n-grams of one order, in any order. `line`: where each stood in a text file, for errors; may be empty."""

    words: NDArray[np.int64]  # (rows, order)
    log_prob: NDArray[np.float64]  # (rows,)
    backoff: NDArray[np.float64]  # (rows,), 0 where there is none
    line: NDArray[np.int64]  # (rows,) or (0,)


class Trie(NamedTuple):
    """The n-grams of a model: first its `contexts` (orders below the highest), then the n-grams of highest order."""

    first: Ints  # (contexts + 1,) first child of a context; its children end before first[node + 1]
    word: Ints  # (nodes,) last word of the n-gram
    log_prob: Floats  # (nodes,)
    backoff: Floats  # (contexts,)
    suffix: Ints  # (contexts,) the state to back off to; the root's is the root
    state: Ints  # (contexts,) the shortest history equivalent to this node, or -1: that of its suffix
    counts: tuple[int, ...]  # n-grams of each order


@shared
def find(first: Ints, word: Ints, node: int, wanted: int) -> int:
    """The child of `node` for the word `wanted`, or -1; binary search."""
    if node == 0:
        return wanted + 1
    low, high = first[node], first[node + 1]
    while low < high:
        middle = (low + high) >> 1
        if word[middle] < wanted:
            low = middle + 1
        else:
            high = middle
    if low < first[node + 1] and word[low] == wanted:
        return int(low)
    return -1


@njit(cache=True)
def _link(first: Ints, word: Ints, backoff: Floats, starts: NDArray[np.int64], suffix: Ints, state: Ints) -> None:
    """Fill in `suffix` and `state` of all contexts. `starts`: first node of each order, from 0 on.

    A history without continuations and with weight 1 says nothing that its suffix does not say: its state is that of
    its suffix. From order 3 on that one is left to be found when it is asked for, which makes loading quick.
    """
    for node in range(1, min(starts[2], state.shape[0])):
        state[node] = node if first[node] < first[node + 1] or backoff[node] != 0 else 0
    for order in range(2, starts.shape[0] - 1):
        for parent in range(starts[order - 1], starts[order]):
            for node in range(first[parent], first[parent + 1]):
                idle = first[node] == first[node + 1] and backoff[node] == 0
                if idle and order > 2:
                    state[node] = -1
                    continue
                shorter = suffix[parent]
                target = find(first, word, shorter, word[node])
                while target < 0 or state[target] < 0:
                    shorter = suffix[shorter]
                    target = find(first, word, shorter, word[node])
                suffix[node] = state[target]
                state[node] = state[target] if idle else node


def link(first: Ints, word: Ints, log_prob: Floats, backoff: Floats, counts: tuple[int, ...]) -> Trie:
    """The trie from its stored arrays: suffixes and states are worked out here. Shapes as in `Trie`."""
    contexts = len(backoff)
    starts = np.concatenate([[0], np.cumsum([1, *counts])[: max(2, len(counts))]]).astype(np.int64)
    suffix = np.zeros(contexts, np.int32)
    state = np.zeros(contexts, np.int32)
    _link(first, word, backoff, starts, suffix, state)
    return Trie(first, word, log_prob, backoff, suffix, state, counts)


def build(levels: list[Level], vocabulary: int) -> Trie:
    """The trie of n-grams of order 1, 2, ...; `vocabulary` is the number of words, specials among them.

    Every word must have a unigram. Raises:
        DecoderError: an n-gram listed twice, or one whose history is not listed.
    """
    firsts, words, log_probs, backoffs = [np.ones(1, np.int64)], [np.full(1, -1)], [np.zeros(1)], [np.zeros(1)]
    keys: list[NDArray[np.int64]] = []  # of each order: parent * vocabulary + word, sorted
    starts = [1]
    for index, level in enumerate(levels):
        parent = np.zeros(len(level.words), np.int64)
        for depth in range(index):
            wanted = parent * vocabulary + level.words[:, depth]
            place = np.searchsorted(keys[depth], wanted)
            clipped = np.minimum(place, len(keys[depth]) - 1)
            missing = keys[depth][clipped] != wanted if len(keys[depth]) else np.ones(len(wanted), bool)
            if missing.any():
                raise DecoderError(
                    f"{_at(level, int(np.argmax(missing)))}an n-gram of {index + 1} words follows a history of "
                    f"{depth + 1} that is not listed",
                    "every history to be an n-gram itself",
                    "Make the model again.",
                )
            parent = starts[depth] + place
        key = parent * vocabulary + level.words[:, index]
        order = np.argsort(key, kind="stable")
        key = key[order]
        if (key[1:] == key[:-1]).any():
            twice = int(order[1:][np.argmax(key[1:] == key[:-1])])
            raise DecoderError(f"{_at(level, twice)}an n-gram is listed twice", "each once", "Make the model again.")
        if index:  # children of the nodes of the order before
            above = np.arange(starts[index - 1], starts[index])
            firsts.append(starts[index] + np.searchsorted(parent[order], above))
        keys.append(key)
        starts.append(starts[-1] + len(key))
        words.append(level.words[order, index])
        log_probs.append(level.log_prob[order])
        backoffs.append(level.backoff[order])
    first = np.concatenate([*firsts, [starts[-1]]]).astype(np.int32)
    contexts = len(first) - 1
    return link(
        first,
        np.concatenate(words).astype(np.int32),
        np.concatenate(log_probs).astype(np.float32),
        np.concatenate(backoffs).astype(np.float32)[:contexts],
        tuple(len(level.words) for level in levels),
    )


def ngrams(trie: Trie) -> list[Level]:
    """The n-grams again, order by order, sorted by their words."""
    levels: list[Level] = []
    starts = np.cumsum([1, *trie.counts])
    contexts = len(trie.backoff)
    rows: NDArray[np.int64] = np.zeros((1, 0), np.int64)
    above = 0
    for index, count in enumerate(trie.counts):
        start = int(starts[index])
        children = np.diff(trie.first[above : start + 1]) if index else np.array([count])
        word = trie.word[start : start + count].astype(np.int64)
        rows = np.concatenate([np.repeat(rows, children, 0), word[:, None]], 1)
        backoff = np.zeros(count)
        if start < contexts:
            backoff[:] = trie.backoff[start : start + count]
        log_prob = trie.log_prob[start : start + count].astype(np.float64)
        levels.append(Level(rows, log_prob, backoff, np.zeros(0, np.int64)))
        above = start
    return levels


def renumber(numbers: dict[bytes, int], levels: list[Level]) -> tuple[list[str], list[Level]]:
    """Give the special words their numbers, and the words theirs after them; add the specials that are not listed.

    `<unk>` (or `<UNK>`) that is not listed gets the probability of the rarest word; `<s>` and `</s>` that are not
    listed are never predicted.
    """
    special = {b"<unk>": UNKNOWN, b"<UNK>": UNKNOWN, b"<s>": START, b"<S>": START, b"</s>": END, b"</S>": END}
    words = list(SPECIALS)
    new = np.zeros(len(numbers), np.int64)
    for word, number in numbers.items():
        new[number] = special.get(word, len(words))
        if word not in special:
            words.append(word.decode("utf-8", "replace"))
    levels = [level._replace(words=new[level.words]) for level in levels]
    unigrams = levels[0]
    rarest = float(unigrams.log_prob[unigrams.words[:, 0] > END].min(initial=0.0))
    for missing, log_prob in ((UNKNOWN, rarest), (START, NEVER), (END, NEVER)):
        if missing not in unigrams.words[:, 0]:
            row = Level(np.full((1, 1), missing), np.array([log_prob]), np.zeros(1), np.array([0]))
            unigrams = Level(*(np.concatenate(pair) for pair in zip(unigrams, row, strict=True)))
    return words, [unigrams, *levels[1:]]


def _at(level: Level, row: int) -> str:
    return f"line {int(level.line[row])}: " if len(level.line) else ""
