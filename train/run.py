"""The whole recipe: `make train`, or `python -m train.run --config train/configs/librispeech.toml`.

Data, the offline model, its streaming sibling distilled from it, release, figures, report. Started again, it goes on
where it stopped. Under torchrun (one machine or many) all processes train; the first one does the rest.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from dataclasses import replace
from pathlib import Path

from streamasr.errors import ConfigError, StreamasrError
from train import distributed, librispeech
from train.checkpoint import load_model
from train.config import RecipeConfig, TrainConfig, read_config
from train.data import cache_root
from train.export import export
from train.fit import fit
from train.report import Trained, write_report
from train.synth import TEXT, synthesise

DEFAULT = Path(__file__).with_name("configs") / "librispeech.toml"


def prepare_data(recipe: RecipeConfig, name: str, seed: int, workers: int) -> tuple[list[str], list[str]]:
    """Download and synthesise what the recipe asks for; returns the corpora to train on and those to measure on."""
    root = cache_root() / "corpora"
    train = librispeech.prepare_all(recipe.sets, root, recipe.mirror) if recipe.sets else []
    dev = librispeech.prepare_all(recipe.eval_sets, root, recipe.mirror) if recipe.eval_sets else []
    text = Path(recipe.synth_text) if recipe.synth_text else TEXT
    archive = Path(recipe.synth_archive) if recipe.synth_archive else None
    for hours, held_out, corpora in ((recipe.synth_hours, False, train), (recipe.synth_dev_hours, True, dev)):
        if hours:
            folder = root / f"{recipe.voices}_{name}_{'dev' if held_out else 'train'}_{hours:g}h"
            options = {"text": text, "voices": recipe.voices, "archive": archive, "workers": workers}
            corpora.append(synthesise(folder, hours, seed=seed + held_out, held_out=held_out, **options))
    return [str(path) for path in train], [str(path) for path in dev]


def with_data(config: TrainConfig, given: str, train: list[str], dev: list[str]) -> TrainConfig:
    """The config with prepared corpora added to its own, which `given` ("dir1,dir2") replaces ("+dir1" adds)."""
    data = config.data
    own, weights = list(data.train), list(data.weights)
    weights += [1.0] * (len(own) - len(weights))
    chosen = [path for path in given.removeprefix("+").split(",") if path]
    if chosen and not given.startswith("+"):
        own, weights = [], []
    added = [*chosen, *train]
    final = (
        [*data.final_weights, *[1.0] * (len(own) + len(added) - len(data.final_weights))] if data.final_weights else []
    )
    if final and not own:
        raise ConfigError(
            "[data] final_weights is set and DATA replaces the corpora", "DATA=+...", "Set either of them."
        )
    data = replace(
        data, train=own + added, dev=data.dev + dev, weights=weights + [1.0] * len(added), final_weights=final
    )
    return replace(config, data=data)


def run(
    path: Path, *, data: str = "", sets: str = "", overrides: list[str] | None = None, command: str = ""
) -> Path | None:
    """Run the recipe of a config; returns the report, or None where training was asked to stop.

    Args:
        data: manifests or directories, separated by commas, in the place of the config's; "+..." adds them.
        sets: LibriSpeech sets to train on, separated by commas, in the place of the config's.
    """
    streaming = read_config(path, overrides)
    offline = read_config(path, overrides, offline=True)
    recipe = streaming.recipe
    if sets:
        recipe = replace(recipe, sets=[name for name in sets.split(",") if name])
    elif data and not data.startswith("+"):
        recipe = replace(recipe, sets=[], synth_hours=0.0)
    librispeech.named([*recipe.sets, *recipe.eval_sets])
    distributed.join(streaming.run.device)
    if distributed.local_rank() == 0:  # the others wait, and find it done
        prepare_data(recipe, streaming.run.name, streaming.run.seed, streaming.data.workers)
    distributed.wait()
    train, dev = prepare_data(recipe, streaming.run.name, streaming.run.seed, streaming.data.workers)
    streaming, offline = (with_data(config, data, train, dev) for config in (streaming, offline))

    runs = [streaming]
    if recipe.offline:
        if not offline.model.bidirectional:
            raise ConfigError(f"{path} has no bidirectional sibling", "[offline.model] bidirectional = true", "Add it.")
        runs = [offline, streaming]
    checkpoints: list[Path] = []
    for config in runs:
        if checkpoints and config.technique.distil:
            config = replace(config, technique=replace(config.technique, teacher=str(checkpoints[0])))
        elif not config.technique.teacher:
            config = replace(config, technique=replace(config.technique, distil=0.0))
        fitted = fit(config)
        if not fitted.finished:
            return None
        checkpoints.append(fitted.checkpoint)
    if distributed.rank():
        return None

    models = Path(recipe.models) if recipe.models else cache_root() / "models"
    manifests = [Path(manifest) for manifest in streaming.data.dev]
    folder = checkpoints[-1].parent / "report"
    trained = []
    for config, checkpoint in zip(runs, checkpoints, strict=True):
        label = "offline" if config.model.bidirectional else "streaming"
        print(f"releasing {models / config.run.name}", flush=True)
        figures = export(
            checkpoint,
            models / config.run.name,
            manifests,
            command,
            limit=recipe.eval_utterances,
            tuned=True,
            picture=folder / "reliability.png",
        )
        trained.append(Trained(label, checkpoint.parent, load_model(checkpoint)[0], figures))
    report = write_report(folder, streaming.run.name, trained, manifests)
    print(report.read_text(encoding="utf-8"))
    print(f"report: {report}", flush=True)
    return report


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m train.run", description="Train, measure and release by a recipe.")
    parser.add_argument("--config", type=Path, default=DEFAULT, help="default: train/configs/librispeech.toml")
    parser.add_argument("--data", default="", help="corpora in the place of the config's, by commas; +dir adds")
    parser.add_argument("--sets", default="", help="LibriSpeech sets, by commas; all for the 960 hours")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="override a value")
    arguments = parser.parse_args()
    command = shlex.join(["python", "-m", "train.run", *sys.argv[1:]])
    try:
        report = run(
            arguments.config, data=arguments.data, sets=arguments.sets, overrides=arguments.set, command=command
        )
    except StreamasrError as error:
        print(f"train.run: {error}", file=sys.stderr)
        return 1
    finally:
        distributed.leave()
    return 0 if report or distributed.rank() else 130


if __name__ == "__main__":
    sys.exit(main())
