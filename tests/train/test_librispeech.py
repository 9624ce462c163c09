"""The download path, on a stand-in of LibriSpeech's archive behind a server that drops the connection."""

from __future__ import annotations

import hashlib
import io
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import soundfile

from streamasr.errors import ChecksumError, ConfigError, ManifestError
from train import librispeech
from train.librispeech import Archive, DownloadError
from train.manifest import read_manifest

NAME = "dev-clean"


def make_archive(texts: dict[str, str]) -> bytes:
    """A tar.gz laid out as LibriSpeech's: LibriSpeech/SET/SPEAKER/CHAPTER/*.flac and one .trans.txt a chapter."""
    content = io.BytesIO()
    rng = np.random.default_rng(0)
    files: dict[str, bytes] = {"LibriSpeech/README.TXT": b"a stand-in"}
    for name in texts:
        speaker, chapter, _ = name.split("-")
        folder = f"LibriSpeech/{NAME}/{speaker}/{chapter}"
        audio = io.BytesIO()
        soundfile.write(audio, 0.1 * rng.standard_normal(24_000), 16_000, format="FLAC")
        files[f"{folder}/{name}.flac"] = audio.getvalue()
        said = files.get(f"{folder}/{speaker}-{chapter}.trans.txt", b"")
        files[f"{folder}/{speaker}-{chapter}.trans.txt"] = said + f"{name} {texts[name]}\n".encode()
    with tarfile.open(fileobj=content, mode="w:gz") as tar:
        for path, data in files.items():
            entry = tarfile.TarInfo(path)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return content.getvalue()


CONTENT = make_archive({"84-121-0000": "GO DO YOU HEAR", "84-121-0001": "IT'S HERE", "174-50-0000": "YES"})
ARCHIVE = Archive(NAME, hashlib.sha256(CONTENT).hexdigest(), len(CONTENT), 0.001)


class Mirror(ThreadingHTTPServer):
    """Serves the archive; the first `drops` answers break off half-way."""

    def __init__(self, drops: int = 0, ranges: bool = True) -> None:
        self.drops, self.ranges, self.asked = drops, ranges, []  # type: ignore[var-annotated]
        super().__init__(("127.0.0.1", 0), Answer)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/resources/12/"


class Answer(BaseHTTPRequestHandler):
    server: Mirror

    def do_GET(self) -> None:
        self.server.asked.append(self.headers.get("Range"))
        if not self.path.endswith(f"/{NAME}.tar.gz"):
            self.send_error(404)
            return
        first = int((self.headers.get("Range") or "bytes=0-")[6:-1]) if self.server.ranges else 0
        if first >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if first else 200)
        self.send_header("Content-Length", str(len(CONTENT) - first))
        self.end_headers()
        rest = CONTENT[first:]
        if len(self.server.asked) <= self.server.drops:
            rest = rest[: len(rest) // 2]
        self.wfile.write(rest)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def mirror(request: pytest.FixtureRequest) -> Iterator[Mirror]:
    with Mirror(**getattr(request, "param", {})) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield server
        server.shutdown()


@pytest.mark.parametrize("mirror", [{"drops": 2}], indirect=True)
def test_archive_becomes_a_corpus_through_a_bad_connection(tmp_path: Path, mirror: Mirror) -> None:
    folder = librispeech.prepare(ARCHIVE, tmp_path, mirror.url, pause_s=0.01)
    half = len(CONTENT) // 2
    assert mirror.asked[0] is None
    assert list(mirror.asked[1:]) == [f"bytes={half}-", f"bytes={half + (len(CONTENT) - half) // 2}-"]
    found = {(u.path.name, u.speaker, u.text, u.seconds) for u in read_manifest(folder)}
    assert found == {
        ("84-121-0000.flac", "84", "go do you hear", 1.5),
        ("84-121-0001.flac", "84", "it's here", 1.5),
        ("174-50-0000.flac", "174", "yes", 1.5),
    }
    assert not list(tmp_path.glob("*.tar.gz*"))
    assert "CC BY" in (folder / "LICENCE").read_text()
    librispeech.prepare(ARCHIVE, tmp_path, mirror.url)
    assert len(mirror.asked) == 3  # what is ready is not fetched again


@pytest.mark.parametrize("mirror", [{"drops": 1, "ranges": False}], indirect=True)
def test_server_without_ranges_begins_again(tmp_path: Path, mirror: Mirror) -> None:
    path = librispeech.download(ARCHIVE, tmp_path, mirror.url, pause_s=0.01)
    assert path.read_bytes() == CONTENT


def test_whole_part_of_a_killed_download_is_taken(tmp_path: Path, mirror: Mirror) -> None:
    (tmp_path / f"{NAME}.tar.gz.part").write_bytes(CONTENT)
    assert librispeech.download(ARCHIVE, tmp_path, mirror.url, pause_s=0.01).read_bytes() == CONTENT


def test_wrong_checksum_is_refused_and_removed(tmp_path: Path, mirror: Mirror) -> None:
    wrong = Archive(NAME, "0" * 64, len(CONTENT), 0.001)
    with pytest.raises(ChecksumError, match="expected 000000000000"):
        librispeech.prepare(wrong, tmp_path, mirror.url, pause_s=0.01)
    assert not list(tmp_path.iterdir())


def test_local_mirror_serves_too(tmp_path: Path) -> None:
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / f"{NAME}.tar.gz").write_bytes(CONTENT)
    folder = librispeech.prepare(ARCHIVE, tmp_path / "root", (tmp_path / "mirror").as_uri())
    assert len(read_manifest(folder)) == 3


@pytest.mark.parametrize("mirror", [{"drops": 99}], indirect=True)
def test_dead_connection_is_told_and_keeps_what_came(tmp_path: Path, mirror: Mirror) -> None:
    with pytest.raises(DownloadError, match="what came is kept"):
        librispeech.download(ARCHIVE, tmp_path, mirror.url, pause_s=0.0)
    assert len(mirror.asked) == librispeech.TRIES
    assert (tmp_path / f"{NAME}.tar.gz.part").stat().st_size > len(CONTENT) // 2


def test_full_disk_is_told_before_anything_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 20e9})
    monkeypatch.setattr(librispeech.shutil, "disk_usage", lambda path: usage)
    librispeech.check_space(librispeech.named(["dev-clean", "test-clean"]), tmp_path)
    with pytest.raises(DownloadError, match=r"20.0 GB free; expected .* GB for train-clean-100"):
        librispeech.check_space(librispeech.named(["train-clean-100"]), tmp_path)


def test_sets_are_named() -> None:
    assert [archive.name for archive in librispeech.named(["all", "dev-clean", "all"])] == [
        *librispeech.ALL,
        "dev-clean",
    ]
    with pytest.raises(ConfigError, match="no set 'train-clean'"):
        librispeech.named(["train-clean"])


def test_missing_transcript_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "LibriSpeech" / NAME / "1" / "2"
    folder.mkdir(parents=True)
    soundfile.write(folder / "1-2-0000.flac", np.zeros(16_000), 16_000)
    (folder / "1-2.trans.txt").write_text("1-2-0001 ANOTHER\n")
    with pytest.raises(ManifestError, match="lacks a transcript"):
        librispeech.write_manifest(tmp_path / "LibriSpeech" / NAME / "manifest.tsv")
