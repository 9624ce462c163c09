"""What plain HTTP gets: the page and its parts, health, metrics, and refusals."""

from __future__ import annotations

import json
from http import HTTPStatus
from importlib import resources
from typing import Any

from websockets.datastructures import Headers
from websockets.http11 import Response

KINDS = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
SAFE = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
}


def load() -> dict[str, tuple[bytes, str]]:
    """The static files by path, with their kinds; nothing else is ever read from disk."""
    found = {}
    for entry in (resources.files("streamasr.server") / "page").iterdir():
        ending = entry.name.rpartition(".")[2]
        if ending in KINDS:
            path = "/" if entry.name == "index.html" else f"/{entry.name}"
            found[path] = entry.read_bytes(), KINDS[ending]
    return found


def answer(status: HTTPStatus, body: bytes, kind: str, **headers: str) -> Response:
    """A response that no cache keeps and no page may embed."""
    fields = {
        "Content-Type": kind,
        "Content-Length": str(len(body)),
        "Cache-Control": "no-cache",
        "Connection": "close",
        **SAFE,
        **{name.replace("_", "-"): value for name, value in headers.items()},
    }
    return Response(status.value, status.phrase, Headers(fields), body)


def answer_json(status: HTTPStatus, fields: dict[str, Any], **headers: str) -> Response:
    """A response with a JSON object."""
    return answer(status, json.dumps(fields).encode() + b"\n", "application/json", **headers)


def refusal(status: int, reason: str, retry_s: int | None = None) -> Response:
    """Why a request is not served, as JSON; `retry_s`: when to try again."""
    headers = {} if retry_s is None else {"Retry_After": str(retry_s)}
    if status == HTTPStatus.UNAUTHORIZED:
        headers["WWW_Authenticate"] = "Bearer"
    if status == HTTPStatus.UPGRADE_REQUIRED:
        headers["Upgrade"] = "websocket"
    fields: dict[str, Any] = {"error": reason}
    if retry_s is not None:
        fields["retry_s"] = retry_s
    return answer_json(HTTPStatus(status), fields, **headers)
