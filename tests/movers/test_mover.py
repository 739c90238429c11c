"""A mover in a time loop: from rest every time, with fields that are on the moved mesh."""

import numpy as np
import pytest
import torch

from meshsim import Mesh
from meshsim.check import InputError
from meshsim.movers import Mover
from meshsim.movers.boundary import closest
from meshsim.movers.monitor import ball, shock
from tests.helpers import MESHES
from tests.movers.grids import ring


def quads(n: int = 12) -> Mesh:
    at = np.linspace(0, 1, n + 1)
    points = np.stack(np.meshgrid(at, at, indexing="ij"), -1).reshape(-1, 2)
    low = (np.arange(n)[:, None] * (n + 1) + np.arange(n)).reshape(-1)
    cells = np.stack([low, low + n + 1, low + n + 2, low + 1], 1)
    return Mesh(points, {"quad": cells})


def front(mesh: Mesh, at: float) -> Mesh:
    u = torch.tanh((mesh.points[:, 0] - at) / 0.08)
    return mesh.replace(point_fields={"u": u})


def test_cells_follow_a_front_on_quads():
    mesh = quads()
    mover = Mover(mesh, "1 + 10*G(u)")
    now = mesh
    for at in (0.3, 0.5, 0.7):
        now = front(now, at)
        now = mover(now)
        assert mover.share == 1.0 and mover.corners.tangled(now.points.double().numpy()) == 0
        near = np.abs(now.points[:, 0].numpy() - at) < 0.1
        assert near.mean() > 1.4 * 0.2  # of a mesh that is even
        assert [block.type for block in now.cells] == ["quad"]


def test_a_function_of_space_gives_the_same_mesh_wherever_it_was_before():
    mesh, monitor = quads(), ball((0.5, 0.5), 0.3, 10.0, 40.0)
    mover = Mover(mesh, monitor)
    once = mover(mesh)
    again = mover(once)
    assert torch.equal(once.points, again.points)


@pytest.mark.parametrize("convention", ["interpolated", "recomputed", "pulled back"])
def test_the_mesh_is_moved_alike_for_a_field_that_is_on_a_moved_mesh(convention):
    """Moved once more for the same front, known at the moved points, it stays nearly there."""
    mesh = front(quads(24), 0.4)
    mover = Mover(mesh, "1 + 10*G(u)", convention=convention, rounds=2.0)
    once = mover(mesh)
    way = (once.points - mesh.points).norm(dim=1).max()
    again = mover(front(once, 0.4))
    assert (again.points - once.points).norm(dim=1).max() < 0.35 * way


@pytest.mark.parametrize("fields", ["interpolate", "conserve", "keep"])
def test_fields_of_cells_come_along_on_hexahedra(fields):
    mesh = MESHES["mixed_solid"]
    volume = mesh.cell_measures
    mesh = mesh.replace(cell_fields={"q": 1 + mesh.cell_centres[:, 0].double()})
    moved = Mover(mesh, lambda x: 1 + 2 * (x[:, 0] - x[:, 0].min()), fields=fields)(mesh)
    assert not torch.equal(moved.points, mesh.points)
    before = (mesh.cell_fields["q"] * volume).sum()
    after = (moved.cell_fields["q"] * moved.cell_measures).sum()
    if fields == "keep":
        assert torch.equal(moved.cell_fields["q"], mesh.cell_fields["q"])
    if fields == "conserve":
        torch.testing.assert_close(after, before, rtol=1e-6, atol=0)


@pytest.mark.parametrize("method", ["learned", "flow"])
@pytest.mark.parametrize("damping", [0.3, 0.6, 1.0])
def test_points_of_a_curved_side_stay_on_it(method, damping):
    grid = ring(6)
    mesh = Mesh(grid.points, {"triangle": grid.cells})
    mover = Mover(mesh, shock((1.0, 0.0), 0.5, 10.0, 3.0), method, damping=damping)
    points = mover(mesh).points.double().numpy()
    edge = np.unique(grid.boundary)
    off = points[edge] - closest(points[edge], grid.points[grid.boundary])
    assert np.abs(points - grid.points)[edge].max() > 0.02
    assert np.abs(off).max() < 1e-6


def test_what_the_mesh_keeps_of_the_points_is_sound():
    """Single precision, far from the origin: what is rounded must not be inside out either."""
    mesh = quads(16)
    far = Mesh((mesh.points.double() + 1e4).float(), {"quad": mesh.cells[0].nodes})
    mover = Mover(far, ball((1e4 + 0.5, 1e4 + 0.5), 0.3, 50.0, 100.0), "flow")
    moved = mover(far)
    assert moved.points.dtype == torch.float32
    assert mover.corners.tangled(moved.points.double().numpy()) == 0
    assert torch.equal(mover(moved).points, moved.points)


def test_the_share_counts_what_the_safeguard_cut():
    grid = ring(6)
    mesh = Mesh(grid.points, {"triangle": grid.cells})
    mover = Mover(mesh, shock((1.0, 0.0), 1.2, 40.0, 10.0), "flow", damping=0.9)
    mover(mesh)
    assert mover.moved.share < 0.99 and mover.share <= 0.9 * mover.moved.share


@pytest.mark.parametrize("method", ["learned", "flow", "ma", "ma-relaxation"])
def test_every_method_moves_and_damping_is_a_share_of_it(method):
    mesh = front(quads(), 0.5)
    whole = Mover(mesh, "1 + 4*G(u)", method)(mesh).points - mesh.points
    half = Mover(mesh, "1 + 4*G(u)", method, damping=0.5)(mesh).points - mesh.points
    assert whole.abs().max() > 0.01
    torch.testing.assert_close(half, whole / 2, rtol=0, atol=1e-6)


def test_spreads_fall():
    mesh = front(quads(20), 0.5)
    mover = Mover(mesh, "1 + 4*G(u)", "flow")
    before, after = mover.spreads(mesh, mover(mesh))
    assert after < 0.35 * before


def test_points_in_no_cell_stay():
    mesh = MESHES["isolated"]
    moved = Mover(mesh, lambda x: 1 + x[:, 0] - x[:, 0].min())(mesh)
    used = set(np.concatenate([block.nodes.reshape(-1).numpy() for block in mesh.cells]).tolist())
    lone = [i for i in range(mesh.n_points) if i not in used]
    assert lone and torch.equal(moved.points[lone], mesh.points[lone])


@pytest.mark.parametrize("convention", ["interpolated", "pulled back"])
def test_fields_of_another_length_are_named(convention):
    mesh = quads(4)
    mover = Mover(mesh, "1 + G(u)", convention=convention)
    with pytest.raises(InputError, match="'u': expected 25"):
        mover.places({"u": np.ones(24)}, 2.0 * mover.corners.grid.points)


def test_what_is_wrong_is_named():
    mesh = quads(4)
    with pytest.raises(InputError, match="method"):
        Mover(mesh, "1", "magic")
    with pytest.raises(InputError, match="damping"):
        Mover(mesh, "1", damping=2.0)
    with pytest.raises(InputError, match=r"25 points and 16 cells, got others .49"):
        Mover(mesh, "1")(quads(6))
    with pytest.raises(InputError, match="`tolerance`"):
        Mover(mesh, "1", tolerance=float("nan"))
    with pytest.raises(InputError, match="`rounds`"):
        Mover(mesh, "1", rounds=float("nan"))
    flipped = Mesh(mesh.points, {"quad": mesh.cells[0].nodes.roll(1, 0)})
    with pytest.raises(InputError, match="got others"):
        Mover(mesh, "1")(flipped)
    with pytest.raises(InputError, match="'v'"):
        Mover(mesh, "1 + G(v)")(front(mesh, 0.5))
