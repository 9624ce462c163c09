"""How decoder and network are compiled: by numba at first use, and kept on disk after that."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from numba import njit

FunctionT = TypeVar("FunctionT", bound=Callable[..., object])

SOURCES = ("agreement", "align", "beam", "gains", "lexicon", "lm", "ngram", "tree")
LOOPS = ("activation_cpu", "dense_cpu", "voice_cpu")


def _digest(sources: tuple[str, ...]) -> str:
    """What the machine code is made from: numba itself looks only at the file of the function that is called."""
    digest = hashlib.sha256()
    for name in sources:
        digest.update(Path(__file__).with_name(f"{name}.py").read_bytes())
    return digest.hexdigest()[:12]


def entry(function: FunctionT) -> FunctionT:
    """Compile a function that Python calls; the machine code is kept next to the source, or in the user's cache."""
    function.__qualname__ += f"_{_digest(SOURCES)}"  # part of the name of the kept file
    return njit(cache=True, nogil=True)(function)  # type: ignore[return-value]


def inner(function: FunctionT) -> FunctionT:
    """Compile a function that only compiled code calls: no wrappers, so that the first use is not kept waiting."""
    return njit(nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)(function)  # type: ignore


def loops(signatures: str | list[str]) -> Callable[[FunctionT], FunctionT]:
    """Compile loops over arrays of floats, for Python and for each other; kept on disk."""

    def wrap(function: FunctionT) -> FunctionT:
        function.__qualname__ += f"_{_digest(LOOPS)}"
        return njit(signatures, cache=True, fastmath=True, nogil=True)(function)  # type: ignore[return-value]

    return wrap
