"""States of many streams as rows of one batch: gathered for a step of the network, and scattered after it.

A stream keeps only its row's number and the batch. Where the same streams step together again, which is the rule, the
batch is used as it is and nothing is copied.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor

from streamasr.engine import Step
from streamasr.layers import Layer, State

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


def step_together(network: Layer, requests: Sequence[Step]) -> list[tuple[Tensor, tuple[State, ...]]]:
    """The answers to requests of equal shapes, from one step of the network."""
    if len(requests) == 1:
        return [cast("tuple[Tensor, tuple[State, ...]]", network.step(*requests[0]))]
    logits, after = network.step(torch.cat([request.energies for request in requests]), _gathered(requests))
    batch = Batch(after)
    rows: Any = [Row(batch, index) for index in range(len(requests))]
    return [(logits[index : index + 1], row) for index, row in enumerate(rows)]


def _gathered(requests: Sequence[Step]) -> tuple[State, ...]:
    """The states of all in one."""
    networks: list[Any] = [request.network for request in requests]
    first = networks[0]
    if isinstance(first, Row) and all(isinstance(row, Row) and row.batch is first.batch for row in networks):
        order = [row.index for row in networks]
        if order == list(range(len(first.batch))):
            return first.batch.network
        index = torch.tensor(order, device=first.batch.leaves[0].device)
        chosen = [leaf.index_select(0, index) for leaf in first.batch.leaves]
        return cast("tuple[State, ...]", filled(first.batch.network, iter(chosen)))
    columns = zip(*(_row_leaves(row) for row in networks), strict=True)
    like = first.batch.network if isinstance(first, Row) else first
    return cast("tuple[State, ...]", filled(like, iter([torch.cat(column) for column in columns])))


def _row_leaves(network: Any) -> list[Tensor]:
    if isinstance(network, Row):
        return [leaf[network.index : network.index + 1] for leaf in network.batch.leaves]
    return leaves_of(network)


def shapes(request: Step) -> Shapes:
    """What requests must have in common to be answered together."""
    network: Any = request.network
    own = network.batch.shapes if isinstance(network, Row) else tuple(tuple(x.shape) for x in leaves_of(network))
    return (tuple(request.energies.shape), *own)


def leaves_of(state: State) -> list[Tensor]:
    """The tensors of a state, in order."""
    if isinstance(state, Tensor):
        return [state]
    return [leaf for part in state for leaf in leaves_of(part)]


def filled(like: State, leaves: Iterator[Tensor]) -> State:
    """A state of the same form with other tensors."""
    if isinstance(like, Tensor):
        return next(leaves)
    parts = [filled(part, leaves) for part in like]
    return type(like)(*parts) if hasattr(like, "_fields") else tuple(parts)
