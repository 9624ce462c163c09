"""Finals for other programs: a command for each (`--on-final`), and OBS Studio (`--obs`)."""

from __future__ import annotations

import json
import shlex
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.server import Server, ServerConnection, serve

from streamasr.errors import ConfigError
from streamasr.events import Final, Partial
from streamasr.obs import Obs, answer, read_password
from streamasr.programs import Program

SALT, CHALLENGE = "salt of the day", "a challenge"


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


class Studio:
    """As much of obs-websocket 5 as captions need, with a password."""

    def __init__(self, password: str, port: int = 0) -> None:
        self.captions: list[str] = []
        self.streams = True
        self.password = password
        self._clients: list[ServerConnection] = []
        self._server: Server = serve(self._talk, "127.0.0.1", port)
        self.port = int(self._server.socket.getsockname()[1])
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        for client in self._clients:
            client.close()
        self._thread.join()

    def _talk(self, client: ServerConnection) -> None:
        self._clients.append(client)

        def send(operation: int, **data: Any) -> None:
            client.send(json.dumps({"op": operation, "d": data}))

        try:
            send(0, obsWebSocketVersion="5.0.0", rpcVersion=1, authentication={"challenge": CHALLENGE, "salt": SALT})
            identify = json.loads(client.recv())
            assert identify["op"] == 1
            if identify["d"].get("authentication") != answer(self.password, SALT, CHALLENGE):
                client.close(4009, "Authentication failed.")
                return
            send(2, negotiatedRpcVersion=1)
            for message in client:
                request = json.loads(message)["d"]
                assert request["requestType"] == "SendStreamCaption"
                if self.streams:
                    self.captions.append(request["requestData"]["captionText"])
                status = {"result": True, "code": 100} if self.streams else {"result": False, "code": 501}
                send(5, eventType="Something")  # which is passed over
                send(7, requestType="SendStreamCaption", requestId=request["requestId"], requestStatus=status)
        except ConnectionClosed:
            pass


@pytest.fixture
def studio() -> Iterator[Studio]:
    made = Studio("sesame")
    yield made
    made.close()


def test_the_answer_is_that_of_the_protocol() -> None:
    import base64
    import hashlib

    secret = base64.b64encode(hashlib.sha256(b"sesame" + SALT.encode()).digest())
    assert (
        answer("sesame", SALT, CHALLENGE)
        == base64.b64encode(hashlib.sha256(secret + CHALLENGE.encode()).digest()).decode()
    )


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
