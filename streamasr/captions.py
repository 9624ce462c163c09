"""Captions: a terminal whose finals scroll up above the words in progress and a status line; or plain lines.

The cursor rests on the first row of the part in progress, so that whatever a resize did to the rows below it, erasing
to the end of the screen and drawing again is right in every terminal, whether or not it rewraps lines. One frame is one
write. Finals are ordinary output: they stay in the terminal's own scrollback.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from rich.console import COLOR_SYSTEMS, Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.style import Style
from rich.text import Text

from streamasr.events import Event, Final, Partial

ERASE_BELOW, HIDE_CURSOR, SHOW_CURSOR = "\x1b[J", "\x1b[?25l", "\x1b[?25h"
LONGEST_ROWS = 6  # of words in progress
METER_CELLS = 8
METER_DB = (-60.0, 0.0)
SOURCE_CELLS = 16  # of the source's name are shown before another field is left out


@dataclass(frozen=True)
class Status:
    """What the status line tells. `level_db` is the peak of the last moment in dB of full scale."""

    phase: str
    source: str
    level_db: float = -120.0
    elapsed_s: float = 0.0
    latency_s: float | None = None
    real_time_factor: float | None = None
    dropped_s: float = 0.0


class Display(Protocol):
    """Where captions go. `closed` turns true when nobody can read them any more; few show partials."""

    closed: bool
    wants_partials: bool

    def event(self, event: Event) -> None:
        """Take an event in; it shows at once or at the next `draw`."""

    def note(self, line: str) -> None:
        """Tell the reader something beside the captions."""

    def draw(self, status: Status) -> None:
        """Bring the display up to date."""

    def close(self) -> None:
        """Leave the terminal as it was found."""


class View:
    """The part in progress as a renderable: the last rows of the words, then the status line."""

    def __init__(self, partial: Partial | None, status: Status, hint: str = "") -> None:
        self.partial, self.status, self.hint = partial, status, hint

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        words = Text(self.partial.committed if self.partial else "")
        words.append(self.partial.tentative if self.partial else self.hint, style="dim")
        rows = max(1, min(LONGEST_ROWS, options.size.height - 2))
        lines = words.wrap(console, options.max_width)
        yield from list(lines)[-rows:] or [Text()]
        if options.size.height > 1:
            yield _status_line(self.status, options.max_width, options.ascii_only)


class Terminal:
    """Captions on a terminal."""

    wants_partials = True

    def __init__(self, console: Console | None = None, hint: str = "") -> None:
        self.closed = False
        self._console = console or Console(highlight=False, markup=False, emoji=False)
        self._hint = hint
        self._partial: Partial | None = None
        self._above: list[Text] = []
        self._quiet = contextlib.ExitStack()
        self._quiet.enter_context(_without_echo())
        self._write(HIDE_CURSOR)

    def event(self, event: Event) -> None:
        if isinstance(event, Partial):
            self._partial = event if event.text.strip() else None
        elif isinstance(event, Final):
            self._partial = None
            if event.text.strip():
                self._above.append(Text(event.text))
                self._hint = ""

    def note(self, line: str) -> None:
        self._above.append(Text(line, style="yellow"))

    def draw(self, status: Status) -> None:
        view = self._rendered(View(self._partial, status, self._hint)).removesuffix("\n")
        up = view.count("\n")
        self._write(f"\r{ERASE_BELOW}{self._scrolled()}{view}\r" + (f"\x1b[{up}A" if up else ""))

    def close(self) -> None:
        self._write(f"\r{ERASE_BELOW}{self._scrolled()}{SHOW_CURSOR}")
        self._quiet.close()

    def _scrolled(self) -> str:
        above = "".join(map(self._rendered, self._above))
        self._above.clear()
        return above

    def _rendered(self, renderable: Text | View) -> str:
        """As written to the terminal, each row ended; never in its last column, where terminals differ."""
        options = self._console.options.update(width=max(1, self._console.width - 1))
        rows = self._console.render_lines(renderable, options, pad=False)
        colours = COLOR_SYSTEMS.get(self._console.color_system or "")
        return "".join(
            "".join((style or Style.null()).render(text, color_system=colours) for text, style, _ in self._inked(row))
            + "\n"
            for row in rows
        )

    def _inked(self, row: list[Segment]) -> Iterable[Segment]:
        return Segment.remove_color(row) if self._console.no_color else row

    def _write(self, data: str) -> None:
        if self.closed:
            return
        try:
            self._console.file.write(data)
            self._console.file.flush()
        except OSError:  # the terminal is gone
            self.closed = True


class Plain:
    """One line for each final on standard output, flushed at once; notes on standard error."""

    wants_partials = False

    def __init__(self) -> None:
        self.closed = False

    def event(self, event: Event) -> None:
        if isinstance(event, Final) and event.text.strip() and not self.closed:
            try:
                sys.stdout.write(event.text.strip() + "\n")
                sys.stdout.flush()
            except OSError:  # nobody reads any more
                self.closed = True

    def note(self, line: str) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.write(f"streamasr: {line}\n")
            sys.stderr.flush()

    def draw(self, status: Status) -> None:
        pass

    def close(self) -> None:
        pass


def _status_line(status: Status, width: int, ascii_only: bool) -> Text:
    """One row; where it is narrow, the source is shortened and the fields that matter less are left out."""
    fields = [(6, _meter(status.level_db, ascii_only))]
    if status.latency_s is not None:
        fields.append((5, Text(f"latency {status.latency_s:.1f} s")))
    if status.real_time_factor is not None:
        fields.append((3, Text(f"rtf {status.real_time_factor:.2f}")))
    dropped = f"dropped {status.dropped_s:.1f} s" if status.dropped_s else "dropped 0 s"
    fields.append((7, Text(dropped, style="bold red")) if status.dropped_s else (4, Text(dropped)))
    fields.append((8, Text(clock(status.elapsed_s))))

    def room() -> int:
        return width - sum(len(text) + 2 for _, text in fields)

    head = status.phase or status.source
    needed = 2 + (len(head) if status.phase else min(len(head), SOURCE_CELLS))
    while fields and room() < needed:
        fields.remove(min(fields, key=lambda field: field[0]))
    name = Text(head.encode("ascii", "replace").decode() if ascii_only else head)
    name.truncate(max(1, room() - 2), overflow="crop" if ascii_only else "ellipsis")
    line = Text("  ").join([Text.assemble(("* " if ascii_only else "● ", "red"), name), *(text for _, text in fields)])
    line.truncate(width)
    line.no_wrap = True
    return line


def _meter(level_db: float, ascii_only: bool) -> Text:
    low, high = METER_DB
    filled = round(METER_CELLS * min(1.0, max(0.0, (level_db - low) / (high - low))))
    style = "red" if level_db > -1 else "green"
    bar, rest = ("#", "-") if ascii_only else ("█", "░")
    return Text.assemble((bar * filled, style), (rest * (METER_CELLS - filled), "dim"))


def clock(seconds: float) -> str:
    """Seconds as 1:23 or 1:02:03."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@contextlib.contextmanager
def _without_echo() -> Iterator[None]:
    """Keys typed meanwhile neither show nor reach the shell afterwards; Ctrl-C still interrupts."""
    try:
        import termios

        descriptor = sys.stdin.fileno()
        before = termios.tcgetattr(descriptor)
    except (ImportError, OSError, ValueError, termios.error):
        yield
        return
    quiet = list(before)
    quiet[3] &= ~termios.ECHO
    termios.tcsetattr(descriptor, termios.TCSADRAIN, quiet)
    try:
        yield
    finally:
        with contextlib.suppress(termios.error):
            termios.tcsetattr(descriptor, termios.TCSAFLUSH, before)
