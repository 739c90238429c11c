"""Distances to walls: right, differentiable twice, and zero where the wall is."""

import numpy as np
import pytest
import torch
import trimesh

from meshsim.check import InputError
from meshsim.physics.walls import nearest_wall, squared_distance


def test_distances_to_triangles_are_right():
    """Against another library, and by its own gradient: x − ∇d²/2 is the nearest place."""
    torch.manual_seed(3)
    body = trimesh.creation.box(extents=(1, 2, 3)).subdivide()
    walls = torch.tensor(np.array(body.triangles))
    x = (torch.rand(200, 3).double() * 6 - 3).requires_grad_()
    d2 = squared_distance(x, walls)
    beyond = (x.abs() - torch.tensor([0.5, 1.0, 1.5])).detach()
    outside = beyond.clamp(min=0).square().sum(1)
    inside = beyond.amax(1).clamp(max=0).square()
    assert (d2 - outside - inside).abs().max() < 1e-14
    (slope,) = torch.autograd.grad(d2.sum(), x)
    closest = x.detach() - slope / 2
    assert squared_distance(closest, walls).max() < 1e-28
    assert (slope.norm(dim=1) - 2 * d2.detach().sqrt()).abs().max() < 1e-14
    which = nearest_wall(x, walls)
    assert torch.equal(squared_distance(x, walls, which), d2)


@pytest.mark.parametrize("dim", [2, 3])
def test_distances_are_differentiable_twice(dim):
    """Beside a face, an edge and a corner; on the wall the slope is 0 and the curvature 2 n n."""
    walls = torch.eye(dim).double()[None]
    centre = torch.full((1, dim), 1 / dim, dtype=torch.float64)
    corner = torch.eye(dim).double()[:1]
    edge = (corner + torch.eye(dim).double()[1:2]) / 2
    out = [centre, edge - 0.3 * (centre - edge) * (dim == 3), corner - 0.3 * (centre - corner)]
    x = torch.cat([p + shift for p in out for shift in (0.1, -0.05)]).requires_grad_()
    assert torch.autograd.gradcheck(lambda at: squared_distance(at, walls), x)
    assert torch.autograd.gradgradcheck(lambda at: squared_distance(at, walls), x)
    hessian = torch.autograd.functional.hessian(lambda p: squared_distance(p, walls).sum(), centre)
    normal = torch.full((dim,), dim**-0.5, dtype=torch.float64)
    assert (hessian[0, :, 0] - 2 * torch.outer(normal, normal)).abs().max() < 1e-14


def test_walls_of_all_sizes_are_searched_right():
    """Against looking at every pair: walls from 1e-3 to 10, points near and far."""
    torch.manual_seed(4)
    for dim in (2, 3):
        size = 10 ** (torch.rand(300, 1, 1).double() * 4 - 3)
        walls = torch.randn(300, 1, dim).double() * 3 + size * torch.randn(300, dim, dim).double()
        x = torch.randn(100, dim).double() * 5
        every = torch.stack([squared_distance(x, walls, torch.full((100,), i)) for i in range(300)])
        assert torch.allclose(squared_distance(x, walls), every.amin(0), rtol=1e-12)


def test_segments_that_are_points_and_flat_triangles():
    point = torch.tensor([[[1.0, 1.0], [1.0, 1.0]]])
    assert squared_distance(torch.tensor([[4.0, 5.0], [1.0, 1.0]]), point).tolist() == [25.0, 0.0]
    flat = torch.tensor([[[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [3.0, 0.0, 0.0]]])
    x = torch.tensor([[2.0, 0.0, 2.0], [4.0, 0.0, 0.0], [0.5, 0.0, 0.0]], requires_grad=True)
    d2 = squared_distance(x, flat)
    assert d2.tolist() == [4.0, 1.0, 0.0]
    (slope,) = torch.autograd.grad(d2.sum(), x)
    assert slope.tolist() == [[0.0, 0.0, 4.0], [2.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    assert squared_distance(x[:0], flat).shape == (0,)


def test_bad_input_is_named():
    x, walls = torch.rand(4, 3), torch.rand(2, 3, 3)
    with pytest.raises(InputError, match=r"`walls`: expected shape \(\*, 3, 3\), got \(2, 3, 2\)"):
        squared_distance(x, walls[:, :, :2])
    with pytest.raises(InputError, match="`walls`: expected at least one, got none"):
        squared_distance(x, walls[:0])
    with pytest.raises(InputError, match="`walls`: 1 values are not finite"):
        squared_distance(x, torch.where(walls == walls.max(), torch.nan, walls))
    with pytest.raises(
        InputError, match=r"`nearest`: index 2 at row 0 is outside 0\.\.1 \(2 walls\)"
    ):
        squared_distance(x, walls, torch.full((4,), 2))
