"""Captions: a terminal whose finals scroll up above the words in progress and a status line; or plain lines.

The cursor rests on the first row of the part in progress, so that whatever a resize did to the rows below it, erasing
to the end of the screen and drawing again is right in every terminal, whether or not it rewraps lines. One frame is one
write. Finals are ordinary output: they stay in the terminal's own scrollback.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any, Protocol

from rich.console import COLOR_SYSTEMS, Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.style import Style
from rich.text import Text

from streamasr.events import Event, Final, Partial

ERASE_BELOW, HIDE_CURSOR, SHOW_CURSOR = "\x1b[J", "\x1b[?25l", "\x1b[?25h"
SUSPENDS = hasattr(signal, "SIGTSTP")
LONGEST_ROWS = 6  # of words in progress
METER_CELLS = 8
METER_DB = (-60.0, 0.0)
LAG_SHOWN_S = 1.0
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
    lag_s: float = 0.0  # of audio that waits


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
    """The parts in progress as a renderable: the last rows of the words of each source, then the status line."""

    def __init__(self, partials: Sequence[Partial], status: Status, hint: str = "") -> None:
        self.partials, self.status, self.hint = partials, status, hint

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        rows = max(1, min(LONGEST_ROWS, options.size.height - 2) // max(1, len(self.partials)))
        for partial in self.partials or [Partial("", self.hint, 0.0, 0.0)]:
            words = Text(f"[{partial.source}] " if partial.source else "")
            words.append(partial.committed)
            words.append(partial.tentative, style="dim")
            yield from list(words.wrap(console, options.max_width))[-rows:] or [Text()]
        if options.size.height > 1:
            yield _status_line(self.status, options.max_width, options.ascii_only)


class Terminal:
    """Captions on a terminal."""

    wants_partials = True

    def __init__(self, console: Console | None = None, hint: str = "") -> None:
        self.closed = False
        self._console = console or Console(highlight=False, markup=False, emoji=False)
        self._hint = hint
        self._partials: dict[str, Partial] = {}  # of each source
        self._stopped = False
        self._above: list[Text] = []
        self._quiet = contextlib.ExitStack()
        self._handler: Any = None  # of Ctrl-Z, before
        self._begin()

    def event(self, event: Event) -> None:
        if isinstance(event, Partial | Final):
            self._partials.pop(event.source, None)
        if isinstance(event, Partial) and event.text.strip():
            self._partials[event.source] = event
        elif isinstance(event, Final) and event.text.strip():
            self._above.append(Text(event.line))
            self._hint = ""

    def note(self, line: str) -> None:
        self._above.append(Text(line, style="yellow"))

    def _begin(self) -> None:
        """Take the terminal over; a Ctrl-Z is obeyed at the next `draw`, so that the shell finds it in order."""
        self._quiet.enter_context(_without_echo())
        self._write(HIDE_CURSOR)
        if SUSPENDS and threading.current_thread() is threading.main_thread():
            self._handler = signal.signal(signal.SIGTSTP, self._stop)

    def _end(self) -> None:
        self._write(f"\r{ERASE_BELOW}{self._scrolled()}{SHOW_CURSOR}")
        self._quiet.close()
        if SUSPENDS and self._handler is not None:
            signal.signal(signal.SIGTSTP, self._handler)
            self._handler = None

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stopped = True

    def draw(self, status: Status) -> None:
        if self._stopped:
            self._stopped = False
            self._end()
            os.kill(os.getpid(), signal.SIGTSTP)  # returns when the shell lets the process go on
            self._begin()
        partials = [self._partials[source] for source in sorted(self._partials)]
        view = self._rendered(View(partials, status, self._hint)).removesuffix("\n")
        up = view.count("\n")
        self._write(f"\r{ERASE_BELOW}{self._scrolled()}{view}\r" + (f"\x1b[{up}A" if up else ""))

    def close(self) -> None:
        self._end()

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
                sys.stdout.write(event.line.strip() + "\n")
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
    if status.lag_s >= LAG_SHOWN_S:
        fields.append((6, Text(f"lag {status.lag_s:.1f} s", style="bold yellow")))
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
