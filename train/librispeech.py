"""LibriSpeech (Panayotov et al., 2015; CC BY 4.0): download, check, unpack, list. `python -m train.librispeech SET...`

Names, checksums and the reading of transcripts are torchaudio's. A download that was cut off goes on where it stopped;
an archive is removed as soon as it is unpacked.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import shutil
import sys
import tarfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import soundfile
from rich.progress import DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn
from torchaudio.datasets import LIBRISPEECH
from torchaudio.datasets.librispeech import _CHECKSUMS

from streamasr.errors import ChecksumError, ConfigError, ManifestError, StreamasrError
from train.data import RATE_HZ, cache_root

MIRROR = "http://www.openslr.org/resources/12/"
ALL = ("train-clean-100", "train-clean-360", "train-other-500")
TRIES = 5
LICENCE = "LibriSpeech (CC BY 4.0)"


class DownloadError(StreamasrError):
    """A download that cannot begin or end."""


@dataclass(frozen=True)
class Archive:
    """One set: its name, the SHA-256 of its archive, the archive's bytes, and the hours of speech in it."""

    name: str
    sha256: str
    size: int
    hours: float


_SIZES = {  # bytes of the archive, hours
    "dev-clean": (337_926_286, 5.4),
    "dev-other": (314_305_928, 5.3),
    "test-clean": (346_663_984, 5.4),
    "test-other": (328_757_843, 5.1),
    "train-clean-100": (6_387_309_499, 100.6),
    "train-clean-360": (23_049_477_885, 363.6),
    "train-other-500": (30_593_501_606, 496.7),
}
ARCHIVES = {name: Archive(name, _CHECKSUMS[f"{MIRROR}{name}.tar.gz"], *_SIZES[name]) for name in _SIZES}


def named(names: list[str]) -> list[Archive]:
    """Archives by name; "all" stands for the 960 hours.

    Raises:
        ConfigError: a name that is not one of theirs.
    """
    names = [each for name in names for each in (ALL if name == "all" else (name,))]
    for name in names:
        if name not in ARCHIVES:
            raise ConfigError(f"LibriSpeech has no set {name!r}", f"all, or {', '.join(ARCHIVES)}", "Correct SETS.")
    return [ARCHIVES[name] for name in dict.fromkeys(names)]


def check_space(archives: list[Archive], root: Path) -> None:
    """See that the disk holds each archive, what is in it, and the samples that training makes of it.

    Raises:
        DownloadError: it does not.
    """
    root.mkdir(parents=True, exist_ok=True)
    missing = [archive for archive in archives if not manifest_of(archive, root).exists()]
    kept = sum(archive.size + archive.hours * 3600 * RATE_HZ * 2 for archive in missing)
    needed = kept + max((archive.size for archive in missing), default=0)  # one archive at a time
    free = shutil.disk_usage(root).free
    if needed > free:
        raise DownloadError(
            f"{root} has {free / 1e9:.1f} GB free",
            f"{needed / 1e9:.1f} GB for {', '.join(archive.name for archive in missing)}",
            "Make room, set STREAMASR_CACHE to another disk, or ask for fewer SETS.",
        )


def manifest_of(archive: Archive, root: Path) -> Path:
    """Where the manifest of a set lies once it is ready."""
    return root / "LibriSpeech" / archive.name / "manifest.tsv"


def _receive(url: str, part: Path, size: int) -> None:
    """Add to `part` what is missing of `url`."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    columns = (*Progress.get_default_columns()[:2], DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with urllib.request.urlopen(request, timeout=60) as answer, Progress(*columns, transient=True) as progress:
        if have and getattr(answer, "status", None) != 206:  # it begins again from the first byte
            have = 0
        expected = int(answer.headers.get("Content-Length") or 0) + have
        task = progress.add_task(part.stem, total=expected or size, completed=have)
        with part.open("ab" if have else "wb") as file:
            while block := answer.read(1 << 20):
                file.write(block)
                progress.advance(task, len(block))
    if expected and part.stat().st_size < expected:
        raise http.client.IncompleteRead(b"", expected - part.stat().st_size)


def download(archive: Archive, root: Path, mirror: str = MIRROR, *, pause_s: float = 5.0) -> Path:
    """Fetch one archive, going on after interruptions; returns its path.

    Raises:
        DownloadError: it cannot be fetched. ChecksumError: it is not what it should be; it is removed.
    """
    path, part = root / f"{archive.name}.tar.gz", root / f"{archive.name}.tar.gz.part"
    url = f"{mirror.rstrip('/')}/{path.name}"
    if not path.exists():
        for attempt in range(1, TRIES + 1):
            try:
                _receive(url, part, archive.size)
                break
            except (OSError, http.client.HTTPException, ValueError) as error:  # URLError is an OSError
                if isinstance(error, urllib.error.HTTPError) and error.code == 416:  # nothing is missing
                    break
                if attempt == TRIES:
                    raise DownloadError(
                        f"{url} cannot be fetched ({error})", "a connection", "Start again: what came is kept."
                    ) from None
                time.sleep(pause_s * attempt)
        part.replace(path)
    sums = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            sums.update(block)
    if sums.hexdigest() != archive.sha256:
        path.unlink()
        raise ChecksumError(
            f"{url} has the checksum {sums.hexdigest()[:12]}…",
            f"{archive.sha256[:12]}…",
            "It was removed; start again.",
        )
    return path


def prepare(archive: Archive, root: Path, mirror: str = MIRROR, *, pause_s: float = 5.0) -> Path:
    """Download, check and unpack one set, and write its manifest; what is done already is not done again.

    Returns:
        the folder of the set.

    Raises:
        DownloadError, ChecksumError: see `download`. ManifestError: the archive holds no utterance.
    """
    manifest = manifest_of(archive, root)
    if manifest.exists():
        return manifest.parent
    root.mkdir(parents=True, exist_ok=True)
    path = download(archive, root, mirror, pause_s=pause_s)
    print(f"unpacking {path.name}", flush=True)
    with tarfile.open(path) as tar:
        tar.extractall(root, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    if not manifest.parent.is_dir():
        raise ManifestError(
            f"{path} holds no LibriSpeech/{archive.name}", "an archive of LibriSpeech", "Fetch it again."
        )
    write_manifest(manifest)
    path.unlink()
    return manifest.parent


def write_manifest(manifest: Path) -> None:
    """List the FLAC files of a set beside it with their lengths, readers and texts.

    Raises:
        ManifestError: there is none, or a transcript is missing.
    """
    folder = manifest.parent
    dataset = LIBRISPEECH(folder.parent.parent, url=folder.name)
    lines = []
    for number in range(len(dataset)):
        try:
            name, _, text, speaker, _, _ = dataset.get_metadata(number)
        except (OSError, ValueError) as error:
            raise ManifestError(f"{folder} lacks a transcript ({error})", "a .trans.txt", "Fetch it again.") from None
        path = folder.parent / name
        lines.append(f"{path.relative_to(folder)}\t{soundfile.info(path).duration:.3f}\t{speaker}\t{text}\n")
    if not lines:
        raise ManifestError(f"{folder} holds no FLAC file", "an archive of LibriSpeech", "Fetch it again.")
    (folder / "LICENCE").write_text(LICENCE + "\n")
    part = manifest.with_suffix(".part")
    part.write_text("".join(lines), encoding="utf-8")
    part.replace(manifest)


def prepare_all(names: list[str], root: Path | None = None, mirror: str = MIRROR) -> list[Path]:
    """Folders of the named sets, ready to train on. See `check_space` and `prepare`."""
    root = root or cache_root() / "corpora"
    archives = named(names)
    check_space(archives, root)
    return [prepare(archive, root, mirror) for archive in archives]


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m train.librispeech", description="Download sets of LibriSpeech.")
    parser.add_argument("sets", nargs="+", help=f"all, or {', '.join(ARCHIVES)}")
    parser.add_argument("--root", type=Path, help="the folder to unpack into; the cache by default")
    parser.add_argument("--mirror", default=MIRROR)
    arguments = parser.parse_args()
    try:
        for folder in prepare_all(arguments.sets, arguments.root, arguments.mirror):
            print(folder)
    except StreamasrError as error:
        print(f"train.librispeech: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
