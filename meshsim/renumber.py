"""A mesh with some of its points and cells, under new numbers; everything else goes along."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from meshsim.geometry import topology
from meshsim.geometry.cells import Cells
from meshsim.mesh import Boundary, Mesh, as_tensor
from meshsim.series import Frames, Series


def renumbered(
    mesh: Mesh,
    blocks: Sequence[Cells],
    points: Int[Tensor, " n"],
    place: Int[Tensor, " N"],
    cells: Int[Tensor, " c"],
) -> Mesh:
    """A mesh of other cells on some of the points; fields, boundaries and regions go along.

    Boundaries are found again by the corner points of their faces; a face that is none any more
    is left out, with a note.

    Arguments:
        mesh: the old mesh.
        blocks: the new cells, still on the old points.
        points: the old number of each new point.
        place: the new number of each old point, −1 where there is none.
        cells: the old number of each new cell.

    >>> mesh = Mesh([[0., 0.], [9., 9.], [1., 0.], [0., 1.]], {"triangle": [[0, 2, 3]]})
    >>> keep = torch.tensor([0, 2, 3])
    >>> renumbered(mesh, mesh.cells, keep, torch.tensor([0, -1, 1, 2]), torch.tensor([0]))
    Mesh(3 points, 2-D, 1 triangle)
    """
    now = torch.full((mesh.n_cells,), -1)
    now[cells] = torch.arange(len(cells))
    regions = {}
    for name, old in mesh.regions.items():
        found = now[old]
        regions[name] = found[found >= 0]
    order = mesh.file_order
    if order is not None:
        order = order[cells].argsort().argsort()
    new = mesh.replace(
        points=mesh.points[points],
        cells=[_placed(block, place) for block in blocks],
        point_fields={k: v[points] for k, v in mesh.point_fields.items()},
        cell_fields={k: v[cells] for k, v in mesh.cell_fields.items()},
        boundaries={},
        regions=regions,
        file_order=order,
    )
    for name, boundary in mesh.boundaries.items():
        new = _bounded(new, mesh, name, boundary, place)
    return new


def _placed(block: Cells, place: Tensor) -> Cells:
    return Cells(block.type, place[block.nodes], block.offsets, block.face_offsets)


def _bounded(new: Mesh, mesh: Mesh, name: str, boundary: Boundary, place: Tensor) -> Mesh:
    """`new` with a boundary of the old mesh."""
    if not len(boundary.faces):
        return new.replace(boundaries={**new.boundaries, name: boundary})
    lost = place[mesh.faces.nodes] < 0
    at = torch.repeat_interleave(mesh.faces.offsets.diff())
    gone = torch.zeros(len(mesh.faces), dtype=torch.bool)
    gone[at[lost]] = True
    keep = ~gone[boundary.faces]
    ids = boundary.faces[keep]
    if mesh.cell_dim == 1:
        block = Cells("vertex", mesh.faces.nodes[ids][:, None])
    else:
        block = topology.face_cells(mesh.faces, ids, mesh.cell_dim)
    rows = {key: values[keep] for key, values in boundary.fields.items()}
    return new.with_boundary_cells(
        {name: [_placed(block, place)]}, {name: rows}, {name: boundary.kind}
    )


@dataclass(frozen=True)
class Rows:
    """Frames with some of their rows, as lazily as before."""

    frames: Frames
    rows: Tensor

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, t: int) -> Tensor:
        return as_tensor(self.frames[t])[self.rows]


def on_mesh(
    series: Series,
    mesh: Mesh,
    points: Int[Tensor, " n"],
    cells: Int[Tensor, " c"],
    later: tuple[Series, ...],
) -> Series:
    """The series on another mesh, made of some of its points and cells (`renumbered`)."""
    return Series(
        mesh,
        series.times,
        {name: Rows(frames, points) for name, frames in series.point_fields.items()},
        {name: Rows(frames, cells) for name, frames in series.cell_fields.items()},
        None if series.points is None else Rows(series.points, points),
        later,
    )
