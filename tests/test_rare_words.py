from __future__ import annotations

import lzma
from pathlib import Path

import numpy as np
import pytest

from streamasr.checksums import write_listed
from streamasr.errors import BundleError, ChecksumError
from streamasr.rare_words import FILE, NONE, RareWords, read_rare, write_rare


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    assert read_rare(tmp_path) == NONE
    write_rare(tmp_path, RareWords(("osaka", "rock'n'roll"), np.array([-1.234, -12.5], np.float32)))
    read = read_rare(tmp_path)
    assert read.words == ("osaka", "rock'n'roll")
    np.testing.assert_allclose(read.log_share, [-1.23, -12.5], atol=1e-6)


@pytest.mark.parametrize(
    "content", [b"no archive", lzma.compress(b"osaka\n"), lzma.compress(b"osaka\tx\n"), lzma.compress(b"a\t0\nb\t0\n")]
)
def test_damage_is_told(tmp_path: Path, content: bytes) -> None:
    write_listed(tmp_path, {FILE: content})
    with pytest.raises(BundleError, match="no list of rare words"):
        read_rare(tmp_path)
    (tmp_path / FILE).write_bytes(b"1")
    with pytest.raises(ChecksumError):
        read_rare(tmp_path)
