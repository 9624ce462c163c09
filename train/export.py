"""Release a checkpoint into `models/`: `python -m train.export RUN models/NAME --dev MANIFEST --tune`."""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jiwer

from streamasr import bundle, checksums
from streamasr.config import BeamConfig
from streamasr.engine import Engine
from streamasr.errors import StreamasrError
from streamasr.evaluation import evaluate
from streamasr.lm import LanguageModel
from streamasr.model import AsrModel
from streamasr.text import Vocab
from train import calibrate, logits, tune
from train.checkpoint import load_model
from train.data import Corpus, cache_root
from train.evaluate import word_errors

LICENCES = {  # of corpora without a file LICENCE, by a part of their name
    "commonvoice": "Common Voice (CC0)",
    "librispeech": "LibriSpeech (CC BY 4.0)",
    "ljspeech": "LJ Speech (public domain)",
    "speechocean762": "speechocean762 (CC BY 4.0)",
    "stories": "children's stories (CC BY)",
    "vctk": "VCTK, one speaker (ODC-By)",
}


def licence_of(corpus: Path) -> str:
    """What its file LICENCE says, or what is known of its name."""
    file = (corpus if corpus.is_dir() else corpus.parent) / "LICENCE"
    if file.is_file():
        return file.read_text(encoding="utf-8").splitlines()[0]
    return next((text for key, text in LICENCES.items() if key in corpus.name), f"{corpus.name} (licence not recorded)")


def processor() -> str:
    """The name of this machine's processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def set_name(manifest: Path) -> str:
    """Name of a development set in tables: its folder and its own name."""
    folder = manifest if manifest.is_dir() else manifest.parent
    return f"{folder.resolve().parent.name}/{folder.resolve().name}"


def card(
    name: str, config: dict[str, Any], facts: dict[str, Any], figures: dict[str, list[dict[str, Any]]], command: str
) -> str:
    """The model card, in Markdown."""
    trained_on = [Path(path) for path in config["data"]["train"]]
    licences = sorted({licence_of(corpus) for corpus in trained_on})
    if facts["streaming"]:
        kind = f"- Streaming. Lookahead: {facts['lookahead_ms']:g} ms; a window of 25 ms and half a chunk are added."
        heading = "through the streaming path: greedy, and by the beam with the default language model"
    else:
        kind, heading = (
            "- Offline: bidirectional, it needs the whole utterance.",
            "on whole utterances, no language model",
        )
    imitated = []
    if config["technique"].get("imitate"):
        imitated = ["- Learnt besides from hidden frames of Whisper tiny.en's encoder (MIT), see `train/imitation.py`."]
    rows = []
    for manifest, measured in figures.items():
        greedy, beam = measured[0], measured[-1]
        shown = f"{beam['wer']:.1f} | {beam['rtf']:.3f}" if len(measured) > 1 else f"- | {greedy['rtf']:.3f}"
        rows.append(f"| {manifest} | {greedy['wer']:.1f} | {greedy['cer']:.1f} | {shown} | {greedy['utterances']} |")
    errors = facts.get("calibration_error", {})
    shown = ", ".join(f"{error:.3f} ({way.replace('_', ' ')})" for way, error in errors.items())
    confidences = ["", f"Expected calibration error of word confidences, on held-out words: {shown}."] if shown else []
    return "\n".join(
        [
            f"# {name}",
            "",
            "English, 16 kHz, characters (blank, space, a-z, apostrophe). Part of streamasr, Apache-2.0.",
            "",
            kind,
            f"- Parameters: {facts['parameters'] / 1e6:.2f} million. Frame: {facts['frame_ms']:g} ms.",
            f"- Trained on: {', '.join(corpus.name for corpus in trained_on)}.",
            f"- Licences of the data: {'; '.join(licences)}.",
            f"- Training: {facts['heard_h']:.0f} hours of (augmented, repeated) speech heard in {facts['step']} steps,"
            f" {facts['trained_h']:.1f} hours of wall-clock time on {facts['hardware']}.",
            *imitated,
            f"- Made by `{command}` at commit {facts['commit']}.",
            "",
            f"## Measured {heading}",
            "",
            "| set | WER %, greedy | CER %, greedy | WER %, beam and language model | RTF | utterances |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
            f"RTF: real-time factor on one stream, on {facts['measured_on']}.",
            *confidences,
            "",
            "## Known failures",
            "",
            "- Rare names and words unlike their spelling are written as they sound.",
            "- Far microphones, loud music and several voices at once.",
            "- Digits and punctuation are not written: numbers come out as words.",
            "",
        ]
    )


def measure_whole(model: AsrModel, manifest: Path, limit: int) -> dict[str, Any]:
    """Greedy figures of a model on whole utterances, in the form of `streamasr.evaluation.evaluate`."""
    corpus = Corpus(manifest, 40.0)
    began = time.perf_counter()
    wer, pairs = word_errors(model, corpus, Vocab(), limit)
    took_s = time.perf_counter() - began
    seconds = sum(corpus.seconds(i) for i in range(0, len(corpus), max(1, len(corpus) // limit) if limit else 1))
    cer = 100 * jiwer.cer([r for r, _ in pairs], [h for _, h in pairs])
    return {
        "wer": round(wer, 2),
        "cer": round(cer, 2),
        "rtf": round(took_s / seconds, 4),
        "seconds": round(seconds, 1),
        "utterances": len(pairs),
    }


def export(
    source: Path,
    target: Path,
    dev: list[Path],
    command: str,
    *,
    limit: int = 0,
    tuned: bool = False,
    picture: Path | None = None,
) -> dict[str, list[dict[str, Any]]]:
    """Write a bundle from a checkpoint, measured on manifests.

    The decoder's numbers and the weights of confidences stay those of the bundle that `target` may hold already, and
    how far off these were found to be, if the network's weights are the same.

    Args:
        limit: utterances of each manifest to measure on (0: all).
        tuned: tune the decoder of a streaming model and calibrate its confidences on the manifests first.
        picture: where the reliability diagram of the confidences goes.

    Returns:
        for each manifest the figures with greedy search, and with the beam and the default language model; of an
        offline model the greedy ones alone.
    """
    model, config, saved = load_model(source)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout
    facts: dict[str, Any] = {
        "streaming": not model.config.bidirectional,
        "parameters": model.parameter_count,
        "lookahead_ms": model.lookahead_ms,
        "frame_ms": model.frame_ms,
        "step": saved["step"],
        "heard_h": round(saved["heard_h"], 2),
        "trained_h": round(saved["trained_s"] / 3600, 2),
        "hardware": saved.get("hardware", "a CPU"),
        "measured_on": processor(),
        "commit": commit.strip() or "unknown",
    }
    arguments = (model, model.features.config, model.config, Vocab())
    before, errors = calibrated(target)
    bundle.save(target, *arguments, facts, f"# {target.name}\n", **tables_of(target))
    if errors and calibrated(target)[0] == before:
        facts["calibration_error"] = errors
    if tuned and dev and facts["streaming"]:
        tune_and_calibrate(target, dev, limit, picture)
        facts["calibration_error"] = bundle.read_config(target)["facts"].get("calibration_error", {})
    figures: dict[str, list[dict[str, Any]]] = {}
    loaded = bundle.load(str(target.resolve()))
    lm_path = bundle.find_lm(None)
    lm = LanguageModel.load(lm_path) if lm_path else None
    for manifest in dev:
        if facts["streaming"]:
            engines = [Engine(loaded, loaded.beam_config(width=1)), Engine(loaded, lm=lm)]
            figures[set_name(manifest)] = [evaluate(manifest, engine, limit) for engine in engines]
        else:
            figures[set_name(manifest)] = [measure_whole(loaded.model, manifest, limit)]
    facts["wer"] = {name: measured[-1]["wer"] for name, measured in figures.items()}
    text = card(target.name, config, facts, figures, command)
    bundle.save(target, *arguments, facts, text, **tables_of(target))
    return figures


def calibrated(target: Path) -> tuple[str, dict[str, float]]:
    """The checksum of a bundle's weights, and how far off its confidences were; nothing without a bundle."""
    if not (target / "config.json").is_file():
        return "", {}
    facts = bundle.read_config(target)["facts"]
    return checksums.listed(target).get("weights.safetensors", ""), facts.get("calibration_error", {})


def tables_of(target: Path) -> dict[str, Any]:
    """The decoder's tables of a bundle on disk; none where there is no bundle."""
    content = bundle.read_config(target) if (target / "config.json").is_file() else {}
    return {name: content[name] for name in ("beam", "confidence") if name in content}


def tune_and_calibrate(target: Path, dev: list[Path], limit: int = 0, picture: Path | None = None) -> None:
    """Put into a bundle what its decoder and its confidences need, found on the manifests."""
    target = target.resolve()
    sets = {logits.name_of(manifest): logits.kept(target, manifest, limit) for manifest in dev}
    lm_path = bundle.find_lm(None)
    lm = LanguageModel.load(lm_path) if lm_path else None
    if lm:
        tune.write(target, tune.tune(BeamConfig(), lm, sets))
    calibrate.write(target, calibrate.calibrate(calibrate.ways(target), lm, sets, picture))


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m train.export", description="Release a checkpoint.")
    parser.add_argument("run", help="a run's name, or the path of a checkpoint")
    parser.add_argument("target", type=Path, help="for example models/small")
    parser.add_argument("--dev", type=Path, action="append", default=[], help="a manifest or directory to measure on")
    parser.add_argument("--limit", type=int, default=0, help="utterances of each to measure on; all by default")
    parser.add_argument("--tune", action="store_true", help="tune the decoder and calibrate confidences on them first")
    parser.add_argument("--plot", type=Path, help="with --tune: write the reliability diagram to this picture")
    arguments = parser.parse_args()
    named = cache_root() / "runs" / arguments.run / "latest.pt"
    try:
        figures = export(
            named if named.exists() else Path(arguments.run),
            arguments.target,
            arguments.dev,
            f"python -m train.export {arguments.run} {arguments.target}",
            limit=arguments.limit,
            tuned=arguments.tune,
            picture=arguments.plot,
        )
    except StreamasrError as error:
        print(f"train.export: {error}", file=sys.stderr)
        return 1
    print(json.dumps(figures, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
