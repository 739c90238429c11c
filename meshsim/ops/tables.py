"""Tables of cells: their edges and their faces, each once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from meshsim.check import InputError, check_index, check_length
from meshsim.rows import equal_rows

torch.library.define(
    "meshsim::cells_to_edges",
    "(Tensor[] nodes, Tensor[] local, SymInt n_points) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)
torch.library.define(
    "meshsim::cells_to_faces",
    "(Tensor[] nodes, Tensor[] local, Tensor[] cells, SymInt n_points, int min_corners)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag,),
)


class FaceTable(NamedTuple):
    """Faces between cells: internal ones by (owner, neighbour), then the boundary by owner.

    Faces of the same cells come by number of corners, then by the corners (as far as they fit a
    key of 63 bits; beyond, by a hash of them).

    Arguments:
        owner: (F,) int64, the lowest cell.
        neighbour: (F,) int64, the second, −1 where there is none.
        offsets, corners: (F + 1,), (n,): the points of each face, as the owner lists them.
        row_offsets, rows: (F + 1,), (m,): for each face the rows (cell by cell and face by face,
            counted through all parts) that are this face, by rising cell.
    """

    owner: Tensor
    neighbour: Tensor
    offsets: Tensor
    corners: Tensor
    row_offsets: Tensor
    rows: Tensor


def _check(nodes: list[Tensor], local: list[Tensor], n_points: int) -> None:
    if len(nodes) != len(local):
        raise InputError(
            f"`local`: expected {len(nodes)} tables as for the nodes, got {len(local)}"
        )
    if not 0 <= n_points < 2**31:
        raise InputError(f"`n_points`: expected 0..2^31 - 1, got {n_points}")
    for a, b in zip(nodes, local, strict=True):
        for name, t in (("nodes", a), ("local", b)):
            if t.dim() != 2 or t.dtype != torch.int64:
                raise InputError(
                    f"`{name}`: expected int64 of shape (*, *), got {t.dtype} {tuple(t.shape)}"
                )
        check_index(a, n_points, "nodes")
        check_index(b, a.shape[1], "local", "nodes of a cell")


def _edges(nodes: list[Tensor], local: list[Tensor], n_points: int) -> Tensor:
    _check(nodes, local, n_points)
    pairs = [torch.zeros(0, 2, dtype=torch.int64)]
    for block, table in zip(nodes, local, strict=True):
        if table.shape[1] != 2:
            raise InputError(f"`local`: expected shape (*, 2), got {tuple(table.shape)}")
        pairs.append(block[:, table].reshape(-1, 2))
    low, high = torch.aminmax(torch.cat([p.to(pairs[-1].device) for p in pairs]), dim=1)
    key = torch.unique((low * n_points + high)[low != high])
    return torch.stack([key // max(n_points, 1), key % max(n_points, 1)], 1)


class _Rows(NamedTuple):
    """Faces as the cells see them, all of k corners."""

    corners: Tensor  # (n, k)
    cell: Tensor  # (n,)
    row: Tensor  # (n,) their number in all


def _gather(
    nodes: list[Tensor], local: list[Tensor], cells: list[Tensor], least: int
) -> list[_Rows]:
    """Rows by number of corners, rising by cell; corners equal to the one before are left out."""
    groups: dict[int, list[_Rows]] = {}
    first = 0
    for block, table, cell in zip(nodes, local, cells, strict=True):
        n, k = len(block) * len(table), table.shape[1]
        corners = block[:, table].reshape(n, k)
        keep = corners != corners.roll(1, 1) if k > 1 else torch.ones_like(corners) > 0
        sizes = keep.sum(1)
        row = torch.arange(first, first + n, device=block.device)
        cell = cell.repeat_interleave(len(table))
        for size in sizes.unique().tolist():
            if size >= max(least, 1):
                some = sizes == size
                part = corners[some][keep[some]].reshape(-1, size)
                groups.setdefault(size, []).append(_Rows(part, cell[some], row[some]))
        first += n
    out = []
    for _, parts in sorted(groups.items()):
        rows = _Rows(*(torch.cat(column) for column in zip(*parts, strict=True)))
        order = rows.cell.sort(stable=True).indices
        out.append(_Rows(*(column[order] for column in rows)))
    return out


def _joined(rows: _Rows, n_points: int) -> list[Tensor]:
    """owner, neighbour, size, corners, rows of a face, rows of the faces one after another."""
    order, first = equal_rows(rows.corners.sort(1).values, n_points)
    start = first.nonzero().squeeze(1)
    count = torch.diff(start, append=start.new_tensor([len(first)]))
    cell = rows.cell[order]
    second = cell[(start + 1).clamp(max=max(len(cell) - 1, 0))]
    corners = rows.corners[order[start]]  # (f, k)
    size = torch.full_like(start, corners.shape[1])
    neighbour = torch.where(count > 1, second, -1)
    return [cell[start], neighbour, size, corners.reshape(-1), count, rows.row[order]]


def _placed(sizes: Tensor, values: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
    """One CSR of (sizes, values), its rows put in order."""
    start = (sizes.cumsum(0) - sizes)[order]
    sizes = sizes[order]
    offsets = torch.nn.functional.pad(sizes.cumsum(0), (1, 0))
    at = torch.repeat_interleave(start - offsets[:-1], sizes)
    return offsets, values[at + torch.arange(len(at), device=at.device)]


def _faces(
    nodes: list[Tensor],
    local: list[Tensor],
    cells: list[Tensor],
    n_points: int,
    min_corners: int,
) -> tuple[Tensor, ...]:
    _check(nodes, local, n_points)
    if len(cells) != len(nodes):
        raise InputError(f"`cells`: expected {len(nodes)} lists as for the nodes, got {len(cells)}")
    for cell, block in zip(cells, nodes, strict=True):
        check_length(cell, len(block), "cells", "nodes")
        check_index(cell, 2**31, "cells", "cells")
    found = [_joined(rows, n_points) for rows in _gather(nodes, local, cells, min_corners)]
    if not found:
        none = nodes[0].new_zeros(0) if nodes else torch.zeros(0, dtype=torch.int64)
        return none, none.clone(), none.new_zeros(1), none.clone(), none.new_zeros(1), none.clone()
    owner, neighbour, size, corners, count, rows = (
        torch.cat(column) for column in zip(*found, strict=True)
    )
    n_cells = int(owner.max()) + 1
    order = neighbour.sort(stable=True).indices
    rank = torch.where(neighbour < 0, n_cells + owner, owner)  # boundary after all internal ones
    order = order[rank[order].sort(stable=True).indices]
    return (
        owner[order],
        neighbour[order],
        *_placed(size, corners, order),
        *_placed(count, rows, order),
    )


def _fake_edges(nodes: list[Tensor], local: list[Tensor], n_points: int) -> Tensor:
    found = torch.library.get_ctx().new_dynamic_size()
    return torch.empty(found, 2, dtype=torch.int64, device=nodes[0].device if nodes else "cpu")


def _fake_faces(
    nodes: list[Tensor],
    local: list[Tensor],
    cells: list[Tensor],
    n_points: int,
    min_corners: int,
) -> tuple[Tensor, ...]:
    faces, corners, rows = (torch.library.get_ctx().new_dynamic_size() for _ in range(3))
    device = nodes[0].device if nodes else "cpu"
    shapes = (faces, faces, faces + 1, corners, faces + 1, rows)
    return tuple(torch.empty(n, dtype=torch.int64, device=device) for n in shapes)


for _name, _reference, _fake in (
    ("cells_to_edges", _edges, _fake_edges),
    ("cells_to_faces", _faces, _fake_faces),
):
    torch.library.impl(f"meshsim::{_name}", "CompositeExplicitAutograd", _reference)
    torch.library.register_fake(f"meshsim::{_name}", _fake)


def cells_to_edges(
    parts: Sequence[tuple[Int[Tensor, "_ _"], Int[Tensor, "_ 2"]]], n_points: int
) -> Int[Tensor, "n 2"]:
    """Each edge of some cells once.

    Arguments:
        parts: for each block of cells its nodes (C, k) int64 and the edges of such a cell (m, 2),
            in local numbers: a quad has four. Edges from a point to itself are none.
        n_points: number of points.

    Returns:
        (n, 2) int64, lower point first, sorted.

    Raises:
        InputError: an index is outside.

    >>> quad, ring = torch.tensor([[3, 2, 1, 0]]), torch.tensor([[0, 1], [1, 2], [2, 3], [3, 0]])
    >>> cells_to_edges([(quad, ring)], 4).tolist()
    [[0, 1], [0, 3], [1, 2], [2, 3]]
    """
    nodes, local = [p[0] for p in parts], [p[1] for p in parts]
    return torch.ops.meshsim.cells_to_edges(nodes, local, n_points)


def cells_to_faces(
    parts: Sequence[tuple[Int[Tensor, "_ _"], Int[Tensor, "_ _"], Int[Tensor, "_"]]],
    n_points: int,
    min_corners: int = 1,
) -> FaceTable:
    """The faces of some cells, each once: two are one where they have the same corners.

    Corners that repeat the one before, as those of collapsed cells do, count once.

    Arguments:
        parts: for each block of cells its nodes (C, k) int64, the faces of such a cell that have
            s corners (m, s), in local numbers, and the numbers of the cells (C,). Cells whose
            faces differ in corners come in several parts.
        n_points: number of points.
        min_corners: faces of fewer are none.

    Raises:
        InputError: an index is outside.

    >>> cells, ring = torch.tensor([[0, 1, 2], [0, 2, 3]]), torch.tensor([[0, 1], [1, 2], [2, 0]])
    >>> table = cells_to_faces([(cells, ring, torch.arange(2))], 4)
    >>> table.owner.tolist(), table.neighbour.tolist(), table.corners[:2].tolist()
    ([0, 0, 0, 1, 1], [1, -1, -1, -1, -1], [2, 0])
    """
    nodes, local, cells = ([p[i] for p in parts] for i in range(3))
    return FaceTable(*torch.ops.meshsim.cells_to_faces(nodes, local, cells, n_points, min_corners))
