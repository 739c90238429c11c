"""A mover in a time loop: from rest every time, with fields that are on the moved mesh."""

import numpy as np
import pytest
import torch

from meshsim import Mesh
from meshsim.check import InputError
from meshsim.movers import Mover
from meshsim.movers.monitor import ball
from tests.helpers import MESHES


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


def test_a_field_that_was_interpolated_gathers_cells_at_the_same_place():
    """The monitor is computed on the mesh that its field is on: moved twice for one field, the
    mesh stays nearly where it went."""
    mesh = front(quads(24), 0.4)
    mover = Mover(mesh, "1 + 10*G(u)", rounds=2.0)
    once = mover(mesh)
    way = (once.points - mesh.points).norm(dim=1).max()
    exact = mover(front(once, 0.4))
    assert (exact.points - once.points).norm(dim=1).max() < 0.35 * way


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
    if mesh.cell_dim != mesh.dim:
        pytest.skip("a surface")
    moved = Mover(mesh, lambda x: 1 + x[:, 0] - x[:, 0].min())(mesh)
    used = set(np.concatenate([block.nodes.reshape(-1).numpy() for block in mesh.cells]).tolist())
    lone = [i for i in range(mesh.n_points) if i not in used]
    assert lone and torch.equal(moved.points[lone], mesh.points[lone])


def test_what_is_wrong_is_named():
    mesh = quads(4)
    with pytest.raises(InputError, match="method"):
        Mover(mesh, "1", "magic")
    with pytest.raises(InputError, match="damping"):
        Mover(mesh, "1", damping=2.0)
    with pytest.raises(InputError, match="25 points and 16 cells, got 49"):
        Mover(mesh, "1")(quads(6))
    with pytest.raises(InputError, match="v"):
        Mover(mesh, "1 + G(v)")(front(mesh, 0.5))
