"""`streamasr doctor`: what works here, and what to do about the rest."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from importlib import resources

from streamasr import system
from streamasr.errors import StreamasrError
from streamasr.verbs import shared

FINE, NOTE, FAILED = "ok", "note", "FAILED"
SHOWN_PACKAGES = ("streamasr", "torch", "numpy", "numba", "soundfile", "soxr", "sounddevice", "rich")
FEWEST_RIGHT = 50  # per cent of the words of the bundled recording


@dataclasses.dataclass(frozen=True)
class Check:
    """One finding. A note does not keep captions from working; `advice` says what to do."""

    name: str
    state: str
    found: str
    advice: str = ""


def run(options: argparse.Namespace) -> int:
    """Print every check as it is made; 1 where one failed."""
    if options.fix:
        system.install(["portaudio"])
    checks = []
    for name, make in CHECKS.items():
        checks.append(_checked(name, make, options))
        if not options.json:
            shared.write(_line(checks[-1]))
    if options.json:
        shared.write(json.dumps([dataclasses.asdict(check) for check in checks], indent=2) + "\n")
    failed = [check.name for check in checks if check.state == FAILED]
    if not options.json:
        shared.write(f"\nTo mend: {', '.join(failed)}.\n" if failed else "\nCaptions work here.\n")
    return int(bool(failed))


def _checked(name: str, make: Callable[[str, argparse.Namespace], Check], options: argparse.Namespace) -> Check:
    try:
        return make(name, options)
    except StreamasrError as error:
        return Check(name, FAILED, error.got, error.advice)
    except Exception as error:  # a broken installation fails in ways of its own
        return Check(name, FAILED, f"{type(error).__name__}: {error}", "Install streamasr again.")


def _line(check: Check) -> str:
    line = f"{check.state:>6}  {check.name:<12} {check.found}\n"
    return line + (f"{'':21}-> {check.advice}\n" if check.advice else "")


def _python(name: str, _: argparse.Namespace) -> Check:
    return Check(name, FINE, f"{platform.python_version()} at {sys.executable}, {platform.platform(terse=True)}")


def _packages(name: str, _: argparse.Namespace) -> Check:
    return Check(
        name, FINE, ", ".join(f"{package} {importlib.metadata.version(package)}" for package in SHOWN_PACKAGES)
    )


def _sound_files(name: str, _: argparse.Namespace) -> Check:
    import soundfile

    formats = soundfile.available_formats()
    missing = [kind for kind in ("WAV", "FLAC", "OGG", "MP3") if kind not in formats]
    found = f"libsndfile {soundfile.__libsndfile_version__}"
    if missing:
        return Check(name, NOTE, f"{found} without {', '.join(missing)}", "Update soundfile: pip install -U soundfile")
    return Check(name, FINE, f"{found}: WAV, FLAC, Ogg, Opus, MP3 and {len(formats) - 4} more")


def _portaudio(name: str, _: argparse.Namespace) -> Check:
    from streamasr.devices import portaudio

    return Check(name, FINE, str(portaudio().get_portaudio_version()[1]).split(",")[0])


def _microphone(name: str, _: argparse.Namespace) -> Check:
    from streamasr.devices import list_devices

    devices = list_devices()
    if not devices:
        advice = "Plug one in, or permit access to it; `listen` plays a recording meanwhile. Files and pipes work."
        return Check(name, NOTE, "none", advice)
    default = next((device for device in devices if device.default), devices[0])
    return Check(name, FINE, f"{default.name}; {len(devices)} in all (see: streamasr devices)")


def _model(name: str, options: argparse.Namespace) -> Check:
    from streamasr import bundle

    path = bundle.find(options.model)
    bundle.verify(path)
    summary = next((summary for summary in bundle.available() if summary.path == path), None)
    about = f", {summary.parameters / 1e6:.1f} M parameters, lookahead {summary.lookahead_ms:.0f} ms" if summary else ""
    return Check(name, FINE, f"{path.name}{about}; checksums are right")


def _gpu(name: str, _: argparse.Namespace) -> Check:
    import torch

    if not torch.cuda.is_available():
        return Check(name, FINE, "none; the processor is enough")
    return Check(name, FINE, f"{torch.cuda.get_device_name(0)} (use it with --compute cuda)")


def _recognition(name: str, options: argparse.Namespace) -> Check:
    """The bundled recording through the whole path."""
    import jiwer

    from streamasr.audio import read_whole
    from streamasr.events import Final

    folder = resources.files("streamasr") / "data"
    samples = read_whole(str(folder / "welcome.opus"))
    spoken = " ".join((folder / "welcome.txt").read_text(encoding="utf-8").split())
    engine = shared.recogniser(options)
    engine.feed(samples[:16_000], engine.start())  # loads all
    began = time.perf_counter()
    events, state = engine.feed(samples, engine.start())
    events = [*events, *engine.finish(state)]
    factor = (time.perf_counter() - began) / (len(samples) / 16_000)
    text = " ".join(event.text for event in events if isinstance(event, Final))
    right = 100 * (1 - jiwer.wer(spoken, text))
    found = f"{right:.0f} % of the bundled recording is right, at {factor:.2f} of real time"
    if right < FEWEST_RIGHT:
        return Check(name, FAILED, found, "Choose another model (see: streamasr models), or install it again.")
    if factor > 0.8:
        return Check(name, NOTE, found, "Captions will lag: close other programs, or take a smaller model or beam.")
    return Check(name, FINE, found)


def _terminal(name: str, _: argparse.Namespace) -> Check:
    kind = os.environ.get("TERM", "")
    if not sys.stdout.isatty():
        return Check(name, FINE, "none here: captions would be plain lines")
    if kind in ("", "dumb", "unknown"):
        return Check(
            name, NOTE, f"TERM is {kind!r}: captions are plain lines", "Set TERM, for example to xterm-256color."
        )
    return Check(name, FINE, f"{kind}, {os.get_terminal_size().columns}x{os.get_terminal_size().lines}")


CHECKS: dict[str, Callable[[str, argparse.Namespace], Check]] = {
    "python": _python,
    "packages": _packages,
    "sound files": _sound_files,
    "portaudio": _portaudio,
    "microphone": _microphone,
    "terminal": _terminal,
    "model": _model,
    "gpu": _gpu,
    "recognition": _recognition,
}
