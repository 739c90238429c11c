"""Faces and edges of cells of any type, matched by their corner points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

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
from meshsim.rows import equal_rows, slices

if TYPE_CHECKING:
    from meshsim.ops.tables import FaceTable

Table = list[list[int]]  # edges or faces of a cell in local numbers


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


class _Rows(NamedTuple):
    """Faces as the cells see them, one row a (cell, face), all parts one after another."""

    parts: list[tuple[Tensor, Tensor, Tensor]]  # what `ops.cells_to_faces` wants
    cell: Tensor  # (n,)
    turn: Tensor  # (n,) bool: reverse the corners to point out of the cell
    plain: Tensor  # (n,) bool: the same, were each block wound one way throughout
    mids: Tensor  # (n, M), −1 where there is none


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
    # Not at the top: reading a mesh needs no operators, which may have to be compiled first.
    from meshsim.ops.tables import cells_to_faces

    rows = _cell_faces(points, blocks)
    if not rows.parts:
        return _none(points)
    least = max(blocks[0].dim, 1)
    table = cells_to_faces(rows.parts, len(points), least)
    turn = rows.turn
    if bool((turn != rows.plain).any()):
        # A tangled mesh is one-sided only as its cells are wound; a carelessly wound one only by
        # the sign of each cell. Whichever leaves fewer neighbours on the same side.
        way = _ways(rows.parts, least)
        if _clashes(table, way ^ rows.plain) < _clashes(table, way ^ turn):
            turn = rows.plain
    lead = table.rows[table.row_offsets[:-1]]  # the owner's row of each face
    area, centre, nodes = _measure(lift(points), table, turn[lead], _axes(points, blocks))
    mids = rows.mids[lead]
    real = mids >= 0
    dim = points.shape[1]
    return Faces(
        table.owner,
        table.neighbour,
        area[:, :dim].to(points.dtype),
        centre[:, :dim].to(points.dtype),
        table.offsets,
        nodes,
        table.row_offsets,
        rows.cell[table.rows],
        torch.nn.functional.pad(real.sum(1).cumsum(0), (1, 0)),
        mids[real],
    )


def _none(points: Tensor) -> Faces:
    none = torch.zeros(0, dtype=torch.int64, device=points.device)
    zero = none.new_zeros(1)
    return Faces(none, none, points[:0], points[:0], zero, none, zero, none, zero, none)


def _cell_faces(points: Tensor, blocks: Sequence[Cells]) -> _Rows:
    found: list[_Rows] = []
    first = 0
    for block in blocks:
        found += [rows for rows in _block_faces(points, block, first) if len(rows.cell)]
        first += len(block)
    width = max((rows.mids.shape[1] for rows in found), default=0)
    none = torch.zeros(0, dtype=torch.int64)
    return _Rows(
        [part for rows in found for part in rows.parts],
        torch.cat([rows.cell for rows in found] or [none]),
        torch.cat([rows.turn for rows in found] or [none]),
        torch.cat([rows.plain for rows in found] or [none]),
        torch.cat([_wide(rows.mids, width) for rows in found] or [none]),
    )


def _wide(mids: Tensor, width: int) -> Tensor:
    return torch.nn.functional.pad(mids, (0, width - mids.shape[1]), value=-1)


def _block_faces(points: Tensor, block: Cells, first: int) -> list[_Rows]:
    device = block.nodes.device

    def rows(nodes: Tensor, local: Table, cells: Tensor, turn: Tensor, plain: Tensor) -> _Rows:
        part = nodes, torch.tensor(local, device=device), cells + first
        cell, turn, plain = (c.repeat_interleave(len(local)) for c in (part[2], turn, plain))
        return _Rows([part], cell, turn, plain, cell.new_zeros(len(cell), 0))

    if block.type == "polyhedron":
        *_, cell, turned = polyhedron_faces(points, block)
        return [
            rows(ring, [list(range(ring.shape[1]))], cell[i], turned[i], turned[i])
            for i, ring in rings(block)
        ]
    # Which cells are wound the other way round; on surfaces in 3-D and lines there is no such way.
    solid = block.dim == points.shape[1]
    volume = signed_measures(points, [block]) if solid else points.new_zeros(len(block))
    turn = volume < 0
    plain = torch.full_like(turn, bool(2 * turn.sum() > len(block)))
    cells = torch.arange(len(block), device=device)
    if block.type == "polygon":
        return [rows(ring, _loop(ring.shape[1]), i, turn[i], plain[i]) for i, ring in rings(block)]
    out = []
    table = cell_faces(block.type)
    for k in sorted({len(face) for face, _ in table}):
        some = [(face, mids) for face, mids in table if len(face) == k]
        part = rows(block.nodes, [list(face) for face, _ in some], cells, turn, plain)
        width = max(len(mids) for _, mids in some)
        mids = torch.full((len(block), len(some), width), -1, device=device)
        for j, (_, local) in enumerate(some):
            mids[:, j, : len(local)] = block.nodes[:, list(local)]
        if k == 1:
            start = (torch.arange(len(part.cell), device=device) % 2) == 0
            part = part._replace(turn=start, plain=start)
        out.append(part._replace(mids=mids.flatten(0, 1)))
    return out


def _loop(k: int) -> Table:
    """The sides of a polygon of k corners."""
    return [[i, (i + 1) % k] for i in range(k)]


def _without_repeats(corners: Tensor, at_least: int) -> list[tuple[Tensor, Tensor]]:
    """Rows by number of corners, those equal to the one before dropped: which, and their corners.

    Rows of fewer than `at_least` are left out.
    """
    n, k = corners.shape
    if k < at_least or n == 0:
        return []
    keep = corners != corners.roll(1, 1) if k > 1 else torch.ones_like(corners) > 0
    sizes = keep.sum(1)
    out = []
    for size in sizes.unique().tolist():
        if size >= at_least:
            ids = (sizes == size).nonzero().squeeze(1)
            out.append((ids, corners[ids][keep[ids]].reshape(-1, size)))
    return out


def _sorted(rows: Tensor) -> Tensor:
    """Each row sorted; written out for triangles, where `sort` takes ten times as long."""
    if rows.shape[1] != 3:
        return rows.sort(1).values
    low, high = torch.aminmax(rows, dim=1)
    return torch.stack([low, rows.sum(1) - low - high, high], 1)


def _ways(parts: list[tuple[Tensor, Tensor, Tensor]], at_least: int) -> Tensor:
    """(n,) bool: in which direction each row runs round its face."""
    out = []
    for nodes, local, _ in parts:
        rows = nodes[:, local].flatten(0, 1)
        way = torch.zeros(len(rows), dtype=torch.bool, device=rows.device)
        for ids, corners in _without_repeats(rows, at_least):
            k = corners.shape[1]
            at = corners.argmin(1, keepdim=True)
            after = corners.gather(1, torch.where(at == k - 1, 0, at + 1))
            before = corners.gather(1, torch.where(at == 0, k - 1, at - 1))
            way[ids] = (after < before if k > 2 else at == 0).squeeze(1)
        out.append(way)
    return torch.cat(out)


def _clashes(table: FaceTable, way: Tensor) -> int:
    """How many pairs of neighbours run round their common face in the same direction."""
    second = torch.ones_like(table.rows, dtype=torch.bool)
    second[table.row_offsets[:-1]] = False
    at = second.nonzero().squeeze(1)
    return int((way[table.rows[at]] == way[table.rows[at - 1]]).sum())


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


def _measure(
    x: Tensor, table: FaceTable, turn: Tensor, axes: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Area vectors and centres (F, 3) out of the owners; the corners, turned where `turn` says."""
    sizes, nodes = table.offsets.diff(), table.corners.clone()
    area, centre = x.new_zeros(len(sizes), 3), x.new_zeros(len(sizes), 3)
    for k in sizes.unique().tolist():
        some = (sizes == k).nonzero().squeeze(1)
        places = table.offsets[some, None] + torch.arange(k, device=x.device)
        corners, flip, owner = nodes[places], turn[some, None], table.owner[some]  # (f, k)
        if bool(flip.any()):
            corners = torch.where(flip, corners.flip(1), corners)
            nodes[places] = corners
        ring = x[corners]  # (f, k, 3)
        if axes is None:
            area[some], centre[some] = polygon_areas(ring)
        elif k == 1:
            # The start of a line looks back along it; `turn` marks the starts.
            area[some], centre[some] = torch.where(flip, -axes[owner], axes[owner]), ring[:, 0]
        else:
            area[some] = torch.linalg.cross(ring[:, 1] - ring[:, 0], axes[owner])
            centre[some] = ring.mean(1)
    return area, centre, nodes


def edges(blocks: Sequence[Cells], n_points: int) -> Int[Tensor, "n 2"]:
    """Each edge of the cells once: a quad has four, a hexahedron twelve.

    Edges of quadratic cells run from corner to midside node to corner; see `cells.cell_edges`.

    Returns:
        (n, 2) int64, lower point first, sorted.

    >>> edges([Cells("quad", torch.tensor([[0, 1, 2, 3]]))], 4).tolist()
    [[0, 1], [0, 3], [1, 2], [2, 3]]
    """
    from meshsim.ops.tables import cells_to_edges  # see `faces`

    parts = []
    for block in blocks:
        if TYPES[block.type][1]:
            found = [(block.nodes, [list(edge) for edge in cell_edges(block.type)])]
        else:
            found = [(ring, _loop(ring.shape[1])) for _, ring in rings(block)]
        device = block.nodes.device
        parts += [(nodes, torch.tensor(t, device=device)) for nodes, t in found if t]
    return cells_to_edges(parts, n_points)


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
        for ids, ring in _corner_rows(block):
            for some, corners in _without_repeats(ring, max(block.dim, 1)):
                asked.setdefault(corners.shape[1], []).append((ids[some] + first, corners))
                wanted[corners] = True
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
        values[slices(offsets, ids)[0]]
        for offsets, values in (
            (faces.offsets, faces.nodes),
            (faces.mid_offsets, faces.mid_nodes),
        )
    ]
    return torch.unique(torch.cat(found))


def face_cells(faces: Faces, ids: Int[Tensor, " n"], dim: int) -> Cells:
    """Some faces of a mesh in D = `dim` as one block of cells: lines or polygons, by corners."""
    places, ends = slices(faces.offsets, ids)
    ring = faces.nodes[places]
    return Cells("line", ring.reshape(-1, 2)) if dim == 2 else Cells("polygon", ring, ends)


def turning(blocks: Sequence[Cells], n_points: int) -> tuple[Tensor, Tensor, Tensor]:
    """Whether the two cells of a face run round it in the same direction, as they are listed.

    Neighbours that are listed the same way do not. Faces of more than two cells, or of a
    polyhedron (which has no way of its own), are left out.

    Returns:
        owner, neighbour (n,) int64; same (n,) bool.

    >>> turning([Cells("triangle", torch.tensor([[0, 1, 2], [0, 3, 2]]))], 4)
    (tensor([0]), tensor([1]), tensor([True]))
    """
    from meshsim.ops.tables import cells_to_faces  # see `faces`

    points = torch.zeros(n_points, 3, dtype=torch.float64, device=blocks[0].nodes.device)
    rows = _cell_faces(points, blocks)
    least = max(blocks[0].dim, 1)
    table = cells_to_faces(rows.parts, n_points, least)
    own = torch.zeros(sum(map(len, blocks)), dtype=torch.bool, device=points.device)
    first = 0
    for block in blocks:
        own[first : first + len(block)] = block.type != "polyhedron"
        first += len(block)
    at = table.row_offsets[:-1][(table.row_offsets.diff() == 2)]
    a, b = table.rows[at], table.rows[at + 1]
    way = _ways(rows.parts, least)
    keep = own[rows.cell[a]] & own[rows.cell[b]]
    a, b = a[keep], b[keep]
    return rows.cell[a], rows.cell[b], way[a] == way[b]
