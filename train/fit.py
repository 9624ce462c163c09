"""One linear training loop. `python -m train.fit CONFIG.toml`; started again, it goes on where it stopped.

Several processes: `torchrun --nproc-per-node N -m train.fit CONFIG.toml`; the batches are those of one process, dealt out.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import os
import signal
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from streamasr.errors import StreamasrError
from streamasr.model import AsrModel
from streamasr.text import Vocab
from train import checkpoint
from train.augment import mask_spectrogram
from train.config import OptimiserConfig, TrainConfig, read_config
from train.data import Batch, Batches, Corpus, cache_root, rng_of
from train.evaluate import word_errors


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
    energies = [model.features(torch.from_numpy(batches._utterance(0, int(item))[0])[None])[0] for item in items]
    frames = torch.cat(energies, -1)
    model.features.mean.copy_(frames.mean(-1))
    model.features.deviation.copy_(frames.std(-1))


def ctc_loss(log_probs: Tensor, lengths: Tensor, batch: Batch) -> Tensor:
    """Sum of the utterances' CTC losses (Graves et al., 2006), impossible ones left out."""
    return nn.functional.ctc_loss(
        log_probs.transpose(0, 1).float(),
        batch.targets.to(log_probs.device),
        lengths.cpu(),
        batch.target_lengths,
        reduction="sum",
        zero_infinity=True,
    )


class Log:
    """JSON lines beside the checkpoint, and the same on the screen."""

    def __init__(self, path: Path, quiet: bool) -> None:
        self.path, self.quiet = path, quiet

    def write(self, **values: Any) -> None:
        if self.quiet:
            return
        rounded = {k: round(v, 5) if isinstance(v, float) else v for k, v in values.items()}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(rounded) + "\n")
        print("  ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in values.items()), flush=True)


def load_corpora(paths: list[str], longest_s: float) -> list[Corpus]:
    """Corpora of manifests or directories, with a line on each about what was left out."""
    corpora = []
    for path in paths:
        corpus = Corpus(Path(path), longest_s)
        hours = sum(corpus.seconds(i) for i in range(len(corpus))) / 3600
        print(f"{path}: {len(corpus)} utterances, {hours:.2f} h", flush=True)
        if corpus.skips.counts:
            print(corpus.skips.report(), flush=True)
        corpora.append(corpus)
    return corpora


def fit(config: TrainConfig, *, start_from: Path | None = None, runs: Path | None = None) -> Path:
    """Train until `optimiser.steps`; returns the path of the last checkpoint.

    Args:
        start_from: a checkpoint whose weights begin a new run (its schedule and optimiser are not taken over).
        runs: the directory of runs; `cache_root() / "runs"` by default.
    """
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = config.run.device
    if device == "auto":
        device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    if world > 1 and not torch.distributed.is_initialized():
        torch.distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    if config.run.threads:
        torch.set_num_threads(config.run.threads)
    torch.set_flush_denormal(True)
    torch.manual_seed(config.run.seed)
    folder = (runs or cache_root() / "runs") / config.run.name
    folder.mkdir(parents=True, exist_ok=True)
    latest = folder / "latest.pt"
    log = Log(folder / "log.jsonl", quiet=rank > 0)

    vocab = Vocab()
    train = load_corpora(config.data.train, config.data.longest_s)
    dev = load_corpora(config.data.dev, 40.0) if rank == 0 else []
    batches = Batches(train, config.data, config.augment, vocab, config.run.seed)
    model = AsrModel(config.features, config.model, len(vocab)).to(device)
    decayed = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    optimiser = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": config.optimiser.weight_decay}, {"params": others, "weight_decay": 0.0}],
        lr=config.optimiser.rate,
        betas=(0.9, 0.98),
    )
    average = copy.deepcopy(model).requires_grad_(False)
    step, epoch, position, heard_h, trained_s, skipped = 0, 0, 0, 0.0, 0.0, 0
    if latest.exists():
        saved = checkpoint.load(latest)
        model.load_state_dict(saved["model"])
        average.load_state_dict(saved["average"])
        optimiser.load_state_dict(saved["optimiser"])
        torch.set_rng_state(saved["random"])
        step, epoch, position = saved["step"], saved["epoch"], saved["position"]
        heard_h, trained_s, skipped = saved["heard_h"], saved["trained_s"], saved["skipped"]
        print(f"resuming {folder.name} at step {step}, epoch {epoch}, batch {position}", flush=True)
    elif start_from is not None:
        saved = checkpoint.load(start_from)
        model.load_state_dict(saved["model"], strict=False)
        average.load_state_dict(saved["average"], strict=False)
        heard_h, trained_s = saved["heard_h"], saved["trained_s"]
        print(f"starting from the weights of {start_from}", flush=True)
    else:
        measure_features(model, batches)
        average.load_state_dict(model.state_dict())
    network: nn.Module = model
    stopping = False

    def stop(*_: object) -> None:
        nonlocal stopping
        stopping = True

    for wanted in (signal.SIGINT, signal.SIGTERM):
        signal.signal(wanted, stop)

    def save() -> None:
        if rank == 0:
            content = {
                "model": model.state_dict(),
                "average": average.state_dict(),
                "optimiser": optimiser.state_dict(),
                "random": torch.get_rng_state(),
                "step": step,
                "epoch": epoch,
                "position": position,
                "heard_h": heard_h,
                "trained_s": trained_s,
                "skipped": skipped,
                "config": json.dumps(asdict(config)),
            }
            checkpoint.save(latest, content)

    def evaluate() -> None:
        for path, corpus in zip(config.data.dev, dev, strict=True):
            wer, pairs = word_errors(average, corpus, vocab, config.run.dev_utterances, device)
            shown = [f"{reference} | {hypothesis}" for reference, hypothesis in pairs[:: max(1, len(pairs) // 3)][:3]]
            log.write(step=step, dev=Path(path).name, wer=wer, heard_h=heard_h, trained_h=trained_s / 3600)
            print("    " + "\n    ".join(shown), flush=True)

    model.train()
    saved_at = logged_at = time.monotonic()
    sums: dict[str, float] = {"loss": 0.0, "tokens": 0.0, "seconds": 0.0, "norm": 0.0, "steps": 0.0}
    for batch_epoch, at, batch in batches.from_position(epoch, position):
        if step >= config.optimiser.steps or stopping:
            break
        began = time.monotonic()
        rate = learning_rate(step, config.optimiser)
        for group in optimiser.param_groups:
            group["lr"] = rate
        samples, lengths = batch.samples.to(device), batch.lengths.to(device)
        with torch.no_grad():
            energies = model.features(samples)
            frames = (lengths + config.features.hop - 1) // config.features.hop
            energies = mask_spectrogram(energies, frames, config.augment, rng_of(config.run.seed, step, 5))
            energies = energies * (torch.arange(energies.shape[-1], device=device) < frames[:, None])[:, None]
        low = config.run.precision == "bfloat16"
        with torch.autocast(device.split(":")[0], torch.bfloat16, enabled=low):
            log_probs, output_lengths, tapped = model.encode(energies, frames)
        tokens = float(batch.target_lengths.sum())
        loss = ctc_loss(log_probs, output_lengths, batch) / tokens
        total = loss
        if tapped is not None:
            weight = config.optimiser.tap_weight
            total = (1 - weight) * loss + weight * ctc_loss(tapped, output_lengths, batch) / tokens
        optimiser.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        norm = float(nn.utils.clip_grad_norm_(network.parameters(), config.optimiser.clip))
        if math.isfinite(norm) and math.isfinite(float(total.detach())):
            optimiser.step()
            decay = min(config.optimiser.ema, (1 + step) / (10 + step))
            with torch.no_grad():
                for kept, new in zip(average.parameters(), model.parameters(), strict=True):
                    kept.lerp_(new, 1 - decay)
        else:
            skipped += 1
            log.write(step=step, skipped=skipped, reason="loss or gradient not finite")
        step, epoch, position = step + 1, batch_epoch, at + 1
        heard_h += batch.seconds / 3600
        trained_s += time.monotonic() - began
        sums["loss"] += float(loss.detach()) * tokens
        sums["tokens"] += tokens
        sums["seconds"] += batch.seconds
        sums["norm"] += norm
        sums["steps"] += 1
        now = time.monotonic()
        if step % config.run.log_every_steps == 0:
            log.write(
                step=step,
                epoch=epoch,
                loss=sums["loss"] / sums["tokens"],
                norm=sums["norm"] / sums["steps"],
                rate=rate,
                heard_h=heard_h,
                speed=sums["seconds"] / (now - logged_at),
                trained_h=trained_s / 3600,
            )
            sums, logged_at = dict.fromkeys(sums, 0.0), now
        if now - saved_at > config.run.save_every_s:
            save()
            saved_at = now
        if dev and step % config.run.evaluate_every_steps == 0:
            evaluate()
    save()
    if rank == 0 and dev and not stopping:
        evaluate()
    return latest


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m train.fit", description="Train an acoustic model.")
    parser.add_argument("config", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="override a value")
    parser.add_argument("--name", help="name of the run; the config's own by default")
    parser.add_argument("--start-from", type=Path, metavar="CHECKPOINT", help="begin a new run with these weights")
    arguments = parser.parse_args()
    try:
        config = read_config(arguments.config, arguments.set)
        if arguments.name:
            config = replace(config, run=replace(config.run, name=arguments.name))
        fit(config, start_from=arguments.start_from)
    except StreamasrError as error:
        print(f"train.fit: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
