"""Makes the bundled recording that `streamasr listen` plays where there is no microphone.

    python -m train.recording            # writes streamasr/data/welcome.opus and streamasr/data/welcome.txt

The speaker is the voice in the package of hibari-tts (Apache-2.0), a synthesiser; the sentences are ours.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import soundfile
import soxr
from hibari import SAMPLE_RATE, Hibari

RATE_HZ = 16_000
PAUSE_S = 1.1  # longer than the silence that ends an utterance
PEAK = 0.6
SENTENCES = (
    "Hello, and welcome.",
    "These words appear while they are spoken.",
    "Nothing that you say leaves this computer.",
    "The faint words may still change, but the clear words will stay.",
    "When you find a microphone, speak, and read what you said.",
)
DESTINATION = Path(__file__).parents[1] / "streamasr" / "data" / "welcome.opus"


def speak(sentences: tuple[str, ...], seed: int = 1) -> np.ndarray:
    """The sentences with a pause before, between and after them: float32 (T,) at 16 kHz."""
    voice = Hibari()
    pause = np.zeros(round(PAUSE_S * SAMPLE_RATE), np.float32)
    parts = [pause[: len(pause) // 2]]
    for sentence in sentences:
        parts += [voice(sentence, seed=seed), pause]
    samples = soxr.resample(np.concatenate(parts), SAMPLE_RATE, RATE_HZ)
    return (samples * (PEAK / np.abs(samples).max())).astype(np.float32)


def transcript(sentences: tuple[str, ...]) -> str:
    """What was spoken, in the letters of the recogniser, one sentence a line."""
    kept = (
        "".join(letter for letter in sentence.lower() if letter.isalpha() or letter in " '") for sentence in sentences
    )
    return "".join(f"{line}\n" for line in kept)


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the bundled recording.")
    parser.add_argument("--out", type=Path, default=DESTINATION, help="default: %(default)s")
    arguments = parser.parse_args()
    samples = speak(SENTENCES)
    soundfile.write(arguments.out, samples, RATE_HZ, format="OGG", subtype="OPUS")
    arguments.out.with_suffix(".txt").write_text(transcript(SENTENCES))
    print(f"{arguments.out}: {len(samples) / RATE_HZ:.1f} s, {arguments.out.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
