"""The compiled half of the CTC prefix beam: one call moves a stream over its frames.

Prefix search after Hannun et al., "First-Pass Large Vocabulary Continuous Speech Recognition using Bi-Directional
Recurrent DNNs" (2014): a prefix has the mass of its alignments that end in a blank and of those that end in its last
token. Masses are kept relative to the best prefix, in float64, and the logarithm of what was divided out beside them.

An extension is looked at only where a bound of its score beats the worst prefix of a full beam, so that frames in which
the blank dominates cost little and nothing is changed by leaving the rest out.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamasr.agreement import agreement, judge
from streamasr.align import AT_FRAME, AT_NODE, AT_TOKEN, PEAK, align
from streamasr.candidates import (
    ENTRY,
    NEW_ENDED,
    NEW_RUNNING,
    NEXT,
    SOURCE,
    STAYS_ENDED,
    STAYS_RUNNING,
    Scratch,
    highest,
    lowest,
    offer,
    scratch,
)
from streamasr.compiled import entry, inner
from streamasr.gains import Models, gain, inherit, parting
from streamasr.tree import (
    AGREED,
    COUNT,
    CREATED,
    FACTOR,
    FRAME,
    LAST,
    LEAP,
    PARENT,
    RISE,
    ROOT,
    SIBLING,
    SLOT,
    TOKEN,
    USES,
    Arrays,
    elder,
    find,
    free,
    grow,
    moved,
    part,
    release,
    trimmed,
)

BLANK = 0
STAY = -1  # in place of a token: the prefix stays as it is
TOKEN_OUT, FRAME_OUT, PEAK_OUT, AGREED_OUT = range(4)  # columns of tokens that are handed out
FINE, NOT_A_NUMBER, INFINITE, IMPOSSIBLE = range(4)  # what may be wrong with log-probabilities


class Options(NamedTuple):
    """`prune`: the least log-probability of a token; `drop`: the least share of the best that a hypothesis may have;
    `offsets`: what is added to the log-probability of each token before anything else."""

    prune: float
    drop: float
    offsets: NDArray[np.float64]  # (V,)


@inner
def _emit(row: NDArray[np.float32], options: Options, greedy: bool, w: Scratch) -> tuple[float, int]:
    """Probabilities of a frame relative to its best token; greedy leaves only that one.

    Returns:
        its log-probability; the number of tokens but the blank that are possible, which `w.heard` lists.
    """
    top, heard = 0, 0
    for token in range(row.shape[0]):
        if row[token] > row[top]:
            top = token
    for token in range(row.shape[0]):
        log_prob = np.float64(row[token]) + options.offsets[token]
        kept = token == top or (not greedy and log_prob >= options.prune)
        w.odds[token] = np.exp(log_prob - np.float64(row[top])) if kept else 0.0
        if token != BLANK and w.odds[token] > 0.0:
            w.heard[heard] = token
            heard += 1
    return np.float64(row[top]), heard


@inner
def _pause(s: Arrays, w: Scratch) -> float:
    """A frame in which nothing but the blank is possible: the prefixes stay, in their order. Returns the best mass."""
    best = (s.masses[0, 0] + s.masses[0, 1]) * w.odds[BLANK]
    for i in range(s.clock[COUNT]):
        s.masses[i, 0] = (s.masses[i, 0] + s.masses[i, 1]) * w.odds[BLANK] / best
        s.masses[i, 1] = 0.0
    return best  # type: ignore[no-any-return]


@inner
def _reached(s: Arrays, entry: int, node: int, token: int, w: Scratch) -> float:
    """The mass of alignments that go from the prefix `node`, in the beam at `entry`, to one token more."""
    mass = s.masses[entry, 0] if s.nodes[node, TOKEN] == token else s.masses[entry, 0] + s.masses[entry, 1]
    return mass * w.odds[token]  # type: ignore[no-any-return]


@inner
def _stay(s: Arrays, w: Scratch) -> int:
    """Masses of the prefixes in the beam after this frame, from themselves and each other. Returns their number."""
    count = np.int64(0)
    for i in range(s.clock[COUNT]):
        node = s.beam[i]
        token, parent = s.nodes[node, TOKEN], s.nodes[node, PARENT]
        running = s.masses[i, 1] * w.odds[token] if token >= 0 else 0.0
        if parent >= 0 and s.nodes[parent, SLOT] >= 0:  # the prefix one token shorter grows into this one
            j = s.nodes[parent, SLOT]
            running += _reached(s, j, parent, token, w) * s.values[node, FACTOR]
        w.sums[i, STAYS_ENDED] = (s.masses[i, 0] + s.masses[i, 1]) * w.odds[BLANK]
        w.sums[i, STAYS_RUNNING] = running
        count = offer(w, count, w.sums[i, STAYS_ENDED] + running, i, np.int64(STAY))
    return count  # type: ignore[no-any-return]


@inner
def _extend(s: Arrays, m: Models, heard: int, count: int, drop: float, w: Scratch) -> int:
    """Offer the prefixes one token longer that are not in the beam. Returns the number of prefixes chosen."""
    loudest = 0.0
    scored = m.lm.trie_best.shape[0] > 0 or m.following.shape[0] > 0
    for k in range(heard):
        loudest = max(loudest, w.odds[w.heard[k]])
    best = highest(w, count)
    floor = max(lowest(w, count), best * drop)  # what a prefix needs to be among those that are kept in the end
    for i in range(s.clock[COUNT]):
        node, ended = np.int64(s.beam[i]), s.masses[i, 0]
        whole, last = ended + s.masses[i, 1], s.nodes[node, TOKEN]
        rise, leap = s.values[node, RISE], s.values[node, LEAP]
        if whole * loudest * max(rise, leap) <= floor:
            continue
        for k in range(heard):
            token = np.int64(w.heard[k])
            score = (ended if token == last else whole) * w.odds[token]
            bound = score * (leap if token == m.space else rise)
            if bound <= floor:
                continue
            longer = find(s, node, token)
            if longer >= 0 and s.nodes[longer, SLOT] >= 0:
                continue
            if scored:
                least = np.log(best / score) + m.trust if token == m.space else 0.0
                score *= np.exp(gain(s, m, node, token, least))
            if score > floor:
                count = offer(w, count, score, i, token)
                best = max(best, score)
                floor = max(lowest(w, count), best * drop)
    return count


@inner
def _replace(s: Arrays, m: Models, count: int, drop: float, w: Scratch) -> None:
    """Make the chosen prefixes the beam; those below the share `drop` of the best are left out."""
    live, top = s.clock[COUNT], w.ranks.shape[0] - 1
    best = w.scores[w.ranks[top]]
    while w.scores[w.ranks[top + 1 - count]] < best * drop:
        count -= 1
    for i in range(live):
        w.picks[i, ENTRY] = s.beam[i]
        s.nodes[s.beam[i], SLOT] = -1
    for k in range(count):
        chosen = w.ranks[top - k]
        source, token = w.picks[chosen, SOURCE], np.int64(w.picks[chosen, NEXT])
        node = np.int64(w.picks[source, ENTRY])
        if token == STAY:
            w.sums[k, NEW_ENDED] = w.sums[source, STAYS_ENDED] / best
            w.sums[k, NEW_RUNNING] = w.sums[source, STAYS_RUNNING] / best
        else:
            w.sums[k, NEW_ENDED] = 0.0
            w.sums[k, NEW_RUNNING] = w.scores[chosen] / best
            parent = node
            node = np.int64(find(s, parent, token))
            if node < 0:
                node = grow(s, parent, token)
                inherit(s, m, parent, node, token, w.scores[chosen] / _reached(s, source, parent, token, w))
            s.nodes[node, USES] += 1
        s.beam[k] = node
        s.nodes[node, SLOT] = k
    for k in range(count):
        s.masses[k, 0], s.masses[k, 1] = w.sums[k, NEW_ENDED], w.sums[k, NEW_RUNNING]
    s.clock[COUNT] = count
    gone = 0
    for i in range(live):
        node = np.int64(w.picks[i, ENTRY])
        if s.nodes[node, SLOT] < 0:
            s.nodes[node, USES] -= 1
            w.picks[gone, ENTRY] = node
            gone += 1
    for i in range(gone):
        release(s, np.int64(w.picks[i, ENTRY]))


@inner
def _trace(s: Arrays, w: Scratch) -> int:
    """The path of the best hypothesis below the root, with its times. Returns its length."""
    root, node = s.clock[ROOT], s.beam[0]
    length = np.int64(0)
    while node != root:
        length += 1
        node = s.nodes[node, PARENT]
    node = s.beam[0]
    for k in range(length - 1, -1, -1):
        w.path[k, AT_NODE], w.path[k, AT_TOKEN] = node, s.nodes[node, TOKEN]
        node = s.nodes[node, PARENT]
    last = s.clock[FRAME] - 1
    first = max(s.clock[LAST] + 1, last - s.recent.shape[0] + 1)
    cut = first > s.clock[LAST] + 1
    align(w.path, length, s.nodes[root, TOKEN], s.recent, first, last, cut, w.trellis, w.back)
    return length  # type: ignore[no-any-return]


@inner
def _room(s: Arrays, base: int) -> int:
    """The last frame that the token of `base` may have so that what every hypothesis adds still fits behind it."""
    most = np.int64(0)
    for i in range(s.clock[COUNT]):
        needed = np.int64(1 if s.masses[i, 0] > 0.0 else 0)
        node = s.beam[i]
        while node != base:
            parent = s.nodes[node, PARENT]
            needed += 2 if s.nodes[node, TOKEN] == s.nodes[parent, TOKEN] else 1
            node = parent
        most = max(most, needed)
    return s.clock[FRAME] - 1 - most  # type: ignore[no-any-return]


@inner
def _write(s: Arrays, count: int, out: NDArray[np.float64], place: int, w: Scratch) -> None:
    """Copy the first `count` tokens of the traced path to `out` from `place` on."""
    for k in range(count):
        row = out[place + k]
        row[TOKEN_OUT], row[FRAME_OUT], row[PEAK_OUT] = w.path[k, AT_TOKEN], w.path[k, AT_FRAME], w.trellis[PEAK, k]
        row[AGREED_OUT] = s.values[w.path[k, AT_NODE], AGREED]


@inner
def _hand_out(s: Arrays, count: int, out: NDArray[np.float64], place: int, w: Scratch) -> None:
    """Commit the first `count` tokens of the traced path."""
    root = np.int64(s.clock[ROOT])
    limit = _room(s, w.path[count - 1, AT_NODE])
    for k in range(count - 1, -1, -1):
        w.path[k, AT_FRAME] = min(w.path[k, AT_FRAME], limit)
        above = w.path[k - 1, AT_TOKEN] if k > 0 else s.nodes[root, TOKEN]
        limit = w.path[k, AT_FRAME] - (2 if above == w.path[k, AT_TOKEN] else 1)
    _write(s, count, out, place, w)
    for k in range(count):
        free(s, root)
        root = np.int64(w.path[k, AT_NODE])
    s.clock[LAST] = w.path[count - 1, AT_FRAME]
    s.clock[ROOT] = root
    s.nodes[root, PARENT], s.nodes[root, SIBLING] = -1, -1


@inner
def _commit(s: Arrays, out: NDArray[np.float64], place: int, w: Scratch) -> int:
    """Hand out what all hypotheses share, and what has waited beyond the tail. Returns the number of tokens."""
    base = s.clock[ROOT]
    count = np.int64(0)
    alone = s.nodes[base, USES] == 1 and s.nodes[base, SLOT] < 0
    if not alone and elder(s, base) < 0:
        return count  # type: ignore[no-any-return]
    length = _trace(s, w)
    while True:
        if s.nodes[base, USES] == 1 and s.nodes[base, SLOT] < 0:
            base = np.int64(w.path[count, AT_NODE])
            count += 1
            continue
        old = elder(s, base)
        if old < 0:
            break
        ahead = w.path[count, AT_NODE] if count < length else old
        leads = count < length and s.nodes[ahead, CREATED] <= s.nodes[old, CREATED]
        part(s, base, ahead if leads else old, leads)
    if count > 0:
        _hand_out(s, count, out, place, w)
    return count  # type: ignore[no-any-return]


@inner
def _settle(s: Arrays, m: Models) -> None:
    """Score the hypotheses as complete texts and bring the best to the front."""
    best, highest = np.int64(0), 0.0
    for i in range(s.clock[COUNT]):
        mass = s.masses[i, 0] + s.masses[i, 1]
        least = np.log(highest / mass) + m.trust if highest > 0.0 and mass > 0.0 else -np.inf
        factor = np.exp(parting(s, m, s.beam[i], least))
        s.masses[i, 0] *= factor
        s.masses[i, 1] *= factor
        mass = s.masses[i, 0] + s.masses[i, 1]
        if mass > highest:
            best, highest = i, mass
    node, ended, running = s.beam[best], s.masses[best, 0], s.masses[best, 1]
    for i in range(best, 0, -1):
        s.beam[i], s.masses[i, 0], s.masses[i, 1] = s.beam[i - 1], s.masses[i - 1, 0], s.masses[i - 1, 1]
    s.beam[0], s.masses[0, 0], s.masses[0, 1] = node, ended, running
    judge(s, m.space)


@inner
def _fault(rows: NDArray[np.float32]) -> int:
    for i in range(rows.shape[0]):
        possible = False
        for token in range(rows.shape[1]):
            if np.isnan(rows[i, token]):
                return NOT_A_NUMBER
            if rows[i, token] == np.inf:
                return INFINITE
            possible |= rows[i, token] > -np.inf
        if not possible:
            return IMPOSSIBLE
    return FINE


@inner
def _run(
    log_probs: NDArray[np.float32], s: Arrays, options: Options, m: Models, out: NDArray[np.float64], w: Scratch
) -> int:
    """Move the stream over the frames, in place; committed tokens go to `out`. Returns their number."""
    width, held = s.beam.shape[0], s.recent.shape[0]
    filled = np.int64(0)
    for t in range(log_probs.shape[0]):
        row = log_probs[t]
        kept = s.recent[s.clock[FRAME] % held]
        for token in range(log_probs.shape[1]):
            kept[token] = row[token]
        top, heard = _emit(row, options, width == 1, w)
        if heard == 0:
            best = _pause(s, w)
        else:
            count = _extend(s, m, heard, _stay(s, w), options.drop, w)
            _replace(s, m, count, options.drop, w)
            best = highest(w, count)
        s.scale[0] += top + np.log(best)
        s.clock[FRAME] += 1
        judge(s, m.space)
        filled += _commit(s, out, filled, w)
    return filled  # type: ignore[no-any-return]


@entry
def search(
    log_probs: NDArray[np.float32], before: Arrays, options: Options, m: Models
) -> tuple[int, Arrays, NDArray[np.float64], int]:
    """Move a stream over (T, V) log-probabilities; the state `before` stays as it was.

    Returns:
        what is wrong with the log-probabilities (FINE: nothing; else nothing was moved); the state after them; the
        tokens that were committed, in the first rows of (M, 4); the number of these.
    """
    frames, vocabulary = log_probs.shape
    fault = _fault(log_probs)
    if fault != FINE:
        return fault, before, np.empty((0, 4)), 0
    s = moved(before, frames)
    out = np.empty((frames + s.recent.shape[0], 4))
    filled = _run(log_probs, s, options, m, out, scratch(s.beam.shape[0], s.recent.shape[0], vocabulary))
    return FINE, trimmed(s), out, filled


@entry
def trace(s: Arrays, m: Models, ended: bool, out: NDArray[np.float64]) -> tuple[int, float]:
    """Write the uncommitted tokens of the best hypothesis to `out` (M, 4); the state changes only if `ended`.

    Args:
        ended: the text is complete, so hypotheses are scored as such and the best of those comes to the front.

    Returns:
        the number of tokens; the share of hypotheses that have the word that the best one ends with.
    """
    w = scratch(1, s.recent.shape[0], s.recent.shape[1])
    if ended:
        _settle(s, m)
    length = _trace(s, w)
    _write(s, length, out, np.int64(0), w)
    return length, agreement(s, s.beam[0], m.space)
