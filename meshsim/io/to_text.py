"""Meshes with named groups as text: su2, msh (Gmsh 2.2)."""

from __future__ import annotations

from typing import BinaryIO

import numpy as np

from meshsim.check import InputError
from meshsim.io.plain import face_blocks, flat_rows
from meshsim.io.raw import DIM, Tree
from meshsim.io.raw.gmsh import CELLS
from meshsim.io.raw.su2 import DEGREE_TWO
from meshsim.io.to_vtk import NUMBERS

GMSH = {name: (number, order) for number, (name, order) in CELLS.items()}
SU2 = {
    **{name: (NUMBERS[name], None) for name in DEGREE_TWO},
    **{quad: (100 + NUMBERS[name], order) for name, (quad, order) in DEGREE_TWO.items()},
}


def _dim(block: Tree) -> int:
    return DIM.get(block["type"].rstrip("0123456789"), 3)


def _reordered(nodes: np.ndarray, order: list[int] | None) -> np.ndarray:
    """Nodes at the places where the format has them, the inverse of what the reader does."""
    return nodes if order is None else nodes[:, np.argsort(order)]


def _lines(blocks: list[Tree], heads: list[str], nodes: list[np.ndarray]) -> list[str]:
    """A line for each cell of the blocks, in the order of their rows."""
    out = [""] * sum(len(block["rows"]) for block in blocks)
    for block, head, table in zip(blocks, heads, nodes, strict=True):
        for row, cell in zip(block["rows"].tolist(), table.tolist(), strict=True):
            out[row] = f"{head} {' '.join(map(str, cell))}"
    return out


def su2(plain: Tree, file: BinaryIO) -> None:
    """Write a SU2 mesh: cells, points, boundaries as markers."""
    dim = plain["dim"]
    if max(map(_dim, plain["blocks"])) != dim:
        raise InputError(f"a .su2 mesh needs {dim}-D cells in {dim}-D space (surfaces: use .vtu)")

    def cells(blocks: list[Tree]) -> list[str]:
        known = [SU2[block["type"]] for block in blocks]
        tables = [_reordered(b["nodes"], o) for b, (_, o) in zip(blocks, known, strict=True)]
        return _lines(blocks, [str(number) for number, _ in known], tables)

    lines = [f"NDIME= {dim}"]
    rows = cells(plain["blocks"])
    lines += [f"NELEM= {len(rows)}", *(f"{row} {i}" for i, row in enumerate(rows))]
    points = plain["points"][:, :dim].astype(np.float64).tolist()
    lines.append(f"NPOIN= {len(points)}")
    lines += [f"{' '.join(map(repr, place))} {i}" for i, place in enumerate(points)]
    lines.append(f"NMARK= {len(plain['boundaries'])}")
    for name, part in plain["boundaries"].items():
        if name.split() != [name]:
            raise InputError(f"the boundary name {name!r} has spaces, which .su2 cannot hold")
        rows = cells(face_blocks(part))
        lines += [f"MARKER_TAG= {name}", f"MARKER_ELEMS= {len(rows)}", *rows]
    file.write(("\n".join(lines) + "\n").encode("utf-8"))


def msh(plain: Tree, file: BinaryIO) -> None:
    """Write Gmsh 2.2: boundaries and regions as physical groups, fields in double precision."""
    put = lambda text: file.write((text + "\n").encode("utf-8"))  # noqa: E731
    top = max(map(_dim, plain["blocks"]))
    n = sum(len(block["rows"]) for block in plain["blocks"])
    group = np.zeros(n, np.int64)
    names: list[tuple[int, str]] = []
    for name, found in plain["groups"].items():
        names.append((top, name))
        group[found["cells"]] = len(names)
    parts = []
    for name, part in plain["boundaries"].items():
        names.append((top - 1, name))
        parts.append((len(names), face_blocks(part)))
    put("$MeshFormat\n2.2 0 8\n$EndMeshFormat")
    if any('"' in name or "\n" in name for _, name in names):
        raise InputError('a name with " or a line break cannot be written to .msh')
    if names:
        put(f"$PhysicalNames\n{len(names)}")
        for i, (dim, name) in enumerate(names, 1):
            put(f'{dim} {i} "{name}"')
        put("$EndPhysicalNames")
    points = plain["points"].astype(np.float64)
    put(f"$Nodes\n{len(points)}")
    put("\n".join(f"{i} {' '.join(map(repr, x))}" for i, x in enumerate(points.tolist(), 1)))
    put("$EndNodes")

    def cells(blocks: list[Tree], tags: np.ndarray) -> list[str]:
        out = [""] * sum(len(block["rows"]) for block in blocks)
        for block in blocks:
            number, order = GMSH[block["type"]]
            table = (_reordered(block["nodes"], order) + 1).tolist()
            for row, cell in zip(block["rows"].tolist(), table, strict=True):
                tag = int(tags[row])
                entity = tag or len(names) + 1
                out[row] = f"{number} 2 {tag} {entity} {' '.join(map(str, cell))}"
        return out

    rows = cells(plain["blocks"], group)
    starts = {}
    for tag, blocks in parts:
        starts[tag] = len(rows)
        rows += cells(blocks, np.full(sum(len(b["rows"]) for b in blocks), tag))
    put(f"$Elements\n{len(rows)}")
    put("\n".join(f"{i} {row}" for i, row in enumerate(rows, 1)))
    put("$EndElements")
    for name, values in plain["point_fields"].items():
        _data(file, "NodeData", name, [(0, values)])
    boundary_fields: dict[str, list[tuple[int, np.ndarray]]] = {}
    for (tag, _), part in zip(parts, plain["boundaries"].values(), strict=True):
        for name, values in part["fields"].items():
            boundary_fields.setdefault(name, []).append((starts[tag], values))
    for name, values in plain["cell_fields"].items():
        same = [p for p in boundary_fields.pop(name, []) if p[1].shape[1:] == values.shape[1:]]
        _data(file, "ElementData", name, [(0, values), *same])
    for name, found in boundary_fields.items():
        _data(file, "ElementData", name, found)


def _data(file: BinaryIO, kind: str, name: str, parts: list[tuple[int, np.ndarray]]) -> None:
    """A field: (first number, values) of the rows that have it."""
    tables = []
    for first, values in parts:
        rows = flat_rows(values).astype(np.float64)
        rows = rows[:, None] if rows.ndim == 1 else rows
        width = next((k for k in (1, 3, 9) if k >= rows.shape[1]), rows.shape[1])
        tables.append((first, np.pad(rows, ((0, 0), (0, width - rows.shape[1])))))
    width = tables[0][1].shape[1]
    n = sum(len(rows) for _, rows in tables)
    safe = name.replace('"', "'")
    lines = [f"${kind}", "1", f'"{safe}"', "1", "0.0", "3", "0", str(width), str(n)]
    for first, rows in tables:
        lines += [
            f"{i} {' '.join(map(repr, row))}" for i, row in enumerate(rows.tolist(), first + 1)
        ]
    file.write(("\n".join([*lines, f"$End{kind}"]) + "\n").encode("utf-8"))
