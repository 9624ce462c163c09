"""The compiled half of the CTC prefix beam: one call moves many streams over their frames.

Prefix search after Hannun et al., "First-Pass Large Vocabulary Continuous Speech Recognition using Bi-Directional
Recurrent DNNs" (2014): a prefix has the mass of its alignments that end in a blank and of those that end in its last
token. Masses are kept relative to the best prefix, in float64; the logarithm of what was divided out is in `scale`.

Prefixes are the nodes of a tree that holds live hypotheses only. Its root is the prefix that they all share: whatever
lies above it was handed out as committed and cannot change any more.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamasr.align import align
from streamasr.compiled import entry, inner

BLANK = 0
PARENT, TOKEN, USES, CREATED, CHILD, SIBLING, SLOT = range(7)  # columns of `nodes`; USES: children, and a beam entry
NODE_FIELDS = 7
AGREED = 0  # columns of `values`
VALUE_FIELDS = 1
FRAME, COUNT, ROOT, FREE, FRESH, LAST = range(6)  # places in `clock`
CLOCK_FIELDS = 6
FINE, NOT_A_NUMBER, INFINITE, IMPOSSIBLE = range(4)  # what `search` returns
TINY = 1e-250  # hypotheses below this share of the best are dropped whatever the options say


class Arrays(NamedTuple):
    """The numbers of one stream; of B streams with B in front of every shape."""

    nodes: NDArray[np.int32]  # (N, NODE_FIELDS) the tree
    values: NDArray[np.float64]  # (N, VALUE_FIELDS) AGREED: share of hypotheses with the word before this space, or -1
    beam: NDArray[np.int32]  # (W,) nodes of the live hypotheses, best first
    masses: NDArray[np.float64]  # (W, 2) of alignments that end in a blank, in the last token
    recent: NDArray[np.float32]  # (R, V) log-probabilities of the last frames, frame t in row t modulo R
    clock: NDArray[
        np.int64
    ]  # (CLOCK_FIELDS,) frames so far, entries, root, free nodes, frame of the last committed token
    scale: NDArray[np.float64]  # (1,)


class Options(NamedTuple):
    """What does not change while a decoder lives."""

    width: int
    space: int
    tail: int  # frames that a token may stay uncommitted
    prune: float  # log-probability
    drop: float  # share of the best hypothesis


class Tokens(NamedTuple):
    """Tokens with their times, M places each; `filled` (1,) says how many."""

    token: NDArray[np.int32]
    frame: NDArray[np.int32]
    peak: NDArray[np.float64]  # log-probability at that frame
    agreed: NDArray[np.float64]  # for a space: share of hypotheses with the word before it
    filled: NDArray[np.int64]


class _Scratch(NamedTuple):
    odds: NDArray[np.float64]  # (V,)
    active: NDArray[np.int32]  # (V,)
    stays: NDArray[np.float64]  # (W, 2)
    seen: NDArray[np.int64]  # (W, V) frame + 1 at which this extension was found to be in the beam
    scores: NDArray[np.float64]  # (W,)
    sources: NDArray[np.int32]  # (W,)
    tokens: NDArray[np.int32]  # (W,) or -1: the prefix stays
    entries: NDArray[np.int32]  # (W,)
    fresh: NDArray[np.float64]  # (W, 2)
    path: NDArray[np.int32]  # (R,)
    letters: NDArray[np.int32]  # (R,)
    frames: NDArray[np.int32]  # (R,)
    peaks: NDArray[np.float64]  # (R,)
    back: NDArray[np.uint8]  # (R, 2R + 2)
    trellis: NDArray[np.float64]  # (2, 2R + 2)


@inner
def _scratch(width: int, recent: int, vocabulary: int) -> _Scratch:
    return _Scratch(
        np.zeros(vocabulary),
        np.zeros(vocabulary, np.int32),
        np.zeros((width, 2)),
        np.zeros((width, vocabulary), np.int64),
        np.zeros(width),
        np.zeros(width, np.int32),
        np.zeros(width, np.int32),
        np.zeros(width, np.int32),
        np.zeros((width, 2)),
        np.zeros(recent, np.int32),
        np.zeros(recent, np.int32),
        np.zeros(recent, np.int32),
        np.zeros(recent),
        np.zeros((recent, 2 * recent + 2), np.uint8),
        np.zeros((2, 2 * recent + 2)),
    )


@inner
def _grow(s: Arrays, parent: int, token: int) -> int:
    """A new node below `parent`."""
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
def _free(s: Arrays, node: int) -> None:
    s.nodes[node, USES] = -1
    s.nodes[node, PARENT] = s.clock[FREE]
    s.clock[FREE] = node


@inner
def _release(s: Arrays, node: int) -> None:
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
        _free(s, node)
        node = parent


@inner
def _find(s: Arrays, parent: int, token: int) -> int:
    node = s.nodes[parent, CHILD]
    while node >= 0 and s.nodes[node, TOKEN] != token:
        node = s.nodes[node, SIBLING]
    return node  # type: ignore[no-any-return]


@inner
def _offer(w: _Scratch, count: int, score: float, source: int, token: int) -> int:
    """Take a candidate into the sorted list of the best; the earlier of equals stays ahead. Returns their number."""
    width = w.scores.shape[0]
    if not score > 0.0 or (count == width and score <= w.scores[width - 1]):
        return count
    place = count if count < width else width - 1
    while place > 0 and w.scores[place - 1] < score:
        w.scores[place] = w.scores[place - 1]
        w.sources[place] = w.sources[place - 1]
        w.tokens[place] = w.tokens[place - 1]
        place -= 1
    w.scores[place], w.sources[place], w.tokens[place] = score, source, token
    return count + 1 if count < width else width


@inner
def _emit(row: NDArray[np.float32], options: Options, w: _Scratch) -> float:
    """Probabilities of this frame relative to its best token, which is returned; greedy leaves only that one."""
    top = 0
    for token in range(row.shape[0]):
        if row[token] > row[top]:
            top = token
    for token in range(row.shape[0]):
        kept = token == top if options.width == 1 else (row[token] >= options.prune or token == top)
        w.odds[token] = np.exp(np.float64(row[token]) - np.float64(row[top])) if kept else 0.0
    return np.float64(row[top])  # type: ignore[no-any-return]


@inner
def _frame(s: Arrays, row: NDArray[np.float32], options: Options, w: _Scratch) -> None:
    """Move every hypothesis over one frame and keep the best `width`."""
    nodes, stamp = s.nodes, s.clock[FRAME] + 1
    live = s.clock[COUNT]
    top = _emit(row, options, w)
    count = 0
    strongest = 0.0
    for i in range(live):
        node = s.beam[i]
        token = nodes[node, TOKEN]
        ended, running = s.masses[i]
        w.stays[i, 0] = (ended + running) * w.odds[BLANK]
        stays = running * w.odds[token] if token >= 0 else 0.0
        parent = nodes[node, PARENT]
        if parent >= 0:
            j = nodes[parent, SLOT]
            if j >= 0:  # the prefix one token shorter lives too: its extension is this one
                repeat = nodes[parent, TOKEN] == token
                stays += (s.masses[j, 0] if repeat else s.masses[j, 0] + s.masses[j, 1]) * w.odds[token]
                w.seen[j, token] = stamp
        w.stays[i, 1] = stays
        count = _offer(w, count, w.stays[i, 0] + stays, i, -1)
        strongest = max(strongest, ended + running)
    bar = w.scores[options.width - 1] if count == options.width else 0.0
    active = 0
    for token in range(row.shape[0]):
        if token != BLANK and strongest * w.odds[token] > bar:  # the others cannot enter a full beam
            w.active[active] = token
            active += 1
    for i in range(live):
        token = nodes[s.beam[i], TOKEN]
        whole = s.masses[i, 0] + s.masses[i, 1]
        for a in range(active):
            other = w.active[a]
            if w.seen[i, other] != stamp:
                count = _offer(w, count, (s.masses[i, 0] if other == token else whole) * w.odds[other], i, other)
    _replace(s, count, options, w)
    s.scale[0] += top + np.log(w.scores[0])


@inner
def _replace(s: Arrays, count: int, options: Options, w: _Scratch) -> None:
    """Make the chosen candidates the beam."""
    live = s.clock[COUNT]
    best = w.scores[0]
    while w.scores[count - 1] < best * options.drop:
        count -= 1
    for i in range(live):
        w.entries[i] = s.beam[i]
        s.nodes[s.beam[i], SLOT] = -1
    for k in range(count):
        source, token = w.sources[k], w.tokens[k]
        if token < 0:
            s.beam[k] = w.entries[source]
            w.fresh[k, 0] = w.stays[source, 0] / best
            w.fresh[k, 1] = w.stays[source, 1] / best
        else:
            node = _find(s, w.entries[source], token)
            s.beam[k] = node if node >= 0 else _grow(s, w.entries[source], token)
            w.fresh[k, 0] = 0.0
            w.fresh[k, 1] = w.scores[k] / best
        s.nodes[s.beam[k], SLOT] = k
        s.nodes[s.beam[k], USES] += 1
    for k in range(count):
        s.masses[k, 0], s.masses[k, 1] = w.fresh[k, 0], w.fresh[k, 1]
    s.clock[COUNT] = count
    for i in range(live):
        s.nodes[w.entries[i], USES] -= 1
    for i in range(live):
        _release(s, w.entries[i])


@inner
def _same_word(s: Arrays, one: int, other: int, space: int) -> bool:
    """Whether the words that end at two nodes are spelled alike, as far back as the root."""
    root = s.clock[ROOT]
    while one != other:
        a, b = s.nodes[one, TOKEN], s.nodes[other, TOKEN]
        if (a == space or a < 0) and (b == space or b < 0):
            return True
        if a != b or one == root or other == root:
            return False
        one, other = s.nodes[one, PARENT], s.nodes[other, PARENT]
    return True


@inner
def agreement(s: Arrays, end: int, space: int) -> float:
    """Share of the mass of hypotheses whose latest words, finished or growing, include the word that ends at `end`."""
    agreed, total = 0.0, 0.0
    root = s.clock[ROOT]
    for i in range(s.clock[COUNT]):
        mass = s.masses[i, 0] + s.masses[i, 1]
        total += mass
        node = s.beam[i]
        same = s.nodes[node, TOKEN] != space and _same_word(s, end, node, space)
        if not same:
            while node != root and s.nodes[node, TOKEN] != space:
                node = s.nodes[node, PARENT]
            same = node != root and _same_word(s, end, s.nodes[node, PARENT], space)
        if same:
            agreed += mass
    return agreed / total


@inner
def _through(s: Arrays, wanted: int) -> float:
    """Share of the mass of hypotheses that continue the prefix `wanted`."""
    agreed, total = 0.0, 0.0
    for i in range(s.clock[COUNT]):
        mass = s.masses[i, 0] + s.masses[i, 1]
        total += mass
        node = s.beam[i]
        while node != wanted and node != s.clock[ROOT]:
            node = s.nodes[node, PARENT]
        if node == wanted:
            agreed += mass
    return agreed / total


@inner
def _judge(s: Arrays, space: int) -> None:
    """Measure the agreement on each word of the best hypothesis in the frame in which its space first appears there."""
    node, latest = s.beam[0], True
    while node != s.clock[ROOT]:
        if s.nodes[node, TOKEN] == space:
            if s.values[node, AGREED] >= 0.0:  # this prefix led before, so all its words are measured
                return
            s.values[node, AGREED] = agreement(s, s.nodes[node, PARENT], space) if latest else _through(s, node)
            latest = False
        node = s.nodes[node, PARENT]


@inner
def _trace(s: Arrays, w: _Scratch) -> int:
    """The path of the best hypothesis below the root, with its times. Returns its length."""
    root, node = s.clock[ROOT], s.beam[0]
    length = 0
    while node != root:
        length += 1
        node = s.nodes[node, PARENT]
    node = s.beam[0]
    for k in range(length - 1, -1, -1):
        w.path[k] = node
        w.letters[k] = s.nodes[node, TOKEN]
        node = s.nodes[node, PARENT]
    last = s.clock[FRAME] - 1
    first = max(s.clock[LAST] + 1, last - s.recent.shape[0] + 1)
    cut = first > s.clock[LAST] + 1
    before = s.nodes[root, TOKEN]
    align(w.letters, length, before, s.recent, first, last, cut, w.frames, w.peaks, w.back, w.trellis)
    return length


@inner
def _part(s: Arrays, base: int, branch: int, keep: bool) -> None:
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
            _release(s, node)
    s.clock[COUNT] = kept


@inner
def _elder(s: Arrays, base: int, tail: int) -> int:
    """A child of `base` that has stayed uncommitted for too long, or -1."""
    node = s.nodes[base, CHILD]
    while node >= 0 and s.clock[FRAME] - 1 - s.nodes[node, CREATED] < tail:
        node = s.nodes[node, SIBLING]
    return node  # type: ignore[no-any-return]


@inner
def _room(s: Arrays, base: int) -> int:
    """The last frame that the token of `base` may have so that what every hypothesis adds still fits behind it."""
    most = 0
    for i in range(s.clock[COUNT]):
        needed = 1 if s.masses[i, 0] > 0.0 else 0
        node = s.beam[i]
        while node != base:
            parent = s.nodes[node, PARENT]
            needed += 2 if s.nodes[node, TOKEN] == s.nodes[parent, TOKEN] else 1
            node = parent
        most = max(most, needed)
    return s.clock[FRAME] - 1 - most  # type: ignore[no-any-return]


@inner
def _hand_out(s: Arrays, count: int, limit: int, out: Tokens, w: _Scratch) -> None:
    """Commit the first `count` tokens of the traced path, the last of them at frame `limit` or before."""
    root = s.clock[ROOT]
    for k in range(count - 1, -1, -1):
        w.frames[k] = min(w.frames[k], limit)
        above = w.letters[k - 1] if k > 0 else s.nodes[root, TOKEN]
        limit = w.frames[k] - (2 if above == w.letters[k] else 1)
    for k in range(count):
        place = out.filled[0]
        out.token[place], out.frame[place], out.peak[place] = w.letters[k], w.frames[k], w.peaks[k]
        out.agreed[place] = s.values[w.path[k], AGREED]
        out.filled[0] += 1
        _free(s, root)
        root = w.path[k]
    s.clock[LAST] = w.frames[count - 1]
    s.clock[ROOT] = root
    s.nodes[root, PARENT], s.nodes[root, SIBLING] = -1, -1


@inner
def _commit(s: Arrays, options: Options, out: Tokens, w: _Scratch) -> None:
    """Hand out what all hypotheses share, and what has waited for longer than the tail."""
    base = s.clock[ROOT]
    alone = s.nodes[base, USES] == 1 and s.nodes[base, SLOT] < 0
    if not alone and _elder(s, base, options.tail) < 0:
        return
    length = _trace(s, w)
    count = 0
    while True:
        if s.nodes[base, USES] == 1 and s.nodes[base, SLOT] < 0:
            base = w.path[count]
            count += 1
            continue
        elder = _elder(s, base, options.tail)
        if elder < 0:
            break
        if count < length and s.clock[FRAME] - 1 - s.nodes[w.path[count], CREATED] >= options.tail:
            _part(s, base, w.path[count], True)
        else:
            _part(s, base, elder, False)
    if count:
        _hand_out(s, count, _room(s, base), out, w)


@inner
def _of(batch: Arrays, b: int) -> Arrays:
    return Arrays(
        batch.nodes[b], batch.values[b], batch.beam[b], batch.masses[b], batch.recent[b], batch.clock[b], batch.scale[b]
    )


@inner
def _check(rows: NDArray[np.float32]) -> int:
    for i in range(rows.shape[0]):
        possible = False
        for value in rows[i]:
            if np.isnan(value):
                return NOT_A_NUMBER
            if value == np.inf:
                return INFINITE
            possible |= value > -np.inf
        if not possible:
            return IMPOSSIBLE
    return FINE


@entry
def search(
    log_probs: NDArray[np.float32], lengths: NDArray[np.int64], batch: Arrays, options: Options, out: Tokens
) -> tuple[int, int]:
    """Move B streams over (B, T, V) log-probabilities, `lengths` (B,) frames of each, in place.

    Returns:
        the stream at fault, and what is wrong with its log-probabilities (FINE: nothing); then nothing was moved.
    """
    for b in range(log_probs.shape[0]):
        fault = _check(log_probs[b, : lengths[b]])
        if fault != FINE:
            return b, fault
    w = _scratch(options.width, batch.recent.shape[1], log_probs.shape[2])
    for b in range(log_probs.shape[0]):
        s = _of(batch, b)
        results = Tokens(out.token[b], out.frame[b], out.peak[b], out.agreed[b], out.filled[b])
        for i in range(options.width):
            for token in range(log_probs.shape[2]):
                w.seen[i, token] = 0
        for t in range(lengths[b]):
            row = log_probs[b, t]
            place = s.clock[FRAME] % s.recent.shape[0]
            for token in range(row.shape[0]):
                s.recent[place, token] = row[token]
            _frame(s, row, options, w)
            s.clock[FRAME] += 1
            _judge(s, options.space)
            _commit(s, options, results, w)
    return 0, FINE


@entry
def trace(s: Arrays, options: Options, out: Tokens) -> float:
    """Write the uncommitted tokens of the best hypothesis to `out`; nothing else changes.

    Returns:
        the share of hypotheses that have the word it ends with (of the last word where it ends with a space).
    """
    w = _scratch(1, s.recent.shape[0], s.recent.shape[1])
    length = _trace(s, w)
    for k in range(length):
        out.token[k], out.frame[k], out.peak[k] = w.letters[k], w.frames[k], w.peaks[k]
        out.agreed[k] = s.values[w.path[k], AGREED]
    out.filled[0] = length
    return agreement(s, s.beam[0], options.space)
