"""Train the recurrent language model that the beam mixes with the n-grams: `make rnn-lm`, or `python -m train.rnn_lm`.

    python -m train.rnn_lm --hours 1                       # beside the n-grams of models/english-lm
    python -m train.rnn_lm --hours 0.5 --start-from models/english-lm --name more    # goes on from what was released

It reads the texts that `train.lm` reads, and leaves the same lines out. The words that are told are compared with some
that are drawn at random (importance sampling: Bengio, Senécal, "Adaptive Importance Sampling to Accelerate Training of
a Neural Probabilistic Language Model", 2008), and the sum over all words is held near one, as `streamasr.rnn_lm` needs.
The rate falls with the time that is left. A run that was cut off goes on from its checkpoint.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from streamasr.dense import rounded
from streamasr.errors import BundleError, StreamasrError
from streamasr.ngram import END, START, UNKNOWN
from streamasr.rnn_lm import FILE, RnnLm, read_rnn, write_rnn
from train import checkpoint
from train.data import cache_root
from train.lm import DEFAULT_HELD_OUT, DEFAULT_TEXT, choose_words, numbers_of, read_lines, read_texts

LONGEST = 60  # words of a sentence
BLOCK = 40_000  # sentences that are sorted by length together
BATCH = 1_600  # words
WARMUP_STEPS = 300
FALLING = 0.75  # share of the time in which the rate falls
HOLD = 0.05  # weight of the square of the sum's logarithm
IGNORED = -1
SIZES = "embedding.weight", "memory.weight_hh_l0"  # their columns: numbers of a word, and cells


class Network(nn.Module):
    """Words (B, T) to vectors (B, T, D), to be multiplied with those of words; see `streamasr.rnn_lm`.

    Args:
        shares: (V,) of the words in the text, for the biases.
    """

    def __init__(self, shares: Tensor, size: int, cells: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.embedding = nn.Embedding(len(shares), size)
        nn.init.normal_(self.embedding.weight, 0.0, 0.05)
        self.memory, self.out = nn.LSTM(size, cells, batch_first=True), nn.Linear(cells, size)
        self.bias, self.dropout = nn.Parameter(torch.log(shares + 1e-9)), nn.Dropout(dropout)

    def forward(self, heard: Tensor) -> Tensor:
        vectors, _ = self.memory(self.dropout(self.embedding(heard)))
        return self.dropout(self.out(vectors))  # type: ignore[no-any-return]

    def log_probs(self, vectors: Tensor) -> Tensor:
        """Vectors (N, D) to log-probabilities (N, V) of all words, normalised."""
        logits = vectors @ self.embedding.weight.t() + self.bias
        logits[:, START] = -math.inf
        return torch.log_softmax(logits, 1)

    def loss(self, heard: Tensor, told: Tensor, drawn: Tensor, log_shares: Tensor) -> tuple[Tensor, Tensor]:
        """Words (B, T) and those after them, `IGNORED` where there are none: cross-entropy, and what holds the sum.

        Args:
            drawn: (K,) words to compare with. `log_shares`: (V,) the log of how often each of them is drawn.
        """
        known = told != IGNORED
        vectors, told = self(heard)[known], told[known]
        others = vectors @ self.embedding.weight[drawn].t() + (self.bias - log_shares)[drawn]
        others = others.masked_fill(told[:, None] == drawn, -math.inf)
        mine = (vectors * self.embedding.weight[told]).sum(1) + self.bias[told]
        whole = torch.logsumexp(torch.cat([others, mine[:, None]], 1), 1)
        return (whole - mine).mean(), HOLD * whole.square().mean()


def exported(network: Network, words: Sequence[str]) -> RnnLm:
    """The network as the beam takes it."""
    weights = {name: tensor.detach().float() for name, tensor in network.state_dict().items()}

    def matrix(weight: Tensor) -> list[NDArray[Any]]:
        return [part.numpy() for part in rounded(weight)]

    return RnnLm(
        tuple(words),
        *matrix(weights["embedding.weight"]),
        weights["bias"].numpy(),
        *matrix(torch.cat([weights["memory.weight_ih_l0"], weights["memory.weight_hh_l0"]], 1)),
        (weights["memory.bias_ih_l0"] + weights["memory.bias_hh_l0"]).numpy(),
        *matrix(weights["out.weight"]),
        weights["out.bias"].numpy(),
    )


def imported(rnn: RnnLm) -> dict[str, Any]:
    """A checkpoint to begin with: the weights of a released model, which `exported` rounds to the same bytes."""

    def matrix(rows: NDArray[Any], scale: NDArray[Any]) -> Tensor:
        return torch.from_numpy(rows.astype(np.float32) * scale[:, None])

    size = rnn.embedding.shape[1]
    gates = matrix(rnn.gates, rnn.gates_scale)
    network = {
        "embedding.weight": matrix(rnn.embedding, rnn.scale),
        "bias": torch.from_numpy(rnn.bias.copy()),
        "memory.weight_ih_l0": gates[:, :size],
        "memory.weight_hh_l0": gates[:, size:],
        "memory.bias_ih_l0": torch.from_numpy(rnn.gates_bias.copy()),
        "memory.bias_hh_l0": torch.zeros(4 * rnn.cells),
        "out.weight": matrix(rnn.out, rnn.out_scale),
        "out.bias": torch.from_numpy(rnn.out_bias.copy()),
    }
    return {"network": network, "words": list(rnn.words)}


def begun(start: str) -> dict[str, Any]:
    """The checkpoint to begin with: of a run, by its name, or of a folder with a released model.

    Raises:
        BundleError: there is neither.
    """
    path = cache_root() / "runs" / start / "latest.pt"
    if path.exists():
        return checkpoint.load(path)
    if rnn := read_rnn(Path(start)):
        return imported(rnn)
    expected = f"the name of a run, or a folder with {FILE}"
    raise BundleError(f"there is neither {path} nor {Path(start) / FILE}", expected, "Correct --start-from.")


def numbered(sentences: Sequence[str], words: Sequence[str]) -> list[NDArray[np.int32]]:
    """Sentences as numbers of words, without those that are empty or too long."""
    numbers = {word: at for at, word in enumerate(words) if at > END}
    lines = (np.array([numbers.get(word, UNKNOWN) for word in line.split()], np.int32) for line in sentences)
    return [line for line in lines if 0 < len(line) <= LONGEST]


def shares_of(texts: Sequence[Sequence[NDArray[np.int32]]], weights: Sequence[float], size: int) -> Tensor:
    """How often each word, and the end, comes in the mixture of the texts: (V,), their sum is 1."""
    shares = np.zeros(size)
    for lines, weight in zip(texts, weights, strict=True):
        counts = np.bincount(np.concatenate(lines), minlength=size).astype(float)
        counts[END] = len(lines)
        shares += weight * counts / counts.sum()
    return torch.from_numpy(shares / shares.sum()).float()


def batches(lines: Sequence[NDArray[np.int32]], random: np.random.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """All sentences once, those of similar length together; see `packed`."""
    order = random.permutation(len(lines))
    for begin in range(0, len(order), BLOCK):
        block = sorted(order[begin : begin + BLOCK].tolist(), key=lambda at: len(lines[at]))
        groups, at = [], 0
        while at < len(block):
            count = max(1, BATCH // (len(lines[block[min(len(block) - 1, at + BATCH // 8)]]) + 1))
            groups.append(block[at : at + count])
            at += count
        for place in random.permutation(len(groups)):
            yield packed([lines[at] for at in groups[place]])


def packed(lines: Sequence[NDArray[np.int32]]) -> tuple[Tensor, Tensor]:
    """Sentences side by side, (B, T + 1): what is heard, and what is told then."""
    heard = np.full((len(lines), max(map(len, lines)) + 1), END, np.int64)
    told = np.full(heard.shape, IGNORED, np.int64)
    for row, line in enumerate(lines):
        heard[row, 0], heard[row, 1 : len(line) + 1] = START, line
        told[row, : len(line)], told[row, len(line)] = line, END
    return torch.from_numpy(heard), torch.from_numpy(told)


@torch.no_grad()
def perplexity(network: Network, lines: Sequence[NDArray[np.int32]]) -> tuple[float, float]:
    """Perplexity over known words and ends, and the deviation of the logarithm of the sum that should be one."""
    network.eval()
    total, count, sums = 0.0, 0, []
    for begin in range(0, len(lines), 16):
        heard, told = packed(lines[begin : begin + 16])
        known = told > UNKNOWN
        vectors = network(heard)[known]
        log_probs = network.log_probs(vectors)
        total -= float(log_probs.gather(1, told[known][:, None]).sum())
        count += len(vectors)
        sums.append((vectors @ network.embedding.weight.t() + network.bias)[:, UNKNOWN] - log_probs[:, UNKNOWN])
    network.train()
    return math.exp(total / max(1, count)), float(torch.cat(sums).std())


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; 0 when all went well."""
    options = _options(arguments)
    try:
        return _train(options)
    except OSError as error:
        print(f"{error.filename}: {error.strerror}", file=sys.stderr)
    except StreamasrError as error:
        print(f"train.rnn_lm: {error}", file=sys.stderr)
    return 1


def _train(options: argparse.Namespace) -> int:
    held_out = {Path(path).parent.name or path: list(read_lines(Path(path))) for path in options.held_out}
    texts = read_texts(options.text, held_out.values())
    path = cache_root() / "runs" / options.name / "latest.pt"
    start: str | None = options.start_from
    saved = checkpoint.load(path) if path.exists() else begun(start) if start else None
    words = saved["words"] if saved else choose_words(texts, options.words)
    lines = [numbered(text.sentences, words) for text in texts]
    measured = {name: numbered(sentences, words) for name, sentences in held_out.items()}
    shares = shares_of(lines, [text.weight for text in texts], len(words))
    repeats = [*options.repeat, *[1] * len(texts)]
    heard_lines = [line for own, times in zip(lines, repeats, strict=False) for line in own * times]
    print(f"{len(words)} words; {len(heard_lines)} sentences an epoch, {sum(map(len, heard_lines))} words", flush=True)

    torch.manual_seed(options.seed)
    size, cells = (saved["network"][name].shape[1] for name in SIZES) if saved else (options.size, options.cells)
    network = Network(shares, size, cells)
    inner = [*network.memory.parameters(), *network.out.parameters()]
    free = [network.embedding.weight, network.bias]
    groups = [{"params": inner, "weight_decay": 0.01}, {"params": free, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=options.rate, betas=(0.9, 0.98))
    step, used_s, epoch, heard_words = 0, 0.0, 0, 0
    if saved:
        network.load_state_dict(saved["network"])
        if path.exists():
            optimiser.load_state_dict(saved["optimiser"])
            step, used_s, epoch, heard_words = (saved[name] for name in ("step", "used_s", "epoch", "heard_words"))
    drawing = shares.pow(0.75)
    drawing[START] = 0.0
    log_shares = torch.log(options.samples * drawing / drawing.sum())

    def keep() -> None:
        state = {"network": network.state_dict(), "optimiser": optimiser.state_dict(), "words": list(words)}
        checkpoint.save(path, {**state, "step": step, "used_s": used_s, "epoch": epoch, "heard_words": heard_words})
        found = {name: perplexity(network, sentences) for name, sentences in measured.items()}
        row = "  ".join(f"{name}: perplexity {p:.1f}, sum {d:.2f}" for name, (p, d) in found.items())
        print(f"step {step}  {row}", flush=True)

    began, before, losses = time.process_time(), used_s, []
    while used_s < options.hours * 3600:
        random = np.random.default_rng([options.seed, epoch])
        for heard, told in batches(heard_lines, random):
            used_s = before + time.process_time() - began
            left = 1.0 - used_s / (options.hours * 3600)
            if left <= 0:
                break
            rate = options.rate * min(1.0, (step + 1) / WARMUP_STEPS) * min(1.0, max(0.02, left / FALLING))
            for group in optimiser.param_groups:
                group["lr"] = rate
            drawn = torch.multinomial(drawing, options.samples, replacement=True)
            entropy, held = network.loss(heard, told, drawn, log_shares)
            optimiser.zero_grad()
            (entropy + held).backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
            step, heard_words = step + 1, heard_words + int((told != IGNORED).sum())
            losses.append(entropy.item())
            if step % 200 == 0:
                mean, speed = np.mean(losses), heard_words / used_s
                print(
                    f"step {step}  loss {mean:.3f}  rate {rate:.1e}  {speed:.0f} words/s  left {left:.2f}", flush=True
                )
                losses = []
            if step % options.keep_every == 0:
                keep()
        epoch += 1
    keep()
    if options.output:
        write_rnn(Path(options.output), exported(network, words))
        print(f"written to {options.output}")
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m train.rnn_lm", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--text", action="append", metavar="FILE[=WEIGHT]", help="as in train.lm; repeat")
    parser.add_argument("--repeat", type=numbers_of, default=[1, 2, 3], metavar="N,N", help="of each text in an epoch")
    parser.add_argument("--held-out", action="append", metavar="FILE", help="set to measure on only; repeat")
    parser.add_argument("--words", type=int, default=20_000, help="of the vocabulary")
    parser.add_argument("--size", type=int, default=256, help="numbers of a word")
    parser.add_argument("--cells", type=int, default=384)
    parser.add_argument("--samples", type=int, default=1536, help="words drawn to compare with")
    parser.add_argument("--hours", type=float, default=1.0, help="processor time")
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep-every", type=int, default=2000, metavar="STEPS")
    parser.add_argument("--name", default="english-rnn-lm", help="of the run")
    parser.add_argument("--start-from", metavar="NAME", help="a run, or the folder of a model, to begin with")
    parser.add_argument("--output", default="models/english-lm", metavar="FOLDER", help="of the n-grams; '' for none")
    options = parser.parse_args(arguments)
    options.text = options.text or list(DEFAULT_TEXT)
    if options.held_out is None:
        options.held_out = [path for path in DEFAULT_HELD_OUT if Path(path).exists()]
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "0")) or torch.get_num_threads())
    return options


if __name__ == "__main__":
    sys.exit(main())
