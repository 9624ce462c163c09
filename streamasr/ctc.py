"""Incremental CTC prefix beam search: log-probabilities in, words out, in chunks of any size.

The state of a stream is a value: every call returns a new one and leaves the old as it was. Text that all live
hypotheses share is *committed* frame by frame; no later frame can change it. The rest, the tail, is *tentative*; a tail
older than `tail_s` is committed by force, by dropping the hypotheses that disagree with the best on its oldest part.
Any chunking of the same frames gives the same words, times and confidences, bit for bit.

The search itself is compiled: see `beam` for it and for its source.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamasr import beam, memories, tree
from streamasr.compiled import chosen
from streamasr.config import BeamConfig
from streamasr.errors import DecoderError
from streamasr.gains import Models
from streamasr.hotwords import build
from streamasr.lm import START, LanguageModel, LmTables
from streamasr.spelling import english, letter_frequencies, pair_frequencies
from streamasr.text import ALPHABET, Vocab

FRAME_S = 0.04
RIVAL = 1e-4  # share that is granted to unseen rivals, and to what looks impossible
TINY = 1e-250  # hypotheses below this share of the best are dropped whatever `drop` says

LogProbs = NDArray[np.float32]


class SpokenWord(NamedTuple):
    """A word, the frame of its first character, the frame after that of its last, and a probability in 0..1."""

    text: str
    start: int
    end: int
    confidence: float


class BeamState(NamedTuple):
    """One stream: the live hypotheses, and what was committed since the utterance began."""

    arrays: tree.Arrays
    text: str = ""  # committed
    words: tuple[SpokenWord, ...] = ()  # committed together with the space after them
    growing: tuple[tuple[str, int, float], ...] = ()  # committed letters after the last space: frame, log-probability

    @property
    def frames(self) -> int:
        """Frames consumed since the stream began."""
        return int(self.arrays.clock[tree.FRAME])


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
        DecoderError: options out of range, a language model with other characters, or hotwords that cannot be spelled.
    """

    def __init__(
        self,
        vocab: Vocab,
        config: BeamConfig | None = None,
        frame_s: float = FRAME_S,
        lm: LanguageModel | None = None,
        hotwords: Mapping[str, float] | None = None,
    ) -> None:
        self.vocab, self.config = vocab, config or BeamConfig()
        _check(self.config, frame_s)
        width, tail = self.config.width, round(self.config.tail_s / frame_s)
        if lm and vocab.tokens != ALPHABET:
            got = f"the language model spells with other characters than the model's {len(vocab)} tokens"
            raise DecoderError(got, "the tokens " + "".join(ALPHABET), "Decode without the language model.")
        self._width, self._tail, self._space, self._tokens = width, tail, vocab.space, len(vocab)
        tables = lm.tables if lm else no_tables()
        tables = tables._replace(unknown_per_letter=float(tables.unknown_per_letter + self.config.unknown))
        phrases = build(hotwords or {}, vocab)
        prune = self.config.prune if lm or hotwords else self.config.prune_alone
        offsets = _offsets(self.config) if lm and width > 1 else np.zeros(len(vocab))
        self._options = beam.Options(float(prune), max(math.exp(self.config.drop), TINY), offsets)
        self._models = Models(
            vocab.space,
            float(self.config.alpha),
            float(self.config.beta),
            float(tables.log_prob[1]) if lm else 0.0,
            phrases.greatest,
            phrases.following,
            phrases.pending,
            phrases.paid,
            tables,
            float(self.config.rnn),
            float(self.config.rnn_drop),
            memories.tables(lm if width > 1 and self.config.rnn else None),
            *_pairs(self.config, lm),
        )
        self._first = memories.first(self._models.rnn)
        arrays = self.start().arrays
        self._search = chosen(beam.search, arrays.recent, arrays, self._options, self._models)
        self._best = chosen(beam.trace, arrays, self._models, False, np.empty((0, 4)))

    @property
    def offsets(self) -> NDArray[np.float64]:
        """What is added to the log-probability of each token before anything else, (V,)."""
        return self._options.offsets

    def start(self) -> BeamState:
        """The state before the first frame: one hypothesis, the empty text."""
        width = self._width
        arrays = tree.Arrays(
            nodes=np.zeros((width + 1, tree.NODE_FIELDS), np.int32),
            values=np.zeros((width + 1, tree.VALUE_FIELDS)),
            beam=np.zeros(width, np.int32),
            masses=np.zeros((width, 2)),
            recent=np.zeros((self._tail + 1, self._tokens), np.float32),
            clock=np.zeros(tree.CLOCK_FIELDS, np.int64),
            scale=np.zeros(1),
            slots=np.zeros((1, tree.SLOT_FIELDS), np.int32),
            memories=np.zeros((1, len(self._first)), np.float32),
        )
        return BeamState(self._plant(arrays, token=-1, ended=1.0, running=0.0, frame=0, last=-1))

    def step(self, log_probs: LogProbs, state: BeamState) -> BeamState:
        """The state after the frames (T, V) of natural log-probabilities; T may be 0.

        Raises:
            DecoderError: another number of tokens than the vocabulary, NaN, +inf, or a frame where nothing is possible.
        """
        rows = np.asarray(log_probs, np.float32, order="C")
        if rows.ndim != 2 or rows.shape[1] != self._tokens:
            got = f"logits of shape {rows.shape}"
            raise DecoderError(got, f"(frames, {self._tokens}), one column for each token", "Use the model's tokens.")
        if not len(rows):
            return state
        fault, arrays, out, filled = self._search(rows, state.arrays, self._options, self._models)
        if fault != beam.FINE:
            raise _fault(fault)
        state = BeamState(arrays, state.text, state.words, state.growing)
        return self._append(state, out[:filled]) if filled else state

    def read(self, state: BeamState) -> Reading:
        """The text so far, its words and their frames; of the tail, those of the best hypothesis."""
        whole, agreed = self._trace(state, ended=False)
        words = (*whole.words, self._word(whole.growing, agreed)) if whole.growing else whole.words
        known = len(state.words)
        return Reading(state.text, whole.text[len(state.text) :], state.words, words[known:])

    def finish(self, state: BeamState) -> tuple[tuple[SpokenWord, ...], BeamState]:
        """The words of the utterance, final, and the state in which the next one begins; its frames count on."""
        whole, agreed = self._trace(state._replace(arrays=_copy(state.arrays)), ended=True)
        words = (*whole.words, self._word(whole.growing, agreed)) if whole.growing else whole.words
        arrays = whole.arrays
        ended, running = arrays.masses[0] / arrays.masses[0].sum()
        token = int(arrays.nodes[arrays.beam[0], tree.TOKEN])
        return words, BeamState(self._plant(arrays, token, ended, running, state.frames, int(arrays.clock[tree.LAST])))

    def take(self, state: BeamState) -> tuple[tuple[SpokenWord, ...], BeamState]:
        """The committed words, and the state without them: for streams that are never finished."""
        rest = "".join(letter for letter, _, _ in state.growing)
        return state.words, state._replace(text=rest, words=())

    def hypotheses(self, state: BeamState) -> list[tuple[str, float]]:
        """The live hypotheses, best first: the text after what is committed, and the log of its probability."""
        arrays = state.arrays
        found = []
        for entry in range(int(arrays.clock[tree.COUNT])):
            node, tail = int(arrays.beam[entry]), []
            while node != arrays.clock[tree.ROOT]:
                tail.append(int(arrays.nodes[node, tree.TOKEN]))
                node = int(arrays.nodes[node, tree.PARENT])
            score = math.log(arrays.masses[entry].sum()) + float(arrays.scale[0])
            found.append((self.vocab.decode(reversed(tail)), score))
        return found

    def alternatives(self, state: BeamState, count: int) -> list[tuple[str, float]]:
        """The `count` best texts of the utterance if it ended here, and the logs of their probabilities.

        They differ in the uncommitted tail only: what is committed has no alternatives any more.
        """
        settled, _ = self._trace(state._replace(arrays=_copy(state.arrays)), ended=True)
        total: dict[str, float] = {}
        for tail, log_prob in self.hypotheses(settled):
            text = " ".join((state.text + tail).split())
            total[text] = float(np.logaddexp(total.get(text, -math.inf), log_prob))
        return sorted(total.items(), key=lambda item: -item[1])[:count]

    def _trace(self, state: BeamState, ended: bool) -> tuple[BeamState, float]:
        """The state with its best hypothesis committed, but for the tree; the agreement on its last word."""
        out = np.empty((len(state.arrays.recent), 4))
        count, agreed = self._best(state.arrays, self._models, ended, out)
        if ended and count:
            state.arrays.clock[tree.LAST] = int(out[count - 1, beam.FRAME_OUT])
        return self._append(state, out[:count]), agreed

    def _append(self, state: BeamState, out: NDArray[np.float64]) -> BeamState:
        """The state with the tokens of `out` (M, 4) committed as far as text and words go."""
        if not len(out):
            return state
        text, words, growing = state.text, list(state.words), list(state.growing)
        for token, frame, peak, agreed in out.tolist():
            if token != self._space:
                text += self.vocab.tokens[int(token)]
                growing.append((self.vocab.tokens[int(token)], int(frame), peak))
            elif growing:  # a space at the beginning or after another says nothing
                text += " "
                words.append(self._word(growing, agreed))
                growing = []
        return BeamState(state.arrays, text, tuple(words), tuple(growing))

    def _word(self, letters: Sequence[tuple[str, int, float]], agreed: float) -> SpokenWord:
        text, frames, peaks = zip(*letters, strict=True)
        config = self.config
        peak = math.exp(sum(min(peak, 0.0) for peak in peaks) / len(peaks))
        logit = config.confidence_bias + config.confidence_agreed * odds(agreed) + config.confidence_peak * odds(peak)
        return SpokenWord(
            "".join(text), frames[0], frames[-1] + 1, 1.0 / (1.0 + math.exp(min(max(-logit, -50.0), 50.0)))
        )

    def _plant(
        self, arrays: tree.Arrays, token: int, ended: float, running: float, frame: int, last: int
    ) -> tree.Arrays:
        """The tree with nothing but a root after `token`, in place."""
        arrays.nodes[0], arrays.values[0] = 0, 0.0
        fields = [tree.PARENT, tree.CHILD, tree.SIBLING, tree.TOKEN, tree.USES, tree.HISTORY, tree.PHRASE]
        arrays.nodes[0, fields] = -1, -1, -1, token, 1, self._models.lm.start, 0
        fields = [tree.AGREED, tree.FACTOR, tree.ENDING, tree.NGRAMS]
        arrays.values[0, fields] = -1.0, 1.0, tree.UNKNOWN_YET, tree.UNKNOWN_YET
        models = self._models
        most = float(models.most[models.space]) if len(models.most) else 0.0
        arrays.values[0, [tree.RISE, tree.LEAP]] = math.exp(models.rise + most)
        arrays.beam[0] = 0
        arrays.masses[0] = ended, running
        arrays.clock[:] = frame, 1, 0, -1, 1, last, -1, 1
        arrays.nodes[0, tree.MEMORY] = 0 if len(self._first) else -1
        if len(self._first):
            arrays.slots[0], arrays.memories[0] = (1, -1, START, 1), self._first
        arrays.scale[0] = 0.0
        return arrays


def _offsets(config: BeamConfig) -> NDArray[np.float64]:
    """What is added to the log-probability of each token (V,) where there is a language model.

    The network has learnt how frequent letters are, and the language model knows it, too: a share of that is taken off
    (the prior of a label: Bourlard, Morgan, "Connectionist Speech Recognition", 1994).
    """
    offsets = -config.prior * letter_frequencies(english())
    offsets[beam.BLANK] = -config.blank
    return offsets


def _pairs(config: BeamConfig, lm: LanguageModel | None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What each token gains after each other, (V, V), and the most that a letter gains after each; empty: nothing."""
    if lm is None or config.width == 1 or config.pairs == 0.0:
        return np.zeros((0, 0)), np.zeros(0)
    gained = -config.pairs * pair_frequencies(english())
    return gained, gained[:, 2:].max(1)


def odds(share: float) -> float:
    """Log-odds of a share in 0..1, held finite."""
    return math.log((share + RIVAL) / (1.0 - share + RIVAL))


def no_tables() -> LmTables:
    """A language model that says nothing."""
    ints, floats, masks = np.zeros(0, np.int32), np.zeros(0, np.float32), np.zeros(0, np.uint32)
    return LmTables(ints, ints, floats, floats, ints, ints, masks, ints, ints, floats, 0, 0, floats, 0.0)


def _copy(arrays: tree.Arrays) -> tree.Arrays:
    """The same, with nothing but what is in use."""
    nodes, slots = int(arrays.clock[tree.FRESH]), int(arrays.clock[tree.UNTOUCHED])
    used = arrays._replace(
        nodes=arrays.nodes[:nodes],
        values=arrays.values[:nodes],
        slots=arrays.slots[:slots],
        memories=arrays.memories[:slots],
    )
    return tree.Arrays(*(array.copy() for array in used))


def _check(config: BeamConfig, frame_s: float) -> None:
    """Refuse numbers that the search has no use for; a NaN is none of them."""
    seen = dataclasses.asdict(config)
    rules: list[tuple[str, str, Callable[[float], bool]]] = [
        ("width", "1 (greedy) or more", lambda x: x >= 1),
        ("tail_s", f"at least a frame, {frame_s:g} s", lambda x: frame_s / 2 < x < math.inf),
        ("prune", "a number below 0", lambda x: x < 0),
        ("prune_alone", "a number below 0", lambda x: x < 0),
        ("drop", "a number below 0", lambda x: x < 0),
        ("alpha", "0 or more", lambda x: 0 <= x < math.inf),
        ("beta", "a finite number", math.isfinite),
        ("unknown", "0 or less", lambda x: -math.inf < x <= 0),
        ("blank", "-20 to 20", lambda x: -20 <= x <= 20),
        ("prior", "0 to 1", lambda x: 0 <= x <= 1),
        ("pairs", "0 to 1", lambda x: 0 <= x <= 1),
        ("rnn", "0 to below 1", lambda x: 0 <= x < 1),
        ("rnn_drop", "a number below 0", lambda x: x < 0),
        *((f"confidence_{name}", "a finite number", math.isfinite) for name in ("bias", "agreed", "peak")),
    ]
    for name, expected, fits in rules:
        if not fits(seen[name]):
            raise DecoderError(f"beam.{name} is {seen[name]:g}", expected, f"Correct beam.{name}.")


def _fault(fault: int) -> DecoderError:
    got = {
        beam.NOT_A_NUMBER: "the logits contain NaN",
        beam.INFINITE: "the logits contain +inf",
        beam.IMPOSSIBLE: "the logits have a frame in which every token is impossible",
    }[fault]
    return DecoderError(got, "finite log-probabilities (-inf for the impossible)", "Check the model and its input.")


def warm() -> None:
    """Compile what is not compiled yet, so that nobody waits for it while speaking."""
    decoder = Decoder(Vocab())
    rows = np.full((2, len(decoder.vocab)), -np.log(len(decoder.vocab)), np.float32)
    decoder.finish(decoder.step(rows, decoder.start()))
