"""Word n-gram language model for the beam.

`LanguageModel.load` reads the small format, ARPA text and KenLM binary files. Its `tables` is one NamedTuple of
contiguous arrays, passed to compiled code and asked there:

    from streamasr.lm import child, score, score_unknown, word_at

    state = tables.start                            # the history <s>; one integer, as every history
    node = 0                                        # the empty prefix of a word
    node = child(tables, node, token)               # token 2..28; -1: no word begins so, and it stays -1
    tables.trie_best[node]                          # look-ahead: best unigram of the words below, if node >= 0
    word = word_at(tables, node)                    # number of the word that ends here, or -1
    gained, state = score(tables, state, word)      # log p(word | state), and the history after it
    gained, state = score_unknown(tables, state, n) # a word of n letters that is not in the vocabulary
    gained, _ = score(tables, state, END)           # the end of the sentence

Every log-probability is natural. A history is the longest one the model knows, so equal histories are equal integers;
`score` costs a binary search for each order it backs off. The empty history is 0, for text that begins anywhere.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from streamasr.arpa import read_arpa, write_arpa
from streamasr.compiled import shared
from streamasr.errors import BundleError
from streamasr.kenlm_file import MAGIC, read_kenlm
from streamasr.lexicon import descend, spell
from streamasr.lm_file import Stored, read_small, write_small
from streamasr.ngram import END, SPECIALS, START, UNKNOWN, Trie, build, find, ngrams
from streamasr.rare_words import FILE as RARE_FILE
from streamasr.rare_words import NONE as NO_RARE_WORDS
from streamasr.rare_words import RareWords, read_rare, write_rare
from streamasr.rnn_lm import RnnLm, read_rnn

__all__ = [
    "END",
    "START",
    "UNKNOWN",
    "LanguageModel",
    "LmTables",
    "Perplexity",
    "child",
    "score",
    "score_unknown",
    "word_at",
]

UNKNOWN_PER_LETTER = -2.0


class LmTables(NamedTuple):
    """What the beam reads: the n-gram trie (`ngram.Trie`), the lexicon (`lexicon.Lexicon`), rare words and numbers."""

    first: NDArray[np.int32]  # (contexts + 1,)
    word: NDArray[np.int32]  # (nodes,)
    log_prob: NDArray[np.float32]  # (nodes,)
    backoff: NDArray[np.float32]  # (contexts,)
    suffix: NDArray[np.int32]  # (contexts,)
    state: NDArray[np.int32]  # (contexts,) or -1
    trie_mask: NDArray[np.uint32]  # (trie nodes,)
    trie_first: NDArray[np.int32]  # (trie nodes,)
    trie_word: NDArray[np.int32]  # (trie nodes,)
    trie_best: NDArray[np.float32]  # (trie nodes,)
    start: int  # the history after <s>
    known: int  # words that n-grams know; those after them are rare ones
    rare: NDArray[np.float32]  # (rare words,) log-share of each of the unknown word's probability
    unknown_per_letter: float  # added to log p(<unk>) for each letter of an unknown word


class Perplexity(NamedTuple):
    """`words`: known words and ends of sentences that were scored; `unknown`: words that were not."""

    perplexity: float
    words: int
    unknown: int
    log_prob: float


@shared
def score(tables: LmTables, state: int, word: int) -> tuple[float, int]:
    """log p(word | state) and the history after the word; `word` is any number from 0 (unknown) on."""
    total = 0.0
    if word >= tables.known:
        total = np.float64(tables.rare[word - tables.known])
        word = np.int64(0)
    node = state
    found = find(tables.first, tables.word, node, word)
    while found < 0:
        total += tables.backoff[node]
        node = tables.suffix[node]
        found = find(tables.first, tables.word, node, word)
    total += tables.log_prob[found]
    while found >= tables.state.shape[0] or tables.state[found] < 0:  # nothing follows it: its suffix is the history
        if node == 0:
            return total, 0
        node = tables.suffix[node]
        shorter = find(tables.first, tables.word, node, word)
        if shorter >= 0:
            found = shorter
    return total, np.int64(tables.state[found])


@shared
def score_unknown(tables: LmTables, state: int, letters: int) -> tuple[float, int]:
    """The price of a word of that many letters that is not in the vocabulary, and the history after it."""
    price, after = score(tables, state, 0)
    return price + tables.unknown_per_letter * letters, after


@shared
def child(tables: LmTables, node: int, token: int) -> int:
    """The node of the prefix one letter longer, or -1; `token` as the acoustic model numbers characters (1..28)."""
    return descend(tables.trie_mask, tables.trie_first, node, token)


@shared
def word_at(tables: LmTables, node: int) -> int:
    """The number of the word that ends at this node of the lexicon, or -1 (also for a `node` of -1)."""
    if node < 0:
        return -1
    return int(tables.trie_word[node])


@njit(cache=True)
def _score_all(tables: LmTables, words: NDArray[np.int64]) -> NDArray[np.float64]:
    """log p of each word after those before it; a <s> among them begins a sentence and scores 0."""
    scores = np.zeros(words.shape[0])
    state = tables.start
    for i in range(words.shape[0]):
        if words[i] == 1:
            state = tables.start
        else:
            scores[i], state = score(tables, state, words[i])
    return scores


class LanguageModel:
    """A word n-gram model: `words[n]` is word number n, `order` the length of its longest n-grams.

    Args:
        words: those that n-grams know.
        rnn: a recurrent model that the beam mixes in, or None.
        rare: more words, for which n-grams have their unknown one; in `words` they follow the others.
    """

    def __init__(
        self,
        words: Sequence[str],
        trie: Trie,
        unknown_per_letter: float = UNKNOWN_PER_LETTER,
        about: dict[str, Any] | None = None,
        rnn: RnnLm | None = None,
        rare: RareWords = NO_RARE_WORDS,
    ) -> None:
        self.rnn, self.rare = rnn, rare
        self.words, self.counts, self.order, self.about = (
            (*words, *rare.words),
            trie.counts,
            len(trie.counts),
            about or {},
        )
        self.trie = trie
        own = trie.log_prob[1 : 1 + len(words)]
        self.unigrams = np.concatenate([own, own[UNKNOWN] + rare.log_share])  # (words,) log p without a history
        lexicon = spell(list(self.words), self.unigrams, len(SPECIALS))
        start = int(trie.state[1 + START]) if self.order > 1 else 0
        self.tables = LmTables(*trie[:6], *lexicon, start, len(words), rare.log_share, float(unknown_per_letter))

    @classmethod
    def load(cls, path: str | Path) -> LanguageModel:
        """Read a folder of the small format, or a file of ARPA text (also .gz, .xz) or KenLM binary.

        Raises:
            BundleError: nothing is there, or it cannot be read. ChecksumError: it differs from its checksum.
            DecoderError: a malformed or cut-short ARPA file (with its line), or a KenLM file that is not read.
        """
        path = Path(path)
        try:
            if path.is_dir():
                stored = read_small(path)
                beside = read_rnn(path), read_rare(path)
                return cls(stored.words, stored.trie, stored.unknown_per_letter, stored.about, *beside)
            with path.open("rb") as file:
                binary = file.read(len(MAGIC)) == MAGIC
            words, levels = read_kenlm(path) if binary else read_arpa(path)
            return cls(words, build(levels, len(words)))
        except FileNotFoundError as error:
            raise BundleError(
                f"there is no language model at {error.filename or path}", "", "Check the path."
            ) from error
        except OSError as error:
            raise BundleError(f"{path} cannot be read: {error.strerror or error}", "", "Check the path.") from error

    def save(self, folder: str | Path, about: dict[str, Any] | None = None) -> None:
        """Write the small format, but for the recurrent model; `about`: how and from what it was made."""
        about = self.about if about is None else about
        if not self.rare.words:
            (Path(folder) / RARE_FILE).unlink(missing_ok=True)
        known = list(self.words[: self.tables.known])
        write_small(Path(folder), Stored(known, self.trie, self.tables.unknown_per_letter, about))
        if self.rare.words:
            write_rare(Path(folder), self.rare)

    def save_arpa(self, path: str | Path) -> None:
        """Write the n-grams as ARPA text."""
        write_arpa(Path(path), self.words[: self.tables.known], ngrams(self.trie))

    def word_id(self, word: str) -> int:
        """The number of a word, or `UNKNOWN`."""
        return self._numbers.get(word, UNKNOWN)

    def log_prob(self, sentence: str) -> float:
        """log p of a sentence and its end, words apart by spaces; an unknown word costs as in `score_unknown`."""
        words = sentence.split()
        total = float(_score_all(self.tables, self._number([sentence])).sum())
        letters = sum(len(word) for word in words if self.word_id(word) == UNKNOWN)
        return total + self.tables.unknown_per_letter * letters

    def perplexity(self, sentences: Iterable[str]) -> Perplexity:
        """Perplexity over known words and ends of sentences, as SRILM and KenLM count it without unknown words."""
        numbers = self._number(sentences)
        scores = _score_all(self.tables, numbers)
        unknown = numbers == UNKNOWN
        scored = ~unknown & (numbers != START)
        count, total = int(scored.sum()), float(scores[scored].sum())
        return Perplexity(math.exp(-total / max(1, count)), count, int(unknown.sum()), total)

    @functools.cached_property
    def _numbers(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.words) if number >= len(SPECIALS)}

    def _number(self, sentences: Iterable[str]) -> NDArray[np.int64]:
        numbers: list[int] = []
        for sentence in sentences:
            numbers += [START, *(self._numbers.get(word, UNKNOWN) for word in sentence.split()), END]
        return np.array(numbers, np.int64)
