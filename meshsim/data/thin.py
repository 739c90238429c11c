"""Fewer cells of a mesh, drawn at random: enough for what learns from points."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from meshsim.geometry.cells import Cells, take
from meshsim.mesh import Mesh


def thinned(mesh: Mesh, count: int, seed: str) -> Mesh:
    """A mesh with `count` of its cells, drawn evenly, and the points they use.

    Centres, measures and values of the cells that stay are what they were; faces between cells,
    and with them the boundaries and regions, are gone, and a note says so.

    Arguments:
        mesh: any; with no more cells than `count` it comes back as it is.
        count: of cells, at least 1.
        seed: a text that decides the draw (the sample's name).

    Returns:
        Cells and points in their old order.

    >>> strip = Mesh(torch.rand(9, 2), {"triangle": [[i, i + 1, i + 2] for i in range(7)]})
    >>> thinned(strip, 3, "a").n_cells
    3
    """
    if mesh.n_cells <= count:
        return mesh
    draw = torch.Generator().manual_seed(int(hashlib.sha256(seed.encode()).hexdigest()[:15], 16))
    keep = torch.randperm(mesh.n_cells, generator=draw)[:count].sort().values
    blocks, first = [], 0
    for block in mesh.cells:
        rows = keep[(keep >= first) & (keep < first + len(block))] - first
        blocks.append(take(block, rows))
        first += len(block)
    used = torch.unique(torch.cat([block.nodes.flatten() for block in blocks]))
    new = torch.full((mesh.n_points,), -1).scatter(0, used, torch.arange(len(used)))
    order = mesh.file_order
    note = f"{count} of {mesh.n_cells} cells, drawn at random; boundaries and regions left out"

    def rows_of(fields: Mapping[str, Tensor], rows: Tensor) -> dict[str, Tensor]:
        return {name: values[rows] for name, values in fields.items()}

    return Mesh(
        mesh.points[used],
        [Cells(b.type, new[b.nodes], b.offsets, b.face_offsets) for b in blocks],
        rows_of(mesh.point_fields, used),
        rows_of(mesh.cell_fields, keep),
        global_fields=mesh.global_fields,
        # ranks among those that stayed
        file_order=None if order is None else order[keep].argsort().argsort(),
        z=mesh.z,
        flattened=mesh.flattened,
        notes=(*mesh.notes, note),
    )
