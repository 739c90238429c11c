"""Forces and moments of a flow on a body.

Normals point out of the body, into the fluid: F = −∫ p n dA + ∫ τ dA, with p the pressure and τ
the friction, the viscous traction of the fluid on the body. In 3-D a body is a surface whose cells
are counter-clockwise seen from outside, in 2-D a contour that runs counter-clockwise about it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from meshsim.check import InputError, check_finite, check_known, check_length, check_shape
from meshsim.geometry.cells import Cells
from meshsim.geometry.measure import lift, rings
from meshsim.geometry.topology import face_cells
from meshsim.mesh import Mesh


@dataclass(frozen=True, eq=False)
class Forces:
    """What a fluid does to a body; in 2-D per unit of span.

    Arguments:
        pressure: (D,) force of the pressure, −∫ p n dA.
        friction: (D,) force of the friction, ∫ τ dA.
        moment: (3,) moment of both about the centre; in 2-D (), counter-clockwise.
    """

    pressure: Tensor
    friction: Tensor
    moment: Tensor

    @property
    def total(self) -> Tensor:
        """(D,) the force."""
        return self.pressure + self.friction


def forces(
    points: Float[Tensor, "N D"],
    cells: Sequence[Cells],
    pressure: Float[Tensor, " n"],
    friction: Float[Tensor, "m D"] | None = None,
    *,
    on: str = "point",
    centre: Sequence[float] | None = None,
    outward: bool = True,
) -> Forces:
    """Force and moment on a body, integrated exactly over each face.

    F = −∫ p n dA + ∫ τ dA,  M = −∫ (r − r₀) × p n dA + ∫ (r − r₀) × τ dA. Values on points are
    linear on triangles and lines, and on other faces linear on the triangles between their edges
    and the average corner, which has the average value: the fan that OpenFOAM's area vectors sum
    (`meshsim.geometry.measure.polygon_areas`). Values on cells are constant. A warped face weighs
    friction with the length of its area vector; quadratic cells count by their corners. So a
    constant pressure on a closed surface gives no force and no moment, and p = x gives −V e_x with
    V the volume within.

    Arguments:
        points: (N, D) float; D = 3 with 2-D cells, or D = 2 with lines.
        cells: blocks of the body's surface, wound as the module says.
        pressure: (N,) or (C,) float, as `on` says.
        friction: (N, D) or (C, D) float, traction of the fluid on the body; None is zero.
        on: "point" or "cell", what the rows of pressure and friction belong to.
        centre: (D,) what moments are taken about; None is the origin.
        outward: False where the cells are wound the other way, with normals into the body.

    Returns:
        Forces in the dtype of the points, computed in float64. Differentiable.

    Raises:
        InputError: cells of another dimension; values of another number, or not finite.

    >>> square = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    >>> lines = Cells("line", torch.tensor([[0, 1], [1, 2], [2, 3], [3, 0]]))
    >>> forces(square, [lines], square[:, 0]).total  # p = x
    tensor([-1., 0.])
    """
    n, dim = len(points), check_surface(points, cells)
    check_known(on, ("point", "cell"), "place of values")
    count = n if on == "point" else sum(len(block) for block in cells)
    check_length(pressure, count, "pressure", f"{on}s")
    check_finite(pressure, "pressure")
    if friction is not None:
        check_shape(friction, (count, dim), "friction")
        check_finite(friction, "friction")
        friction = lift(friction)
    sign = -1.0 if outward else 1.0
    x = lift(points)
    if centre is not None:
        check_shape(torch.tensor(centre), (dim,), "centre")
        x = x - lift(torch.tensor([list(centre)], dtype=x.dtype, device=x.device))
    p = sign * pressure.double()[:, None]  # (n, 1)
    pushed, rubbed, moment = x.new_zeros(3), x.new_zeros(3), x.new_zeros(3)
    first = 0
    for block in cells:
        for ids, ring in rings(block):
            if ring.shape[1] <= block.dim:  # polygons of fewer than three corners have no area
                continue
            r = fan(x[ring])  # (n, m, k, 3): faces, parts, corners
            area = _areas(r)  # (n, m, 3)
            k = r.shape[2]
            pairs = k * (k + 1)  # ∫ λᵢ λⱼ dA = A (1 + δᵢⱼ) / (k (k + 1)) on a simplex of k corners
            rows = ring if on == "point" else (first + ids)[:, None].expand_as(ring)
            q = fan(p[rows])  # (n, m, k, 1)
            pushed = pushed + (q.mean(2) * area).sum((0, 1))
            arm = ((q * r).sum(2) + q.sum(2) * r.sum(2)) / pairs
            moment = moment + torch.linalg.cross(arm, area).sum((0, 1))
            if friction is None:
                continue
            t = fan(friction[rows])  # (n, m, k, 3)
            whole = area.sum(1, keepdim=True)
            size = whole.norm(dim=2, keepdim=True)
            weight = (area * whole / size.masked_fill(size == 0, 1.0)).sum(2, keepdim=True)
            rubbed = rubbed + (t.mean(2) * weight).sum((0, 1))
            turn = torch.linalg.cross(r, t).sum(2) + torch.linalg.cross(r.sum(2), t.sum(2))
            moment = moment + (turn * weight / pairs).sum((0, 1))
        first += len(block)
    moment = moment if dim == 3 else moment[2]
    return Forces(*(v.to(points.dtype) for v in (pushed[:dim], rubbed[:dim], moment)))


def check_surface(points: Tensor, cells: Sequence[Cells]) -> int:
    """D; `InputError` unless the cells are of one dimension less than space."""
    dim = points.shape[1]
    if dim not in (2, 3) or any(block.dim != dim - 1 for block in cells):
        got = ", ".join(sorted({f"{block.dim}-D" for block in cells}))
        raise InputError(
            f"`cells`: expected 2-D cells in 3-D or lines in 2-D, got {got or 'none'} in {dim}-D"
        )
    for block in cells:
        block.check(len(points))
    return dim


def fan(x: Tensor) -> Tensor:
    """(n, k, c) values at corners → (n, m, 2 or 3, c) at those of the simplices of each face."""
    if x.shape[1] <= 3:
        return x[:, None]
    mean = x.mean(1, keepdim=True).expand_as(x)
    return torch.stack([mean, x, x.roll(-1, 1)], 2)


def _areas(x: Tensor) -> Tensor:
    """(n, m, 3) area vectors of triangles or of lines in the plane (n, m, k, 3)."""
    a = x[:, :, 1] - x[:, :, 0]
    if x.shape[2] == 2:
        return torch.stack([a[..., 1], -a[..., 0], torch.zeros_like(a[..., 0])], -1)
    return torch.linalg.cross(a, x[:, :, 2] - x[:, :, 0]) / 2


def body_forces(
    mesh: Mesh,
    pressure: str,
    friction: str | None = None,
    *,
    boundary: str | None = None,
    centre: Sequence[float] | None = None,
    outward: bool = True,
) -> Forces:
    """`forces` by the names of fields, on a surface mesh or on a boundary of the fluid's mesh.

    Arguments:
        mesh: the body's surface; with `boundary`, the fluid about it.
        pressure: name of a scalar field.
        friction: name of a vector field of the traction on the body.
        boundary: name of the part of the boundary that is the body; which way it is wound is
            known then.
        centre: (D,) what moments are taken about; None is the origin.
        outward: of a surface mesh, False where its normals point into the body.

    Fields are looked for on the boundary, then on cells (beside the boundary), then on points.

    Raises:
        InputError: there is no such field or boundary, or the two fields are in different places.
    """
    names = [pressure] if friction is None else [pressure, friction]
    if boundary is None:
        cells: Sequence[Cells] = mesh.cells
        places = [("cell", mesh.cell_fields), ("point", mesh.point_fields)]
    else:
        check_known(boundary, mesh.boundaries, "boundary")
        part = mesh.boundaries[boundary]
        cells, outward = [face_cells(mesh.faces, part.faces, mesh.dim)], False
        beside = mesh.faces.owner[part.faces]
        near = {name: mesh.cell_fields[name][beside] for name in names if name in mesh.cell_fields}
        places = [("cell", part.fields), ("cell", near), ("point", mesh.point_fields)]
    for on, fields in places:
        if all(name in fields for name in names):
            p = fields[pressure]
            t = None if friction is None else fields[friction].to(mesh.points.dtype)
            p = p.squeeze(1) if p.dim() == 2 and p.shape[1] == 1 else p
            check_shape(p, (None,), pressure)
            return forces(
                mesh.points,
                cells,
                p.to(mesh.points.dtype),
                t,
                on=on,
                centre=centre,
                outward=outward,
            )
    for name in names:
        check_known(name, [k for _, fields in places for k in fields], "field")
    raise InputError(f"{pressure!r} and {friction!r} are in different places (points, cells)")
