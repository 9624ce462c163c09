"""The live hypotheses of one stream as a tree of prefixes: nodes in a table, recycled, so that memory is bounded.

The root is the prefix that all hypotheses share; what lies above it is committed and gone. A node is in use while it
has children or a hypothesis ends at it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamasr.compiled import inner, maker

PARENT, TOKEN, USES, CREATED, CHILD, SIBLING, SLOT, HISTORY, AFTER, WORD, LETTERS, PHRASE, MEMORY = range(13)
NODE_FIELDS = 13
AGREED, FACTOR, PENDING, ENDING, RISE, LEAP, NGRAMS = range(7)
VALUE_FIELDS = 7
FRAME, COUNT, ROOT, FREE, FRESH, LAST, VACANT, UNTOUCHED = range(8)
CLOCK_FIELDS = 8
HOLDERS, BEFORE, HEARD, READY = range(4)
SLOT_FIELDS = 4
UNKNOWN_YET = -1e300


class Arrays(NamedTuple):
    """The numbers of one stream.

    Columns of `nodes`: PARENT; TOKEN; USES, children and a hypothesis; CREATED, a frame; CHILD and SIBLING, the list
    of children; SLOT, place in the beam or -1; HISTORY and AFTER, the language model's state before and after the word
    that grows here; WORD, the lexicon's node; LETTERS of that word; PHRASE, the hotwords' state; MEMORY, the slot of
    what the recurrent language model remembers before that word, or -1.
    Columns of `values`: AGREED, of a space, the share of hypotheses with the word before it, or -1; FACTOR of the
    scores that this token gained; PENDING, the part of its log that holds only while the word grows; ENDING, the
    log-gain of a space that follows, or UNKNOWN_YET; RISE and LEAP, bounds of the factors of any letter and of a space
    that follow; NGRAMS, what the n-grams alone say of the word that ends here, or UNKNOWN_YET.
    Columns of `slots`: HOLDERS, nodes and slots; BEFORE, the slot of the text one word shorter for as long as that is
    needed, then -1; HEARD, the last word; READY, whether its row of `memories` is written. See that module.
    `clock`: frames; hypotheses; root; free nodes; nodes used; frame of the last commit; free slots; slots used.
    """

    nodes: NDArray[np.int32]  # (N, NODE_FIELDS)
    values: NDArray[np.float64]  # (N, VALUE_FIELDS)
    beam: NDArray[np.int32]  # (W,) nodes of the hypotheses, best first
    masses: NDArray[np.float64]  # (W, 2) of alignments that end in a blank, in the last token; the best has about 1
    recent: NDArray[np.float32]  # (R, V) log-probabilities of the last frames, frame t in row t modulo R
    clock: NDArray[np.int64]  # (CLOCK_FIELDS,), see below
    scale: NDArray[np.float64]  # (1,) log of what was divided out of the masses
    slots: NDArray[np.int32]  # (S, SLOT_FIELDS)
    memories: NDArray[np.float32]  # (S, numbers of a memory)


@maker
def _remembered(s: Arrays, room: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Copies of slots and memories, with `room` rows; of the memories only those that are written."""
    kept = min(s.clock[UNTOUCHED], room)
    slots = np.empty((room, s.slots.shape[1]), np.int32)
    memories = np.empty((room, s.memories.shape[1]), np.float32)
    slots[:kept] = s.slots[:kept]
    for slot in range(kept):
        if slots[slot, READY] == 1:
            memories[slot] = s.memories[slot]
    return slots, memories


@maker
def moved(s: Arrays, frames: int) -> Arrays:
    """A copy of the state, with room for what `frames` may add.

    There are at most twice as many slots as nodes: those that nodes hold, and the few above the root that these need.
    """
    width, held, used, kept = s.beam.shape[0], s.recent.shape[0], s.clock[FRESH], s.clock[UNTOUCHED]
    room = min(used + width * frames, width * (held + 1)) + 1
    nodes, values = np.empty((room, s.nodes.shape[1]), np.int32), np.empty((room, s.values.shape[1]))
    nodes[:used], values[:used] = s.nodes[:used], s.values[:used]
    more = max(kept, min(kept + width * frames, 2 * room)) if s.memories.shape[1] > 0 else 0
    slots, memories = _remembered(s, more)
    copies = s.beam.copy(), s.masses.copy(), s.recent.copy(), s.clock.copy(), s.scale.copy()
    return Arrays(nodes, values, *copies, slots, memories)


@maker
def trimmed(s: Arrays) -> Arrays:
    """The state without the room for memories that was not needed: it is large, and a state may be kept for long."""
    slots, memories = _remembered(s, s.clock[UNTOUCHED]) if s.memories.shape[1] > 0 else (s.slots, s.memories)
    return Arrays(s.nodes, s.values, s.beam, s.masses, s.recent, s.clock, s.scale, slots, memories)


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
    fields[MEMORY] = -1
    return node  # type: ignore[no-any-return]


@inner
def remember(s: Arrays, before: int, heard: int) -> int:
    """A new slot for the text of slot `before` and one word more, with one holder; -1 where there is no room."""
    slot = s.clock[VACANT]
    if slot >= 0:
        s.clock[VACANT] = s.slots[slot, BEFORE]
    elif s.clock[UNTOUCHED] == s.slots.shape[0]:
        return -1
    else:
        slot = s.clock[UNTOUCHED]
        s.clock[UNTOUCHED] += 1
    s.slots[slot, HOLDERS], s.slots[slot, BEFORE], s.slots[slot, HEARD], s.slots[slot, READY] = 1, before, heard, 0
    s.slots[before, HOLDERS] += 1
    return slot  # type: ignore[no-any-return]


@inner
def drop(s: Arrays, slot: int) -> None:
    """One holder of a slot (-1: of none) less; where that was the last one, it is given back."""
    while slot >= 0:
        s.slots[slot, HOLDERS] -= 1
        if s.slots[slot, HOLDERS] > 0:
            return
        before = np.int64(s.slots[slot, BEFORE])
        s.slots[slot, BEFORE], s.slots[slot, READY] = s.clock[VACANT], 0
        s.clock[VACANT] = slot
        slot = before


@inner
def free(s: Arrays, node: int) -> None:
    """Give the row of a node back."""
    drop(s, np.int64(s.nodes[node, MEMORY]))
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
