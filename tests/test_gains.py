"""The beam with a language model and hotwords, against sums over all alignments."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamasr.config import BeamConfig
from streamasr.ctc import Decoder
from streamasr.errors import DecoderError
from streamasr.hotwords import build
from streamasr.lm import LanguageModel, child, score, score_unknown, word_at
from streamasr.rare_words import RareWords
from streamasr.spelling import english, letter_frequencies, pair_frequencies
from streamasr.text import Vocab
from tests.ctc_logits import log_softmax, render

VOCAB = Vocab()
ARPA = """\\data\\
ngram 1=7
ngram 2=5

\\1-grams:
-1.6 <unk> 0
-99 <s> -0.3
-1.1 </s> 0
-0.7 a -0.4
-0.9 ab -0.2
-1.3 ba -0.1
-1.9 bab 0

\\2-grams:
-0.2 <s> ab
-0.5 a ba
-0.4 ab a
-0.9 ba </s>
-0.3 ba bab

\\end\\
"""


PAIRS = pair_frequencies(english())
RARE = RareWords(("aab", "bb"), np.log([0.5, 0.2]).astype(np.float32))


@pytest.fixture(scope="module", params=[False, True], ids=["n-grams", "rare words"])
def lm(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> LanguageModel:
    path: Path = tmp_path_factory.mktemp("lm") / "small.arpa"
    path.write_text(ARPA)
    model = LanguageModel.load(path)
    return LanguageModel(model.words, model.trie, rare=RARE) if request.param else model


def spelled(
    lm: LanguageModel,
    text: str,
    config: BeamConfig,
    ended: bool = False,
    mixed: Callable[[str, float], float] = lambda _, ngrams: ngrams,
) -> float:
    """The language model's log-score of a prefix, word by word; `mixed`: a word's, from that of the n-grams."""
    tables = lm.tables
    history, total = tables.start, 0.0
    *done, growing = text.split(" ")
    for word in done + ([growing] if ended else []):
        if word:
            node = 0
            for token in VOCAB.encode(word):
                node = child(tables, node, token)
            number = word_at(tables, node)
            gained, history = (
                score(tables, history, number) if number >= 0 else score_unknown(tables, history, len(word))
            )
            total += config.alpha * mixed(word, gained) + config.beta
    if growing and not ended:
        node = 0
        for token in VOCAB.encode(growing):
            node = child(tables, node, token)
        unknown = float(tables.log_prob[1]) + tables.unknown_per_letter * len(growing)
        total += config.alpha * (float(tables.trie_best[node]) if node >= 0 else unknown)
    before = " "
    for letter in text:
        total -= config.pairs * float(PAIRS[VOCAB.encode(before)[0], VOCAB.encode(letter)[0]])
        before = letter
    return total


def boosted(hotwords: dict[str, float], text: str, ended: bool = False) -> float:
    """The hotwords' log-score of a prefix, phrase by phrase, each looked for at every word."""
    said = " " + text + (" " if ended else "")
    paid, pending = 0.0, 0.0
    for start in (i for i, c in enumerate(said) if c == " "):
        rest = said[start + 1 :]
        under_way = [0.0]
        for phrase, boost in hotwords.items():
            if rest.startswith(phrase + " "):
                paid += boost * len(phrase.replace(" ", ""))
            elif phrase.startswith(rest):
                under_way.append(boost * len(rest.replace(" ", "")))
        pending = max(pending, *under_way)
    return paid + (0.0 if ended else pending)


def few(random: np.random.Generator, frames: int, characters: str = " ab", peak: float = 2.0) -> np.ndarray:
    """Log-probabilities in which only the blank and some characters are possible."""
    logits = np.full((frames, len(VOCAB)), -np.inf)
    columns = [0, *VOCAB.encode(characters)]
    logits[:, columns] = random.normal(0.0, peak, (frames, len(columns)))
    return log_softmax(logits)


def brute_force(rows: np.ndarray, characters: str = " ab") -> dict[str, float]:
    sums: dict[str, float] = defaultdict(float)
    for path in itertools.product([0, *VOCAB.encode(characters)], repeat=len(rows)):
        sums[VOCAB.collapse(path)] += math.exp(sum(float(row[token]) for row, token in zip(rows, path, strict=True)))
    return sums


HOTWORDS = {"ab a": 1.2, "ab": 0.5, "a b": 0.8, "b": -0.4}


@given(
    seed=st.integers(0, 2**32 - 1),
    frames=st.integers(1, 6),
    use=st.sampled_from(["lm", "hot", "both"]),
    blank=st.sampled_from([0.0, 1.5]),
    prior=st.sampled_from([0.0, 0.3]),
    pairs=st.sampled_from([0.0, 0.4]),
)
@settings(max_examples=40, deadline=None)
def test_prefix_scores_equal_the_sum_over_all_alignments(
    lm: LanguageModel, seed: int, frames: int, use: str, blank: float, prior: float, pairs: float
) -> None:
    rows = few(np.random.default_rng(seed), frames)
    wide = {"width": 3000, "prune": -1e9, "drop": -1e9}
    config = BeamConfig(**wide, alpha=0.7, beta=0.4, unknown=0.0, blank=blank, prior=prior, pairs=pairs)
    positive = {phrase: boost for phrase, boost in HOTWORDS.items() if boost > 0}
    used_lm, used_hotwords = lm if use != "hot" else None, positive if use != "lm" else {}
    decoder = Decoder(VOCAB, config, lm=used_lm, hotwords=used_hotwords)
    state = decoder.step(rows, decoder.start())
    heard = rows.copy()
    if used_lm:  # without a language model these do nothing
        heard[:, 0] -= blank
        heard -= (prior * letter_frequencies(english())).astype(np.float32)
    found, expected = dict(decoder.hypotheses(state)), brute_force(heard)
    assert set(found) == set(expected)
    totals = {}
    for text, log_prob in found.items():
        gained = (spelled(lm, text, config) if used_lm else 0.0) + boosted(used_hotwords, text)
        assert log_prob == pytest.approx(math.log(expected[text]) + gained, abs=1e-5)
        last = (spelled(lm, text, config, ended=True) if used_lm else 0.0) + boosted(used_hotwords, text, ended=True)
        totals[text] = math.log(expected[text]) + last
    best = max(totals.values())
    said = " ".join(word.text for word in decoder.finish(state)[0])
    assert any(total == pytest.approx(best, abs=1e-9) for text, total in totals.items() if _plain(text) == said)
    sums: dict[str, float] = defaultdict(float)
    for text, total in totals.items():
        sums[_plain(text)] += math.exp(total)
    alternatives = decoder.alternatives(state, 5)
    assert [log_prob for _, log_prob in alternatives] == sorted((p for _, p in alternatives), reverse=True)
    for text, log_prob in alternatives:
        assert log_prob == pytest.approx(math.log(sums[text]), abs=1e-5)


def test_a_language_model_of_a_few_words_makes_no_letter_likelier(lm: LanguageModel) -> None:
    config = BeamConfig(prior=0.4, pairs=0.5)
    offsets = Decoder(VOCAB, config, lm=lm).offsets
    assert 0.0 < offsets[VOCAB.encode("e")[0]] < offsets[VOCAB.encode("z")[0]] < 0.4 * 9  # none of its words has a z


def _plain(text: str) -> str:
    return " ".join(text.split())


@given(seed=st.integers(0, 2**32 - 1), width=st.sampled_from([2, 5, 16]), cut=st.integers(0, 80))
@settings(max_examples=25, deadline=None)
def test_the_bounds_leave_nothing_out_and_chunking_changes_nothing(
    lm: LanguageModel, seed: int, width: int, cut: int
) -> None:
    random = np.random.default_rng(seed)
    rows = np.concatenate([few(random, 40, peak=3.0), render("abba ab a b bab ", VOCAB, seed)])
    config = BeamConfig(width=width, alpha=0.7, beta=2.0, pairs=0.4, tail_s=float(random.choice([0.2, 4.0])))
    decoder = Decoder(VOCAB, config, lm=lm, hotwords=HOTWORDS)
    whole = decoder.step(rows, decoder.start())
    parts = decoder.step(rows[cut:], decoder.step(rows[:cut], decoder.start()))
    assert decoder.read(whole) == decoder.read(parts)
    assert decoder.hypotheses(whole) == decoder.hypotheses(parts)
    assert decoder.finish(whole)[0] == decoder.finish(parts)[0]
    slow = Decoder(VOCAB, config, lm=lm, hotwords=HOTWORDS)
    slow._models = slow._models._replace(rise=300.0)  # a bound that excludes nothing
    assert slow.hypotheses(slow.step(rows, slow.start())) == decoder.hypotheses(whole)


def test_the_language_model_decides_between_words_that_sound_alike(lm: LanguageModel) -> None:
    rows = render("ab a", VOCAB, confusion=0.0)
    a, b = VOCAB.encode("ab")
    unsure = int(np.flatnonzero(rows.argmax(1) == a)[-1])
    unsure -= int(rows[unsure - 1].argmax() == a)
    rows[unsure : unsure + 2, b] = rows[unsure : unsure + 2, a] + 0.2
    for model, said in ((None, ["ab", "b"]), (lm, ["ab", "a"])):
        decoder = Decoder(VOCAB, BeamConfig(width=16, alpha=1.0, beta=0.0), lm=model)
        assert [word.text for word in decoder.finish(decoder.step(rows, decoder.start()))[0]] == said


def test_a_hotword_is_heard_and_one_not_completed_leaves_no_trace() -> None:
    rows = render("turn on the sono speaker", VOCAB, seed=4, confusion=0.0)
    plain, eager = Decoder(VOCAB, BeamConfig(width=16)), Decoder(VOCAB, BeamConfig(width=16), hotwords={"zebra": 3.0})
    state = eager.step(rows, eager.start())
    assert [w.text for w in eager.finish(state)[0]] == [
        w.text for w in plain.finish(plain.step(rows, plain.start()))[0]
    ]
    confused = rows.copy()
    at = int(np.flatnonzero(rows.argmax(1) == VOCAB.encode("k")[0])[0])
    k, c = VOCAB.encode("kc")
    confused[at, [k, c]] = confused[at, [k, c]].mean() + np.array([-1.0, 1.0])
    assert plain.finish(plain.step(confused, plain.start()))[0][-1].text == "speacer"
    liked = Decoder(VOCAB, BeamConfig(width=16), hotwords={"sono speaker": 1.0})
    assert liked.finish(liked.step(confused, liked.start()))[0][-1].text == "speaker"


def test_silence_stays_silent_with_hotwords() -> None:
    silence = np.full((500, len(VOCAB)), -9.0)
    silence[:, 0] = 0.0
    decoder = Decoder(VOCAB, hotwords={"hey computer": 3.0, "a": 3.0})
    state = decoder.step(log_softmax(silence), decoder.start())
    assert decoder.read(state).all_words == () and decoder.finish(state)[0] == ()


def test_a_language_model_needs_its_alphabet(lm: LanguageModel) -> None:
    with pytest.raises(DecoderError, match="other characters"):
        Decoder(Vocab(("<blank>", " ", "a")), lm=lm)


def test_the_automaton_scores_as_phrases_found_one_by_one() -> None:
    phrases = build({"ab a": 1.2, "ab": 0.5, "a b": 0.8}, VOCAB)
    for text in map("".join, itertools.product(" ab", repeat=7)):
        state, paid = 0, 0.0
        for token in VOCAB.encode(text):
            state = phrases.following[state, token]
            paid += phrases.paid[state]
        assert paid + phrases.pending[state] == pytest.approx(boosted({"ab a": 1.2, "ab": 0.5, "a b": 0.8}, text))
