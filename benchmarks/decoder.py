"""Our decoder and its peers on the same log-probabilities, in one run: time and word errors, as a Markdown table.

    uv pip install --no-deps pyctcdecode pygtrie flashlight-text kenlm   # the peers; what is missing is left out
    python -m benchmarks.decoder                                         # the default model on dev/read
    python -m benchmarks.decoder --limit 40 --beams 16

Each utterance goes through all decoders before the next one does, in an order that changes, so that other work on the
machine meets all of them alike. Times are processor times of one thread; the CUDA decoder of torchaudio, where there is
a GPU, is timed by the clock. Each decoder prunes as it does by default, and all weigh the language model as the model's
config.json says. The network's time is that of a stream in chunks of 160 ms on one core, in int8 as users have it.
"""

from __future__ import annotations

import argparse
import logging
import math
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamasr import bundle
from streamasr.config import BeamConfig, from_mapping
from streamasr.ctc import FRAME_S, Decoder
from streamasr.lm import LanguageModel
from streamasr.text import Vocab
from train import logits

Decode = Callable[[NDArray[np.float32]], str]
Build = Callable[[int], Decode]
VOCAB = Vocab()
CHUNK_S = 0.16


class Words:
    """A language model as the peers want it: KenLM's ARPA file and a list of words."""

    def __init__(self, lm: LanguageModel, folder: Path) -> None:
        self.path = str(folder / "lm.arpa")
        lm.save_arpa(self.path)
        self.words = [word for word in lm.words[3 : lm.tables.known] if word]


def ours(width: int, lm: LanguageModel | None, config: BeamConfig, chunk: int = 0) -> Decode:
    decoder = Decoder(VOCAB, replace(config, width=width), lm=lm)

    def decode(log_probs: NDArray[np.float32]) -> str:
        state = decoder.start()
        for begin in range(0, len(log_probs), chunk or len(log_probs)):
            state = decoder.step(log_probs[begin : begin + (chunk or len(log_probs))], state)
        return " ".join(word.text for word in decoder.finish(state)[0])

    return decode


def pyctcdecode(words: Words | None, config: BeamConfig) -> Build:
    from pyctcdecode import build_ctcdecoder

    logging.getLogger("pyctcdecode").setLevel(logging.ERROR)
    labels = ["", *VOCAB.tokens[1:]]
    if words:
        decoder = build_ctcdecoder(labels, words.path, words.words, alpha=config.alpha, beta=config.beta)
    else:
        decoder = build_ctcdecoder(labels)
    return lambda width: lambda log_probs: " ".join(decoder.decode(log_probs, beam_width=width).split())


def flashlight(words: Words | None, config: BeamConfig) -> Build:
    from flashlight.lib.text import decoder as fl
    from flashlight.lib.text.dictionary import Dictionary, create_word_dict

    tokens = ["<blank>", "|", *VOCAB.tokens[2:]]
    blank, space = 0, VOCAB.space
    if words:
        lexicon = {word: [*word, "|"] for word in words.words}
        numbers = create_word_dict({word: [] for word in [*lexicon, "<unk>"]})
        lm = fl.KenLM(words.path, numbers)
        trie, start = fl.Trie(len(tokens), space), lm.start(False)
        index = Dictionary(tokens)
        for word, spelling in lexicon.items():
            number = numbers.get_index(word)
            _, score = lm.score(start, number)
            trie.insert([index.get_index(token) for token in spelling], number, score)
        trie.smear(fl.SmearingMode.MAX)
        unknown, alpha = numbers.get_index("<unk>"), config.alpha * math.log(10)  # it weighs decimal logarithms

    def build(width: int) -> Decode:
        if words:
            options = fl.LexiconDecoderOptions(
                width, len(tokens), 25.0, alpha, config.beta, -np.inf, 0.0, True, fl.CriterionType.CTC
            )
            decoder = fl.LexiconDecoder(options, trie, lm, space, blank, unknown, [], False)
        else:
            free = fl.LexiconFreeDecoderOptions(width, len(tokens), 25.0, 0.0, 0.0, True, fl.CriterionType.CTC)
            decoder = fl.LexiconFreeDecoder(free, fl.ZeroLM(), space, blank, [])

        def decode(log_probs: NDArray[np.float32]) -> str:
            rows = np.ascontiguousarray(log_probs)
            best = decoder.decode(rows.ctypes.data, *rows.shape)[0]
            return " ".join(VOCAB.collapse(list(best.tokens)[1:-1]).split())

        return decode

    return build


def torchaudio_cuda(words: Words | None, _: BeamConfig) -> Build:
    import torch
    from torchaudio.models.decoder import cuda_ctc_decoder

    if words or not torch.cuda.is_available():
        raise ImportError("it takes no language model" if words else "there is no GPU")

    def build(width: int) -> Decode:
        decoder = cuda_ctc_decoder(list(VOCAB.tokens), nbest=1, beam_size=width)

        def decode(log_probs: NDArray[np.float32]) -> str:
            rows = torch.from_numpy(log_probs)[None].cuda()
            lengths = torch.tensor([len(log_probs)], dtype=torch.int32).cuda()
            best = decoder(rows, lengths)[0][0]
            return " ".join(VOCAB.decode(best.tokens).split())

        return decode

    return build


PEERS: dict[str, Any] = {
    "pyctcdecode": pyctcdecode,
    "flashlight-text": flashlight,
    "torchaudio CUDA": torchaudio_cuda,
}


class Contestant(NamedTuple):
    """A row of the table; `decode` is None where it was left out, for the reason in `missing`."""

    name: str
    width: int
    lm: str
    decode: Decode | None
    missing: str = ""
    clock: Callable[[], float] = time.process_time


def line_up(
    widths: Sequence[int], lm: LanguageModel | None, config: BeamConfig, words: Words | None
) -> list[Contestant]:
    """Every decoder at every width, with and without the language model."""
    rows = [Contestant("streamasr, greedy", 1, "no", ours(1, None, config))]
    for shown, model, listed in [("no", None, None)] + ([("yes", lm, words)] if lm else []):
        builds: dict[str, Build | str] = {}
        for peer, prepare in PEERS.items():
            try:
                builds[peer] = prepare(listed, config)
            except ImportError as missing:
                builds[peer] = str(missing)
        for width in widths:
            rows.append(Contestant("streamasr", width, shown, ours(width, model, config)))
            rows.append(Contestant("streamasr, 4 frames a call", width, shown, ours(width, model, config, 4)))
            for peer, build in builds.items():
                if isinstance(build, str):
                    rows.append(Contestant(peer, width, shown, None, build))
                else:
                    clock = time.perf_counter if "CUDA" in peer else time.process_time
                    rows.append(Contestant(peer, width, shown, build(width), clock=clock))
    return rows


def run(rows: Sequence[Contestant], utterances: Sequence[logits.Utterance]) -> tuple[list[float], list[list[str]]]:
    """Seconds that each contestant took, and its texts."""
    for row in rows:
        if row.decode:
            row.decode(utterances[0].log_probs)
    busy_s, texts = [0.0] * len(rows), [[""] * len(utterances) for _ in rows]
    for place, utterance in enumerate(utterances):
        for turn in range(len(rows)):
            number = (turn + place) % len(rows)
            decode, clock = rows[number].decode, rows[number].clock
            if decode:
                began = clock()
                texts[number][place] = decode(utterance.log_probs)
                busy_s[number] += clock() - began
    return busy_s, texts


def word_errors(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Word error rate in percent."""
    import jiwer

    return 100.0 * float(jiwer.wer(list(references), list(hypotheses)))


def network_ms(model: Path, seconds: float = 20.0) -> float:
    """Milliseconds of one core that the network takes for a second of a stream, whatever is heard; the median chunk."""
    import torch

    network = bundle.load(str(model), precision="int8").model
    samples = round(CHUNK_S * network.features.config.rate_hz)
    sound = torch.from_numpy(np.random.default_rng(0).normal(0, 0.05, (1, samples)).astype(np.float32))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    state, took = network.init_state(1), []
    with torch.inference_mode():
        for _ in range(round(seconds / CHUNK_S)):
            began = time.process_time()
            _, state = network.step(sound, state)
            took.append(time.process_time() - began)
    torch.set_num_threads(threads)
    return 1000.0 * float(np.median(took)) / CHUNK_S


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    logits.add_options(parser, logits.READ)
    parser.add_argument("--lm", help="language model, in any form that streamasr reads; none; default: the default one")
    parser.add_argument("--beams", default="16,64")
    for name in ("alpha", "beta", "unknown", "prune", "drop"):
        parser.add_argument(f"--{name}", type=float, help="default: the model's own number")
    options = parser.parse_args()
    model = bundle.find(options.model)
    config = from_mapping(BeamConfig, bundle.read_config(model).get("beam", {}), f"{model} [beam]")
    given = {name: getattr(options, name) for name in ("alpha", "beta", "unknown", "prune", "drop")}
    config = replace(config, **{name: value for name, value in given.items() if value is not None})
    sets = logits.sets_from(options)
    utterances = [utterance for each in sets.values() for utterance in each]
    seconds = sum(len(u.log_probs) for u in utterances) * FRAME_S
    lm_path = None if options.lm == "none" else bundle.find_lm(options.lm)
    lm = LanguageModel.load(lm_path) if lm_path else None
    network = network_ms(model)
    with tempfile.TemporaryDirectory() as folder:
        print("building the peers", file=sys.stderr, flush=True)
        rows = line_up([*map(int, options.beams.split(","))], lm, config, Words(lm, Path(folder)) if lm else None)
        busy_s, texts = run(rows, utterances)
    print(f"{' and '.join(sets)}: {len(utterances)} utterances, {seconds:.0f} s of audio; model {model.name}, ", end="")
    print(f"alpha {config.alpha:g}, beta {config.beta:g}; the network takes {network:.1f} ms for a second of it\n")
    print("| decoder | beam | language model | us a frame | ms a second | of the network's time | x ours | WER % |")
    print("|---|---:|---|---:|---:|---:|---:|---:|")
    base = {(row.width, row.lm): took for row, took in zip(rows, busy_s, strict=True) if row.name == "streamasr"}
    for row, took, found in zip(rows, busy_s, texts, strict=True):
        if row.decode is None:
            print(f"| {row.name} | {row.width} | {row.lm} | left out: {row.missing} | | | | |")
            continue
        cost_ms = 1000.0 * took / seconds
        cells = [row.name, str(row.width), row.lm, f"{1000.0 * cost_ms * FRAME_S:.2f}", f"{cost_ms:.3f}"]
        cells.append(f"{100.0 * cost_ms / network:.1f} %")
        cells.append(f"{took / base[row.width, row.lm]:.1f}" if (row.width, row.lm) in base else "")
        cells.append(f"{word_errors([u.text for u in utterances], found):.2f}")
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
