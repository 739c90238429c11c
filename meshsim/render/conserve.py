"""Fields of one mesh, or of a series on one, on another mesh, their integrals kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from meshsim.check import check_finite
from meshsim.geometry import measure
from meshsim.mesh import Mesh
from meshsim.render.carry import check_rests
from meshsim.series import Series

if TYPE_CHECKING:  # scipy takes its time to load
    from scipy.sparse import csr_matrix

    from meshsim.movers.remap import Overlap


def carry_conserved(
    data: Mesh | Series, goal: Mesh, *, normalise: bool = False
) -> tuple[Mesh | Series, Overlap]:
    """The goal with the fields of `data`, the integral of each the same over what both cover.

    Fields of cells are averaged over exact intersections (`meshsim.movers.remap`). Fields of points
    have the integral Σ m_i u_i, m_i a point's even share of its cells: they go to the cells' means,
    from cell to cell, and to the points again, which smooths them over two cells; `carry` keeps
    them sharper, but not their integrals. Whole numbers are never mixed: cells take that of which
    they hold most. They, and points outside of `data`, are no part of any integral and get 0.

    Arguments:
        data: has fields; a series on a mesh that rests.
        goal: any mesh of the same dimension, both of cells that fill it.
        normalise: divide by what `data` covers of a cell, so that constants stay constant where
            `data` ends; integrals are then kept on one domain only.

    Returns:
        A new mesh or series, and the overlap: `lost` is the share of `data` outside the goal,
        `uncovered` (G,) the share of each cell outside `data`.

    Raises:
        InputError: different dimensions, cells that do not fill them, a mesh that moves or
            changes, values that are not finite.

    >>> data = Mesh([[0., 0.], [2., 0.], [2., 1.], [0., 1.]], {"quad": [[0, 1, 2, 3]]},
    ...             cell_fields={"T": [3.0]})
    >>> carry_conserved(data, data.replace(cells={"triangle": [[0, 1, 2], [0, 2, 3]]},
    ...                                    cell_fields={}))[0].cell_fields["T"]
    tensor([3., 3.], dtype=torch.float64)
    """
    mesh = data.mesh if isinstance(data, Series) else data
    check_rests(data)
    from meshsim.movers.remap import overlap, remap

    known = overlap(mesh, goal)
    most = torch.zeros(0, dtype=torch.int64)
    if mesh.n_cells:
        most = torch.from_numpy(np.asarray(known.measures.argmax(axis=1)).reshape(-1)).long()
    bare_cells = torch.from_numpy(np.asarray(known.measures.sum(axis=1)).reshape(-1) <= 0)
    means, spread = _means(mesh), _means(goal)
    shares = measure.point_measures(goal.points.double(), goal.cells).clamp(min=1e-300)

    def cells(values: Tensor) -> Tensor:
        if values.is_floating_point():
            return remap(known, values, normalise)
        return _cleared(values[most], bare_cells)

    def points(values: Tensor) -> Tensor:
        if not values.is_floating_point():
            corner = torch.from_numpy(np.asarray(means[most.numpy()].argmax(axis=1)).reshape(-1))
            cell = torch.from_numpy(np.asarray(spread.argmax(axis=0)).reshape(-1)).long()
            return _cleared(values[corner.long()[cell]], bare_cells[cell])
        flat = values.detach().cpu().double().reshape(len(values), -1)
        held = remap(known, torch.from_numpy(means @ flat.numpy()), normalise)  # (G, c)
        whole = spread.T @ (torch.from_numpy(known.goal)[:, None] * held).numpy()
        out = torch.from_numpy(whole) / shares[:, None]
        return out.reshape(len(shares), *values.shape[1:]).to(values.dtype)

    def carried(mesh: Mesh, onto: Mesh) -> Mesh:
        for name, values in [*mesh.point_fields.items(), *mesh.cell_fields.items()]:
            check_finite(values, name)
        return onto.with_fields(
            {name: points(values) for name, values in mesh.point_fields.items()},
            {name: cells(values) for name, values in mesh.cell_fields.items()},
        )

    if isinstance(data, Mesh):
        return carried(data, goal), known
    bare = goal.replace(point_fields={}, cell_fields={})
    frames = [carried(data.frame(t), bare) for t in range(len(data))]
    point = {name: [f.point_fields[name] for f in frames] for name in frames[0].point_fields}
    cell = {name: [f.cell_fields[name] for f in frames] for name in frames[0].cell_fields}
    return Series(goal, data.times, point, cell), known


def _cleared(values: Tensor, rows: Tensor) -> Tensor:
    return torch.where(
        rows.reshape(-1, *[1] * (values.dim() - 1)), torch.zeros_like(values), values
    )


def _means(mesh: Mesh) -> csr_matrix:
    """(C, N) that takes point values to the means of the cells' points."""
    cell, point = (x.cpu().numpy() for x in measure.incidence(mesh.cells))
    count = np.maximum(np.bincount(cell, minlength=mesh.n_cells), 1)
    from scipy.sparse import csr_matrix

    return csr_matrix((1 / count[cell], (cell, point)), shape=(mesh.n_cells, mesh.n_points))
