"""What language model and hotwords add to the log-score of a prefix when it grows by one token.

A finished word gains alpha * log P(word | history) + beta. A growing one is charged in advance the best unigram that
begins with its letters (look-ahead, Ortmanns et al. 1996), which the word's end takes back; an unknown one pays by the
letter. How often a letter follows the one before it the network has learnt, too, and a share of that is given back (the
internal language model: McDermott et al., "A Density Ratio Approach to Language Model Fusion in End-to-End Automatic
Speech Recognition", 2019). Hotwords add what `hotwords` says. Gains depend on the prefix alone, so equal prefixes may
still be merged.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamasr.compiled import inner
from streamasr.lm import LmTables, child, score, score_unknown, word_at
from streamasr.memories import RnnTables, log_prob, mixed, settle
from streamasr.ngram import UNKNOWN
from streamasr.tree import (
    AFTER,
    ENDING,
    FACTOR,
    HISTORY,
    HOLDERS,
    LEAP,
    LETTERS,
    MEMORY,
    NGRAMS,
    PENDING,
    PHRASE,
    RISE,
    TOKEN,
    UNKNOWN_YET,
    WORD,
    Arrays,
    remember,
)


class Models(NamedTuple):
    """The language model and the hotwords, see `lm` and `hotwords`; arrays of length 0 where there is none."""

    space: int
    alpha: float
    beta: float
    unknown: float  # log P of an unknown word of no letters
    rise: float  # the most that hotwords can gain by one token
    following: NDArray[np.int32]  # (S, V)
    pending: NDArray[np.float64]  # (S,)
    paid: NDArray[np.float64]  # (S,)
    lm: LmTables
    share: float  # of the recurrent language model in a word's probability
    trust: float  # log-share of the best that a prefix needs for that model to be asked
    rnn: RnnTables
    pairs: NDArray[np.float64]  # (V, V) what a token gains after another; the space begins a text, too
    most: NDArray[np.float64]  # (V,) the most that a letter gains after each token


@inner
def _before(s: Arrays, m: Models, node: int) -> int:
    """The token that a letter follows: where no letter of its word is there yet, the space."""
    return s.nodes[node, TOKEN] if s.nodes[node, LETTERS] > 0 else m.space


@inner
def _pending(m: Models, word: int, letters: int) -> float:
    if word >= 0:
        return m.alpha * m.lm.trie_best[word]  # type: ignore[no-any-return]
    return m.alpha * (m.unknown + m.lm.unknown_per_letter * letters)


@inner
def ending(s: Arrays, m: Models, node: int, least: float) -> float:
    """The language model's log-gain where the word of `node` ends.

    Where the n-grams give less than `least`, the recurrent model is not asked.
    """
    if m.lm.trie_best.shape[0] == 0:
        return 0.0
    values, fields = s.values[node], s.nodes[node]
    if values[ENDING] != UNKNOWN_YET:
        return values[ENDING]  # type: ignore[no-any-return]
    if fields[LETTERS] == 0:
        fields[AFTER] = fields[HISTORY]
        values[ENDING] = 0.0
        return 0.0
    word = word_at(m.lm, fields[WORD])
    if values[NGRAMS] == UNKNOWN_YET:
        if word >= 0:
            values[NGRAMS], after = score(m.lm, fields[HISTORY], word)
        else:
            values[NGRAMS], after = score_unknown(m.lm, fields[HISTORY], fields[LETTERS])
        fields[AFTER] = after
    gained = values[NGRAMS]
    if word >= 0 and fields[MEMORY] >= 0:
        likely = m.alpha * gained + m.beta - values[PENDING]
        if likely < least:
            return likely  # type: ignore[no-any-return]
        gained = mixed(log_prob(s, m.rnn, np.int64(fields[MEMORY]), word), gained, m.share)
    values[ENDING] = m.alpha * gained + m.beta - values[PENDING]
    return values[ENDING]  # type: ignore[no-any-return]


@inner
def gain(s: Arrays, m: Models, node: int, token: int, least: float) -> float:
    """The log-gain of the prefix `node` where `token` follows; `least`: as in `ending`."""
    gained = 0.0
    if m.lm.trie_best.shape[0] > 0:
        if token == m.space:
            gained = ending(s, m, node, least - m.rise)
        else:
            fields = s.nodes[node]
            longer = _pending(m, child(m.lm, fields[WORD], token), fields[LETTERS] + 1)
            gained = longer - s.values[node, PENDING]
        if m.pairs.shape[0] > 0:
            gained += m.pairs[_before(s, m, node), token]
    if m.following.shape[0] > 0:
        now = s.nodes[node, PHRASE]
        then = m.following[now, token]
        gained += m.paid[then] + m.pending[then] - m.pending[now]
    return gained


@inner
def parting(s: Arrays, m: Models, node: int, least: float) -> float:
    """The log-gain where the text ends after the prefix `node`: words end, and phrases that have begun are given up.

    `least`: as in `ending`.
    """
    gained = ending(s, m, node, least - m.rise)
    if m.following.shape[0] > 0:
        now = s.nodes[node, PHRASE]
        gained += m.paid[m.following[now, m.space]] - m.pending[now]
    return gained


@inner
def _held(s: Arrays, m: Models, parent: int, token: int) -> int:
    """The slot that the child of `parent` holds."""
    slot = np.int64(s.nodes[parent, MEMORY])
    if slot >= 0 and token == m.space and s.nodes[parent, LETTERS] > 0:
        word = word_at(m.lm, s.nodes[parent, WORD])
        settle(s, m.rnn, slot)
        return remember(s, slot, m.rnn.number[word] if word >= 0 else UNKNOWN)
    if slot >= 0:
        s.slots[slot, HOLDERS] += 1
    return slot  # type: ignore[no-any-return]


@inner
def inherit(s: Arrays, m: Models, parent: int, node: int, token: int, factor: float) -> None:
    """Fill in the scores of the new child `node` of `parent`, which gained `factor`."""
    old, new, values = s.nodes[parent], s.nodes[node], s.values[node]
    values[FACTOR], values[RISE], values[LEAP] = 1.0, 1.0, 1.0
    known, listed = m.lm.trie_best.shape[0] > 0, m.following.shape[0] > 0
    if not known and not listed:
        return
    values[FACTOR] = factor
    values[PENDING], values[ENDING], values[NGRAMS] = 0.0, UNKNOWN_YET, UNKNOWN_YET
    rise, leap = 0.0, 0.0
    if known:
        if token == m.space:
            new[HISTORY], new[WORD], new[LETTERS] = old[AFTER], 0, 0
        else:
            new[HISTORY], new[WORD], new[LETTERS] = old[HISTORY], child(m.lm, old[WORD], token), old[LETTERS] + 1
            values[PENDING] = _pending(m, new[WORD], new[LETTERS])
            rise = max(0.0, _pending(m, -1, new[LETTERS] + 1) - values[PENDING])
            leap = max(0.0, m.beta - values[PENDING])
        if m.pairs.shape[0] > 0:
            before = _before(s, m, node)
            rise, leap = rise + m.most[before], leap + m.pairs[before, m.space]
        new[MEMORY] = _held(s, m, parent, token)
    if listed:
        new[PHRASE] = m.following[old[PHRASE], token]
        rise, leap = rise + m.rise, leap + m.rise
    values[RISE], values[LEAP] = np.exp(rise), np.exp(leap)
