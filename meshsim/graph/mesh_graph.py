"""MeshGraph: a mesh as torch_geometric data, edges sorted by receiver."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch_geometric.data import Batch, Data

from meshsim.check import check_length
from meshsim.ops.adjacency import adjacency

_ROWS = 1 << 17  # that are worked on at a time


class NodeType(IntEnum):
    """What a node is, numbered as in MeshGraphNets (Pfaff et al., ICLR 2021); one-hot of SIZE."""

    NORMAL = 0
    OBSTACLE = 1
    AIRFOIL = 2
    HANDLE = 3
    INFLOW = 4
    OUTFLOW = 5
    WALL = 6
    SIZE = 9


class MeshGraph(Data):
    """A graph of the points or cells of a mesh; made by `node_graph` and `cell_graph`.

    Attributes:
        pos: (N, D) positions.
        edge_index: (2, E) int64, row 0 senders, row 1 receivers, sorted by receiver, then sender.
        edge_attr: (E, D + 1), from receiver to sender and its length; across a periodic
            boundary it points at the nearest image.
        node_type: (N,) int64, of `NodeType`.
        point_node, node_point: (P,) the node of each mesh point, (N,) the first point of each
            node; int64, on graphs of points. Points joined by periodicity share a node.
        cell_node: (C,) the node of each cell, on graphs of cells.
        area: (E, D) area vector of the face between two cells, from sender into receiver.
        face: (E,) int64, that face's number in `mesh.faces`.
        n_faces: how many faces the mesh has.

    Batches of graphs are made with `batch` (or PyG's own loaders).
    """

    def __inc__(self, key: str, value: Any, *args: Any, **kwargs: Any) -> Any:
        if key in ("point_node", "cell_node"):
            return self.num_nodes
        if key == "node_point":
            return self.point_node.shape[0]
        if key == "face":
            return self.n_faces
        return super().__inc__(key, value, *args, **kwargs)


def sorted_edges(
    sender: Int[Tensor, " E"], receiver: Int[Tensor, " E"], n: int
) -> Int[Tensor, " E"]:
    """(E,) the order that sorts edges by receiver, then sender; stable."""
    return (receiver * n + sender).sort(stable=True).indices


def sorted_directed(pairs: Int[Tensor, "n 2"], n: int) -> Int[Tensor, "2 E"]:
    """(2, E) both directions of distinct undirected pairs, sorted by receiver, then sender."""
    low, high = pairs.unbind(1)
    key = torch.cat([high * n + low, low * n + high])
    if key.device.type == "cpu":
        key.numpy().sort()  # in its place: large meshes have no memory to spare
    else:
        key = key.sort().values
    out = torch.empty((2, len(key)), dtype=torch.int64, device=key.device)
    torch.div(key, max(n, 1), rounding_mode="floor", out=out[1])
    torch.remainder(key, max(n, 1), out=out[0])
    return out


def edge_vectors(points: Float[Tensor, "P D"], edges: Int[Tensor, "2 E"]) -> Float[Tensor, "E D+1"]:
    """(E, D + 1): the way from receiver to sender, and its length.

    Without gradients it is filled part by part: large meshes have no memory to spare.
    """
    if points.requires_grad:
        away = points[edges[0]] - points[edges[1]]
        return torch.cat([away, away.norm(dim=1, keepdim=True)], 1)
    out = points.new_empty(edges.shape[1], points.shape[1] + 1)
    for start in range(0, edges.shape[1], _ROWS):
        rows = slice(start, start + _ROWS)
        away = points[edges[0, rows]] - points[edges[1, rows]]
        out[rows, :-1] = away
        out[rows, -1] = away.norm(dim=1)
    return out


def rowptr(graph: Data) -> Int[Tensor, " R"]:
    """(N + 1,) int64: node i receives the edges `rowptr[i]:rowptr[i + 1]`.

    It is derived after batching and kept with the edge list, not in the graph's storage, where
    PyG would concatenate it wrongly.
    """
    return adjacency(graph.edge_index, graph.num_nodes).rowptr


def batch(graphs: Sequence[MeshGraph]) -> MeshGraph:
    """One graph of several that are not joined; `batch` (N,) says which each node came from."""
    return Batch.from_data_list(list(graphs))


def unbatch(values: Shaped[Tensor, "N ..."], graphs: MeshGraph) -> list[Shaped[Tensor, "n ..."]]:
    """Node values of a batch, graph by graph; of a single graph, in a list of one.

    Arguments:
        values: (N, …), N over all graphs.
        graphs: of `batch`.
    """
    ptr = getattr(graphs, "ptr", None)
    return [values] if ptr is None else list(values.split(ptr.diff().tolist()))


def to_points(graph: MeshGraph, values: Shaped[Tensor, "N ..."]) -> Shaped[Tensor, "P ..."]:
    """Node values (N, …) on the points of the mesh (P, …)."""
    check_length(values, graph.num_nodes, "values", "nodes")
    return values.index_select(0, graph.point_node)


def from_points(graph: MeshGraph, values: Shaped[Tensor, "P ..."]) -> Shaped[Tensor, "N ..."]:
    """Point values (P, …) on the nodes (N, …); of points that share a node, the first counts."""
    check_length(values, graph.point_node.shape[0], "values", "points")
    return values.index_select(0, graph.node_point)


def directed(pairs: Int[Tensor, "n 2"]) -> tuple[Int[Tensor, " E"], Int[Tensor, " E"]]:
    """Senders and receivers of undirected pairs: each one forth, then each one back."""
    forth, back = pairs.unbind(1)
    return torch.cat([forth, back]), torch.cat([back, forth])
