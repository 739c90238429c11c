"""Symmetries and reach of graphs and of MeshGraphNet, and the heat equation on a graph."""

import pytest
import torch

from meshsim.graph import cell_graph, node_graph
from meshsim.mesh import Cells, Mesh
from meshsim.models import MeshGraphNet
from meshsim.ops import segment_sum
from tests.graph.grids import grid
from tests.helpers import DTYPES, MESHES

# Coordinates in 64ths and whole shifts below 2^10: sums and differences are exact in float32.
FINE = 64
POINT_MESHES = ["channel", "mixed_solid", "polyhedra", "quadratic2d", "isolated", "cube_surface"]


def rounded(name, dtype):
    mesh = MESHES[name]
    return mesh.replace(points=(mesh.points * FINE).round() / FINE).to(dtype=dtype)


def predict(graph, dtype, columns=4, seed=0):
    """What a small network with fixed weights says on a graph with given `x`."""
    torch.manual_seed(seed)
    model = MeshGraphNet(columns, graph.edge_attr.shape[1], {"u": 2, "p": 1}, width=16, depth=3)
    return torch.cat(list(model.to(dtype)(graph)["mesh"].values()), 1)


def inputs(n, dtype, columns=4):
    generator = torch.Generator().manual_seed(5)
    return torch.randn(n, columns, dtype=torch.float64, generator=generator).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", POINT_MESHES)
def test_shifting_all_positions_changes_no_bit(name, dtype):
    mesh = rounded(name, dtype)
    shift = torch.tensor([512.0, -256.0, 64.0], dtype=dtype)[: mesh.dim]
    here, there = node_graph(mesh), node_graph(mesh.replace(points=mesh.points + shift))
    assert not torch.equal(here.pos, there.pos)
    here.x = there.x = inputs(mesh.n_points, dtype)
    assert torch.equal(predict(here, dtype), predict(there, dtype))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-12)])
@pytest.mark.parametrize("name", POINT_MESHES)
def test_renumbering_points_renumbers_the_answer(name, dtype, tolerance):
    mesh = MESHES[name].to(dtype=dtype)
    order = torch.randperm(mesh.n_points, generator=torch.Generator().manual_seed(2))
    number = torch.empty_like(order)
    number[order] = torch.arange(len(order))  # the new number of each old point
    cells = [Cells(b.type, number[b.nodes], b.offsets, b.face_offsets) for b in mesh.cells]
    here, there = node_graph(mesh), node_graph(Mesh(mesh.points[order], cells))
    here.x = inputs(mesh.n_points, dtype)
    there.x = here.x[order]
    torch.testing.assert_close(
        predict(there, dtype), predict(here, dtype)[order], rtol=tolerance, atol=tolerance
    )


@pytest.mark.parametrize("name", POINT_MESHES)
def test_the_order_of_cells_changes_no_bit(name):
    mesh = MESHES[name]
    blocks = [
        b if b.offsets is not None else Cells(b.type, b.nodes.flip(0)) for b in reversed(mesh.cells)
    ]
    here, there = node_graph(mesh), node_graph(Mesh(mesh.points, blocks))
    here.x = there.x = inputs(mesh.n_points, torch.float64)
    assert torch.equal(predict(here, torch.float64), predict(there, torch.float64))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-12)])
def test_renumbering_cells_renumbers_the_answer_on_cells(dtype, tolerance):
    mesh = grid(4, 3, "triangle", dtype)
    order = torch.randperm(mesh.n_cells, generator=torch.Generator().manual_seed(2))
    other = Mesh(mesh.points, [Cells("triangle", mesh.cells[0].nodes[order])])
    here, there = cell_graph(mesh), cell_graph(other)
    here.x = inputs(mesh.n_cells, dtype)
    there.x = here.x[order]
    torch.testing.assert_close(
        predict(there, dtype), predict(here, dtype)[order], rtol=tolerance, atol=tolerance
    )


# --- the heat equation: one round of messages with finite-element weights is an Euler step ---


def stiffness(mesh):
    """(N, N) K and (N,) lumped M of linear triangles, element by element."""
    n = mesh.n_points
    k, m = torch.zeros(n, n).double(), torch.zeros(n).double()
    for nodes in mesh.cells[0].nodes.tolist():
        p = mesh.points[nodes].double()
        jacobian = torch.stack([p[1] - p[0], p[2] - p[0]], 1)
        area = torch.linalg.det(jacobian).abs() / 2
        slopes = torch.tensor([[-1.0, -1.0], [1.0, 0.0], [0.0, 1.0]]).double()
        slopes = slopes @ torch.linalg.inv(jacobian)  # (3, 2) gradients of the hat functions
        local = area * slopes @ slopes.T
        for a, i in enumerate(nodes):
            m[i] += area / 3
            for b, j in enumerate(nodes):
                k[i, j] += local[a, b]
    return k, m


def heated():
    """A crooked triangle mesh of the unit square and its graph, with weights on edges."""
    mesh = grid(8, 8, "triangle")
    x = mesh.points / 8
    inside = ((x > 0) & (x < 1)).all(1, keepdim=True)
    x = x + inside * 0.03 * torch.stack([torch.sin(9 * x[:, 1]), torch.cos(7 * x[:, 0])], 1)
    mesh = mesh.replace(points=x)
    k, m = stiffness(mesh)
    graph = node_graph(mesh)
    sender, receiver = graph.edge_index
    return graph, -k[receiver, sender], k, m, ~inside[:, 0]


def euler_step(graph, weight, mass, u, dt):
    """u_i + dt / M_i Σ_j w_ij (u_j − u_i), as messages."""
    from meshsim.graph import rowptr

    sender, receiver = graph.edge_index
    flux = weight[:, None] * (u[sender] - u[receiver])  # (E, c)
    return u + dt * segment_sum(flux, rowptr(graph), receiver) / mass[:, None]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-13)])
def test_messages_are_explicit_euler(dtype, tolerance):
    graph, weight, k, m, _ = heated()
    u = torch.randn(len(m), 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ours = u.to(dtype)
    dt, heat = 2e-4, m @ u
    for _ in range(50):
        u = u - dt * (k @ u) / m[:, None]
        ours = euler_step(graph, weight.to(dtype), m.to(dtype), ours, dt)
    torch.testing.assert_close(ours.double(), u, rtol=tolerance, atol=tolerance)
    # nothing leaves an insulated plate: fluxes over an edge cancel
    torch.testing.assert_close(m @ ours.double(), heat, rtol=tolerance, atol=tolerance)


def test_linear_temperature_stays():
    graph, weight, _, m, fixed = heated()
    start = (graph.pos @ torch.tensor([[2.0], [-3.0]]).double()) + 0.5
    u = start
    for _ in range(100):
        u = torch.where(fixed[:, None], start, euler_step(graph, weight, m, u, 2e-4))
    torch.testing.assert_close(u, start, rtol=0, atol=1e-12)


def test_the_slowest_mode_decays_at_its_rate():
    graph, weight, _, m, fixed = heated()
    u = (torch.pi * graph.pos).sin().prod(1, keepdim=True)  # −Δu = 2π² u
    before, dt, steps = (m * u[:, 0] ** 2).sum(), 2e-4, 250
    for _ in range(steps):
        u = torch.where(fixed[:, None], 0.0, euler_step(graph, weight, m, u, dt))
    rate = -0.5 * ((m * u[:, 0] ** 2).sum() / before).log() / (dt * steps)
    assert float(rate) == pytest.approx(2 * torch.pi**2, rel=0.05)
