"""The protocol of the Vosk server: one reply for each message of audio, `eof` and `reset`; none for `config`.

Source: the websocket server and its example clients in https://github.com/alphacep/vosk-server.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from streamasr.errors import ProtocolError
from streamasr.events import Event, Final, Partial, Word
from streamasr.protocol import LONGEST_HOTWORD, MOST_HOTWORDS, RATES_HZ, parse_json

MOST_ALTERNATIVES = 10


@dataclass(frozen=True, slots=True)
class VoskConfig:
    """What a `config` message sets, for its own connection only."""

    rate_hz: int
    words: bool = True
    max_alternatives: int = 0
    phrases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Eof:
    """The audio is over: one last reply."""


@dataclass(frozen=True, slots=True)
class Reset:
    """End the utterance: a reply, and the stream goes on."""


VoskMessage: TypeAlias = VoskConfig | Eof | Reset


def parse_vosk(text: str, config: VoskConfig) -> VoskMessage:
    """The text message of a client whose configuration is `config`.

    Raises:
        ProtocolError: it is none of the three.
    """
    fields = parse_json(text, 65_536)
    if "config" in fields:
        return _config(fields["config"], config)
    if fields.get("eof"):
        return Eof()
    if fields.get("reset"):
        return Reset()
    raise ProtocolError("a text message without config, eof and reset", "one of these")


def _config(given: Any, config: VoskConfig) -> VoskConfig:
    if not isinstance(given, dict):
        raise ProtocolError("config is not an object", '{"config": {"sample_rate": 16000}}')
    rate = given.get("sample_rate", config.rate_hz)
    low, high = RATES_HZ
    if isinstance(rate, str) and rate.isascii() and rate.isdecimal() and len(rate) < 8:
        rate = int(rate)
    if (
        isinstance(rate, bool)
        or not isinstance(rate, int | float)
        or not math.isfinite(rate)
        or not low <= rate <= high
    ):
        raise ProtocolError("sample_rate means nothing", f"a number from {low} to {high}")
    most = given.get("max_alternatives", config.max_alternatives)
    if isinstance(most, bool) or not isinstance(most, int) or not 0 <= most <= MOST_ALTERNATIVES:
        raise ProtocolError("max_alternatives means nothing", f"a whole number from 0 to {MOST_ALTERNATIVES}")
    phrases = given.get("phrase_list", list(config.phrases))
    if not isinstance(phrases, list) or not all(isinstance(phrase, str) for phrase in phrases):
        raise ProtocolError("phrase_list is not a list of phrases", "a list of phrases")
    spoken = tuple(p.strip() for p in phrases if 0 < len(p.strip()) <= LONGEST_HOTWORD and "[" not in p)
    if len(spoken) > MOST_HOTWORDS:
        raise ProtocolError(f"a phrase_list of {len(spoken)} phrases", f"at most {MOST_HOTWORDS}")
    return replace(
        config,
        rate_hz=round(rate),
        words=bool(given.get("words", config.words)),
        max_alternatives=most,
        phrases=spoken,
    )


class VoskReplies:
    """Turns the events between two messages into the reply to the second."""

    def __init__(self) -> None:
        self._finals: list[Final] = []
        self._partial = ""

    def hear(self, events: Sequence[Event]) -> None:
        """Take in what the stream told."""
        for event in events:
            if isinstance(event, Final):
                self._finals.append(event)
                self._partial = ""
            elif isinstance(event, Partial):
                self._partial = event.text

    def reply(self, config: VoskConfig, ended: bool = False) -> str:
        """The reply: a result where an utterance has ended or `ended`, else what is known so far."""
        if not self._finals and not ended:
            return json.dumps({"partial": self._partial.strip()}, ensure_ascii=False)
        words = [word for final in self._finals for word in final.words]
        text = " ".join(final.text for final in self._finals)
        self._finals, self._partial = [], ""
        listed = [_word(word, confident=not config.max_alternatives) for word in words]
        if config.max_alternatives:
            likelihood = sum(math.log(max(word.confidence, 1e-6)) for word in words)
            best: dict[str, Any] = {"confidence": round(likelihood, 6), "text": text}
            if config.words and words:
                best["result"] = listed
            return json.dumps({"alternatives": [best]}, ensure_ascii=False)
        result: dict[str, Any] = {"result": listed} if config.words and words else {}
        return json.dumps({**result, "text": text}, ensure_ascii=False)


def _word(word: Word, confident: bool) -> dict[str, Any]:
    known: dict[str, Any] = {"conf": round(word.confidence, 6)} if confident else {}
    return {**known, "end": round(word.end_s, 3), "start": round(word.start_s, 3), "word": word.text}
