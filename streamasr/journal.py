"""What a client of the native protocol has not got yet, or may have missed.

A `Journal` numbers the messages of one stream and keeps those that a client may have missed; an `Outbox` holds what one
connection has not been sent yet. Both are bounded: of partials only the newest counts, and events that must arrive are
never left out in silence.
"""

from __future__ import annotations

import collections
from typing import Any, NamedTuple

from streamasr.events import End, Event, Final, Partial
from streamasr.protocol import Fields, dumps, event_fields


class Message(NamedTuple):
    """A message to send. One with a `kind` gives way to the next of its kind; one without must arrive.

    One that `clears` makes those with a kind that wait before it void: no partial is of use after its final.
    """

    seq: int
    text: str
    kind: str = ""
    clears: bool = False


class Journal:
    """The messages of one stream, numbered from 1 on, and those of late for a client that comes back.

    Args:
        kept: messages that must arrive are kept up to this number.
    """

    def __init__(self, kept: int = 1000) -> None:
        self.seq = 0
        self._kept: collections.deque[Message] = collections.deque(maxlen=kept)
        self._newest: dict[str, Message] = {}
        self._forgotten = 0  # the seq of the last message that must arrive and is kept no more

    def add(self, fields: Fields, kind: str = "", clears: bool = False) -> Message:
        """Number a message; see `Message` for `kind` and `clears`."""
        self.seq += 1
        message = Message(self.seq, dumps({**fields, "seq": self.seq}), kind, clears)
        if kind:
            self._newest[kind] = message
        else:
            if clears:
                self._newest.clear()
            if len(self._kept) == self._kept.maxlen:
                self._forgotten = self._kept[0].seq
            self._kept.append(message)
        return message

    def add_event(self, event: Event, **more: Any) -> Message:
        """`add` an event; partials are of one kind."""
        kind = "partial" if isinstance(event, Partial) else ""
        return self.add({**event_fields(event), **more}, kind, isinstance(event, Final | End))

    def after(self, seq: int) -> list[Message]:
        """What was sent after `seq` and still counts, in order."""
        newest = [message for message in self._newest.values() if message.seq > seq]
        return sorted([message for message in self._kept if message.seq > seq] + newest)

    def lost(self, seq: int) -> bool:
        """Whether something after `seq` that had to arrive is kept no more."""
        return seq < self._forgotten

    def last(self, count: int) -> int:
        """The seq after which the last `count` messages that must arrive follow."""
        if count == 0:
            return self.seq
        return self._kept[-count].seq - 1 if count <= len(self._kept) else self._forgotten


class Outbox:
    """What a connection has still to be sent, in order.

    Args:
        most: messages that must arrive; with more waiting, `full` is true for good.
    """

    def __init__(self, most: int = 512) -> None:
        self.full = False
        self.replaced = 0  # messages that were never sent because newer ones came
        self._most = most
        self._waiting: collections.deque[Message] = collections.deque()
        self._newest: dict[str, Message] = {}

    def __len__(self) -> int:
        return len(self._waiting) + len(self._newest)

    def put(self, message: Message) -> None:
        """Take a message in; see `Message`."""
        if message.kind:
            self.replaced += message.kind in self._newest
            self._newest[message.kind] = message
            return
        if message.clears:
            self.replaced += len(self._newest)
            self._newest.clear()
        if len(self._waiting) >= self._most:
            self.full = True
        else:
            self._waiting.append(message)

    def take(self) -> Message | None:
        """The next message to send."""
        first = min(self._newest.values(), default=None)
        if self._waiting and (first is None or self._waiting[0].seq < first.seq):
            return self._waiting.popleft()
        return self._newest.pop(first.kind) if first else None
