from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from streamasr.bundle import Bundle
from streamasr.engine import Engine
from streamasr.errors import ManifestError
from streamasr.evaluation import evaluate, transcribe
from streamasr.events import End


def write(folder: Path, lines: list[str]) -> Path:
    rng = np.random.default_rng(1)
    for name in ("a.wav", "b.wav"):
        soundfile.write(folder / name, rng.standard_normal(24_000) * 0.1, 16_000)
    (folder / "empty.wav").write_bytes(b"")
    (folder / "manifest.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def test_figures(tiny_bundle: Bundle, tmp_path: Path) -> None:
    folder = write(
        tmp_path,
        [
            "a.wav\t1.5\tx\thello there",
            "b.wav\t1.5\tx\tMr. Smith",
            "empty.wav\t1\tx\tword",
            "gone.wav\t1\tx\tword",
            "a.wav\t1\tx\t...",
        ],
    )
    seen: list[str] = []
    result = evaluate(folder, Engine(tiny_bundle), progress=lambda scored: seen.append(scored.reference))
    assert seen == ["hello there", "mister smith"]
    assert result["utterances"] == 2
    assert result["skipped"] == 3
    assert result["seconds"] == 3.0
    assert result["wer"] > 0
    assert set(result) == {"wer", "cer", "rtf", "seconds", "utterances", "flickers_per_minute", "skipped", "model"}


def test_transcribe_ends(tiny_bundle: Bundle, tmp_path: Path) -> None:
    write(tmp_path, [])
    events, heard_s, busy_s = transcribe(tmp_path / "a.wav", Engine(tiny_bundle))
    assert events[-1] == End(1.5)
    assert heard_s == 1.5
    assert busy_s > 0


@pytest.mark.parametrize("line", ["a.wav\t1.5\thello", "a.wav 1.5 x hello"])
def test_wrong_columns(tiny_bundle: Bundle, tmp_path: Path, line: str) -> None:
    with pytest.raises(ManifestError, match="line 1 has"):
        evaluate(write(tmp_path, [line]), Engine(tiny_bundle))


def test_nothing_to_score(tiny_bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no utterance"):
        evaluate(write(tmp_path, ["gone.wav\t1\tx\tword"]), Engine(tiny_bundle))
    with pytest.raises(ManifestError, match="cannot be read"):
        evaluate(tmp_path / "none.tsv", Engine(tiny_bundle))
