"""Hotwords: phrases that the beam is to prefer, as an automaton over characters (Aho and Corasick 1975).

A phrase counts where it stands as whole words. Each of its letters gains the phrase's boost as soon as it is spelled;
where the text departs from the phrase, what was gained is taken back, so only complete phrases change a final score.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamasr.errors import DecoderError
from streamasr.text import Vocab, normalise

BOOST = 1.0
MOST = 20.0


class Phrases(NamedTuple):
    """The automaton; state 0 is that after a space, and of an empty text.

    Attributes:
        following: (S, V) the next state for each token.
        pending: (S,) log-score of the phrase that is being spelled, taken back when it is not completed.
        paid: (S,) log-score of the phrases that are complete when the state is entered.
        greatest: the most that one token can gain.
    """

    following: NDArray[np.int32]
    pending: NDArray[np.float64]
    paid: NDArray[np.float64]
    greatest: float


def no_phrases(vocab: Vocab) -> Phrases:
    """No hotwords."""
    return Phrases(np.zeros((0, len(vocab)), np.int32), np.zeros(0), np.zeros(0), 0.0)


def parse(line: str) -> tuple[str, float]:
    """Read "phrase" or "phrase:boost"; the boost is a log-score for each letter, BOOST where there is none.

    Raises:
        DecoderError: no phrase, one with characters that the alphabet cannot spell, or a boost that is no number in
            -20..20.
    """
    phrase, colon, number = line.rpartition(":") if ":" in line else (line, "", "")
    text = normalise(phrase)
    if not text:
        advice = "Write it as it is spoken." if phrase.strip() else "Give a word."
        raise DecoderError(f"the hotword {line!r} has nothing to spell", "letters a-z and apostrophes", advice)
    try:
        boost = float(number) if colon else BOOST
    except ValueError:
        boost = math.nan
    if not -MOST <= boost <= MOST:
        got = f"the hotword {phrase.strip()!r} has the boost {number.strip()!r}"
        raise DecoderError(got, f"a number from -{MOST:g} to {MOST:g}", f"Leave it out for {BOOST:g}.")
    return text, boost


def read_hotwords(path: str | Path) -> dict[str, float]:
    """The hotwords of a text file, one a line as in `parse`; empty lines and lines that begin with # say nothing.

    Raises:
        DecoderError: the file cannot be read, holds no hotword, or has a line that is none (its number is given).
    """
    try:
        lines = Path(path).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise DecoderError(f"the hotwords {path} cannot be read ({reason})", "a text file", "Check the path.") from None
    found: dict[str, float] = {}
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.lstrip().startswith("#"):
            try:
                text, boost = parse(line)
            except DecoderError as error:
                got = f"{path}, line {number}: {error.got}"
                raise DecoderError(got, error.expected, error.advice) from None
            found[text] = boost
    if not found:
        raise DecoderError(f"the hotwords {path} are empty", "one phrase a line", "Add phrases or leave the file out.")
    return found


def hotwords(lines: Iterable[str]) -> dict[str, float]:
    """The hotwords that `parse` reads from each of `lines`; of equal phrases the last counts."""
    return dict(parse(line) for line in lines)


def build(phrases: Mapping[str, float], vocab: Vocab) -> Phrases:
    """The automaton of normalised phrases and their boosts per letter.

    Raises:
        DecoderError: a phrase with a letter outside the alphabet of `vocab`, or a boost that is not finite.
    """
    if not phrases:
        return no_phrases(vocab)
    index = {token: number for number, token in enumerate(vocab.tokens)}
    children: list[dict[int, int]] = [{}]
    pending, paid = [0.0], [0.0]
    for phrase, boost in phrases.items():
        strange = [c for c in phrase if c not in index]
        if strange or not phrase.strip() or not math.isfinite(boost):
            got = f"the hotword {phrase!r} has {f'the character {strange[0]!r}' if strange else f'the boost {boost}'}"
            expected = "only " + "".join(vocab.tokens[1:]) if strange else "a finite number"
            raise DecoderError(got, expected, "Correct the list.")
        state, letters = 0, 0
        for character in " ".join(phrase.split()) + " ":
            if abs(boost * letters) > abs(pending[state]):
                pending[state] = boost * letters
            token = index[character]
            if token not in children[state]:
                children[state][token] = len(children)
                children.append({})
                pending.append(0.0)
                paid.append(0.0)
            state = children[state][token]
            letters += character != " "
        paid[state] += boost * letters
    return _link(children, np.array(pending), np.array(paid), vocab)


def _link(
    children: list[dict[int, int]], pending: NDArray[np.float64], paid: NDArray[np.float64], vocab: Vocab
) -> Phrases:
    """Add what happens where no phrase goes on: the longest phrase that may begin at a later word does.

    State 0 is after a space; where no phrase can be under way, inside a word, the text is in the state `lost`.
    """
    lost, space = len(children), vocab.space
    following = np.full((lost + 1, len(vocab)), lost, np.int32)
    following[:, space] = 0
    fallback = np.full(lost, lost)
    waiting = deque([0])
    while waiting:
        state = waiting.popleft()
        row = following[fallback[state]].copy()
        for token, child in children[state].items():
            fallback[child] = row[token]
            row[token] = child
            waiting.append(child)
        following[state] = row
        if fallback[state] != lost:  # another phrase ends here or is under way, which began at a later word
            paid[state] += paid[fallback[state]]
            if abs(pending[fallback[state]]) > abs(pending[state]):
                pending[state] = pending[fallback[state]]
    pending, paid = np.append(pending, 0.0), np.append(paid, 0.0)
    gains = paid[following] + pending[following] - pending[:, None]
    return Phrases(following, pending, paid, max(0.0, float(gains[:, 1:].max())))
