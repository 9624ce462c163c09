"""How decoder and network are compiled: by numba at first use, and kept on disk after that."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from numba import njit, typeof
from numba.core.cpu import CPUTargetOptions

FunctionT = TypeVar("FunctionT", bound=Callable[..., object])

UNCOUNTED = {"_nrt": False} if hasattr(CPUTargetOptions, "_nrt") else {}  # it is not documented and may go
LOOPS = (
    "activation_cpu",
    "chain_cpu",
    "dense_cpu",
    "lstm_cpu",
    "norm_cpu",
    "patches_cpu",
    "tiles_cpu",
    "voice_cpu",
    "whole_cpu",
    "words",
)
SOURCES = (
    "agreement",
    "align",
    "beam",
    "candidates",
    "compiled",
    "gains",
    "lexicon",
    "lm",
    "memories",
    "ngram",
    "tree",
    *LOOPS,
)


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
    """Compile a function that only compiled code calls: no wrappers, so that the first use is not kept waiting.

    It must not allocate: references to arrays are not counted in it, as its caller holds them. numba would count at
    every access to a field of a tuple, which took longer than the search itself.
    """
    return njit(nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True, forceinline=True, **UNCOUNTED)(function)  # type: ignore


def maker(function: FunctionT) -> FunctionT:
    """As `inner`, for a function that allocates arrays."""
    return njit(nogil=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)(function)  # type: ignore


def shared(function: FunctionT) -> FunctionT:
    """Compile a function that both Python and compiled code call; it must not allocate, as in `inner`."""
    return njit(cache=True, nogil=True, forceinline=True, **UNCOUNTED)(function)  # type: ignore


def chosen(function: FunctionT, *arguments: object) -> FunctionT:
    """The machine code of an `entry` for arguments of the types of these, compiled if it is not yet.

    To call it spares numba from looking at the type of each array, which took a quarter of a call of 4 frames. It must
    be given the same types every time: they are not checked any more.
    """
    if not hasattr(function, "get_overload"):  # numba is switched off (NUMBA_DISABLE_JIT)
        return function
    types = tuple(map(typeof, arguments))
    function.compile(types)  # type: ignore[attr-defined]
    return function.get_overload(types)  # type: ignore[no-any-return]


def loops(signatures: str | list[str]) -> Callable[[FunctionT], FunctionT]:
    """Compile loops over arrays of floats, for Python and for each other; kept on disk."""

    def wrap(function: FunctionT) -> FunctionT:
        function.__qualname__ += f"_{_digest(LOOPS)}"
        return njit(signatures, cache=True, fastmath=True, nogil=True, error_model="numpy")(function)  # type: ignore[return-value]

    return wrap
