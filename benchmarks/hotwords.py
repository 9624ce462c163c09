"""What hotwords do: errors on listed and on other words, with and without them.

    python -m benchmarks.hotwords                                     # the default model on dev/read and dev/crowd
    python -m benchmarks.hotwords --listed 50 --boosts 0.5,1,1.5,2

The list is drawn at random from what was said: words that occur at most `--seldom` times there and have at least five
letters, and as many words of the language model that nobody says, so that false alarms would show. Such words are what
people list: rare, and often missed. Prints a Markdown table; the row of boost 0 is without hotwords.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import jiwer
import numpy as np

from streamasr import bundle
from streamasr.config import BeamConfig, from_mapping
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
    logits.add_options(parser, logits.READ, logits.CROWD)
    parser.add_argument("--lm", help="language model, in any form that streamasr reads; none; default: the default one")
    parser.add_argument("--width", type=int, default=0, help="hypotheses kept; default: the model's own number")
    parser.add_argument("--seldom", type=int, default=2)
    parser.add_argument("--listed", type=int, default=100, help="words that are said on the list, and that are not")
    parser.add_argument("--boosts", default=f"0.25,0.5,{BOOST:g},1.5,2,3")
    options = parser.parse_args()
    utterances = [utterance for each in logits.sets_from(options).values() for utterance in each]
    model = bundle.find(options.model)
    config = from_mapping(BeamConfig, bundle.read_config(model).get("beam", {}), f"{model} [beam]")
    config = replace(config, width=options.width or config.width)
    lm_path = None if options.lm == "none" else bundle.find_lm(options.lm)
    lm = LanguageModel.load(lm_path) if lm_path else None
    counts = Counter(word for utterance in utterances for word in utterance.text.split())
    said = sorted(word for word, count in counts.items() if count <= options.seldom and len(word) >= 5)
    other = sorted(
        {word for word in (lm.words[: lm.tables.known] if lm else ()) if len(word) >= 5 and word.isalpha()}
        - set(counts)
    )
    random = np.random.default_rng(0)
    said, other = ([str(word) for word in random.permutation(words)[: options.listed]] for words in (said, other))
    references = [utterance.text for utterance in utterances]
    print(f"{len(utterances)} utterances, {len(said)} listed words that are said, {len(other)} that are not\n")
    print("| boost | listed words missed % | errors on other words % | false alarms |\n|---:|---:|---:|---:|")
    for boost in (0.0, *map(float, options.boosts.split(","))):
        hotwords = dict.fromkeys([*said, *other], boost) if boost else {}
        decoder = Decoder(Vocab(), config, lm=lm, hotwords=hotwords)
        hypotheses = [decode(decoder, utterance) for utterance in utterances]
        missed, others, alarms = errors(references, hypotheses, {*said, *other})
        print(f"| {boost:g} | {missed:.1f} | {others:.2f} | {alarms} |", flush=True)


if __name__ == "__main__":
    main()
