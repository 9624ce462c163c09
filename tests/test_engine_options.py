from __future__ import annotations

import argparse
import dataclasses

import pytest

from streamasr import cli
from streamasr.bundle import Bundle
from streamasr.config import PRESETS, EndpointConfig
from streamasr.engine import Engine
from streamasr.server.sound import tuned
from streamasr.verbs import engine_options, shared


def parsed(*arguments: str) -> argparse.Namespace:
    return cli.parser().parse_args(["transcribe", "talk.wav", *arguments])


def test_the_rules_of_a_preset_and_what_is_given_besides() -> None:
    assert engine_options.endpoint(parsed()) == EndpointConfig()
    assert engine_options.endpoint(parsed("--preset", "captions")) == PRESETS["captions"]
    given = parsed("--preset", "dictation", "--endpoint-silence", "0.6", "--endpoint-longest", "30")
    assert engine_options.endpoint(given) == EndpointConfig(PRESETS["dictation"].silence_before_s, 0.6, 30.0)
    assert engine_options.endpoint(parsed("--endpoint-before", "2.5")).silence_before_s == 2.5


@pytest.mark.parametrize("verb", [["listen"], ["transcribe", "a.wav"], ["serve"], ["evaluate", "manifest.tsv"]])
def test_the_verbs_that_recognise_have_them(verb: list[str]) -> None:
    options = cli.parser().parse_args([*verb, "--endpoint-silence", "0.5", "--no-gate"])
    assert (options.endpoint_silence, options.gate) == (0.5, False)


@pytest.mark.parametrize("value", ["0", "-1", "nan", "soon", "601"])
def test_silences_that_cannot_be(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parsed("--endpoint-silence", value)
    assert f"'{value}' is not a number of seconds from 0.1 to 600" in capsys.readouterr().err


def test_presets_are_sensible() -> None:
    rules = [PRESETS[name] for name in ("captions", "meeting", "dictation")]
    for field in dataclasses.fields(EndpointConfig):
        values = [getattr(rule, field.name) for rule in rules]
        assert values == sorted(values)
    assert all(rule.silence_after_s < rule.silence_before_s < rule.longest_s for rule in rules)


def test_the_recogniser_follows_them(tiny_bundle: Bundle) -> None:
    model = ["--model", str(tiny_bundle.path), "--lm", "none"]
    engine = shared.recogniser(parsed(*model, "--preset", "captions"))
    assert engine.endpointer.config == PRESETS["captions"]
    assert engine.gate is not None
    assert not engine.start().gate.open
    plain = shared.recogniser(parsed(*model, "--no-gate"))
    assert plain.gate is None
    assert plain.start().gate.open


def test_a_client_changes_the_silence_and_keeps_the_rest_of_the_servers_rules(tiny_bundle: Bundle) -> None:
    engine = tuned(Engine(tiny_bundle, endpoint=PRESETS["dictation"]), 500, None)
    assert engine.endpointer.config == dataclasses.replace(PRESETS["dictation"], silence_after_s=0.5)
