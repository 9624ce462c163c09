"""Release a checkpoint into `models/`: `python -m train.export RUN models/NAME`."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from streamasr import bundle
from streamasr.config import BeamConfig, FeatureConfig, ModelConfig, from_mapping
from streamasr.engine import Engine
from streamasr.errors import StreamasrError
from streamasr.evaluation import evaluate
from streamasr.model import AsrModel
from streamasr.text import Vocab
from train import checkpoint
from train.data import cache_root

SOURCES = {
    "commonvoice": "Common Voice (CC0)",
    "librispeech": "LibriSpeech (CC BY 4.0)",
    "ljspeech": "LJ Speech (public domain)",
    "speechocean762": "speechocean762 (CC BY 4.0)",
    "stories": "children's stories (CC BY)",
    "vctk": "VCTK, one speaker (ODC-By)",
}


def load_model(path: Path) -> tuple[AsrModel, dict[str, Any], dict[str, Any]]:
    """The averaged weights of a checkpoint as a model, its configuration, and the checkpoint."""
    saved = checkpoint.load(path)
    config = json.loads(saved["config"])
    features = from_mapping(FeatureConfig, config["features"], str(path))
    model = AsrModel(features, from_mapping(ModelConfig, config["model"], str(path)), len(Vocab()))
    model.load_state_dict(saved["average"])
    return model.eval(), config, saved


def card(name: str, config: dict[str, Any], facts: dict[str, Any], figures: dict[str, dict[str, Any]], command: str) -> str:
    """The model card, in Markdown."""
    trained_on = [Path(p).name for p in config["data"]["train"]]
    licences = sorted({text for key, text in SOURCES.items() if any(key in corpus for corpus in trained_on)})
    rows = [
        f"| {manifest} | {greedy['wer']:.1f} | {greedy['cer']:.1f} | {beam['wer']:.1f} | {beam['rtf']:.3f} | {beam['utterances']} |"
        for manifest, (greedy, beam) in figures.items()
    ]
    return "\n".join(
        [
            f"# {name}",
            "",
            "English, 16 kHz, characters (blank, space, a-z, apostrophe). Part of streamasr, Apache-2.0.",
            "",
            f"- Parameters: {facts['parameters'] / 1e6:.2f} million. Frame: {facts['frame_ms']:g} ms.",
            f"- Lookahead: {facts['lookahead_ms']:g} ms, to which a window of 25 ms and half a chunk are added.",
            f"- Trained on: {', '.join(trained_on)}.",
            f"- Licences of the data: {'; '.join(licences)}.",
            f"- Training: {facts['heard_h']:.0f} hours of (augmented, repeated) speech heard in {facts['step']} steps,"
            f" {facts['trained_h']:.1f} hours of wall-clock time on a CPU.",
            f"- Made by `{command}` at commit {facts['commit']}.",
            "",
            "## Measured through the streaming path, no language model",
            "",
            "| set | WER %, greedy | CER %, greedy | WER %, beam | RTF | utterances |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
            "## Known failures",
            "",
            "- Rare names and words unlike their spelling are written as they sound.",
            "- Far microphones, loud music and several voices at once.",
            "- Digits and punctuation are not written: numbers come out as words.",
            "",
        ]
    )


def export(source: Path, target: Path, dev: list[Path], command: str) -> dict[str, Any]:
    """Write a bundle from a checkpoint, measured on manifests through the streaming path. Returns the figures."""
    model, config, saved = load_model(source)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    facts: dict[str, Any] = {
        "parameters": model.parameter_count,
        "lookahead_ms": model.lookahead_ms,
        "frame_ms": model.frame_ms,
        "step": saved["step"],
        "heard_h": round(saved["heard_h"], 2),
        "trained_h": round(saved["trained_s"] / 3600, 2),
        "commit": commit,
    }
    arguments = (model, model.features.config, model.config, Vocab())
    bundle.save(target, *arguments, facts, f"# {target.name}\n")
    figures: dict[str, Any] = {}
    for manifest in dev:
        loaded = bundle.load(str(target))
        figures[f"{manifest.parent.name}/{manifest.name}"] = [
            evaluate(manifest, Engine(loaded, BeamConfig(width=1))),
            evaluate(manifest, Engine(loaded)),
        ]
    facts["wer"] = {name: pair[1]["wer"] for name, pair in figures.items()}
    bundle.save(target, *arguments, facts, card(target.name, config, facts, figures, command))
    return figures


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m train.export", description="Release a checkpoint.")
    parser.add_argument("run", help="a run's name, or the path of a checkpoint")
    parser.add_argument("target", type=Path, help="for example models/small")
    parser.add_argument("--dev", type=Path, action="append", default=[], help="a manifest or directory to measure on")
    arguments = parser.parse_args()
    named = cache_root() / "runs" / arguments.run / "latest.pt"
    try:
        figures = export(
            named if named.exists() else Path(arguments.run),
            arguments.target,
            arguments.dev,
            f"python -m train.export {arguments.run} {arguments.target}",
        )
    except StreamasrError as error:
        print(f"train.export: {error}", file=sys.stderr)
        return 1
    print(json.dumps(figures, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
