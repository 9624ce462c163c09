from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from streamasr.checksums import FILE, digest, listed, write_listed


def test_files_and_list_agree_and_other_lines_stay(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    write_listed(folder, {"a": b"one", "b c": b"two"})
    write_listed(folder, {"a": b"three"})
    assert listed(folder) == {"a": digest(b"three"), "b c": digest(b"two")}
    (folder / "b c").unlink()
    write_listed(folder, {"d": b""})
    assert list(listed(folder)) == ["a", "d"]


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="needs sha256sum")
def test_the_usual_program_reads_it_and_is_read(tmp_path: Path) -> None:
    write_listed(tmp_path, {"a": b"one", "b c": b"two"})
    subprocess.run(["sha256sum", "--check", "--strict", FILE], cwd=tmp_path, check=True, capture_output=True)
    for mode in ("--text", "--binary"):
        found = subprocess.run(["sha256sum", mode, "a", "b c"], cwd=tmp_path, check=True, capture_output=True)
        (tmp_path / FILE).write_bytes(found.stdout)
        assert listed(tmp_path) == {"a": digest(b"one"), "b c": digest(b"two")}


def test_without_a_list(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=FILE):
        listed(tmp_path)
