"""Who is let in: the token, the origin of a browser's page, and the host name it used."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import socket
from typing import NamedTuple
from urllib.parse import urlsplit

from websockets.datastructures import Headers

from streamasr.server.settings import Settings, is_loopback


class Refusal(NamedTuple):
    """An HTTP status and a reason that may be told."""

    status: int
    reason: str


class Gate:
    """The rules of `settings`."""

    def __init__(self, settings: Settings) -> None:
        self._token = _digest(settings.token) if settings.token else b""
        self._origins = {origin.rstrip("/").lower() for origin in settings.origins}
        self._only_loopback = is_loopback(settings.host)
        self._names = {"localhost", settings.host.lower()}
        if not self._only_loopback:
            name = socket.gethostname().lower()
            self._names |= {name, f"{name}.local"}

    def refuse(self, headers: Headers, query_token: str | None) -> Refusal | None:
        """Why a websocket is not let in, or None."""
        return self._origin(headers) or self.unknown(headers, query_token)

    def unknown(self, headers: Headers, query_token: str | None) -> Refusal | None:
        """Why a request is not let in for want of the token, or None."""
        if not self._token:
            return None
        given = _given(headers) or query_token
        if given is None:
            return Refusal(401, "a token is needed: Authorization: Bearer TOKEN, or ?token=TOKEN")
        if not hmac.compare_digest(_digest(given), self._token):
            return Refusal(401, "this is not the token")
        return None

    def _origin(self, headers: Headers) -> Refusal | None:
        """A page from elsewhere must not reach a server through its visitor's browser."""
        origin = single(headers, "Origin")
        if origin is None:
            return None
        if origin.rstrip("/").lower() in self._origins:
            return None
        host = single(headers, "Host") or ""
        if urlsplit(origin).netloc.lower() == host.lower() and (self._token or self._is_ours(host)):
            return None
        return Refusal(403, "pages of this origin are not let in: see --origin")

    def _is_ours(self, host: str) -> bool:
        """Whether the host name is one that no stranger's name server can point here."""
        name = urlsplit(f"//{host}").hostname or ""
        if name in self._names or is_loopback(name):
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return not self._only_loopback


def single(headers: Headers, name: str) -> str | None:
    """The value of a header that is there exactly once."""
    values = headers.get_all(name)
    return values[0] if len(values) == 1 else None


def _given(headers: Headers) -> str | None:
    """The token in `Authorization: Bearer T`, `Authorization: Token T` or `Sec-WebSocket-Protocol: token, T`."""
    scheme, _, value = (single(headers, "Authorization") or "").partition(" ")
    if scheme.lower() in ("bearer", "token") and value.strip():
        return value.strip()
    offered = [part.strip() for part in (single(headers, "Sec-WebSocket-Protocol") or "").split(",")]
    if len(offered) == 2 and offered[0].lower() in ("token", "bearer"):
        return offered[1]
    return None


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
