"""How much of the beam agrees on a word: the posterior that confidences are made from.

Words are compared where they stand at the same time: at the end of the hypotheses, in the frame in which the space
after the word first appears in the best one. Later most rivals have left the beam, and agreement would say nothing.
"""

from __future__ import annotations

from streamasr.compiled import inner
from streamasr.tree import AGREED, COUNT, CREATED, PARENT, ROOT, TOKEN, Arrays


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
    created = s.nodes[wanted, CREATED]  # a prefix is older than those that continue it
    for i in range(s.clock[COUNT]):
        mass = s.masses[i, 0] + s.masses[i, 1]
        total += mass
        node = s.beam[i]
        while s.nodes[node, CREATED] > created and node != s.clock[ROOT]:
            node = s.nodes[node, PARENT]
        if node == wanted:
            agreed += mass
    return agreed / total


@inner
def judge(s: Arrays, space: int) -> None:
    """Measure the agreement on each word of the best hypothesis in the frame in which its space first appears there."""
    node, latest = s.beam[0], True
    while node != s.clock[ROOT]:
        if s.nodes[node, TOKEN] == space:
            if s.values[node, AGREED] >= 0.0:  # this prefix led before, so all its words are measured
                return
            s.values[node, AGREED] = agreement(s, s.nodes[node, PARENT], space) if latest else _through(s, node)
            latest = False
        node = s.nodes[node, PARENT]
