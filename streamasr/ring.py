"""A bounded ring of samples between one writer (the sound card's callback) and one reader.

Two counters only ever grow: the frames that the writer has begun to overwrite and the frames that are complete. Storing
one integer attribute is atomic in CPython, so neither side takes a lock. The reader copies first and looks at the
writer's first counter afterwards: what may have been overwritten during the copy is thrown away and counted as dropped.
So every frame is read once, in order, or counted as dropped (Lamport, "Concurrent reading and writing", 1977).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Taken(NamedTuple):
    """What one `Ring.read` returns: `dropped` frames are missing just before `samples`, which begin at `position`."""

    samples: NDArray[np.float32]  # (n, channels), the reader's own copy
    dropped: int
    position: int


class Ring:
    """A preallocated ring of `capacity` frames of `channels` float32 samples; when it is full the oldest frames go.

    Exactly one thread may write and exactly one may read.
    """

    def __init__(self, capacity: int, channels: int) -> None:
        if capacity < 1 or channels < 1:
            raise ValueError(f"a ring of {capacity} frames and {channels} channels; expected at least one of each")
        self.capacity, self.channels = capacity, channels
        self._frames = np.zeros((capacity, channels), np.float32)
        self._claimed = 0  # frames that the writer has begun to write
        self._written = 0  # frames that can be read
        self._position = 0  # frames that the reader has read or given up
        self._dropped = 0

    @property
    def written(self) -> int:
        """Frames written since the beginning."""
        return self._written

    @property
    def waiting(self) -> int:
        """Frames that can be read now."""
        return min(self._written - self._position, self.capacity)

    @property
    def dropped(self) -> int:
        """Frames that the reader has missed so far."""
        return self._dropped

    def write(self, block: NDArray[np.float32]) -> None:
        """Append `block` (n, channels). Writer only; no sample memory is allocated and no lock is taken."""
        end = self._written + len(block)
        kept = block[-self.capacity :] if len(block) > self.capacity else block
        at = (end - len(kept)) % self.capacity
        head = min(len(kept), self.capacity - at)
        self._claimed = end
        self._frames[at : at + head] = kept[:head]
        self._frames[: len(kept) - head] = kept[head:]
        self._written = end

    def write_silence(self, count: int) -> None:
        """Append `count` frames of zeros: audio that is known to be lost keeps its place. Writer only."""
        end = self._written + count
        kept = min(count, self.capacity)
        at = (end - kept) % self.capacity
        head = min(kept, self.capacity - at)
        self._claimed = end
        self._frames[at : at + head] = 0
        self._frames[: kept - head] = 0
        self._written = end

    def read(self, limit: int) -> Taken:
        """Take up to `limit` of the oldest frames. Reader only; returns at once, with no samples if there are none."""
        written = self._written
        position = max(self._position, written - self.capacity)
        count = min(limit, written - position)
        at = position % self.capacity
        head = min(count, self.capacity - at)
        samples = np.empty((count, self.channels), np.float32)
        samples[:head] = self._frames[at : at + head]
        samples[head:] = self._frames[: count - head]
        torn = min(max(self._claimed - self.capacity - position, 0), count)
        position += torn
        dropped = position - self._position
        self._dropped += dropped
        self._position = position + count - torn
        return Taken(samples[torn:], dropped, position)
