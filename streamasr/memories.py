"""What the recurrent language model remembers of the histories in a beam: worked out when it is first asked for.

A memory belongs to a text that ends in a space. The nodes whose word grows after that text hold it; it is given back
when the last of them is gone. One that nobody has asked for knows only the memory before it, which it holds, and the
last word.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamasr.compiled import inner
from streamasr.dense_cpu import laid_out
from streamasr.lm import LanguageModel
from streamasr.lstm_cpu import advance, advance_by_part, product_of
from streamasr.ngram import SPECIALS, START, UNKNOWN
from streamasr.tree import BEFORE, HEARD, READY, Arrays, drop

Floats = NDArray[np.float32]
FREQUENT = 4096  # words whose part in the gates is worked out once
UNASKED = 5  # memories in a row that wait to be worked out, beside the last one


class RnnTables(NamedTuple):
    """A `RnnLm` as compiled code reads it; arrays of length 0 where there is none."""

    number: NDArray[np.int32]  # (N,) of the n-grams' words in the recurrent model
    share: Floats  # (N,) log-share of what the recurrent model calls unknown, 0 for the words that it knows
    embedding: NDArray[np.int8]  # (V, D)
    scale: Floats  # (V,)
    bias: Floats  # (V,)
    place: NDArray[np.int32]  # (V,) in `parts`, or -1
    parts: Floats  # (N, 4 H) what the most frequent words add to the gates, the bias included
    inputs: NDArray[Any]  # (D, 4 H), laid out: of the gates
    back: NDArray[Any]  # (H, 4 H), laid out: of the gates
    gates_scale: Floats  # (4 H,)
    gates_bias: Floats  # (4 H,)
    out: NDArray[Any]  # (H, D), laid out
    out_scale: Floats  # (D,)
    out_bias: Floats  # (D,)


@functools.lru_cache(maxsize=4)
def tables(lm: LanguageModel | None) -> RnnTables:
    """The recurrent model of a language model, laid out; empty where there is none."""
    if lm is None or lm.rnn is None:
        none, nothing = np.zeros(0, np.float32), laid_out(np.zeros((1, 1), np.int8))
        number, rows = np.zeros(0, np.int32), np.zeros((0, 0), np.float32)
        vectors = np.zeros((0, 0), np.int8)
        gates = nothing, nothing, none, none
        return RnnTables(number, none, vectors, none, none, number, rows, *gates, nothing, none, none)
    rnn, words = lm.rnn, lm.words
    known = {word: at for at, word in enumerate(rnn.words) if at >= len(SPECIALS)}
    number = np.array([at if at < len(SPECIALS) else known.get(word, UNKNOWN) for at, word in enumerate(words)])
    unigrams = np.exp(lm.unigrams.astype(np.float64))
    beyond = number == UNKNOWN
    beyond[: len(SPECIALS)] = False
    share = np.zeros(len(words), np.float32)
    share[beyond] = np.log(unigrams[beyond] / max(unigrams[beyond].sum(), 1e-30))
    size = rnn.embedding.shape[1]
    frequent = np.argsort(-rnn.bias, kind="stable")[:FREQUENT]  # biases follow the words' shares
    place = np.full(len(rnn.words), -1, np.int32)
    place[frequent] = np.arange(len(frequent))
    rows = rnn.embedding[frequent] * rnn.scale[frequent, None]
    parts = rows @ (rnn.gates[:, :size] * rnn.gates_scale[:, None]).T + rnn.gates_bias
    matrices = rnn.gates[:, :size], rnn.gates[:, size:], rnn.out
    inputs, back, out = (laid_out(np.ascontiguousarray(matrix.T)) for matrix in matrices)
    words_and_biases = rnn.embedding, rnn.scale, rnn.bias, place, parts.astype(np.float32)
    all_matrices = inputs, back, rnn.gates_scale, rnn.gates_bias, out, rnn.out_scale, rnn.out_bias
    return RnnTables(number.astype(np.int32), share, *words_and_biases, *all_matrices)


def row_size(rnn: RnnTables) -> int:
    """Numbers of one memory: hidden and cell state, and the vector that words are multiplied with."""
    return len(rnn.gates_bias) // 2 + int(rnn.embedding.shape[1])


def first(r: RnnTables) -> Floats:
    """The memory of a text that is about to begin."""
    memory = np.zeros(row_size(r), np.float32)
    if len(memory):
        matrices = r.inputs, r.back, r.gates_scale, r.gates_bias, r.out, r.out_scale, r.out_bias
        advance(r.embedding[START], r.scale[START], np.zeros_like(memory), *matrices, memory)
    return memory


@inner
def _recall(s: Arrays, r: RnnTables, wanted: int) -> None:
    """Work a memory out, and those before it that it needs."""
    while s.slots[wanted, READY] == 0:
        at = np.int64(wanted)
        while s.slots[s.slots[at, BEFORE], READY] == 0:
            at = np.int64(s.slots[at, BEFORE])
        before, heard = np.int64(s.slots[at, BEFORE]), s.slots[at, HEARD]
        out = (r.out, r.out_scale, r.out_bias)
        if r.place[heard] >= 0:
            part = r.parts[r.place[heard]]
            advance_by_part(part, s.memories[before], r.back, r.gates_scale, *out, s.memories[at])
        else:
            gates = (r.inputs, r.back, r.gates_scale, r.gates_bias)
            advance(r.embedding[heard], r.scale[heard], s.memories[before], *gates, *out, s.memories[at])
        s.slots[at, READY], s.slots[at, BEFORE] = 1, -1
        drop(s, before)


@inner
def settle(s: Arrays, r: RnnTables, slot: int) -> None:
    """Work out what `slot` needs, so that there are never more than UNASKED before it that nobody has asked for.

    Most hypotheses leave the beam before the recurrent model is asked about them.
    """
    at = np.int64(slot)
    for _ in range(UNASKED):
        if s.slots[at, READY] == 1:
            return
        at = np.int64(s.slots[at, BEFORE])
    _recall(s, r, at)


@inner
def log_prob(s: Arrays, r: RnnTables, slot: int, word: int) -> float:
    """log p of a word, as the n-grams number it, after the text whose memory is `slot`."""
    _recall(s, r, slot)
    number = r.number[word]
    vector = s.memories[slot][s.memories.shape[1] - r.embedding.shape[1] :]
    logit = product_of(vector, r.embedding[number]) * r.scale[number] + r.bias[number]
    return min(np.float64(logit), 0.0) + r.share[word]  # type: ignore[no-any-return]


@inner
def mixed(rnn: float, ngrams: float, share: float) -> float:
    """log of the mean of two probabilities, given by their logs; `share` is the weight of the first."""
    high, low = max(rnn, ngrams), min(rnn, ngrams)
    first = share if rnn >= ngrams else 1.0 - share
    return high + math.log(first + (1.0 - first) * math.exp(low - high))
