"""How the decoder is compiled: by numba at first use, kept on disk after that."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from numba import njit

FunctionT = TypeVar("FunctionT", bound=Callable[..., object])


def entry(function: FunctionT) -> FunctionT:
    """Compile a function that Python calls; the machine code is cached next to the source, or in the user's cache."""
    return njit(cache=True, nogil=True)(function)  # type: ignore[return-value]


def inner(function: FunctionT) -> FunctionT:
    """Compile a function that only compiled code calls: no wrappers, so that the first use is not kept waiting."""
    return njit(nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)(function)  # type: ignore
