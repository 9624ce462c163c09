"""Structured logs: one JSON object a line, or `event key=value`. Never tokens, queries or what was said."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any

LOGGER = logging.getLogger("streamasr.server")
SOCKETS = logging.getLogger("streamasr.server.sockets")


def note(event: str, level: int = logging.INFO, **fields: Any) -> None:
    """Log an event with its fields."""
    LOGGER.log(level, event, extra={"fields": fields})


def defect(event: str, **fields: Any) -> None:
    """Log an exception that must not be, with its traceback."""
    LOGGER.exception(event, extra={"fields": fields})


class _Lines(logging.Formatter):
    def __init__(self, as_json: bool) -> None:
        super().__init__()
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = getattr(record, "fields", {})
        if record.exc_info:
            fields = {**fields, "trace": self.formatException(record.exc_info)}
        message = record.getMessage()
        if self._as_json:
            stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03}Z"
            line = {"time": stamp, "level": record.levelname.lower(), "event": message, **fields}
            return json.dumps(line, ensure_ascii=False, default=str)
        stamp = time.strftime("%H:%M:%S", time.localtime(record.created))
        shown = " ".join(f"{key}={_plain(value)}" for key, value in fields.items())
        return f"{stamp} {message} {shown}".rstrip()


class Handshakes(logging.Filter):
    """A client that fails its handshake is an event of the day, not a defect: no traceback."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.exc_info and "handshake" in record.getMessage():
            record.fields = {"reason": type(record.exc_info[1]).__name__}
            record.exc_info = record.exc_text = None
            record.levelno, record.levelname = logging.INFO, "INFO"
        return True


if not SOCKETS.filters:
    SOCKETS.addFilter(Handshakes())
SOCKETS.setLevel(logging.WARNING)  # below, requests are logged with their queries: never


def configure(as_json: bool = True, level: int = logging.INFO) -> None:
    """Send the server's logs to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines(as_json))
    root = logging.getLogger("streamasr")
    root.handlers[:] = [handler]
    root.setLevel(level)
    root.propagate = False


def _plain(value: Any) -> str:
    text = str(value)
    return text if text.isprintable() and " " not in text else json.dumps(text)
