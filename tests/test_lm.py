import contextlib
import gzip
import math
import os
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamasr.errors import BundleError, ChecksumError, DecoderError
from streamasr.lm import END, LanguageModel, child, score, score_unknown, word_at
from streamasr.lm_file import code_book, quantise
from streamasr.rare_words import RareWords

KENLM = Path(__file__).parent / "data" / "kenlm"

ARPA = """\\data\\
ngram 1=6
ngram 2=4
ngram 3=2

\\1-grams:
-99\t<s>\t-0.3
-1.0\t</s>
-0.5\tthe\t-0.2
-0.7\tcat\t-0.1
-0.9\tcat's
-1.5\t<unk>

\\2-grams:
-0.2\t<s> the\t-0.4
-0.3\tthe cat\t-0.25
-0.4\tcat </s>
-0.6\tcat's the

\\3-grams:
-0.05\t<s> the cat
-0.15\tthe cat </s>

\\end\\
"""


@pytest.fixture
def arpa(tmp_path):
    path = tmp_path / "toy.arpa"
    path.write_text(ARPA)
    return path


def log10(value):
    return value / math.log(10)


def tokens(word):
    return [28 if letter == "'" else ord(letter) - ord("a") + 2 for letter in word]


def node_of(tables, prefix):
    node = 0
    for token in tokens(prefix):
        node = child(tables, node, token)
    return node


class Reference:
    """The definition of back-off, on dictionaries of base 10 logarithms."""

    def __init__(self, text):
        self.prob, self.back = {}, {}
        for line in text.splitlines():
            fields = line.split()
            if fields and fields[0][0] == "-":
                try:
                    back = float(fields[-1])
                    fields.pop()
                except ValueError:
                    back = 0.0
                self.prob[tuple(fields[1:])] = float(fields[0])
                self.back[tuple(fields[1:])] = back

    def score(self, history, word):
        if (*history, word) in self.prob:
            return self.prob[(*history, word)]
        return self.back.get(tuple(history), 0.0) + self.score(history[1:], word)

    def sentence(self, words, order):
        line = ["<s>", *(word if (word,) in self.prob else "<unk>" for word in words), "</s>"]
        return sum(self.score(line[max(0, i - order + 1) : i], line[i]) for i in range(1, len(line)))


def random_arpa(seed, order=4, words=12, closed=False):
    """A back-off model without meaning. Histories of listed n-grams are listed; their ends only if it is `closed`."""
    draw = random.Random(seed)
    names = [f"{chr(97 + i)}{chr(97 + i // 2)}" for i in range(words)]
    level = [("<s>",), ("</s>",), ("<unk>",), *((name,) for name in names)]
    sections = []
    for _ in range(order):
        sections.append(level)
        level = [
            (*gram, name)
            for gram in level
            if gram[-1] != "</s>"
            for name in [*names, "</s>", "<unk>"]
            if draw.random() < (0.4 if closed else 0.25)
            and (not closed or (*gram[1:], name) in sections[-1] or not gram[1:])
        ]
    lines = ["\\data\\", *(f"ngram {n}={len(section)}" for n, section in enumerate(sections, 1)), ""]
    for n, section in enumerate(sections, 1):
        draw.shuffle(section)
        lines.append(f"\\{n}-grams:")
        for gram in section:
            back = f"\t{-draw.random():.4f}" if n < order and draw.random() < 0.7 else ""
            lines.append(f"{-3 * draw.random():.4f}\t{' '.join(gram)}{back}")
        lines.append("")
    return "\n".join([*lines, "\\end\\", ""]), [*names, "zz"]


def test_scores_of_sentences_are_those_of_the_arpa_text(arpa):
    model = LanguageModel.load(arpa)
    assert model.order == 3 and model.counts == (6, 4, 2)
    assert log10(model.log_prob("the cat")) == pytest.approx(-0.2 - 0.05 - 0.15, abs=1e-6)
    assert log10(model.log_prob("the the cat")) == pytest.approx(-0.2 - 0.4 - 0.2 - 0.5 - 0.3 - 0.15, abs=1e-6)
    assert log10(model.log_prob("")) == pytest.approx(-1.3, abs=1e-6)


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
def test_any_model_scores_as_defined_and_survives_both_formats(tmp_path, order):
    text, names = random_arpa(order, order)
    path = tmp_path / "random.arpa"
    path.write_text(text)
    reference = Reference(text)
    model = LanguageModel.load(path)
    model.save_arpa(tmp_path / "again.arpa")
    again = LanguageModel.load(tmp_path / "again.arpa")
    assert again.counts == model.counts
    draw = random.Random(5)
    for _ in range(300):
        words = [draw.choice(names) for _ in range(draw.randrange(8))]
        expected = reference.sentence(words, order)
        unknown = sum(2 for word in words if word == "zz") * model.tables.unknown_per_letter
        assert model.log_prob(" ".join(words)) - unknown == pytest.approx(expected * math.log(10), abs=1e-4)
        assert again.log_prob(" ".join(words)) == pytest.approx(model.log_prob(" ".join(words)), abs=1e-3)
    model.save(tmp_path / "small")
    small = LanguageModel.load(tmp_path / "small")
    for name in ("first", "word", "trie_mask", "trie_word"):
        assert np.array_equal(getattr(small.tables, name), getattr(model.tables, name))
    # 256 steps over the range of values, of which Lloyd's algorithm makes none wider than a few times the even step
    span = 3 * math.log(10) / 256
    assert np.abs(small.tables.log_prob[2:] - model.tables.log_prob[2:]).max() < 3 * span
    assert np.abs(small.tables.backoff - model.tables.backoff).max() < span
    # what was rounded once is not rounded again
    small.save(tmp_path / "twice")
    twice = LanguageModel.load(tmp_path / "twice")
    for mine, others in zip(twice.tables, small.tables, strict=True):
        assert np.array_equal(mine, others)


def test_equal_histories_are_equal_states(arpa):
    model = LanguageModel.load(arpa)
    the, cat = model.word_id("the"), model.word_id("cat")
    _, after = score(model.tables, model.tables.start, the)
    _, after = score(model.tables, after, cat)
    _, empty = score(model.tables, 0, the)
    _, short = score(model.tables, empty, cat)
    assert after == short
    assert score(model.tables, after, END)[0] == pytest.approx(-0.15 * math.log(10))
    _, nothing = score_unknown(model.tables, after, 3)  # <unk> says nothing about what follows
    assert nothing == 0


def test_an_unknown_word_costs_its_letters(arpa):
    tables = LanguageModel.load(arpa).tables
    price, _ = score_unknown(tables, 0, 5)
    assert price == pytest.approx(-1.5 * math.log(10) + 5 * tables.unknown_per_letter, abs=1e-6)


def test_rare_words_take_their_shares_of_the_unknown_one(arpa, tmp_path):
    plain = LanguageModel.load(arpa)
    rare = RareWords(("dog", "dogma"), np.log([0.5, 0.25]).astype(np.float32))
    model = LanguageModel(plain.words, plain.trie, rare=rare)
    assert model.words[: len(plain.words)] == plain.words and model.words[-2:] == ("dog", "dogma")
    state = plain.tables.start
    for word, share in (("dog", 0.5), ("dogma", 0.25)):
        number = word_at(model.tables, node_of(model.tables, word))
        assert model.words[number] == word and model.word_id(word) == number
        price, after = score(model.tables, state, number)
        unknown, after_unknown = score(plain.tables, state, 0)
        assert price == pytest.approx(unknown + math.log(share), abs=1e-6) and after == after_unknown
        assert model.unigrams[number] == pytest.approx(plain.unigrams[0] + math.log(share))
    assert model.tables.trie_best[node_of(model.tables, "dogm")] == pytest.approx(-1.5 * math.log(10) + math.log(0.25))
    assert model.perplexity(["the dog"]).unknown == 0
    model.save(tmp_path / "small")
    again = LanguageModel.load(tmp_path / "small")
    assert again.words == model.words and again.log_prob("the dog") == pytest.approx(
        model.log_prob("the dog"), abs=0.02
    )
    again.save_arpa(tmp_path / "again.arpa")
    assert LanguageModel.load(tmp_path / "again.arpa").words == plain.words  # ARPA text has no place for them
    plain.save(tmp_path / "small")
    assert LanguageModel.load(tmp_path / "small").words == plain.words


def test_the_lexicon_spells_every_word_and_nothing_else(arpa):
    model = LanguageModel.load(arpa)
    tables = model.tables
    for word in ("the", "cat", "cat's"):
        assert model.words[word_at(tables, node_of(tables, word))] == word
    assert word_at(tables, node_of(tables, "ca")) == -1 and node_of(tables, "ca") > 0
    assert node_of(tables, "cab") == -1 and child(tables, -1, 2) == -1 and word_at(tables, -1) == -1
    assert child(tables, 0, 1) == -1
    assert tables.trie_best[node_of(tables, "cat'")] == pytest.approx(-0.9 * math.log(10))
    assert tables.trie_best[node_of(tables, "c")] == pytest.approx(-0.7 * math.log(10))
    assert tables.trie_best[0] == pytest.approx(-0.5 * math.log(10))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text("abz'", min_size=1, max_size=6), min_size=1, max_size=40, unique=True), st.randoms())
def test_the_lexicon_of_any_words(tmp_path_factory, words, draw):
    path = tmp_path_factory.mktemp("lm") / "words.arpa"
    weights = {word: round(-5 * draw.random(), 3) for word in words}
    lines = "".join(f"{weight}\t{word}\n" for word, weight in weights.items())
    path.write_text(f"\\data\\\nngram 1={len(words)}\n\\1-grams:\n{lines}\\end\\\n")
    model = LanguageModel.load(path)
    tables = model.tables
    prefixes = {word[:n] for word in words for n in range(len(word) + 1)}
    assert len(tables.trie_mask) == len(prefixes)
    for prefix in prefixes:
        node = node_of(tables, prefix)
        below = max(weight for word, weight in weights.items() if word.startswith(prefix))
        assert tables.trie_best[node] == pytest.approx(below * math.log(10), abs=1e-5)
        assert (word_at(tables, node) >= 0) == (prefix in weights)
        for letter in "abyz'":
            assert (node_of(tables, prefix + letter) >= 0) == (prefix + letter in prefixes)


def test_upper_case_counts_as_lower_and_what_cannot_be_spelled_is_kept(tmp_path):
    path = tmp_path / "upper.arpa"
    path.write_text("\\data\\\nngram 1=4\n\\1-grams:\n-1\tTHE\n-2\tthe\n-1\tco-op\n-1\tété\n\\end\\\n")
    model = LanguageModel.load(path)
    assert model.words[word_at(model.tables, node_of(model.tables, "the"))] == "THE"
    assert log10(model.log_prob("été co-op")) == pytest.approx(-2 - 99, abs=1e-3)


def test_perplexity_leaves_unknown_words_out(arpa):
    model = LanguageModel.load(arpa)
    found = model.perplexity(["the cat", "the dog"])
    assert (found.words, found.unknown) == (5, 1)
    assert log10(found.log_prob) == pytest.approx(-0.4 - 0.2 - 1.0, abs=1e-6)
    assert found.perplexity == pytest.approx(10 ** (1.6 / 5), abs=1e-6)


def test_packed_arpa_text(arpa, tmp_path):
    path = tmp_path / "toy.arpa.gz"
    path.write_bytes(gzip.compress(ARPA.encode()))
    assert LanguageModel.load(path).log_prob("the cat") == LanguageModel.load(arpa).log_prob("the cat")
    path.write_bytes(gzip.compress(ARPA.encode())[:-30])
    with pytest.raises(DecoderError, match="cut short"):
        LanguageModel.load(path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("\\data\\", "data", r"no \\data\\"),
        ("ngram 2=4", "ngram 2=four", "line 3"),
        ("ngram 2=4", "ngram 3=4", "line 3"),
        ("ngram 2=4", "ngram 2=5", "line 20: 4 n-grams of 2 words"),
        ("ngram 2=4", "ngram 2=3", "line 18"),
        ("ngram 3=2\n", "ngram 3=2\nngram 4=1\nngram 5=1\nngram 6=1\n", "order 6"),
        ("-0.3\tthe cat", "-0.3x\tthe cat", "line 16: '-0.3x' is no number"),
        ("-0.3\tthe cat", "nan\tthe cat", "line 16"),
        ("-0.3\tthe cat", "0.3\tthe cat", "line 16"),
        ("-0.3\tthe cat", "-0.3\tthe dog", "line 16: the word 'dog' has no 1-gram"),
        ("-0.3\tthe cat", "-0.3\tthe", "line 16"),
        ("-0.3\tthe cat", "-0.3\tcat </s>", "line 17: an n-gram is listed twice"),
        ("-0.7\tcat\t-0.1", "-0.7\tthe", "line 10: the word 'the' is listed twice"),
        ("the cat </s>", "cat cat </s>", "line 22: an n-gram of 3 words follows a history of 2"),
        ("\\3-grams:", "\\4-grams:", "line 20"),
        ("\n\\end\\", "", "cut short"),
    ],
)
def test_malformed_arpa_text_is_one_line_with_its_place(tmp_path, old, new, message):
    assert old in ARPA
    path = tmp_path / "bad.arpa"
    path.write_text(ARPA.replace(old, new))
    with pytest.raises(DecoderError, match=message) as caught:
        LanguageModel.load(path)
    assert "\n" not in str(caught.value)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, len(ARPA) - 8))
def test_arpa_text_cut_anywhere_is_refused(tmp_path_factory, length):
    path = tmp_path_factory.mktemp("lm") / "cut.arpa"
    path.write_text(ARPA[:length])
    with pytest.raises(DecoderError) as caught:
        LanguageModel.load(path)
    assert "\n" not in str(caught.value)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_other_files_are_refused(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("lm") / "other"
    path.write_bytes(content)
    with pytest.raises(DecoderError):
        LanguageModel.load(path)


def test_what_is_not_there_or_was_changed(arpa, tmp_path):
    with pytest.raises(BundleError, match="no language model"):
        LanguageModel.load(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BundleError, match="no language model"):
        LanguageModel.load(tmp_path / "empty")
    folder = tmp_path / "small"
    LanguageModel.load(arpa).save(folder)
    data = bytearray((folder / "lm.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "lm.safetensors").write_bytes(data)
    with pytest.raises(ChecksumError):
        LanguageModel.load(folder)
    (folder / "SHA256SUMS").write_text("")
    with pytest.raises(ChecksumError):
        LanguageModel.load(folder)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="permissions do not bind here")
def test_what_may_not_be_read(arpa):
    arpa.chmod(0)
    with pytest.raises(BundleError, match="cannot be read"):
        LanguageModel.load(arpa)


def test_a_code_book_is_exact_for_few_values_and_near_for_many():
    few = np.array([-1.5, -3.25, -1.5], np.float32)
    assert code_book(few).tolist() == [-3.25, -1.5]
    many = np.random.default_rng(0).normal(-5, 2, 100_000).astype(np.float32)
    book = code_book(many)
    assert (np.diff(book) >= 0).all() and len(book) == 256
    error = book[quantise(many, book)] - many
    assert np.sqrt((error**2).mean()) < 0.02  # 16 sigma in 256 even steps would be 0.036


@pytest.mark.parametrize("kind", ["probing", "trie", "quantised", "array", "both"])
@pytest.mark.parametrize("model", ["random", "closed", "pruned"])
def test_kenlm_binary_files_score_as_their_arpa_text(model, kind):
    """The files were made by `build_binary [-q 8 -b 8] [-a 8] [-p 8] trie|probing`.

    `closed` has no <unk>, for which KenLM then puts one that is all but impossible; of `pruned`, n-grams are listed
    whose ends are not, so that KenLM adds those.
    """
    expected, found = LanguageModel.load(KENLM / f"{model}.arpa"), LanguageModel.load(KENLM / f"{model}.{kind}")
    if model != "pruned":
        assert found.counts == expected.counts
    names = [*expected.words[3:], "zz"]
    draw = random.Random(7)
    for _ in range(200):
        sentence = " ".join(draw.choice(names) for _ in range(draw.randrange(9)))
        # fewer values than entries in the code books, so these are exact
        assert found.log_prob(sentence) == pytest.approx(expected.log_prob(sentence), abs=1e-4)


@pytest.mark.parametrize("kind", ["probing", "trie", "quantised", "array", "both"])
def test_damaged_kenlm_binary_files_are_refused(tmp_path, kind):
    data = (KENLM / f"random.{kind}").read_bytes()
    draw = random.Random(8)
    path = tmp_path / "cut"
    for length in [33, 34, 90, 110, len(data) - 1, *(draw.randrange(34, len(data)) for _ in range(50))]:
        path.write_bytes(data[:length])
        with pytest.raises(DecoderError) as caught:
            LanguageModel.load(path)
        assert "\n" not in str(caught.value)
    for _ in range(200):  # a changed number may be read, and must not break anything
        changed = bytearray(data)
        changed[draw.randrange(34, len(data))] ^= 1 << draw.randrange(8)
        path.write_bytes(changed)
        with contextlib.suppress(DecoderError):
            LanguageModel.load(path)


@pytest.mark.parametrize(
    ("at", "value", "message"), [(49, b"4", "version"), (100, b"\0", "words"), (96, b"\1", "kind")]
)
def test_other_kenlm_binary_files_say_what_they_are(tmp_path, at, value, message):
    data = (KENLM / "random.trie").read_bytes()
    path = tmp_path / "other"
    path.write_bytes(data[:at] + value + data[at + 1 :])
    with pytest.raises(DecoderError, match=message):
        LanguageModel.load(path)


@pytest.mark.parametrize("order", [2, 3, 4, 5])
def test_kenlm_reads_what_we_write_and_agrees(tmp_path, order):
    kenlm = pytest.importorskip("kenlm")
    text, names = random_arpa(order, order, closed=True)
    path = tmp_path / "random.arpa"
    path.write_text(text)
    model = LanguageModel.load(path)
    model.save_arpa(tmp_path / "again.arpa")
    theirs = kenlm.Model(str(tmp_path / "again.arpa"))
    draw = random.Random(6)
    for _ in range(200):
        words = [draw.choice(names) for _ in range(draw.randrange(8))]
        unknown = sum(2 for word in words if word == "zz") * model.tables.unknown_per_letter
        ours = model.log_prob(" ".join(words)) - unknown
        assert log10(ours) == pytest.approx(theirs.score(" ".join(words)), abs=1e-3)
