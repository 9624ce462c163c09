"""What is compiled ahead, without compiling it again here."""

import subprocess
import sys
from pathlib import Path

import pytest

from streamasr import warm

COUNTED = """
from numba.core import event
from streamasr import warm

class Count(event.Listener):
    seen = []
    def on_start(self, started): self.seen.append(str(started.data))
    def on_end(self, ended): pass

event.register("numba:compile", Count())
warm.rehearse()
print(Count.seen)
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("NUMBA_DISABLE_JIT", raising=False)
    return tmp_path


def parts(monkeypatch: pytest.MonkeyPatch, log: Path, fails: str = "") -> None:
    """In the place of what is compiled: programs that write their names down."""

    def program(name: str) -> str:
        return f"open({str(log)!r}, 'a').write({name + ' '!r}); exit({int(name == fails)})"

    monkeypatch.setattr(warm, "FIRST", (program("one"), program("two")))
    monkeypatch.setattr(warm, "THEN", (program("three"),))
    monkeypatch.setattr(warm, "LAST", (program("last"),))


def test_it_is_done_once_and_in_order(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts(monkeypatch, cache / "log")
    assert warm.is_due()
    assert warm.compile_all()
    assert not warm.is_due()
    ran = (cache / "log").read_text().split()
    assert sorted(ran[:2]) == ["one", "two"]
    assert ran[2:] == ["three", "last"]


def test_a_part_that_fails_is_tried_again_at_the_next_start(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    parts(monkeypatch, cache / "log", fails="two")
    assert warm.main() == 0
    assert "the first start does the rest" in capsys.readouterr().err
    assert warm.is_due()
    assert "three" not in (cache / "log").read_text()


def test_without_a_model_there_is_nothing_to_rehearse(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts(monkeypatch, cache / "log", fails="last")
    assert not warm.compile_all()
    assert not warm.is_due()


def test_where_numba_may_not_write_the_user_keeps_the_stamp(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts(monkeypatch, cache / "log")
    (cache / "file").write_text("")
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(cache / "file" / "below"))
    assert warm.compile_all()
    assert not warm.is_due()
    assert [path.parent for path in warm.stamps() if path.exists()] == [cache / "home" / ".cache" / "streamasr"]


def test_a_user_without_a_home_has_one_place_less(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", home)
    assert [path.parent for path in warm.stamps()] == [cache / "cache"]
    assert warm.is_due()


def test_other_sources_are_compiled_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = cache / "loops.py"
    source.write_text("from streamasr.compiled import loops\n")
    monkeypatch.setattr(warm, "PACKAGE", cache)
    before = warm.stamps()
    (cache / "plain.py").write_text("x = 1\n")
    assert warm.stamps() == before
    source.write_text("from streamasr.compiled import loops  # other ones\n")
    assert warm.stamps() != before


def test_nothing_is_left_to_compile_for_a_second_start() -> None:
    warm.rehearse()  # compiles and keeps what is missing
    ran = subprocess.run([sys.executable, "-c", COUNTED], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
