"""SU2 meshes: one or several zones, linear and high-order cells, markers."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from meshsim.io.raw import VTK_TYPES, Tree, content, expect, integer_lines, numbers
from meshsim.io.raw.merge import merge

# Nodes of a cell of degree two stand row by row in SU2; their order in VTK.
_HEXAHEDRON = [
    i + 3 * j + 9 * k
    for i, j, k in (
        *((0, 0, 0), (2, 0, 0), (2, 2, 0), (0, 2, 0), (0, 0, 2), (2, 0, 2), (2, 2, 2), (0, 2, 2)),
        *((1, 0, 0), (2, 1, 0), (1, 2, 0), (0, 1, 0), (1, 0, 2), (2, 1, 2), (1, 2, 2), (0, 1, 2)),
        *((0, 0, 1), (2, 0, 1), (2, 2, 1), (0, 2, 1), (0, 1, 1), (2, 1, 1), (1, 0, 1), (1, 2, 1)),
        *((1, 1, 0), (1, 1, 2), (1, 1, 1)),
    )
]
DEGREE_TWO = {
    "line": ("line3", [0, 2, 1]),
    "triangle": ("triangle6", [0, 2, 5, 1, 4, 3]),
    "quad": ("quad9", [0, 2, 8, 6, 1, 5, 7, 3, 4]),
    "tetra": ("tetra10", [0, 2, 5, 9, 1, 4, 3, 6, 7, 8]),
    "hexahedron": ("hexahedron27", _HEXAHEDRON),
    "wedge": ("wedge18", [0, 2, 5, 12, 14, 17, 1, 4, 3, 13, 16, 15, 6, 8, 11, 7, 10, 9]),
    "pyramid": ("pyramid14", [0, 2, 8, 6, 13, 1, 5, 7, 3, 9, 10, 12, 11, 4]),
}


def _nodes(shape: str, p: int) -> int:
    """Nodes of a cell of degree p."""
    q = p + 1
    return {
        "line": q,
        "triangle": q * (q + 1) // 2,
        "quad": q * q,
        "tetra": q * (q + 1) * (q + 2) // 6,
        "hexahedron": q**3,
        "wedge": q * q * (q + 1) // 2,
        "pyramid": q * (q + 1) * (2 * q + 1) // 6,
    }[shape]


def _corners(shape: str, p: int) -> list[int]:
    """Where the corners stand among the nodes of a cell of degree p, in VTK's order."""
    n = _nodes(shape, p)
    t = (p + 1) * (p + 2) // 2  # nodes of a triangle
    s = (p + 1) ** 2  # of a square
    return {
        "line": [0, p],
        "triangle": [0, p, n - 1],
        "quad": [0, p, n - 1, n - 1 - p],
        "tetra": [0, p, t - 1, n - 1],
        "hexahedron": [k * s * p + c for k in (0, 1) for c in (0, p, s - 1, s - 1 - p)],
        "wedge": [k * t * p + c for k in (0, 1) for c in (0, p, t - 1)],
        "pyramid": [0, p, s - 1, s - 1 - p, n - 1],
    }[shape]


_COMMENT = re.compile(rb"%[^\n]*")
_KEY = re.compile(rb"\s*([A-Z_]+)\s*=\s*(.*)")


class Lines:
    """The lines of a file without comments, read one after another."""

    def __init__(self, data: bytes):
        self.lines = [line for line in data.splitlines() if line.strip()[:1] not in (b"", b"%")]
        self.at = 0

    def __bool__(self) -> bool:
        return self.at < len(self.lines)

    def key(self) -> tuple[str, str] | None:
        """The next line as a keyword and its value, or None when it is none."""
        found = _KEY.match(self.lines[self.at])
        self.at += 1
        if not found:
            return None
        return found[1].decode(), found[2].split(b"%", 1)[0].decode("utf-8", "replace").strip()

    def take(self, n: int, what: str) -> list[bytes]:
        """The next n lines."""
        rest = len(self.lines) - self.at
        expect(0 <= n <= rest, f"ends early (expected {n} lines of {what}, got {rest})")
        self.at += n
        return self.lines[self.at - n : self.at]


def read(path: str, options: Tree) -> Tree:
    """A SU2 mesh as a tree; several zones stand side by side, each a region."""
    lines = Lines(content(path))
    zones: list[Tree] = []
    zone: Tree = {}
    while lines:
        found = lines.key()
        if found is None:
            continue
        key, value = found
        if key == "IZONE" and "points" in zone:
            zones.append(zone)
            zone = {}
        _section(key, value, lines, zone)
    zones.append(zone)
    parts = [_tree(zone) for zone in zones]
    if len(parts) == 1:
        return parts[0]
    out = merge(parts, [f"zone{i + 1}" for i in range(len(parts))], weld=False)
    out["notes"].append(f"the {len(parts)} zones of the file stand side by side as regions")
    return out


def _count(value: str, key: str) -> int:
    words = value.split()
    expect(words and words[0].isdigit(), f"{key}= {value[:40]!r} is no number")
    return int(words[0])


def _section(key: str, value: str, lines: Lines, zone: Tree) -> None:
    if key == "NDIME":
        zone["dim"] = _count(value, key)
        expect(zone["dim"] in (2, 3), f"NDIME= {zone['dim']} (expected 2 or 3)")
    elif key == "NELEM":
        zone["cells"] = lines.take(_count(value, key), "cells")
    elif key == "NPOIN":
        rows = lines.take(_count(value, key), "points")
        expect("dim" in zone, "NPOIN comes before NDIME")
        zone["points"] = _points(rows, zone["dim"])
    elif key == "MARKER_TAG":
        tag, elements = value, []
        while lines:
            start = lines.at
            found = lines.key()
            if found is None or found[0] == "SEND_RECV" or found[0] == "SEND_TO":
                continue
            if found[0] != "MARKER_ELEMS":
                lines.at = start
                break
            elements = lines.take(_count(found[1], "MARKER_ELEMS"), f"marker {tag}")
            # the words SEND_TO stand after the count or before the elements
            if elements and _KEY.match(elements[0]):
                elements = elements[1:] + lines.take(1, f"marker {tag}")
            break
        zone.setdefault("markers", {}).setdefault(tag, []).extend(elements)


def _points(rows: list[bytes], dim: int) -> np.ndarray:
    """Coordinates; what follows them in a line (the point's number) is left out."""
    if not rows:
        return np.zeros((0, dim))
    width = len(rows[0].split())
    expect(width >= dim, f"points with {width} coordinates (expected {dim})")
    try:
        flat = numbers(b" ".join(rows))
    except ValueError:  # a comment after a point
        flat = np.zeros(0)
    if len(flat) == width * len(rows):
        table = flat.reshape(len(rows), width)[:, :dim].copy()
    else:
        table = numbers(b" ".join(b" ".join(row.split()[:dim]) for row in rows)).reshape(-1, dim)
    expect(len(table) == len(rows), "a point with too few coordinates")
    return table


def _cells(rows: list[bytes], what: str, notes: list[str]) -> tuple[list[Tree], int]:
    """Blocks of one type each, and how many elements are single points."""
    values, of = integer_lines(_COMMENT.sub(b"", b"\n".join(rows)))
    kinds = values[of[:-1]]
    blocks: list[Tree] = []
    vertices = 0
    for number in dict.fromkeys(kinds.tolist()):
        places = np.flatnonzero(kinds == number)
        number %= 10000  # above stands the degree of the solution
        p, base = number // 100 + 1, number % 100
        shape, _ = VTK_TYPES.get(base, ("", 0))
        if shape == "vertex":
            vertices += len(places)
            continue
        expect(shape and shape in DEGREE_TWO, f"{what}: unknown cell type {number}")
        expect(p <= 20, f"{what}: unknown cell type {number}")
        k = _nodes(shape, p)
        short = int(np.diff(of)[places].min()) - 1
        expect(short >= k, f"{what}: a {shape} with {short} nodes (expected {k})")
        nodes = values[of[places][:, None] + 1 + np.arange(k)]
        if p == 2:
            shape, order = DEGREE_TWO[shape]
            nodes = nodes[:, order]
        elif p > 2:
            nodes = nodes[:, _corners(shape, p)]
            notes.append(f"{what}: {len(places)} cells of degree {p} were read by their corners")
        blocks.append({"type": shape, "nodes": nodes, "rows": places})
    return blocks, vertices


def _tree(zone: Tree) -> Tree:
    expect("points" in zone, "holds no points (expected NPOIN=)")
    expect("cells" in zone, "holds no cells (expected NELEM=)")
    notes: list[str] = []
    blocks, _ = _cells(zone["cells"], "NELEM", notes)
    groups: dict[str, Any] = {}
    at = len(zone["cells"])
    for tag, rows in zone.get("markers", {}).items():
        marker, vertices = _cells(rows, f"marker {tag}", notes)
        if vertices:
            notes.append(f"marker {tag!r}: {vertices} single points were left out")
        for block in marker:
            blocks.append({**block, "rows": block["rows"] + at})
        cells = [block["rows"] + at for block in marker]
        if cells:
            groups[tag] = {"cells": np.sort(np.concatenate(cells))}
        at += len(rows)
    return {"points": zone["points"], "blocks": blocks, "groups": groups, "notes": notes}
