"""A network whose step is recorded once for each shape and replayed: on a GPU as a CUDA graph, in half precision.

In the steady state of a stream, and of many that step together, shapes come again and again. Launching the hundreds of
small kernels of a step one by one costs more than their work; a graph launches them at once. It reads and writes fixed
memory, so what goes in is copied into slots, all at once, and what comes out is copied away, all at once: states stay
values that nobody overwrites.
"""

from __future__ import annotations

import collections
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from streamasr.layers import State
from streamasr.stack import Stack
from streamasr.states import filled, leaves_of

Shapes: TypeAlias = tuple[tuple[int, ...], ...]
SEEN = 3  # times before a shape is recorded: those of beginnings and ends come once
MOST = 16  # recordings that are kept, the latest ones


class Recorder(Protocol):
    """Runs `work` once, always on the same memory, and gives back what repeats it."""

    def __call__(self, work: Callable[[], None]) -> Callable[[], None]: ...


def cuda_graph(work: Callable[[], None]) -> Callable[[], None]:
    """A `Recorder` for CUDA: warmed up on a stream of its own, as torch asks for, then captured."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


@dataclass
class Recording:
    """A step of one shape: slots that it reads, `written` that it writes, one after the other in one piece."""

    slots: list[Tensor]
    written: Tensor
    shapes: Shapes
    after: State  # the form of the state after the step
    replay: Callable[[], None]

    def __call__(self, given: list[Tensor]) -> list[Tensor]:
        torch._foreach_copy_(self.slots, given)
        self.replay()
        parts = torch.split(self.written.clone(), [torch.Size(shape).numel() for shape in self.shapes])
        return [part.view(shape) for part, shape in zip(parts, self.shapes, strict=True)]


class Captured(Stack):
    """The layers of a stack, their steps recorded; it takes and gives float32 and works in `dtype`, as its states are.

    One thread at a time may step it, as slots are shared; a batcher has one.
    """

    def __init__(self, inner: Stack, recorder: Recorder, dtype: torch.dtype = torch.float16) -> None:
        super().__init__(list(inner))
        self.to(dtype)
        self.dtype = dtype
        self._recorder = recorder
        self._seen: collections.Counter[Shapes] = collections.Counter()
        self._recordings: collections.OrderedDict[Shapes, Recording] = collections.OrderedDict()

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        return super().forward(x.to(self.dtype), lengths).float()

    def flush(self, state: tuple[State, ...]) -> Tensor | None:
        tail = super().flush(state)
        return None if tail is None else tail.float()

    def end(self, x: Tensor, state: tuple[State, ...]) -> Tensor:
        return super().end(x.to(self.dtype), state).float()

    def step(self, x: Tensor, state: tuple[State, ...]) -> tuple[Tensor, tuple[State, ...]]:
        given = [x.to(self.dtype), *leaves_of(tuple(state))]
        shapes = tuple(tuple(leaf.shape) for leaf in given)
        recording = self._recordings.get(shapes)
        if recording is None:
            self._seen[shapes] += 1
            if self._seen[shapes] < SEEN:
                y, after = super().step(given[0], state)
                return y.float(), after
            recording = self._record(given, state)
            self._recordings[shapes] = recording
            while len(self._recordings) > MOST:
                self._seen.pop(self._recordings.popitem(last=False)[0])
        self._recordings.move_to_end(shapes)
        y, *leaves = recording(given)
        return y.float(), filled(recording.after, iter(leaves))

    def _record(self, given: list[Tensor], state: tuple[State, ...]) -> Recording:
        slots = [leaf.clone() for leaf in given]
        held = filled(tuple(state), iter(slots[1:]))
        y, after = super().step(slots[0], held)
        results = [y, *leaves_of(after)]
        shapes = tuple(tuple(result.shape) for result in results)
        written = y.new_empty(sum(result.numel() for result in results))
        places = torch.split(written, [result.numel() for result in results])

        step = super().step

        def work() -> None:
            y, after = step(slots[0], held)
            torch._foreach_copy_(list(places), [result.reshape(-1) for result in (y, *leaves_of(after))])

        return Recording(slots, written, shapes, after, self._recorder(work))
