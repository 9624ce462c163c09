"""States of layers as what they are made of: nested tuples of tensors."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from streamasr.layers import State


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
