"""Quadratic cells made linear, where that is asked for."""

from __future__ import annotations

import torch
from torch import Tensor

from meshsim.geometry.cells import TYPES, Cells
from meshsim.mesh import Mesh
from meshsim.renumber import on_mesh, renumbered
from meshsim.sample import Sample
from meshsim.series import Series


def linearised(mesh: Mesh) -> Mesh:
    """The mesh with every quadratic cell as the linear one of its corners.

    Points that no corner uses are dropped, with their values; the fields at corners, those on
    cells, boundaries and regions stay. A mesh of linear cells is returned as it is.

    Arguments:
        mesh: of any cells.

    >>> mesh = Mesh([[0., 0.], [2., 0.], [1., .3]], {"line3": [[0, 1, 2]]}, {"p": [1., 2., 3.]})
    >>> linearised(mesh), linearised(mesh).point_fields["p"].tolist()
    (Mesh(2 points, 2-D, 1 line, point: p), [1.0, 2.0])
    """
    if _is_linear(mesh):
        return mesh
    points, place, blocks = _corners(mesh)
    return renumbered(mesh, blocks, points, place, torch.arange(mesh.n_cells))


def linear(obj: Mesh | Series | Sample) -> Mesh | Series | Sample:
    """`linearised` of a mesh, of a series on its mesh, or of all branches of a sample."""
    if isinstance(obj, Mesh):
        return linearised(obj)
    if isinstance(obj, Series):
        return _series(obj)
    branches = {
        name: linearised(branch) if isinstance(branch, Mesh) else _series(branch)
        for name, branch in obj.branches.items()
    }
    return Sample(branches, obj.parameters, obj.name)


def _series(series: Series) -> Series:
    points, _, _ = _corners(series.mesh)
    later = tuple(_series(segment) for segment in series.later)
    cells = torch.arange(series.mesh.n_cells)
    return on_mesh(series, linearised(series.mesh), points, cells, later)


def _is_linear(mesh: Mesh) -> bool:
    return all(TYPES[block.type][1] == TYPES[block.type][2] for block in mesh.cells)


def _corners(mesh: Mesh) -> tuple[Tensor, Tensor, list[Cells]]:
    """The points that stay, the new number of each point (−1: none), the cells by corners."""
    if _is_linear(mesh):
        every = torch.arange(mesh.n_points)
        return every, every, list(mesh.cells)
    blocks = []
    for block in mesh.cells:
        _, k, corners, _ = TYPES[block.type]
        if k > corners:
            block = Cells(block.type.rstrip("0123456789"), block.nodes[:, :corners])
        blocks.append(block)
    used = torch.zeros(mesh.n_points, dtype=torch.bool)
    for block in blocks:
        used[block.nodes] = True
    points = used.nonzero().squeeze(1)
    place = torch.full((mesh.n_points,), -1)
    place[points] = torch.arange(len(points))
    return points, place, blocks
