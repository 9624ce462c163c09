"""A caption server in a thread of its own, for a program whose main thread listens to a microphone or to signals."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from types import TracebackType

from streamasr.captions import Display, Status
from streamasr.events import End, Event
from streamasr.server.service import CaptionServer


class Running:
    """A server from its start to `close`; a context manager.

    Args:
        make: makes the server; called in the thread.

    Raises:
        StreamasrError: what kept it from starting.
    """

    def __init__(self, make: Callable[[], CaptionServer]) -> None:
        self._make = make
        self._started = threading.Event()
        self._error: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self.server: CaptionServer
        self._thread = threading.Thread(target=self._run, name="server", daemon=True)
        self._thread.start()
        self._started.wait()
        if self._error:
            self._thread.join()
            raise self._error

    @property
    def address(self) -> str:
        """Where a browser finds the page."""
        settings = self.server.settings
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        return f"{'https' if settings.certificate else 'http'}://{host}:{self.server.port}/"

    def published(self, display: Display) -> Published:
        """The display, whose events all subscribers get too."""
        return Published(display, self)

    def publish(self, event: Event) -> None:
        """An event of the microphone, from any thread."""
        if self._loop:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self.server.publish, event)

    def close(self) -> None:
        """Flush every stream, tell every client, stop."""
        if self._loop and self._stop:
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def __enter__(self) -> Running:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            self._error = error
        finally:
            self._started.set()

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self.server = self._make()
        await self.server.start()
        self._started.set()
        await self._stop.wait()
        await self.server.stop()


class Published:
    """A display that also gives every event to a server's subscribers."""

    def __init__(self, display: Display, running: Running) -> None:
        self._display, self._running = display, running
        self.closed = display.closed
        self.wants_partials = True
        self._last: Event | None = None

    def event(self, event: Event) -> None:
        """To both."""
        self._display.event(event)
        self.closed = self._display.closed
        if not isinstance(event, End) and event != self._last:
            self._last = event
            self._running.publish(event)

    def note(self, line: str) -> None:
        """To the display only."""
        self._display.note(line)

    def draw(self, status: Status) -> None:
        """The display only."""
        self._display.draw(status)
        self.closed = self._display.closed

    def close(self) -> None:
        """The captions are over."""
        self._display.close()


class Quiet:
    """A display for a server without a terminal: it shows notes, and captions nowhere."""

    closed = False
    wants_partials = True

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say

    def event(self, event: Event) -> None:
        """Nothing."""

    def note(self, line: str) -> None:
        """Say it."""
        self._say(line)

    def draw(self, status: Status) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""
