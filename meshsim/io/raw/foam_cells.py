"""Cells of an OpenFOAM mesh from its faces: standard shapes where they are, else polyhedra."""

from __future__ import annotations

import numpy as np

from meshsim.io.raw import Tree, gather, ragged

# name: faces of three corners, of four; points; faces by corners, right-hand normals outwards
SHAPES = {
    "tetra": (4, 0, 4, ((0, 2, 1), (0, 1, 3), (1, 2, 3), (0, 3, 2))),
    "hexahedron": (
        0, 6, 8,
        ((0, 3, 2, 1), (4, 5, 6, 7), (0, 1, 5, 4), (1, 2, 6, 5), (2, 3, 7, 6), (3, 0, 4, 7)),
    ),
    "wedge": (2, 3, 6, ((0, 2, 1), (3, 4, 5), (0, 1, 4, 3), (1, 2, 5, 4), (2, 0, 3, 5))),
    "pyramid": (4, 1, 5, ((0, 3, 2, 1), (0, 1, 4), (1, 2, 4), (2, 3, 4), (3, 0, 4))),
}  # fmt: skip


def cells(
    nodes: np.ndarray, offsets: np.ndarray, owner: np.ndarray, neighbour: np.ndarray, n: int
) -> list[Tree]:
    """Blocks of the n cells between faces.

    A cell with the faces of a tetrahedron, hexahedron, wedge or pyramid becomes one, if the
    corners found give back exactly these faces; all others are polyhedra.

    Arguments:
        nodes: flat corners of the faces; `offsets` (F + 1,).
        owner: (F,) cell that a face's normal points out of.
        neighbour: (n_internal,) the cell on the other side.
    """
    face = np.concatenate([np.arange(len(owner)), np.arange(len(neighbour))])
    cell = np.concatenate([owner, neighbour])
    inward = np.concatenate([np.zeros(len(owner), bool), np.ones(len(neighbour), bool)])
    order = np.lexsort((face, cell))
    face, cell, inward = face[order], cell[order], inward[order]
    of_cell = ragged(np.bincount(cell, minlength=n))
    size = np.diff(offsets)[face]
    n_faces = np.diff(of_cell)
    three = np.bincount(cell[size == 3], minlength=n)
    four = np.bincount(cell[size == 4], minlength=n)
    blocks: list[Tree] = []
    rest = n_faces > 0
    for name, (n3, n4, _, _) in SHAPES.items():
        rows = np.flatnonzero((three == n3) & (four == n4) & (n_faces == n3 + n4))
        if not len(rows):
            continue
        index = of_cell[rows][:, None] + np.arange(n3 + n4)  # (c, faces)
        table = _corners(nodes, offsets, face[index], inward[index])
        found, good = _shape(name, table)
        if good.any():
            blocks.append({"type": name, "nodes": found[good], "rows": rows[good]})
            rest[rows[good]] = False
    rows = np.flatnonzero(rest)
    if len(rows):
        mine = gather(np.arange(len(face)), of_cell, rows)
        blocks.append(_polyhedra(nodes, offsets, face[mine], inward[mine], n_faces[rows], rows))
    return blocks


def _corners(
    nodes: np.ndarray, offsets: np.ndarray, face: np.ndarray, inward: np.ndarray
) -> np.ndarray:
    """(c, faces, 4) corners of the faces, normals out of the cell; −1 where there is no fourth."""
    size = np.diff(offsets)[face]
    k = np.arange(4)
    turned = np.where(inward[..., None], size[..., None] - 1 - k, k)
    real = k < size[..., None]
    return np.where(real, nodes[offsets[face][..., None] + np.where(real, turned, 0)], -1)


def _shape(name: str, table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corners (c, k) in VTK's order, and which cells truly have the shape."""
    faces = SHAPES[name][3]
    c = len(table)
    is_four = table[..., 3] >= 0
    # the base: any face of a tetrahedron or hexahedron, a triangle of a wedge, a pyramid's square
    start = {"wedge": np.argmin(is_four, 1), "pyramid": np.argmax(is_four, 1)}.get(
        name, np.zeros(c, np.int64)
    )
    base = table[np.arange(c), start]  # (c, 4), normal outwards
    width = 3 if name in ("tetra", "wedge") else 4
    base = np.concatenate([base[:, :1], base[:, width - 1 : 0 : -1]], 1)  # inwards, as VTK has it
    flat = np.where(table >= 0, table, 0)
    if name in ("tetra", "pyramid"):
        # each corner counts once for each of its faces: three, the pyramid's apex four
        total = flat.sum((1, 2)) - 3 * base.sum(1)
        apex, over = np.divmod(total, 3 if name == "tetra" else 4)
        found = np.concatenate([base, apex[:, None]], 1)
        good = over == 0
    else:
        found = np.concatenate([base, _above(table, base)], 1)
        good = np.ones(c, bool)
    return found, good & _same_faces(table, found, faces)


def _above(table: np.ndarray, base: np.ndarray) -> np.ndarray:
    """For each corner of the base of a prism, the point that its third edge leads to."""
    size = (table >= 0).sum(-1)[..., None]
    k = np.arange(4)
    after = np.take_along_axis(table, (k + 1) % size, -1)
    before = np.take_along_axis(table, (k - 1) % size, -1)
    width = base.shape[1]
    out = []
    for j in range(width):
        here = table == base[:, j, None, None]
        around = np.where(here, after + before, 0).sum((1, 2))  # each of three neighbours twice
        sides = base[:, (j + 1) % width] + base[:, (j - 1) % width]
        out.append(around // 2 - sides)
    return np.stack(out, 1)


def _same_faces(
    table: np.ndarray, found: np.ndarray, faces: tuple[tuple[int, ...], ...]
) -> np.ndarray:
    want = np.full(table.shape, -1, np.int64)
    for i, corners in enumerate(faces):
        want[:, i, : len(corners)] = found[:, corners]
    return (_keys(table) == _keys(want)).all(1)


def _keys(table: np.ndarray) -> np.ndarray:
    """(c, faces) sorted numbers of the faces, the same whatever corner a face begins with."""
    rows = np.sort(table, -1).astype(np.uint64)
    key = np.zeros(rows.shape[:-1], np.uint64)
    for i in range(rows.shape[-1]):
        key = key * np.uint64(6364136223846793005) + rows[..., i] + np.uint64(1442695040888963407)
        key ^= key >> np.uint64(29)
    return np.sort(key, -1)


def _polyhedra(
    nodes: np.ndarray, offsets: np.ndarray, face: np.ndarray, inward: np.ndarray,
    n_faces: np.ndarray, rows: np.ndarray,
) -> Tree:  # fmt: skip
    sizes = np.diff(offsets)[face]
    flat = gather(nodes, offsets, face)
    of = ragged(sizes)
    place = np.arange(len(flat)) - np.repeat(of[:-1], sizes)
    turned = np.where(np.repeat(inward, sizes), np.repeat(sizes, sizes) - 1 - place, place)
    return {
        "type": "polyhedron",
        "nodes": flat[np.repeat(of[:-1], sizes) + turned],
        "offsets": ragged(n_faces),
        "face_offsets": of,
        "rows": rows,
    }
