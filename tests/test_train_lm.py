import itertools
import lzma
import random
from collections import Counter, defaultdict

import numpy as np
import pytest

from streamasr import spelling
from streamasr.lm import END, START, UNKNOWN, LanguageModel, score
from train.kneser_ney import bits_for, count, discounts, estimate
from train.lm import Text, choose_words, clean, finish, main, number, read_lines, runs, small_size, train
from train.mixture import mix
from train.rare import rare_words

WORDS = [a + b for a in "bcdfghjklmnprst" for b in ("at", "en", "in", "o'", "ug")]


def some_text(seed, sentences=400, words=WORDS):
    """Sentences in which each word depends a little on the one before."""
    draw = random.Random(seed)
    lines = []
    for _ in range(sentences):
        at = int(len(words) * draw.random() ** 5)
        line = [words[at]]
        while draw.random() < 0.8:
            at = (at * 7 + draw.choice([1, 2, 3, 5, int(len(words) * draw.random() ** 5)])) % len(words)
            line.append(words[at])
        lines.append(" ".join(line))
    return lines


class Reference:
    """Interpolated modified Kneser-Ney straight from its definition, on dictionaries of tuples."""

    def __init__(self, sentences, words, order, cutoffs):
        self.words = words
        raw = [Counter() for _ in range(order + 1)]
        for sentence in sentences:
            line = ["<s>", *(word if word in words else "<unk>" for word in sentence.split()), "</s>"]
            for n in range(1, order + 1):
                raw[n].update(zip(*(line[i:] for i in range(n)), strict=False))
        self.tables, self.discounts = [None], []
        for n in range(1, order + 1):
            counts = dict(raw[n])
            if n < order:
                before = defaultdict(set)
                for gram in raw[n + 1]:
                    before[gram[1:]].add(gram[0])
                counts = {gram: len(before[gram]) if gram[0] != "<s>" else c for gram, c in counts.items()}
            if n == 1:
                del counts[("<s>",)]
            sizes = Counter(counts.values())
            try:
                y = sizes[1] / (sizes[1] + 2 * sizes[2])
                off = [0, *(k - (k + 1) * y * sizes[k + 1] / sizes[k] for k in (1, 2, 3))]
                assert sizes[4] and all(0 <= d <= k for k, d in enumerate(off))
            except (ZeroDivisionError, AssertionError):  # too small a text: what the recipe then takes
                off = [0, 0.5, 1.0, 1.5]
            self.discounts.append(off)
            total, left, kept = Counter(), Counter(), {}
            for gram, c in counts.items():
                total[gram[:-1]] += c
                if raw[n][gram] > cutoffs[n - 1]:
                    kept[gram] = c - off[min(c, 3)]
                    left[gram[:-1]] += off[min(c, 3)]
                else:
                    left[gram[:-1]] += c
            self.tables.append((kept, total, left))

    def prob(self, history, word):
        kept, total, left = self.tables[len(history) + 1]
        lower = self.prob(history[1:], word) if history else 1 / (len(self.words) - 1)
        if not total[history]:
            return lower
        return (kept.get((*history, word), 0) + left[history] * lower) / total[history]


def total_after(model, history):
    """The sum of p(word | history) over the vocabulary."""
    state = 0
    for word in history:
        state = model.tables.start if word == START else score(model.tables, state, word)[1]
    return sum(np.exp(score(model.tables, state, word)[0]) for word in range(len(model.words)) if word != START)


def exact(levels, words):
    from streamasr.ngram import build

    return LanguageModel(words, build(levels, len(words)))


@pytest.mark.parametrize("cutoffs", [(0,), (0, 0), (0, 0, 0), (0, 0, 1), (0, 0, 0, 0), (0, 1, 1, 2)])
def test_estimates_agree_with_the_definition(cutoffs):
    sentences = some_text(1)
    words = choose_words([Text("", sentences, 1.0)], 70)  # the others are unknown
    order = len(cutoffs)
    bits = bits_for(len(words), order)
    model = estimate(count(number(sentences, words), order, bits), bits, len(words), cutoffs)
    reference = Reference(sentences, words, order, cutoffs)
    assert [0, 0.5, 1.0, 1.5] not in reference.discounts[1:]
    for n, grams in enumerate(model, 1):
        kept = set(reference.tables[n][0]) if n > 1 else {(word,) for word in words}
        assert len(grams.keys) == len(kept)
        for key, prob, backoff in zip(grams.keys.tolist(), grams.prob, grams.backoff, strict=True):
            gram = tuple(words[key >> bits * (n - 1 - i) & ((1 << bits) - 1)] for i in range(n))
            assert gram in kept
            if gram != ("<s>",):
                assert prob == pytest.approx(reference.prob(gram[:-1], gram[-1]), rel=1e-9)
            if n < order and reference.tables[n + 1][1][gram]:
                _, total, left = reference.tables[n + 1]
                assert backoff == pytest.approx(left[gram] / total[gram], rel=1e-9)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_the_model_agrees_with_the_definition_on_whole_sentences(order):
    sentences = some_text(2)
    words = choose_words([Text("", sentences, 1.0)], 70)
    mixture = train([Text("", sentences, 1.0)], words, (0,) * order)
    model = finish(mixture, words)
    reference = Reference(sentences, words, order, (0,) * order)
    for sentence in some_text(3, 50):
        line = ["<s>", *(word if word in words else "<unk>" for word in sentence.split()), "</s>"]
        expected = sum(
            np.log(reference.prob(tuple(line[max(0, i - order + 1) : i]), line[i])) for i in range(1, len(line))
        )
        unknown = sum(len(word) for word in sentence.split() if word not in words) * model.tables.unknown_per_letter
        assert model.log_prob(sentence) - unknown == pytest.approx(expected, abs=0.02 * len(line))  # 8 bits


@pytest.mark.parametrize("threshold", [0.0, 1e-5, 1e-3])
def test_probabilities_sum_to_one(threshold):
    texts = [Text("", some_text(4), 0.7), Text("", some_text(5, 100), 0.3)]
    words = choose_words(texts, 60)
    mixture = train(texts, words, (0, 0, 0, 0)).prune(threshold)
    model = finish(mixture, words)
    draw = random.Random(7)
    histories = [(), (UNKNOWN,), (START,)]
    histories += [tuple(draw.choice(range(3, len(words))) for _ in range(draw.randrange(1, 4))) for _ in range(100)]
    for history in histories:
        assert total_after(model, history) == pytest.approx(1, abs=0.03)  # back-off weights are 32 bits here


def test_one_model_comes_out_of_a_mixture_as_it_went_in():
    sentences = some_text(8)
    words = choose_words([Text("", sentences, 1.0)], 70)
    bits = bits_for(len(words), 3)
    grams = estimate(count(number(sentences, words), 3, bits), bits, len(words), (0, 0, 1))
    mixture = mix([grams], [1.0], bits)
    for row, one, backoff in zip(mixture.rows, grams, mixture.backoffs(), strict=True):
        assert np.array_equal(row.keys, one.keys)
        assert np.allclose(row.prob, one.prob)
        assert np.allclose(backoff, one.backoff, atol=1e-6)


def test_a_mixture_is_better_than_either_text_for_their_sum():
    red, blue = some_text(9, 300), some_text(10, 300, WORDS[::-1])
    unseen = some_text(11, 100) + some_text(12, 100, WORDS[::-1])
    words = choose_words([Text("", red + blue, 1.0)], 78)
    alone = [finish(train([Text("", text, 1.0)], words, (0, 0, 0)), words) for text in (red, blue)]
    mixed = finish(train([Text("", red, 0.5), Text("", blue, 0.5)], words, (0, 0, 0)), words)
    assert mixed.perplexity(unseen).perplexity < min(one.perplexity(unseen).perplexity for one in alone)


def test_pruning_drops_what_costs_least_and_keeps_histories():
    sentences = some_text(13, 2000)
    words = choose_words([Text("", sentences, 1.0)], 78)
    full = train([Text("", sentences, 1.0)], words, (0, 0, 0))
    sizes, perplexities = [], []
    for threshold in (0.0, 1e-5, 1e-4, 1e-3, 1e-2):
        model = finish(full.prune(threshold), words)  # would raise if a history were missing
        sizes.append(sum(model.counts))
        perplexities.append(model.perplexity(sentences).perplexity)
    assert sizes == sorted(sizes, reverse=True) and len(set(sizes)) == 5
    assert perplexities == sorted(perplexities)


def test_discounts_of_small_texts_are_safe():
    assert discounts(np.array([1, 1, 2])).tolist() == [0.0, 0.5, 1.0, 1.5]
    many = np.repeat([1, 2, 3, 4], [100, 40, 20, 12])
    y = 100 / 180
    assert discounts(many) == pytest.approx([0, 1 - 2 * y * 0.4, 2 - 3 * y * 0.5, 3 - 4 * y * 0.6])


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="85 bits"):
        bits_for(100_000, 5) if bits_for(65_000, 4) else None
    with pytest.raises(ValueError, match="cut-offs"):
        estimate(count(np.array([1, 3, 2]), 2, 3), 3, 5, (0, 0, 0))


def test_held_out_runs_of_words_are_left_out():
    held_out = runs("one two three four five six") | runs("short one")
    assert held_out == {"one two three four five", "two three four five six", "short one"}
    lines = ["two three four five six seven", "two three four five", "short one", "a short one"]
    assert clean(lines, held_out) == ["two three four five", "a short one"]


def test_the_command_writes_both_formats(tmp_path, capsys):
    sentences = some_text(14)
    text = tmp_path / "text.txt.xz"
    text.write_bytes(lzma.compress("\n".join([*sentences, "", "bat ben bin bo' bug cat cen"]).encode()))
    manifest = tmp_path / "dev" / "manifest.tsv"
    manifest.parent.mkdir()
    manifest.write_text("a.ogg\t1.0\t?\tbat ben bin bo' bug cat cen\nb.ogg\t1.0\t?\tcat bug\n")
    assert list(read_lines(manifest)) == ["bat ben bin bo' bug cat cen", "cat bug"]
    options = ["--text", f"{text}=1", "--held-out", str(manifest), "--vocabulary", "80"]
    written = ["--output", str(tmp_path / "lm"), "--arpa", str(tmp_path / "lm.arpa"), "--prune", "1e-5"]
    assert main([*options, *written]) == 0
    out = capsys.readouterr().out
    assert "left out" in out and "dev ppl" in out
    small, arpa = LanguageModel.load(tmp_path / "lm"), LanguageModel.load(tmp_path / "lm.arpa")
    assert small.about["perplexity"].keys() == {"dev"}
    for sentence in some_text(15, 20):
        assert small.log_prob(sentence) == pytest.approx(arpa.log_prob(sentence), rel=0.01)
    size = (tmp_path / "lm" / "lm.safetensors").stat().st_size
    assert abs(small_size(small) - size) < 8000  # the header and the code books, which are smaller here

    assert main([*options, "--cutoffs", "0,0;0,0,1", "--prune", "0,1e-3", "--output", str(tmp_path / "none")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1 + 1 + 4
    assert not (tmp_path / "none").exists()


def test_the_command_says_what_it_cannot_read(tmp_path, capsys):
    assert main(["--text", str(tmp_path / "none.txt")]) == 1
    assert "none.txt: No such file" in capsys.readouterr().err
    (tmp_path / "text.txt").write_text("one two\n")
    assert main(["--text", str(tmp_path / "text.txt"), "--list", str(tmp_path / "nothing.txt")]) == 1
    assert "nothing.txt: No such file" in capsys.readouterr().err


def test_words_beyond_the_vocabulary_and_those_of_lists_are_rare_ones(tmp_path, capsys):
    text, words, dev = (tmp_path / name for name in ("text.txt", "words", "dev.txt"))
    dev.write_text("the cat\n")
    text.write_text("the cat ran\nthe dog ran\nthe cat\nthe cow ran\n")
    words.write_text("Osaka\ndog's\nx\ncaf\u00e9\n\nNew York\n")
    output = tmp_path / "lm"
    options = ["--text", str(text), "--held-out", str(dev), "--vocabulary", "6", "--prune", "0"]
    assert main([*options, "--list", str(words), "--output", str(output)]) == 0
    assert "4 rare words, of the texts and of 1 lists" in capsys.readouterr().out
    model = LanguageModel.load(output)
    assert model.words[-4:] == ("cafe", "cow", "dog", "osaka")
    assert model.about["perplexity"].keys() == {tmp_path.name}


def test_how_letters_come_is_counted_in_the_texts(tmp_path):
    text, dev, table = (tmp_path / name for name in ("text.txt", "dev.txt", "spelling.tsv"))
    text.write_text("the cat ran\nthe dog ran\nthe cat\nthe cow ran\n")
    dev.write_text("a\n")
    options = ["--text", str(text), "--held-out", str(dev), "--vocabulary", "9", "--prune", "0", "--output", ""]
    assert main([*options, "--spelling", str(table)]) == 0
    counted = spelling.pairs_of_text(text.read_text().splitlines())
    np.testing.assert_allclose(spelling.parsed(table.read_text()), counted, atol=1e-9)


def test_shares_of_rare_words_leave_some_for_those_that_nobody_listed():
    found = rare_words([(["a a a b", "the c the"], 0.5), (["b b the"], 0.5)], ["the"], {"d", "the"})
    shares = dict(zip(found.words, np.exp(found.log_share), strict=True))
    assert list(shares) == ["a", "b", "c", "d"]
    seen = {"a": 2.25 / 14, "b": 0.25 / 14 + 1.25 / 6, "c": 0.25 / 14, "d": 0.0}
    left = 3 * 0.75 / 14 + 0.75 / 6
    for word, share in shares.items():
        assert share == pytest.approx((seen[word] + left / 8) / (sum(seen.values()) + left))
    assert sum(shares.values()) == pytest.approx(1 - left / 2 / (sum(seen.values()) + left))
    listed = rare_words([(["the"], 1.0)], ["the"], {"d", "e"})
    assert np.exp(listed.log_share).sum() == pytest.approx(0.5)
    assert rare_words([], [], set()).words == ()


def test_words_are_numbered_as_a_lexicon_is_sorted():
    words = choose_words([Text("", ["don't dona don dont", "end"], 1.0)], 8)
    assert words == ["<unk>", "<s>", "</s>", "don", "dona", "dont", "don't", "end"]
    assert number(["don zz"], words).tolist() == [START, 3, UNKNOWN, END]
    assert list(itertools.chain(*[[START, 3, END]])) == number(["don"], words).tolist()
