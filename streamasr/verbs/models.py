"""`streamasr models`: what is installed."""

from __future__ import annotations

import argparse
import dataclasses
import json

from streamasr import bundle
from streamasr.verbs import shared


def run(options: argparse.Namespace) -> int:
    """List every model that `--model` would find."""
    found = bundle.available()
    if options.json:
        shared.write(json.dumps([dataclasses.asdict(summary) for summary in found], default=str, indent=2) + "\n")
        return 0
    if not found:
        shared.write("No model is installed.\n")
        return 0
    rows = [("name", "parameters", "lookahead", "size", "kind", "directory")]
    for summary in found:
        rows.append(
            (
                summary.name + (" (default)" if summary.name == bundle.DEFAULT_NAME else ""),
                f"{summary.parameters / 1e6:.1f} M",
                f"{summary.lookahead_ms:.0f} ms",
                f"{summary.megabytes:.1f} MB",
                "streaming" if summary.streaming else "offline",
                str(summary.path),
            )
        )
    shared.write(shared.columns(rows))
    return 0
