"""Cells and boundary conditions of CGNS zones, unstructured and structured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from meshsim.io.raw import DIM, NODES, Tree, expect, gather, ragged

if TYPE_CHECKING:
    from meshsim.io.raw.cgns import Node

_HEXA = [*range(8), *range(8, 12), *range(16, 20), *range(12, 16)]
_PENTA = [*range(9), 12, 13, 14, 9, 10, 11]
# CGNS's number: our name, and which of CGNS's nodes stand at our places (None: the same order)
TYPES: dict[int, tuple[str, list[int] | None]] = {
    2: ("vertex", None),
    3: ("line", None),
    4: ("line3", None),
    5: ("triangle", None),
    6: ("triangle6", None),
    7: ("quad", None),
    8: ("quad8", None),
    9: ("quad9", None),
    10: ("tetra", None),
    11: ("tetra10", None),
    12: ("pyramid", None),
    13: ("pyramid14", None),
    14: ("wedge", None),
    15: ("wedge15", _PENTA),
    16: ("wedge18", [*_PENTA, 15, 16, 17]),
    17: ("hexahedron", None),
    18: ("hexahedron20", _HEXA),
    19: ("hexahedron27", [*_HEXA, 24, 22, 21, 23, 20, 25, 26]),
    21: ("pyramid13", None),
}
MIXED, NGON, NFACE = 20, 22, 23


def _dim(name: str) -> int:
    return DIM.get(name.rstrip("0123456789"), 3)


def sections(zone: Node, dim: int, base: Node, notes: list[str]) -> Tree:
    """Blocks, groups and boundaries of an unstructured zone."""
    found = []
    for node in zone.all("Elements_t"):
        head, limits = node.data, node.array("ElementRange")
        expect(head is not None and limits is not None, f"section {node.name!r} is damaged")
        first, last = (int(i) for i in limits.reshape(-1)[:2])  # type: ignore[union-attr]
        kind = int(head.flat[0])  # type: ignore[union-attr]
        expect(0 < first <= last + 1, f"section {node.name!r} has a damaged range")
        found.append((first, last, kind, node))
    found.sort(key=lambda section: section[0])
    blocks: list[Tree] = []
    number: list[np.ndarray] = []  # element number of each row
    named: list[tuple[str, np.ndarray]] = []
    faces = _ngons([section for section in found if section[2] == NGON and dim == 3])
    at = 0
    for first, last, kind, node in found:
        n = last - first + 1
        if first in faces:
            continue
        nodes = node.array("ElementConnectivity")
        expect(nodes is not None, f"section {node.name!r} has no connectivity")
        nodes = np.asarray(nodes).reshape(-1).astype(np.int64)
        offsets = node.array("ElementStartOffset")
        if kind == NFACE:
            flat, of = _ragged(nodes, offsets, n, node.name)
            new = [_polyhedra(np.abs(flat), of, faces)]
        elif kind == NGON:
            flat, of = _ragged(nodes, offsets, n, node.name)
            new = [{"type": "polygon", "nodes": flat - 1, "offsets": of, "rows": np.arange(n)}]
        elif kind == MIXED:
            new = _mixed(nodes, offsets, n, node.name)
        else:
            new = [_block(kind, nodes, n, node.name)]
        for block in new:
            block["rows"] = block.get("rows", np.arange(n)) + at
            blocks.append(block)
        if new and max(_dim(block["type"]) for block in new) < dim:
            named.append((node.name, np.arange(at, at + n)))
        number.append(np.arange(first, last + 1))
        at += n
    if faces and not any(block["type"] == "polyhedron" for block in blocks):
        made = _from_parents(faces)
        if made is not None:
            made["rows"] = np.arange(len(made["offsets"]) - 1) + at
            blocks.append(made)
            number.append(np.full(len(made["rows"]), -1))
    out: Tree = {"blocks": blocks}
    numbers = np.concatenate(number) if number else np.zeros(0, np.int64)
    top = [block["rows"] for block in blocks if _dim(block["type"]) == dim]
    out["top_rows"] = np.sort(np.concatenate(top)) if top else np.zeros(0, np.int64)
    groups, boundaries = _conditions(zone, base, numbers, faces, notes)
    used = np.concatenate([np.zeros(0, np.int64), *(g["cells"] for g in groups.values())])
    for name, rows in named:
        if not np.isin(rows, used).any():
            groups.setdefault(name, {"cells": rows})
    out["groups"], out["boundaries"] = groups, boundaries
    return out


def _ngons(found: list[tuple[int, int, int, Node]]) -> dict[int, Tree]:
    """Sections of the faces of polyhedra, by the number of their first face."""
    faces: dict[int, Tree] = {}
    for first, last, _, node in found:
        nodes = node.array("ElementConnectivity")
        expect(nodes is not None, f"section {node.name!r} has no connectivity")
        flat, of = _ragged(
            np.asarray(nodes).reshape(-1).astype(np.int64),
            node.array("ElementStartOffset"),
            last - first + 1,
            node.name,
        )
        parents = node.array("ParentElements")
        faces[first] = {"nodes": flat - 1, "offsets": of, "last": last, "parents": parents}
    return faces


def _block(kind: int, nodes: np.ndarray, n: int, where: str) -> Tree:
    expect(kind in TYPES, f"section {where!r}: CGNS cell type {kind} is not supported")
    name, order = TYPES[kind]
    k = NODES[name]
    expect(len(nodes) == n * k, f"section {where!r}: {len(nodes)} indices (expected {n} x {k})")
    cells = nodes.reshape(n, k) - 1
    return {"type": name, "nodes": cells if order is None else cells[:, order]}


def _ragged(
    nodes: np.ndarray, offsets: np.ndarray | None, n: int, where: str
) -> tuple[np.ndarray, np.ndarray]:
    """Flat values and offsets; before CGNS 3.4 each row began with its length."""
    if offsets is not None:
        of = offsets.reshape(-1).astype(np.int64)
        good = len(of) == n + 1 and of[0] == 0 and (np.diff(of) >= 0).all()
        expect(good and of[-1] <= len(nodes), f"section {where!r} has damaged offsets")
        return nodes, of
    found, starts, at = [], [], 0
    for _ in range(n):
        expect(at < len(nodes), f"section {where!r} ends early")
        k = int(nodes[at])
        expect(0 < k <= len(nodes) - at - 1, f"section {where!r} is damaged")
        found.append(k)
        starts.append(at + 1)
        at += k + 1
    sizes = np.array(found, np.int64)
    of = ragged(sizes)
    index = np.repeat(np.array(starts, np.int64) - of[:-1], sizes) + np.arange(of[-1])
    return nodes[index], of


def _mixed(nodes: np.ndarray, offsets: np.ndarray | None, n: int, where: str) -> list[Tree]:
    if offsets is not None:
        starts = offsets.reshape(-1).astype(np.int64)[:-1]
        expect(
            len(starts) == n and (not n or (starts.min() >= 0 and starts.max() < len(nodes))),
            f"section {where!r} has damaged offsets",
        )
    else:
        found, at = [], 0
        for _ in range(n):
            expect(at < len(nodes), f"section {where!r} ends early")
            kind = int(nodes[at])
            expect(kind in TYPES, f"section {where!r}: CGNS cell type {kind} is not supported")
            found.append(at)
            at += 1 + NODES[TYPES[kind][0]]
        starts = np.array(found, np.int64)
    kinds = nodes[starts]
    blocks = []
    for kind in dict.fromkeys(kinds.tolist()):
        rows = np.flatnonzero(kinds == kind)
        expect(kind in TYPES, f"section {where!r}: CGNS cell type {kind} is not supported")
        k = NODES[TYPES[kind][0]]
        expect(starts[rows].max() + k < len(nodes), f"section {where!r} ends early")
        flat = nodes[starts[rows][:, None] + 1 + np.arange(k)].reshape(-1)
        blocks.append({**_block(kind, flat, len(rows), where), "rows": rows})
    return blocks


def _polyhedra(numbers: np.ndarray, offsets: np.ndarray, faces: dict[int, Tree]) -> Tree:
    """Polyhedra from the numbers of their faces."""
    all_nodes, of, first = _all_faces(faces)
    index = first(numbers)
    return {
        "type": "polyhedron",
        "nodes": gather(all_nodes, of, index),
        "offsets": offsets,
        "face_offsets": ragged(np.diff(of)[index]),
    }


def _all_faces(faces: dict[int, Tree]) -> tuple[np.ndarray, np.ndarray, Any]:
    expect(faces, "polyhedra without a section of their faces (NGON_n)")
    starts = sorted(faces)
    sizes = np.concatenate([np.diff(faces[s]["offsets"]) for s in starts])
    nodes = np.concatenate([faces[s]["nodes"][: faces[s]["offsets"][-1]] for s in starts])
    numbers = np.concatenate([np.arange(s, faces[s]["last"] + 1) for s in starts])

    def place(wanted: np.ndarray) -> np.ndarray:
        at = np.searchsorted(numbers, wanted)
        inside = at < len(numbers)
        good = inside & (numbers[np.where(inside, at, 0)] == wanted)
        expect(good.all(), "a polyhedron names a face that is not there")
        return at

    return nodes, ragged(sizes), place


def _from_parents(faces: dict[int, Tree]) -> Tree | None:
    """Polyhedra from the two cells that each face names."""
    if any(section["parents"] is None for section in faces.values()):
        return None
    nodes, of, _ = _all_faces(faces)
    parents = np.concatenate(
        [np.asarray(faces[s]["parents"]).reshape(2, -1).T for s in sorted(faces)]
    ).astype(np.int64)  # (F, 2), 0: none
    if len(parents) != len(of) - 1 or not parents.any():
        return None
    face = np.repeat(np.arange(len(parents)), 2)
    cell = parents.reshape(-1)
    face, cell = face[cell > 0], cell[cell > 0]
    cell -= cell.min()
    order = np.argsort(cell, kind="stable")
    return {
        "type": "polyhedron",
        "nodes": gather(nodes, of, face[order]),
        "offsets": ragged(np.bincount(cell)),
        "face_offsets": ragged(np.diff(of)[face[order]]),
    }


def _kind(bc: Node, base: Node) -> tuple[str, str]:
    """A boundary condition's name and type; a family's when it is given by its family."""
    kind, name = bc.text, bc.name
    family = bc.first("FamilyName_t")
    if kind == "FamilySpecified" and family is not None and family.text:
        name = family.text
        of = base.first("Family_t", name)
        typed = None if of is None else of.first("FamilyBC_t")
        kind = "" if typed is None else typed.text
    return name, "" if kind in ("Null", "UserDefined") else kind


def _conditions(
    zone: Node, base: Node, numbers: np.ndarray, faces: dict[int, Tree], notes: list[str]
) -> tuple[Tree, Tree]:
    groups: Tree = {}
    boundaries: Tree = {}
    conditions = [bc for all_of in zone.all("ZoneBC_t") for bc in all_of.all("BC_t")]
    for bc in conditions:
        name, kind = _kind(bc, base)
        location = bc.first("GridLocation_t")
        where = location.text if location is not None else "Vertex"
        for key in ("PointList", "PointRange", "ElementList", "ElementRange"):
            ids = bc.array(key)
            if ids is None or ids.size == 0:
                continue
            ids = ids.reshape(-1).astype(np.int64)
            if key.endswith("Range"):
                expect(len(ids) == 2, f"boundary {name!r} has a damaged range")
                low, high = int(ids[0]), int(ids[1])
                big = max(len(numbers), 1) * 10 + 10**8
                expect(0 < low <= high + 1 < big, f"boundary {name!r} has a damaged range")
                ids = np.arange(low, high + 1)
            if where == "Vertex" and key.startswith("Point"):
                old = boundaries.get(name, {"points": np.zeros(0, np.int64)})
                if "points" in old:
                    both = np.unique(np.concatenate([old["points"], ids - 1]))
                    boundaries[name] = {"points": both, "kind": kind}
            else:
                _elements(name, kind, ids, numbers, faces, groups, boundaries, notes)
            break
    return groups, boundaries


def _elements(
    name: str, kind: str, ids: np.ndarray, numbers: np.ndarray, faces: dict[int, Tree],
    groups: Tree, boundaries: Tree, notes: list[str],
) -> None:  # fmt: skip
    order = np.argsort(numbers, kind="stable")
    at = np.searchsorted(numbers[order], ids)
    inside = at < len(numbers)
    good = inside & (numbers[order][np.where(inside, at, 0)] == ids) if len(numbers) else inside
    if good.any():
        rows = order[at[good]]
        old = groups.get(name, {"cells": np.zeros(0, np.int64)})["cells"]
        groups[name] = {"cells": np.concatenate([old, rows]), "kind": kind}
    rest = ids[~good]
    if len(rest) and faces:
        nodes, of, place = _all_faces(faces)
        index = place(rest)
        found = {"sizes": np.diff(of)[index], "nodes": gather(nodes, of, index), "kind": kind}
        old = boundaries.get(name)
        if old is not None and "sizes" in old:
            found = {k: np.concatenate([old[k], found[k]]) for k in ("sizes", "nodes")} | {
                "kind": kind
            }
        boundaries[name] = found
    elif len(rest):
        notes.append(f"boundary {name!r}: {len(rest)} of its elements do not exist")


def structured(zone: Node, size: np.ndarray, base: Node, notes: list[str]) -> Tree:
    """Cells of a structured zone as quads or hexahedra, its boundary conditions as faces.

    Arguments:
        size: (d,) points in each direction, i first; points are numbered with i fastest.
    """
    d = len(size)
    expect(d in (1, 2, 3) and (size >= 1).all(), f"zone {zone.name!r} has a damaged size")
    ids = np.arange(int(np.prod(size))).reshape(size[::-1]).transpose()  # ids[i, j, k]
    name = {1: "line", 2: "quad", 3: "hexahedron"}[d]
    out: Tree = {"blocks": [{"type": name, "nodes": _boxes(ids)}], "boundaries": {}, "groups": {}}
    for all_of in zone.all("ZoneBC_t"):
        for bc in all_of.all("BC_t"):
            label, kind = _kind(bc, base)
            limits = bc.array("PointRange")
            location = bc.first("GridLocation_t")
            if limits is None or limits.size != 2 * d:
                notes.append(f"boundary {label!r} has no range of points and was left out")
                continue
            low, high = (row.astype(np.int64) for row in limits.reshape(2, d))
            if location is not None and location.text.endswith("FaceCenter"):
                # faces run from 1 to n - 1 across, the plane itself stays
                high = np.where(low == high, high, high + 1)
            thin = np.flatnonzero(low == high)
            good = len(thin) and (low >= 1).all() and (high <= size).all() and (low <= high).all()
            expect(good, f"boundary {label!r} has a range outside zone {zone.name!r}")
            plane = ids[tuple(slice(a - 1, b) for a, b in zip(low, high, strict=True))]
            faces = _boxes(plane.squeeze(axis=int(thin[0])))
            old = out["boundaries"].get(label)
            found = {
                "sizes": np.full(len(faces), faces.shape[1]),
                "nodes": faces.reshape(-1),
                "kind": kind,
            }
            if old is not None:
                for key in ("sizes", "nodes"):
                    found[key] = np.concatenate([old[key], found[key]])
            out["boundaries"][label] = found
    return out


def _boxes(ids: np.ndarray) -> np.ndarray:
    """The cells between the points of a grid, i fastest, in VTK's order of corners."""
    d = ids.ndim
    table: dict[int, list[tuple[int, ...]]] = {
        0: [()],
        1: [(0,), (1,)],
        2: [(0, 0), (1, 0), (1, 1), (0, 1)],
        3: [(0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0),
            (0, 0, 1), (1, 0, 1), (1, 1, 1), (0, 1, 1)],
    }  # fmt: skip
    parts = [
        ids[tuple(slice(c, n - 1 + c) for c, n in zip(corner, ids.shape, strict=True))]
        .transpose()
        .reshape(-1)
        for corner in table[d]
    ]
    return np.stack(parts, 1)
