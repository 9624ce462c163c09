"""Finals for other programs: a command for each (`--on-final`), and OBS Studio (`--obs`)."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from websockets.sync.client import connect

from streamasr.errors import ConfigError
from streamasr.events import Final, Partial
from streamasr.obs import Obs, answer, read_password
from streamasr.programs import Program
from tests import studio as obs_websocket
from tests.studio import Studio
from tests.test_cli import FAKE, REPOSITORY

# of the protocol document, "Creating an authentication string"
PASSWORD = "supersecretpassword"
SALT = "lM1GncleQOaCu9lT1yeUZhFYnqhsLLP1G5lAGo3ixaI="
CHALLENGE = "+IxH4CnCiqpX1rM9scsNynZzbOe4KhDeYcTNS3PDaeY="


def final(text: str, source: str = "") -> Final:
    return Final(text, (), 0.0, 1.0, source)


def wait_until(done: Callable[[], object]) -> None:
    give_up = time.monotonic() + 20
    while not done():
        assert time.monotonic() < give_up
        time.sleep(0.01)


def python(script: str, *arguments: object) -> str:
    return shlex.join([sys.executable, "-c", script, *map(str, arguments)])


APPEND = "import sys; open(sys.argv[1], 'a').write(sys.stdin.read())"


def test_a_command_gets_each_final_and_no_shell_sees_it(tmp_path: Path) -> None:
    heard = tmp_path / "heard.txt"
    program = Program(python(APPEND, heard))
    for event in (final("$(touch hacked); one"), Partial("two", "", 0.0, 1.0), final(" "), final("three", "mic")):
        program.write(event)
    program.close()
    assert heard.read_text() == "$(touch hacked); one\n[mic] three\n"
    assert (program.given, program.missed, list(program.notes)) == (2, 0, [])


def test_a_command_that_hangs_is_ended_and_told() -> None:
    program = Program(python("import time; time.sleep(60)"), longest_s=0.2)
    program.write(final("one"))
    wait_until(lambda: program.notes)
    program.close()
    assert "took longer than 0.2 s" in program.notes[0]
    assert "did not get 1 of 1 captions" in program.notes[-1]


def test_a_command_that_fails_is_told_once() -> None:
    program = Program(python("import sys; sys.exit(3)"))
    program.write(final("one"))
    program.write(final("two"))
    program.close()
    assert len([note for note in program.notes if "status 3" in note]) == 1
    assert program.missed == 2


@pytest.mark.parametrize("command", ["", "no-such-program-anywhere --x", "sh -c 'unended"])
def test_commands_that_cannot_be(command: str) -> None:
    with pytest.raises(ConfigError, match="--on-final"):
        Program(command)


@pytest.fixture
def studio() -> Iterator[Studio]:
    made = Studio("sesame")
    yield made
    made.close()


def test_the_answer_is_that_of_the_protocol() -> None:
    assert answer(PASSWORD, SALT, CHALLENGE) == obs_websocket.proof(PASSWORD, SALT, CHALLENGE)
    assert answer(PASSWORD, SALT, CHALLENGE) == "1Ct943GAT+6YQUUX47Ia/ncufilbe6+oD6lY+5kaCu4="


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ({"op": 6, "d": {"requestType": "SendStreamCaption", "requestId": "1"}}, obs_websocket.NOT_IDENTIFIED),
        ({"op": 1, "d": {"rpcVersion": 1}}, obs_websocket.AUTHENTICATION_FAILED),
        ({"op": 1, "d": {"rpcVersion": 9}}, obs_websocket.UNSUPPORTED_VERSION),
        ({"op": 1}, obs_websocket.DECODE_ERROR),
    ],
)
def test_the_stand_in_is_as_strict_as_obs(studio: Studio, message: object, code: int) -> None:
    with connect(f"ws://127.0.0.1:{studio.port}") as client:
        hello = json.loads(client.recv())
        assert hello["op"] == 0 and set(hello["d"]["authentication"]) == {"challenge", "salt"}
        client.send(json.dumps(message))
        wait_until(lambda: studio.closed_with)
    assert studio.closed_with == [code]


def test_obs_without_a_password() -> None:
    studio = Studio()
    obs = Obs(f"127.0.0.1:{studio.port}")
    obs.write(final("one"))
    obs.close()
    studio.close()
    assert studio.captions == ["one"]


def test_listen_gives_its_captions_to_obs_and_to_a_command(studio: Studio, tmp_path: Path) -> None:
    """The whole program, the password from a file."""
    soundfile.write(tmp_path / "talk.wav", np.full(3 * 16_000, 0.1, np.float32), 16_000)
    (tmp_path / "password").write_text("sesame\n")
    heard = tmp_path / "heard.txt"
    command = [*FAKE, "listen", "--source", tmp_path / "talk.wav", "--obs", f"127.0.0.1:{studio.port}"]
    command += ["--obs-password-file", tmp_path / "password", "--on-final", python(APPEND, heard)]
    done = subprocess.run(list(map(str, command)), cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "one two three four\nfive six\n"
    assert heard.read_text() == done.stdout
    assert studio.captions == ["one two three four", "five six"]
    assert "OBS" not in done.stderr


def test_obs_gets_captions_in_pieces_of_two_rows(studio: Studio) -> None:
    obs = Obs(f"127.0.0.1:{studio.port}", "sesame")
    obs.write(final("a short one"))
    obs.write(final("words " * 15))
    obs.close()
    assert studio.captions[0] == "a short one"
    assert " ".join(" ".join(studio.captions[1:]).split()) == ("words " * 15).strip()
    assert all(len(row) <= 32 for caption in studio.captions for row in caption.split("\n"))
    assert all(caption.count("\n") < 2 for caption in studio.captions)
    assert list(obs.notes) == []


def test_obs_refuses_a_wrong_password(studio: Studio) -> None:
    obs = Obs(f"127.0.0.1:{studio.port}", "open")
    wait_until(lambda: obs.notes)
    obs.close()
    assert "wrong password" in obs.notes[0]


def test_obs_that_does_not_stream_is_told(studio: Studio) -> None:
    studio.streams = False
    obs = Obs(f"127.0.0.1:{studio.port}", "sesame")
    obs.write(final("one"))
    obs.close()
    assert "does not stream" in obs.notes[0]


def test_obs_goes_away_and_comes_back() -> None:
    first = Studio("sesame")
    obs = Obs(f"127.0.0.1:{first.port}", "sesame")
    obs.write(final("one"))
    wait_until(lambda: first.captions == ["one"])
    first.close()
    obs.write(final("two"))
    wait_until(lambda: any("does not take captions" in note for note in obs.notes))
    second = Studio("sesame", first.port)
    obs.write(final("three"))
    wait_until(lambda: second.captions == ["three"])
    obs.close()
    second.close()
    assert any("takes captions again" in note for note in obs.notes)
    assert obs.missed == 1


def test_a_password_file(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text("sesame\nmore\n")
    assert read_password(path) == "sesame"
    path.write_text("\n")
    with pytest.raises(ConfigError, match="no password"):
        read_password(path)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_password(tmp_path / "none")
