"""The options of `streamasr listen`; nothing heavy here."""

from __future__ import annotations

import argparse
from pathlib import Path

from streamasr.config import LAG_LIMIT_S
from streamasr.verbs import numbers, server_options

EXAMPLES = """examples:
  streamasr listen                                   the default microphone; Ctrl-C stops
  streamasr listen --device "USB Audio"              by name, part of a name, or number (see: streamasr devices)
  streamasr listen --source mic --source system      a call: you, and what the machine plays, with labels
  streamasr listen --source talk.flac --realtime     a file, as if it were spoken now
  ffmpeg -loglevel error -i talk.mp4 -f s16le -ac 1 -ar 16000 - | streamasr listen --source -
  streamasr listen --save talk.srt | tee talk.txt    one line for each caption where the output is no terminal
  streamasr listen --continue talk.srt               go on with a transcript, after a crash for instance
"""

MICROPHONE, SYSTEM, PIPE, DEVICE = "mic", "system", "-", "device:"


def add(verb: argparse.ArgumentParser) -> None:
    """All options but those of the recogniser."""
    source = verb.add_argument_group("source")
    source.add_argument(
        "--source",
        metavar="WHAT",
        action="append",
        help="mic (default), system (what the machine plays), device:NAME, a sound file, or - for raw PCM; repeatable",
    )
    source.add_argument("--label", metavar="NAME", action="append", default=[], help="of each --source, in their order")
    source.add_argument("--device", metavar="NAME", help="microphone: number, name or part of a name")
    source.add_argument("--realtime", action="store_true", help="play a file at the pace of speech")
    source.add_argument("--rate", metavar="HZ", type=numbers.whole, help="of raw PCM (default: 16000)")
    source.add_argument("--encoding", choices=("s16le", "f32le"), help="of raw PCM (default: s16le)")
    source.add_argument("--channels", metavar="N", type=numbers.whole, help="of raw PCM (default: 1)")
    output = verb.add_argument_group("output")
    output.add_argument(
        "--save", metavar="FILE", type=Path, action="append", default=[], help=".txt, .srt, .vtt or .jsonl; repeatable"
    )
    output.add_argument(
        "--continue",
        dest="go_on",
        metavar="FILE",
        type=Path,
        action="append",
        default=[],
        help="--save behind what is in the file; the clock goes on too, the pause included",
    )
    output.add_argument("--record", metavar="FILE.flac", type=Path, help="keep the audio, with the captions' clock")
    output.add_argument("--overwrite", action="store_true", help="replace files that exist")
    output.add_argument("--plain", action="store_true", help="one line for each caption, as where there is no terminal")
    load = verb.add_argument_group("where the machine is too slow")
    late = load.add_mutually_exclusive_group()
    late.add_argument(
        "--lag-limit",
        metavar="SECONDS",
        type=numbers.seconds(1),
        default=LAG_LIMIT_S,
        help="a microphone's audio that may wait; beyond it the oldest is dropped, and told (default: %(default)g)",
    )
    late.add_argument("--never-drop", action="store_true", help="lag instead, in memory: 64 kB for a second that waits")
    others = verb.add_argument_group("captions for programs")
    others.add_argument("--on-final", metavar="COMMAND", help="start it for each caption, the text on its input")
    others.add_argument("--obs", metavar="HOST[:PORT]", help="into the stream of OBS Studio (obs-websocket 5)")
    others.add_argument("--obs-password-file", metavar="FILE", type=Path, help="its password in the first line")
    server_options.add_listen(verb)


def misuse(options: argparse.Namespace) -> str:
    """What is wrong with the combination of options, or nothing; fills in the default source."""
    options.source = sources = options.source or [MICROPHONE]
    if PIPE not in sources and (options.rate or options.encoding or options.channels):
        return "--rate, --encoding and --channels describe raw PCM: they need --source -"
    if MICROPHONE not in sources and options.device is not None:
        return "--device names a microphone: leave --source out"
    if options.realtime and not any(is_file(source) for source in sources):
        return "--realtime paces a file: it needs --source FILE"
    if len(options.label) not in (0, len(sources)):
        return f"--label was given {len(options.label)} times for {len(sources)} sources: give each one, in their order"
    if len(set(names := labels(options))) < len(names):
        return f"two sources are called {max(names, key=names.count)}: give each a --label of its own"
    if len(sources) > 1 and options.serve is not None:
        return "--serve gives the captions of one source: leave the others out"
    if options.obs_password_file and not options.obs:
        return "--obs-password-file needs --obs"
    return ""


def is_file(source: str) -> bool:
    """Whether a --source is a sound file."""
    return source not in (MICROPHONE, SYSTEM, PIPE) and not source.startswith(DEVICE)


def labels(options: argparse.Namespace) -> list[str]:
    """The label of each source; one empty label where there is one source and none was asked for."""
    if options.label:
        return [" ".join(label.split()) for label in options.label]
    if len(options.source) == 1:
        return [""]
    return [
        "pipe" if source == PIPE else Path(source).stem if is_file(source) else source.removeprefix(DEVICE)
        for source in options.source
    ]
