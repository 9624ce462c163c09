"""Deepgram's protocol of live transcription, `/v1/listen`: its query, its controls and its messages.

What is asked for and does not exist here (another language, punctuation, diarisation, ...) is ignored, as the service
itself ignores what a model cannot do. Interim results carry no words: their times and confidences are not known yet.

Source: https://developers.deepgram.com/reference/speech-to-text/listen-streaming
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from streamasr.errors import ProtocolError
from streamasr.events import Event, Final, Partial, SpeechStarted, Word
from streamasr.protocol import LONGEST_HOTWORD, MOST_HOTWORDS, RATES_HZ, Fields, parse_json

SHORTEST_ENDPOINTING_MS, LONGEST_ENDPOINTING_MS = 100, 30_000
SILENCE_LIMIT_S = 10.0  # without audio or KeepAlive, as the service has it


@dataclass(frozen=True, slots=True)
class DeepgramRequest:
    """What a client asks for. `endpointing_ms` None: the server's own rule; 0: switched off."""

    rate_hz: int = 16_000
    channels: int = 1
    interim_results: bool = False
    endpointing_ms: int | None = None
    utterance_end_ms: int | None = None
    vad_events: bool = False
    hotwords: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class KeepAlive:
    """Nothing to say; the stream is to stay."""


@dataclass(frozen=True, slots=True)
class FinalizeNow:
    """Give out all that was heard as final; the stream goes on."""


@dataclass(frozen=True, slots=True)
class CloseStream:
    """Give out all that was heard as final, then Metadata, and close."""


DeepgramControl: TypeAlias = KeepAlive | FinalizeNow | CloseStream


def parse_deepgram_request(query: Sequence[tuple[str, str]]) -> DeepgramRequest:
    """The pairs of the query; a key may be given several times.

    Raises:
        ProtocolError: audio of a kind that cannot be heard here, or a value that means nothing.
    """
    first: dict[str, str] = {}
    for key, value in query:
        first.setdefault(key, value)
    encoding = first.get("encoding")
    if encoding != "linear16":
        shown = "no encoding" if encoding is None else "another encoding"
        raise ProtocolError(f"the request names {shown}", "encoding=linear16 and sample_rate")
    if "sample_rate" not in first:
        raise ProtocolError("the request names no sample_rate", "encoding=linear16 and sample_rate")
    if _flag(first, "multichannel"):
        raise ProtocolError("multichannel is not supported", "one channel, or channels that are mixed")
    endpointing: int | None
    if first.get("endpointing", "").lower() == "false":
        endpointing = 0
    elif first.get("endpointing", "true").lower() == "true":
        endpointing = None
    else:
        endpointing = _whole(first, "endpointing", 0, 0, 10**6)
        endpointing = min(max(endpointing, SHORTEST_ENDPOINTING_MS), LONGEST_ENDPOINTING_MS)
    hotwords = [_boosted(value) for key, value in query if key == "keywords" and value.strip()]
    hotwords += [value.strip() for key, value in query if key == "keyterm" and value.strip()]
    if len(hotwords) > MOST_HOTWORDS or any(len(word) > LONGEST_HOTWORD for word in hotwords):
        raise ProtocolError("too many or too long keywords", f"at most {MOST_HOTWORDS} of {LONGEST_HOTWORD} characters")
    return DeepgramRequest(
        _whole(first, "sample_rate", 16_000, *RATES_HZ),
        _whole(first, "channels", 1, 1, 8),
        _flag(first, "interim_results"),
        endpointing,
        _whole(first, "utterance_end_ms", 1000, 100, 60_000) if "utterance_end_ms" in first else None,
        _flag(first, "vad_events"),
        tuple(hotwords),
    )


def parse_deepgram_control(text: str) -> DeepgramControl:
    """The control in a text message.

    Raises:
        ProtocolError: it is none.
    """
    kind = parse_json(text).get("type")
    if kind == "KeepAlive":
        return KeepAlive()
    if kind == "Finalize":
        return FinalizeNow()
    if kind == "CloseStream":
        return CloseStream()
    raise ProtocolError("a text message of another type", "KeepAlive, Finalize or CloseStream")


class DeepgramMessages:
    """Turns the events of one stream into messages; each comes with its kind, see `journal.Message`."""

    def __init__(self, request: DeepgramRequest, request_id: str, model: str) -> None:
        self._request, self._id = request, request_id
        self._model = {"name": model, "version": "1", "arch": "streamasr"}
        self._model_id = str(uuid.uuid5(uuid.NAMESPACE_URL, f"streamasr:{model}"))
        self._start_s = 0.0  # of the segment in progress
        self._said = ""
        self._last_word_end_s: float | None = None  # not yet followed by an UtteranceEnd

    def of(self, events: Sequence[Event], time_s: float, finalized: bool = False) -> list[tuple[Fields, str]]:
        """The messages for events, `time_s` seconds of audio having been heard."""
        found: list[tuple[Fields, str]] = []
        for event in events:
            if isinstance(event, SpeechStarted) and self._request.vad_events:
                timestamp = round(event.time_s, 3)
                found.append(({"type": "SpeechStarted", "channel": [0], "timestamp": timestamp}, ""))
            elif isinstance(event, Partial):
                self._said = event.text.strip()
                if self._request.interim_results:
                    duration_s = max(time_s - self._start_s, 0.0)
                    found.append((self._results(self._said, (), duration_s, False, False), "partial"))
            elif isinstance(event, Final):
                found.append((self._final(event, finalized), ""))
        if finalized and not any(isinstance(event, Final) for event in events):
            found.append((self._results("", (), max(time_s - self._start_s, 0.0), True, True), ""))
            self._start_s = max(self._start_s, time_s)
        gap_ms = self._request.utterance_end_ms
        last_s = self._last_word_end_s
        if gap_ms is not None and last_s is not None and not self._said and (time_s - last_s) * 1000 >= gap_ms:
            found.append(({"type": "UtteranceEnd", "channel": [0, 1], "last_word_end": round(last_s, 3)}, ""))
            self._last_word_end_s = None
        return found

    def metadata(self, seconds: float, created: str, digest: str) -> Fields:
        """The last message of a stream."""
        return {
            "type": "Metadata",
            "transaction_key": "deprecated",
            "request_id": self._id,
            "sha256": digest,
            "created": created,
            "duration": round(seconds, 3),
            "channels": 1,
            "models": [self._model_id],
            "model_info": {self._model_id: self._model},
        }

    def _final(self, final: Final, finalized: bool) -> Fields:
        end_s = max(final.end_s, self._start_s)
        fields = self._results(final.text, final.words, end_s - self._start_s, True, finalized)
        self._start_s, self._said, self._last_word_end_s = end_s, "", final.end_s
        return fields

    def _results(self, text: str, words: Sequence[Word], seconds: float, final: bool, finalized: bool) -> Fields:
        logs = [math.log(max(word.confidence, 1e-6)) for word in words]
        confidence = math.exp(sum(logs) / len(logs)) if logs else 0.0
        alternative: dict[str, Any] = {
            "transcript": text,
            "confidence": round(confidence, 4),
            "words": [
                {
                    "word": word.text,
                    "start": round(word.start_s, 3),
                    "end": round(word.end_s, 3),
                    "confidence": round(word.confidence, 4),
                    "punctuated_word": word.text,
                }
                for word in words
            ],
        }
        return {
            "type": "Results",
            "channel_index": [0, 1],
            "duration": round(seconds, 3),
            "start": round(self._start_s, 3),
            "is_final": final,
            "speech_final": final and self._request.endpointing_ms != 0 and not finalized,
            "channel": {"alternatives": [alternative]},
            "metadata": {"request_id": self._id, "model_info": self._model, "model_uuid": self._model_id},
            "from_finalize": finalized,
        }


def _boosted(keyword: str) -> str:
    """`word:intensifier` as `phrase:boost`; the service's intensifiers are about twice our log-scores a letter."""
    word, colon, number = keyword.rpartition(":")
    if not colon:
        return keyword.strip()
    try:
        boost = float(number)
    except ValueError:
        raise ProtocolError("the intensifier of a keyword is no number", "keywords=word:2") from None
    if not math.isfinite(boost):
        raise ProtocolError("the intensifier of a keyword is no number", "keywords=word:2")
    return f"{word.strip()}:{min(max(1.5 * boost, -10.0), 10.0):g}"


def _flag(query: dict[str, str], name: str) -> bool:
    text = query.get(name, "false").lower()
    if text not in ("true", "false"):
        raise ProtocolError(f"{name} means nothing", "true or false")
    return text == "true"


def _whole(query: dict[str, str], name: str, default: int, low: int, high: int) -> int:
    text = query.get(name, str(default))
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and low <= int(text) <= high):
        raise ProtocolError(f"{name} means nothing", f"a whole number from {low} to {high}")
    return int(text)
