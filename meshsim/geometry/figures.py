"""Figures of merit of finite-volume meshes, by OpenFOAM's definitions (v1912)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from meshsim.geometry.cells import Cells
from meshsim.geometry.columns import gather, polygons
from meshsim.geometry.measure import CHUNK, cell_centres, cell_measures, lift
from meshsim.geometry.topology import Faces

TINY = 1e-150  # OpenFOAM's ROOTVSMALL
ANGLE, SKEW, OUTER_SKEW, ASPECT, OPEN = 70.0, 4.0, 20.0, 1000.0, 1e-6  # OpenFOAM's thresholds


class Figures(NamedTuple):
    """How good cells and faces are for finite volumes.

    Arguments:
        cosine: (I,) of the angle between the area vector of a face inside and the line between
            the centres of its cells; these faces are the first ones.
        skewness: (F,).
        aspect: (C,) aspect ratio of the cells.
        openness: (C,) how far the area vectors of a cell are from adding up to zero.
    """

    cosine: Float[Tensor, " I"]
    skewness: Float[Tensor, " F"]
    aspect: Float[Tensor, " C"]
    openness: Float[Tensor, " C"]

    @property
    def angle(self) -> Float[Tensor, " I"]:
        """Non-orthogonality of the faces inside, in degrees."""
        return self.cosine.clamp(-1.0, 1.0).acos().rad2deg()

    @property
    def mean_angle(self) -> float:
        """acos of the mean cosine, in degrees: what `checkMesh` prints as the average."""
        mean = float(self.cosine.mean()) if len(self.cosine) else 1.0
        return math.degrees(math.acos(min(max(mean, -1.0), 1.0)))


def figures(
    points: Float[Tensor, "N D"],
    blocks: Sequence[Cells],
    faces: Faces,
    used: Bool[Tensor, " D"] | None = None,
) -> Figures:
    """Non-orthogonality, skewness, aspect ratio and openness (OpenFOAM, `primitiveMeshTools`).

    With S the area vector of a face, x_f its centre, d the way from the owner's centre x_P to the
    neighbour's (on the outside: to the face's plane, along S):
    cosine S·d / |S||d|; skewness |k| / max(0.2 |d|, maxᵢ |k̂·(pᵢ − x_f)|), where
    k = x_f − x_P − d S·(x_f − x_P) / S·d and pᵢ are the face's points (0.4 |d| on the outside);
    aspect ratio max Aᵢ / min Aᵢ, where A = Σ_f |S_f| by components, and in space the larger of it
    and ΣAᵢ / 6 V^⅔; openness max |Σ_f ±S_f|ᵢ / Aᵢ. Centres are those of OpenFOAM v1912, where a
    warped face's triangles are weighted by their areas. Faces of cyclic and processor patches
    are on the outside here, where `checkMesh` has them inside.

    Arguments:
        points: (N, D) float.
        blocks: cells as many-dimensional as space.
        faces: theirs.
        used: (D,) which directions the aspect ratio looks at: not those normal to `empty`
            patches (one cell thick) or in which a `wedge` turns. None: all.

    >>> from meshsim.geometry import topology
    >>> points = torch.tensor([[0.0, 0], [4, 0], [4, 1], [0, 1], [8, 0], [8, 1]])
    >>> cells = [Cells("quad", torch.tensor([[0, 1, 2, 3], [1, 4, 5, 2]]))]
    >>> found = figures(points, cells, topology.faces(points, cells))
    >>> found.angle[0].item(), found.aspect.tolist()
    (0.0, [4.0, 4.0])
    """
    x = points.double()
    n, inside = sum(map(len, blocks)), faces.neighbour >= 0
    area, centre = _faces(x, faces)
    middle, size = _cells(x, blocks, faces, area, centre, n)
    own = middle[faces.owner]
    other = middle[faces.neighbour.clamp(min=0)]
    length = area.norm(dim=1)
    to_face = centre - own
    normal = area / length.clamp(min=TINY)[:, None]
    outward = normal * (normal * to_face).sum(1, keepdim=True)
    d = torch.where(inside[:, None], other - own, outward)  # (F, D)
    far = d.norm(dim=1)
    along = (area * d).sum(1)
    cosine = (along / (far * length + TINY))[inside]
    k = to_face - ((area * to_face).sum(1) / (along + TINY))[:, None] * d
    off = k.norm(dim=1)
    reach = torch.where(inside, 0.2, 0.4) * far + TINY
    reach = torch.maximum(reach, _reach(x, faces, centre, k / (off + TINY)[:, None]))
    total, sizes = x.new_zeros(n, x.shape[1]), x.new_zeros(n, x.shape[1])
    some = inside.nonzero().squeeze(1)
    for cell, sign, rows in ((faces.owner, 1, area), (faces.neighbour[some], -1, area[some])):
        total = total.index_add(0, cell, sign * rows)
        sizes = sizes.index_add(0, cell, rows.abs())
    kept = sizes if used is None else sizes[:, used]
    aspect = kept.amax(1) / (kept.amin(1) + TINY)
    if kept.shape[1] == 3:
        aspect = torch.maximum(aspect, sizes.sum(1) / 6 / size.clamp(min=TINY) ** (2 / 3))
    openness = (total.abs() / (sizes + TINY)).amax(1)
    return Figures(cosine, off / reach, aspect.clamp(max=1 / TINY), openness)


def _rings(faces: Faces) -> list[tuple[Tensor, Tensor]]:
    """Faces by number of corners: which, and their corners (f, k); some thousands at a time."""
    sizes, out = faces.offsets.diff(), []
    for k in sizes.unique().tolist():
        for ids in (sizes == k).nonzero().squeeze(1).split(CHUNK):
            at = faces.offsets[ids, None] + torch.arange(k, device=ids.device)
            out.append((ids, faces.nodes[at]))
    return out


def _faces(x: Tensor, faces: Faces) -> tuple[Tensor, Tensor]:
    """Area vectors and centres, float64."""
    if x.shape[1] < 3:
        return faces.area.double(), faces.centre.double()
    area, centre = x.new_zeros(len(faces), 3), x.new_zeros(len(faces), 3)
    columns = x.t().contiguous()
    for ids, ring in _rings(faces):
        s, c = polygons(gather(columns, ring), by_area=True)
        area[ids], centre[ids] = s.t(), c.t()
    return area, centre


def _cells(
    x: Tensor, blocks: Sequence[Cells], faces: Faces, area: Tensor, centre: Tensor, n: int
) -> tuple[Tensor, Tensor]:
    """Centres (n, D) and measures (n,) of the cells, from their faces."""
    if x.shape[1] < 3:
        return cell_centres(x, blocks), cell_measures(x, blocks)
    some = (faces.neighbour >= 0).nonzero().squeeze(1)
    cell = torch.cat([faces.owner, faces.neighbour[some]])
    at = torch.cat([torch.arange(len(faces), device=x.device), some])
    out = torch.cat([area, -area[some]])
    count = torch.bincount(cell, minlength=n).clamp(min=1)[:, None]
    middle = x.new_zeros(n, 3).index_add(0, cell, centre[at]) / count
    way = centre[at] - middle[cell]
    height = (out * way).sum(1, keepdim=True)
    volume = x.new_zeros(n, 1).index_add(0, cell, height)
    moment = x.new_zeros(n, 3).index_add(0, cell, height * way)
    flat = volume.abs() <= 1e-300
    shift = (0.75 * moment / volume.masked_fill(flat, 1.0)).masked_fill(flat, 0.0)
    return middle + shift, volume.squeeze(1) / 3


def _reach(x: Tensor, faces: Faces, centre: Tensor, along: Tensor) -> Tensor:
    """(F,) how far a face's points reach from its centre along a unit vector, either way."""
    out = x.new_zeros(len(faces))
    columns = lift(x).t().contiguous()
    centre, along = lift(centre), lift(along)
    for ids, ring in _rings(faces):
        way = gather(columns, ring) - centre[ids].t()[:, None]
        out[ids] = (way * along[ids].t()[:, None]).sum(0).abs().amax(0)
    return out
