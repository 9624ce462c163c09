"""`streamasr evaluate`: word and character errors on a manifest, by the path that users take."""

from __future__ import annotations

import argparse
import json

from streamasr.verbs import shared


def run(options: argparse.Namespace) -> int:
    """Print what `evaluation.evaluate` measures."""
    from streamasr.evaluation import evaluate

    result = evaluate(options.manifest, shared.recogniser(options))
    if options.json:
        shared.write(json.dumps(result) + "\n")
    else:
        shared.write(
            f"word errors       {result['wer']:.2f} %\n"
            f"character errors  {result['cer']:.2f} %\n"
            f"real-time factor  {result['rtf']:.3f}\n"
            f"audio             {result['seconds']:.0f} s in {result['utterances']} utterances\n"
        )
    return 0
