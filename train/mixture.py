"""Several n-gram models made one, and that one made small.

`mix` interpolates models of the same vocabulary into one back-off model over all their n-grams. `Mixture.prune` drops
the n-grams that it costs least to leave to back-off (Stolcke, "Entropy-based pruning of backoff language models",
1998). How often a history occurs it takes from the text: the lower orders of a Kneser-Ney model do not say (Chelba et
al., "Study on interaction between entropy pruning and Kneser-Ney smoothing", 2010). `Mixture.levels` rounds the
probabilities as the file will store them, and only then works out the back-off weights.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamasr.lm_file import code_book, quantise
from streamasr.ngram import NEVER, START, Level
from train.kneser_ney import Doubles, Grams, Keys, unpack

_TINY = 1e-9


class Rows(NamedTuple):
    """The n-grams of one order, all `(rows,)`. For order 1 `history` and `shorter` are 0."""

    keys: Keys
    prob: Doubles
    share: Doubles  # how often the n-gram occurs
    kept: NDArray[np.bool_]
    history: NDArray[np.int32]  # row of the words before the last, in the order below
    shorter: NDArray[np.int32]  # row of the words after the first, in the order below


class Mixture(NamedTuple):
    """A model of all orders, `rows[0]` the words."""

    rows: list[Rows]
    bits: int

    def backoffs(self, probs: list[Doubles] | None = None) -> list[Doubles]:
        """The weight of the shorter histories after each n-gram, so that probabilities add to one.

        `probs` replaces the probabilities; a history then keeps between half and twice its mass for back-off.
        """
        exact = self.backoffs() if probs is not None else None
        given = probs or [row.prob for row in self.rows]
        backed = given[0]  # p of each n-gram of the order below, by back-off where it is dropped
        found: list[Doubles] = []
        for n, row in enumerate(self.rows[1:], 1):
            below = len(self.rows[n - 1].keys)
            history, shorter = row.history[row.kept], row.shorter[row.kept]
            left = 1 - np.bincount(history, given[n][row.kept], below)
            lower = np.maximum(1 - np.bincount(history, backed[shorter], below), _TINY)
            weight = np.maximum(left, _TINY) / lower
            weight[np.bincount(history, minlength=below) == 0] = 1
            if exact is not None:
                weight = np.clip(weight, 0.5 * exact[n - 1], 2 * exact[n - 1])
            found.append(weight)
            backed = np.where(row.kept, given[n], weight[row.history] * backed[row.shorter])
        return [*found, np.ones(len(self.rows[-1].keys))]

    def prune(self, threshold: float) -> Mixture:
        """Drop n-grams whose loss raises the perplexity by less than the fraction `threshold`."""
        backoffs = self.backoffs()
        rows = list(self.rows)
        for n in range(len(rows) - 1, 0, -1):
            row, below = rows[n], rows[n - 1]
            # log p(w|h) becomes log a' p(w|h'), and the rest of the history's words go from weight a to a'
            lower = below.prob[row.shorter]
            size = len(below.keys)
            left = np.maximum(1 - np.bincount(row.history, row.prob * row.kept, size), _TINY)
            left_lower = np.maximum(1 - np.bincount(row.history, lower * row.kept, size), _TINY)
            old = np.log(backoffs[n - 1])[row.history]
            new = np.log((left[row.history] + row.prob) / (left_lower[row.history] + lower))
            loss = row.prob * (np.log(lower) + new - np.log(row.prob)) + left[row.history] * (new - old)
            kept = row.kept & (np.expm1(-below.share[row.history] * loss) >= threshold)
            if n + 1 < len(rows):
                kept[rows[n + 1].history[rows[n + 1].kept]] = True
            rows[n] = row._replace(kept=kept)
        return Mixture(rows, self.bits)

    def levels(self) -> list[Level]:
        """The n-grams that are kept, with probabilities that an 8-bit code book holds."""
        probs = [self.rows[0].prob]
        for row in self.rows[1:]:
            exact = np.log(row.prob)
            book = code_book(exact[row.kept])
            probs.append(np.exp(book[quantise(exact, book)].astype(np.float64)))
        backoffs = self.backoffs(probs)
        levels: list[Level] = []
        for order, (row, prob, backoff) in enumerate(zip(self.rows, probs, backoffs, strict=True), 1):
            with np.errstate(divide="ignore"):
                log_prob = np.maximum(np.log(prob[row.kept]), NEVER)
            none = np.zeros(0, np.int64)
            levels.append(
                Level(unpack(row.keys[row.kept], order, self.bits), log_prob, np.log(backoff[row.kept]), none)
            )
        return levels


def mix(models: list[list[Grams]], weights: list[float], bits: int) -> Mixture:
    """Interpolate: p(w|h) is the mean of the models' by their `weights`, times how often each has seen h.

    So the model that knows a history speaks for it (Allauzen and Riley, "Bayesian language model interpolation for
    mobile speech input", 2011). A single model comes out as it went in.
    """
    rows: list[Rows] = []
    probs: list[Doubles] = []  # of each model, for the n-grams of the order below
    backs: list[Doubles] = []
    trust = np.array(weights)[:, None] / sum(weights)  # (models, rows of the order below)
    for n in range(len(models[0])):
        keys = models[0][n].keys
        for model in models[1:]:
            keys = np.union1d(keys, model[n].keys)
        places = [np.searchsorted(keys, model[n].keys) for model in models]
        if n == 0:
            history = shorter = np.zeros(len(keys), np.int32)
            now = [model[0].prob for model in models]
            prob = sum(weight * one for weight, one in zip(trust[:, 0], now, strict=True))
        else:
            below = rows[-1].keys
            history = np.searchsorted(below, keys >> np.uint64(bits)).astype(np.int32)
            shorter = np.searchsorted(below, keys & np.uint64((1 << (bits * n)) - 1)).astype(np.int32)
            now = []
            for model, place, before, back in zip(models, places, probs, backs, strict=True):
                one = back[history] * before[shorter]
                one[place] = model[n].prob
                now.append(one)
            prob = np.zeros(len(keys))
            for weight, one in zip(trust, now, strict=True):
                prob += weight[history] * one
        shares = np.zeros((len(models), len(keys)))
        backs = [np.ones(len(keys)) for _ in models]
        for model, place, share, back in zip(models, places, shares, backs, strict=True):
            share[place] = model[n].share
            back[place] = model[n].backoff
        share = (np.array(weights) / sum(weights)) @ shares
        rows.append(Rows(keys, prob, share, np.ones(len(keys), bool), history, shorter))
        probs = now
        trust = np.array(weights)[:, None] * shares + 1e-12
        trust /= trust.sum(0)
    assert rows[0].prob[START] == 0
    return Mixture(rows, bits)
