"""Masks for attention on a mesh graph: its edges, more hops, rings, long edges, global nodes."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from meshsim.check import InputError, check_index, check_shape
from meshsim.ops.attention import entries_by_column
from meshsim.ops.segment import check_rowptr

# Masks by edge list, dropped with it.
_known = WeakTensorKeyDictionary()
# Pairs of single graphs by content: batches of the same graphs share the work.
_pairs: OrderedDict[tuple[Any, ...], np.ndarray] = OrderedDict()
_ROOM = 1 << 28  # bytes


@dataclass(frozen=True, eq=False)
class Mask:
    """Whom each row attends to; rows and columns are the nodes, then the global nodes.

    Arguments:
        rowptr, col: (R + 1,), (E,) int64: row i attends to `col[rowptr[i]:rowptr[i + 1]]`, rising.
        colptr, eperm: (R + 1,), (E,): the entries of column j are `eperm[colptr[j]:…]`, rising.
        edge: (E,) the mesh edge that an entry is (the first of several), −1 for none.
        graph: (R,) the graph of the batch that a row belongs to.
    """

    rowptr: Tensor
    col: Tensor
    colptr: Tensor
    eperm: Tensor
    edge: Tensor
    graph: Tensor


def widen(
    edge_index: Int[Tensor, "2 E"],
    ptr: Int[Tensor, " B"],
    *,
    window: int = 1,
    rings: Sequence[int] = (),
    random_edges: float = 0.0,
    seed: int = 0,
    global_nodes: int = 0,
    self_edges: bool = True,
) -> Mask:
    """The mask of a graph or batch, made once and kept as long as the edge list.

    Node i attends to the nodes whose messages reach it in at most `window` hops (the sum of
    powers of the adjacency, Garnier et al., arXiv:2508.18051, §3), to those exactly as many hops
    away as `rings` says (dilated windows), to the other ends of random long edges, and to the
    global nodes of its graph, which attend to all of it and to each other (BigBird, Zaheer et
    al., NeurIPS 2020, §2).

    Arguments:
        edge_index: (2, E) int64, senders and receivers, rising by receiver; several edges between
            the same nodes count as one.
        ptr: (B + 1,) int64: graph g has the nodes ptr[g]:ptr[g + 1].
        window: K; 0 leaves the mesh edges out.
        rings: distances in hops.
        random_edges: how many undirected random edges there are for each undirected mesh edge.
            They depend on the graph's edges, its numbering and `seed`, not on the batch.
        seed: of the random edges.
        global_nodes: how many each graph has; those of graph g follow the nodes of all graphs.
        self_edges: whether nodes attend to themselves.

    Raises:
        InputError: options below 0, a ring below 1, an edge between graphs, receivers that do
            not rise.

    >>> line = torch.tensor([[1, 0, 2, 1], [0, 1, 1, 2]])
    >>> widen(line, torch.tensor([0, 3]), window=2).rowptr
    tensor([0, 3, 6, 9])
    """
    _check(window, rings, random_edges, global_nodes)
    size = len(edge_index.T), len(ptr)
    options = (window, tuple(rings), random_edges, seed, global_nodes, self_edges)
    key = (edge_index._version, size, tuple(ptr.tolist()), options)
    masks = _known.setdefault(edge_index, {})
    if key not in masks:
        stale = [k for k in masks if k[0] != edge_index._version]
        for k in stale:
            del masks[k]
        masks[key] = _make(edge_index, ptr, options)
    return masks[key]


def _check(window: int, rings: Sequence[int], random_edges: float, global_nodes: int) -> None:
    for name, value in (
        ("window", window),
        ("random_edges", random_edges),
        ("global_nodes", global_nodes),
    ):
        if not value >= 0:
            raise InputError(f"`{name}`: expected 0 or more, got {value}")
    for ring in rings:
        if ring < 1:
            raise InputError(f"`rings`: expected distances of 1 or more, got {ring}")


def _make(edge_index: Tensor, ptr: Tensor, options: tuple[Any, ...]) -> Mask:
    n, graphs = int(ptr[-1]), len(ptr) - 1
    check_shape(edge_index, (2, None), "edge_index")
    check_rowptr(ptr, n)
    check_index(edge_index.T, n, "edge_index", "nodes")
    sender, receiver = edge_index.cpu().numpy()
    first = ptr.cpu().numpy()
    if (np.diff(receiver) < 0).any():
        raise InputError("`edge_index`: expected edges sorted by receiver")
    edges = np.searchsorted(receiver, first)  # the edges of graph g are edges[g]:edges[g + 1]
    parts, places = [], []
    for g in range(graphs):
        low, high = first[g], first[g + 1]
        part = slice(edges[g], edges[g + 1])
        ends = np.stack([receiver[part], sender[part]]) - low  # (2, e)
        if ends.size and (ends[1].min() < 0 or ends[1].max() >= high - low):
            raise InputError(f"`edge_index`: expected no edge out of graph {g}")
        pairs = _kept_pairs(ends, int(high - low), options)  # (3, e')
        parts.append(pairs[:2] + low)
        places.append(np.where(pairs[2] < 0, -1, pairs[2] + edges[g]))
    row, col = np.concatenate([*parts, np.zeros((2, 0), np.int64)], 1)
    edge = np.concatenate([*places, np.zeros(0, np.int64)])
    graph = np.repeat(np.arange(graphs), np.diff(first))
    if options[4]:
        row, col, edge, graph = _with_global(row, col, edge, graph, graphs, options[4])
    return _tables(row, col, edge, graph, edge_index.device)


def _tables(
    row: np.ndarray, col: np.ndarray, edge: np.ndarray, graph: np.ndarray, device: torch.device
) -> Mask:
    ends = np.arange(len(graph) + 1)
    rowptr = torch.from_numpy(np.searchsorted(row, ends)).to(device)
    columns = torch.from_numpy(col.copy()).to(device)
    colptr, eperm = entries_by_column(columns, len(graph))
    of, kind = (torch.from_numpy(x.copy()).to(device) for x in (edge, graph))
    return Mask(rowptr, columns, colptr, eperm, of, kind)


def _with_global(
    row: np.ndarray, col: np.ndarray, edge: np.ndarray, graph: np.ndarray, graphs: int, each: int
) -> tuple[np.ndarray, ...]:
    """The pairs with `each` global nodes a graph, numbered after all nodes."""
    n = len(graph)
    own = n + np.arange(graphs * each).reshape(graphs, each)  # (B, G)
    node = np.repeat(np.arange(n), each)
    hub = own[graph].reshape(-1)  # (N G,) one for each pair of node and global node
    a = np.repeat(own, each, 1).reshape(-1)  # (B G²,)
    b = np.tile(own, (1, each)).reshape(-1)
    row, col = np.concatenate([row, node, hub, a]), np.concatenate([col, hub, node, b])
    edge = np.concatenate([edge, np.full(len(row) - len(edge), -1)])
    order = np.lexsort((col, row))
    graph = np.concatenate([graph, np.repeat(np.arange(graphs), each)])
    return row[order], col[order], edge[order], graph


def _kept_pairs(ends: np.ndarray, n: int, options: tuple[Any, ...]) -> np.ndarray:
    """The pairs of one graph, from the cache if its like was met before."""
    window, rings, share, seed, _, self_edges = options
    content = hashlib.blake2b(np.ascontiguousarray(ends).tobytes(), digest_size=16).digest()
    key = (content, n, window, rings, share, seed, self_edges)
    if key in _pairs:
        _pairs.move_to_end(key)
        return _pairs[key]
    pairs = _pairs_of(ends, n, window, rings, share, seed, self_edges)
    _pairs[key] = pairs
    while len(_pairs) > 1 and sum(p.nbytes for p in _pairs.values()) > _ROOM:
        _pairs.popitem(last=False)
    return pairs


def _pairs_of(
    ends: np.ndarray,
    n: int,
    window: int,
    rings: tuple[int, ...],
    share: float,
    seed: int,
    self_edges: bool,
) -> np.ndarray:
    """(3, e) receivers, senders and mesh edges (or −1) of one graph, rising."""
    mesh, first = np.unique(ends[0] * n + ends[1], return_index=True)
    row, col = np.divmod(mesh, max(n, 1))
    apart = row != col
    keys = _near(row[apart], col[apart], n, window, rings)
    if share:
        own = mesh[apart]
        keys.append(_random(own, n, round(share * _undirected(own, n)), seed))
    if self_edges:
        keys.append(np.arange(n) * (n + 1))
    key = np.unique(np.concatenate([*keys, np.zeros(0, np.int64)]))
    place = np.searchsorted(mesh, key)
    found = place < len(mesh)
    found[found] = mesh[place[found]] == key[found]
    edge = np.full(len(key), -1)
    edge[found] = first[place[found]]
    return np.stack([*np.divmod(key, max(n, 1)), edge]).astype(np.int64)


def _near(
    row: np.ndarray, col: np.ndarray, n: int, window: int, rings: tuple[int, ...]
) -> list[np.ndarray]:
    """Keys row · n + column of the pairs at the distances asked for, a list for each distance."""
    from scipy.sparse import csr_array, eye_array

    if n == 0:
        return []
    mesh = csr_array((np.ones(len(row), bool), (row, col)), shape=(n, n))
    seen, ring, out = eye_array(n, dtype=bool, format="csr"), mesh, []
    for distance in range(1, max(window, *rings, 0) + 1):
        if distance > 1:
            ring = (ring @ mesh) > seen
        seen = seen + ring
        if distance <= window or distance in rings:
            found = ring.tocoo()
            out.append(found.row.astype(np.int64) * n + found.col)
    return out


def _undirected(keys: np.ndarray, n: int) -> int:
    """How many undirected edges keys row · n + column stand for."""
    row, col = np.divmod(keys, max(n, 1))
    return len(np.unique(np.minimum(row, col) * n + np.maximum(row, col)))


def _random(mesh: np.ndarray, n: int, count: int, seed: int) -> np.ndarray:
    """Keys of `count` random pairs, both ways, none of them in `mesh`; fewer if there are no more.

    `mesh` holds keys of pairs of different nodes.
    """
    draw = np.random.default_rng([seed, n])
    count = min(count, n * (n - 1) // 2 - _undirected(mesh, n))
    found = np.zeros(0, np.int64)
    while len(found) < count:
        a, b = draw.integers(0, n, (2, 2 * count + 16))
        low, high = np.minimum(a, b), np.maximum(a, b)
        forth, back = low * n + high, high * n + low
        new = (low < high) & ~np.isin(forth, mesh) & ~np.isin(back, mesh)
        found = np.concatenate([found, forth[new]])
        found = found[np.sort(np.unique(found, return_index=True)[1])]  # in order of the draw
    low, high = np.divmod(found[:count], max(n, 1))
    return np.concatenate([low * n + high, high * n + low])
