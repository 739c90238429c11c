"""Coarser and coarser levels of a graph, for models that pass messages across them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from meshsim.check import InputError, check_length
from meshsim.graph.mesh_graph import MeshGraph


@dataclass(frozen=True)
class Level:
    """A coarser level of a graph.

    Arguments:
        nodes: (n,) int64, rising: their numbers in the whole graph.
        edge_index: (2, e) int64 among the n, both ways, sorted by receiver, then sender.
        parent: (m,) int64, for each of the m nodes of the level below the one of this level that
            it is, or that is nearest of those it is joined to.
    """

    nodes: Int[Tensor, " n"]
    edge_index: Int[Tensor, "2 e"]
    parent: Int[Tensor, " m"]


def hierarchy(graph: MeshGraph, levels: int | Int[Tensor, " N"]) -> list[Level]:
    """Levels of a graph, each with at most half of the nodes of every part that is joined.

    Bi-stride pooling (Cao et al., "Efficient Learning of Mesh-Based Physical Simulation with
    Bi-Stride Multi-Scale Graph Neural Network", ICML 2023): of the rings of a breadth-first search
    every other one is kept, and those of its nodes are joined that are one or two edges apart. So
    what is joined stays joined, and what is not stays apart. Here the search starts at the node
    nearest to the middle of its part's box, and of even and odd rings the fewer nodes are kept
    (the even of as many). Rings are thinned, not what lies along them: edges become fewer more
    slowly than nodes. Where no two nodes share a place the levels do not depend on how nodes
    are numbered.

    Arguments:
        graph: a single one, edges both ways.
        levels: how many beside the graph itself, or (N,) what `level_of` gave.

    Returns:
        The levels, finer ones first; fewer than asked for where no part has two nodes any more.

    Raises:
        InputError: a batch, a negative number, labels that are none of this graph.

    >>> line = torch.tensor([[1, 0, 2, 1, 3, 2, 4, 3], [0, 1, 1, 2, 2, 3, 3, 4]])
    >>> graph = MeshGraph(pos=torch.arange(5.0)[:, None], edge_index=line)
    >>> [(level.nodes.tolist(), level.parent.tolist()) for level in hierarchy(graph, 2)]
    [([1, 3], [0, 0, 0, 1, 1]), ([1], [0, 0])]
    """
    if getattr(graph, "ptr", None) is not None:
        raise InputError("`graph`: expected a single graph, got a batch")
    n, device = graph.pos.shape[0], graph.pos.device
    pos = graph.pos.detach().cpu().double().numpy()
    sender, receiver = graph.edge_index.cpu().numpy()
    joined = csr_array((np.ones(len(sender), np.int32), (receiver, sender)), shape=(n, n))
    rank = np.empty(n, np.int64)  # by place, so that ties do not depend on the numbering
    rank[np.lexsort(pos.T[::-1])] = np.arange(n)
    said = None
    if isinstance(levels, Tensor):
        check_length(levels, n, "levels", "nodes")
        said = levels.cpu().numpy()
        if n and (said.min() < 0 or levels.is_floating_point()):
            raise InputError(f"`levels`: expected whole numbers from 0, got {said.min()}")
    elif levels < 0:
        raise InputError(f"`levels`: expected 0 or more, got {levels}")
    count = int(said.max(initial=0)) if said is not None else int(levels)  # type: ignore[arg-type]
    nodes, out = np.arange(n), []
    for k in range(1, count + 1):
        if said is None:
            keep = _alternate(joined, pos[nodes], rank[nodes])
            if len(keep) == len(nodes):
                break
        else:
            keep = np.flatnonzero(said[nodes] >= k)
        parent = _parents(joined, pos[nodes], rank[nodes], keep)
        rows = joined[keep]
        near = (rows @ joined[:, keep] + rows[:, keep]).tocoo()
        real = near.row != near.col
        order = np.lexsort((near.col[real], near.row[real]))
        edges = np.stack([near.col[real][order], near.row[real][order]]).astype(np.int64)
        joined = csr_array((np.ones(edges.shape[1], np.int32), edges[::-1]), shape=(len(keep),) * 2)
        nodes = nodes[keep]
        found = (torch.from_numpy(x).to(device) for x in (nodes, edges, parent))
        out.append(Level(*found))
    return out


def level_of(levels: list[Level], n: int) -> Int[Tensor, " n"]:
    """(n,) int64: the coarsest level that each node of a graph is on, 0 for the graph's own.

    Of these numbers `hierarchy` makes the same levels again.

    Arguments:
        levels: of `hierarchy`.
        n: nodes of the graph.
    """
    device = levels[0].nodes.device if levels else None
    out = torch.zeros(n, dtype=torch.int64, device=device)
    for k, level in enumerate(levels, 1):
        out[level.nodes] = k
    return out


def _alternate(joined: csr_array, pos: np.ndarray, rank: np.ndarray) -> np.ndarray:
    """The nodes of every other ring about the middle of each part."""
    n = len(pos)
    count, part = connected_components(joined, directed=False)
    low, high = np.full((count, pos.shape[1]), np.inf), np.full((count, pos.shape[1]), -np.inf)
    np.minimum.at(low, part, pos)
    np.maximum.at(high, part, pos)
    off = np.square(pos - ((low + high) / 2)[part]).sum(1)
    order = np.lexsort((rank, off, part))
    first = order[np.searchsorted(part[order], np.arange(count))]
    depth = np.full(n, -1)
    depth[first], ring, d = 0, first, 0
    while len(ring):
        d += 1
        near = np.unique(joined[ring].indices)
        ring = near[depth[near] < 0]
        depth[ring] = d
    odd = depth % 2
    size = np.bincount(part, minlength=count)
    many = np.bincount(part, odd, minlength=count).astype(np.int64)
    wanted = (many > 0) & (2 * many < size)
    return np.flatnonzero(odd == wanted[part])


def _parents(joined: csr_array, pos: np.ndarray, rank: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """(m,) for each node its place in `keep`, or that of the nearest it is joined to there."""
    out = np.full(len(pos), -1, np.int64)
    out[keep] = np.arange(len(keep))
    lost = np.flatnonzero(out < 0)
    rows = joined[lost].tocoo()
    sender = rows.col[out[rows.col] >= 0]
    receiver = lost[rows.row[out[rows.col] >= 0]]
    far = np.square(pos[receiver] - pos[sender]).sum(1)
    order = np.lexsort((rank[sender], far, receiver))
    receiver, sender = receiver[order], sender[order]
    first = np.flatnonzero(np.diff(receiver, prepend=-1))
    out[receiver[first]] = out[sender[first]]
    if len(alone := np.flatnonzero(out < 0)):
        raise InputError(
            f"`levels`: node {alone[0]} of a level is joined to none of the next: of another graph?"
        )
    return out
