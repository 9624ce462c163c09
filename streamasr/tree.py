"""The live hypotheses of one stream as a tree of prefixes: nodes in a table, recycled, so that memory is bounded.

The root is the prefix that all hypotheses share; what lies above it is committed and gone. A node is in use while it
has children or a hypothesis ends at it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamasr.compiled import inner

PARENT, TOKEN, USES, CREATED, CHILD, SIBLING, SLOT, HISTORY, AFTER, WORD, LETTERS, PHRASE = range(12)
NODE_FIELDS = 12
AGREED, FACTOR, PENDING, ENDING, RISE, LEAP = range(6)
VALUE_FIELDS = 6
FRAME, COUNT, ROOT, FREE, FRESH, LAST = range(6)
CLOCK_FIELDS = 6
UNKNOWN_YET = -1e300


class Arrays(NamedTuple):
    """The numbers of one stream.

    Columns of `nodes`: PARENT; TOKEN; USES, children and a hypothesis; CREATED, a frame; CHILD and SIBLING, the list
    of children; SLOT, place in the beam or -1; HISTORY and AFTER, the language model's state before and after the word
    that grows here; WORD, the lexicon's node; LETTERS of that word; PHRASE, the hotwords' state.
    Columns of `values`: AGREED, of a space, the share of hypotheses with the word before it, or -1; FACTOR of the
    scores that this token gained; PENDING, the part of its log that holds only while the word grows; ENDING, the
    log-gain of a space that follows, or UNKNOWN_YET; RISE and LEAP, bounds of the factors of any letter and of a space
    that follow.
    """

    nodes: NDArray[np.int32]  # (N, NODE_FIELDS)
    values: NDArray[np.float64]  # (N, VALUE_FIELDS)
    beam: NDArray[np.int32]  # (W,) nodes of the hypotheses, best first
    masses: NDArray[np.float64]  # (W, 2) of alignments that end in a blank, in the last token; the best has about 1
    recent: NDArray[np.float32]  # (R, V) log-probabilities of the last frames, frame t in row t modulo R
    clock: NDArray[np.int64]  # (CLOCK_FIELDS,) frames; hypotheses; root; free nodes; unused; frame of the last commit
    scale: NDArray[np.float64]  # (1,) log of what was divided out of the masses


@inner
def grow(s: Arrays, parent: int, token: int) -> int:
    """A new node below `parent`; the columns of scores are left to the caller."""
    node = s.clock[FREE]
    if node >= 0:
        s.clock[FREE] = s.nodes[node, PARENT]
    else:
        node = s.clock[FRESH]
        s.clock[FRESH] += 1
    fields = s.nodes[node]
    fields[PARENT], fields[TOKEN], fields[USES], fields[CREATED] = parent, token, 0, s.clock[FRAME]
    fields[CHILD], fields[SIBLING], fields[SLOT] = -1, s.nodes[parent, CHILD], -1
    s.nodes[parent, CHILD] = node
    s.nodes[parent, USES] += 1
    s.values[node, AGREED] = -1.0
    return node  # type: ignore[no-any-return]


@inner
def free(s: Arrays, node: int) -> None:
    """Give the row of a node back."""
    s.nodes[node, USES] = -1
    s.nodes[node, PARENT] = s.clock[FREE]
    s.clock[FREE] = node


@inner
def release(s: Arrays, node: int) -> None:
    """Free a node that is out of use, and with it every ancestor that was there for it alone."""
    while node != s.clock[ROOT] and s.nodes[node, USES] == 0:
        parent = s.nodes[node, PARENT]
        sibling = s.nodes[parent, CHILD]
        if sibling == node:
            s.nodes[parent, CHILD] = s.nodes[node, SIBLING]
        else:
            while s.nodes[sibling, SIBLING] != node:
                sibling = s.nodes[sibling, SIBLING]
            s.nodes[sibling, SIBLING] = s.nodes[node, SIBLING]
        s.nodes[parent, USES] -= 1
        free(s, np.int64(node))
        node = parent


@inner
def find(s: Arrays, parent: int, token: int) -> int:
    """The child of `parent` for a token, or -1."""
    node = s.nodes[parent, CHILD]
    while node >= 0 and s.nodes[node, TOKEN] != token:
        node = s.nodes[node, SIBLING]
    return node  # type: ignore[no-any-return]


@inner
def part(s: Arrays, base: int, branch: int, keep: bool) -> None:
    """Keep, or else drop, the hypotheses that leave `base` through its child `branch`."""
    count = s.clock[COUNT]
    kept = 0
    for i in range(count):
        node = s.beam[i]
        above = node
        while above != base and above != branch:
            above = s.nodes[above, PARENT]
        if (above == branch) == keep:
            s.beam[kept] = node
            s.masses[kept, 0], s.masses[kept, 1] = s.masses[i, 0], s.masses[i, 1]
            s.nodes[node, SLOT] = kept
            kept += 1
        else:
            s.nodes[node, SLOT] = -1
            s.nodes[node, USES] -= 1
            release(s, node)
    s.clock[COUNT] = kept


@inner
def elder(s: Arrays, base: int) -> int:
    """A child of `base` that has stayed uncommitted for as many frames as `recent` can hold, or -1."""
    tail = s.recent.shape[0] - 1
    node = s.nodes[base, CHILD]
    while node >= 0 and s.clock[FRAME] - 1 - s.nodes[node, CREATED] < tail:
        node = s.nodes[node, SIBLING]
    return node  # type: ignore[no-any-return]
