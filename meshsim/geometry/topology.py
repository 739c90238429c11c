"""Faces and edges of cells of any type, matched by their corner points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from meshsim.geometry.cells import TYPES, Cells, cell_edges, cell_faces
from meshsim.geometry.measure import (
    cell_normals,
    lift,
    polygon_areas,
    polyhedron_faces,
    rings,
    signed_measures,
)
from meshsim.rows import equal_rows


@dataclass(frozen=True, eq=False)
class Faces:
    """The faces between cells: what finite volumes need to know.

    A face of 3-D cells is a polygon, of 2-D cells an edge, of lines a point. Internal faces come
    first, sorted by (owner, neighbour), then the boundary, sorted by owner.

    Arguments:
        owner: (F,) int64, the lower of the two cells.
        neighbour: (F,) int64, the other cell, −1 outside. Where more than two cells meet (surfaces
            that are no manifold) it is the second, and `cell_index` has all.
        area: (F, D) area vector out of the owner, its length the face's area (2-D: length). On a
            surface in 3-D: the owner's in-plane normal × edge length. On lines: unit tangent.
        centre: (F, D) centroid.
        offsets: (F + 1,), face f has the corners `nodes[offsets[f]:offsets[f + 1]]`.
        nodes: corner points, in the order whose right-hand normal points out of the owner.
        cell_offsets: (F + 1,), face f has the cells `cell_index[cell_offsets[f]:…]`.
        cell_index: all cells of each face, rising.
        mid_offsets: (F + 1,), into `mid_nodes`.
        mid_nodes: midside and centre nodes of the faces of quadratic cells.
    """

    owner: Int[Tensor, "F"]
    neighbour: Int[Tensor, "F"]
    area: Float[Tensor, "F D"]
    centre: Float[Tensor, "F D"]
    offsets: Int[Tensor, "F1"]
    nodes: Int[Tensor, "n"]
    cell_offsets: Int[Tensor, "F1"]
    cell_index: Int[Tensor, "m"]
    mid_offsets: Int[Tensor, "F1"]
    mid_nodes: Int[Tensor, "q"]

    def __len__(self) -> int:
        return len(self.owner)

    @property
    def n_internal(self) -> int:
        """Faces between two cells; they are the first ones."""
        return int((self.neighbour >= 0).sum())


class _Halves(NamedTuple):
    """Faces as the cells see them, one row a (cell, face), all of k corners."""

    corners: Tensor  # (n, k)
    cell: Tensor  # (n,)
    turn: Tensor  # (n,) bool: reverse `corners` to point out of the cell
    plain: Tensor  # (n,) bool: the same, were each block wound one way throughout
    mids: Tensor  # (n, M), −1 where there is none


class _Found(NamedTuple):
    """Faces of one number of corners; the CSRs as (sizes, values)."""

    owner: Tensor
    neighbour: Tensor
    area: Tensor
    centre: Tensor
    corners: tuple[Tensor, Tensor]
    cells: tuple[Tensor, Tensor]
    mids: tuple[Tensor, Tensor]


def faces(points: Float[Tensor, "N D"], blocks: Sequence[Cells]) -> Faces:
    """The faces of cells of one dimension, each once.

    Two faces are one where they have the same corners. Area vectors and centroids of warped faces
    follow OpenFOAM (`measure.polygon_areas`), so that Σ ±S over the faces of a cell is zero.
    Corners that a collapsed cell repeats count once; a face collapsed to nothing is none.

    Arguments:
        points: (N, D) float.
        blocks: cells of one dimension.

    >>> points = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    >>> f = faces(points, [Cells("triangle", torch.tensor([[0, 1, 2], [0, 2, 3]]))])
    >>> f.owner.tolist(), f.neighbour.tolist(), f.area[0].tolist()
    ([0, 0, 0, 1, 1], [1, -1, -1, -1, -1], [-1.0, 1.0])
    """
    groups = _halves(points, blocks)
    parts = [_join(half, len(points)) for half in groups]
    turns = [half.turn for half in groups]
    if any(bool((half.turn != half.plain).any()) for half in groups):
        # A tangled mesh is one-sided only as its cells are wound; a carelessly wound one only by
        # the sign of each cell. Whichever leaves fewer neighbours on the same side.
        clashes = [0, 0]
        for half, (order, first) in zip(groups, parts, strict=True):
            for i, turn in enumerate((half.turn, half.plain)):
                clashes[i] += _clashes(half.corners, turn, order, first)
        if clashes[1] < clashes[0]:
            turns = [half.plain for half in groups]
    x = lift(points)
    axes = _axes(points, blocks)
    n_cells = sum(len(block) for block in blocks)
    found = [
        _collect(half, turn, order, first, x, axes)
        for half, turn, (order, first) in zip(groups, turns, parts, strict=True)
    ]
    if not found:
        return _none(points)
    owner = torch.cat([f.owner for f in found])
    neighbour = torch.cat([f.neighbour for f in found])
    rank = torch.where(neighbour < 0, n_cells + owner, owner)  # boundary after all internal ones
    key = rank * (n_cells + 1) + neighbour.clamp(min=0)
    perm = key.sort(stable=True).indices
    offsets, nodes = _merge([f.corners for f in found], perm)
    cell_offsets, cell_index = _merge([f.cells for f in found], perm)
    mid_offsets, mid_nodes = _merge([f.mids for f in found], perm)
    area = torch.cat([f.area for f in found])
    centre = torch.cat([f.centre for f in found])
    dim = points.shape[1]
    return Faces(
        owner[perm],
        neighbour[perm],
        area[perm, :dim].to(points.dtype),
        centre[perm, :dim].to(points.dtype),
        offsets,
        nodes,
        cell_offsets,
        cell_index,
        mid_offsets,
        mid_nodes,
    )


def _none(points: Tensor) -> Faces:
    none = torch.zeros(0, dtype=torch.int64, device=points.device)
    zero = none.new_zeros(1)
    return Faces(none, none, points[:0], points[:0], zero, none, zero, none, zero, none)


def _halves(points: Tensor, blocks: Sequence[Cells]) -> list[_Halves]:
    """All (cell, face) rows, grouped by the number of corners; cells rise within a group."""
    rows: dict[int, list[_Halves]] = {}
    first = 0
    for block in blocks:
        for half in _block_halves(points, block, first):
            for part in _without_repeats(half, max(block.dim, 1)):
                rows.setdefault(part.corners.shape[1], []).append(part)
        first += len(block)
    out = []
    for _, parts in sorted(rows.items()):
        width = max(p.mids.shape[1] for p in parts)
        parts = [
            p._replace(mids=torch.nn.functional.pad(p.mids, (0, width - p.mids.shape[1]), value=-1))
            for p in parts
        ]
        half = _Halves(*(torch.cat(column) for column in zip(*parts, strict=True)))
        if bool((half.cell.diff() < 0).any()):
            order = half.cell.sort(stable=True).indices
            half = _Halves(*(column[order] for column in half))
        out.append(half)
    return out


def _block_halves(points: Tensor, block: Cells, first: int) -> list[_Halves]:
    device = block.nodes.device
    none = torch.zeros(0, 0, dtype=torch.int64, device=device)
    if block.type == "polyhedron":
        *_, cell, turned = polyhedron_faces(points, block)
        return [
            _Halves(ring, cell[i] + first, turned[i], turned[i], none.new_zeros(len(i), 0))
            for i, ring in rings(block)
        ]
    # Which cells are wound the other way round; on surfaces in 3-D and lines there is no such way.
    solid = block.dim == points.shape[1]
    volume = signed_measures(points, [block]) if solid else points.new_zeros(len(block))
    turn = volume < 0
    plain = torch.full_like(turn, bool(2 * turn.sum() > len(block)))
    cells = torch.arange(first, first + len(block), device=device)
    if block.type == "polygon":
        out = []
        for i, ring in rings(block):
            k = ring.shape[1]
            pairs = torch.stack([ring, ring.roll(-1, 1)], 2).reshape(-1, 2)
            cell, turns = cells[i].repeat_interleave(k), turn[i].repeat_interleave(k)
            plains = plain[i].repeat_interleave(k)
            out.append(_Halves(pairs, cell, turns, plains, none.new_zeros(len(pairs), 0)))
        return out
    out = []
    table = cell_faces(block.type)
    for k in sorted({len(face) for face, _ in table}):
        some = [(face, mids) for face, mids in table if len(face) == k]
        width = max(len(mids) for _, mids in some)
        corners = block.nodes[:, [face for face, _ in some]].reshape(-1, k)
        mids = torch.full((len(block), len(some), width), -1, device=device)
        for j, (_, local) in enumerate(some):
            mids[:, j, : len(local)] = block.nodes[:, list(local)]
        cell, turns, plains = (c.repeat_interleave(len(some)) for c in (cells, turn, plain))
        if k == 1:
            turns = plains = (torch.arange(len(cell), device=device) % 2) == 0
        out.append(_Halves(corners, cell, turns, plains, mids.flatten(0, 1)))
    return out


def _without_repeats(half: _Halves, at_least: int) -> list[_Halves]:
    """Drop corners equal to the one before, then faces of fewer than `at_least` corners."""
    k = half.corners.shape[1]
    if k < at_least or len(half.cell) == 0:
        return []
    keep = half.corners != half.corners.roll(1, 1) if k > 1 else torch.ones_like(half.corners) > 0
    sizes = keep.sum(1)
    if bool((sizes == k).all()):
        return [half]
    out = []
    for size in sizes.unique().tolist():
        if size >= at_least:
            rows = sizes == size
            part = _Halves(*(column[rows] for column in half))
            out.append(part._replace(corners=part.corners[keep[rows]].reshape(-1, size)))
    return out


def _join(half: _Halves, n_points: int) -> tuple[Tensor, Tensor]:
    return equal_rows(_sorted(half.corners), n_points)


def _sorted(rows: Tensor) -> Tensor:
    """Each row sorted; written out for triangles, where `sort` takes ten times as long."""
    if rows.shape[1] != 3:
        return rows.sort(1).values
    low, high = torch.aminmax(rows, dim=1)
    return torch.stack([low, rows.sum(1) - low - high, high], 1)


def _clashes(corners: Tensor, turn: Tensor, order: Tensor, first: Tensor) -> int:
    """How many pairs of neighbours run round their common face in the same direction."""
    k = corners.shape[1]
    if k < 2:
        return 0
    at = corners.argmin(1, keepdim=True)
    after = corners.gather(1, torch.where(at == k - 1, 0, at + 1))
    before = corners.gather(1, torch.where(at == 0, k - 1, at - 1))
    way = (after < before if k > 2 else at == 0).squeeze(1) ^ turn
    second = (~first).nonzero().squeeze(1)
    return int((way[order[second]] == way[order[second - 1]]).sum())


def _axes(points: Tensor, blocks: Sequence[Cells]) -> Tensor | None:
    """Unit (C, 3) normals of 2-D cells, directions of lines; None for 3-D cells."""
    if not blocks or blocks[0].dim not in (1, 2):
        return None
    if blocks[0].dim == 1:
        x = lift(points)
        axis = torch.cat([x[block.nodes[:, 1]] - x[block.nodes[:, 0]] for block in blocks])
    elif points.shape[1] == 2:
        return points.new_tensor([[0.0, 0.0, 1.0]], dtype=torch.float64).expand(
            sum(len(block) for block in blocks), 3
        )
    else:
        axis = cell_normals(points.double(), blocks)
    length = axis.norm(dim=1, keepdim=True)
    return axis / length.masked_fill(length == 0, 1.0)


def _collect(
    half: _Halves, turn: Tensor, order: Tensor, first: Tensor, x: Tensor, axes: Tensor | None
) -> _Found:
    """One row a face of the rows that `equal_rows` has put together."""
    start = first.nonzero().squeeze(1)  # (f,)
    sizes = torch.diff(start, append=start.new_tensor([len(first)]))
    cells = half.cell[order]
    row = order[start]
    owner = half.cell[row]
    second = cells[(start + 1).clamp(max=len(cells) - 1)]
    neighbour = torch.where(sizes > 1, second, -1)
    corners = half.corners[row]  # (f, k)
    turn = turn[row]
    if bool(turn.any()):
        corners = torch.where(turn[:, None], corners.flip(1), corners)
    k = corners.shape[1]
    ring = x[corners]  # (f, k, 3)
    if axes is None:
        area, centre = polygon_areas(ring)
    elif k == 1:
        # The start of a line looks back along it; `turn` marks the starts.
        area, centre = torch.where(turn[:, None], -axes[owner], axes[owner]), ring[:, 0]
    else:
        area, centre = torch.linalg.cross(ring[:, 1] - ring[:, 0], axes[owner]), ring.mean(1)
    mids = half.mids[row]
    real = mids >= 0
    return _Found(
        owner,
        neighbour,
        area,
        centre,
        (torch.full_like(owner, k), corners.reshape(-1)),
        (sizes, cells),
        (real.sum(1), mids[real]),
    )


def _merge(parts: list[tuple[Tensor, Tensor]], perm: Tensor) -> tuple[Tensor, Tensor]:
    """One CSR of several (sizes, values), its rows in the order of `perm`."""
    sizes = torch.cat([sizes for sizes, _ in parts])
    values = torch.cat([values for _, values in parts])
    offsets = torch.nn.functional.pad(sizes.cumsum(0), (1, 0))
    each = len(values) // max(len(sizes), 1)
    if bool((sizes == each).all()):
        return offsets, values.reshape(-1, each)[perm].flatten() if each else values
    return torch.nn.functional.pad(sizes[perm].cumsum(0), (1, 0)), _rows(offsets, values, perm)


def edges(blocks: Sequence[Cells], n_points: int) -> Int[Tensor, "n 2"]:
    """Each edge of the cells once: a quad has four, a hexahedron twelve.

    Edges of quadratic cells run from corner to midside node to corner; see `cells.cell_edges`.

    Returns:
        (n, 2) int64, lower point first, sorted.

    >>> edges([Cells("quad", torch.tensor([[0, 1, 2, 3]]))], 4).tolist()
    [[0, 1], [0, 3], [1, 2], [2, 3]]
    """
    pairs = [torch.zeros(0, 2, dtype=torch.int64, device=b.nodes.device) for b in blocks[:1]]
    for block in blocks:
        if TYPES[block.type][1]:
            local = [list(edge) for edge in cell_edges(block.type)]
            pairs.append(block.nodes[:, local].reshape(-1, 2) if local else pairs[0])
        else:
            pairs += [
                torch.stack([ring, ring.roll(-1, 1)], 2).reshape(-1, 2) for _, ring in rings(block)
            ]
    if not pairs:
        return torch.zeros(0, 2, dtype=torch.int64)
    low, high = torch.aminmax(torch.cat(pairs), dim=1)
    key = torch.unique((low * n_points + high)[low != high])
    return torch.stack([key // n_points, key % n_points], 1)


def match_faces(faces: Faces, blocks: Sequence[Cells], n_points: int) -> Int[Tensor, "n"]:
    """The face with the same corners as each of some cells of one dimension less.

    Arguments:
        faces: the faces to look in.
        blocks: lines to find edges, triangles, quads and polygons to find polygons, vertices to
            find the ends of lines. Winding does not matter.
        n_points: number of points.

    Returns:
        (n,) int64 face numbers in block order, −1 where there is none.
    """
    total = sum(len(block) for block in blocks)
    out = torch.full((total,), -1, dtype=torch.int64, device=faces.owner.device)
    asked: dict[int, list[tuple[Tensor, Tensor]]] = {}
    wanted = torch.zeros(n_points, dtype=torch.bool, device=out.device)
    first = 0
    for block in blocks:
        corners = [(ids, ring) for ids, ring in _corner_rows(block)]
        for ids, ring in corners:
            false = torch.zeros_like(ids, dtype=torch.bool)
            for part in _without_repeats(
                _Halves(ring, ids + first, false, false, ring[:, :0]), max(block.dim, 1)
            ):
                asked.setdefault(part.corners.shape[1], []).append((part.cell, part.corners))
                wanted[part.corners] = True
        first += len(block)
    sizes = faces.offsets.diff()
    hits = torch.nn.functional.pad(wanted[faces.nodes].long().cumsum(0), (1, 0))
    near = hits[faces.offsets[1:]] - hits[faces.offsets[:-1]] == sizes
    for k, parts in asked.items():
        ids, rows = torch.cat([i for i, _ in parts]), torch.cat([r for _, r in parts])
        some = (near & (sizes == k)).nonzero().squeeze(1)
        own = faces.nodes[faces.offsets[some, None] + torch.arange(k, device=some.device)]
        order, start = equal_rows(_sorted(torch.cat([own, rows])), n_points)
        lead = order[start][start.long().cumsum(0) - 1]  # the first of the rows equal to this one
        found = (order >= len(some)) & (lead < len(some))
        out[ids[order[found] - len(some)]] = some[lead[found]]
    return out


def _corner_rows(block: Cells) -> list[tuple[Tensor, Tensor]]:
    if block.dim == 2:
        return list(rings(block))
    ids = torch.arange(len(block), device=block.nodes.device)
    return [(ids, block.nodes[:, : TYPES[block.type][2]])]


def face_points(faces: Faces, ids: Int[Tensor, "n"]) -> Int[Tensor, "m"]:
    """The points of some faces, midside nodes included, each once and sorted."""
    found = [
        _rows(offsets, values, ids)
        for offsets, values in (
            (faces.offsets, faces.nodes),
            (faces.mid_offsets, faces.mid_nodes),
        )
    ]
    return torch.unique(torch.cat(found))


def _rows(offsets: Tensor, values: Tensor, ids: Tensor) -> Tensor:
    """The values of some rows of a CSR, one after another."""
    sizes = offsets.diff()[ids]
    shift = torch.repeat_interleave(offsets[:-1][ids] - (sizes.cumsum(0) - sizes), sizes)
    return values[shift + torch.arange(len(shift), device=shift.device)]
