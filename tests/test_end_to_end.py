"""A recording is spoken into a virtual microphone, and the installed command writes down what it hears."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import jiwer
import numpy as np
import pytest
import soundfile

from streamasr.audio import RATE_HZ, read_whole
from tests.virtual_microphone import virtual_microphone

REPOSITORY = Path(__file__).parents[1]
CORPUS = REPOSITORY.parent / "shared" / "corpus" / "dev" / "read"
STREAMASR = [sys.executable, "-c", "import sys; from streamasr.cli import main; sys.exit(main())"]
UTTERANCES = 3
ATTEMPTS = 3
PAUSE_S = 1.5


@pytest.fixture
def spoken(tmp_path: Path) -> Path:
    """Real speech where the corpus is there, the bundled recording elsewhere; with silence before and after."""
    if CORPUS.is_dir():
        lines = (CORPUS / "manifest.tsv").read_text(encoding="utf-8").splitlines()[:UTTERANCES]
        paths = [CORPUS / line.split("\t")[0] for line in lines]
    else:
        paths = [REPOSITORY / "streamasr" / "data" / "welcome.opus"]
    pause = np.zeros(round(PAUSE_S * RATE_HZ), np.float32)
    parts = [pause]
    for path in paths:
        parts += [read_whole(path), pause]
    target = tmp_path / "spoken.wav"
    soundfile.write(target, np.concatenate(parts), RATE_HZ)
    return target


def heard_live(spoken: Path, folder: Path) -> tuple[str, Path]:
    """The words of `streamasr listen` while a file is played, and the recording that it made."""
    saved, recorded = folder / "heard.jsonl", folder / "heard.flac"
    with virtual_microphone() as microphone:
        process = subprocess.Popen(
            [*STREAMASR, "listen", "--save", str(saved), "--record", str(recorded)],
            cwd=REPOSITORY,
            env=microphone.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        captions: list[str] = []
        reader = threading.Thread(target=lambda: captions.extend(process.stdout))
        reader.start()
        try:
            first = process.stderr.readline()
            assert "listening to" in first
            microphone.play(spoken)  # begins while the model is still being loaded
        finally:
            process.terminate()  # as Ctrl-C, which a parent in the background may have had ignored
            errors = process.stderr.read()
            status = process.wait()
            reader.join()
            process.stdout.close()
            process.stderr.close()
    assert status == 0, errors
    assert "nothing dropped" in errors
    events = [json.loads(line) for line in saved.read_text().splitlines()]
    finals = [event["text"] for event in events if event["type"] == "final"]
    assert finals == [line.strip() for line in captions]
    assert events[-1]["type"] == "end"
    assert not [event for event in events if event["type"] in ("overrun", "source_lost")]
    return " ".join(finals), recorded


def transcribed(path: Path) -> str:
    """The words of `streamasr transcribe`."""
    command = [*STREAMASR, "transcribe", str(path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return " ".join(done.stdout.split())


@pytest.mark.slow
def test_what_is_spoken_into_a_microphone_is_what_the_file_says(spoken: Path, tmp_path: Path) -> None:
    for attempt in range(ATTEMPTS):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        finals, recorded = heard_live(spoken, folder)
        same = loudest_correlation(read_whole(spoken), read_whole(recorded))
        if same > 0.99:  # else the sound system of a busy machine stumbled while it played
            break
    assert same > 0.95
    assert jiwer.wer(transcribed(recorded), finals) <= 0.05
    assert jiwer.wer(transcribed(spoken), finals) <= 0.1  # of 40 to 70 words; one that is misheard can be three


def loudest_correlation(played: np.ndarray, heard: np.ndarray) -> float:
    """Of what was played with what was heard, at the delay where it is greatest."""
    size = len(played) + len(heard)
    spectrum = np.fft.rfft(heard, size) * np.conj(np.fft.rfft(played, size))
    delay = int(np.argmax(np.fft.irfft(spectrum, size)))
    delay = delay if delay < len(heard) else delay - size  # the microphone may open during the silence before
    heard, played = heard[max(delay, 0) :], played[max(-delay, 0) :]
    count = min(len(heard), len(played))
    return float(np.corrcoef(heard[:count], played[:count])[0, 1])
