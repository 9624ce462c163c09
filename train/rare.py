"""Words for which a language model has no n-grams: those that its texts have, and those of word lists.

A word that comes in a text has its count there, less what is set aside for words that come in none of them (absolute
discounting: Ney, Essen, Kneser, 1994); half of that is for the words of lists and for all words alike, half is left for
those that nobody has listed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from streamasr.rare_words import RareWords
from streamasr.text import normalise

DISCOUNT = 0.75


def read_list(path: Path) -> set[str]:
    """The words of a list, one a line, as the alphabet spells them; possessives and what is no word are left out.

    Raises:
        OSError: it cannot be read.
    """
    lines = (line.strip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines())
    texts = {line: normalise(line) for line in lines if len(line) > 1 and not line.lower().endswith("'s")}
    return {text for text in texts.values() if text and len(text) > 1 and " " not in text}


def rare_words(texts: Iterable[tuple[Sequence[str], float]], known: Iterable[str], lists: set[str]) -> RareWords:
    """All words of the texts (sentences, and the weight of each text) and of `lists` that are not `known`."""
    known = set(known)
    shares: dict[str, float] = dict.fromkeys(lists - known, 0.0)
    left = 0.0
    for sentences, weight in texts:
        counts = Counter(word for sentence in sentences for word in sentence.split())
        unit = weight / max(1, counts.total())
        for word, count in counts.items():
            if word not in known:
                shares[word] = shares.get(word, 0.0) + (count - DISCOUNT) * unit
                left += DISCOUNT * unit
    whole = sum(shares.values()) + left
    for_all = left / 2 / max(1, len(shares))
    words = tuple(sorted(shares))
    if whole == 0.0:  # the lists alone: no text says how often an unknown word is
        return RareWords(words, np.full(len(words), -math.log(2 * max(1, len(words))), np.float32))
    return RareWords(words, np.array([math.log((shares[word] + for_all) / whole) for word in words], np.float32))
