"""`streamasr devices`: the microphones that `--device` takes."""

from __future__ import annotations

import argparse
import dataclasses
import json

from streamasr.verbs import shared


def run(options: argparse.Namespace) -> int:
    """List the input devices; the default one is marked."""
    from streamasr.devices import list_devices

    found = list_devices()
    if options.json:
        shared.write(json.dumps([dataclasses.asdict(device) for device in found], indent=2) + "\n")
        return 0
    if not found:
        shared.write("No input device. Plug a microphone in; files and pipes work without one (--source).\n")
        return 0
    rows = [("", "number", "name", "channels", "rate", "through")]
    for device in found:
        mark = "*" if device.default else ""
        rate = f"{device.rate_hz:.0f} Hz"
        rows.append((mark, str(device.number), device.name, str(device.channels), rate, device.host))
    shared.write(shared.columns(rows))
    return 0
