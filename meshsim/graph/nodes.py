"""The node graph: mesh points joined along the edges of the cells."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from meshsim.check import InputError, check_known
from meshsim.graph.mesh_graph import (
    MeshGraph,
    NodeType,
    directed,
    edge_vectors,
    sorted_directed,
    sorted_edges,
)
from meshsim.graph.periodic import Periodic, as_periodic, join_points
from meshsim.mesh import Boundary, Mesh
from meshsim.ops.adjacency import check_edges

# A point on two boundaries takes the later type: no slip beats the profile that meets it.
_PRIORITY = [
    NodeType.NORMAL,
    NodeType.INFLOW,
    NodeType.OUTFLOW,
    NodeType.HANDLE,
    NodeType.WALL,
    NodeType.OBSTACLE,
    NodeType.AIRFOIL,
]
# Parts of names; those in the second list only as whole words.
_PARTS = {
    NodeType.INFLOW: (["inlet", "inflow", "farfield", "freestream"], []),
    NodeType.OUTFLOW: (["outlet", "outflow"], []),
    NodeType.AIRFOIL: (["airfoil", "aerofoil", "naca"], ["wing", "wings"]),
    NodeType.OBSTACLE: (["cylinder", "obstacle"], ["body", "car"]),
    NodeType.WALL: (["wall"], ["top", "bottom", "side", "sides"]),
}
# OpenFOAM's patch types on which nothing is known in advance.
_OPEN_KINDS = ("empty", "symmetry", "symmetryplane", "wedge", "cyclic", "cyclicami", "processor")

_OPEN_PARTS = ("periodic", "cyclic", "symmetry")


def guess_node_type(name: str, kind: str = "") -> NodeType:
    """The node type that a boundary's name suggests, NORMAL if none.

    Arguments:
        name: of the boundary.
        kind: what the file says it is (an OpenFOAM patch type), or "".

    >>> [guess_node_type(name).name for name in ("Inlet", "upper wall", "cylinder", "symmetry")]
    ['INFLOW', 'WALL', 'OBSTACLE', 'NORMAL']
    """
    if kind.lower() in _OPEN_KINDS or any(part in name.lower() for part in _OPEN_PARTS):
        return NodeType.NORMAL
    words = re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower())
    for node_type, (parts, whole) in _PARTS.items():
        if any(part in name.lower() for part in parts) or any(word in whole for word in words):
            return node_type
    return NodeType.WALL if kind.lower() == "wall" else NodeType.NORMAL


def node_graph(
    mesh: Mesh,
    *,
    node_types: Mapping[str, str | int] | None = None,
    periodic: Sequence[Periodic | Sequence[str]] | None = None,
) -> MeshGraph:
    """The graph of a mesh's points, joined along the edges of its cells, both ways.

    Arguments:
        mesh: any mesh; points of no cell become nodes without edges.
        node_types: {boundary: name or number of a `NodeType`}; boundaries that are not named, or
            all with None, get what `guess_node_type` says. A point on several boundaries is a
            wall sooner than an outflow, and that sooner than an inflow. With None a whole-number
            point field "node_type" of the mesh counts instead, if there is one.
        periodic: pairs of boundaries to join: their points share nodes.

    Raises:
        InputError: unknown boundary or node type; periodic sides that do not match.

    >>> mesh = Mesh([[0., 0.], [1., 0.], [1., 1.], [0., 1.]], {"quad": [[0, 1, 2, 3]]})
    >>> node_graph(mesh).edge_index.tolist()
    [[1, 3, 0, 2, 1, 3, 0, 2], [0, 0, 1, 1, 2, 2, 3, 3]]
    """
    points, pairs = mesh.points, mesh.edges
    here = torch.arange(mesh.n_points, device=points.device)
    point_node = node_point = here
    joined = as_periodic(periodic)
    if joined:
        point_node, node_point = join_points(mesh, joined)
    n = len(node_point)
    if joined:
        edges = torch.stack(directed(pairs))  # (2, E) of points: neighbours, images or not
        order = sorted_edges(point_node[edges[0]], point_node[edges[1]], n)
        away = points[edges[0, order]] - points[edges[1, order]]
        order = order[_distinct((point_node[edges[0]] + n * point_node[edges[1]])[order], away)]
        edges = edges[:, order]
    else:
        edges = sorted_directed(pairs, n)
    graph = MeshGraph(
        pos=points[node_point],
        edge_index=point_node[edges] if joined else edges,
        edge_attr=edge_vectors(points, edges),
        node_type=_known_types(mesh, node_types, point_node, node_point),
        point_node=point_node,
        node_point=node_point,
    )
    check_edges(graph.edge_index, n)
    return graph


def _distinct(key: Tensor, offset: Tensor) -> Tensor:
    """Rows to keep of edges sorted by `key`: copies of one edge on both sides count once.

    Edges between the same nodes stay apart if they reach different images.
    """
    direction = torch.linspace(1.0, 0.5, offset.shape[1], dtype=offset.dtype, device=offset.device)
    along = (offset @ direction.sqrt()).sort(stable=True).indices
    order = along[key[along].sort(stable=True).indices]
    same = key[order][1:] == key[order][:-1]
    step = (offset[order][1:] - offset[order][:-1]).norm(dim=1)
    copy = same & (step <= 1e-4 * offset[order][1:].norm(dim=1))
    keep = torch.ones(len(key), dtype=torch.bool, device=key.device)
    keep[order[1:][copy]] = False
    return keep.nonzero().squeeze(1)


def _known_types(
    mesh: Mesh, given: Mapping[str, str | int] | None, point_node: Tensor, node_point: Tensor
) -> Tensor:
    kept = mesh.point_fields.get("node_type")
    if given or kept is None or kept.is_floating_point() or kept.dim() != 1:
        return _node_types(mesh, given or {}, point_node, len(node_point))
    wrong = (kept < 0) | (kept >= int(NodeType.SIZE))
    if bool(wrong.any()):
        raise InputError(f"`node_type`: expected 0..{NodeType.SIZE - 1}, got {int(kept[wrong][0])}")
    return kept[node_point].long()


def _node_types(mesh: Mesh, given: Mapping[str, str | int], point_node: Tensor, n: int) -> Tensor:
    for name in given:
        check_known(name, mesh.boundaries, "boundary")
    rank = torch.zeros(n, dtype=torch.int64, device=point_node.device)
    for name, boundary in mesh.boundaries.items():
        node_type = _as_type(given, name, boundary)
        place = _PRIORITY.index(node_type)
        nodes = point_node[mesh.boundary_points(name)]
        rank[nodes] = rank[nodes].clamp_min(place)
    return torch.tensor([int(t) for t in _PRIORITY], device=rank.device)[rank]


def _as_type(given: Mapping[str, str | int], name: str, boundary: Boundary) -> NodeType:
    if name not in given:
        return guess_node_type(name, boundary.kind)
    wanted = given[name]
    names = [t.name for t in NodeType if t is not NodeType.SIZE]
    if isinstance(wanted, str):
        check_known(wanted.upper(), names, f"node type of boundary {name!r}:")
        return NodeType[wanted.upper()]
    if wanted not in [int(NodeType[t]) for t in names]:
        raise InputError(f"node type of boundary {name!r}: expected 0..6, got {wanted}")
    return NodeType(wanted)
