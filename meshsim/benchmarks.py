"""What `meshsim bench` measures: the operators that take the time, and what stands in their place.

Each case does the same work with compiled operators and with PyG, scipy or numpy. The benchmarks of
a checkout (tests/benchmarks) use the peers of this file on meshes from gmsh and at more sizes.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch_geometric.nn import MessagePassing
from torch_geometric.utils import scatter, softmax

from meshsim import ops
from meshsim.geometry.cells import cell_edges, cell_faces
from meshsim.graph.mesh_graph import directed
from meshsim.nn import MLP, MessageBlock, pass_messages
from meshsim.ops.adjacency import adjacency
from meshsim.ops.attention import entries_by_column
from meshsim.timing import Figures, measure, require

Block = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
Attention = Callable[[Tensor, Tensor, Tensor], Tensor]

EDGES = torch.tensor(cell_edges("tetra"))
FACES = torch.tensor([face for face, _ in cell_faces("tetra")])
CORNERS = ((0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (1, 1, 1), (0, 1, 1))
TETRA = ((0, 1, 2, 6), (0, 2, 3, 6), (0, 3, 7, 6), (0, 7, 4, 6), (0, 4, 5, 6), (0, 5, 1, 6))
WIDTH, HEADS, K = 128, 4, 16


@dataclass(frozen=True)
class Case:
    """One piece of work.

    Arguments:
        name: what and how large.
        ops: names of the operators under test.
        calls: how to do it, the peer first.
        exact: the same in float64, for the errors.
    """

    name: str
    ops: tuple[str, ...]
    calls: dict[str, Callable[[], tuple[Tensor, ...]]]
    exact: Callable[[], tuple[Tensor, ...]]


def cube(side: int) -> tuple[Tensor, int]:
    """(6 · side³, 4) tetrahedra of a cube, and its number of points, (side + 1)³."""
    at = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), -1).reshape(-1, 3)
    n = side + 1
    number = [((at[:, 0] + a) * n + at[:, 1] + b) * n + at[:, 2] + c for a, b, c in CORNERS]
    box = np.stack(number, 1)
    return torch.from_numpy(np.concatenate([box[:, list(t)] for t in TETRA])), n**3


def graph_of(cells: Tensor) -> tuple[Tensor, int]:
    """(2, E) edges of triangles or tetrahedra, both ways, by receiver; and the number of nodes."""
    n = int(cells.max()) + 1
    pairs = torch.tensor(list(itertools.combinations(range(cells.shape[1]), 2)))
    sender, receiver = directed(ops.cells_to_edges([(cells, pairs)], n))
    order = receiver.argsort(stable=True)
    return torch.stack([sender[order], receiver[order]]), n


def torch_layers(net: MLP) -> nn.Sequential:
    """The same network and parameters as modules of torch, which nothing here speeds up."""
    modules: list[nn.Module] = [m for layer in net.layers for m in (layer, nn.ReLU())]
    modules[-1] = nn.Identity() if net.norm is None else net.norm
    return nn.Sequential(*modules)


class Messages(MessagePassing):
    """A message block as it is written with PyG: gather, concatenate, MLP, scatter."""

    def __init__(self, edge: MLP, node: MLP):
        super().__init__(aggr="sum")
        self.edge, self.node = torch_layers(edge), torch_layers(node)

    def forward(self, x: Tensor, e: Tensor, edge_index: Tensor) -> tuple[Tensor, Tensor]:
        e = e + self.edge_updater(edge_index, x=x, e=e)
        total = self.propagate(edge_index, e=e, size=(len(x), len(x)))
        return x + self.node(torch.cat([x, total], 1)), e

    def edge_update(self, x_i: Tensor, x_j: Tensor, e: Tensor) -> Tensor:
        return self.edge(torch.cat([e, x_j, x_i], 1))

    def message(self, e: Tensor) -> Tensor:
        return e


def gathered(sender: Tensor, receiver: Tensor, nodes: int, heads: int) -> Attention:
    """Masked attention as in PyG: gather, softmax, scatter."""

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        split = (t.unflatten(1, (heads, -1)) for t in (q[receiver], k[sender], v[sender]))
        qi, kj, vj = split
        s = (qi * kj).sum(2) * kj.shape[2] ** -0.5
        p = softmax(s, receiver, num_nodes=nodes)
        return scatter((p[:, :, None] * vj).flatten(1), receiver, 0, nodes, "sum")

    return run


def numpy_faces(cells: Any) -> tuple[Any, Any]:
    """Owner and neighbour of each face of tetrahedra, inner faces first, by lexsort."""
    rows = np.sort(cells[:, FACES.numpy()].reshape(-1, 3), 1)
    order = np.lexsort((rows[:, 2], rows[:, 1], rows[:, 0]))
    rows = rows[order]
    first = np.ones(len(rows), dtype=bool)
    first[1:] = (rows[1:] != rows[:-1]).any(1)
    start = np.flatnonzero(first)
    cell = order // 4
    count = np.diff(start, append=len(rows))
    neighbour = np.where(count > 1, cell[np.minimum(start + 1, len(rows) - 1)], -1)
    owner = cell[start]
    by = np.lexsort((neighbour, owner, neighbour < 0))
    return owner[by], neighbour[by]


def _blocks(side: int) -> Iterator[Case]:
    edges, n = graph_of(cube(side)[0])
    torch.manual_seed(0)
    block = MessageBlock(WIDTH)
    plain = Messages(block.edge, block.node)
    table = adjacency(edges, n)
    x, e = torch.randn(n, WIDTH), torch.randn(edges.shape[1], WIDTH)

    def theirs(x: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        return plain(x, e, edges)

    def ours(x: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
        return pass_messages([block], x, e, table)

    def forward(run: Block, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
        block.to(dtype)
        with torch.no_grad():
            return run(x.to(dtype), e.to(dtype))

    def both(run: Block, dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
        block.to(dtype)
        leaves = [t.detach().to(dtype).requires_grad_() for t in (x, e)]
        y = run(*leaves)
        return torch.autograd.grad(y, [*leaves, *block.parameters()], [t.detach() for t in y])

    def low(call: Callable[..., tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        with torch.autocast("cpu", torch.bfloat16):
            return call(ours)

    for name, call in (("forward", forward), ("forward and backward", both)):
        yield Case(
            f"message block, {name}: {n} nodes, {edges.shape[1]} edges, width {WIDTH}",
            ("edge_block", "node_block"),
            {
                "PyG": partial(call, theirs),
                "meshsim": partial(call, ours),
                "meshsim, bfloat16 products": partial(low, call),
            },
            partial(call, theirs, torch.float64),
        )


def _attention(side: int) -> Iterator[Case]:
    edges, n = graph_of(cube(side)[0])
    table = adjacency(edges, n)
    columns = entries_by_column(table.sender, n)
    rows = torch.randn(3, n, WIDTH, generator=torch.Generator().manual_seed(0))
    plain = gathered(table.sender, table.receiver, n, HEADS)

    def ours() -> tuple[Tensor, ...]:
        q, k, v = rows
        return csr(q, k, v, table.rowptr, table.sender, HEADS, columns=columns)[:1]

    csr = ops.csr_attention
    yield Case(
        f"masked attention, forward: {n} nodes, {edges.shape[1]} entries, {HEADS} heads,"
        f" width {WIDTH}",
        ("csr_attention",),
        {"PyG": lambda: (plain(*rows),), "meshsim": ours},
        lambda: (plain(*rows.double()),),
    )


def _segment(side: int) -> Iterator[Case]:
    edges, n = graph_of(cube(side)[0])
    receiver, rowptr = edges[1], adjacency(edges, n).rowptr
    x = torch.randn(len(receiver), WIDTH, generator=torch.Generator().manual_seed(0))

    def add(x: Tensor) -> tuple[Tensor, ...]:
        return (x.new_zeros(n, WIDTH).index_add_(0, receiver, x),)

    def normalise(x: Tensor) -> tuple[Tensor, ...]:
        return (softmax(x, receiver, num_nodes=n),)

    def ours(op: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        return (op(x, rowptr, receiver),)

    for name, peer, plain, op in (
        ("sum", "torch index_add_", add, ops.segment_sum),
        ("softmax", "PyG", normalise, ops.segment_softmax),
    ):
        yield Case(
            f"segment {name}: {len(receiver)} rows of {WIDTH} into {n}",
            (f"segment_{name}",),
            {peer: partial(plain, x), "meshsim": partial(ours, op)},
            partial(plain, x.double()),
        )


def _neighbors(points: int) -> Iterator[Case]:
    from scipy.spatial import cKDTree

    x = torch.rand(points, 3, generator=torch.Generator().manual_seed(0))
    known = x.double().numpy()
    r = (K / points / (4 / 3 * np.pi)) ** (1 / 3)

    def pairs() -> tuple[Tensor, ...]:
        found = cKDTree(known).query_pairs(r, output_type="ndarray")
        return (torch.tensor([2.0 * len(found) + points]),)

    def within() -> tuple[Tensor, ...]:
        return (torch.tensor([float(len(ops.radius(x, x, r)[1]))]),)

    def nearest() -> tuple[Tensor, ...]:
        return (torch.from_numpy(cKDTree(known).query(known, K)[0]),)

    yield Case(
        f"radius search, tree included: {points} points (scipy: each pair once)",
        ("radius",),
        {"scipy cKDTree": pairs, "meshsim": within},
        pairs,
    )
    yield Case(
        f"{K} nearest neighbours, tree included: {points} points",
        ("knn",),
        {"scipy cKDTree": nearest, "meshsim": lambda: ops.knn(x, x, K)[1:]},
        nearest,
    )


def _tables(side: int) -> Iterator[Case]:
    cells, n = cube(side)
    known, ids = cells.numpy(), torch.arange(len(cells))

    def unique() -> tuple[Tensor, ...]:
        pairs = known[:, EDGES.numpy()].reshape(-1, 2)
        keys = np.unique(pairs.min(1) * n + pairs.max(1))
        return (torch.from_numpy(np.stack([keys // n, keys % n], 1)),)

    def faces() -> tuple[Tensor, ...]:
        table = ops.cells_to_faces([(cells, FACES, ids)], n, 3)
        return table.owner, table.neighbour

    def sort() -> tuple[Tensor, ...]:
        owner, neighbour = numpy_faces(known)
        return torch.from_numpy(owner), torch.from_numpy(neighbour)

    yield Case(
        f"edges of {len(cells)} tetrahedra",
        ("cells_to_edges",),
        {"np.unique": unique, "meshsim": lambda: (ops.cells_to_edges([(cells, EDGES)], n),)},
        unique,
    )
    yield Case(
        f"faces of {len(cells)} tetrahedra",
        ("cells_to_faces",),
        {"np.lexsort": sort, "meshsim": faces},
        sort,
    )


# name: (its cases, size, size with --quick)
CASES: dict[str, tuple[Callable[[int], Iterator[Case]], int, int]] = {
    "blocks": (_blocks, 30, 8),
    "attention": (_attention, 30, 8),
    "segment": (_segment, 30, 8),
    "neighbors": (_neighbors, 100_000, 2_000),
    "tables": (_tables, 40, 8),
}


def run(name: str, quick: bool = False, reference: bool = False) -> Iterator[tuple[str, Figures]]:
    """Measure the cases of one name, each in interleaved rounds against its peer.

    Arguments:
        name: of `CASES`.
        quick: small meshes and few rounds.
        reference: measure what runs, compiled or not.

    Yields:
        A case's name and {variant: {"ratio", "low", "high", "milliseconds", "peak_bytes",
        "error"}}: the peer's time over the variant's.

    Raises:
        WorkError: an operator is not compiled, and `reference` is not set.
    """
    cases, large, small = CASES[name]
    for case in cases(small if quick else large):
        if not reference:
            require(case.ops)
        exact = tuple(t.double() for t in case.exact())
        yield case.name, measure(case.calls, exact, rounds=3 if quick else 5, seconds=60.0)
