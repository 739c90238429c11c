"""Lengths, areas, volumes, centroids and normals of cells and points.

Everything is computed in float64 and rounded once, to the dtype of the points.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from meshsim.check import InputError
from meshsim.geometry.cells import TYPES, Cells, cell_faces

CHUNK = 1 << 13  # cells or faces at once, whose coordinates stay in cache


def cross(a: Float[Tensor, "3 *n"], b: Float[Tensor, "3 *n"]) -> Float[Tensor, "3 *n"]:
    """a × b of columns."""
    return torch.stack(
        [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]]
    )


def lift(points: Tensor) -> Tensor:
    """Points (N, D) as float64 (N, 3), with z = 0 where D = 2."""
    return torch.nn.functional.pad(points.double(), (0, 3 - points.shape[1]))


def rings(block: Cells) -> Iterator[tuple[Tensor, Tensor]]:
    """Corner rings of 2-D cells, or of the faces of polyhedra, grouped by their size.

    Yields:
        ids (n,): cell (polygon, triangle, …) or face number (polyhedron), rising.
        ring (n, k): its corner points.
    """
    if TYPES[block.type][1]:
        yield (
            torch.arange(len(block), device=block.nodes.device),
            block.nodes[:, : TYPES[block.type][2]],
        )
        return
    offsets = block.offsets if block.face_offsets is None else block.face_offsets
    assert offsets is not None
    start, sizes = offsets[:-1], offsets.diff()
    for k in sizes.unique().tolist():
        ids = (sizes == k).nonzero().squeeze(1)
        yield ids, block.nodes[start[ids, None] + torch.arange(k, device=ids.device)]


def triangles(blocks: Sequence[Cells]) -> tuple[Int[Tensor, "T 3"], Int[Tensor, " T"]]:
    """Polygons cut into fans about their first corners, and which cell each triangle is of.

    >>> triangles([Cells("quad", torch.tensor([[0, 1, 2, 3]]))])
    (tensor([[0, 1, 2],
            [0, 2, 3]]), tensor([0, 0]))
    """
    parts, cells, first = [], [], 0
    for block in blocks:
        for ids, ring in rings(block):
            for k in range(1, ring.shape[1] - 1):
                parts.append(ring[:, [0, k, k + 1]])
                cells.append(first + ids)
        first += len(block)
    return torch.cat(parts), torch.cat(cells)


def polygon_areas(x: Float[Tensor, "n k 3"]) -> tuple[Tensor, Tensor]:
    """Area vectors and centroids of polygons, flat or warped, by OpenFOAM's convention.

    S = ½ Σ (xᵢ − x̄) × (xᵢ₊₁ − x̄), a fan of triangles around the average point x̄; the centroid is
    the mean of the triangles' weighted by their area along S (OpenFOAM, `face::areaAndCentre`).

    Arguments:
        x: (n, k, 3) float64 corners in ring order; k < 3 gives zero area.

    Returns:
        (n, 3) area vectors, right-handed; (n, 3) centroids, the average point where S = 0.
    """
    if x.shape[1] == 0:
        return x.new_zeros(len(x), 3), x.new_zeros(len(x), 3)
    parts = [_areas(some) for some in x.split(CHUNK)]
    if len(parts) == 1:
        return parts[0]
    areas, centres = zip(*parts, strict=True)
    return torch.cat(areas), torch.cat(centres)


def _areas(x: Tensor) -> tuple[Tensor, Tensor]:
    """`polygon_areas` of some, coordinates in columns (3, k, n)."""
    p = x.permute(2, 1, 0).contiguous()
    # Relative to a corner: far from the origin nothing is lost, and S does not depend on x̄.
    d = p - p[:, :1]
    if p.shape[1] == 3:
        return (cross(d[:, 1], d[:, 2]) / 2).t(), (p[:, 0] + (d[:, 1] + d[:, 2]) / 3).t()
    mean = d.mean(1)  # (3, n)
    e = d - mean[:, None]
    after = e.roll(-1, 1)
    fan = cross(e, after) / 2  # (3, k, n)
    area = fan.sum(1)
    # Weights are relative: the derivative of their common size adds nothing.
    size = area.detach().square().sum(0).sqrt()
    flat = size <= 1e-14 * fan.detach().square().sum(0).sqrt().sum(0)
    weight = (fan * (area / size.masked_fill(flat, 1.0))[:, None]).sum(0)  # (k, n)
    total = weight.sum(0).masked_fill(flat, 1.0)
    shift = (weight * (e + after)).sum(1) / (3 * total)
    return area.t(), (p[:, 0] + mean + shift.masked_fill(flat, 0.0)).t()


def polyhedron_faces(
    points: Float[Tensor, "N D"], block: Cells
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Faces of polyhedra, each as its cell lists it, turned so that normals point out.

    Files do not keep to one winding. A cell whose faces all look away from its middle keeps them;
    of the others, those whose faces run along every edge once in each direction are turned as a
    whole by the sign of their volume, the rest face by face, away from the middle.

    Returns:
        area (n, 3) and centre (n, 3) float64, outwards; cell (n,); turned (n,) bool: whether the
        listed ring runs the other way round.
    """
    assert block.offsets is not None and block.face_offsets is not None
    x = lift(points)
    n = len(block.face_offsets) - 1
    cell = torch.repeat_interleave(block.offsets.diff())  # (n,)
    area, centre = x.new_zeros(n, 3), x.new_zeros(n, 3)
    for ids, ring in rings(block):
        s, c = polygon_areas(x[ring])
        area, centre = area.index_copy(0, ids, s), centre.index_copy(0, ids, c)
    count = block.offsets.diff().clamp(min=1)[:, None]
    middle = x.new_zeros(len(block), 3).index_add(0, cell, centre) / count
    height = (area * (centre - middle[cell])).sum(1)
    turned = height < 0
    odd = torch.zeros(len(block), dtype=torch.bool, device=cell.device)
    odd[cell[turned]] = True
    if odd.any():
        volume = x.new_zeros(len(block)).index_add(0, cell, height)
        closed = odd & _consistent(block, cell, odd)
        turned = torch.where(closed[cell], (volume < 0)[cell], turned)
        area = torch.where(turned[:, None], -area, area)
    return area, centre, cell, turned


def _consistent(block: Cells, cell: Tensor, chosen: Tensor) -> Tensor:
    """(C,) bool: of the chosen polyhedra, those whose faces run along edges both ways, once."""
    assert block.face_offsets is not None
    sizes = block.face_offsets.diff()
    owner = torch.repeat_interleave(cell, sizes)  # cell of each entry of `nodes`
    last = torch.arange(len(owner), device=cell.device) + 1
    ends = block.face_offsets[1:][sizes > 0] - 1
    last[ends] = block.face_offsets[:-1][sizes > 0]
    keep = chosen[owner]
    a, b, owner = block.nodes[keep], block.nodes[last[keep]], owner[keep]
    sign = (a < b).long() * 2 - 1
    _, edge = torch.unique(
        torch.stack([owner, torch.minimum(a, b), torch.maximum(a, b)]), dim=1, return_inverse=True
    )
    zeros = torch.zeros_like(edge)
    wrong = (zeros.index_add(0, edge, sign) != 0) | (
        zeros.index_add(0, edge, torch.ones_like(edge)) != 2
    )
    ok = chosen.clone()
    ok[owner[wrong[edge]]] = False
    return ok


def _block_measures(points: Tensor, block: Cells) -> tuple[Tensor, Tensor]:
    """Signed measure (C,) and centroid (C, 3) of the cells of one block, float64."""
    x = lift(points)
    device = x.device
    if block.dim == 0:
        return torch.ones(len(block), dtype=x.dtype, device=device), x[block.nodes[:, 0]]
    if block.dim == 1:
        ends = x[block.nodes[:, :2]]  # (C, 2, 3)
        return (ends[:, 1] - ends[:, 0]).norm(dim=1), ends.mean(1)
    if block.dim == 2:
        measure, centre = x.new_zeros(len(block)), x.new_zeros(len(block), 3)
        for ids, ring in rings(block):
            s, c = polygon_areas(x[ring])
            size = s[:, 2] if points.shape[1] == 2 else s.norm(dim=1)
            measure, centre = measure.index_copy(0, ids, size), centre.index_copy(0, ids, c)
        return measure, centre
    if TYPES[block.type][2] == 4:
        corners = x[block.nodes[:, :4]]
        a, b, c = (corners[:, 1:] - corners[:, :1]).unbind(1)
        return (torch.linalg.cross(a, b) * c).sum(1) / 6, corners.mean(1)
    if block.type == "polyhedron":
        area, centre, cell, _ = polyhedron_faces(points, block)
        assert block.offsets is not None
        zero, n = x.new_zeros(len(block), 3), block.offsets.diff().clamp(min=1)[:, None]
        middle = zero.index_add(0, cell, centre) / n
        height = (area * (centre - middle[cell])).sum(1, keepdim=True)
        volume = zero[:, :1].index_add(0, cell, height)
        moment = zero.index_add(0, cell, height * (centre - middle[cell]))
    else:
        k = TYPES[block.type][2]
        faces = [list(face) for face, _ in cell_faces(block.type)]
        parts = [_solids(x[nodes], faces) for nodes in block.nodes[:, :k].split(CHUNK)]
        volume, moment, middle = (torch.cat(part) for part in zip(*parts, strict=True))
    empty = volume.abs() <= 1e-300
    shift = (moment * 3 / 4 / volume.masked_fill(empty, 1.0)).masked_fill(empty, 0.0)
    return volume.squeeze(1) / 3, middle + shift


def _solids(corners: Tensor, rings: Sequence[list[int]]) -> tuple[Tensor, Tensor, Tensor]:
    """Of cells (n, k, 3) thrice the volume, its moment about the mean of the faces' centres, it."""
    faces = [polygon_areas(corners[:, ring]) for ring in rings]
    middle = torch.stack([centre for _, centre in faces]).mean(0)
    volume, moment = torch.zeros_like(middle[:, :1]), torch.zeros_like(middle)
    for area, centre in faces:
        height = (area * (centre - middle)).sum(1, keepdim=True)
        volume = volume + height
        moment = moment + height * (centre - middle)
    return volume, moment, middle


def signed_measures(points: Float[Tensor, "N D"], blocks: Sequence[Cells]) -> Float[Tensor, "C"]:
    """Measures with the sign of the cell's winding: negative where it is turned inside out.

    Surfaces in 3-D, lines and polyhedra have no inside to tell by and are positive.

    >>> points = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> signed_measures(points, [Cells("triangle", torch.tensor([[0, 2, 1]]))])
    tensor([-0.5000])
    """
    return _measures(points, blocks)[0].to(points.dtype)


def _measures(points: Tensor, blocks: Sequence[Cells]) -> tuple[Tensor, Tensor]:
    """Signed measures (C,) and centroids (C, 3), float64."""
    none = points.new_zeros(0, 3).double()
    parts = [_block_measures(points, block) for block in blocks]
    return (
        torch.cat([none[:, 0], *(measure for measure, _ in parts)]),
        torch.cat([none, *(centre for _, centre in parts)]),
    )


def measures_and_centres(
    points: Float[Tensor, "N D"], blocks: Sequence[Cells]
) -> tuple[Float[Tensor, "C"], Float[Tensor, "C D"]]:
    """`cell_measures` and `cell_centres`, for the work of one of them."""
    measure, centre = _measures(points, blocks)
    return measure.abs().to(points.dtype), centre[:, : points.shape[1]].to(points.dtype)


def cell_measures(points: Float[Tensor, "N D"], blocks: Sequence[Cells]) -> Float[Tensor, "C"]:
    """Length, area or volume of each cell; quadratic cells by their corners, vertices count 1.

    V = ⅓ Σ_f S_f·(x_f − x̄), the divergence theorem over faces of any shape, S_f and x_f as in
    `polygon_areas` (OpenFOAM, `primitiveMeshCellCentresAndVols`).

    Arguments:
        points: (N, D) float.
        blocks: cells of one dimension.

    Returns:
        (C,), in block order, never negative.

    >>> points = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    >>> cell_measures(points, [Cells("quad", torch.tensor([[0, 1, 2, 3]]))])
    tensor([1.])
    """
    return signed_measures(points, blocks).abs()


def cell_centres(points: Float[Tensor, "N D"], blocks: Sequence[Cells]) -> Float[Tensor, "C D"]:
    """Centroid of each cell; quadratic cells by their corners.

    x_c = Σ_f V_f (¾ x_f + ¼ x̄) / Σ_f V_f over the pyramids between the faces and x̄, the mean of
    the x_f (OpenFOAM, `primitiveMeshCellCentresAndVols`); x̄ itself where the volume is zero.

    Arguments:
        points: (N, D) float.
        blocks: cells of one dimension.

    Returns:
        (C, D), in block order.
    """
    return measures_and_centres(points, blocks)[1]


def cell_normals(points: Float[Tensor, "N 3"], blocks: Sequence[Cells]) -> Float[Tensor, "C 3"]:
    """Area vectors of the cells of a surface in 3-D, right-handed as the cells are wound.

    Raises:
        InputError: points are not 3-D, or cells are not 2-D.
    """
    if points.shape[1] != 3 or any(block.dim != 2 for block in blocks):
        raise InputError("normals need a surface: expected 2-D cells on 3-D points")
    x, parts = lift(points), [lift(points)[:0]]
    for block in blocks:
        out = x.new_zeros(len(block), 3)
        for ids, ring in rings(block):
            out = out.index_copy(0, ids, polygon_areas(x[ring])[0])
        parts.append(out)
    return torch.cat(parts).to(points.dtype)


def point_normals(points: Float[Tensor, "N 3"], blocks: Sequence[Cells]) -> Float[Tensor, "N 3"]:
    """Unit normals at the points of a surface in 3-D: the area-weighted mean of its cells'.

    Arguments:
        points: (N, 3) float.
        blocks: 2-D cells; normals follow their winding.

    Returns:
        (N, 3); zero at points of no cell and where the cells' normals cancel.

    Raises:
        InputError: points are not 3-D, or cells are not 2-D.
    """
    area = cell_normals(points.double(), blocks)
    cell, point = incidence(blocks)
    total = area.new_zeros(len(points), 3).index_add(0, point, area[cell])
    length = total.norm(dim=1, keepdim=True)
    return (total / length.masked_fill(length == 0, 1.0)).to(points.dtype)


def point_measures(points: Float[Tensor, "N D"], blocks: Sequence[Cells]) -> Float[Tensor, "N"]:
    """Each point's share of length, area or volume: a cell is dealt out evenly to its points.

    Returns:
        (N,), adding up to the whole mesh; midside nodes take part, points of no cell get 0.

    >>> points = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 2.0]])
    >>> point_measures(points, [Cells("triangle", torch.tensor([[0, 1, 2]]))])
    tensor([1., 1., 1.])
    """
    cell, point = incidence(blocks)
    size = cell_measures(points.double(), blocks)
    share = size / torch.bincount(cell, minlength=len(size)).clamp(min=1)
    return size.new_zeros(len(points)).index_add(0, point, share[cell]).to(points.dtype)


def incidence(blocks: Sequence[Cells]) -> tuple[Int[Tensor, "P"], Int[Tensor, "P"]]:
    """Every (cell, point) pair once: cell numbers, rising, and point numbers.

    >>> cell, point = incidence([Cells("line", torch.tensor([[0, 1], [1, 2]]))])
    >>> cell.tolist(), point.tolist()
    ([0, 0, 1, 1], [0, 1, 1, 2])
    """
    cells, nodes, first = [], [], 0
    for block in blocks:
        device = block.nodes.device
        if block.offsets is None:
            sizes = torch.full((len(block),), block.nodes.shape[1], device=device)
        elif block.face_offsets is None:
            sizes = block.offsets.diff()
        else:
            sizes = block.face_offsets[block.offsets].diff()
        cell = torch.repeat_interleave(sizes)
        node = block.nodes.reshape(-1)
        if block.type == "polyhedron" and len(node):
            both = torch.unique(torch.stack([cell, node]), dim=1)
            cell, node = both[0], both[1]
        cells.append(cell + first)
        nodes.append(node)
        first += len(block)
    none = torch.zeros(0, dtype=torch.int64)
    return torch.cat(cells or [none]), torch.cat(nodes or [none])
