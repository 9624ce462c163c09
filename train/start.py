"""The first steps of a new model, on labels for single frames.

CTC alone may spend hours before it finds out which sounds are which letters. Word times from an aligner, with the
letters of a word spread evenly over it, are rough but enough to begin with; the weight of this loss falls to nothing,
that of CTC rises to one, and the corpus named `easy` (one clear speaker) comes first.

    python -m train.start align DIRECTORY... --output alignments.jsonl
    python -m train.start fit train/configs/small.toml alignments.jsonl --output start.pt --easy ljspeech
    python -m train.fit train/configs/small.toml --start-from start.pt

Source of the idea: Sak et al., "Fast and Accurate Recurrent Neural Network Acoustic Models for Speech Recognition",
2015 (CTC models begun from frame labels).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor, nn

from streamasr.errors import ManifestError, StreamasrError
from streamasr.model import AsrModel
from streamasr.text import Vocab
from train import checkpoint
from train.augment import RATE_HZ
from train.config import TrainConfig, read_config
from train.data import rng_of
from train.losses import ctc_loss, frames_within
from train.manifest import Utterance, read_manifest

UNLABELLED = -100
BLANK_WEIGHT = 0.25  # most frames are blank


@dataclass(frozen=True)
class Aligned:
    """An utterance and its words with their first second and the second after their last."""

    path: Path
    words: tuple[tuple[str, float, float], ...]

    @property
    def text(self) -> str:
        return " ".join(word for word, _, _ in self.words)


def align(utterances: list[Utterance], longest_s: float = 12.0) -> Iterator[Aligned]:
    """Word times by PocketSphinx's aligner; utterances with words that it does not know are left out."""
    from pocketsphinx import Decoder

    decoder = Decoder(samprate=RATE_HZ, loglevel="FATAL", bestpath=False)
    for utterance in utterances:
        if utterance.seconds > longest_s:
            continue
        samples, rate_hz = soundfile.read(utterance.path, dtype="int16")
        if rate_hz != RATE_HZ or samples.ndim != 1:
            continue
        try:
            decoder.set_align_text(utterance.text)
            decoder.start_utt()
            decoder.process_raw(samples.tobytes(), full_utt=True)
            decoder.end_utt()
        except RuntimeError:
            continue
        found = decoder.seg() if decoder.hyp() else ()
        segments = [(s.word.split("(")[0], s.start_frame / 100, (s.end_frame + 1) / 100) for s in found]
        words = tuple(segment for segment in segments if segment[0][0] not in "<[")
        if [word for word, _, _ in words] == utterance.text.split():
            yield Aligned(utterance.path, words)


def read_alignments(path: Path) -> list[Aligned]:
    """What `align` wrote, one JSON array a line.

    Raises:
        ManifestError: the file cannot be read.
    """
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return [Aligned(Path(name), tuple((w, float(a), float(b)) for w, a, b in words)) for name, words in lines]
    except (OSError, ValueError) as error:
        raise ManifestError(
            f"{path} cannot be read ({error})", "alignments", "Run `python -m train.start align`."
        ) from None


def frame_labels(words: tuple[tuple[str, float, float], ...], frames: int, frame_s: float, vocab: Vocab) -> list[int]:
    """A token for each frame: a letter at the middle of its share of the word, a space between words, else blank."""
    labels = [0] * frames

    def put(token: int, at_s: float) -> None:
        at = int(at_s / frame_s)
        while at < frames - 1 and labels[at]:
            at += 1
        if at < frames:
            labels[at] = token

    for index, (word, start_s, end_s) in enumerate(words):
        for place, token in enumerate(vocab.encode(word)):
            put(token, start_s + (place + 0.5) * (end_s - start_s) / len(word))
        if index + 1 < len(words):
            put(vocab.space, (end_s + words[index + 1][1]) / 2)
    return labels


def batches(aligned: list[Aligned], seconds: list[float], batch_s: float, rng: np.random.Generator) -> list[list[int]]:
    """Utterance numbers of similar length together, in random order."""
    order = np.argsort(np.array(seconds) * np.exp(rng.normal(0, 0.1, len(aligned))))
    plan: list[list[int]] = [[]]
    for item in order:
        if plan[-1] and max(seconds[i] for i in [*plan[-1], item]) * (len(plan[-1]) + 1) > batch_s:
            plan.append([])
        plan[-1].append(int(item))
    return [plan[i] for i in rng.permutation(len(plan))]


def frame_loss(log_probs: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of (B, T, V) against labels (B, T), blanks weighing less."""
    weights = torch.ones(log_probs.shape[-1], device=log_probs.device)
    weights[0] = BLANK_WEIGHT
    return nn.functional.nll_loss(log_probs.flatten(0, 1), labels.flatten(), weights, ignore_index=UNLABELLED)


def fit(
    config: TrainConfig, aligned: list[Aligned], output: Path, steps: int, easy: str, easy_steps: int
) -> list[float]:
    """Train a fresh model for `steps` and write a checkpoint to start from. Returns the CTC loss of every step."""
    torch.manual_seed(config.run.seed)
    torch.set_flush_denormal(True)
    vocab, rng = Vocab(), rng_of(config.run.seed, 3)
    signals = [soundfile.read(a.path, dtype="int16")[0] for a in aligned]
    seconds = [len(signal) / RATE_HZ for signal in signals]
    first = [i for i, a in enumerate(aligned) if easy and easy in str(a.path)] or list(range(len(aligned)))
    model = AsrModel(config.features, config.model, len(vocab))
    energies = [model.features(torch.from_numpy(signals[i] / 32768.0).float()[None])[0] for i in first[:200]]
    model.features.mean.copy_(torch.cat(energies, -1).mean(-1))
    model.features.deviation.copy_(torch.cat(energies, -1).std(-1))
    optimiser = torch.optim.AdamW(model.parameters(), lr=config.optimiser.rate, betas=(0.9, 0.98), weight_decay=0.01)
    losses: list[float] = []
    heard_s, plan = 0.0, iter(list[list[int]]())
    for step in range(steps):
        if (items := next(plan, None)) is None or step == easy_steps:
            chosen = first if step < easy_steps else list(range(len(aligned)))
            drawn = batches([aligned[i] for i in chosen], [seconds[i] for i in chosen], config.data.batch_s, rng)
            plan = iter([[chosen[i] for i in batch] for batch in drawn])
            items = next(plan)
        lengths = torch.tensor([len(signals[i]) for i in items])
        samples = torch.zeros(len(items), int(lengths.max()))
        for row, item in enumerate(items):
            gain = 10 ** (rng.uniform(-10, 6) / 20) / 32768
            samples[row, : lengths[row]] = torch.from_numpy(signals[item] * gain).float().clamp(-1, 1)
        frames = (lengths + config.features.hop - 1) // config.features.hop
        with torch.no_grad():
            features = model.features(samples)
            features = features * frames_within(frames, features.shape[-1])[:, None]
        log_probs, output_lengths, tapped = model.encode(features, frames)
        labels = torch.full(log_probs.shape[:2], UNLABELLED)
        for row, item in enumerate(items):
            count = int(output_lengths[row])
            labels[row, :count] = torch.tensor(frame_labels(aligned[item].words, count, model.frame_ms / 1000, vocab))
        tokens = [vocab.encode(aligned[i].text) for i in items]
        target_lengths = torch.tensor([len(t) for t in tokens])
        targets = torch.tensor([t for line in tokens for t in line])
        ctc = ctc_loss(log_probs, output_lengths, targets, target_lengths) / target_lengths.sum()
        framewise = frame_loss(log_probs, labels) + (0.3 * frame_loss(tapped, labels) if tapped is not None else 0.0)
        share = max(0.0, 1 - step / (0.8 * steps))
        optimiser.zero_grad(set_to_none=True)
        ((1 - share) * ctc + share * framewise).backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.optimiser.clip)
        for group in optimiser.param_groups:
            group["lr"] = config.optimiser.rate * min(1.0, (step + 1) / 50)
        optimiser.step()
        losses.append(float(ctc.detach()))
        heard_s += sum(seconds[i] for i in items)
        if (step + 1) % 20 == 0:
            mean = np.mean(losses[-20:])
            print(f"step {step + 1}  ctc {mean:.3f}  frames {float(framewise.detach()):.3f}", flush=True)
    weights = model.state_dict()
    facts = {"step": steps, "heard_h": heard_s / 3600, "trained_s": 0.0, "config": json.dumps(asdict(config))}
    checkpoint.save(output, {"model": weights, "average": weights, **facts})
    return losses


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m train.start", description=(__doc__ or "").splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    aligning = verbs.add_parser("align", help="find the times of the words")
    aligning.add_argument("corpora", type=Path, nargs="+", metavar="DIRECTORY")
    aligning.add_argument("--output", type=Path, required=True)
    fitting = verbs.add_parser("fit", help="make the first steps")
    fitting.add_argument("config", type=Path)
    fitting.add_argument("alignments", type=Path)
    fitting.add_argument("--output", type=Path, required=True)
    fitting.add_argument("--steps", type=int, default=600)
    fitting.add_argument("--easy", default="", metavar="TEXT", help="utterances with this in their path come first")
    fitting.add_argument("--easy-steps", type=int, default=200)
    arguments = parser.parse_args()
    try:
        if arguments.verb == "align":
            with arguments.output.open("w", encoding="utf-8") as file:
                for corpus in arguments.corpora:
                    for found in align(read_manifest(corpus)):
                        file.write(json.dumps([str(found.path), found.words]) + "\n")
        else:
            aligned = read_alignments(arguments.alignments)
            options = (arguments.output, arguments.steps, arguments.easy, arguments.easy_steps)
            fit(read_config(arguments.config), aligned, *options)
    except StreamasrError as error:
        print(f"train.start: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
