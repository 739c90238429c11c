"""Faces on the outside that lie inside the domain: covered by smaller ones that do not match."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from meshsim.geometry.measure import lift
from meshsim.geometry.topology import Faces

FLAT, COVER = 1e-6, 1e-3  # off the plane, over the size; share of the area that may be missing
OPPOSED = -0.999  # cosine of the normals
SMALLER = 0.95  # a face this near in size to the one it lies on is its double, not a part of it
PAIRS = 1 << 25  # candidates that are looked at


class Hanging(NamedTuple):
    """What was found.

    Arguments:
        covered: (n,) faces that smaller ones cover.
        covering: (m,) those smaller ones.
        left_out: how many faces had too many others near them to be looked at.
    """

    covered: Int[Tensor, " n"]
    covering: Int[Tensor, " m"]
    left_out: int


def hanging_faces(
    points: Float[Tensor, "N D"], faces: Faces, some: Bool[Tensor, " F"] | None = None
) -> Hanging:
    """Outside faces that two or more smaller outside faces cover from the other side.

    A face F is covered if there are smaller faces whose centres lie on it (off its plane by less
    than 1e-6 of its size, and within its edges), whose normals are opposed to its own, and whose
    areas add up to its own but for a thousandth: a T-junction, a cell beside two or four cells
    of half its size. In the plane faces are edges. Edges of faces are taken as straight and faces
    as convex; interfaces where neither side's faces are parts of the other's are not found.

    Arguments:
        points: (N, D) float.
        faces: of cells as many-dimensional as space.
        some: (F,) the faces to look at; None: all on the outside.

    Returns:
        Face numbers, rising.

    >>> from meshsim.geometry import topology
    >>> from meshsim.geometry.cells import Cells
    >>> x = torch.tensor([[0.0, 0], [2, 0], [2, 2], [0, 2], [3, 0], [3, 1], [2, 1], [3, 2]])
    >>> cells = [Cells("quad", torch.tensor([[0, 1, 2, 3], [1, 4, 5, 6], [6, 5, 7, 2]]))]
    >>> len(hanging_faces(x, topology.faces(x, cells)).covering)
    2
    """
    from scipy.spatial import cKDTree

    outside = (faces.neighbour < 0) if some is None else (faces.neighbour < 0) & some
    ids = outside.nonzero().squeeze(1)
    none = ids[:0]
    area, centre = lift(faces.area)[ids], lift(faces.centre)[ids]
    size = area.norm(dim=1)
    real = (size > 0) & centre.isfinite().all(1)
    ids, area, centre, size = ids[real], area[real], centre[real], size[real]
    if len(ids) < 3:
        return Hanging(none, none, 0)
    x = lift(points)
    ring, sizes = _padded(faces, ids)
    radius = (x[ring] - centre[:, None]).norm(dim=2).amax(1)
    tree = cKDTree(centre.numpy())
    # A face with no other within its reach is not covered; most are not looked at again.
    near = tree.query_ball_point(centre.numpy(), radius.numpy() * 0.999, return_length=True)
    rows = torch.from_numpy(np.flatnonzero(near > 2))
    count = torch.from_numpy(near)[rows]
    kept = count.sort().values.cumsum(0) <= PAIRS
    order = count.argsort()[kept]
    left_out, rows = len(rows) - len(order), rows[order]
    found, cover = [none], [none]
    if not len(rows):
        return Hanging(none, none, left_out)
    for part in rows.split(1 << 14):
        lists = tree.query_ball_point(centre[part].numpy(), radius[part].numpy() * 0.999)
        big = part.repeat_interleave(torch.tensor([len(row) for row in lists]))
        small = torch.from_numpy(np.concatenate([*map(np.asarray, lists)]).astype(np.int64))
        unit = area / size[:, None]
        keep = (size[small] < SMALLER * size[big]) & ((unit[small] * unit[big]).sum(1) < OPPOSED)
        big, small = big[keep], small[keep]
        keep = _on(x, ring[big], sizes[big], centre[big], unit[big], radius[big], centre[small])
        big, small = big[keep], small[keep]
        total = size.new_zeros(len(ids)).index_add(0, big, size[small])
        full = (total - size).abs() <= COVER * size
        found.append(ids[full])
        cover.append(ids[small[full[big]]])
    return Hanging(torch.cat(found).unique(), torch.cat(cover).unique(), left_out)


def _padded(faces: Faces, ids: Tensor) -> tuple[Tensor, Tensor]:
    """(n, most) corners of some faces, the last repeated where there are fewer; (n,) how many."""
    sizes = faces.offsets.diff()[ids]
    place = torch.arange(int(sizes.max()), device=ids.device)
    place = torch.minimum(place, sizes[:, None] - 1)
    return faces.nodes[faces.offsets[ids, None] + place], sizes


def _on(
    x: Tensor, ring: Tensor, sizes: Tensor, centre: Tensor, unit: Tensor, reach: Tensor, p: Tensor
) -> Tensor:
    """(n,) whether points lie on convex polygons; on segments where there are two corners."""
    flat = ((p - centre) * unit).sum(1).abs() <= FLAT * reach
    corners = x[ring]
    after = torch.arange(ring.shape[1], device=ring.device) + 1
    after = torch.where(after < sizes[:, None], after, 0)
    edge = corners.gather(1, after[..., None].expand(-1, -1, 3)) - corners
    side = (torch.linalg.cross(edge, p[:, None] - corners) * unit[:, None]).sum(2)
    inside = (side >= -FLAT * reach[:, None] ** 2).all(1)
    a, b = corners[:, 0], corners[:, 1]
    along = ((p - a) * (b - a)).sum(1) / ((b - a) ** 2).sum(1).clamp(min=1e-300)
    return flat & torch.where(sizes == 2, (along > 0) & (along < 1), inside)
