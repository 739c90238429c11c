"""Mixed topologies of XDMF: one stream of type numbers, sizes and points."""

from __future__ import annotations

import numpy as np

from meshsim.io.raw import Tree, expect, gather, ragged

# XDMF's number of a cell type in mixed topologies: our name, nodes (0: their number follows)
MIXED: dict[int, tuple[str, int]] = {
    1: ("vertex", 0),
    2: ("line", 0),
    3: ("polygon", 0),
    4: ("triangle", 3),
    5: ("quad", 4),
    6: ("tetra", 4),
    7: ("pyramid", 5),
    8: ("wedge", 6),
    9: ("hexahedron", 8),
    16: ("polyhedron", 0),
    34: ("line3", 3),
    35: ("quad9", 9),
    36: ("triangle6", 6),
    37: ("quad8", 8),
    38: ("tetra10", 10),
    39: ("pyramid13", 13),
    40: ("wedge15", 15),
    41: ("wedge18", 18),
    48: ("hexahedron20", 20),
    49: ("hexahedron24", 24),
    50: ("hexahedron27", 27),
}


def mixed(stream: np.ndarray, base: int, n: int) -> list[Tree]:
    """Blocks of a mixed topology: a stream of type number (and size) and nodes."""
    places: dict[tuple[int, int], tuple[list[int], list[int]]] = {}
    polyhedra: list[tuple[int, int]] = []
    values = stream.tolist()
    at = row = 0
    while at < len(values) and row != n:
        number = values[at]
        expect(number in MIXED, f"cells of XDMF type {number} are not supported")
        name, k = MIXED[number]
        start = at + 1
        if name == "polyhedron":
            polyhedra.append((row, start))
            expect(start < len(values), "ends early in its topology")
            at = start + 1
            for _ in range(values[start]):
                expect(at < len(values) and values[at] >= 1, "ends early in its topology")
                at += 1 + values[at]
        else:
            if k == 0:
                expect(start < len(values), "ends early in its topology")
                k = values[start]
                expect(k >= 1, "a cell without points in its topology")
                start += 1
            rows, starts = places.setdefault((number, k), ([], []))
            rows.append(row)
            starts.append(start)
            at = start + k
        expect(at <= len(values), "ends early in its topology")
        row += 1
    expect(n < 0 or row == n, f"ends early in its topology (expected {n} cells, got {row})")
    blocks: list[Tree] = []
    for (number, k), (rows, starts) in places.items():
        name = MIXED[number][0]
        cells = stream[np.array(starts)[:, None] + np.arange(k)] - base
        if name == "polygon":
            of = np.arange(len(cells) + 1) * k
            flat = cells.reshape(-1)
            blocks.append({"type": name, "nodes": flat, "offsets": of, "rows": np.array(rows)})
        else:
            expect(k == {"vertex": 1, "line": 2}.get(name, k), f"a {name} of {k} points")
            blocks.append({"type": name, "nodes": cells, "rows": np.array(rows)})
    if polyhedra:
        blocks.append(_polyhedra(values, polyhedra, base))
    return _polygons_joined(blocks)


def _polyhedra(values: list[int], polyhedra: list[tuple[int, int]], base: int) -> Tree:
    nodes: list[int] = []
    face_sizes: list[int] = []
    sizes: list[int] = []
    for _, start in polyhedra:
        at = start + 1
        sizes.append(values[start])
        for _ in range(values[start]):
            k = values[at]
            face_sizes.append(k)
            nodes += values[at + 1 : at + 1 + k]
            at += 1 + k
    return {
        "type": "polyhedron",
        "nodes": np.array(nodes, np.int64) - base,
        "offsets": ragged(np.array(sizes)),
        "face_offsets": ragged(np.array(face_sizes)),
        "rows": np.array([row for row, _ in polyhedra]),
    }


def _polygons_joined(blocks: list[Tree]) -> list[Tree]:
    """Polygons of different sizes as one ragged block, in the order of the file."""
    polygons = [block for block in blocks if block["type"] == "polygon"]
    if len(polygons) < 2:
        return blocks
    rows = np.concatenate([block["rows"] for block in polygons])
    sizes = np.concatenate([np.diff(block["offsets"]) for block in polygons])
    flat = np.concatenate([block["nodes"] for block in polygons])
    order = np.argsort(rows)
    joined = {
        "type": "polygon",
        "nodes": gather(flat, ragged(sizes), order),
        "offsets": ragged(sizes[order]),
        "rows": rows[order],
    }
    return [joined, *(block for block in blocks if block["type"] != "polygon")]
