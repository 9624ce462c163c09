"""The alphabet, and the one normalisation of transcripts that training and evaluation share."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from streamasr.errors import ConfigError

ALPHABET = ("<blank>", " ", *"abcdefghijklmnopqrstuvwxyz", "'")

_ABBREVIATIONS = {
    "mr": "mister",
    "mrs": "missus",
    "ms": "miss",
    "dr": "doctor",
    "st": "saint",
    "prof": "professor",
    "etc": "et cetera",
}
_SYMBOLS = {"&": " and ", "%": " percent ", "@": " at ", "+": " plus ", "=": " equals ", "#": " number "}
_MONEY = {"$": "dollar", "£": "pound", "€": "euro"}
_MONEY_FORM = re.compile(r"([$£€])\s?(\d[\d,]*)(?:\.(\d\d))?")
_NUMBER_FORM = re.compile(r"\d[\d,]*(?:\.\d+)?(?:st|nd|rd|th)?")


@dataclass(frozen=True)
class Vocab:
    """Tokens of the CTC head, in the order of its outputs. Token 0 is the blank."""

    tokens: tuple[str, ...] = ALPHABET

    def __post_init__(self) -> None:
        if not self.tokens or self.tokens[0] != "<blank>" or " " not in self.tokens:
            raise ConfigError(
                f"the token list begins with {list(self.tokens[:3])}", "<blank> first and a space", "Export it again."
            )

    @property
    def space(self) -> int:
        """Index of the space."""
        return self.tokens.index(" ")

    def __len__(self) -> int:
        return len(self.tokens)

    def encode(self, text: str) -> list[int]:
        """Token indices of normalised text; ConfigError names a character outside the alphabet."""
        index = {token: i for i, token in enumerate(self.tokens)}
        try:
            return [index[character] for character in text]
        except KeyError as unknown:
            raise ConfigError(
                f"the text has the character {unknown}", "only " + "".join(self.tokens[1:]), "Normalise the text first."
            ) from None

    def decode(self, indices: Iterable[int]) -> str:
        """Text of token indices; blanks are left out, repeats are kept."""
        return "".join(self.tokens[i] for i in indices if i != 0)

    def collapse(self, path: Sequence[int]) -> str:
        """Text of a CTC path, one token a frame: repeats merged, then blanks removed."""
        return self.decode(t for i, t in enumerate(path) if i == 0 or t != path[i - 1])


def _spell_number(match: re.Match[str]) -> str:
    from num2words import num2words  # slow to import, seldom needed

    form = match.group().replace(",", "")
    if form[-1].isalpha():
        return f" {num2words(int(form[:-2].split('.')[0]), to='ordinal')} "
    if "." not in form and len(form) == 4 and form[0] == "1" and "," not in match.group():
        return f" {num2words(int(form), to='year')} "
    if "." not in form and len(form) > 15:
        return " " + " ".join(num2words(int(digit)) for digit in form) + " "
    return f" {num2words(float(form) if '.' in form else int(form))} "


def _spell_money(match: re.Match[str]) -> str:
    from num2words import num2words

    sign, whole, cents = match.groups()
    amount = int(whole.replace(",", ""))
    words = f" {num2words(amount)} {_MONEY[sign]}{'s' if amount != 1 else ''} "
    return words + (f"and {num2words(int(cents))} " if cents and int(cents) else "")


def normalise(text: str) -> str | None:
    """Lower case, a-z, apostrophe and single spaces; numbers, money and common symbols spelled out.

    Returns:
        the normalised text, or None where something remains that the alphabet cannot spell (another script).
    """
    plain = unicodedata.normalize("NFKD", text.replace("’", "'").replace("‘", "'").replace("`", "'"))
    plain = "".join(c for c in plain if not unicodedata.combining(c)).lower()
    plain = plain.replace("ß", "ss").replace("æ", "ae").replace("œ", "oe").replace("ø", "o").replace("ł", "l")
    plain = _MONEY_FORM.sub(_spell_money, plain)
    plain = _NUMBER_FORM.sub(_spell_number, plain)
    for symbol, spoken in _SYMBOLS.items():
        plain = plain.replace(symbol, spoken)
    if any(c.isalpha() and not "a" <= c <= "z" for c in plain):
        return None
    found = (word.strip("'") for word in re.sub(r"[^a-z' ]+", " ", plain).split())
    return " ".join(_ABBREVIATIONS.get(word, word) for word in found if word)
