"""Every frame is read once, in order, or counted as dropped."""

from __future__ import annotations

import sys
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamasr.ring import Ring


def numbered(begin: int, count: int, channels: int) -> np.ndarray:
    """Frames whose samples are their own positions, so that every one can be recognised."""
    return np.repeat(np.arange(begin, begin + count, dtype=np.float32)[:, None], channels, axis=1)


class Ledger:
    """Reads a ring of numbered frames and holds it to its promise."""

    def __init__(self, ring: Ring) -> None:
        self.ring, self.next, self.read, self.dropped = ring, 0, 0, 0

    def take(self, limit: int) -> int:
        samples, dropped, position = self.ring.read(limit)
        assert position == self.next + dropped
        assert len(samples) <= limit
        assert np.array_equal(samples, numbered(position, len(samples), self.ring.channels))
        self.next = position + len(samples)
        self.read += len(samples)
        self.dropped += dropped
        assert self.ring.dropped == self.dropped
        return len(samples)

    def settle(self) -> None:
        """Read the rest: what was written is what was read and what was dropped."""
        while self.take(64):
            pass
        assert self.read + self.dropped == self.ring.written
        assert self.ring.waiting == 0


steps = st.lists(st.tuples(st.sampled_from(["write", "read"]), st.integers(0, 40)), max_size=60)


@given(capacity=st.integers(1, 24), channels=st.integers(1, 3), steps=steps)
def test_any_order_of_writing_and_reading(capacity: int, channels: int, steps: list[tuple[str, int]]) -> None:
    ring = Ring(capacity, channels)
    ledger = Ledger(ring)
    for step, count in steps:
        if step == "write":
            ring.write(numbered(ring.written, count, channels))
        else:
            waiting = ring.waiting
            assert ledger.take(count) == min(count, waiting)
    ledger.settle()


class Interrupted(np.ndarray):
    """Storage during whose reading the writer writes: the race of the two threads, at its worst moment."""

    meddle: Any = None

    def __getitem__(self, key: Any) -> Any:
        view = np.asarray(self)[key]
        meddle, Interrupted.meddle = Interrupted.meddle, None
        if meddle:
            before = view.copy()
            meddle()
            half = len(before) // 2
            return np.concatenate([before[:half], view[half:]])
        return view


@given(
    capacity=st.integers(2, 16), rounds=st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(1, 20)))
)
def test_writing_while_the_reader_copies(capacity: int, rounds: list[tuple[int, int, int]]) -> None:
    ring = Ring(capacity, 1)
    ring._frames = ring._frames.view(Interrupted)
    ledger = Ledger(ring)
    for before, during, limit in rounds:
        ring.write(numbered(ring.written, before, 1))

        def meddle(count: int = during) -> None:
            ring.write(numbered(ring.written, count, 1))

        Interrupted.meddle = meddle
        ledger.take(limit)
        Interrupted.meddle = None
    ledger.settle()


def test_two_threads() -> None:
    ring = Ring(1000, 2)
    ledger = Ledger(ring)
    total, random = 2_000_000, np.random.default_rng(1)
    done = threading.Event()

    def write() -> None:
        while ring.written < total:
            ring.write(numbered(ring.written, int(random.integers(1, 700)), 2))
        done.set()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        writer = threading.Thread(target=write)
        writer.start()
        limits = np.random.default_rng(2)
        while not done.is_set():
            ledger.take(int(limits.integers(1, 1500)))
        writer.join()
    finally:
        sys.setswitchinterval(interval)
    ledger.settle()
    assert ledger.read and ledger.dropped


def test_a_block_longer_than_the_ring_leaves_its_end() -> None:
    ring = Ring(10, 1)
    ring.write(numbered(0, 35, 1))
    samples, dropped, position = ring.read(100)
    assert samples[:, 0].tolist() == list(range(25, 35))
    assert (dropped, position) == (25, 25)


@given(st.lists(st.integers(0, 30), max_size=10))
def test_silence_keeps_the_place_of_what_was_lost(counts: list[int]) -> None:
    ring = Ring(16, 1)
    for count in counts:
        ring.write(np.ones((3, 1), np.float32))
        ring.write_silence(count)
    expected = np.concatenate([np.r_[np.ones(3), np.zeros(count)] for count in counts] or [np.zeros(0)])
    samples, dropped, position = ring.read(100)
    assert ring.written == len(expected) == position + len(samples)
    assert dropped == position == max(0, len(expected) - 16)
    assert np.array_equal(samples[:, 0], expected[position:])


def test_writing_allocates_no_samples() -> None:
    import tracemalloc

    ring, block = Ring(48_000, 2), np.ones((512, 2), np.float32)
    ring.write(block)
    tracemalloc.start()
    try:
        for _ in range(1000):
            ring.write(block)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < block.nbytes


@pytest.mark.parametrize(("capacity", "channels"), [(0, 1), (1, 0)])
def test_a_ring_of_nothing(capacity: int, channels: int) -> None:
    with pytest.raises(ValueError, match="at least one"):
        Ring(capacity, channels)
