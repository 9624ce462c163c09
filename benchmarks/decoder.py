"""Our decoder and its peers on the same log-probabilities: time for a second of audio, and word errors.

    pip install pyctcdecode flashlight-text kenlm   # the peers; those that are missing are left out
    python -m benchmarks.decoder --model models/small --manifest MANIFEST --save logits.npz
    python -m benchmarks.decoder --logits logits.npz --lm models/english-lm

Times are processor times of one thread, so that other work on the machine does not count; the CUDA decoder of
torchaudio, where there is a GPU, is timed by the clock. Each decoder runs with the pruning that it has by default.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamasr.config import BeamConfig
from streamasr.ctc import FRAME_S, Decoder
from streamasr.lm import LanguageModel
from streamasr.text import Vocab
from train import logits

Decode = Callable[[NDArray[np.float32]], str]
VOCAB = Vocab()


class Words:
    """A language model as the peers want it: KenLM's ARPA file and a list of words."""

    def __init__(self, lm: LanguageModel, folder: Path) -> None:
        self.path = str(folder / "lm.arpa")
        lm.save_arpa(self.path)
        self.words = [word for word in lm.words[3:] if word]


def ours(width: int, lm: LanguageModel | None, config: BeamConfig, chunk: int = 0) -> Decode:
    decoder = Decoder(
        VOCAB,
        BeamConfig(width=width, prune=config.prune, drop=config.drop, alpha=config.alpha, beta=config.beta),
        lm=lm,
    )

    def decode(log_probs: NDArray[np.float32]) -> str:
        state = decoder.start()
        for begin in range(0, len(log_probs), chunk or len(log_probs)):
            state = decoder.step(log_probs[begin : begin + (chunk or len(log_probs))], state)
        return " ".join(word.text for word in decoder.finish(state)[0])

    return decode


def pyctcdecode(width: int, words: Words | None, config: BeamConfig) -> Decode:
    import logging

    from pyctcdecode import build_ctcdecoder

    logging.getLogger("pyctcdecode").setLevel(logging.ERROR)
    labels = ["", *VOCAB.tokens[1:]]
    if words:
        decoder = build_ctcdecoder(labels, words.path, words.words, alpha=config.alpha, beta=config.beta)
    else:
        decoder = build_ctcdecoder(labels)
    return lambda log_probs: " ".join(decoder.decode(log_probs, beam_width=width).split())


def flashlight(width: int, words: Words | None, config: BeamConfig) -> Decode:
    from flashlight.lib.text import decoder as fl
    from flashlight.lib.text.dictionary import Dictionary, create_word_dict

    tokens = ["<blank>", "|", *VOCAB.tokens[2:]]
    blank, space = 0, VOCAB.space
    if words is None:
        free = fl.LexiconFreeDecoderOptions(width, len(tokens), 25.0, 0.0, 0.0, True, fl.CriterionType.CTC)
        decoder = fl.LexiconFreeDecoder(free, fl.ZeroLM(), space, blank, [])
    else:
        lexicon = {word: [[*word, "|"]] for word in [*words.words, "<unk>"]}
        numbers = create_word_dict(lexicon)
        lm = fl.KenLM(words.path, numbers)
        trie, start = fl.Trie(len(tokens), space), lm.start(False)
        index = Dictionary(tokens)
        for word, spellings in lexicon.items():
            if word != "<unk>":
                number = numbers.get_index(word)
                _, score = lm.score(start, number)
                trie.insert([index.get_index(t) for t in spellings[0]], number, score)
        trie.smear(fl.SmearingMode.MAX)
        options = fl.LexiconDecoderOptions(
            width, len(tokens), 25.0, config.alpha, config.beta, -np.inf, 0.0, True, fl.CriterionType.CTC
        )
        unknown = numbers.get_index("<unk>")
        decoder = fl.LexiconDecoder(options, trie, lm, space, blank, unknown, [], False)

    def decode(log_probs: NDArray[np.float32]) -> str:
        rows = np.ascontiguousarray(log_probs)
        best = decoder.decode(rows.ctypes.data, *rows.shape)[0]
        return " ".join(VOCAB.collapse(list(best.tokens)[1:-1]).split())

    return decode


def torchaudio_cuda(width: int, words: Words | None, _: BeamConfig) -> Decode:
    import torch
    from torchaudio.models.decoder import cuda_ctc_decoder

    if words or not torch.cuda.is_available():
        raise ImportError("it takes no language model" if words else "there is no GPU")
    decoder = cuda_ctc_decoder(list(VOCAB.tokens), nbest=1, beam_size=width)

    def decode(log_probs: NDArray[np.float32]) -> str:
        rows = torch.from_numpy(log_probs)[None].cuda()
        lengths = torch.tensor([len(log_probs)], dtype=torch.int32).cuda()
        best = decoder(rows, lengths)[0][0]
        return " ".join(VOCAB.decode(best.tokens).split())

    return decode


PEERS: dict[str, Any] = {
    "pyctcdecode": pyctcdecode,
    "flashlight-text": flashlight,
    "torchaudio CUDA": torchaudio_cuda,
}


def word_errors(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Word error rate in percent."""
    import jiwer

    return 100.0 * float(jiwer.wer(list(references), list(hypotheses)))


def measure(decode: Decode, utterances: Sequence[logits.Utterance], clock: Callable[[], float]) -> tuple[float, float]:
    """Milliseconds for a second of audio, and word error rate in percent."""
    decode(utterances[0].log_probs)
    began = clock()
    texts = [decode(u.log_probs) for u in utterances]
    busy_s = clock() - began
    seconds = sum(len(u.log_probs) for u in utterances) * FRAME_S
    return 1000.0 * busy_s / seconds, word_errors([u.text for u in utterances], texts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    logits.add_options(parser)
    parser.add_argument("--lm", type=Path, help="language model, in any form that streamasr reads")
    parser.add_argument("--beams", default="16,64")
    names = ("alpha", "beta", "unknown", "prune", "drop")
    for name in names:
        parser.add_argument(f"--{name}", type=float, default=getattr(BeamConfig, name))
    options = parser.parse_args()
    utterances = logits.from_options(options)
    config = BeamConfig(**{name: getattr(options, name) for name in names})
    lm = LanguageModel.load(options.lm) if options.lm else None
    print(f"{len(utterances)} utterances, {sum(len(u.log_probs) for u in utterances) * FRAME_S:.0f} s of audio")
    print(f"{'decoder':28} {'beam':>5} {'LM':>4} {'ms/s':>9} {'x ours':>8} {'WER %':>7}")
    cost, errors = measure(ours(1, None, config), utterances, time.process_time)
    print(f"{'streamasr, greedy':28} {1:5d} {'no':>4} {cost:9.3f} {'':>8} {errors:7.2f}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        words = Words(lm, Path(folder)) if lm else None
        for width in map(int, options.beams.split(",")):
            for with_lm in (False, True) if lm else (False,):
                name = "yes" if with_lm else "no"
                base, errors = measure(ours(width, lm if with_lm else None, config), utterances, time.process_time)
                print(f"{'streamasr':28} {width:5d} {name:>4} {base:9.3f} {1.0:8.1f} {errors:7.2f}", flush=True)
                chunked = ours(width, lm if with_lm else None, config, chunk=4)
                cost, errors = measure(chunked, utterances, time.process_time)
                shown = "streamasr, 4 frames a call"
                print(f"{shown:28} {width:5d} {name:>4} {cost:9.3f} {cost / base:8.1f} {errors:7.2f}", flush=True)
                for peer, build in PEERS.items():
                    clock = time.perf_counter if "CUDA" in peer else time.process_time
                    try:
                        cost, errors = measure(build(width, words if with_lm else None, config), utterances, clock)
                    except ImportError as missing:
                        print(f"{peer:28} {width:5d} {name:>4}   left out: {missing}", flush=True)
                        continue
                    print(f"{peer:28} {width:5d} {name:>4} {cost:9.3f} {cost / base:8.1f} {errors:7.2f}", flush=True)


if __name__ == "__main__":
    main()
