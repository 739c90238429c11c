"""What is wrong about points and cells beyond their shape: double, hanging, turned, open."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from meshsim.geometry.cells import Cells
from meshsim.geometry.columns import diagonals
from meshsim.geometry.measure import (
    incidence,
    lift,
    polyhedron_faces,
    rings,
    triangles,
)
from meshsim.geometry.mending import Ridges, against, inside_out, joined, parts
from meshsim.geometry.topology import Faces, turning
from meshsim.rows import equal_rows, starts

NEAR = 1e-10  # of the box's diagonal: points so near to each other are one
OPEN = 1e-6  # of Σ|S|: area vectors of a closed cell add up to less (OpenFOAM's closedThreshold)


def same_places(points: Float[Tensor, "N D"], tolerance: float = NEAR) -> Int[Tensor, " N"]:
    """For each point the first of those at its place, near ones in a chain of steps.

    Points are sorted along a direction in which no mesh is aligned, so that those at one place
    are neighbours in the list. Points that are not finite are by themselves.

    Arguments:
        tolerance: longest step, relative to the diagonal of the points' box.

    >>> same_places(torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 0.0]]))
    tensor([0, 1, 0])
    """
    out = torch.arange(len(points), device=points.device)
    real = points.isfinite().all(1).nonzero().squeeze(1)
    if len(real) < 2:
        return out
    x = lift(points)[real]
    x = x - x.mean(0)
    reach = tolerance * float((x.amax(0) - x.amin(0)).norm())
    along, order = (x @ x.new_tensor([0.6393, 0.5218, 0.5649])).sort()
    x, pairs = x[order], []
    # Rounding must not part what is at one place.
    step = reach + 1e-15 * float(along.abs().max())
    at, ahead = torch.arange(len(x) - 1, device=x.device), 1
    while len(at):
        at = at[along[at + ahead] - along[at] <= step]
        close = at[(x[at + ahead] - x[at]).norm(dim=1) <= reach]
        pairs.append(torch.stack([close, close + ahead]))
        ahead += 1
        at = at[at + ahead < len(x)]
    a, b = torch.cat(pairs, 1)
    if len(a):
        group = joined(a, b, len(x))
        number = real[order]
        first = torch.full_like(out, len(points)).scatter_reduce(0, group, number, "amin")
        out[number] = first[group]
    return out


def first_alike(blocks: Sequence[Cells]) -> Int[Tensor, " C"]:
    """For each cell the first that has exactly its points, in any order and of any type.

    >>> first_alike([Cells("triangle", torch.tensor([[0, 1, 2], [1, 3, 2], [2, 0, 1]]))])
    tensor([0, 1, 0])
    """
    cell, point = incidence(blocks)
    n, most = sum(map(len, blocks)), int(point.max()) + 1 if len(point) else 1
    sizes = torch.bincount(cell, minlength=n)
    ends = starts(cell, n)
    out = torch.arange(n)
    for k in sizes.unique().tolist():
        ids = (sizes == k).nonzero().squeeze(1)
        if k:
            at = ends[ids, None] + torch.arange(k, device=ids.device)
            order, first = equal_rows(point[at].sort(1).values, most)
            out[ids[order]] = ids[order[first]][first.long().cumsum(0) - 1]
    return out


def duplicate_cells(blocks: Sequence[Cells]) -> Int[Tensor, " n"]:
    """Cells with exactly the points of an earlier one; numbers, rising."""
    lead = first_alike(blocks)
    return (lead != torch.arange(len(lead))).nonzero().squeeze(1)


def repeating_cells(blocks: Sequence[Cells]) -> Int[Tensor, " n"]:
    """Cells that list a point twice: wedges written as hexahedra, cells squeezed flat.

    >>> repeating_cells([Cells("quad", torch.tensor([[0, 1, 2, 2], [0, 1, 2, 3]]))])
    tensor([0])
    """
    found, first = [torch.zeros(0, dtype=torch.int64)], 0
    for block in blocks:
        if block.face_offsets is not None and block.offsets is not None:
            of_face = torch.repeat_interleave(block.offsets.diff())
            found += [of_face[ids[_repeats(ring)]] + first for ids, ring in rings(block)]
        elif block.offsets is not None:
            found += [ids[_repeats(ring)] + first for ids, ring in rings(block)]
        else:
            found.append(_repeats(block.nodes).nonzero().squeeze(1) + first)
        first += len(block)
    return torch.cat(found).unique()


def _repeats(rows: Tensor) -> Tensor:
    listed = rows.sort(1).values
    return (listed[:, 1:] == listed[:, :-1]).any(1)


def flat_cells(
    points: Float[Tensor, "N D"],
    blocks: Sequence[Cells],
    sizes: Float[Tensor, " C"],
    tolerance: float = 1e-9,
) -> Int[Tensor, " n"]:
    """`quality.degenerate` of cells whose measures (`columns.signed`) are known."""
    dim = blocks[0].dim if blocks else 0
    flat = sizes.abs() <= tolerance * diagonals(points, blocks) ** dim
    return (flat & (dim > 0)).nonzero().squeeze(1)


def mirrored_blocks(blocks: Sequence[Cells], sizes: Float[Tensor, " C"]) -> list[bool]:
    """Of each block whether most of its cells are of negative measure (`columns.signed`)."""
    parts = sizes.split([len(block) for block in blocks])
    return [2 * int((part < 0).sum()) > len(part) for part in parts]


def turned_cells(blocks: Sequence[Cells], sizes: Float[Tensor, " C"]) -> Bool[Tensor, " C"]:
    """`quality.inverted` of cells whose measures (`columns.signed`) are known, as a mask."""
    return (sizes < 0) ^ _mirrored(blocks, sizes)


def _mirrored(blocks: Sequence[Cells], sizes: Tensor) -> Tensor:
    most = torch.tensor(mirrored_blocks(blocks, sizes), device=sizes.device)
    return most.repeat_interleave(torch.tensor([len(b) for b in blocks], device=sizes.device))


def carelessly_wound(blocks: Sequence[Cells], sizes: Float[Tensor, " C"]) -> Int[Tensor, " n"]:
    """Cells of negative measure that are only listed the wrong way: their mirror image fits in.

    Told from cells that are inside out because a point lies where it should not by their
    neighbours: round the face between them two cells listed the same way run in opposite
    directions. A block that is negative throughout is the right way round.

    Arguments:
        blocks: cells as many-dimensional as space.
        sizes: their measures (`columns.signed`).

    Returns:
        (n,) int64 cell numbers, rising.
    """
    turned, mirrored = turned_cells(blocks, sizes), _mirrored(blocks, sizes)
    if not bool(turned.any()):
        return turned.nonzero().squeeze(1)
    n_points = 1 + max(int(block.nodes.max()) for block in blocks)
    owner, neighbour, same = turning(blocks, n_points)
    same = same ^ (mirrored[owner] ^ mirrored[neighbour])
    fits, odd = (torch.zeros(len(turned), dtype=torch.int64, device=sizes.device) for _ in "ab")
    for own, other in ((owner, neighbour), (neighbour, owner)):
        # Two neighbours that are both turned agree, whatever made them so.
        mixed = ~turned[other]
        fits = fits.index_add(0, own[mixed], (~same[mixed]).long())
        odd = odd.index_add(0, own[mixed], same[mixed].long())
    return (turned & (odd >= fits)).nonzero().squeeze(1)


class Sheet(NamedTuple):
    """How the cells of a surface in space lie to each other.

    Arguments:
        against: (n,) cells wound against their neighbours, the fewer of each connected part.
        one_sided: how many cells lie on one-sided parts (a Möbius strip).
        inside_out: (n,) cells of closed parts whose normals point into what they enclose, as the
            cells `against` them would be turned.
        parts, loops: of how many connected parts it is; how many circuits its rims make.
    """

    against: Int[Tensor, " n"]
    one_sided: int
    inside_out: Int[Tensor, " m"]
    parts: int
    loops: int


def sheet(points: Float[Tensor, "N 3"], blocks: Sequence[Cells]) -> Sheet:
    """Orientation and openness of a surface in space.

    >>> x = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
    >>> sheet(x, [Cells("triangle", torch.tensor([[0, 1, 2], [0, 3, 2]]))]).against.tolist()
    [1]
    """
    n = sum(map(len, blocks))
    found, low, high = _ridges(blocks, len(points))
    turn, one_sided = against(found, n)
    label = parts(found, n)
    sign = torch.where(turn[found.piece], -found.sign, found.sign)
    mended = found._replace(sign=sign)
    rim = torch.zeros(int(label.max()) + 1 if n else 0, dtype=torch.bool)
    rim[label[mended.piece[mended.uneven[mended.ridge]]]] = True
    corners, cell = triangles(blocks)
    corners = torch.where(turn[cell][:, None], corners.flip(1), corners)
    flip = inside_out(points.double(), corners, label[cell], rim) & ~rim
    single = found.shared == 1
    at = torch.nn.functional.pad(found.shared.cumsum(0), (1, 0))[:-1][single]
    ends = torch.stack([low[at], high[at]])
    used, ends = ends.unique(return_inverse=True)
    loops = int(joined(ends[0], ends[1], len(used)).max()) + 1 if len(used) else 0
    return Sheet(
        turn.nonzero().squeeze(1),
        one_sided,
        flip[label].nonzero().squeeze(1),
        len(rim),
        loops,
    )


def _ridges(blocks: Sequence[Cells], n_points: int) -> tuple[Ridges, Tensor, Tensor]:
    """Where the cells of a surface meet, and the points of each entry's edge, lower first."""
    starts_at, ends_at, cells, first = [], [], [], 0
    for block in blocks:
        for ids, ring in rings(block):
            starts_at.append(ring.reshape(-1))
            ends_at.append(ring.roll(-1, 1).reshape(-1))
            cells.append((ids + first).repeat_interleave(ring.shape[1]))
        first += len(block)
    a, b, cell = torch.cat(starts_at), torch.cat(ends_at), torch.cat(cells)
    real = a != b
    a, b, cell = a[real], b[real], cell[real]
    low, high = torch.minimum(a, b), torch.maximum(a, b)
    order, new = equal_rows(torch.stack([low, high], 1), n_points)
    ridge = new.long().cumsum(0) - 1
    sign = (a < b).long() * 2 - 1
    return Ridges(cell[order], sign[order], ridge, torch.bincount(ridge)), low[order], high[order]


def open_polyhedra(points: Float[Tensor, "N D"], blocks: Sequence[Cells]) -> Int[Tensor, " n"]:
    """Polyhedra that do not close: Σ S over their faces is not zero, or an edge has not two faces.

    |Σ S| > 1e-6 Σ |S| for area vectors out of the cell (OpenFOAM's closedThreshold).

    Returns:
        (n,) int64 cell numbers, rising.
    """
    found, first = [torch.zeros(0, dtype=torch.int64, device=points.device)], 0
    for block in blocks:
        if block.type == "polyhedron" and len(block):
            area, _, cell, _ = polyhedron_faces(points, block)
            zero = area.new_zeros(len(block), 3)
            total = zero.index_add(0, cell, area).norm(dim=1)
            bad = total > OPEN * zero[:, 0].index_add(0, cell, area.norm(dim=1))
            found.append((bad | _frayed(block, cell)).nonzero().squeeze(1) + first)
        first += len(block)
    return torch.cat(found)


def _frayed(block: Cells, cell: Tensor) -> Tensor:
    """(C,) bool: which polyhedra have an edge that not exactly two of their faces share."""
    ends, owners = [], []
    for ids, ring in rings(block):
        ends.append(torch.stack([ring, ring.roll(-1, 1)], 2).flatten(0, 1))
        owners.append(cell[ids].repeat_interleave(ring.shape[1]))
    pair, owner = torch.cat(ends), torch.cat(owners)
    keep = pair[:, 0] != pair[:, 1]
    low, high = torch.aminmax(pair[keep], dim=1)
    rows = torch.stack([owner[keep], low, high], 1)
    order, first = equal_rows(rows, int(rows.max()) + 1 if len(rows) else 1)
    group = first.long().cumsum(0) - 1
    odd = (torch.bincount(group) != 2)[group]
    out = torch.zeros(len(block), dtype=torch.bool, device=cell.device)
    out[rows[order[odd], 0]] = True
    return out


def crowded(faces: Faces, but: Int[Tensor, " n"]) -> Bool[Tensor, " F"]:
    """Which faces (edges of 2-D cells) are of more than two cells, some cells not counted.

    Arguments:
        but: the cells not counted (`duplicate_cells`: they are the other's shadow).
    """
    counts = (~torch.isin(faces.cell_index, but)).long()
    total = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    return total[faces.cell_offsets].diff() > 2
