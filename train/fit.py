"""One linear training loop. `python -m train.fit CONFIG.toml`; started again, it goes on where it stopped.

Several processes: `torchrun --nproc-per-node N -m train.fit CONFIG.toml`; the batches are those of one process, dealt
out. With `--max-restarts`, torchrun starts them again from the checkpoint when one of them dies.

Whatever is random depends on the seed and on the place in the data, and on nothing that happened before.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import platform
import signal
import sys
import threading
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from streamasr.errors import ConfigError, StreamasrError
from streamasr.model import AsrModel
from streamasr.text import Vocab
from train import checkpoint, distributed
from train.augment import later, mask_spectrogram
from train.config import OptimiserConfig, TrainConfig, read_config
from train.data import Batches, Corpus, cache_root, rng_of
from train.evaluate import word_errors
from train.expected_errors import ExpectedErrors
from train.imitation import Frames, Imitation, frames_of
from train.log import Log
from train.losses import consistency, ctc_loss, distillation, frames_within, peak_first, trim_tails
from train.optimiser import Optimisers
from train.precision import has_bfloat16

SOLVED_BATCHES = 40  # that the first maps of an imitation are found on


@dataclass(frozen=True)
class Fitted:
    """The end of a call of `fit`: the last checkpoint, and whether all steps were made or it was asked to stop."""

    checkpoint: Path
    finished: bool


class Interrupts:
    """While it is entered, Ctrl-C and SIGTERM only set `asked`; the step under way is finished and saved."""

    def __init__(self) -> None:
        self.asked = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _ask(self, *_: object) -> None:
        self.asked = True


def learning_rate(step: int, config: OptimiserConfig) -> float:
    """Linear warm-up, constant, linear decay to 2 % over the last `decay_steps`."""
    rate = config.rate * min(1.0, (step + 1) / max(1, config.warmup_steps))
    if config.decay_steps and step > config.steps - config.decay_steps:
        rate *= max(0.02, (config.steps - step) / config.decay_steps)
    return rate


def measure_features(model: AsrModel, batches: Batches, utterances: int = 300) -> None:
    """Set the features' fixed mean and deviation from augmented utterances spread over the corpora."""
    rng = rng_of(batches.seed, 77)
    items = rng.choice(len(batches.items), min(utterances, len(batches.items)), replace=False)
    energies = [model.features(torch.from_numpy(batches.utterance(0, int(item))[0])[None])[0] for item in items]
    frames = torch.cat(energies, -1)
    model.features.mean.copy_(frames.mean(-1))
    model.features.deviation.copy_(frames.std(-1))


def load_corpora(paths: list[str], longest_s: float) -> list[Corpus]:
    """Corpora of manifests or directories, with a line on each about what was left out."""
    corpora = []
    for path in paths:
        if distributed.local_rank():  # the first process of each machine decodes, the others find its work
            distributed.wait()
        corpus = Corpus(Path(path), longest_s)
        if not distributed.local_rank():
            distributed.wait()
            hours = sum(corpus.seconds(i) for i in range(len(corpus))) / 3600
            print(f"{path}: {len(corpus)} utterances, {hours:.2f} h", flush=True)
            if corpus.skips.counts:
                print(corpus.skips.report(), flush=True)
        corpora.append(corpus)
    return corpora


def load_teacher(config: TrainConfig, student: AsrModel, device: str) -> AsrModel | None:
    """The model to learn from, if there is one.

    Raises:
        ConfigError: its frames are not the student's.
    """
    if not config.technique.distil:
        return None
    if not config.technique.teacher:
        raise ConfigError("[technique] distil is set without a teacher", "the path of a checkpoint", "Set `teacher`.")
    teacher = checkpoint.load_model(Path(config.technique.teacher))[0]
    if teacher.frame_ms != student.frame_ms or teacher.features.config.hop != student.features.config.hop:
        raise ConfigError(
            f"the teacher's frames are {teacher.frame_ms:g} ms", f"{student.frame_ms:g} ms", "Take another teacher."
        )
    return teacher.to(device).requires_grad_(False)


def restore(model: nn.Module, weights: dict[str, Any], name: str) -> None:
    """Load weights; those of another network are refused with a line, not a traceback."""
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        first = str(error).strip().splitlines()[1].strip()
        raise ConfigError(
            f"the checkpoint of {name} does not fit the config ({first})", "", "Give the run another name (run.name)."
        ) from None


def hardware(device: str) -> str:
    """What a run trains on, in words."""
    if device.startswith("cuda"):
        return f"{distributed.world()} x {torch.cuda.get_device_name(device)}"
    return f"{distributed.world()} x {torch.get_num_threads()} threads of a CPU ({platform.machine()})"


def fit(config: TrainConfig, *, start_from: Path | None = None, runs: Path | None = None) -> Fitted:
    """Train until `optimiser.steps`, or until a signal asks to stop.

    Args:
        start_from: a checkpoint whose weights begin a new run (its schedule and optimiser are not taken over).
        runs: the directory of runs; `cache_root() / "runs"` by default.
    """
    folder = (runs or cache_root() / "runs") / config.run.name
    folder.mkdir(parents=True, exist_ok=True)
    quiet = distributed.rank() > 0
    with (
        Interrupts() as interrupts,
        Log(folder, config.optimiser.steps, quiet=quiet, tensorboard=config.run.tensorboard) as log,
    ):
        return _fit(config, folder, start_from, log, interrupts)


def _fit(config: TrainConfig, folder: Path, start_from: Path | None, log: Log, interrupts: Interrupts) -> Fitted:
    device = distributed.join(config.run.device)
    first = distributed.rank() == 0
    if config.run.threads:
        torch.set_num_threads(config.run.threads)
    torch.set_flush_denormal(True)
    torch.manual_seed(config.run.seed)
    latest = folder / "latest.pt"
    saved = distributed.share(checkpoint.load(latest) if first and latest.exists() else None)
    if saved is not None and saved["step"] >= config.optimiser.steps:
        return Fitted(latest, True)

    vocab, technique = Vocab(), config.technique
    train = load_corpora(config.data.train, config.data.longest_s)
    dev = load_corpora(config.data.dev, 40.0)
    kept = frames_of([Path(p).name for p in config.data.train], [len(c) for c in train]) if technique.imitate else []
    ranks = distributed.rank(), distributed.world()
    batches = Batches(train, config.data, config.augment, vocab, config.run.seed, *ranks, kept)
    model = AsrModel(config.features, config.model, len(vocab)).to(device)
    teacher = load_teacher(config, model, device)
    errors = ExpectedErrors.load(vocab, technique.hypotheses) if technique.expected_errors else None
    imitation = None
    if known := [each for each in kept if isinstance(each, Frames)]:
        imitation = Imitation(model, known[0].size).to(device)
        imitation.measure(known[0].sample().to(device))
    trained = nn.ModuleDict({"model": model, **({"imitation": imitation} if imitation else {})})
    optimiser = Optimisers(trained, config.optimiser)
    average = copy.deepcopy(model).requires_grad_(False)
    step, epoch, position, heard_h, trained_s, skipped = 0, 0, 0, 0.0, 0.0, 0
    if saved is not None:
        restore(model, saved["model"], folder.name)
        restore(average, saved["average"], folder.name)
        if imitation is not None:
            restore(imitation, saved["imitation"], folder.name)
        optimiser.load_state_dict(saved["optimiser"])
        step, epoch, position = saved["step"], saved["epoch"], saved["position"]
        heard_h, trained_s, skipped = saved["heard_h"], saved["trained_s"], saved["skipped"]
        log.say(f"resuming {folder.name} at step {step}, epoch {epoch}, batch {position}")
    elif start_from is not None:
        saved = checkpoint.load(start_from)
        model.load_state_dict(saved["model"], strict=False)
        average.load_state_dict(saved["average"], strict=False)
        if imitation is not None and "imitation" in saved:
            imitation.load_state_dict(saved["imitation"])
        elif imitation is not None:
            mixed = config.data.short_first_epochs  # the first epoch whose batches come in any order
            plan = batches.plan(mixed)[:SOLVED_BATCHES]
            imitation.solve(model, (batches.make(mixed, *each) for each in enumerate(plan)))
            distributed.copy_from_first(imitation)
        heard_h, trained_s = saved["heard_h"], saved["trained_s"]
        log.say(f"starting from the weights of {start_from}")
    else:
        measure_features(model, batches)
        distributed.copy_from_first(model)
        average.load_state_dict(model.state_dict())

    def weights() -> dict[str, Any]:
        return {
            "model": model.state_dict(),
            "average": average.state_dict(),
            "step": step,
            "heard_h": heard_h,
            "trained_s": trained_s,
            "config": json.dumps(asdict(config)),
            "hardware": hardware(device),
        }

    def save() -> None:
        if first:
            place: dict[str, Any] = {"epoch": epoch, "position": position, "skipped": skipped}
            if imitation is not None:
                place["imitation"] = imitation.state_dict()
            checkpoint.save(latest, {**weights(), **place, "optimiser": optimiser.state_dict()})

    def evaluate() -> None:
        for path, corpus in zip(config.data.dev, dev, strict=True):
            wer, pairs = word_errors(average, corpus, vocab, config.run.dev_utterances, device)
            shown = [f"{reference} | {hypothesis}" for reference, hypothesis in pairs[:: max(1, len(pairs) // 3)][:3]]
            log.write(step=step, dev=Path(path).name, wer=wer, heard_h=heard_h, trained_h=trained_s / 3600)
            log.say("    " + "\n    ".join(shown))

    halved = config.run.precision == "bfloat16"
    if halved and not has_bfloat16(device.split(":")[0]):
        log.say("this processor has no instructions for bfloat16, and float32 is faster here: it takes float32")
        halved = False

    model.train()
    log.start(step)
    saved_at = logged_at = time.monotonic()
    sums: dict[str, float] = {}
    for batch in batches.from_position(epoch, position):
        tokens, seconds, asked = distributed.total([batch.tokens, batch.seconds, float(interrupts.asked)], device)
        if step >= config.optimiser.steps or asked:
            break
        began = time.monotonic()
        torch.manual_seed((config.run.seed * 1_000_003 + step) * 4096 + distributed.rank())  # dropout
        rate = learning_rate(step, config.optimiser)
        optimiser.set_rate(rate)

        # The views of the batch: masked features, twice over for consistency.
        samples, lengths = batch.samples.to(device), batch.lengths.to(device)
        targets, target_lengths = batch.targets, batch.target_lengths
        frames = (lengths + config.features.hop - 1) // config.features.hop
        with torch.no_grad():
            energies = model.features(samples)
            if technique.trim_chance:
                rngs = [rng_of(config.run.seed, batch.epoch, item, 7) for item in batch.items]
                frames = trim_tails(frames, target_lengths, technique, config.features.hop_ms, rngs)
            views = []
            for view in range(2 if technique.consistency else 1):
                rngs = [rng_of(config.run.seed, batch.epoch, item, 5, view) for item in batch.items]
                if view and technique.shift_ms:
                    energies = model.features(later(samples, technique.shift_ms, rng_of(config.run.seed, step, 6)))
                views.append(mask_spectrogram(energies, frames, config.augment, rngs))
            energies = torch.cat(views) * frames_within(frames, energies.shape[-1])[:, None].repeat(len(views), 1, 1)
        if technique.consistency:
            frames, targets, target_lengths = frames.repeat(2), targets.repeat(2), target_lengths.repeat(2)

        # The loss for each token.
        taught = None
        with torch.autocast(device.split(":")[0], torch.bfloat16, enabled=halved):
            if teacher is not None:
                with torch.no_grad():
                    taught = teacher(samples, lengths)[0].repeat(len(views), 1, 1)
            log_probs, output_lengths, tapped = model.encode(energies, frames)
        share = batch.weight / (tokens * len(views))
        loss = ctc_loss(log_probs, output_lengths, targets, target_lengths) * share
        total, terms = loss, {"loss": loss}
        if tapped is not None:
            weight = config.optimiser.tap_weight
            total = (1 - weight) * loss + weight * ctc_loss(tapped, output_lengths, targets, target_lengths) * share
        if technique.consistency:
            one, two = log_probs.chunk(2)
            terms["consistency"] = consistency(one, two, output_lengths.chunk(2)[0]) * share * 2
            total = total + technique.consistency * terms["consistency"]
        if taught is not None:
            terms["distil"] = distillation(taught, log_probs, output_lengths, technique.distil_delay) * share
            total = total + technique.distil * terms["distil"]
        if technique.peak_first:
            terms["peak_first"] = peak_first(log_probs, output_lengths) * share
            total = total + technique.peak_first * terms["peak_first"]

        if errors is not None:
            terms["errors"] = errors(log_probs, output_lengths, targets, target_lengths) * share
            total = total + technique.expected_errors * terms["errors"]
        if imitation is not None and batch.imitated is not None:
            wanted, there = (each.to(device).repeat(len(views), *[1] * (each.dim() - 1)) for each in batch.imitated)
            within = frames_within(output_lengths, there.shape[1])
            terms["imitate"] = imitation(wanted, there & within) * share
            total = total + technique.imitate * terms["imitate"]

        # The step.
        optimiser.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        distributed.sum_gradients(trained)
        norm = float(nn.utils.clip_grad_norm_(trained.parameters(), config.optimiser.clip))
        values = dict(zip(terms, distributed.total([float(v.detach()) for v in terms.values()], device), strict=True))
        if math.isfinite(norm) and math.isfinite(sum(values.values())):
            optimiser.step()
            decay = min(config.optimiser.ema, (1 + step) / (10 + step))
            with torch.no_grad():
                torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
            for name, value in [*values.items(), ("norm", norm)]:
                sums[name] = sums.get(name, 0.0) + value * tokens
            sums["tokens"] = sums.get("tokens", 0.0) + tokens
        else:
            skipped += 1
            log.write(step=step, skipped=skipped, reason="loss or gradient not finite")
        step, epoch, position = step + 1, batch.epoch, batch.position + 1
        heard_h += seconds / 3600
        trained_s += time.monotonic() - began
        sums["seconds"] = sums.get("seconds", 0.0) + seconds

        # What is told and kept of it.
        now = time.monotonic()
        log.advance(step, values["loss"])
        if step % config.run.log_every_steps == 0:
            speed, told = sums.pop("seconds") / (now - logged_at), sums.pop("tokens", math.nan)
            log.write(
                step=step,
                epoch=epoch,
                **{name: value / told for name, value in sums.items()},
                rate=rate,
                heard_h=heard_h,
                speed=speed,
                trained_h=trained_s / 3600,
                left_h=log.left_s(step) / 3600,
            )
            sums, logged_at = {}, now
        if now - saved_at > config.run.save_every_s:
            save()
            saved_at = now
        if first and config.run.keep_every_steps and step % config.run.keep_every_steps == 0:
            checkpoint.save(folder / f"step_{step:08d}.pt", weights())
        if first and step % config.run.evaluate_every_steps == 0:
            evaluate()
    save()
    finished = step >= config.optimiser.steps
    if first and finished and step % config.run.evaluate_every_steps:
        evaluate()
    distributed.wait()  # for the first one, which saves and evaluates: nobody hangs up on it
    return Fitted(latest, finished)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m train.fit", description="Train an acoustic model.")
    parser.add_argument("config", type=Path)
    parser.add_argument(
        "--offline", action="store_true", help="train the bidirectional sibling ([offline] in the config)"
    )
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="override a value")
    parser.add_argument("--name", help="name of the run; the config's own by default")
    parser.add_argument("--start-from", type=Path, metavar="CHECKPOINT", help="begin a new run with these weights")
    arguments = parser.parse_args()
    try:
        config = read_config(arguments.config, arguments.set, offline=arguments.offline)
        if arguments.name:
            config = replace(config, run=replace(config.run, name=arguments.name))
        fit(config, start_from=arguments.start_from)
    except StreamasrError as error:
        print(f"train.fit: {error}", file=sys.stderr)
        return 1
    finally:
        distributed.leave()
    return 0


if __name__ == "__main__":
    sys.exit(main())
