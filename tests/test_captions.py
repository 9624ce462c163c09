"""What a person sees at 80x24 and elsewhere, and what a pipe gets."""

import io
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from streamasr import captions
from streamasr.captions import Plain, Status, Terminal
from streamasr.events import End, Final, Partial, SpeechStarted
from tests.screen import Screen

STATUS = Status("", "Built-in Audio", -20.0, 83.0, 0.31, 0.12, 0.0)


def terminal(screen: Screen, hint: str = "") -> Terminal:
    console = Console(
        file=screen, force_terminal=True, color_system="standard", highlight=False, legacy_windows=False, _environ={}
    )
    console._width, console._height = screen.width, screen.height
    return Terminal(console, hint)


def resize(screen: Screen, shown: Terminal, width: int, height: int) -> None:
    screen.resize(width, height)
    shown._console._width, shown._console._height = width, height


def final(text: str) -> Final:
    return Final(text, (), 0.0, 1.0)


def test_words_in_progress_stand_above_the_status_line() -> None:
    screen = Screen()
    shown = terminal(screen)
    shown.event(Partial("the quick ", "brown fo", 0.0, 1.0))
    shown.draw(STATUS)
    assert screen.rows[0] == "the quick brown fo"
    assert screen.dim.startswith("brown fo")
    assert screen.rows[1].startswith("● Built-in Audio  █████░░░  latency 0.3 s  rtf 0.12  dropped 0 s  1:23")
    assert not screen.cursor_visible


def test_finals_scroll_up_and_stay() -> None:
    screen = Screen(height=5)
    shown = terminal(screen)
    for number in range(20):
        shown.event(Partial(f"sentence number {number}", " and", 0.0, 1.0))
        shown.draw(STATUS)
        shown.event(final(f"sentence number {number} and a word"))
        shown.draw(STATUS)
    shown.close()
    assert screen.everything.split("\n") == [f"sentence number {number} and a word" for number in range(20)]
    assert screen.cursor_visible


def test_of_a_long_partial_the_last_rows_are_shown() -> None:
    screen = Screen()
    shown = terminal(screen)
    words = " ".join(f"word{number}" for number in range(300))
    shown.event(Partial(words, " last", 0.0, 1.0))
    shown.draw(STATUS)
    assert len(screen.rows) == captions.LONGEST_ROWS + 1
    assert " ".join(screen.rows[:-1]).endswith("word298 word299 last")
    shown.close()
    assert screen.everything == ""


@given(st.lists(st.tuples(st.integers(4, 100), st.integers(2, 30), st.integers(0, 400), st.booleans()), max_size=12))
def test_no_resize_leaves_a_trace(steps: list[tuple[int, int, int, bool]]) -> None:
    screen = Screen()
    shown = terminal(screen)
    said = []
    for number, (width, height, length, finishes) in enumerate(steps):
        resize(screen, shown, width, height)
        shown.event(Partial("ab " * (length // 3), "de", 0.0, 1.0))
        shown.draw(STATUS)
        assert len(screen.rows) <= height
        if finishes:
            said.append(f"n{number}")
            shown.event(final(said[-1]))
            shown.draw(STATUS)
    shown.close()
    assert screen.everything.split() == said


@pytest.mark.parametrize("width", [20, 40, 60, 80, 200])
def test_the_status_line_is_one_row_and_keeps_what_matters(width: int) -> None:
    screen = Screen(width=width)
    terminal(screen).draw(Status("", "A microphone with a very long name indeed", -3.0, 3723.0, 12.5, 1.25, 4.0))
    assert len(screen.rows) == 2
    assert "1:02:03" in screen.rows[1] or width == 20
    if width >= 60:
        assert "dropped 4.0 s" in screen.rows[1]
    if width >= 80:
        assert "● A microphone wi" in screen.rows[1]
        assert "latency 12.5 s  rtf 1.25" in screen.rows[1]


def test_a_hint_stands_until_the_first_words() -> None:
    screen = Screen()
    shown = terminal(screen, hint="Speak; Ctrl-C stops.")
    shown.draw(STATUS)
    assert screen.rows[0] == "Speak; Ctrl-C stops."
    shown.event(final("hello"))
    shown.draw(STATUS)
    assert screen.rows[:2] == ["hello", ""]


def test_one_frame_is_one_write() -> None:
    screen = Screen()
    shown = terminal(screen)
    before = screen.writes
    shown.event(final("hello"))
    shown.note("the microphone is back")
    shown.event(Partial("a", "b", 0.0, 1.0))
    shown.draw(STATUS)
    assert screen.writes == before + 1
    assert screen.rows[:3] == ["hello", "the microphone is back", "ab"]


def test_an_ascii_terminal_gets_ascii() -> None:
    class Ascii(Screen):
        encoding = "ascii"

    screen = Ascii()
    terminal(screen).draw(Status("", "Größe", -20.0))
    assert screen.everything.isascii()
    assert "#####---" in screen.everything


def test_text_is_never_markup() -> None:
    screen = Screen()
    shown = terminal(screen)
    shown.event(final("[bold]:smile: 12"))
    shown.draw(STATUS)
    assert screen.rows[0] == "[bold]:smile: 12"


def test_a_terminal_that_went_away_is_noticed() -> None:
    screen = Screen()
    shown = terminal(screen)

    def gone(data: str) -> int:
        raise OSError(5, "Input/output error")

    screen.write = gone
    shown.draw(STATUS)
    assert shown.closed
    shown.close()


def test_plain_is_one_line_for_each_final(capsys: pytest.CaptureFixture[str]) -> None:
    plain = Plain()
    for event in (SpeechStarted(0.0), Partial("a", "b", 0.0, 1.0), final("a b"), final(""), End(1.0)):
        plain.event(event)
    plain.note("listening")
    plain.draw(STATUS)
    plain.close()
    assert capsys.readouterr() == ("a b\n", "streamasr: listening\n")


def test_a_broken_pipe_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(io.StringIO):
        def flush(self) -> None:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Broken())
    plain = Plain()
    plain.event(final("nobody reads"))
    assert plain.closed


def test_the_clock() -> None:
    assert [captions.clock(seconds) for seconds in (0.0, 83.9, 3723.0)] == ["0:00", "1:23", "1:02:03"]
