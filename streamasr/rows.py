"""States of many streams as rows of one batch: gathered for a step of the network, and scattered after it.

A stream keeps only its row's number and the batch. Where the same streams step together again, which is the rule, the
batch is used as it is and nothing is copied.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor

from streamasr.engine import Engine
from streamasr.features import FeatureState
from streamasr.layers import State
from streamasr.states import filled, leaves_of
from streamasr.voice import VoiceState
from streamasr.work import Heard, Listen, Request, Step, log_probs

Shapes: TypeAlias = tuple[tuple[int, ...], ...]


class Batch:
    """The network's state after a joint step: of every stream, a row."""

    def __init__(self, network: tuple[State, ...]) -> None:
        self.network, self.leaves = network, leaves_of(network)
        self.shapes: Shapes = tuple((1, *leaf.shape[1:]) for leaf in self.leaves)

    def __len__(self) -> int:
        return int(self.leaves[0].shape[0])


class Row:
    """The state of one stream; iterated over, it is a state as the layers know it."""

    __slots__ = ("batch", "index")

    def __init__(self, batch: Batch, index: int) -> None:
        self.batch, self.index = batch, index

    def __iter__(self) -> Iterator[State]:
        return iter(self._state([leaf[self.index : self.index + 1] for leaf in self.batch.leaves]))

    def alone(self) -> tuple[State, ...]:
        """The state in memory of its own."""
        return self._state([leaf[self.index : self.index + 1].clone() for leaf in self.batch.leaves])

    def _state(self, leaves: Sequence[Tensor]) -> tuple[State, ...]:
        return cast("tuple[State, ...]", filled(self.batch.network, iter(leaves)))


def answers(engine: Engine, requests: Sequence[Request]) -> list[Any]:
    """The answers to requests that have equal `shapes`, as `Engine.answer` would give each."""
    if len(requests) == 1:
        return [engine.answer(requests[0])]
    if isinstance(requests[0], Step):
        return _step(engine, [request for request in requests if isinstance(request, Step)])
    return _listen(engine, [request for request in requests if isinstance(request, Listen)])


def _listen(engine: Engine, requests: Sequence[Listen]) -> list[Any]:
    features = [request.features.samples for request in requests if request.features is not None]
    if not features:
        return [engine.answer(request) for request in requests]
    samples = torch.stack([request.samples for request in requests]).to(engine.device)
    energies, rest = engine.model.features.step(samples, FeatureState(torch.cat(features)))
    found: list[tuple[list[float], VoiceState | None]] = [([], None)] * len(requests)
    if engine.gate:
        step = engine.gate.detector.step
        found = [step(request.samples, request.voice) if request.voice else ([], None) for request in requests]
    rows = zip(torch.split(energies, 1), torch.split(rest.samples, 1), found, strict=True)
    return [Heard(energies, FeatureState(rest), *voice) for energies, rest, voice in rows]


def _step(engine: Engine, requests: Sequence[Step]) -> list[Any]:
    networks: list[Any] = [request.network for request in requests]
    order = sorted(range(len(requests)), key=lambda place: _home(networks[place]))
    energies = torch.cat([requests[place].energies for place in order])
    logits, after = engine.model.network.step(energies, _gathered([networks[place] for place in order]))
    batch, rows = Batch(after), log_probs(logits)
    found: list[Any] = [None] * len(requests)
    for index, place in enumerate(order):
        found[place] = (rows[index], Row(batch, index))
    return found


def _home(network: Any) -> tuple[int, int]:
    """Where a state is kept: streams are put in the order in which most of their states lie side by side."""
    return (id(network.batch), network.index) if isinstance(network, Row) else (0, 0)


def _gathered(networks: Sequence[Any]) -> tuple[State, ...]:
    """The states of all in one; those of one batch are taken out of it together, or as they lie."""
    first = networks[0]
    like = first.batch.network if isinstance(first, Row) else first
    parts: list[list[Tensor]] = []
    for _, group in itertools.groupby(networks, lambda network: _home(network)[0]):
        found = list(group)
        if not isinstance(found[0], Row):
            parts += [leaves_of(network) for network in found]
            continue
        batch, indices = found[0].batch, [row.index for row in found]
        if len(found) == len(networks) == len(batch):
            return batch.network
        start, stop = indices[0], indices[-1] + 1
        if stop - start == len(indices):
            parts.append([leaf[start:stop] for leaf in batch.leaves])
        else:
            chosen = torch.tensor(indices, device=batch.leaves[0].device)
            parts.append([leaf.index_select(0, chosen) for leaf in batch.leaves])
    leaves = parts[0] if len(parts) == 1 else [torch.cat(column) for column in zip(*parts, strict=True)]
    return cast("tuple[State, ...]", filled(like, iter(leaves)))


def shapes(request: Request) -> Shapes:
    """What requests must have in common to be answered together."""
    if isinstance(request, Listen):
        held = tuple(request.features.samples.shape) if request.features is not None else ()
        return (tuple(request.samples.shape), held, (request.voice is not None,))
    network: Any = request.network
    own = network.batch.shapes if isinstance(network, Row) else tuple(tuple(x.shape) for x in leaves_of(network))
    return (tuple(request.energies.shape), *own)
