"""SHA256SUMS of a folder: lines as the program sha256sum writes and reads them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from streamasr.errors import ChecksumError

FILE = "SHA256SUMS"


def digest(data: bytes) -> str:
    """SHA-256, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def listed(folder: Path) -> dict[str, str]:
    """The digest of each file that is listed, by its name; OSError where there is no list."""
    lines = (folder / FILE).read_text(encoding="utf-8", errors="replace").splitlines()
    return {name.lstrip(" *").strip(): value for value, _, name in (line.partition(" ") for line in lines)}


def read_listed(folder: Path, name: str) -> bytes:
    """What a file of a language model holds.

    Raises:
        ChecksumError: it differs from its digest. OSError: it, or the list, cannot be read.
    """
    data = (folder / name).read_bytes()
    if digest(data) != listed(folder).get(name):
        raise ChecksumError(f"{folder / name} differs from its checksum", "", "Fetch the language model again.")
    return data


def write_listed(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write files, by their names, into a folder, and their digests into its list; lines of other files stay."""
    folder.mkdir(parents=True, exist_ok=True)
    known = listed(folder) if (folder / FILE).is_file() else {}
    for name, data in contents.items():
        (folder / name).write_bytes(data)
        known[name] = digest(data)
    lines = [f"{value}  {name}\n" for name, value in known.items() if (folder / name).is_file()]
    (folder / FILE).write_text("".join(lines), encoding="utf-8")
