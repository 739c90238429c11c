"""Parts of a graph with a halo about each: what a model gives on them is what it gives on all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from meshsim.check import InputError, WorkError, check_known, check_length
from meshsim.graph.mesh_graph import MeshGraph

_OF_EDGES = ("area", "face")
_OF_MESH = ("point_node", "node_point", "cell_node")  # a part has no mesh of its own


@dataclass(frozen=True)
class Part:
    """A part of a graph.

    Arguments:
        graph: its nodes and those about it, numbered anew in the order of the whole graph; without
            the table between nodes and the mesh's points or cells.
        nodes: (n,) int64, rising: their numbers in the whole graph.
        edges: (e,) int64, rising: those of its edges.
        own: (n,) the nodes that are its own; every node is some part's own, and of one only.
    """

    graph: MeshGraph
    nodes: Int[Tensor, " n"]
    edges: Int[Tensor, " e"]
    own: Bool[Tensor, " n"]


def partition(
    graph: MeshGraph,
    parts: int | Int[Tensor, " N"],
    hops: int | None,
    method: str = "bisection",
) -> list[Part]:
    """Cut a graph into parts, each with all nodes that its own can feel.

    A node at distance d from a part's own nodes is right after L − d of L message passing blocks;
    with a halo of L nodes deep, a part's own nodes are right after all, and the sum over parts of
    a loss on own nodes has the whole graph's gradient.

    Arguments:
        graph: a single one.
        parts: how many, at most as many as nodes; or (N,) int64, which one each node belongs to,
            as `preprocess` stores it.
        hops: depth of the halo in edges: a model's own `hops`.
        method: "bisection" or "metis", of `labels`.

    Raises:
        InputError: a batch, no nodes, more parts than nodes, labels of another graph, or a model
            that feels any distance.

    >>> import torch
    >>> line = torch.tensor([[1, 0, 2, 1, 3, 2], [0, 1, 1, 2, 2, 3]])
    >>> graph = MeshGraph(pos=torch.arange(4.0)[:, None], edge_index=line)
    >>> [(part.nodes.tolist(), part.own.tolist()) for part in partition(graph, 2, hops=1)]
    [([0, 1, 2], [True, True, False]), ([1, 2, 3], [False, True, True])]
    """
    if hops is None:
        raise InputError("`hops`: None, the model feels nodes at any distance: it has no halo")
    if hops < 0:
        raise InputError(f"`hops`: expected 0 or more, got {hops}")
    if getattr(graph, "ptr", None) is not None:
        raise InputError("`graph`: expected a single graph, got a batch")
    where = _told(graph, parts) if isinstance(parts, Tensor) else labels(graph, parts, method)
    sender, receiver = graph.edge_index
    far = (graph.pos[sender] - graph.pos[receiver]).norm(dim=1)  # (E,)
    mean = far.mean()[None] if len(far) and float(far.mean()) > 0 else graph.pos.new_ones(1)
    made = [_part(graph, where == i, hops) for i in where.unique().tolist()]
    for part in made:
        part.graph.mean_edge = mean  # by which a transformer scales places
    return made


def _told(graph: MeshGraph, where: Tensor) -> Tensor:
    check_length(where, graph.pos.shape[0], "parts", "nodes")
    if where.dim() != 1 or where.is_floating_point() or not len(where):
        raise InputError(f"`parts`: expected (N,) whole numbers, got {tuple(where.shape)}")
    return where.to(graph.pos.device)


def labels(graph: MeshGraph, parts: int, method: str = "bisection") -> Int[Tensor, " N"]:
    """(N,) int64: which part each node belongs to, parts of equal size to within a node or so.

    Arguments:
        graph: with `pos` (N, D) for "bisection", edges for "metis".
        parts: how many.
        method: "bisection" halves the longest side of the box about the nodes, and so on (Berger
            and Bokhari, IEEE Trans. Comput. 36, 1987); "metis" cuts few edges (Karypis and Kumar,
            SIAM J. Sci. Comput. 20, 1998), so that halos are smaller; it needs pymetis.

    Raises:
        InputError: no nodes, more parts than nodes, or an unknown method.
        WorkError: pymetis is not installed.
    """
    n = graph.pos.shape[0]
    if not 1 <= parts <= n:
        raise InputError(f"`parts`: expected 1 to {n}, the number of nodes, got {parts}")
    check_known(method, ("bisection", "metis"), "method")
    if method == "metis":
        return _metis(graph, parts)
    where = torch.zeros(n, dtype=torch.int64)
    _bisect(graph.pos.detach().cpu().double(), torch.arange(n), 0, parts, where)
    return where.to(graph.pos.device)


def _bisect(
    pos: Float[Tensor, "N D"], nodes: Int[Tensor, " n"], first: int, parts: int, where: Tensor
) -> None:
    if parts == 1:
        where[nodes] = first
        return
    places = pos[nodes]
    axis = int((places.amax(0) - places.amin(0)).argmax())
    order = places[:, axis].sort(stable=True).indices
    left = parts // 2
    cut = len(nodes) * left // parts
    _bisect(pos, nodes[order[:cut]], first, left, where)
    _bisect(pos, nodes[order[cut:]], first + left, parts - left, where)


def _metis(graph: MeshGraph, parts: int) -> Tensor:
    try:
        import pymetis
    except ImportError as error:
        raise WorkError("method 'metis' needs pymetis: pip install 'meshsim[partition]'") from error
    from meshsim.graph.mesh_graph import rowptr

    sender, receiver = graph.edge_index.cpu()
    if parts == 1 or not len(sender):
        return labels(graph, parts)
    loops = sender == receiver  # METIS wants none
    if loops.any():
        graph = MeshGraph(
            pos=graph.pos, edge_index=graph.edge_index[:, ~loops.to(graph.pos.device)]
        )
        sender = graph.edge_index[0].cpu()
    options = pymetis.Options(seed=0)
    _, found = pymetis.part_graph(
        parts, xadj=rowptr(graph).cpu().numpy(), adjncy=sender.numpy(), options=options
    )
    return torch.as_tensor(found, dtype=torch.int64).to(graph.pos.device)


def _part(graph: MeshGraph, own: Bool[Tensor, " N"], hops: int) -> Part:
    sender, receiver = graph.edge_index
    felt, inner = own, torch.zeros_like(own)
    for _ in range(hops):
        inner = felt
        felt = felt.clone()
        felt[sender[inner[receiver]]] = True
    nodes, edges = felt.nonzero()[:, 0], inner[receiver].nonzero()[:, 0]
    new = torch.full((len(own),), -1, dtype=torch.int64, device=own.device)
    new[nodes] = torch.arange(len(nodes), device=own.device)
    out = MeshGraph()
    for key, value in graph.to_dict().items():
        if key in _OF_MESH:
            continue
        if key == "edge_index":
            value = new[value[:, edges]]
        elif key in _OF_EDGES or graph.is_edge_attr(key):
            value = value[edges]
        elif graph.is_node_attr(key):
            value = value[nodes]
        setattr(out, key, value)
    return Part(out, nodes, edges, own[nodes])


def assemble(parts: Sequence[Part], values: Sequence[Tensor]) -> Tensor:
    """The whole graph's values (N, …) of those of its parts (n, …): of each its own nodes'.

    Arguments:
        parts: all parts of one graph.
        values: of each part, in its order.

    Raises:
        InputError: not one array for each part, or one of another length.
    """
    if len(values) != len(parts):
        raise InputError(f"`values`: expected {len(parts)} arrays, one a part, got {len(values)}")
    for i, (part, rows) in enumerate(zip(parts, values, strict=True)):
        check_length(rows, len(part.nodes), f"values[{i}]", "nodes of the part")
    rows = torch.cat([v[part.own] for part, v in zip(parts, values, strict=True)])
    order = torch.cat([part.nodes[part.own] for part in parts]).argsort()
    return rows[order]
