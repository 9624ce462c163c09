"""`streamasr evaluate`: word and character errors on a manifest, by the path that users take."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from streamasr.captions import clock
from streamasr.verbs import shared

if TYPE_CHECKING:
    from streamasr.evaluation import Scored


def run(options: argparse.Namespace) -> int:
    """Print what `evaluation.evaluate` measures."""
    from streamasr.evaluation import evaluate

    progress = _Progress() if sys.stderr.isatty() else None
    result = evaluate(options.manifest, shared.recogniser(options), progress=progress)
    if progress:
        progress.erase()
    if options.json:
        shared.write(json.dumps(result) + "\n")
    else:
        shared.write(
            f"word errors       {result['wer']:.2f} %\n"
            f"character errors  {result['cer']:.2f} %\n"
            f"real-time factor  {result['rtf']:.3f}\n"
            f"flickers          {result['flickers_per_minute']:.1f} a minute\n"
            f"audio             {result['seconds']:.0f} s\n"
            f"utterances        {result['utterances']}, and {result['skipped']} skipped\n"
        )
    return 0


class _Progress:
    """Counts utterances on one row of the terminal."""

    def __init__(self) -> None:
        self._utterances, self._seconds = 0, 0.0

    def __call__(self, scored: Scored) -> None:
        self._utterances, self._seconds = self._utterances + 1, self._seconds + scored.seconds
        sys.stderr.write(f"\r{self._utterances} utterances, {clock(self._seconds)}")
        sys.stderr.flush()

    def erase(self) -> None:
        sys.stderr.write("\r\x1b[K")
