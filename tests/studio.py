"""A server that speaks obs-websocket 5 as its protocol document says, as far as captions need it.

Protocol: https://github.com/obsproject/obs-websocket/blob/master/docs/generated/protocol.md. It is strict where OBS is:
a client that says anything before Identify, proves nothing or asks for another version is closed with that code.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import threading
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.sync.server import Server, ServerConnection, serve
from websockets.typing import Subprotocol

HELLO, IDENTIFY, IDENTIFIED, EVENT, REQUEST, RESPONSE = 0, 1, 2, 5, 6, 7
DECODE_ERROR, MISSING_FIELD, UNKNOWN_OPERATION, NOT_IDENTIFIED = 4002, 4003, 4006, 4007
ALREADY_IDENTIFIED, AUTHENTICATION_FAILED, UNSUPPORTED_VERSION = 4008, 4009, 4010
SUCCESS, MISSING_TYPE, UNKNOWN_TYPE, MISSING_REQUEST_FIELD, OUTPUT_NOT_RUNNING = 100, 203, 204, 300, 501


def proof(password: str, salt: str, challenge: str) -> str:
    """The authentication string, by the document's steps."""
    secret = base64.b64encode(hashlib.sha256(f"{password}{salt}".encode()).digest()).decode()
    return base64.b64encode(hashlib.sha256(f"{secret}{challenge}".encode()).digest()).decode()


class Refused(Exception):
    """The connection is to be closed with this code and reason."""


class Studio:
    """OBS Studio with obs-websocket switched on, on a port of loopback.

    Args:
        password: "" where OBS asks for none.
        port: a free one where it is 0.
    """

    def __init__(self, password: str = "", port: int = 0) -> None:
        self.captions: list[str] = []
        self.streams = True  # there is an output that captions can go into
        self.closed_with: list[int] = []  # codes of connections that were refused
        self.password = password
        self._clients: list[ServerConnection] = []
        protocols = [Subprotocol("obswebsocket.json")]
        self._server: Server = serve(self._talk, "127.0.0.1", port, subprotocols=protocols, select_subprotocol=_first)
        self.port = int(self._server.socket.getsockname()[1])
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        """OBS is quit."""
        self._server.shutdown()
        for client in self._clients:
            client.close()
        self._thread.join()

    def _talk(self, client: ServerConnection) -> None:
        self._clients.append(client)
        try:
            self._identify(client)
            _send(client, EVENT, eventType="StreamStateChanged", eventIntent=64, eventData={"outputActive": True})
            for message in client:
                self._answer(client, *_parsed(message))
        except Refused as refusal:
            code, reason = refusal.args
            self.closed_with.append(code)
            client.close(code, reason)
        except ConnectionClosed:
            pass

    def _identify(self, client: ServerConnection) -> None:
        hello: dict[str, Any] = {"obsWebSocketVersion": "5.5.2", "rpcVersion": 1}
        salt, challenge = (base64.b64encode(secrets.token_bytes(32)).decode() for _ in range(2))
        if self.password:
            hello["authentication"] = {"challenge": challenge, "salt": salt}
        _send(client, HELLO, **hello)
        operation, data = _parsed(client.recv())
        if operation != IDENTIFY:
            raise Refused(NOT_IDENTIFIED, "You attempted to send a message before identifying.")
        if "rpcVersion" not in data:
            raise Refused(MISSING_FIELD, "Your payload's data is missing an `rpcVersion`.")
        if data["rpcVersion"] != 1:
            raise Refused(UNSUPPORTED_VERSION, "Your requested RPC version is not supported by this server.")
        if self.password and data.get("authentication") != proof(self.password, salt, challenge):
            raise Refused(AUTHENTICATION_FAILED, "Authentication failed.")
        _send(client, IDENTIFIED, negotiatedRpcVersion=1)

    def _answer(self, client: ServerConnection, operation: int, request: dict[str, Any]) -> None:
        if operation == IDENTIFY:
            raise Refused(ALREADY_IDENTIFIED, "You are already identified.")
        if operation != REQUEST:
            raise Refused(UNKNOWN_OPERATION, f"Unknown OpCode: {operation}")
        if "requestId" not in request:
            raise Refused(MISSING_FIELD, "Your payload data is missing a `requestId`.")
        kind, data = request.get("requestType"), request.get("requestData", {})
        status: dict[str, Any] = {"result": False, "code": UNKNOWN_TYPE, "comment": "Your request type is not valid."}
        if kind is None:
            status = {"result": False, "code": MISSING_TYPE}
        elif kind == "SendStreamCaption":
            if not isinstance(data.get("captionText"), str):
                status = {"result": False, "code": MISSING_REQUEST_FIELD}
            elif not self.streams:
                status = {"result": False, "code": OUTPUT_NOT_RUNNING}
            else:
                self.captions.append(data["captionText"])
                status = {"result": True, "code": SUCCESS}
        _send(client, RESPONSE, requestType=kind, requestId=request["requestId"], requestStatus=status)


def _first(client: ServerConnection, offered: Any) -> Any:
    """JSON is spoken also with a client that asks for nothing."""
    return "obswebsocket.json" if "obswebsocket.json" in offered else None


def _send(client: ServerConnection, operation: int, **data: Any) -> None:
    client.send(json.dumps({"op": operation, "d": data}))


def _parsed(message: str | bytes) -> tuple[int, dict[str, Any]]:
    if isinstance(message, bytes):
        raise Refused(DECODE_ERROR, "Your message type is not valid for the selected encoding.")
    try:
        whole = json.loads(message)
        return whole["op"], whole["d"]
    except (ValueError, LookupError, TypeError):
        raise Refused(DECODE_ERROR, "The message could not be parsed.") from None
