"""Finals on their way to a program or a service that may be slow, or gone: a bounded queue and a thread of its own.

Captions never wait for it. What cannot be delivered is counted and told.
"""

from __future__ import annotations

import collections
import queue
import threading
from abc import ABC, abstractmethod

from streamasr.errors import StreamasrError
from streamasr.events import Event, Final

MOST = 32  # finals that wait
CLOSE_S = 5.0  # at the end, for what waits


class Courier(ABC):
    """A `live.Listener`; `deliver` is what a kind of courier does with one final.

    Args:
        name: what notes call the receiver.
        most: finals that may wait; with more the oldest is given up.
    """

    def __init__(self, name: str, most: int = MOST) -> None:
        self.name = name
        self.notes: collections.deque[str] = collections.deque(maxlen=100)
        self.given = self.missed = 0  # finals
        self._told = ""
        self._waiting: queue.Queue[Final | None] = queue.Queue()
        self._most = most
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def write(self, event: Event) -> None:
        """Queue a final with words; everything else is left out. Returns at once."""
        if not isinstance(event, Final) or not event.text.strip():
            return
        if self._waiting.qsize() >= self._most:
            self._tell(f"{self.name} is too slow: {self._most} captions wait, and the oldest are left out")
            try:
                self._waiting.get_nowait()
                self.missed += 1
            except queue.Empty:
                pass
        self._waiting.put(event)

    def close(self) -> None:
        """Deliver what waits for up to `CLOSE_S`, then give up; `notes` say what was not delivered."""
        self._waiting.put(None)
        self._thread.join(CLOSE_S)
        self._over.set()
        if self._thread.is_alive():
            self.abandon()
            self._thread.join(1.0)
        self.missed += sum(left is not None for left in list(self._waiting.queue))
        self._waiting.queue.clear()
        if self.missed:
            self.notes.append(f"{self.name} did not get {self.missed} of {self.missed + self.given} captions")

    @abstractmethod
    def deliver(self, final: Final) -> None:
        """Hand one final over, in the courier's thread.

        Raises:
            StreamasrError: it could not be handed over; told once until the error is another one or it works again.
        """

    @abstractmethod
    def abandon(self) -> None:
        """End a `deliver` that hangs; called from another thread."""

    @abstractmethod
    def arrive(self) -> None:
        """Make ready, in the courier's thread, before the first final.

        Raises:
            StreamasrError: what the user has to know now; finals are tried all the same.
        """

    @abstractmethod
    def leave(self) -> None:
        """Say goodbye, in the courier's thread, when all is delivered."""

    def _run(self) -> None:
        try:
            self.arrive()
        except StreamasrError as error:
            self._tell(str(error))
        while (final := self._waiting.get()) is not None and not self._over.is_set():
            try:
                self.deliver(final)
            except StreamasrError as error:
                self.missed += 1
                self._tell(str(error))
            else:
                self.given += 1
                self._told = ""
        self.leave()

    def _tell(self, line: str) -> None:
        """Once, while it is the same."""
        if line != self._told:
            self._told = line
            self.notes.append(line)
