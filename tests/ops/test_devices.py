"""A GPU against the CPU: tables are the same bits, numbers as good, and the same in every run."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from meshsim import native, ops
from meshsim.benchmarks import EDGES, FACES, cube, graph_of
from meshsim.graph import node_graph
from meshsim.models import GraphTransformer, MeshGraphNet
from meshsim.nn import MessageBlock, pass_messages
from meshsim.ops.adjacency import adjacency
from meshsim.ops.attention import entries_by_column
from tests.graph.grids import grid
from tests.ops.blocks import random, relative

pytestmark = pytest.mark.skipif(
    not native.has_kernel("edge_block", "CUDA") or not torch.cuda.is_available(),
    reason="needs a GPU and nvcc",
)


def on(device: str, call: Callable[..., object], *given: object) -> list[Tensor]:
    """All tensors of what a call gives on a device, taken back."""
    there = tree_map(lambda x: x.to(device) if isinstance(x, Tensor) else x, given)
    out = call(*there)
    return [t.detach().cpu() for t in tree_leaves(out) if isinstance(t, Tensor)]


def same_bits(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def cloud(dim: int, n: int = 20_000) -> Tensor:
    """Points that lie a million times closer on one side than on the other."""
    points = torch.rand(n, dim, dtype=torch.float64, generator=torch.Generator().manual_seed(dim))
    points[:, 0] = 10 ** (-6 * points[:, 0])
    return points


SEARCHES: dict[str, Callable[[Tensor], object]] = {
    "radius": lambda x: ops.radius(x, x[::3], 0.02),
    "nearest in reach": lambda x: ops.radius(x, x[::3], 0.05, max_neighbors=5),
    "knn": lambda x: ops.knn(x, x[::3] + 0.01, 9),
    "farthest": lambda x: ops.farthest_points(x, 300),
    "morton": ops.morton_order,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("name", SEARCHES)
def test_searches_and_orders_are_the_same_on_every_device(name: str, dim: int, dtype: torch.dtype):
    points = cloud(dim).to(dtype)
    assert same_bits(on("cuda", SEARCHES[name], points), on("cpu", SEARCHES[name], points))


def test_tables_of_cells_are_the_same_on_every_device():
    cells, n = cube(14)

    def tables(cells: Tensor) -> object:
        edges, faces = EDGES.to(cells.device), FACES.to(cells.device)
        ids = torch.arange(len(cells), device=cells.device)
        found = ops.cells_to_faces([(cells, faces, ids)], n)
        return ops.cells_to_edges([(cells, edges)], n), found

    found, wanted = on("cuda", tables, cells), on("cpu", tables, cells)
    assert len(wanted) > 4 and same_bits(found, wanted)


def test_points_are_located_in_the_same_cells():
    cells, n = cube(10)
    side = torch.arange(11.0, dtype=torch.float64)
    points = torch.cartesian_prod(side, side, side) + 0.1 * torch.sin(random(n, 3))
    queries = 12 * torch.rand(5000, 3, dtype=torch.float64) - 1
    (ids, weights), (right, exact) = (
        on(device, ops.locate, points, cells, queries) for device in ("cuda", "cpu")
    )
    assert torch.equal(ids, right)
    torch.testing.assert_close(weights, exact, rtol=0, atol=1e-12)


@pytest.fixture(scope="module")
def graph() -> tuple[Tensor, int]:
    return graph_of(cube(20)[0])  # 9,261 nodes, 120,000 edges


def block_call(
    graph: tuple[Tensor, int], activation: str, dtype: torch.dtype, edges: torch.dtype, low: bool
):
    """Values and all gradients of one block on a device."""
    torch.manual_seed(0)
    block = MessageBlock(128, activation=activation)
    x, e = random(graph[1], 128), random(graph[0].shape[1], 128, seed=1)

    def call(x: Tensor, e: Tensor, index: Tensor) -> list[Tensor]:
        block.to(x.device, dtype)
        leaves = [x.to(dtype).requires_grad_(), e.to(edges).requires_grad_()]
        with torch.autocast(x.device.type, torch.bfloat16, enabled=low):
            y = pass_messages([block], *leaves, adjacency(index, graph[1]))
        grads = torch.autograd.grad(y, [*leaves, *block.parameters()], [t.detach() for t in y])
        return [*y, *grads]

    return call, (x, e, graph[0])


@pytest.mark.parametrize(
    ("activation", "edges", "low", "most"),
    [
        ("silu", torch.float32, False, 1e-5),
        ("relu", torch.float32, False, 2e-3),  # one that rounding turns over changes its gradient
        ("silu", torch.float32, True, 2e-2),
        ("silu", torch.bfloat16, True, 2e-2),
    ],
)
def test_a_block_is_right_and_the_same_in_every_run(graph, activation, edges, low, most):
    call, given = block_call(graph, activation, torch.float32, edges, low)
    runs = [on("cuda", call, *given) for _ in range(3)]
    assert same_bits(runs[0], runs[1]) and same_bits(runs[0], runs[2])
    exact, given = block_call(graph, activation, torch.float64, torch.float64, False)
    errors = [relative(a, b) for a, b in zip(runs[0], on("cpu", exact, *given), strict=True)]
    assert max(errors) < most and errors[0] < (1e-6 if not low else 1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_attention_is_right_and_the_same_in_every_run(graph, dtype):
    index, n = graph
    rows = [random(n, 64, seed=i) for i in range(4)]

    def attend(index: Tensor, grad: Tensor, *rows: Tensor) -> object:
        table = adjacency(index, n)
        leaves = [r.detach().requires_grad_() for r in rows]
        columns = entries_by_column(table.sender, n)
        out, lse = ops.csr_attention(*leaves, table.rowptr, table.sender, 4, columns=columns)
        return out, lse, torch.autograd.grad(out, leaves, grad)

    low = [r.to(dtype) for r in rows]
    runs = [on("cuda", attend, index, *low) for _ in range(3)]
    assert same_bits(runs[0], runs[1]) and same_bits(runs[0], runs[2])
    exact = on("cpu", attend, index, *(r.double() for r in low))
    most = {torch.float32: 2e-6, torch.float64: 1e-13, torch.bfloat16: 2e-2}[dtype]
    assert max(relative(a, b) for a, b in zip(runs[0], exact, strict=True)) < most


@pytest.mark.parametrize("name", ["sum", "mean", "softmax", "logsumexp"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_reductions_are_right_and_the_same_in_every_run(graph, name, dtype):
    index, n = graph
    x = random(index.shape[1], 96).to(dtype)
    by_segment, by_index = getattr(ops, f"segment_{name}"), getattr(ops, f"scatter_{name}")

    def reduce(x: Tensor, index: Tensor, mixed: Tensor) -> object:
        ordered = by_segment(x, adjacency(index, n).rowptr)
        return ordered, by_index(x, mixed, 0, dim_size=n)

    mixed = index[1][torch.randperm(len(x), generator=torch.Generator().manual_seed(0))]
    runs = [on("cuda", reduce, x, index, mixed) for _ in range(3)]
    assert same_bits(runs[0], runs[1]) and same_bits(runs[0], runs[2])
    exact = on("cpu", reduce, x.double(), index, mixed)
    most = 1e-6 if dtype == torch.float32 else 1e-2
    assert max(relative(a, b) for a, b in zip(runs[0], exact, strict=True)) < most


@pytest.mark.parametrize("kind", [MeshGraphNet, GraphTransformer])
def test_a_network_computes_and_learns_the_same(kind: type):
    mesh = grid(40, 30, "triangle")
    data = node_graph(mesh)
    data.x = random(mesh.n_points, 4)
    more = {"width": 32, "depth": 4} if kind is MeshGraphNet else {"width": 32, "depth": 3}

    def learned(device: str, dtype: torch.dtype) -> list[float]:
        torch.manual_seed(1)
        net = kind(4, 3, {"u": 2}, **more).to(device, dtype)
        optimizer = torch.optim.SGD(net.parameters(), lr=1e-2)
        there = data.to(device)
        there = there.apply(lambda t: t.to(dtype) if t.is_floating_point() else t)
        losses = []
        for _ in range(6):
            loss = (net(there)["mesh"]["u"] - there.x[:, :2]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        return losses

    exact = learned("cpu", torch.float64)
    found = learned("cuda", torch.float32)
    assert exact[-1] < exact[0] - 0.01
    assert found == learned("cuda", torch.float32)
    assert found == pytest.approx(exact, rel=1e-3)


def test_calls_on_another_stream_wait_for_what_they_read(graph):
    index, n = (graph[0].cuda(), graph[1])
    rowptr = adjacency(index, n).rowptr
    x = torch.ones(index.shape[1], 128, device="cuda")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(50):
            x = x * 1.5 / 1.5
        total = ops.segment_sum(x + 1, rowptr)
    torch.cuda.current_stream().wait_stream(stream)
    assert torch.equal(total[:, 0], 2.0 * rowptr.diff())
