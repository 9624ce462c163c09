"""The native protocol of the caption server: events to messages, messages to controls; no sockets.

`docs/protocol.md` describes it, `docs/protocol.schema.json` holds every message.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from streamasr.config import EndpointConfig
from streamasr.errors import ProtocolError
from streamasr.events import End, Event, Final, Overrun, Partial, SourceLost, SourceResumed, SpeechStarted, Word

VERSION = 1
LONGEST_TEXT = 16_384  # characters of a text message
DEEPEST_JSON = 8
ENCODINGS = ("s16le", "f32le")
RATES_HZ = (1_000, 384_000)
MOST_HOTWORDS = 100
LONGEST_HOTWORD = 64
SHORTEST_SILENCE_S, LONGEST_SILENCE_S = 0.1, 30.0

Fields: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Finalize:
    """End the utterance now; the stream goes on."""


@dataclass(frozen=True, slots=True)
class Close:
    """Flush the stream, send what is left and `end`."""


@dataclass(frozen=True, slots=True)
class Configure:
    """Change the stream from here on; None leaves a value as it is."""

    partials: bool | None = None
    endpointing_ms: int | None = None
    hotwords: tuple[str, ...] | None = None


Control: TypeAlias = Finalize | Close | Configure


@dataclass(frozen=True, slots=True)
class StreamRequest:
    """What a client asks for when it opens `/v1/stream`."""

    encoding: str = "s16le"
    rate_hz: int = 16_000
    channels: int = 1
    hotwords: tuple[str, ...] = ()
    endpointing_ms: int | None = None
    partials: bool = True
    resume: str = ""
    after: int = -1


@dataclass(frozen=True, slots=True)
class CaptionRequest:
    """What a client asks for when it opens `/v1/captions`."""

    resume: str = ""
    after: int = -1
    history: int = 0
    partials: bool = True


def parse_json(text: str, longest: int = LONGEST_TEXT) -> Fields:
    """The JSON object of a message.

    Raises:
        ProtocolError: too long, too deep, not JSON or not an object.
    """
    if len(text) > longest:
        raise ProtocolError(f"a text message of {len(text)} characters", f"at most {longest}")
    depth = 0
    for character in text:  # counts brackets in strings too: strict, and enough for what is ever sent
        depth += (character in "{[") - (character in "}]")
        if depth > DEEPEST_JSON:
            raise ProtocolError("a message that is nested too deeply", f"at most {DEEPEST_JSON} levels")
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        raise ProtocolError("a text message that is not JSON", "a JSON object") from None
    if not isinstance(fields, dict):
        raise ProtocolError("a message that is not a JSON object", "a JSON object")
    return fields


def parse_control(text: str) -> Control:
    """The control in a text message.

    Raises:
        ProtocolError: it is none.
    """
    fields = parse_json(text)
    kind = fields.pop("type", None)
    if kind in ("finalize", "close"):
        if fields:
            raise ProtocolError(f"{kind} has the field {_shown(next(iter(fields)))}", "no further field")
        return Finalize() if kind == "finalize" else Close()
    if kind != "configure":
        raise ProtocolError(f"a message of type {_shown(kind)}", "finalize, configure or close")
    known = {"partials", "endpointing_ms", "hotwords"}
    if unknown := sorted(set(fields) - known):
        raise ProtocolError(f"configure has the field {_shown(unknown[0])}", ", ".join(sorted(known)))
    partials, endpointing_ms, hotwords = (fields.get(key) for key in ("partials", "endpointing_ms", "hotwords"))
    if partials is not None and not isinstance(partials, bool):
        raise ProtocolError(f"partials is {_shown(partials)}", "true or false")
    if endpointing_ms is not None:
        endpointing_ms = _silence_ms(endpointing_ms)
    if hotwords is not None:
        if not isinstance(hotwords, list):
            raise ProtocolError("hotwords is not a list", "a list of phrases")
        hotwords = _hotwords(hotwords)
    return Configure(partials, endpointing_ms, hotwords)


def parse_stream_request(query: Mapping[str, str]) -> StreamRequest:
    """The query of `/v1/stream`.

    Raises:
        ProtocolError: an unknown key, or a value that means nothing.
    """
    _known(query, "encoding", "rate", "channels", "hotwords", "endpointing_ms", "partials", "resume", "after")
    encoding = query.get("encoding", "s16le")
    if encoding not in ENCODINGS:
        raise ProtocolError(f"encoding is {_shown(encoding)}", " or ".join(ENCODINGS))
    words = [word for word in query.get("hotwords", "").split(",") if word.strip()]
    endpointing = query.get("endpointing_ms")
    return StreamRequest(
        encoding,
        _whole(query, "rate", 16_000, *RATES_HZ),
        _whole(query, "channels", 1, 1, 8),
        _hotwords(words),
        None if endpointing is None else _silence_ms(_whole(query, "endpointing_ms", 0, 0, 10**6)),
        _flag(query, "partials", True),
        query.get("resume", ""),
        _whole(query, "after", -1, -1, 2**53),
    )


def parse_caption_request(query: Mapping[str, str]) -> CaptionRequest:
    """The query of `/v1/captions`.

    Raises:
        ProtocolError: an unknown key, or a value that means nothing.
    """
    _known(query, "resume", "after", "history", "partials")
    return CaptionRequest(
        query.get("resume", ""),
        _whole(query, "after", -1, -1, 2**53),
        _whole(query, "history", 0, 0, 10_000),
        _flag(query, "partials", True),
    )


def endpoint_config(endpointing_ms: int | None, base: EndpointConfig | None = None) -> EndpointConfig:
    """The endpoint rules with another length of the silence that ends an utterance; None: as they are."""
    base = base or EndpointConfig()
    if endpointing_ms is None:
        return base
    return EndpointConfig(base.silence_before_s, endpointing_ms / 1000, base.longest_s)


def event_fields(event: Event) -> Fields:
    """The fields of an event's message, without `seq`. Times are seconds, rounded to 1 ms."""
    match event:
        case Partial():
            return {
                "type": "partial",
                "committed": event.committed,
                "tentative": event.tentative,
                "start_s": round(event.start_s, 3),
                "end_s": round(event.end_s, 3),
            }
        case Final():
            words = [
                {
                    "text": word.text,
                    "start_s": round(word.start_s, 3),
                    "end_s": round(word.end_s, 3),
                    "confidence": round(word.confidence, 4),
                }
                for word in event.words
            ]
            return {
                "type": "final",
                "text": event.text,
                "words": words,
                "start_s": round(event.start_s, 3),
                "end_s": round(event.end_s, 3),
            }
        case SpeechStarted():
            return {"type": "speech_started", "time_s": round(event.time_s, 3)}
        case Overrun():
            return {
                "type": "overrun",
                "seconds": round(event.seconds, 3),
                "time_s": round(event.time_s, 3),
                "reason": event.reason,
            }
        case SourceLost():
            return {"type": "source_lost", "time_s": round(event.time_s, 3)}  # its reason may name a device or a file
        case SourceResumed():
            return {"type": "source_resumed", "time_s": round(event.time_s, 3), "gap_s": round(event.gap_s, 3)}
        case End():
            return {"type": "end", "time_s": round(event.time_s, 3)}


def event_of(fields: Fields) -> Event | None:
    """The event in a message, or None where it is none (ready, progress, error, or of a later version).

    Raises:
        ProtocolError: a field is missing or means nothing.
    """
    try:
        match fields.get("type"):
            case "partial":
                span = float(fields["start_s"]), float(fields["end_s"])
                return Partial(str(fields["committed"]), str(fields["tentative"]), *span)
            case "final":
                words = tuple(
                    Word(str(w["text"]), float(w["start_s"]), float(w["end_s"]), float(w["confidence"]))
                    for w in fields["words"]
                )
                return Final(str(fields["text"]), words, float(fields["start_s"]), float(fields["end_s"]))
            case "speech_started":
                return SpeechStarted(float(fields["time_s"]))
            case "overrun":
                return Overrun(float(fields["seconds"]), float(fields["time_s"]), str(fields["reason"]))
            case "source_lost":
                return SourceLost(float(fields["time_s"]), "")
            case "source_resumed":
                return SourceResumed(float(fields["time_s"]), float(fields["gap_s"]))
            case "end":
                return End(float(fields["time_s"]))
    except (KeyError, TypeError, ValueError):
        kind = _shown(fields.get("type"))
        raise ProtocolError(f"a message of type {kind} without its fields", "protocol version 1") from None
    return None


def dumps(fields: Fields) -> str:
    """Compact JSON."""
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _known(query: Mapping[str, str], *names: str) -> None:
    for key in query:
        if key not in names:
            raise ProtocolError(f"the address has the key {_shown(key)}", ", ".join(names))


def _whole(query: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    text = query.get(name)
    if text is None:
        return default
    if not (text.lstrip("-").isdecimal() and text.isascii() and len(text) < 18 and low <= int(text) <= high):
        raise ProtocolError(f"{name} is {_shown(text)}", f"a whole number from {low} to {high}")
    return int(text)


def _flag(query: Mapping[str, str], name: str, default: bool) -> bool:
    text = query.get(name)
    if text is None:
        return default
    if text not in ("true", "false"):
        raise ProtocolError(f"{name} is {_shown(text)}", "true or false")
    return text == "true"


def _silence_ms(value: object) -> int:
    low, high = round(SHORTEST_SILENCE_S * 1000), round(LONGEST_SILENCE_S * 1000)
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ProtocolError(f"endpointing_ms is {_shown(value)}", f"a whole number from {low} to {high}")
    return value


def _hotwords(values: list[Any]) -> tuple[str, ...]:
    if len(values) > MOST_HOTWORDS:
        raise ProtocolError(f"{len(values)} hotwords", f"at most {MOST_HOTWORDS}")
    for value in values:
        if not isinstance(value, str) or not value.strip() or len(value) > LONGEST_HOTWORD:
            raise ProtocolError(f"the hotword {_shown(value)}", f"a phrase of 1 to {LONGEST_HOTWORD} characters")
    return tuple(value.strip() for value in values)


def _shown(value: object) -> str:
    """The value, short enough to be sent back."""
    text = json.dumps(value, ensure_ascii=True, default=str) if not isinstance(value, dict | list) else "a structure"
    return text if len(text) <= 40 else text[:37] + "..."
