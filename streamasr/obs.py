"""`--obs HOST:PORT`: captions into the stream of OBS Studio, over obs-websocket 5.

Protocol: https://github.com/obsproject/obs-websocket/blob/master/docs/generated/protocol.md (Hello, Identify,
Identified, Request, RequestResponse; `SendStreamCaption`). OBS shows them as CEA-608 captions, whose rows have 32
characters; so a final is sent in pieces of two rows.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import itertools
import json
import textwrap
from pathlib import Path
from typing import Any

from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.sync.client import ClientConnection, connect

from streamasr.courier import Courier
from streamasr.errors import ConfigError, ServerError
from streamasr.events import Final

HELLO, IDENTIFY, IDENTIFIED, REQUEST, RESPONSE = 0, 1, 2, 6, 7
RPC_VERSION, PORT = 1, 4455
WAIT_S = 3.0  # for an answer
ROW, ROWS = 32, 2
NOT_RUNNING, WRONG_PASSWORD = 501, 4009  # a request's status; a reason to close
FAILURES = (WebSocketException, OSError, EOFError, ValueError, LookupError)  # of a connection or an answer
MOST = 8  # finals that wait: older ones come too late


class Obs(Courier):
    """Sends each final as a stream caption; where OBS is away, every final tries to find it again.

    Args:
        address: HOST or HOST:PORT.
        password: of obs-websocket, or "".
    """

    def __init__(self, address: str, password: str = "") -> None:
        address = address if address.rpartition("]")[2].count(":") else f"{address}:{PORT}"
        self._url, self._password = f"ws://{address}", password
        self._connection: ClientConnection | None = None
        self._opened = contextlib.ExitStack()
        self._numbers = itertools.count(1)
        self._away = False
        super().__init__(f"OBS at {address}", MOST)

    def arrive(self) -> None:
        """Find OBS at once, so that a wrong password is not found out with the first caption."""
        try:
            self._identified()
        except FAILURES as error:
            raise self._gone(error) from None

    def deliver(self, final: Final) -> None:
        """See `Courier.deliver`."""
        rows = textwrap.wrap(final.line, ROW)
        for at in range(0, len(rows), ROWS):
            self._caption("\n".join(rows[at : at + ROWS]))

    def abandon(self) -> None:
        """Nothing waits longer than `WAIT_S`."""

    def leave(self) -> None:
        """Close the connection."""
        self._connection = None
        self._opened.close()

    def _caption(self, text: str) -> None:
        """Send a caption, over a new connection where the old one has gone."""
        for last in (False, True):
            fresh = self._connection is None
            try:
                connection = self._connection or self._identified()
                status = _asked(connection, "SendStreamCaption", {"captionText": text}, str(next(self._numbers)))
                break
            except FAILURES as error:
                with contextlib.suppress(WebSocketException, OSError):
                    self.leave()
                if last or fresh:
                    raise self._gone(error) from None
        if self._away:
            self._away = False
            self.notes.append(f"{self.name} takes captions again")
        if not status.get("result"):
            if status.get("code") == NOT_RUNNING:
                raise ServerError(f"{self.name} does not stream, so it shows no captions")
            raise ServerError(f"{self.name} refuses captions ({status.get('comment') or status.get('code')})")

    def _gone(self, error: Exception) -> ServerError:
        self._away = True
        return ServerError(
            f"{self.name} does not take captions ({_reason(error)})",
            "obs-websocket 5, switched on, and its password",
            "Captions go on without it; each one tries again.",
        )

    def _identified(self) -> ClientConnection:
        """A connection after the handshake."""
        with contextlib.ExitStack() as opened:
            connection = opened.enter_context(
                connect(self._url, open_timeout=WAIT_S, close_timeout=1, proxy=None, max_size=2**20)
            )
            hello = _received(connection, HELLO)
            identify: dict[str, Any] = {"rpcVersion": RPC_VERSION, "eventSubscriptions": 0}
            if "authentication" in hello:
                asked = hello["authentication"]
                identify["authentication"] = answer(self._password, asked["salt"], asked["challenge"])
            connection.send(json.dumps({"op": IDENTIFY, "d": identify}))
            _received(connection, IDENTIFIED)
            self._opened = opened.pop_all()
        self._connection = connection
        return connection


def read_password(path: Path) -> str:
    """The first line of a file.

    Raises:
        ConfigError: it cannot be read or has none.
    """
    try:
        password = path.expanduser().read_text(encoding="utf-8").splitlines()[:1]
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise ConfigError(f"{path} cannot be read ({reason.lower()})", "a file with the password") from None
    if not password or not password[0].strip():
        raise ConfigError(f"{path} has no password in its first line", "the one that OBS shows")
    return password[0].strip()


def answer(password: str, salt: str, challenge: str) -> str:
    """What proves that we know the password: base64(sha256(base64(sha256(password + salt)) + challenge))."""

    def digest(text: str) -> str:
        return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()

    return digest(digest(password + salt) + challenge)


def _received(connection: ClientConnection, operation: int) -> dict[str, Any]:
    """The data of the next message of that kind; others are passed over."""
    while True:
        message = json.loads(connection.recv(WAIT_S))
        if message["op"] == operation:
            data: dict[str, Any] = message["d"]
            return data


def _asked(connection: ClientConnection, kind: str, data: dict[str, Any], number: str) -> dict[str, Any]:
    """Make a request; the status of its response: result, code, comment."""
    request = {"requestType": kind, "requestId": number, "requestData": data}
    connection.send(json.dumps({"op": REQUEST, "d": request}))
    while True:
        response = _received(connection, RESPONSE)
        if response["requestId"] == number:
            status: dict[str, Any] = response["requestStatus"]
            return status


def _reason(error: Exception) -> str:
    if isinstance(error, ConnectionClosed) and error.rcvd:
        wrong = "wrong password" if error.rcvd.code == WRONG_PASSWORD else ""
        return wrong or error.rcvd.reason or f"closed with {error.rcvd.code}"
    if isinstance(error, OSError):
        return (error.strerror or str(error) or type(error).__name__).lower()
    return str(error) or type(error).__name__
