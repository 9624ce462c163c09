"""`streamasr bench`: speed and latency, as a table and small plots, or as JSON."""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path
from typing import Any

from streamasr.errors import ManifestError, OutputError
from streamasr.verbs import shared

BINS_MS = (0, 200, 300, 400, 500, 600, 800, 1000, 1500, 2000, 4000)
WIDTH = 40  # columns of the longest bar


def run(options: argparse.Namespace) -> int:
    """Measure, or compare what was measured."""
    if options.compare:
        before, after = (read(path) for path in options.compare)
        if options.json:
            shared.write(json.dumps({"before": flat(before), "after": flat(after)}) + "\n")
        else:
            _show_comparison(before, after, [path.name for path in options.compare])
        return 0
    from streamasr.bench import measure

    engine = shared.recogniser(options)
    report = {"compute": options.compute, **measure(engine, options.what, options.utterances or 0, options.quick)}
    if options.save:
        try:
            options.save.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise OutputError(
                f"{options.save} cannot be written ({error.strerror})", "a file", "Correct --save."
            ) from None
    if options.json:
        shared.write(json.dumps(report) + "\n")
    else:
        _show(report)
    return 0


def read(path: Path) -> dict[str, Any]:
    """A kept report.

    Raises:
        ManifestError: the file cannot be read, or is no report.
    """
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ManifestError(f"{path} cannot be read ({error})", "a report of bench --save", "Check it.") from None
    if not isinstance(report, dict) or "rtf" not in report:
        raise ManifestError(f"{path} is no report", "a file of `streamasr bench --save`", "Check the path.")
    return report


def flat(report: dict[str, Any]) -> dict[str, float]:
    """The figures of a report by name, less is better but for `streams`."""
    figures = {f"real-time factor, chunks of {chunk} s": value for chunk, value in report["rtf"].items()}
    for key, name in (
        ("shown_ms", "word shown"),
        ("committed_ms", "word final"),
        ("first_partial_ms", "first words shown"),
        ("speech_end_to_final_ms", "end of speech to final"),
    ):
        figures |= {f"{name}, {q}, ms": value for q, value in report["latency"].get(key, {}).items()}
    if "streams" in report:
        figures[f"streams on {report['streams_on']}"] = report["streams"]["streams"]
    start = report.get("start", {})
    names = {"listening_s": "start to listening, s", "loaded_s": "start to all loaded, s", "memory_mb": "memory, MB"}
    return figures | {names[key]: value for key, value in start.items() if key in names}


def bars(seconds: list[float]) -> list[tuple[str, int]]:
    """A histogram: bins in milliseconds, and how many fall in each; empty ones at the ends are left out."""
    edges = [-1e9, *BINS_MS[1:], 1e9]
    names = [f"<{BINS_MS[1]}", *(f"{a}-{b}" for a, b in itertools.pairwise(BINS_MS[1:])), f">{BINS_MS[-1]}"]
    counts = [sum(a <= 1000 * s < b for s in seconds) for a, b in itertools.pairwise(edges)]
    filled = [number for number, count in enumerate(counts) if count]
    return list(zip(names, counts, strict=True))[filled[0] : filled[-1] + 1] if filled else []


def _show(report: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console.print(f"{report['model']} ({report['compute']}), {report['audio']}, {report['audio_s']} s")
    console.print(f"{report['machine']}; load {report['load']}", highlight=False)
    table = Table("measured", "", box=None)
    table.columns[1].justify = "right"
    for name, value in flat(report).items():
        table.add_row(name, f"{value:g}")
    console.print(table)
    for key, name in (("shown_s", "shown"), ("committed_s", "final")):
        found = bars(report["latency"][key])
        most = max((count for _, count in found), default=1)
        console.print(f"\nwords {name} so many ms after their end", highlight=False)
        for label, count in found:
            console.print(f"{label:>10} {'█' * round(WIDTH * count / most)} {count}", highlight=False)
    if "streams" in report:
        console.print(f"\np99 of the wait with so many streams on {report['streams_on']} (simulated clock)")
        most = max(report["streams"]["p99_ms"].values())
        for streams, p99 in report["streams"]["p99_ms"].items():
            console.print(f"{streams:>10} {'█' * round(WIDTH * p99 / most)} {p99:g} ms", highlight=False)


def _show_comparison(before: dict[str, Any], after: dict[str, Any], names: list[str]) -> None:
    from rich.console import Console
    from rich.table import Table

    old, new = flat(before), flat(after)
    table = Table("measured", *names, "ratio", box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    for name in old:
        if name in new:
            ratio = f"{new[name] / old[name]:.2f}" if old[name] else ""
            table.add_row(name, f"{old[name]:g}", f"{new[name]:g}", ratio)
    Console().print(table)
