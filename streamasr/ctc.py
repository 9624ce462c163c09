"""Incremental CTC prefix beam search: log-probabilities in, words out, in chunks of any size.

The state of a stream is a value: every call returns a new one and leaves the old as it was. Text that all live
hypotheses share is *committed* frame by frame; no later frame can change it. The rest, the tail, is *tentative*; a tail
older than `tail_s` is committed by force, by dropping the hypotheses that disagree with the best on its oldest part.
Any chunking of the same frames gives the same words, times and confidences, bit for bit.

The search itself is compiled: see `beam` for it and for its source.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamasr import beam
from streamasr.config import BeamConfig
from streamasr.errors import DecoderError
from streamasr.text import Vocab

FRAME_S = 0.04

LogProbs = NDArray[np.float32]


class SpokenWord(NamedTuple):
    """A word, the frame of its first character, the frame after that of its last, and a probability in 0..1."""

    text: str
    start: int
    end: int
    confidence: float


class BeamState(NamedTuple):
    """One stream: the live hypotheses, and what was committed since the utterance began."""

    arrays: beam.Arrays
    text: str = ""  # committed
    words: tuple[SpokenWord, ...] = ()  # committed together with the space after them
    growing: tuple[tuple[str, int, float], ...] = ()  # committed letters after the last space: frame, log-probability

    @property
    def frames(self) -> int:
        """Frames consumed since the stream began."""
        return int(self.arrays.clock[beam.FRAME])


class Reading(NamedTuple):
    """What is known: `committed + tentative` is the text. A word still growing is among the tentative words."""

    committed: str
    tentative: str
    words: tuple[SpokenWord, ...]
    tentative_words: tuple[SpokenWord, ...]

    @property
    def all_words(self) -> tuple[SpokenWord, ...]:
        return self.words + self.tentative_words


class Decoder:
    """CTC prefix beam over the tokens of `vocab`; `frame_s` is the length of a frame in seconds.

    `config.width` 1 is greedy: exactly the most probable token of each frame, repeats merged, blanks removed.

    Raises:
        DecoderError: a beam width or tail below 1, or a `prune` or `drop` that is no log-probability.
    """

    def __init__(self, vocab: Vocab, config: BeamConfig | None = None, frame_s: float = FRAME_S) -> None:
        self.vocab, self.config = vocab, config or BeamConfig()
        width, tail = self.config.width, round(self.config.tail_s / frame_s)
        if width < 1:
            raise DecoderError(f"the beam has width {width}", "1 (greedy) or more", "Correct beam.width.")
        if tail < 1:
            raise DecoderError(
                f"the tail of {self.config.tail_s:g} s is shorter than a frame", "", "Raise beam.tail_s."
            )
        for name, value in (("prune", self.config.prune), ("drop", self.config.drop)):
            if not value < 0:
                raise DecoderError(f"beam.{name} is {value:g}", "a number below 0", f"Correct beam.{name}.")
        drop = max(math.exp(self.config.drop), beam.TINY)
        self._options = beam.Options(width, vocab.space, tail, float(self.config.prune), drop)

    def start(self) -> BeamState:
        """The state before the first frame: one hypothesis, the empty text."""
        width, recent = self._options.width, self._options.tail + 1
        arrays = beam.Arrays(
            nodes=np.zeros((width + 1, beam.NODE_FIELDS), np.int32),
            values=np.full((width + 1, beam.VALUE_FIELDS), -1.0),
            beam=np.zeros(width, np.int32),
            masses=np.zeros((width, 2)),
            recent=np.zeros((recent, len(self.vocab)), np.float32),
            clock=np.zeros(beam.CLOCK_FIELDS, np.int64),
            scale=np.zeros(1),
        )
        return BeamState(_plant(arrays, token=-1, ended=1.0, running=0.0, frame=0, last=-1))

    def step(self, log_probs: LogProbs, state: BeamState) -> BeamState:
        """The state after the frames (T, V) of natural log-probabilities; T may be 0.

        Raises:
            DecoderError: another number of tokens than the vocabulary, NaN, +inf, or a frame where nothing is possible.
        """
        return self.step_many([log_probs], [state])[0]

    def step_many(self, log_probs: Sequence[LogProbs], states: Sequence[BeamState]) -> list[BeamState]:
        """`step` of several streams in one call; each may have its own number of frames."""
        lengths = np.array([self._check(rows) for rows in log_probs], np.int64)
        longest, streams = int(lengths.max(initial=0)), len(states)
        if longest == 0:
            return list(states)
        rows = np.zeros((streams, longest, len(self.vocab)), np.float32)
        for b, given in enumerate(log_probs):
            rows[b, : len(given)] = given
        arrays = self._stack(states, longest)
        out = _tokens((streams,), longest + self._options.tail + 1)
        faulty, fault = beam.search(rows, lengths, arrays, self._options, out)
        if fault != beam.FINE:
            raise _fault(fault, f" of stream {faulty}" if streams > 1 else "")
        after = []
        for b, state in enumerate(states):
            own = beam.Arrays(*(a[b] for a in arrays))
            count = int(out.filled[b, 0])
            moved = state._replace(arrays=own)
            if count:
                moved = self._append(moved, beam.Tokens(*(column[b] for column in out)))
            after.append(moved)
        return after

    def read(self, state: BeamState) -> Reading:
        """The text so far, its words and their frames; of the tail, those of the best hypothesis."""
        out = _tokens((), len(state.arrays.recent))
        agreed = beam.trace(state.arrays, self._options, out)
        whole = self._append(state, out)
        words = whole.words
        if whole.growing:
            words = (*words, _word(whole.growing, agreed))
        known = len(state.words)
        return Reading(state.text, whole.text[len(state.text) :], state.words, words[known:])

    def finish(self, state: BeamState) -> tuple[tuple[SpokenWord, ...], BeamState]:
        """The words of the utterance, final, and the state in which the next one begins; its frames count on."""
        words = self.read(state).all_words
        arrays = beam.Arrays(*(a.copy() for a in state.arrays))
        best = int(arrays.beam[0])
        out = _tokens((), len(arrays.recent))
        beam.trace(arrays, self._options, out)
        count = int(out.filled[0])
        last = int(out.frame[count - 1]) if count else int(arrays.clock[beam.LAST])
        ended, running = arrays.masses[0]
        token = int(arrays.nodes[best, beam.TOKEN])
        return words, BeamState(_plant(arrays, token, ended, running, state.frames, last))

    def hypotheses(self, state: BeamState) -> list[tuple[str, float]]:
        """The live hypotheses, best first: the text after what is committed, and the log of its probability."""
        arrays = state.arrays
        found = []
        for entry in range(int(arrays.clock[beam.COUNT])):
            node, tail = int(arrays.beam[entry]), []
            while node != arrays.clock[beam.ROOT]:
                tail.append(int(arrays.nodes[node, beam.TOKEN]))
                node = int(arrays.nodes[node, beam.PARENT])
            score = math.log(arrays.masses[entry].sum()) + float(arrays.scale[0])
            found.append((self.vocab.decode(reversed(tail)), score))
        return found

    def _check(self, rows: LogProbs) -> int:
        shape = np.shape(rows)
        if len(shape) != 2 or shape[1] != len(self.vocab):
            got = f"logits of shape {shape}"
            raise DecoderError(
                got, f"(frames, {len(self.vocab)}), one column for each token", "Use the model's tokens."
            )
        return int(shape[0])

    def _stack(self, states: Sequence[BeamState], frames: int) -> beam.Arrays:
        """Copies of the arrays of all states, one row each, with room for the nodes that `frames` may add."""
        width, tail = self._options.width, self._options.tail
        used = max(int(state.arrays.clock[beam.FRESH]) for state in states)
        capacity = min(used + width * frames, width * (tail + 2)) + 1
        nodes = np.empty((len(states), capacity, beam.NODE_FIELDS), np.int32)
        values = np.empty((len(states), capacity, beam.VALUE_FIELDS))
        for b, state in enumerate(states):
            rows = int(state.arrays.clock[beam.FRESH])
            nodes[b, :rows] = state.arrays.nodes[:rows]
            values[b, :rows] = state.arrays.values[:rows]
        rest = (np.stack(column) for column in zip(*(state.arrays[2:] for state in states), strict=True))
        return beam.Arrays(nodes, values, *rest)

    def _append(self, state: BeamState, out: beam.Tokens) -> BeamState:
        """The state with the tokens of `out` committed as far as text and words go."""
        text, words, growing = state.text, list(state.words), list(state.growing)
        for i in range(int(out.filled[0])):
            token = int(out.token[i])
            if token != self._options.space:
                text += self.vocab.tokens[token]
                growing.append((self.vocab.tokens[token], int(out.frame[i]), float(out.peak[i])))
            elif growing:  # a space at the beginning or after another says nothing
                text += " "
                words.append(_word(growing, float(out.agreed[i])))
                growing = []
        return BeamState(state.arrays, text, tuple(words), tuple(growing))


def _word(letters: Sequence[tuple[str, int, float]], agreed: float) -> SpokenWord:
    text, frames, peaks = zip(*letters, strict=True)
    confidence = agreed * math.exp(sum(min(peak, 0.0) for peak in peaks) / len(peaks))
    return SpokenWord("".join(text), frames[0], frames[-1] + 1, min(max(confidence, 0.0), 1.0))


def _plant(arrays: beam.Arrays, token: int, ended: float, running: float, frame: int, last: int) -> beam.Arrays:
    """The tree with nothing but a root after `token`, in place."""
    arrays.nodes[0] = -1
    arrays.nodes[0, [beam.TOKEN, beam.USES, beam.CREATED, beam.SLOT]] = token, 1, frame - 1, 0
    arrays.beam[0] = 0
    arrays.masses[0] = ended, running
    arrays.clock[:] = frame, 1, 0, -1, 1, last
    arrays.scale[0] = 0.0
    return arrays


def _tokens(lead: tuple[int, ...], places: int) -> beam.Tokens:
    shape = (*lead, places)
    return beam.Tokens(
        np.zeros(shape, np.int32),
        np.zeros(shape, np.int32),
        np.zeros(shape),
        np.zeros(shape),
        np.zeros((*lead, 1), np.int64),
    )


def _fault(fault: int, whose: str) -> DecoderError:
    got = {
        beam.NOT_A_NUMBER: f"the logits{whose} contain NaN",
        beam.INFINITE: f"the logits{whose} contain +inf",
        beam.IMPOSSIBLE: f"the logits{whose} have a frame in which every token is impossible",
    }[fault]
    return DecoderError(got, "finite log-probabilities (-inf for the impossible)", "Check the model and its input.")
