"""The command line as a person meets it: in process where that is enough, on a real pseudo-terminal where it is not."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

from streamasr import bundle, cli
from streamasr.errors import BundleError, NoInputDevice
from streamasr.verbs import shared
from tests.fakes import FakeEngine
from tests.screen import Screen

REPOSITORY = Path(__file__).parents[1]
FAKE = [sys.executable, "-c", "import sys; from tests import fakes; sys.exit(fakes.main())"]


@pytest.fixture
def fake_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle, "find", lambda name: Path("fake"))
    monkeypatch.setattr(shared, "recogniser", lambda options, **_: FakeEngine())


@pytest.fixture
def talk(tmp_path: Path) -> Path:
    """Three seconds of sound: six words."""
    path = tmp_path / "talk.wav"
    soundfile.write(path, np.full(3 * 16_000, 0.1, np.float32), 16_000)
    return path


def test_version_and_help_show_examples(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, expected in (
        (["--version"], r"streamasr \d+\.\d+\.\d+"),
        (["--help"], "streamasr doctor"),
        (["listen", "--help"], r"ffmpeg .* \| streamasr listen --source -"),
        (["transcribe", "--help"], "--format srt"),
        (["evaluate", "--help"], "tab-separated"),
    ):
        with pytest.raises(SystemExit) as ended:
            cli.main(arguments)
        assert ended.value.code == 0
        assert re.search(expected, capsys.readouterr().out)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["sing"],
        ["listen", "--rate", "16000"],
        ["listen", "--source", "-", "--device", "usb"],
        ["listen", "--realtime"],
        ["listen", "--beam", "0"],
        ["transcribe"],
        ["transcribe", "talk.wav", "--format", "doc"],
    ],
)
def test_wrong_usage_is_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    assert ended.value.code == 2
    assert "streamasr" in capsys.readouterr().err


def test_the_command_line_is_up_before_anything_heavy() -> None:
    code = (
        "import sys; from streamasr import cli; cli.parser(); import streamasr.verbs.listen, streamasr.mic; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'numba')))"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, check=False).returncode == 0


def test_listen_to_a_file(fake_engine: None, talk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved = [tmp_path / f"saved.{name}" for name in ("txt", "srt", "vtt", "jsonl")]
    options = [word for path in saved for word in ("--save", str(path))]
    assert cli.main(["listen", "--source", str(talk), *options]) == 0
    out, err = capsys.readouterr()
    assert out == "one two three four\nfive six\n"
    notes = err.splitlines()
    assert notes[0] == f"streamasr: listening to {talk}; Ctrl-C stops"
    assert notes[-1].startswith("streamasr: heard 0:03; 2 captions, 6 words; nothing dropped; saved ")
    assert saved[0].read_text() == out
    assert saved[1].read_text().startswith("1\n00:00:00,000 --> 00:00:02,000\none two three four\n\n2\n")
    assert saved[2].read_text().startswith("WEBVTT\n\n00:00:00.000 --> ")
    assert [json.loads(line)["type"] for line in saved[3].read_text().splitlines()] == ["final", "final", "end"]


def test_without_a_microphone_the_recording_is_played(
    fake_engine: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from streamasr import audio, mic

    def none(device: object) -> None:
        raise NoInputDevice("there is no input device", "a microphone", "Plug one in.")

    paced = []
    original = audio.PulledSource.__init__

    def unpaced(self, name, source_hz, rate_hz, realtime, block_s):
        paced.append(realtime)
        original(self, name, source_hz, rate_hz, False, block_s)

    monkeypatch.setattr(mic, "Microphone", none)
    monkeypatch.setattr(audio.PulledSource, "__init__", unpaced)
    assert cli.main(["listen"]) == 0
    out, err = capsys.readouterr()
    assert err.splitlines()[0].startswith("streamasr: no microphone was found")
    assert out.startswith("one two three four\n")
    assert paced == [True]
    assert cli.main(["listen", "--device", "usb"]) == 1  # somebody who names one wants that one
    assert "there is no input device" in capsys.readouterr().err


def told(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of a command that fails with status 1."""
    assert cli.main(arguments) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if "heard 0:" not in line and "; Ctrl-C" not in line]
    assert len(lines) == 1
    assert lines[0].startswith("streamasr: ")
    return lines[0]


def test_each_failure_is_one_line(
    fake_engine: None, talk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "does not exist" in told(["listen", "--source", "missing.wav"], capsys)
    assert "does not exist" in told(["transcribe", "missing.wav"], capsys)
    assert "unknown extension '.doc'; expected one of .txt, .srt" in told(["listen", "--save", "talk.doc"], capsys)
    assert "cannot write" in told(["listen", "--save", "missing/talk.srt"], capsys)
    assert "twice" in told(["listen", "--save", f"{tmp_path}/a.srt", "--save", f"{tmp_path}/./a.srt"], capsys)
    (tmp_path / "empty.wav").touch()
    assert "is empty" in told(["transcribe", str(tmp_path / "empty.wav")], capsys)
    assert "2 files with --format srt" in told(["transcribe", str(talk), str(talk), "--format", "srt"], capsys)
    (tmp_path / "taken.txt").write_text("an earlier talk\n")
    assert "exists" in told(["listen", "--source", str(talk), "--save", str(tmp_path / "taken.txt")], capsys)
    assert not (tmp_path / "a.srt").exists()


def test_nothing_is_left_of_a_file_that_was_to_be_saved_when_nothing_could_begin(
    fake_engine: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told(["listen", "--source", "missing.wav", "--save", str(tmp_path / "talk.vtt")], capsys)
    assert not list(tmp_path.iterdir())


def test_a_truncated_file_keeps_what_was_heard(
    fake_engine: None, talk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = tmp_path / "short.wav"
    short.write_bytes(talk.read_bytes()[:70_000])
    saved = tmp_path / "short.srt"
    assert cli.main(["listen", "--source", str(short), "--save", str(saved)]) == 1
    out, err = capsys.readouterr()
    assert out == "one two three four\nfive\n"
    assert "short.wav is truncated" in err.splitlines()[-1]
    assert "five" in saved.read_text()


def test_a_model_that_is_not_there_is_told_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def find(name: str | None) -> Path:
        raise BundleError(f"there is no model {name!r}")

    monkeypatch.setattr(bundle, "find", find)
    assert "there is no model 'huge'" in told(["listen", "--model", "huge"], capsys)


def test_a_defect_is_one_line_and_debug_shows_where(
    fake_engine: None, talk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(options: object) -> None:
        raise RuntimeError("the sky\nfell")

    monkeypatch.setattr(shared, "recogniser", broken)
    line = told(["transcribe", str(talk)], capsys)
    assert line.startswith("streamasr: unexpected RuntimeError: the sky (a defect: please report it")
    assert cli.main(["transcribe", str(talk), "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_transcribe_formats(fake_engine: None, talk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["transcribe", str(talk)]) == 0
    assert capsys.readouterr().out == "one two three four\nfive six\n"
    assert cli.main(["transcribe", str(talk), "--format", "json"]) == 0
    whole = json.loads(capsys.readouterr().out)
    assert (whole["file"], whole["seconds"], whole["text"]) == (str(talk), 3.0, "one two three four five six")
    assert whole["utterances"][1]["words"][0] == {"text": "five", "start_s": 2.0, "end_s": 2.5, "confidence": 0.9}
    assert cli.main(["transcribe", str(talk), "--format", "srt"]) == 0
    assert capsys.readouterr().out.endswith("2\n00:00:02,000 --> 00:00:03,000\nfive six\n\n")
    assert cli.main(["transcribe", str(talk), "--format", "vtt"]) == 0
    assert capsys.readouterr().out.startswith("WEBVTT\n\n00:00:00.000 --> 00:00:02.000\n")


def test_several_files_and_one_that_fails(
    fake_engine: None, talk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["transcribe", str(talk), "missing.wav", str(talk)]) == 1
    out, err = capsys.readouterr()
    text = "one two three four\nfive six\n"
    assert out == f"==> {talk} <==\n{text}\n==> missing.wav <==\n\n==> {talk} <==\n{text}"
    assert err.count("\n") == 1
    folder = tmp_path / "subtitles"
    folder.mkdir()
    assert cli.main(["transcribe", str(talk), "--format", "srt", "--output", str(folder)]) == 0
    assert capsys.readouterr().out == f"{talk} -> {folder / 'talk.srt'}\n"
    assert "five six" in (folder / "talk.srt").read_text()


def test_models_and_devices_print_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "tiny"
    folder.mkdir()
    facts = {"parameters": 1_500_000, "lookahead_ms": 160}
    (folder / "config.json").write_text(json.dumps({"format": 1, "kind": "acoustic", "facts": facts}))
    monkeypatch.setattr(bundle, "folders", lambda: [tmp_path])
    assert cli.main(["models"]) == 0
    assert re.search(r"tiny +1\.5 M +160 ms +0\.0 MB +streaming", capsys.readouterr().out)
    assert cli.main(["models", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["lookahead_ms"] == 160
    from streamasr import devices

    found = (devices.Device(3, "USB Audio", "ALSA", 2, 48_000.0, True),)
    monkeypatch.setattr(devices, "list_devices", lambda: found)
    assert cli.main(["devices"]) == 0
    assert re.search(r"\* +3 +USB Audio +2 +48000 Hz +ALSA", capsys.readouterr().out)
    assert cli.main(["devices", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["name"] == "USB Audio"


# On a pseudo-terminal, or with pipes, in a process of its own.

pty = pytest.importorskip("pty", reason="a POSIX system has pseudo-terminals")


class Shell:
    """A command on a pseudo-terminal of 80x24, and what a person sees there."""

    def __init__(self, *arguments: str, width: int = 80, height: int = 24, job: bool = False) -> None:
        self.screen = Screen(width, height, strict=False)
        pid, self.descriptor = pty.fork()
        if pid == 0:
            os.chdir(REPOSITORY)
            environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(width), "LINES": str(height)}
            if job:  # of a shell, which Ctrl-Z returns to, and Enter lets it go on
                script = '"$@"; echo the shell is here; read line; fg'
                os.execve("/bin/sh", ["sh", "-mc", script, "sh", *FAKE, *arguments], environment)
            os.execve(FAKE[0], [*FAKE, *arguments], environment)
        self.pid = pid
        self._decoded = b""

    def wait_for(self, text: str, limit_s: float = 60.0) -> None:
        give_up = time.monotonic() + limit_s
        while text not in self.screen.everything:
            assert time.monotonic() < give_up, self.screen.everything
            assert self._read(), self.screen.everything

    def end(self) -> int:
        while self._read():
            pass
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def _read(self) -> bool:
        try:
            data = os.read(self.descriptor, 65_536)
        except OSError:  # Linux says so when the other side is closed
            data = b""
        self._decoded += data
        whole = self._decoded.decode(errors="ignore")
        cut = whole.rfind("\x1b", max(0, len(whole) - 12))
        if cut >= 0 and not re.match(r"\x1b\[\??[\d;]*[A-Za-z]", whole[cut:]):
            whole = whole[:cut]
        self._decoded = self._decoded[len(whole.encode()) :]
        self.screen.write(whole)
        return bool(data)

    def close(self) -> None:
        os.close(self.descriptor)


@pytest.fixture
def endless(tmp_path: Path) -> Iterator[Path]:
    """A minute of sound, to be played in real time."""
    path = tmp_path / "long.flac"
    soundfile.write(path, np.full(60 * 16_000, 0.1, np.float32), 16_000)
    yield path


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_a_clean_terminal_and_the_last_words(endless: Path, tmp_path: Path, number: int) -> None:
    saved = tmp_path / "talk.txt"
    shell = Shell("listen", "--source", str(endless), "--realtime", "--save", str(saved))
    shell.wait_for("one two three four\n")
    shell.wait_for("five perhaps")
    assert not shell.screen.cursor_visible
    os.kill(shell.pid, number)
    assert shell.end() == 0
    captions, summary = shell.screen.everything.split("\nstreamasr: ")
    assert captions.startswith("one two three four\nfive")
    assert saved.read_text() == f"{captions}\n"
    words = len(captions.split())
    assert re.match(
        rf"heard 0:\d\d; {len(captions.splitlines())} captions, {words} words; nothing dropped; saved", summary
    )
    assert shell.screen.cursor_visible


def test_a_closed_terminal_ends_with_all_saved(endless: Path, tmp_path: Path) -> None:
    saved = tmp_path / "talk.srt"
    shell = Shell("listen", "--source", str(endless), "--realtime", "--save", str(saved))
    shell.wait_for("one two three four\n")
    shell.wait_for("five perhaps")
    shell.close()  # the kernel sends SIGHUP
    assert os.waitstatus_to_exitcode(os.waitpid(shell.pid, 0)[1]) == 0
    assert "five" in saved.read_text()
    assert saved.read_text().endswith("\n\n")


def test_a_reader_that_goes_away_ends_it(talk: Path) -> None:
    process = subprocess.Popen(
        [*FAKE, "listen", "--source", str(talk), "--realtime"],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "one two three four\n"
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 0
    assert "Traceback" not in errors
    assert "Exception" not in errors


def test_raw_samples_through_a_pipe(talk: Path) -> None:
    samples = np.full(3 * 8_000, 3_000, "<i2").tobytes()
    command = [*FAKE, "listen", "--source", "-", "--rate", "8000"]
    done = subprocess.run(command, cwd=REPOSITORY, input=samples, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (0, b"one two three four\nfive six\n")
    done = subprocess.run(command, cwd=REPOSITORY, input=samples + b"x", capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (1, b"one two three four\nfive six\n")
    assert b"ended in the middle of a sample" in done.stderr.splitlines()[-1]
