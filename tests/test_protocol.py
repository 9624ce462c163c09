"""The messages of the three dialects, without sockets."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamasr import protocol
from streamasr.errors import ProtocolError
from streamasr.events import End, Event, Final, Overrun, Partial, SourceLost, SourceResumed, SpeechStarted, Word
from streamasr.journal import Journal, Message, Outbox
from streamasr.protocol import Close, Configure, Finalize
from streamasr.protocol_deepgram import DeepgramMessages, DeepgramRequest, parse_deepgram_request
from streamasr.protocol_vosk import Eof, Reset, VoskConfig, VoskReplies, parse_vosk

SCHEMA = json.loads((Path(__file__).parents[1] / "docs" / "protocol.schema.json").read_text())
times = st.floats(0, 1e5).map(lambda value: round(value, 3))
words = st.builds(Word, st.text(max_size=8), times, times, st.floats(0, 1).map(lambda value: round(value, 4)))
events: st.SearchStrategy[Event] = st.one_of(
    st.builds(Partial, st.text(), st.text(), times, times),
    st.builds(Final, st.text(), st.lists(words, max_size=4).map(tuple), times, times),
    st.builds(SpeechStarted, times),
    st.builds(Overrun, times, times, st.text()),
    st.builds(SourceLost, times, st.just("")),
    st.builds(SourceResumed, times, times),
    st.builds(End, times),
)


def check(message: dict[str, Any], which: str) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.validate(message, {**SCHEMA, "oneOf": [{"$ref": f"#/$defs/{which}"}]})


@given(events)
def test_an_event_comes_back_from_its_message_and_fits_the_schema(event: Event) -> None:
    message = Journal().add_event(event)
    fields = json.loads(message.text)
    assert protocol.event_of(fields) == event
    check(fields, "event")


def test_a_lost_source_does_not_tell_what_it_was() -> None:
    assert "card" not in Journal().add_event(SourceLost(1.0, "/dev/snd/card0 vanished")).text


def test_controls() -> None:
    assert protocol.parse_control('{"type": "finalize"}') == Finalize()
    assert protocol.parse_control('{"type": "close"}') == Close()
    text = '{"type": "configure", "partials": false, "endpointing_ms": 500, "hotwords": [" ada "]}'
    assert protocol.parse_control(text) == Configure(False, 500, ("ada",))
    check(json.loads(text), "control")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{}",
        '{"type": 5}',
        '{"type": {"type": "close"}}',
        '{"type": "close", "more": 1}',
        '{"type": "configure", "partials": 1}',
        '{"type": "configure", "endpointing_ms": true}',
        '{"type": "configure", "endpointing_ms": 1e3}',
        '{"type": "configure", "endpointing_ms": 99}',
        '{"type": "configure", "hotwords": "ada"}',
        '{"type": "configure", "hotwords": [""]}',
        '{"type": "configure", "hotwords": [["ada"]]}',
        '{"type": "configure", "sample_rate": 1}',
        '{"a":' * 9 + "1" + "}" * 9,
        '"' + "x" * 20_000 + '"',
        "9" * 10_000,
    ],
)
def test_other_texts_are_refused_in_a_short_line(text: str) -> None:
    with pytest.raises(ProtocolError) as refused:
        protocol.parse_control(text)
    assert len(str(refused.value)) < 200


@given(st.text(max_size=200))
def test_any_text_is_a_control_or_refused(text: str) -> None:
    for parse in (protocol.parse_control, lambda given: parse_vosk(given, VoskConfig(8000))):
        with contextlib.suppress(ProtocolError):
            parse(text)


@given(
    st.dictionaries(st.sampled_from(["encoding", "rate", "channels", "after", "hotwords", "x"]), st.text(max_size=9))
)
def test_any_query_is_a_request_or_refused(query: dict[str, str]) -> None:
    for parse in (
        protocol.parse_stream_request,
        protocol.parse_caption_request,
        lambda given: parse_deepgram_request(list(given.items())),
    ):
        with contextlib.suppress(ProtocolError):
            parse(query)


def test_stream_requests() -> None:
    request = protocol.parse_stream_request(
        {"rate": "48000", "encoding": "f32le", "hotwords": "a b,,c:3", "after": "-1"}
    )
    assert (request.rate_hz, request.encoding, request.hotwords) == (48_000, "f32le", ("a b", "c:3"))
    assert protocol.parse_caption_request({"history": "5"}).history == 5


KINDS = st.sampled_from(["partial", "progress", "final", "overrun"])


def journal_of(kinds: list[str], kept: int = 1000) -> tuple[Journal, list[Message]]:
    journal = Journal(kept)
    made = []
    for kind in kinds:
        coalesces = kind in ("partial", "progress")
        made.append(journal.add({"type": kind}, kind if coalesces else "", clears=kind == "final"))
    return journal, made


@given(st.lists(KINDS, max_size=40), st.lists(st.booleans(), max_size=40))
def test_an_outbox_keeps_order_all_that_must_arrive_and_the_newest_rest(kinds: list[str], takes: list[bool]) -> None:
    _, made = journal_of(kinds)
    outbox, got = Outbox(), []
    for number, message in enumerate(made):
        outbox.put(message)
        if number < len(takes) and takes[number] and (taken := outbox.take()):
            got.append(taken)
    while taken := outbox.take():
        got.append(taken)
    assert got == sorted(got)
    assert [m for m in got if not m.kind] == [m for m in made if not m.kind]
    assert outbox.replaced == len(made) - len(got)
    if made and made[-1].kind:
        assert got[-1] == made[-1]


@given(st.lists(KINDS, max_size=40), st.integers(0, 40))
def test_a_journal_gives_what_was_missed(kinds: list[str], after: int) -> None:
    journal, made = journal_of(kinds)
    missed = journal.after(after)
    assert missed == sorted(missed)
    assert [m for m in missed if not m.kind] == [m for m in made if not m.kind and m.seq > after]
    assert not journal.lost(after)


def test_a_journal_is_bounded_and_says_what_it_lost() -> None:
    journal, _ = journal_of(["final"] * 10, kept=4)
    assert [m.seq for m in journal.after(0)] == [7, 8, 9, 10]
    assert journal.lost(5)
    assert not journal.lost(6)
    assert journal.last(2) == 8
    assert journal.last(99) == 6
    assert journal.last(0) == 10


def test_a_full_outbox_says_so() -> None:
    outbox = Outbox(most=2)
    _, made = journal_of(["final"] * 3)
    for message in made:
        outbox.put(message)
    assert outbox.full


FINAL = Final("good morning", (Word("good", 0.2, 0.5, 0.9), Word("morning", 0.6, 1.1, 0.4)), 0.2, 1.1)


def test_vosk() -> None:
    config = parse_vosk(
        '{ "config" : { "sample_rate" : 16000.0, "phrase_list" : ["a b", "[unk]"] } }', VoskConfig(8000)
    )
    assert config == VoskConfig(16_000, phrases=("a b",))
    assert parse_vosk('{"eof" : 1}', config) == Eof()
    assert parse_vosk('{"reset" : 1}', config) == Reset()
    replies = VoskReplies()
    assert json.loads(replies.reply(config)) == {"partial": ""}
    replies.hear([Partial("good ", "mor", 0.2, 0.9)])
    assert json.loads(replies.reply(config)) == {"partial": "good mor"}
    replies.hear([FINAL, FINAL])
    result = json.loads(replies.reply(config))
    assert result["text"] == "good morning good morning"
    assert result["result"][0] == {"conf": 0.9, "start": 0.2, "end": 0.5, "word": "good"}
    assert json.loads(replies.reply(config, ended=True)) == {"text": ""}


def test_deepgram() -> None:
    query = "encoding=linear16&sample_rate=8000&interim_results=true&endpointing=5&keywords=a:2&keyterm=b&model=x"
    request = parse_deepgram_request([tuple(pair.split("=")) for pair in query.split("&")])  # type: ignore[misc]
    assert request == DeepgramRequest(8000, 1, True, 100, None, False, ("a:3", "b"))
    messages = DeepgramMessages(
        DeepgramRequest(interim_results=True, utterance_end_ms=1000, vad_events=True), "id", "m"
    )
    started, interim = messages.of([SpeechStarted(0.2), Partial("good", "", 0.2, 0.5)], 0.7)
    assert started[0] == {"type": "SpeechStarted", "channel": [0], "timestamp": 0.2}
    assert (interim[0]["is_final"], interim[0]["duration"], interim[1]) == (False, 0.7, "partial")
    ((final, _),) = messages.of([FINAL], 1.9)
    assert (final["start"], final["duration"], final["is_final"], final["speech_final"]) == (0.0, 1.1, True, True)
    assert final["channel"]["alternatives"][0]["confidence"] == 0.6
    ((ended, _),) = messages.of([], 2.2)
    assert ended == {"type": "UtteranceEnd", "channel": [0, 1], "last_word_end": 1.1}
    assert messages.of([], 9.0) == []
    ((empty, _),) = messages.of([], 9.5, finalized=True)
    assert (empty["from_finalize"], empty["start"], empty["duration"]) == (True, 1.1, 8.4)
