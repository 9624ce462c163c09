"""Corpora as manifests: one line an utterance, tab-separated.

The columns are the audio's path relative to the manifest, its seconds, the speaker, and the text.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from streamasr.errors import ManifestError
from streamasr.text import normalise


@dataclass(frozen=True)
class Utterance:
    """One recorded sentence; `text` is normalised."""

    path: Path
    seconds: float
    speaker: str
    text: str


@dataclass
class Skips:
    """Why lines were left out: a count and a few names for each reason."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, name: str) -> None:
        """Count one line left out for `reason`."""
        self.counts[reason] += 1
        if len(named := self.examples.setdefault(reason, [])) < 5:
            named.append(name)

    def report(self) -> str:
        """One line a reason."""
        return "\n".join(f"  left out, {r}: {n} ({', '.join(self.examples[r])}…)" for r, n in self.counts.items())


def read_manifest(
    path: Path, *, shortest_s: float = 0.4, longest_s: float = 30.0, skips: Skips | None = None
) -> list[Utterance]:
    """Read a manifest, or the `manifest.tsv` of a directory.

    Lines that cannot be used (missing audio, no text, text the alphabet cannot spell, too long, too short, more text
    than frames) are counted in `skips` and left out.

    Raises:
        ManifestError: no such file; a line of the wrong form, with its number.
    """
    if path.is_dir():
        path = path / "manifest.tsv"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path} cannot be read ({error})", "a manifest in UTF-8", "Check the path.") from None
    skips = Skips() if skips is None else skips
    found: list[Utterance] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        columns = line.split("\t")
        if len(columns) != 4:
            raise ManifestError(
                f"{path}, line {number} has {len(columns)} columns",
                "4, tab-separated: audio path, seconds, speaker, text",
                "Correct that line.",
            )
        name, seconds_text, speaker, raw = columns
        try:
            seconds = float(seconds_text)
        except ValueError:
            raise ManifestError(
                f"{path}, line {number} has {seconds_text!r} for seconds", "a number", "Correct that line."
            ) from None
        audio, text = path.parent / name, normalise(raw)
        if not audio.is_file():
            skips.add("audio missing", name)
        elif text is None:
            skips.add("text the alphabet cannot spell", name)
        elif not text:
            skips.add("no text", name)
        elif seconds > longest_s:
            skips.add(f"longer than {longest_s:g} s", name)
        elif seconds < shortest_s:
            skips.add(f"shorter than {shortest_s:g} s", name)
        elif len(text) > seconds * 24:
            skips.add("more text than frames", name)
        else:
            found.append(Utterance(audio, seconds, speaker, text))
    return found
