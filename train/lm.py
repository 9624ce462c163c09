"""Estimate the language model: `make lm`, or `python -m train.lm --help`.

Reads plain text (also .xz, .gz; one sentence a line, a-z, space, apostrophe), makes one model of modified Kneser-Ney
n-grams from each file, mixes them by weight, prunes, and writes the small format and, if asked, ARPA text. The words
of the texts that the vocabulary has no place for, and those of word lists, are its rare words. Held-out sets
(manifests, whose last column is the text, or plain text) are only measured; lines of the text that share five words in
a row with them are left out. Where an option has several values, the grid of all is printed and nothing is written.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import lzma
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamasr.lm import LanguageModel
from streamasr.lm_file import LEVELS
from streamasr.ngram import END, SPECIALS, START, UNKNOWN, build
from streamasr.spelling import Pairs, pairs_of_text, written
from train.kneser_ney import bits_for, count, estimate
from train.mixture import Mixture, mix
from train.rare import rare_words, read_list

DEFAULT_TEXT = (
    "../shared/text/books.txt.xz=0.8",
    "../shared/text/librispeech_train_clean_100.txt.xz=0.1",
    "../shared/text/everyday.txt=0.1",
)
DEFAULT_HELD_OUT = ("../shared/corpus/dev/read/manifest.tsv", "../shared/corpus/dev/crowd/manifest.tsv")
OVERLAP = 5  # words in a row


class Text(NamedTuple):
    """Sentences of one file, and the weight of the model made from them."""

    name: str
    sentences: list[str]
    weight: float


def read_lines(path: Path) -> Iterator[str]:
    """Lines of a plain or packed text file, or the last column of a manifest (.tsv), blank ones left out."""
    opener = {".xz": lzma.open, ".gz": gzip.open}.get(path.suffix, open)
    with opener(path, "rt", encoding="utf-8") as file:
        for line in file:
            text = " ".join(line.rstrip("\n").split("\t")[-1].split())
            if text:
                yield text


def runs(sentence: str, length: int = OVERLAP) -> set[str]:
    """All runs of `length` words; a shorter sentence is one run."""
    words = sentence.split()
    return {" ".join(words[i : i + length]) for i in range(max(1, len(words) - length + 1))}


def clean(lines: Iterable[str], held_out: set[str]) -> list[str]:
    """The lines that share no run of words with the held-out sets."""
    return [line for line in lines if not held_out or held_out.isdisjoint(runs(line))]


def read_texts(arguments: Sequence[str], held_out: Iterable[Sequence[str]]) -> list[Text]:
    """Texts by what the command line says of each, FILE=WEIGHT, without the lines that share words with `held_out`;
    a line on each is printed. OSError where one cannot be read.
    """
    shared = set().union(*(runs(line) for lines in held_out for line in lines))
    texts = []
    for argument in arguments:
        path, _, weight = argument.partition("=")
        lines = list(read_lines(Path(path)))
        kept = clean(lines, shared)
        texts.append(Text(Path(path).name, kept, float(weight or 1)))
        words = sum(line.count(" ") + 1 for line in kept)
        print(
            f"{path}: {len(kept)} sentences, {words} words, weight {texts[-1].weight:g}; "
            f"{len(lines) - len(kept)} left out, shared with the held-out sets",
            flush=True,
        )
    return texts


def choose_words(texts: Sequence[Text], size: int) -> list[str]:
    """The `size` words, specials included, of highest frequency in the mixture of the texts, sorted as a lexicon is."""
    frequency: Counter[str] = Counter()
    for text in texts:
        counts: Counter[str] = Counter()
        for sentence in text.sentences:
            counts.update(sentence.split())
        total = sum(counts.values())
        for word, number in counts.items():
            frequency[word] += text.weight * number / total  # type: ignore[assignment]
    chosen = sorted(frequency, key=lambda word: (-frequency[word], word))[: size - len(SPECIALS)]
    return [*SPECIALS, *sorted(chosen, key=lambda word: word.replace("'", "{"))]


def number(sentences: Iterable[str], words: Sequence[str]) -> NDArray[np.int64]:
    """The sentences as one stream of word numbers, `<s>` and `</s>` around each."""
    numbers = {word: i for i, word in enumerate(words) if i >= len(SPECIALS)}
    stream: list[int] = []
    for sentence in sentences:
        stream.append(START)
        stream += [numbers.get(word, UNKNOWN) for word in sentence.split()]
        stream.append(END)
    return np.array(stream, np.int64)


def train(texts: Sequence[Text], words: Sequence[str], cutoffs: tuple[int, ...]) -> Mixture:
    """The mixture, not pruned, of one model a text; `cutoffs` as in `kneser_ney.estimate`, its length is the order."""
    bits = bits_for(len(words), len(cutoffs))
    models = []
    for text in texts:
        counted = count(number(text.sentences, words), len(cutoffs), bits)
        models.append(estimate(counted, bits, len(words), cutoffs))
    return mix(models, [text.weight for text in texts], bits)


def spelling_of(texts: Sequence[Text]) -> Pairs:
    """How often letters follow each other in the mixture of the texts."""
    whole = sum(text.weight for text in texts)
    return np.sum([text.weight / whole * pairs_of_text(text.sentences) for text in texts], axis=0)  # type: ignore[no-any-return]


def finish(mixture: Mixture, words: Sequence[str]) -> LanguageModel:
    """The model that the small format holds."""
    return LanguageModel(words, build(mixture.levels(), len(words)))


def small_size(model: LanguageModel) -> int:
    """Bytes of lm.safetensors, to within a few hundred: 3 an n-gram of highest order, 4 or 5 a shorter one."""
    wide = 2 if len(model.words) <= 1 << 16 else 4
    first = model.tables.first
    size = sum(len(word.encode()) + 1 for word in model.words) + 4 * len(model.words)
    size += sum((wide + 1) * count + 8 * LEVELS for count in model.counts[1:])
    if model.order > 1:
        contexts = len(first) - 1
        size += contexts - 1 + int((first[1:-1] < first[2:]).sum()) + 3 * len(model.words)
    return size


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; 0 when all went well."""
    options = _options(arguments)
    began = time.perf_counter()
    try:
        held_out = {Path(path).parent.name or path: list(read_lines(Path(path))) for path in options.held_out}
        texts = read_texts(options.text, held_out.values())
        lists: set[str] = set().union(*(read_list(Path(path)) for path in options.list))
    except OSError as error:
        print(f"{error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    grid = list(itertools.product(options.vocabulary, options.cutoffs))
    names = "".join(f"  {name + ' ppl':>12}  {'unknown':>7}" for name in held_out)
    print(f"{'vocabulary':>10}  {'cut-offs':>9}  {'prune':>8}  {'n-grams':>30}  {'MB':>5}{names}  seconds")
    model = None
    for vocabulary, cutoffs in grid:
        words = choose_words(texts, vocabulary)
        full = train(texts, words, cutoffs)
        for threshold in options.prune:
            model = finish(full.prune(threshold) if threshold > 0 else full, words)
            row = f"{len(words):>10}  {','.join(map(str, cutoffs)):>9}  {threshold:>8.2g}"
            row += f"  {' '.join(map(str, model.counts)):>30}  {small_size(model) / 1e6:>5.1f}"
            for sentences in held_out.values():
                found = model.perplexity(sentences)
                row += f"  {found.perplexity:>12.1f}  {found.unknown / (found.words + found.unknown):>7.2%}"
            print(f"{row}  {time.perf_counter() - began:>7.0f}", flush=True)
    if model is None or len(grid) * len(options.prune) > 1:
        return 0
    about = {
        "text": [f"{text.name}, weight {text.weight:g}" for text in texts],
        "cutoffs": list(options.cutoffs[0]),
        "prune": options.prune[0],
        "perplexity": {name: round(model.perplexity(lines).perplexity, 1) for name, lines in held_out.items()},
    }
    rare = rare_words([(text.sentences, text.weight) for text in texts], words, lists)
    print(f"{len(rare.words)} rare words, of the texts and of {len(options.list)} lists")
    model = LanguageModel(words, model.trie, rare=rare)
    if options.spelling:
        Path(options.spelling).write_text(written(spelling_of(texts)), encoding="ascii")
    if options.output:
        model.save(options.output, about)
        print(f"{options.output}: {(Path(options.output) / 'lm.safetensors').stat().st_size / 1e6:.1f} MB")
    if options.arpa:
        model.save_arpa(options.arpa)
    return 0


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m train.lm", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--text", action="append", metavar="FILE[=WEIGHT]", help="text to learn from; repeat")
    parser.add_argument(
        "--list", action="append", default=[], metavar="FILE", help="words, one a line, to know besides"
    )
    parser.add_argument("--held-out", action="append", metavar="FILE", help="set to measure on only; repeat")
    parser.add_argument("--vocabulary", type=numbers_of, default=[65_000], metavar="N[,N]", help="words kept")
    parser.add_argument(
        "--cutoffs",
        type=_cutoffs,
        default=[(0, 0, 1, 1)],
        metavar="C,C,C[;...]",
        help="n-grams of order 1, 2, ... seen at most so often are left out; as many as the order",
    )
    parser.add_argument("--prune", type=_floats, default=[1.5e-8], metavar="X[,X]", help="entropy pruning; 0 is none")
    parser.add_argument("--output", default="models/english-lm", metavar="FOLDER", help="small format; '' for none")
    parser.add_argument("--spelling", metavar="FILE", help="write how letters follow each other in the texts, too")
    parser.add_argument("--arpa", metavar="FILE", help="write ARPA text, too")
    options = parser.parse_args(arguments)
    options.text = options.text or list(DEFAULT_TEXT)
    if options.held_out is None:
        options.held_out = [path for path in DEFAULT_HELD_OUT if Path(path).exists()]
    return options


def numbers_of(text: str) -> list[int]:
    """Whole numbers with commas between them, of the command line."""
    return [int(part) for part in text.split(",")]


def _floats(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


def _cutoffs(text: str) -> list[tuple[int, ...]]:
    return [tuple(int(number) for number in part.split(",")) for part in text.split(";")]


if __name__ == "__main__":
    sys.exit(main())
