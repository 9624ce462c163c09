"""What a caption server is told when it starts."""

from __future__ import annotations

import ipaddress
import ssl
from dataclasses import dataclass, field
from pathlib import Path

from streamasr.errors import ConfigError

PORT = 2700
SHORTEST_TOKEN = 8


@dataclass(frozen=True)
class Limits:
    """What one server bears.

    Attributes:
        connections: websockets at once.
        streams: senders of audio at once, those included that may still come back.
        message_bytes: of one message.
        backlog_s: audio of one stream that waits to be heard; then nothing more is read from its client.
        idle_s: without audio or a control, a stream is finished.
        resume_s: a stream waits for its client to come back.
        waiting: messages that must arrive, waiting for one client; with more it is closed.
        send_s: a client takes nothing for so long: it is closed.
        bad_messages: of one client; with more it is closed.
    """

    connections: int = 200
    streams: int = 64
    message_bytes: int = 512 * 1024
    backlog_s: float = 10.0
    idle_s: float = 60.0
    resume_s: float = 60.0
    waiting: int = 512
    send_s: float = 20.0
    bad_messages: int = 20


@dataclass(frozen=True)
class Settings:
    """Where a server listens, whom it lets in, and its limits. `token` "" asks for none.

    Raises:
        ConfigError: an address that others reach without a token or an explicit `no_auth`, or TLS files that are half
            there.
    """

    host: str = "127.0.0.1"
    port: int = PORT
    token: str = field(default="", repr=False)
    no_auth: bool = False
    certificate: Path | None = None
    key: Path | None = None
    origins: tuple[str, ...] = ()
    limits: Limits = Limits()
    vosk_rate_hz: int = 8_000
    accepts_audio: bool = True

    def __post_init__(self) -> None:
        if not is_loopback(self.host) and not self.token and not self.no_auth:
            raise ConfigError(
                f"the server would listen on {self.host} for everybody",
                "a token, or the explicit wish to have none",
                "Add --token-file FILE, or --no-auth.",
            )
        if bool(self.certificate) != bool(self.key):
            raise ConfigError("only one of certificate and key was given", "both", "Add --certificate and --key.")
        if not 0 <= self.port <= 65_535:
            raise ConfigError(f"the port is {self.port}", "0 to 65535", "Correct --port.")

    def tls(self) -> ssl.SSLContext | None:
        """The context for TLS, if it was asked for.

        Raises:
            ConfigError: files that cannot be read or do not belong together.
        """
        if not self.certificate or not self.key:
            return None
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self.certificate, self.key)
        except (OSError, ssl.SSLError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise ConfigError(
                f"{self.certificate} and {self.key} cannot be used for TLS ({reason})",
                "a certificate chain and its key, both PEM",
                "Check the files.",
            ) from None
        return context


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the host."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def read_token(path: Path) -> str:
    """The token in the first line of a file.

    Raises:
        ConfigError: it cannot be read, or holds none worth the name.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not text"
        raise ConfigError(f"{path} cannot be read ({reason})", "a file with a token", "Check --token-file.") from None
    token = lines[0].strip() if lines else ""
    if len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError(
            f"the first line of {path} is no token",
            f"at least {SHORTEST_TOKEN} printable characters without spaces",
            "Make one: openssl rand -hex 24 > FILE",
        )
    return token


def split_address(text: str, default_port: int = PORT) -> tuple[str, int]:
    """HOST, PORT, HOST:PORT or [IPV6]:PORT.

    Raises:
        ConfigError: the port is no number.
    """
    host, colon, port = text.rpartition(":")
    if not colon:
        host, port = ("127.0.0.1", text) if text.isdecimal() else (text, str(default_port))
    elif text.endswith("]") or (text.count(":") > 1 and not text.startswith("[")):
        host, port = text, str(default_port)
    if not (port.isascii() and port.isdecimal() and int(port) <= 65_535):
        raise ConfigError(f"the address {text!r} has no port", "PORT or HOST:PORT", f"Try: 127.0.0.1:{default_port}")
    return host.strip("[]") or "127.0.0.1", int(port)
