"""The options of every verb that recognises: ends of utterances, what stays tentative, the gate; nothing heavy here."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from streamasr.config import PRESETS, EndpointConfig, GateConfig
from streamasr.verbs import numbers

if TYPE_CHECKING:
    from streamasr.voice import Gate

SECONDS = numbers.seconds(0.1, 600)


def add(parser: argparse.ArgumentParser) -> None:
    """`--preset`, `--endpoint-...`, `--tail`, `--gate`."""
    group = parser.add_argument_group("end of an utterance")
    group.add_argument("--preset", choices=tuple(PRESETS), default="meeting", help="default: %(default)s")
    for name, what in (
        ("silence", "silence after speech that ends it"),
        ("before", "silence without any speech yet after which it begins anew"),
        ("longest", "then it ends in the next short pause"),
    ):
        given = ", ".join(f"{preset} {_of(rules, name):g}" for preset, rules in PRESETS.items())
        group.add_argument(
            f"--endpoint-{name}",
            metavar="SECONDS",
            type=SECONDS,
            help=f"{what} ({given})",
        )
    group = parser.add_argument_group("tentative words")
    group.add_argument(
        "--tail",
        metavar="SECONDS",
        type=SECONDS,
        help="words older than that do not change any more (default: the model's number, mostly 2)",
    )
    group = parser.add_argument_group("silence")
    group.add_argument(
        "--gate",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="rest where a voice detector finds no voice (default: --gate)",
    )


def endpoint(options: argparse.Namespace) -> EndpointConfig:
    """The rules of the preset, with what was given besides."""
    rules = PRESETS[options.preset]
    return EndpointConfig(
        silence_before_s=options.endpoint_before or rules.silence_before_s,
        silence_after_s=options.endpoint_silence or rules.silence_after_s,
        longest_s=options.endpoint_longest or rules.longest_s,
    )


def gate(options: argparse.Namespace) -> Gate | None:
    """The gate, if it is wanted; imports torch.

    Raises:
        ConfigError: there is no voice detector.
    """
    if not options.gate:
        return None
    from streamasr.voice import Gate, VoiceDetector

    return Gate(GateConfig(), VoiceDetector.load())


def _of(rules: EndpointConfig, name: str) -> float:
    return {"silence": rules.silence_after_s, "before": rules.silence_before_s, "longest": rules.longest_s}[name]
