r"""ARPA text: \data\ with the number of n-grams of each order, a section \n-grams: for each, \end\.

A line is `log10-probability <tab> word ... word [<tab> log10-back-off]`. Blanks of any kind are taken as separators.
"""

from __future__ import annotations

import gzip
import lzma
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np

from streamasr.errors import DecoderError
from streamasr.ngram import LN10, LONGEST, Level, renumber

_LOWEST = -1e9  # log10; stands for -inf, which some tools write


def read_arpa(path: Path) -> tuple[list[str], list[Level]]:
    """The words, numbered as in `ngram`, and the n-grams of each order. Also .gz and .xz.

    `<unk>` (or `<UNK>`) that is not listed gets the probability of the rarest word; `<s>` and `</s>` that are not
    listed are never predicted.

    Raises:
        DecoderError: what is not ARPA text, with the line. OSError: it cannot be read.
    """
    opened: IO[bytes]
    with path.open("rb") as raw:
        beginning = raw.read(6)
    packed = {b"\x1f\x8b": gzip.open, b"\xfd7": lzma.open}.get(beginning[:2])
    with packed(path, "rb") if packed else path.open("rb") as opened:  # type: ignore[operator]
        try:
            return _Reader(path, opened).read()
        except (EOFError, lzma.LZMAError, gzip.BadGzipFile) as error:
            raise DecoderError(f"{path} is cut short ({error})", "a whole ARPA file", "Fetch it again.") from error


def write_arpa(path: Path, words: Sequence[str], levels: Sequence[Level]) -> None:
    """Write the n-grams; the last order has no back-offs, nor has a line whose back-off is 0."""
    with path.open("w", encoding="utf-8") as file:
        file.write("\\data\\\n")
        file.writelines(f"ngram {order}={len(level.words)}\n" for order, level in enumerate(levels, 1))
        for order, level in enumerate(levels, 1):
            file.write(f"\n\\{order}-grams:\n")
            rows = zip(
                (level.log_prob / LN10).tolist(), level.words.tolist(), (level.backoff / LN10).tolist(), strict=True
            )
            file.writelines(
                f"{max(log_prob, -99.0):.7g}\t{' '.join([words[word] for word in row])}"
                + (f"\t{backoff:.7g}\n" if backoff and order < len(levels) else "\n")
                for log_prob, row, backoff in rows
            )
        file.write("\n\\end\\\n")


class _Reader:
    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self.path, self.line = path, 0
        self.lines = self._read_lines(file)

    def _read_lines(self, file: IO[bytes]) -> Iterator[list[bytes]]:
        for line in file:
            self.line += 1
            fields = line.split()
            if fields:
                yield fields

    def fail(self, found: str, expected: str = "") -> DecoderError:
        return DecoderError(f"{self.path}, line {self.line}: {found}", expected, "Check or fetch the ARPA file again.")

    def read(self) -> tuple[list[str], list[Level]]:
        counts = self._read_counts()
        levels: list[Level] = []
        numbers: dict[bytes, int] = {}
        for order, count in enumerate(counts, 1):
            levels.append(self._read_section(order, count, numbers))
            heading = next(self.lines, None)
            wanted = b"\\end\\" if order == len(counts) else b"\\%d-grams:" % (order + 1)
            if heading is None:
                raise self.fail("the file is cut short", wanted.decode())
            if heading != [wanted]:
                raise self.fail(f"{_show(heading)!r} after {count} n-grams of {order} words", wanted.decode())
        return renumber(numbers, levels)

    def _read_counts(self) -> list[int]:
        for fields in self.lines:
            if fields == [b"\\data\\"]:
                break
            if self.line > 1000:
                raise self.fail("no \\data\\ in the first 1000 lines", "ARPA text")
        else:
            raise self.fail("no \\data\\", "ARPA text")
        counts: list[int] = []
        for fields in self.lines:
            if fields == [b"\\1-grams:"]:
                if not 1 <= len(counts) <= LONGEST:
                    raise self.fail(f"a model of order {len(counts)}", f"an order from 1 to {LONGEST}")
                return counts
            order, equals, count = b" ".join(fields[1:]).replace(b" ", b"").partition(b"=")
            if fields[0] != b"ngram" or order != b"%d" % (len(counts) + 1) or not equals or not count.isdigit():
                raise self.fail(f"{_show(fields)!r}", f'"ngram {len(counts) + 1}=" and a number')
            counts.append(int(count))
        raise self.fail("the file is cut short", "\\1-grams:")

    def _read_section(self, order: int, count: int, numbers: dict[bytes, int]) -> Level:
        words: list[int] = []
        weights: list[bytes] = []
        line: list[int] = []
        lookup = numbers.__getitem__
        while len(line) < count:
            fields = next(self.lines, None)
            if fields is None or fields[0] == b"\\end\\" or (len(fields) == 1 and fields[0].startswith(b"\\")):
                raise self.fail(f"{len(line)} n-grams of {order} words, then the section ends", f"{count}")
            if not order + 1 <= len(fields) <= order + 2:
                raise self.fail(f"{_show(fields)!r}", f"a number, {order} words and perhaps a number")
            if order == 1:
                if fields[1] in numbers:
                    raise self.fail(f"the word {_show(fields[1:2])!r} is listed twice", "each once")
                numbers[fields[1]] = len(numbers)
            try:
                words += map(lookup, fields[1 : order + 1])
            except KeyError as error:
                raise self.fail(f"the word {_show(error.args)!r} has no 1-gram", "only words of the 1-grams") from None
            weights += (fields[0], fields[order + 1] if len(fields) > order + 1 else b"0")
            line.append(self.line)
        lines = np.array(line, np.int64)
        try:
            numbers_of = np.array(weights, dtype="S").astype(np.float64).reshape(-1, 2)
        except ValueError:
            bad = next(i for i, weight in enumerate(weights) if not _is_number(weight))
            self.line = line[bad // 2]
            raise self.fail(f"{_show(weights[bad : bad + 1])!r} is no number", "a log10-probability") from None
        wrong = np.isnan(numbers_of).any(1) | (numbers_of[:, 0] > 1e-6) | (numbers_of == np.inf).any(1)
        if wrong.any():
            self.line = int(lines[np.argmax(wrong)])
            values = " and ".join(f"{value:g}" for value in numbers_of[np.argmax(wrong)])
            raise self.fail(f"log10-probability and back-off are {values}", "a probability of at most 1")
        numbers_of = np.maximum(numbers_of, _LOWEST) * LN10
        return Level(np.array(words, np.int64).reshape(-1, order), numbers_of[:, 0], numbers_of[:, 1], lines)


def _is_number(text: bytes) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _show(fields: Sequence[bytes]) -> str:
    text = b" ".join(fields).decode("utf-8", "replace")
    return text if len(text) <= 60 else text[:57] + "..."
