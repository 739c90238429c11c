"""On a periodic mesh no place is special: spectra, shifts and closed cells are exact."""

from math import pi, sin

import pytest
import torch

from meshsim.check import InputError
from meshsim.graph import (
    NodeType,
    Periodic,
    cell_graph,
    from_points,
    node_graph,
    rowptr,
    to_points,
)
from meshsim.models import MeshGraphNet
from meshsim.ops import segment_sum
from tests.graph.grids import brick, grid
from tests.helpers import DTYPES

BOTH = [("left", "right"), ("bottom", "top")]
ALL = [*BOTH, ("front", "back")]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [3, 4, 7])
def test_torus_of_quads(n, dtype):
    graph = node_graph(grid(n, n, dtype=dtype), periodic=BOTH)
    assert graph.num_nodes == n * n and graph.num_edges == 4 * n * n
    assert (rowptr(graph).diff() == 4).all()
    assert torch.equal(graph.edge_attr[:, -1], torch.ones(4 * n * n, dtype=dtype))  # nearest image
    assert torch.equal(graph.pos, grid(n, n, dtype=dtype).points[graph.node_point])


@pytest.mark.parametrize("kind", ["quad", "triangle"])
def test_corners_are_one_node_and_values_return_to_all_points(kind):
    mesh = grid(4, 3, kind)
    graph = node_graph(mesh, periodic=BOTH)
    corners = (mesh.points / torch.tensor([4.0, 3.0])).frac() == 0
    assert len(graph.point_node[corners.all(1)].unique()) == 1
    wave = (2 * torch.pi * mesh.points / torch.tensor([4.0, 3.0])).cos().sum(1)
    torch.testing.assert_close(to_points(graph, from_points(graph, wave)), wave)
    nodes = torch.arange(graph.num_nodes)
    assert torch.equal(from_points(graph, to_points(graph, nodes)), nodes)


def test_spectrum_of_the_discrete_laplacian():
    """Σ_j (u_j − u_i) = −4 (sin² k/2 + sin² l/2) u_i for u = exp(i (k x + l y)), exactly."""
    n = 6
    graph = node_graph(grid(n, n), periodic=BOTH)
    sender, receiver = graph.edge_index
    for a in range(n):
        for b in range(n):
            k, m = 2 * pi * a / n, 2 * pi * b / n
            u = (graph.pos @ torch.tensor([k, m], dtype=torch.float64)).cos()[:, None]
            lap = segment_sum(u[sender] - u[receiver], rowptr(graph))
            factor = -4 * (sin(k / 2) ** 2 + sin(m / 2) ** 2)
            torch.testing.assert_close(lap, factor * u, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-12)])
@pytest.mark.parametrize("kind", ["quad", "triangle"])
def test_rolling_the_input_rolls_the_answer(kind, dtype, tolerance):
    n = 5
    graph = node_graph(grid(n, n, kind, dtype), periodic=BOTH)
    torch.manual_seed(0)
    model = MeshGraphNet(3, 3, {"u": 2}, width=8, depth=4).to(dtype)
    x, y = graph.pos.round().long().T
    field = torch.randn(n, n, 3, dtype=torch.float64).to(dtype)
    graph.x = field[y, x]
    here = model(graph)["mesh"]["u"]
    graph.x = field.roll((2, -1), (0, 1))[y, x]
    there = model(graph)["mesh"]["u"]
    square = torch.zeros(n, n, 2, dtype=dtype)
    square[y, x] = here
    torch.testing.assert_close(
        there, square.roll((2, -1), (0, 1))[y, x], rtol=tolerance, atol=tolerance
    )


def test_two_cells_wide_keeps_both_images_and_one_cell_reaches_itself():
    graph = node_graph(grid(2, 3), periodic=BOTH)
    assert (rowptr(graph).diff() == 4).all()  # left and right neighbour are the same node
    first = slice(0, 4)
    assert sorted(graph.edge_attr[first, 0].tolist()) == [-1, 0, 0, 1]
    graph = node_graph(grid(1, 3), periodic=[("left", "right")])
    loops = graph.edge_index[0] == graph.edge_index[1]
    assert loops.sum() == 2 * 4 and sorted(graph.edge_attr[loops, 0].unique().tolist()) == [-1, 1]


def test_one_way_only():
    graph = node_graph(grid(4, 3), periodic=[Periodic("left", "right", shift=(4.0, 0.0))])
    assert graph.num_nodes == 4 * 4
    degree = rowptr(graph).diff()
    assert sorted(degree.unique().tolist()) == [3, 4]  # rims and inside
    assert (graph.node_type == NodeType.WALL).sum() == 8  # top and bottom keep their types


@pytest.mark.parametrize("periodic", [ALL, ALL[:1], ALL[1:]])
def test_bricks(periodic):
    mesh = brick(3, 4, 5)
    graph = node_graph(mesh, periodic=periodic)
    axes = [("left", "bottom", "front").index(a) for a, _ in periodic]
    sizes = [3, 5, 4]
    expected = 1
    for axis, size in enumerate(sizes):
        expected *= size if axis in axes else size + 1
    assert graph.num_nodes == expected
    assert graph.edge_attr[:, -1].max() == 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("mesh", "periodic"),
    [(grid(4, 3), BOTH), (grid(3, 3, "triangle"), BOTH), (brick(3, 3, 3), ALL)],
)
def test_cells_of_a_torus_are_closed(mesh, periodic, dtype):
    mesh = mesh.to(dtype=dtype)
    graph = cell_graph(mesh, periodic=periodic)
    sender, receiver = graph.edge_index
    starts = rowptr(graph)
    tolerance = 1e-6 if dtype == torch.float32 else 1e-14
    assert segment_sum(graph.area, starts).abs().max() <= tolerance  # Gauss, with no boundary
    assert graph.num_edges == int(2 * mesh.faces.n_internal + (mesh.faces.neighbour < 0).sum())
    # straight from centre to centre, into the receiver, the short way round
    assert ((graph.area * -graph.edge_attr[:, :-1]).sum(1) > 0).all()
    assert graph.distance.max() <= 1 + tolerance
    # what any flux takes from one cell it gives to another
    u = torch.randn(mesh.n_cells, dtype=dtype, generator=torch.Generator().manual_seed(0))
    upwind = (0.5 * (u[sender] + u[receiver]))[:, None] * graph.area
    assert segment_sum(upwind, starts).sum(0).abs().max() <= 100 * tolerance


def test_cells_across_the_seam_match_the_mesh_shifted():
    """The same torus cut elsewhere gives the same graph, up to numbering."""
    n = 4
    graph = cell_graph(grid(n, n), periodic=BOTH)

    def described(origin):
        place = ((graph.pos - 0.5 + origin) % n).round().long()
        number = place[:, 1] * n + place[:, 0]
        s, r = number[graph.edge_index]
        rows = torch.cat([r[:, None], s[:, None], graph.edge_attr.round(), graph.area.round()], 1)
        return set(map(tuple, rows.tolist()))

    assert described(torch.zeros(2)) == described(torch.tensor([1.0, 3.0]))


def test_refusals():
    mesh = grid(4, 3)
    for make in (node_graph, cell_graph):
        with pytest.raises(InputError, match="unknown boundary 'rihgt': did you mean 'right'"):
            make(mesh, periodic=[("left", "rihgt")])
        with pytest.raises(InputError, match=r"'left' and 'top': expected as many .* on both"):
            make(mesh, periodic=[("left", "top")])
        with pytest.raises(InputError, match=r"no partner after the shift \(3, 0\)"):
            make(mesh, periodic=[Periodic("left", "right", shift=(3.0, 0.0))])
        with pytest.raises(InputError, match="expected a shift of 2 numbers"):
            make(mesh, periodic=[Periodic("left", "right", shift=(4.0, 0.0, 0.0))])
        with pytest.raises(InputError, match="expected pairs of boundaries, got 'left'"):
            make(mesh, periodic=["left"])
    bent = mesh.points.clone()
    bent[(bent == torch.tensor([4.0, 1.0])).all(1), 1] += 0.1
    with pytest.raises(InputError, match="no partner after the shift"):
        node_graph(mesh.replace(points=bent), periodic=[("left", "right")])
