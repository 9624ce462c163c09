"""The report of a recipe: figures, curves, sample hypotheses, and where the spikes of CTC stand in the spectrogram."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from streamasr.model import AsrModel
from streamasr.text import Vocab
from train.data import Corpus
from train.evaluate import Heard, hear
from train.log import read_log


@dataclass(frozen=True)
class Trained:
    """One model of a report. `figures` is what `train.export.export` returned."""

    label: str
    folder: Path
    model: AsrModel
    figures: Mapping[str, list[dict[str, Any]]]


def emission_delay_ms(student: list[Heard], teacher: list[Heard], frame_ms: float) -> float:
    """How much later the student emits its characters than the teacher, on average over the texts that both have alike.

    Returns:
        NaN where they have no text alike.
    """
    later = [
        at - by
        for ours, theirs in zip(student, teacher, strict=True)
        if ours.tokens and ours.tokens == theirs.tokens
        for at, by in zip(ours.frames, theirs.frames, strict=True)
    ]
    return float(np.mean(later)) * frame_ms if later else float("nan")


def draw_curves(trained: list[Trained], path: Path) -> None:
    """Loss over steps, and word errors over the hours of speech that were heard."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    loss_axes, error_axes = figure.subplots(1, 2)
    for each in trained:
        lines = read_log(each.folder)
        losses = [(line["step"], line["loss"]) for line in lines if "loss" in line]
        if losses:
            loss_axes.plot(*zip(*losses, strict=True), label=each.label, linewidth=0.9)
        for name in sorted({line["dev"] for line in lines if "dev" in line}):
            errors = [(line["heard_h"], line["wer"]) for line in lines if line.get("dev") == name]
            error_axes.plot(*zip(*errors, strict=True), marker=".", label=f"{each.label}, {name}")
    loss_axes.set(xlabel="step", ylabel="CTC loss for each character", yscale="log", title="Training loss")
    error_axes.set(xlabel="hours of speech heard", ylabel="WER %", title="Development sets, greedy", ylim=(0, None))
    for axes in (loss_axes, error_axes):
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)


@torch.inference_mode()
def draw_spikes(trained: list[Trained], corpus: Corpus, index: int, path: Path) -> None:
    """The log-mel energies of an utterance; below them, each model's probabilities of characters and blank."""
    samples = torch.from_numpy(corpus.samples(index))[None]
    vocab = Vocab()
    figure = Figure(figsize=(11, 2.4 * (1 + len(trained))), layout="constrained")
    rows = figure.subplots(1 + len(trained), 1, sharex=True)
    hop_s = trained[0].model.features.config.hop_ms / 1000
    energies = trained[0].model.features(samples)[0].numpy()
    rows[0].imshow(energies, origin="lower", aspect="auto", extent=(0, energies.shape[1] * hop_s, 0, len(energies)))
    rows[0].set(ylabel="mel band", title=corpus.utterances[index].text)
    for axes, each in zip(rows[1:], trained, strict=True):
        probabilities = each.model(samples, torch.tensor([samples.shape[1]]))[0][0].exp().numpy()  # (T, tokens)
        times_s = np.arange(len(probabilities)) * each.model.frame_ms / 1000
        axes.plot(times_s, probabilities[:, 0], color="0.8", linewidth=0.8)
        for token in range(1, len(vocab)):
            if probabilities[:, token].max() < 0.3:
                continue
            axes.plot(times_s, probabilities[:, token], linewidth=0.9)
            peaks = (probabilities[:, token] >= 0.3) & (probabilities[:, token] == probabilities.max(1))
            begins = np.flatnonzero(peaks & ~np.concatenate([[False], peaks[:-1]]))
            for at in begins:
                letter = vocab.tokens[token].replace(" ", "␣")
                axes.text(times_s[at], 1.02, letter, fontsize=8, ha="center")
        axes.set(ylabel=each.label, ylim=(0, 1.15))
    rows[-1].set(xlabel="seconds")
    figure.savefig(path, dpi=110)


def table_of_figures(trained: list[Trained]) -> list[str]:
    """Lines of Markdown: the word errors of each model on each set."""
    names = list(dict.fromkeys(name for each in trained for name in each.figures))
    lines = ["| set | " + " | ".join(each.label for each in trained) + " |", "|---" * (1 + len(trained)) + "|"]
    for name in names:
        cells = []
        for each in trained:
            measured = each.figures.get(name, [])
            shown = [f"{m['wer']:.1f}" for m in measured]
            cells.append(f"{shown[0]} greedy, {shown[1]} beam" if len(shown) > 1 else (*shown, "-")[0])
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def write_report(folder: Path, title: str, trained: list[Trained], dev: list[Path], *, samples: int = 12) -> Path:
    """Write `report.md` and its pictures into `folder`; returns the path of the former.

    A `reliability.png` that lies there, as `train.calibrate` draws it, is shown, too.

    Args:
        trained: the models, the offline one first where there are two.
        dev: development sets; sample hypotheses and the spectrogram are of the first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    draw_curves(trained, folder / "curves.png")
    lines = [
        f"# {title}",
        "",
        "## Word error rates, %",
        "",
        *table_of_figures(trained),
        "",
        "![curves](curves.png)",
        "",
    ]
    for each in trained:
        last = next((line for line in reversed(read_log(each.folder)) if "loss" in line), {})
        lines.append(
            f"- {each.label}: {each.model.parameter_count / 1e6:.2f} million parameters, {last.get('step', 0)} steps,"
            f" {last.get('heard_h', 0):.1f} hours of speech heard, {last.get('trained_h', 0):.2f} hours of training."
        )
    if dev:
        corpus = Corpus(dev[0], 40.0)
        chosen = list(range(0, len(corpus), max(1, len(corpus) // samples)))[:samples]
        heard = [hear(each.model, corpus, Vocab(), chosen) for each in trained]
        if len(trained) > 1:
            delay_ms = emission_delay_ms(heard[-1], heard[0], trained[-1].model.frame_ms)
            if not np.isnan(delay_ms):
                labels = trained[-1].label, trained[0].label
                lines.append(
                    f"- {labels[0]} emits {delay_ms:.0f} ms later than {labels[1]} (the sentences below alike in both)."
                )
        lines += ["", f"## Sample hypotheses, {dev[0].name}", ""]
        for number in range(len(chosen)):
            lines.append(f"- `{heard[0][number].reference}`")
            lines += [
                f"  - {each.label}: `{found[number].hypothesis}`" for each, found in zip(trained, heard, strict=True)
            ]
        shown = min(chosen, key=lambda index: abs(corpus.seconds(index) - 5))
        draw_spikes(trained, corpus, shown, folder / "spikes.png")
        lines += ["", "## Spectrogram and spikes", "", "![spikes](spikes.png)", ""]
    if (folder / "reliability.png").is_file():
        lines += ["", "## Confidences", "", "![share of right words by confidence](reliability.png)", ""]
    path = folder / "report.md"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
