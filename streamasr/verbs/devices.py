"""`streamasr devices`: the microphones that `--device` takes."""

from __future__ import annotations

import argparse
import dataclasses
import json

from streamasr.verbs import shared


def run(options: argparse.Namespace) -> int:
    """List the input devices; the default one is marked."""
    from streamasr.mic import list_devices

    found = list_devices()
    if options.json:
        shared.write(json.dumps([dataclasses.asdict(device) for device in found], indent=2) + "\n")
    return 0
