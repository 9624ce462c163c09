"""A terminal of a few rows that obeys what captions send, for tests: rows on the screen and rows scrolled away."""

from __future__ import annotations

import io
import re

TOKEN = re.compile(r"\x1b\[(\??)([\d;]*)([A-Za-z])|([\r\n])|([^\x1b\r\n])")


class Screen(io.StringIO):
    """Give it to a rich Console as its file; `rows` are read as a person would read them.

    Narrowing rewraps the rows as modern terminals do, and the cursor stays with its line. `strict`: nothing is written
    in the last column, where terminals differ.
    """

    def __init__(self, width: int = 80, height: int = 24, strict: bool = True) -> None:
        super().__init__()
        self.width, self.height, self.strict = width, height, strict
        self.lines: list[list[tuple[str, bool]]] = [[]]  # (letter, dim), scrollback included
        self.row = self.column = 0
        self.cursor_visible = True
        self._dim = False
        self.writes = 0

    def write(self, data: str) -> int:
        self.writes += 1
        at = 0
        while at < len(data):
            token = TOKEN.match(data, at)
            assert token, f"an escape sequence that no terminal test knows: {data[at : at + 10]!r}"
            at = token.end()
            self._obey(*token.groups())
        return len(data)

    def _obey(self, private: str, number: str, command: str, control: str, letter: str) -> None:
        line = self.lines[self.row]
        if letter:
            assert self.column < self.width - 1 or not self.strict, "written in the last column"
            if self.column == self.width:
                self._obey("", "", "", "\r", "")
                self._obey("", "", "", "\n", "")
                line = self.lines[self.row]
            line += [(" ", False)] * (self.column - len(line))
            line[self.column : self.column + 1] = [(letter, self._dim)]
            self.column += 1
        elif control == "\r":
            self.column = 0
        elif control == "\n":
            self.row, self.column = self.row + 1, 0
            if self.row == len(self.lines):
                self.lines.append([])
        elif command == "A":
            self.row -= int(number or 1)
            assert self.row >= self.top, "the cursor cannot go above the screen"
        elif command == "J":
            del line[self.column :], self.lines[self.row + 1 :]
        elif command == "m":
            self._dim = number == "2" or number.startswith("2;") or (self._dim and number not in ("", "0"))
        elif private and command in "hl":
            self.cursor_visible = command == "h"
        else:
            raise AssertionError(f"unknown command {private}{number}{command}")

    def resize(self, width: int, height: int) -> None:
        """Rewrap: a line longer than the width becomes several."""
        rewrapped: list[list[tuple[str, bool]]] = []
        for number, line in enumerate(self.lines):
            if number == self.row:
                row = len(rewrapped)
            rewrapped += [line[at : at + width] for at in range(0, max(1, len(line)), width)]
        self.lines, self.row = rewrapped, row
        self.width, self.height = width, height
        del self.lines[self.row + height :]

    @property
    def top(self) -> int:
        return max(0, len(self.lines) - self.height)

    def text(self, number: int) -> str:
        return "".join(letter for letter, _ in self.lines[number]).rstrip()

    @property
    def rows(self) -> list[str]:
        return [self.text(number) for number in range(self.top, len(self.lines))]

    @property
    def everything(self) -> str:
        return "\n".join(self.text(number) for number in range(len(self.lines))).rstrip()

    @property
    def dim(self) -> str:
        """The dim letters on the screen."""
        return "".join(letter for line in self.lines[self.top :] for letter, dim in line if dim).strip()

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return True
