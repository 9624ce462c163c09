"""The recurrent language model in the beam, against a plain one that scores whole texts."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from streamasr import tree
from streamasr.checksums import listed
from streamasr.config import BeamConfig
from streamasr.ctc import BeamState, Decoder
from streamasr.dense import rounded
from streamasr.errors import BundleError, ChecksumError
from streamasr.lm import LanguageModel
from streamasr.memories import UNASKED
from streamasr.ngram import START, UNKNOWN
from streamasr.rnn_lm import FILE, RnnLm, read_rnn, write_rnn
from tests.test_gains import ARPA, RARE, VOCAB, brute_force, few, spelled

WORDS = ("<unk>", "<s>", "</s>", "a", "ab", "ba")  # "bab" is known to the n-grams alone
SIZE, CELLS = 8, 6


def some_rnn(seed: int = 0, size: int = SIZE, cells: int = CELLS) -> RnnLm:
    random = np.random.default_rng(seed)

    def matrix(rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
        whole, scale = rounded(torch.from_numpy(random.normal(0.0, 0.7, (rows, columns)).astype(np.float32)))
        return whole.numpy(), scale.numpy()

    def vector(count: int, mean: float = 0.0) -> np.ndarray:
        return random.normal(mean, 0.5, count).astype(np.float32)

    embedding, gates, out = matrix(len(WORDS), size), matrix(4 * cells, size + cells), matrix(size, cells)
    return RnnLm(WORDS, *embedding, vector(len(WORDS), -2.0), *gates, vector(4 * cells), *out, vector(size))


class Plain:
    """The model step by step, as its equations say."""

    def __init__(self, rnn: RnnLm) -> None:
        self.words = {word: at for at, word in enumerate(rnn.words) if at > 2}
        self.embedding = rnn.embedding * rnn.scale[:, None].astype(float)
        self.gates, self.out = rnn.gates * rnn.gates_scale[:, None].astype(float), rnn.out * rnn.out_scale[:, None]
        self.rnn, self.hidden, self.cell = rnn, np.zeros(rnn.cells), np.zeros(rnn.cells)
        self.hear(START)

    def hear(self, number: int) -> None:
        linear = self.gates @ np.concatenate([self.embedding[number], self.hidden]) + self.rnn.gates_bias
        i, f, g, o = linear.reshape(4, -1)
        i, f, o = (1 / (1 + np.exp(-gate)) for gate in (i, f, o))
        self.cell = f * self.cell + i * np.tanh(g)
        self.hidden = o * np.tanh(self.cell)

    def log_prob(self, number: int) -> float:
        vector = self.out @ self.hidden + self.rnn.out_bias
        return min(0.0, float(vector @ self.embedding[number] + self.rnn.bias[number]))


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    path: Path = tmp_path_factory.mktemp("lm") / "small.arpa"
    path.write_text(ARPA)
    model = LanguageModel.load(path)
    return LanguageModel(model.words, model.trie, rnn=some_rnn(), rare=RARE)


def both_models(lm: LanguageModel, text: str, config: BeamConfig) -> float:
    """The log-score of a text whose last word still grows, word by word."""
    assert lm.rnn
    plain = Plain(lm.rnn)
    unigrams = {word: math.exp(float(lm.unigrams[at])) for at, word in enumerate(lm.words) if at > 2}
    beyond = sum(share for word, share in unigrams.items() if word not in plain.words)

    def mixed(word: str, ngrams: float) -> float:
        own = plain.words.get(word, UNKNOWN)
        share = math.log(unigrams[word] / beyond) if word in unigrams and own == UNKNOWN else 0.0
        told = math.exp(plain.log_prob(own) + share)
        plain.hear(own)
        return math.log(config.rnn * told + (1 - config.rnn) * math.exp(ngrams)) if word in unigrams else ngrams

    return spelled(lm, text, config, mixed=mixed)


@given(seed=st.integers(0, 2**32 - 1), frames=st.integers(1, 6), share=st.sampled_from([0.3, 0.8]))
@settings(max_examples=30, deadline=None)
def test_scores_are_those_of_both_models(lm: LanguageModel, seed: int, frames: int, share: float) -> None:
    rows = few(np.random.default_rng(seed), frames)
    wide = {"width": 3000, "prune": -1e9, "drop": -1e9, "rnn_drop": -1e9}
    config = BeamConfig(alpha=0.7, beta=0.4, unknown=0.0, rnn=share, **wide)
    decoder = Decoder(VOCAB, config, lm=lm)
    expected = brute_force(rows)
    found = dict(decoder.hypotheses(decoder.step(rows, decoder.start())))
    assert set(found) == set(expected)
    for text, log_prob in found.items():
        assert log_prob == pytest.approx(math.log(expected[text]) + both_models(lm, text, config), abs=0.03)  # 8 bits


def holders(state: BeamState) -> dict[int, int]:
    """How many nodes and slots hold each slot, counted anew."""
    a = state.arrays
    counts: dict[int, int] = {}
    nodes = [n for n in range(int(a.clock[tree.FRESH])) if a.nodes[n, tree.USES] >= 0]
    for node in nodes:
        counts[int(a.nodes[node, tree.MEMORY])] = counts.get(int(a.nodes[node, tree.MEMORY]), 0) + 1
    waiting = [slot for slot in counts if not a.slots[slot, tree.READY]]
    while waiting:
        before = int(a.slots[waiting.pop(), tree.BEFORE])
        counts[before] = counts.get(before, 0) + 1
        if counts[before] == 1 and not a.slots[before, tree.READY]:
            waiting.append(before)
    return counts


def longest_unasked(state: BeamState) -> int:
    """The longest row of memories one after the other that are not worked out."""
    a, most = state.arrays, 0
    for slot in range(int(a.clock[tree.UNTOUCHED])):
        at, length = slot, 0
        while a.slots[at, tree.HOLDERS] > 0 and not a.slots[at, tree.READY]:
            at, length = int(a.slots[at, tree.BEFORE]), length + 1
        most = max(most, length)
    return most


@given(seed=st.integers(0, 2**32 - 1), trust=st.sampled_from([-1e-9, -2.0, -50.0]), width=st.sampled_from([2, 16]))
@settings(max_examples=25, deadline=None)
def test_any_chunks_give_the_same_and_memories_are_given_back(
    lm: LanguageModel, seed: int, trust: float, width: int
) -> None:
    random = np.random.default_rng(seed)
    rows = few(random, 200, peak=1.5)
    decoder = Decoder(VOCAB, BeamConfig(width=width, tail_s=0.8, rnn=0.5, rnn_drop=trust), lm=lm)
    whole = decoder.step(rows, decoder.start())
    state, at, most = decoder.start(), 0, 0
    while at < len(rows):
        count = int(random.integers(1, 30))
        other = decoder.step(rows[::-1][:7], state)  # a branch, which changes nothing
        decoder.finish(other)
        state, at = decoder.step(rows[at : at + count], state), at + count
        counted = holders(state)
        slots = state.arrays.slots[: int(state.arrays.clock[tree.UNTOUCHED])]
        assert counted == {slot: int(row[tree.HOLDERS]) for slot, row in enumerate(slots) if row[tree.HOLDERS] > 0}
        most = max(most, len(counted))
        assert longest_unasked(state) <= UNASKED + 1
    assert decoder.finish(state)[0] == decoder.finish(whole)[0]
    assert decoder.hypotheses(state) == decoder.hypotheses(whole)
    assert most <= 2 * width * 22  # nodes of the tail, and what they still need


def test_what_nobody_asks_for_costs_nothing(lm: LanguageModel) -> None:
    rows = few(np.random.default_rng(1), 300)
    without, beside = (Decoder(VOCAB, BeamConfig(width=8, rnn=share, rnn_drop=-1e-9), lm=lm) for share in (0.0, 1e-12))
    assert without.start().arrays.memories.size == 0
    said = [decoder.finish(decoder.step(rows, decoder.start()))[0] for decoder in (without, beside)]
    assert [word[:3] for word in said[0]] == [word[:3] for word in said[1]]


def test_it_is_kept_beside_the_ngrams_and_verified(lm: LanguageModel, tmp_path: Path) -> None:
    lm.save(tmp_path)
    assert read_rnn(tmp_path) is None and LanguageModel.load(tmp_path).rnn is None
    rnn = some_rnn(3)
    write_rnn(tmp_path, rnn)
    loaded = LanguageModel.load(tmp_path).rnn
    assert loaded is not None and loaded.words == rnn.words
    for ours, theirs in zip(loaded[1:], rnn[1:], strict=True):
        assert np.array_equal(ours, theirs)
    lm.save(tmp_path)  # the n-grams anew: the other file stays in the list
    assert set(listed(tmp_path)) == {"config.json", "lm.safetensors", "rare.txt.xz", FILE}
    assert read_rnn(tmp_path) is not None
    (tmp_path / FILE).write_bytes((tmp_path / FILE).read_bytes()[:-1] + b"?")
    with pytest.raises(ChecksumError, match="checksum"):
        read_rnn(tmp_path)
    write_rnn(tmp_path, rnn._replace(bias=rnn.bias[1:]))
    with pytest.raises(BundleError, match="do not fit"):
        read_rnn(tmp_path)
    write_rnn(tmp_path, rnn)
    (tmp_path / FILE).write_bytes(b"nothing")
    with pytest.raises(ChecksumError):
        read_rnn(tmp_path)
