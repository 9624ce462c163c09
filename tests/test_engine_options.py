from __future__ import annotations

import argparse
import dataclasses
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from streamasr import bundle, cli
from streamasr.bundle import Bundle
from streamasr.config import PRESETS, BeamConfig, EndpointConfig
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


def test_the_numbers_of_the_decoder_are_those_of_the_model(tiny_path: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(tiny_path, tmp_path / "copy"))
    bundle.amend(path, beam={"width": 8, "alpha": 0.7}, confidence={"greedy": {"bias": 0.3}, "letters": {"bias": 0.2}})

    def decoder(*arguments: str) -> BeamConfig:
        return shared.recogniser(parsed("--model", str(path), "--no-gate", *arguments)).decoder.config

    assert decoder() == BeamConfig(width=8, alpha=0.7)
    letters = BeamConfig(width=8, alpha=0.7, confidence_bias=0.2)
    assert decoder("--lm", "none") == letters
    assert decoder("--lm", "none", "--beam", "32", "--tail", "1.5") == dataclasses.replace(
        letters, width=32, tail_s=1.5
    )
    assert decoder("--beam", "1").confidence_bias == 0.3 and decoder("--beam", "1").width == 1


@pytest.mark.parametrize(
    ("option", "content", "said"),
    [
        (
            "--lm",
            "\\data\\\nngram 1=4\n\n\\1-grams:\n-1 <unk>\n-99 <s>\n-1 </s>\n",
            "3 n-grams of 1 words.*section ends",
        ),
        ("--lm", "no model at all\n", "ARPA"),
        ("--hotwords", "", "are empty"),
        ("--hotwords", "good\nанна\n", "line 2.*nothing to spell"),
        ("--hotwords", "good:loud\n", "line 1.*'loud'.*a number from"),
        ("--hotword", "анна", "nothing to spell"),
        ("--hotword", "", "nothing to spell"),
        ("--hotword", "word:loud", "'loud'.*a number from"),
        ("--hotword", "word:nan", "'nan'.*a number from"),
    ],
)
def test_bad_input_of_the_decoder_is_one_clear_line(
    option: str, content: str, said: str, tiny_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "input"
    file.write_text(content, "utf-8")
    given = content if option == "--hotword" else str(file)
    talk = str(tmp_path / "talk.wav")
    soundfile.write(talk, np.zeros(1600, np.float32), 16_000)
    status = cli.main(["transcribe", talk, "--model", str(tiny_path), "--no-gate", option, given])
    shown = capsys.readouterr().err
    assert status == 1 and shown.count("\n") == 1 and re.search(said, shown), shown
    assert "Traceback" not in shown
