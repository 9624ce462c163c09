"""The command line: one parser, one verb a module in `verbs`, and one line for everything that goes wrong.

Nothing heavy is imported here: each verb imports what it needs when it runs, so that the microphone is open before
torch is loaded.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.metadata
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from streamasr.errors import StreamasrError
from streamasr.verbs import engine_options, listen_options, numbers, server_options

FAILED, MISUSED, INTERRUPTED = 1, 2, 130

EXAMPLES = """examples:
  streamasr listen                                       captions from the default microphone
  streamasr listen --save talk.srt --save talk.txt       and into files, as they come
  streamasr transcribe interview.mp3 --format srt        a file as fast as possible
  streamasr doctor                                       what works here, and what to do about the rest

Each verb has its own help: streamasr VERB --help
"""

TRANSCRIBE = """examples:
  streamasr transcribe talk.wav                      one line for each utterance
  streamasr transcribe talk.wav --format json        with the times of the words
  streamasr transcribe *.mp3 --format srt --output subtitles
"""

EVALUATE = """The manifest has one utterance a line, tab-separated: audio path (relative to the manifest), seconds,
speaker, text.

examples:
  streamasr evaluate corpus/dev/manifest.tsv
  streamasr evaluate corpus/dev/manifest.tsv --json | jq .wer
"""


BENCH = """Latency is that of words: from the end of a word in the sound until it can be read.

examples:
  streamasr bench                                    the bundled recording
  streamasr bench corpus/dev/manifest.tsv --utterances 10 --save now.json
  streamasr bench --compare before.json now.json
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, 1 for an error, 2 for wrong usage, 130 when interrupted."""
    root = parser()
    options = root.parse_args(arguments)
    if options.verb == "listen" and (fault := listen_options.misuse(options)):
        root.error(fault)
    try:
        status: int = importlib.import_module(f"streamasr.verbs.{options.verb}").run(options)
    except StreamasrError as error:
        status = _complain(str(error), options.debug)
    except KeyboardInterrupt:
        status = INTERRUPTED
    except BrokenPipeError:  # whoever read the output has enough
        status = 0
    except Exception as error:
        line = f"unexpected {type(error).__name__}: {error}".splitlines()[0]
        status = _complain(f"{line} (a defect: please report it with what --debug shows)", options.debug)
    _leave_quietly()
    return status


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")
    engine = argparse.ArgumentParser(add_help=False)
    group = engine.add_argument_group("recogniser")
    group.add_argument("--model", metavar="NAME", help="an installed model (see: streamasr models) or a directory")
    group.add_argument("--beam", metavar="N", type=numbers.whole, help="hypotheses kept by the decoder; 1 is greedy")
    group.add_argument("--lm", metavar="NAME", help="language model: a name, an ARPA or KenLM file, or none")
    group.add_argument("--hotword", metavar="PHRASE[:BOOST]", action="append", default=[], help="prefer it; repeatable")
    group.add_argument("--hotwords", metavar="FILE", type=Path, help="hotwords, one a line")
    group.add_argument(
        "--compute",
        choices=("auto", "float32", "int8", "cpu", "cuda"),
        default="auto",
        help="weights in float32 or in bytes on the CPU, or the GPU; auto and cpu are int8",
    )
    engine_options.add(engine)

    root = argparse.ArgumentParser(
        prog="streamasr",
        description="Live captions on your own machine.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    root.add_argument("--version", action="version", version=f"streamasr {importlib.metadata.version('streamasr')}")
    verbs = root.add_subparsers(dest="verb", metavar="VERB", required=True)

    def verb(name: str, summary: str, *parents: argparse.ArgumentParser, examples: str = "") -> argparse.ArgumentParser:
        return verbs.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            epilog=examples,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            parents=[*parents, common],
        )

    listen_options.add(
        verb("listen", "captions from microphones, a file or a pipe, live", engine, examples=listen_options.EXAMPLES)
    )
    _transcribe(verb("transcribe", "write down what is said in sound files", engine, examples=TRANSCRIBE))
    server_options.add_serve(
        verb("serve", "captions for others: browsers, subscribers, senders", engine, examples=server_options.SERVE)
    )
    server_options.add_subscribe(verb("subscribe", "the captions of a server", examples=server_options.SUBSCRIBE))
    devices = verb("devices", "list the microphones")
    devices.add_argument("--json", action="store_true", help="one JSON array")
    models = verb("models", "list the installed models")
    models.add_argument("--json", action="store_true", help="one JSON array")
    evaluate = verb("evaluate", "measure word and character errors on a manifest", engine, examples=EVALUATE)
    evaluate.add_argument("manifest", metavar="MANIFEST", type=Path)
    evaluate.add_argument("--json", action="store_true", help="one JSON object")
    bench = verb("bench", "measure speed and latency", engine, examples=BENCH)
    bench.add_argument("what", metavar="FILE|MANIFEST", nargs="?", type=Path, help="default: the bundled recording")
    bench.add_argument("--utterances", metavar="N", type=numbers.whole, help="of a manifest, at most")
    bench.add_argument("--json", action="store_true", help="one JSON object")
    bench.add_argument("--save", metavar="REPORT", type=Path, help="keep the measurements as JSON")
    bench.add_argument("--compare", metavar=("A", "B"), nargs=2, type=Path, help="two kept reports; measures nothing")
    bench.add_argument("--quick", action="store_true", help="leave out start-up, memory and many streams")
    doctor = verb("doctor", "check audio, model, GPU and versions, and say what to do", engine)
    doctor.add_argument("--json", action="store_true", help="one JSON array")
    doctor.add_argument("--fix", action="store_true", help="install PortAudio if it is missing and that is permitted")
    return root


def _transcribe(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("files", metavar="FILE", nargs="+", type=Path)
    verb.add_argument("--format", choices=("text", "json", "srt", "vtt"), default="text", help="default: %(default)s")
    verb.add_argument(
        "--output", metavar="DIR", type=Path, help="write one file for each FILE there, not to the screen"
    )
    verb.add_argument("--overwrite", action="store_true", help="replace files that exist")


def _complain(line: str, debug: bool) -> int:
    with contextlib.suppress(OSError):
        if debug:
            traceback.print_exc()
        sys.stderr.write(f"streamasr: {line}\n")
    return FAILED


def _leave_quietly() -> None:
    """Flush; where nobody reads any more, keep the interpreter from complaining about it."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
