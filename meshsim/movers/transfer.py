"""Cell averages from a mesh to the same mesh with its points elsewhere, nothing lost on the way.

Points go straight from their old places to the new ones in a few steps. In each, a face sweeps a
volume, taken out of the cell on one side and given to that on the other, at the value that a
limited linear reconstruction has there (Dukowicz and Baumgardner, J. Comput. Phys. 160, 2000).
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor

from meshsim.check import InputError, WorkError, check_finite
from meshsim.mesh import Mesh

COURANT = 0.2  # most of a cell's volume that its faces take or give in one step
LEAST = 1e-9  # part of the way that a step must be able to take


class _Faces:
    """The faces of a mesh as simplices: edges in 2-D, triangles about their mean in 3-D."""

    def __init__(self, mesh: Mesh):
        faces = mesh.faces
        self.owner, self.neighbour = faces.owner, faces.neighbour
        count = faces.offsets.diff()
        of = torch.repeat_interleave(torch.arange(len(count)), count)
        self.dim, self.nodes, self.of, self.count = mesh.dim, faces.nodes, of, count
        if self.dim == 2:
            self.parts = faces.nodes.reshape(-1, 2)
            self.part_of = torch.arange(len(count))
        else:
            last = faces.offsets[1:] - 1
            after = torch.arange(1, len(faces.nodes) + 1)
            after[last] = faces.offsets[:-1]
            self.parts = torch.stack([faces.nodes, faces.nodes[after]], 1)  # and the mean
            self.part_of = of
        area = self.vectors(mesh.points.double())
        total = area.new_zeros(len(count), self.dim).index_add(0, self.part_of, area)
        self.sign = (total * faces.area).sum(1).sign()

    def means(self, points: Tensor) -> Tensor:
        """(F, D) the mean of each face's corners."""
        total = points.new_zeros(len(self.count), self.dim)
        return total.index_add(0, self.of, points[self.nodes]) / self.count[:, None]

    def simplices(self, points: Tensor) -> Tensor:
        """(P, D, D) corners of the parts."""
        corners = points[self.parts]
        if self.dim == 2:
            return corners
        return torch.cat([self.means(points)[self.part_of, None], corners], 1)

    def vectors(self, points: Tensor) -> Tensor:
        """(P, D) area vectors of the parts."""
        x = self.simplices(points)
        if self.dim == 2:
            edge = x[:, 1] - x[:, 0]
            return torch.stack([edge[:, 1], -edge[:, 0]], 1)
        return torch.linalg.cross(x[:, 1] - x[:, 0], x[:, 2] - x[:, 0]) / 2

    def swept(self, old: Tensor, new: Tensor) -> Tensor:
        """(F,) volume that each face adds to its owner; exact, corners going straight.

        Over a simplex with a linear velocity ∫ v·n dA = mean v · A, whatever the motion.
        """
        way = (self.simplices(new) - self.simplices(old)).mean(1)  # (P, D)
        middle = self.vectors((old + new) / 2)
        area = (self.vectors(old) + 4 * middle + self.vectors(new)) / 6  # Simpson's rule is exact
        each = (way * area).sum(1)
        return self.sign * each.new_zeros(len(self.count)).index_add(0, self.part_of, each)


def conserve(
    mesh: Mesh, values: Num[Tensor, "C ..."], points: Float[Tensor, "N D"]
) -> Float[Tensor, "C ..."]:
    """Averages over cells after the points have moved, Σ |K| q_K kept to rounding.

    Constants stay what they are, no value leaves the range of those about it, and smooth fields
    are carried to second order in the mean (first at extrema and along the boundary, where the
    range holds them). Where the boundary itself moves, what it sweeps has the value of the cell
    that it belongs to.

    Arguments:
        mesh: at rest, of cells of any type that fill their space.
        values: (C, …) averages over its cells.
        points: (N, D) new places; no mesh on the way may have a cell without measure.

    Raises:
        InputError: values or points of another number, or not finite; integers; a surface in
            space; a cell without measure.
        WorkError: on the straight way there a cell loses its measure.

    >>> two = Mesh([[0., 0.], [1., 0.], [3., 0.], [0., 1.], [1., 1.], [3., 1.]],
    ...            {"quad": [[0, 1, 4, 3], [1, 2, 5, 4]]})
    >>> points = two.points.clone()
    >>> points[[1, 4], 0] = 2.0
    >>> conserve(two, torch.tensor([6.0, 3.0]), points) * torch.tensor([2.0, 1.0])  # × volumes
    tensor([9., 3.])
    """
    if mesh.cell_dim != mesh.dim:
        raise InputError(f"expected cells that fill {mesh.dim}-D space, got {mesh.cell_dim}-D ones")
    if values.shape[:1] != (mesh.n_cells,):
        raise InputError(f"`values`: expected {mesh.n_cells} rows, got {tuple(values.shape)}")
    if points.shape != mesh.points.shape:
        raise InputError(
            f"`points`: expected {tuple(mesh.points.shape)}, got {tuple(points.shape)}"
        )
    if not values.is_floating_point():
        raise InputError(f"`values`: expected floating-point numbers, got {values.dtype}")
    check_finite(values, "values")
    check_finite(points, "points")
    faces = _Faces(mesh)
    rows = values.double().reshape(mesh.n_cells, -1)
    measure = mesh.cell_measures.double().abs()
    if not (measure > 0).all():
        raise InputError(f"cell {int(measure.argmin())} has no measure")
    total, t, part = rows * measure[:, None], 0.0, 1.0
    rest, way = mesh.points.double(), points.double() - mesh.points.double()
    while t < 1 - 1e-12:
        old = rest + t * way
        part = min(2 * part, 1 - t)
        while (share := _taken(faces, faces.swept(old, old + part * way), measure)) > COURANT:
            part *= max(0.9 * COURANT / share, 0.1)
            if part < LEAST:
                cell = int(measure.argmin())
                raise WorkError(f"cell {cell} loses its measure on the way to the new points")
        new, t = old + part * way, t + part
        swept = faces.swept(old, new)
        centres = _centres(faces, old, len(measure))
        at = (faces.means(old) + faces.means(new)) / 2
        moved = swept[:, None] * _donated(faces, total / measure[:, None], centres, at, swept)
        inner = faces.neighbour >= 0
        other = faces.neighbour[inner]
        total = total.index_add(0, faces.owner, moved).index_add(0, other, -moved[inner])
        measure = measure.index_add(0, faces.owner, swept).index_add(0, other, -swept[inner])
    return (total / measure[:, None]).reshape(values.shape).to(values.dtype)


def _taken(faces: _Faces, swept: Tensor, measure: Tensor) -> float:
    """The largest share of a cell that its faces take or give."""
    each = swept.abs()
    inner = faces.neighbour >= 0
    taken = torch.zeros_like(measure).index_add(0, faces.owner, each)
    taken = taken.index_add(0, faces.neighbour[inner], each[inner])
    return float((taken / measure).max())


def _centres(faces: _Faces, points: Tensor, cells: int) -> Tensor:
    """(C, D) the mean of each cell's face means: near enough to its centroid to reconstruct at."""
    means = faces.means(points)
    inner = faces.neighbour >= 0
    index = torch.cat([faces.owner, faces.neighbour[inner]])
    total = means.new_zeros(cells, faces.dim).index_add(0, index, torch.cat([means, means[inner]]))
    return total / torch.bincount(index, minlength=cells)[:, None]


def _donated(
    faces: _Faces, q: Tensor, centres: Tensor, at: Float[Tensor, "F D"], swept: Tensor
) -> Tensor:
    """(F, c) the values of what each face sweeps: of the cell it is taken from."""
    inner = faces.neighbour >= 0
    a, b = faces.owner[inner], faces.neighbour[inner]
    pairs = torch.cat([torch.stack([a, b]), torch.stack([b, a])], 1)
    slope = _slopes(q, centres, pairs)
    # Held to the range of the cells about it at every face, or what is left would leave it.
    cell = torch.cat([faces.owner, b])
    face = torch.cat([at, at[inner]])
    jump = ((face - centres[cell])[:, :, None] * slope[cell]).sum(1)
    low, high = _range(q, pairs)
    room = torch.where(jump > 0, high[cell] - q[cell], low[cell] - q[cell])
    share = torch.where(jump == 0, torch.ones_like(jump), (room / jump).clamp(0, 1))
    least = torch.ones_like(q).scatter_reduce(0, cell[:, None].expand_as(share), share, "amin")
    donor = torch.where((swept > 0) & inner, faces.neighbour, faces.owner)
    there = ((at - centres[donor])[:, :, None] * slope[donor]).sum(1)
    return q[donor] + least[donor] * there * inner[:, None]


def _range(q: Tensor, pairs: Int[Tensor, "2 P"]) -> tuple[Tensor, Tensor]:
    """(C, c) least and largest value of each cell and those beside it."""
    to = pairs[0][:, None].expand(-1, q.shape[1])
    low = q.scatter_reduce(0, to, q[pairs[1]], "amin")
    return low, q.scatter_reduce(0, to, q[pairs[1]], "amax")


def _slopes(q: Tensor, centres: Tensor, pairs: Int[Tensor, "2 P"]) -> Tensor:
    """(C, D, c) gradients by least squares over the cells beside."""
    way = centres[pairs[1]] - centres[pairs[0]]  # (P, D)
    weight = 1 / (way * way).sum(1, keepdim=True)
    outer = (weight * way)[:, :, None] * way[:, None, :]
    right = (weight * way)[:, :, None] * (q[pairs[1]] - q[pairs[0]])[:, None, :]
    n, d = centres.shape
    left = outer.new_zeros(n, d, d).index_add(0, pairs[0], outer)
    load = right.new_zeros(n, d, q.shape[1]).index_add(0, pairs[0], right)
    return torch.linalg.pinv(left, hermitian=True, rtol=1e-9) @ load
