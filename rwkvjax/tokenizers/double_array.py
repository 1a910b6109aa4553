# SPDX-License-Identifier: Apache-2.0
"""A double-array trie over token bytes, built with NumPy in a few dozen milliseconds.

Longest match restarts at the end of each token, so no Aho-Corasick links are needed: one table
look-up covers the first two bytes, then each further byte costs one dependent load. In state `b`
(the *base* of a node) the child under byte `c` lives in slot ``b + c`` if that slot's label is
``c``; slots need no parent field because no two nodes have the same base (as in J. Aoe, "An
Efficient Digital Search Algorithm by Using a Double-Array Structure", IEEE TSE 15(9), 1989, with
the check by label of the "darts" family).
"""

import dataclasses
import functools
from typing import NamedTuple

import numpy as np

from rwkvjax.tokenizers.vocab import Vocabulary

# Layouts shared with _native.c. base 0: nothing follows.
SLOT = np.dtype([("base", "<u4"), ("token", "<u2"), ("label", "<u2")])
ROOT = np.dtype([("base", "<u4"), ("token", "<u2"), ("length", "<u2")])
EMPTY = 256  # label of a free slot, equal to no byte
END = 257  # stands for "past the end" among the codes of a text, equal to no label


class Nodes(NamedTuple):
    """Trie nodes in breadth-first order; node 0 is the root."""

    parent: np.ndarray  # [N] int64
    label: np.ndarray  # [N] int64, the byte on the edge from the parent
    token: np.ndarray  # [N] int64, id of the token that ends here or 0
    depth: np.ndarray  # [N] int64


@dataclasses.dataclass(frozen=True, eq=False)
class DoubleArray:
    """Tables for longest match.

    Attributes:
        roots: [65536] ROOT, by the first two bytes (first byte high): the longest token of at most
            two bytes, its length, and the base to go on from (0: no longer token is possible).
        slots: [S] SLOT: base of the node, id of the token that ends at it or 0, and label.
        single: [256] uint16, ids of the single bytes (for the last byte of a text).
        max_length: bytes of the longest token.
    """

    roots: np.ndarray
    slots: np.ndarray
    single: np.ndarray
    max_length: int

    @property
    def nbytes(self) -> int:
        """Bytes of all tables."""
        return self.roots.nbytes + self.slots.nbytes + self.single.nbytes

    @functools.cached_property
    def columns(self) -> tuple[np.ndarray, ...]:
        """(root base, root token, root length, slot base, slot token, slot label), contiguous.

        NumPy gathers from contiguous arrays faster than from fields of records.
        """
        return (
            self.roots["base"].astype(np.int32),
            self.roots["token"].copy(),
            self.roots["length"].astype(np.uint8 if self.max_length < 256 else np.uint16),
            self.slots["base"].astype(np.int32),
            self.slots["token"].copy(),
            self.slots["label"].copy(),
        )


def trie_nodes(vocabulary: Vocabulary) -> Nodes:
    """All distinct prefixes of the tokens, level by level."""
    ids = np.flatnonzero(vocabulary.lengths)
    starts = vocabulary.offsets[ids].astype(np.int64)
    lengths = vocabulary.lengths[ids]
    node = np.zeros(ids.size, np.int64)  # where each token has got to
    columns = [(np.zeros(1, np.int64),) * 4]
    count = 1
    for depth in range(1, vocabulary.max_length + 1):
        keep = lengths >= depth
        ids, starts, lengths, node = ids[keep], starts[keep], lengths[keep], node[keep]
        edge = node * 256 + vocabulary.data[starts + (depth - 1)]
        edges, place = np.unique(edge, return_inverse=True)
        token = np.zeros(edges.size, np.int64)
        ends = lengths == depth
        token[place[ends]] = ids[ends]
        columns.append((edges >> 8, edges & 255, token, np.full(edges.size, depth)))
        node = count + place
        count += edges.size
    return Nodes(*(np.concatenate(column) for column in zip(*columns, strict=True)))


def build_double_array(vocabulary: Vocabulary) -> DoubleArray:
    """Builds the tables; takes about 0.1 s for the World vocabulary."""
    nodes = trie_nodes(vocabulary)
    deep = np.flatnonzero(nodes.depth >= 3)  # the nodes that live in slots
    base, num_slots = _place(nodes.parent[deep], nodes.label[deep], nodes.parent.size)
    slots = np.zeros(num_slots, SLOT)
    slots["label"] = EMPTY
    place = base[nodes.parent[deep]] + nodes.label[deep]
    slots["base"][place] = base[deep]
    slots["token"][place] = nodes.token[deep]
    slots["label"][place] = nodes.label[deep]

    first = np.flatnonzero(nodes.depth == 1)
    single = np.zeros(256, np.uint16)
    single[nodes.label[first]] = nodes.token[first]
    roots = np.zeros(65536, ROOT)
    roots["token"] = np.repeat(single, 256)
    roots["length"] = 1
    second = np.flatnonzero(nodes.depth == 2)
    pair = nodes.label[nodes.parent[second]] * 256 + nodes.label[second]
    roots["base"][pair] = base[second]
    whole = nodes.token[second] > 0
    roots["token"][pair[whole]] = nodes.token[second[whole]]
    roots["length"][pair[whole]] = 2
    return DoubleArray(roots, slots, single, vocabulary.max_length)


def _place(parent: np.ndarray, label: np.ndarray, num_nodes: int) -> tuple[np.ndarray, int]:
    """Finds a distinct base for each parent so that no two children share a slot.

    Args:
        parent, label: [E] the edges, sorted by parent.
        num_nodes: number of trie nodes.

    Returns:
        base [num_nodes] int64 (0 for nodes without children here) and the number of slots. The
        slots 0..255 stay empty, which makes base 0 a dead end, and 256 empty slots follow the
        last one, so that ``base + code`` is inside the table for every code up to END.
    """
    parents, start, degree = np.unique(parent, return_index=True, return_counts=True)
    size = 512 + int(label.size * 1.125)
    while True:
        placed = _try_place(start, degree, label, size)
        if placed is not None:
            base = np.zeros(num_nodes, np.int64)
            base[parents] = placed
            return base, size + END + 1
        size += size // 4


def _try_place(
    start: np.ndarray, degree: np.ndarray, label: np.ndarray, size: int
) -> np.ndarray | None:
    """Bases in a table of `size` slots, or None when some node finds no room.

    Nodes with many children go first. Each round, every node left of one degree class draws a
    random free slot for its first child; those that collide with nothing placed and with no
    earlier node of the round stay. With one child every free slot fits, so rounds are few.
    """
    random = np.random.default_rng(0)  # the tables do not depend on the run
    free = np.ones(size, bool)
    free[:256] = False
    used = np.zeros(size, bool)  # bases taken
    used[0] = True
    result = np.zeros(degree.size, np.int64)
    for children in np.unique(degree)[::-1]:
        left = np.flatnonzero(degree == children)
        edges = label[start[left][:, None] + np.arange(children)]  # [nodes, children]
        for _ in range(200):
            room = np.flatnonzero(free)
            if room.size < left.size * children:
                return None
            if room.size < 8 * left.size:  # many draws: without repetition
                first = random.permutation(room)[: left.size]
            else:
                first = room[random.integers(room.size, size=left.size)]
            base = first - edges[:, 0]
            where = np.minimum(base[:, None] + edges, size - 1)
            good = (base > 0) & (base + edges[:, -1] < size) & ~used[np.maximum(base, 0)]
            good &= free[where].all(axis=1)
            good[good] = _first_claims(base[good], where[good], size)
            result[left[good]] = base[good]
            used[base[good]] = True
            free[where[good]] = False
            left, edges = left[~good], edges[~good]
            if not left.size:
                break
        else:
            return None
    return result


def _first_claims(base: np.ndarray, where: np.ndarray, size: int) -> np.ndarray:
    """[N] bool: whose base [N] and slots [N, children] no other candidate of the round claims."""
    owner = np.empty(size, np.int64)
    order = np.arange(base.size)
    owner[base] = order
    mine = owner[base] == order
    owner[where] = order[:, None]
    return mine & (owner[where] == order[:, None]).all(axis=1)
