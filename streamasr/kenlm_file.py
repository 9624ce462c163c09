"""KenLM binary files, version 5: tries of every kind, and probing hash tables (not those with rest costs).

Layout as the sources of KenLM define it (github.com/kpu/kenlm, lm/binary_format.cc, trie.cc, bhiksha.cc, quantize.cc,
search_hashed.cc). A file is a header, the hashed vocabulary, the n-grams and the words. The n-grams are kept last word
first: node "c b" holds log10 p(c | b) and the back-off after "b c".

A trie is read level by level. A probing table holds 64-bit hashes only; its n-grams are found again by hashing those
that may exist: every n-gram that is listed extends one that is listed to the left, by a word that some listed history
begins with. All of the table must be found. That takes seconds for small models and is refused for very large ones.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from streamasr.errors import DecoderError
from streamasr.ngram import LN10, LONGEST, Level, renumber

MAGIC = b"mmap lm http://kheafield.com/code"
_VERSION_5 = MAGIC + b" format version 5\n\0\0"
_PROBING, _TRIE, _QUANTISED, _ARRAY, _BOTH = 0, 2, 3, 4, 5
_KINDS = (_PROBING, _TRIE, _QUANTISED, _ARRAY, _BOTH)
_MISSING = -100.0  # log10 p that build_binary gives to <unk> where the ARPA file has none
_MOST_TRIALS = 300_000_000_000  # about half an hour

Bytes = NDArray[np.uint8]
Hashes = NDArray[np.uint64]
Rows = NDArray[np.int64]


class _Header(NamedTuple):
    kind: int
    multiplier: float
    counts: list[int]  # as the ARPA file gives them, except that <unk> may be one more word
    words: int
    size: int


def read_kenlm(path: Path) -> tuple[list[str], list[Level]]:
    """The words, numbered as in `ngram`, and the n-grams of each order.

    Raises:
        DecoderError: a file that is cut short, of another version, without its words, or too large to search.
        OSError: it cannot be read.
    """
    data = np.fromfile(path, np.uint8)
    try:
        header = _read_header(path, data)
        if header.kind == _PROBING:
            levels, end = _read_probing(path, data, header)
        else:
            levels, end = _read_trie(data, header)
        words = data[end:].tobytes().split(b"\0")
        if len(words) != header.words + 1 or words[0] != b"<unk>" or words.pop():
            raise ValueError("its words are not where they should be")
        if levels[0].log_prob[0] == _MISSING * LN10:  # then `renumber` adds it, as for an ARPA file without it
            words_of, log_prob, backoff, line = levels[0]
            levels[0] = Level(words_of[1:], log_prob[1:], backoff[1:], line)
        return renumber({word: number for number, word in enumerate(words)}, levels)
    except (ValueError, IndexError, OverflowError) as error:
        raise _bad(path, f"is cut short or damaged ({error})") from error


def _bad(path: Path, what: str, advice: str = "Load the ARPA file it was made from.") -> DecoderError:
    return DecoderError(f"{path} {what}", "a KenLM binary file of version 5 with its words", advice)


def _read_header(path: Path, data: Bytes) -> _Header:
    sanity = -(-len(_VERSION_5) // 8) * 8
    start = sanity + 32
    numbers = np.array([0, 1, -0.5], np.float32).tobytes() + np.array([1, 2**32 - 1, 0], np.uint32).tobytes()
    if data[: len(_VERSION_5)].tobytes() != _VERSION_5 or data[sanity : sanity + 24].tobytes() != numbers:
        raise _bad(path, "has another version or was made on a machine unlike this one")
    order, has_words = int(data[start]), bool(data[start + 12])
    multiplier = float(data[start + 4 : start + 8].view(np.float32)[0])
    kind, version = (int(data[at : at + 4].view(np.uint32)[0]) for at in (start + 8, start + 16))
    if kind not in _KINDS or version != (0 if kind == _PROBING else 1):
        raise _bad(path, f"has tables of kind {kind}.{version}, which is not read")
    if not 2 <= order <= LONGEST:
        raise _bad(path, f"has n-grams of up to {order} words, at most {LONGEST} are read")
    if not has_words:
        raise _bad(path, "was built without its words")
    counts = data[start + 20 : start + 20 + 8 * order].copy().view(np.uint64)
    if counts.max() > 8 * len(data):
        raise _bad(path, "is cut short or damaged")
    size = -(-(start + 20 + 8 * order) // 8) * 8
    if kind == _PROBING:
        words = int(data[size + 4 : size + 8].view(np.uint32)[0])
    else:
        words = int(data[size : size + 8].view(np.uint64)[0]) + 1
    if words not in (counts[0], counts[0] + 1):
        raise _bad(path, "is cut short or damaged")
    return _Header(kind, multiplier, counts.astype(int).tolist(), words, size)


def _level(words: Rows, log_prob: NDArray[Any], backoff: NDArray[Any]) -> Level:
    """From base 10; the sign of a probability is a flag in some tables."""
    with np.errstate(invalid="ignore"):
        log_prob = np.maximum(-np.abs(log_prob.astype(np.float64)), -1e9) * LN10
        backoff = backoff.astype(np.float64) * LN10
    if np.isnan(log_prob).any() or not (np.abs(backoff) < 1e9).all():
        raise ValueError("a probability is none")
    return Level(words, log_prob, backoff, np.zeros(0, np.int64))


# Tries


class _Bits:
    """Integers and floats at any bit of the data; little end first."""

    def __init__(self, data: Bytes) -> None:
        self.words = np.ndarray((len(data) - 7,), "<u8", data, strides=(1,))

    def integers(self, at: Rows, bits: int) -> NDArray[np.uint64]:
        found: NDArray[np.uint64] = (self.words[at >> 3] >> (at & 7).astype(np.uint64)) & np.uint64((1 << bits) - 1)
        return found

    def floats(self, at: Rows, bits: int = 32) -> NDArray[np.float32]:
        return self.integers(at, bits).astype(np.uint32).view(np.float32)


def _read_trie(data: Bytes, header: _Header) -> tuple[list[Level], int]:
    counts, order = header.counts, len(header.counts)
    at = header.size + 8 + 8 * counts[0]
    prob_bits, backoff_bits, books = 31, 32, []
    if header.kind in (_QUANTISED, _BOTH):  # code books: 8 bytes of header, then those of each order
        prob_bits, backoff_bits = int(data[at + 1]), int(data[at + 2])
        if data[at] != 2 or not (1 <= prob_bits <= 25 and 1 <= backoff_bits <= 25):
            raise ValueError("unknown code books")
        at += 8
        for size in [1 << prob_bits, 1 << backoff_bits] * (order - 2) + [1 << prob_bits]:
            books.append(data[at : at + 4 * size].copy().view(np.float32))
            at += 4 * size
    unigrams = data[at : at + 16 * (counts[0] + 2)].copy().view([("weights", "<f4", 2), ("next", "<u8")])
    at += unigrams.nbytes
    words: Rows = np.arange(header.words)[:, None]
    weights = unigrams["weights"][: header.words]
    levels = [_level(words, weights[:, 0], weights[:, 1])]
    following = unigrams["next"][: header.words + 1].astype(np.int64)
    word_bits = counts[0].bit_length()
    bits = _Bits(data)
    for n, count in enumerate(counts[1:], 2):
        longest = n == order
        next_bits, offsets = 0, np.zeros(1, np.int64)
        if not longest:
            next_bits = counts[n].bit_length()
            if header.kind in (_ARRAY, _BOTH):
                chopped = _chopped(next_bits, counts[n], count + 1, _array_bits(data, at))
                size = (counts[n] >> (next_bits - chopped)) + 1
                next_bits -= chopped
                aligned = -(-(at - header.size) // 8) * 8 + header.size  # the search begins at a multiple of 8
                offsets = data[aligned + 8 : aligned + 8 + 8 * size].copy().view(np.uint64).astype(np.int64)
                at += 8 * (size + 1) + 7
        value_bits = prob_bits + (0 if longest else backoff_bits)
        total = word_bits + value_bits + next_bits
        place = at * 8 + np.arange(count + 1) * total
        at += ((1 + count) * total + 7) // 8 + 8
        if following[0] != 0 or following[-1] != count or (np.diff(following) < 0).any():
            raise ValueError(f"its {n}-grams do not add up")
        word = bits.integers(place[:count], word_bits).astype(np.int64)
        if count and word.max() >= header.words:
            raise ValueError(f"a {n}-gram has a word that is not listed")
        words = np.concatenate([np.repeat(words, np.diff(following), 0), word[:, None]], 1)
        value = place[:count] + word_bits
        if books:
            low = 0 if longest else backoff_bits
            log_prob = books[2 * (n - 2)][bits.integers(value + low, prob_bits).astype(np.int64)]
            backoff = np.zeros(count) if longest else books[2 * n - 3][bits.integers(value, low).astype(np.int64)]
        else:
            log_prob = bits.floats(value, 31)
            backoff = np.zeros(count) if longest else bits.floats(value + 31)
        levels.append(_level(words[:, ::-1], log_prob, backoff))
        if not longest:
            high = np.searchsorted(offsets, np.arange(count + 1), "right") - 1
            following = bits.integers(place + word_bits + value_bits, next_bits).astype(np.int64)
            following += np.maximum(high, 0) << next_bits
    return levels, at


def _array_bits(data: Bytes, at: int) -> int:
    if data[at] != 0:
        raise ValueError("unknown compression of pointers")
    return int(data[at + 1])


def _chopped(required: int, largest: int, rows: int, most: int) -> int:
    """How many high bits of the pointers stand in a table of their own: what takes the least space."""
    change = [(largest >> (required - chop)) * 64 - rows * chop for chop in range(min(required, most) + 1)]
    return int(np.argmin(change))


# Probing hash tables

_NODE, _WORD = np.uint64(8978948897894561157), np.uint64(17894857484156487943)


def _buckets(entries: int, multiplier: float) -> int:
    return max(entries + 1, int(np.float32(multiplier) * np.float32(entries)))


def _read_probing(path: Path, data: Bytes, header: _Header) -> tuple[list[Level], int]:
    counts, order = header.counts, len(header.counts)
    weights = np.dtype([("prob", "<f4"), ("backoff", "<f4")])
    at = header.size + 8 + 12 * _buckets(counts[0], header.multiplier)
    unigrams = data[at : at + weights.itemsize * (counts[0] + 1)].copy().view(weights)[: header.words]
    at += weights.itemsize * (counts[0] + 1)
    words: Rows = np.arange(header.words)[:, None]
    levels = [_level(words, unigrams["prob"], unigrams["backoff"])]
    keys = np.arange(header.words, dtype=np.uint64)  # of the n-grams of the order before
    extends = ~np.signbit(unigrams["prob"])  # to the left
    history = np.zeros(header.words, np.int64)  # row of the n-gram without its last word, in the order before
    shorter = history  # without its first word
    for n, count in enumerate(counts[1:], 2):
        longest = [("key", "<u8"), ("prob", "<f4")]
        entry = np.dtype(longest if n == order else [*longest, ("backoff", "<f4")])
        size = entry.itemsize * _buckets(count, header.multiplier)
        table = data[at : at + size].copy().view(entry)
        at += size
        table = table[table["key"] != 0]
        # n-grams that may be listed: each of the order before that extends to the left, after the first word of each
        # of the same order that ends as it begins
        members = np.argsort(shorter, kind="stable")
        groups = np.searchsorted(shorter[members], np.arange(int(shorter.max(initial=0)) + 2))
        usable = extends & (history < len(groups) - 1)
        group = np.where(usable, history, 0)
        trials = int(np.diff(groups)[group][usable].sum())
        if trials > _MOST_TRIALS:
            raise _bad(
                path,
                "is a probing table too large to search",
                "Load its ARPA file, or make a trie of that: build_binary trie FILE.arpa FILE.binary.",
            )
        first = (words[:, 0].astype(np.uint64) + np.uint64(1)) * _WORD
        sorted_keys = np.argsort(table["key"])
        wanted = np.ascontiguousarray(table["key"][sorted_keys])
        last, before, place = _search(keys, usable, group, groups, members, first, wanted, _sieve(wanted))
        if len(place) != len(table):
            raise _bad(path, f"has {len(table)} {n}-grams, of which {len(place)} are found again")
        table = table[sorted_keys[place]]
        words = np.concatenate([words[before, :1], words[last]], 1)
        backoff = np.zeros(len(table)) if n == order else table["backoff"]
        levels.append(_level(words, table["prob"], backoff))
        keys, extends, history, shorter = wanted[place], ~np.signbit(table["prob"]), before, last
    return levels, at


def _sieve(keys: Hashes) -> Bytes:
    """One bit for each value of the highest bits of a key, 16 bits or more for each key."""
    bits = max(10, (16 * len(keys)).bit_length())
    sieve = np.zeros(1 << bits, bool)
    sieve[(keys >> np.uint64(64 - bits)).astype(np.int64)] = True
    return np.packbits(sieve, bitorder="little")


@njit(cache=True, nogil=True)
def _search(
    keys: Hashes,
    usable: NDArray[np.bool_],
    group: Rows,
    groups: Rows,
    members: Rows,
    first: Hashes,
    wanted: Hashes,
    sieve: Bytes,
) -> tuple[Rows, Rows, Rows]:
    """Rows of the shorter n-gram and of the history of each of the `wanted` keys that is found, and its place."""
    shift = np.uint64(64)
    for _ in range(64):
        if np.uint64(1) << (np.uint64(64) - shift) >= np.uint64(8) * np.uint64(sieve.shape[0]):
            break
        shift -= np.uint64(1)
    last = np.zeros(wanted.shape[0], np.int64)
    before = np.zeros(wanted.shape[0], np.int64)
    place = np.zeros(wanted.shape[0], np.int64)
    starts = first[members]
    found = 0
    for row in range(keys.shape[0]):
        if not usable[row]:
            continue
        base = keys[row] * np.uint64(8978948897894561157)
        for i in range(groups[group[row]], groups[group[row] + 1]):
            key = base ^ starts[i]
            bit = key >> shift
            if (sieve[bit >> np.uint64(3)] >> (bit & np.uint64(7))) & 1:
                at, high = 0, wanted.shape[0]
                while at < high:
                    middle = (at + high) >> 1
                    if wanted[middle] < key:
                        at = middle + 1
                    else:
                        high = middle
                if at < wanted.shape[0] and wanted[at] == key:
                    if found == wanted.shape[0]:
                        return last[:0], before[:0], place[:0]
                    last[found], before[found], place[found] = row, members[i], at
                    found += 1
    return last[:found], before[:found], place[:found]
