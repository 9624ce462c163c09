"""Faults of a real process: killed, starved, its disk full."""

from __future__ import annotations

import base64
import contextlib
import errno
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from websockets.sync.client import connect

from streamasr.audio import RATE_HZ, FileSource
from tests.test_cli import FAKE, REPOSITORY, Shell
from tests.test_export import parsed_srt

PATIENCE_S = 60.0

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")


def wait_until(done: Callable[[], object]) -> None:
    give_up = time.monotonic() + PATIENCE_S
    while not done():
        assert time.monotonic() < give_up
        time.sleep(0.02)


@pytest.fixture
def endless(tmp_path: Path) -> Iterator[Path]:
    """A minute of sound that says where it is; the fake engine hears a word in every half second."""
    path = tmp_path / "long.flac"
    soundfile.write(path, np.linspace(-0.5, 0.5, 60 * RATE_HZ).astype(np.float32), RATE_HZ, subtype="PCM_24")
    yield path


def listening(*arguments: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*FAKE, "listen", *map(str, arguments)],
        cwd=REPOSITORY,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def test_killed_while_it_listens(endless: Path, tmp_path: Path) -> None:
    """SIGKILL: every file holds all finals so far and is valid; the recording lacks its last moment only."""
    srt, vtt, lines, text = (tmp_path / f"talk.{name}" for name in ("srt", "vtt", "jsonl", "txt"))
    saves = [word for path in (srt, vtt, lines, text) for word in ("--save", path)]
    with listening("--source", endless, "--realtime", *saves, "--record", tmp_path / "talk.flac") as process:
        wait_until(lambda: text.exists() and text.read_text().count("\n") == 2)
        began = json.loads(lines.read_text().splitlines()[-1])["end_s"]
        wait_until(lambda: FileSource(tmp_path / "talk.flac").seconds > began)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        process.stderr.close()
    assert [cue[0] for cue in parsed_srt(srt.read_text())] == [1, 2]
    assert re.fullmatch(r"WEBVTT\n\n(\S+ --> \S+\n[^\n]+\n\n){2}", vtt.read_text())
    assert [json.loads(line)["type"] for line in lines.read_text().splitlines()] == ["final", "final"]
    heard, _ = soundfile.read(tmp_path / "talk.flac", dtype="float32")
    expected, _ = soundfile.read(endless, frames=len(heard), dtype="float32")
    assert len(heard) / RATE_HZ > began
    assert np.abs(heard - expected).max() < 1e-6


def test_a_full_disk_while_it_listens(endless: Path, tmp_path: Path) -> None:
    """The system refuses to let the file grow (RLIMIT_FSIZE); when it may again, what was missing is there."""
    resource = pytest.importorskip("resource")
    if not hasattr(resource, "prlimit"):
        pytest.skip("only Linux changes the limits of another process")
    saved = tmp_path / "talk.srt"
    with listening("--source", endless, "--realtime", "--save", saved) as process:
        wait_until(lambda: saved.exists() and saved.stat().st_size > 0)
        size = saved.stat().st_size
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size + 10, resource.RLIM_INFINITY))
        noted = b""
        while b"cannot write" not in noted:
            noted = process.stderr.readline()
        assert len(parsed_srt(saved.read_text())) == 1  # whole, without the half that fitted
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        wait_until(lambda: len(parsed_srt(saved.read_text())) >= 3)
        process.terminate()
        assert b"captions" in process.stderr.read()
        assert process.wait() == 0
    cues = parsed_srt(saved.read_text())
    assert [cue[0] for cue in cues] == list(range(1, len(cues) + 1))
    words = [word for cue in cues for line in cue[3] for word in line.split()]
    said = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    assert words == [said[at % 10] for at in range(len(words))]  # none missing


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 320 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=320k", "none", str(folder)]
    if sys.platform != "linux" or os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount a small disk, and only where that is permitted")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path) -> None:
    """Leave no room for another page."""
    for number in range(100):
        with contextlib.suppress(OSError):
            (disk / f"filler-{number}").write_bytes(bytes(4096))


def test_a_disk_that_is_really_full(endless: Path, small_disk: Path, tmp_path: Path) -> None:
    """ENOSPC: the file stays valid, words go on elsewhere, and what was missing comes when there is room again."""
    saved, elsewhere = small_disk / "talk.srt", tmp_path / "talk.txt"
    cue = "1\n00:00:00,000 --> 00:00:01,000\n{}\n\n"
    saved.write_text(cue.format("x" * (4096 - 60 - len(cue) + 2)))  # room for one more caption in its page
    fill(small_disk)
    with listening("--source", endless, "--realtime", "--continue", saved, "--save", elsewhere) as process:
        noted = b""
        while b"cannot write" not in noted:
            noted = process.stderr.readline()
        assert b"no space left on device" in noted
        assert len(parsed_srt(saved.read_text())) == 2
        said = len(elsewhere.read_text().splitlines())
        for path in small_disk.glob("filler-*"):
            path.unlink()
        wait_until(lambda: len(elsewhere.read_text().splitlines()) > said)
        process.terminate()
        errors = process.stderr.read()
        assert process.wait() == 0, errors
    words = [word for cue in parsed_srt(saved.read_text())[1:] for line in cue[3] for word in line.split()]
    assert words == elsewhere.read_text().split()  # none missing


def test_a_recording_that_fills_the_disk(small_disk: Path, tmp_path: Path) -> None:
    """It ends there, which is told, and can be read; captions go on."""
    noise, saved = tmp_path / "noise.flac", tmp_path / "talk.txt"
    soundfile.write(noise, np.random.default_rng(1).uniform(-1, 1, 60 * RATE_HZ), RATE_HZ, subtype="PCM_24")
    with listening("--source", noise, "--realtime", "--save", saved, "--record", small_disk / "talk.flac") as process:
        noted = b""
        while b"talk.flac cannot be written any more" not in noted:
            noted = process.stderr.readline()
        said = len(saved.read_text().splitlines())
        wait_until(lambda: len(saved.read_text().splitlines()) > said)
        process.terminate()
        errors = process.stderr.read()
        assert process.wait() == 0, errors
    heard, _ = soundfile.read(small_disk / "talk.flac", dtype="float32")
    expected, _ = soundfile.read(noise, frames=len(heard), dtype="float32")
    assert len(heard) / RATE_HZ > 3
    assert np.abs(heard - expected).max() < 1e-6


def test_a_subscriber_that_never_reads(endless: Path, tmp_path: Path) -> None:
    """It delays nobody: captions are saved at the pace of speech, and another subscriber gets every one."""
    saved = tmp_path / "talk.txt"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with listening("--source", endless, "--realtime", "--serve", port, "--save", saved) as process:
        deaf = socket.socket()
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        wait_until(lambda: deaf.connect_ex(("127.0.0.1", port)) in (0, errno.EISCONN))
        key = base64.b64encode(bytes(16)).decode()
        request = ["GET /v1/captions HTTP/1.1", f"Host: 127.0.0.1:{port}", "Upgrade: websocket", "Connection: Upgrade"]
        request += [f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13", "", ""]
        deaf.sendall("\r\n".join(request).encode())
        finals: list[str] = []
        with connect(f"ws://127.0.0.1:{port}/v1/captions", proxy=None) as reader:
            while len(finals) < 3:
                message = json.loads(reader.recv(PATIENCE_S))
                if message["type"] == "final":
                    finals.append(message["text"])
        assert saved.read_text().splitlines()[-len(finals) :] == finals
        process.terminate()
        errors = process.stderr.read()
        assert process.wait() == 0, errors
        deaf.close()
    assert b"nothing dropped" in errors


def test_a_session_goes_on_after_a_kill(endless: Path, tmp_path: Path) -> None:
    """SIGKILL, then `--continue`: numbers and times go on behind those that are there, the pause included."""
    srt, lines = tmp_path / "talk.srt", tmp_path / "talk.jsonl"
    go_on = ["--continue", srt, "--continue", lines]
    with listening("--source", endless, "--realtime", *go_on) as process:  # a first time, it begins them
        wait_until(lambda: lines.exists() and lines.read_text().count("\n") == 1)
        process.kill()
        process.wait()
        process.stderr.close()
    before = srt.read_text()
    written_s = srt.stat().st_mtime - 100  # as if that was a while ago
    os.utime(srt, (written_s, written_s))
    os.utime(lines, (written_s, written_s))
    with listening("--source", endless, *go_on) as process:
        errors = process.stderr.read().decode()
        assert process.wait() == 0
    assert "talk.srt goes on at 1:4" in errors
    cues = parsed_srt(srt.read_text())
    assert srt.read_text().startswith(before)
    assert [cue[0] for cue in cues] == list(range(1, 32))
    assert 100 < cues[1][1] - cues[0][2] < 100 + PATIENCE_S
    events = [json.loads(line) for line in lines.read_text().splitlines()]
    starts = [event["start_s"] for event in events if event["type"] == "final"]
    assert starts == sorted(starts) and len(starts) == 31
    assert starts[1] == pytest.approx(cues[1][1], abs=0.001)


def test_ctrl_z_leaves_the_terminal_in_order(endless: Path) -> None:
    """A shell with job control stops it and lets it go on; meanwhile the cursor is there."""
    shell = Shell("listen", "--source", str(endless), "--realtime", job=True)
    shell.wait_for("perhaps")
    assert not shell.screen.cursor_visible
    os.write(shell.descriptor, b"\x1a")
    shell.wait_for("the shell is here")
    assert shell.screen.cursor_visible
    os.write(shell.descriptor, b"\n")
    shell.wait_for("five perhaps")
    assert not shell.screen.cursor_visible
    os.write(shell.descriptor, b"\x03")
    shell.end()
    assert shell.screen.cursor_visible
    assert "one two three four\n" in shell.screen.everything
