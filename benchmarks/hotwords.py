"""What hotwords do: errors on listed and on other words, with and without them.

    python -m benchmarks.hotwords --logits logits.npz --lm models/english-lm --boosts 0.5,1,1.5,2

The list is drawn from what was said: words that occur at most `--seldom` times there and have at least five letters,
and as many words of the language model that nobody says, so that false alarms would show.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import jiwer
import numpy as np

from streamasr.config import BeamConfig
from streamasr.ctc import Decoder
from streamasr.hotwords import BOOST
from streamasr.lm import LanguageModel
from streamasr.text import Vocab
from train import logits
from train.tune import decode


def errors(references: Sequence[str], hypotheses: Sequence[str], listed: set[str]) -> tuple[float, float, int]:
    """Percent of the listed words said that were missed, of the others (insertions included), and false alarms."""
    said, missed, other_errors, alarms = Counter[bool](), 0, 0, 0
    for reference, hypothesis in zip(references, hypotheses, strict=True):
        aligned = jiwer.process_words(reference, hypothesis or "-")
        said.update(word in listed for word in reference.split())
        for chunk in aligned.alignments[0]:
            if chunk.type == "equal":
                continue
            lost = aligned.references[0][chunk.ref_start_idx : chunk.ref_end_idx]
            got = aligned.hypotheses[0][chunk.hyp_start_idx : chunk.hyp_end_idx]
            missed += sum(word in listed for word in lost)
            other_errors += sum(word not in listed for word in lost) + max(0, len(got) - len(lost))
            alarms += sum(word in listed for word in got)
    return 100.0 * missed / max(1, said[True]), 100.0 * other_errors / max(1, said[False]), alarms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    logits.add_options(parser)
    parser.add_argument("--lm", type=Path, help="language model, in any form that streamasr reads")
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--seldom", type=int, default=2)
    parser.add_argument("--boosts", default=f"0.5,1,{BOOST},2,3")
    options = parser.parse_args()
    utterances = logits.from_options(options)
    lm = LanguageModel.load(options.lm) if options.lm else None
    counts = Counter(word for utterance in utterances for word in utterance.text.split())
    listed = sorted(word for word, count in counts.items() if count <= options.seldom and len(word) >= 5)
    unsaid = sorted({word for word in (lm.words if lm else ()) if len(word) >= 5 and word.isalpha()} - set(counts))
    unsaid = [str(word) for word in np.random.default_rng(0).permutation(unsaid)[: len(listed)]]
    references = [utterance.text for utterance in utterances]
    print(f"{len(utterances)} utterances, {len(listed)} listed words that are said, {len(unsaid)} that are not")
    print(f"{'boost':>6} {'missed, listed %':>17} {'errors, other %':>16} {'false alarms':>13}")
    for boost in (0.0, *map(float, options.boosts.split(","))):
        hotwords = dict.fromkeys([*listed, *unsaid], boost) if boost else {}
        decoder = Decoder(Vocab(), BeamConfig(width=options.width), lm=lm, hotwords=hotwords)
        hypotheses = [decode(decoder, utterance) for utterance in utterances]
        missed, others, alarms = errors(references, hypotheses, {*listed, *unsaid})
        print(f"{boost:6g} {missed:17.2f} {others:16.2f} {alarms:13d}", flush=True)


if __name__ == "__main__":
    main()
