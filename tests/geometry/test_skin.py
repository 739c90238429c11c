"""Normals and curvature of curves and surfaces at their points."""

from __future__ import annotations

import math

import pytest
import torch

from meshsim.geometry.cells import Cells
from meshsim.geometry.skin import skin_curvatures, skin_normals


def ring(angle: torch.Tensor, radius: float) -> tuple[torch.Tensor, list[Cells]]:
    n = len(angle)
    points = radius * torch.stack([angle.cos(), angle.sin()], 1)
    at = torch.arange(n)
    return points, [Cells("line", torch.stack([at, at.roll(-1)], 1))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [3, 8, 50])
def test_even_polygons_are_exact(n, dtype):
    points, lines = ring(torch.arange(n).double() * 2 * math.pi / n, 2.0)
    points = points.to(dtype)
    normal, bend = skin_normals(points, lines), skin_curvatures(points, lines)
    assert normal.dtype == bend.dtype == dtype
    tolerance = 1e-6 if dtype == torch.float32 else 1e-13
    assert torch.allclose(normal, points / 2, atol=tolerance)
    assert torch.allclose(bend, torch.full_like(bend, 0.5), atol=20 * n * tolerance)
    turned = [Cells("line", lines[0].nodes.flip(1))]
    assert torch.allclose(skin_normals(points, turned), -normal, atol=tolerance)
    assert torch.allclose(skin_curvatures(points, turned), -bend, atol=20 * n * tolerance)


def test_uneven_polygons_get_there_with_the_square_of_their_sides():
    errors = []
    for n in (40, 80):
        even = torch.arange(n).double() * 2 * math.pi / n
        points, lines = ring(even + 0.3 * even.sin(), 1.0)
        normal = float((skin_normals(points, lines) - points).norm(dim=1).max())
        bend = float((skin_curvatures(points, lines) - 1).abs().max())
        errors.append((normal, bend))
    for coarse, fine in zip(*errors, strict=True):
        assert fine > 1e-6 and 3.5 < coarse / fine < 4.5


def test_straight_lines_and_points_alone():
    points = torch.tensor([[0.0, 0.0], [1.0, 0.0], [3.0, 0.0], [9.0, 9.0]])
    lines = [Cells("line", torch.tensor([[0, 1], [1, 2]]))]
    assert skin_normals(points, lines).tolist() == [[0, -1], [0, -1], [0, -1], [0, 0]]
    assert skin_curvatures(points, lines).abs().max() == 0
    assert not skin_normals(points, []).any()
