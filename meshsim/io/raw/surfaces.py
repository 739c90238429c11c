"""Surfaces of triangles and polygons: stl, obj, off."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import numpy as np

from meshsim.io.raw import SURFACE, Tree, by_size, content, expect, numbers, ragged

STL_FACET = np.dtype(
    [("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")]
)  # 50 bytes


def read(path: str, options: Tree) -> Tree:
    """A surface file as a tree; `options["kind"]` is "stl", "obj" or "off"."""
    data = content(path)
    return {"stl": _stl, "obj": _obj, "off": _off}[options["kind"]](data)


def _stl(data: bytes) -> Tree:
    """Triangles; corners at exactly one place become one point, in the order they appear."""
    groups: dict[str, Tree] = {}
    notes = []
    announced = int.from_bytes(data[80:84], "little") if len(data) >= 84 else -1
    text = data.lstrip()[:5].lower() == b"solid" and len(data) != 84 + 50 * announced
    if text and b"facet" not in data[:2000] and len(data) > 84 + 50 and b"\0" in data[:1000]:
        text = False
    if text:
        corners, solids = _stl_text(data)
        if len(solids) > 1:
            first = 0
            for name, n in solids:
                old = groups.get(name, {"cells": np.zeros(0, np.int64)})["cells"]
                if n:
                    groups[name] = {"cells": np.concatenate([old, np.arange(first, first + n)])}
                first += n
    else:
        expect(announced >= 0, "ends in the header of a binary stl")
        have = (len(data) - 84) // 50
        expect(have >= announced, f"ends early (expected {announced} triangles, got {have})")
        facets = np.frombuffer(data, STL_FACET, announced, 84)
        corners = facets["corners"].astype(np.float32).reshape(-1, 3)
        rest = len(data) - 84 - 50 * announced
        if rest:
            notes.append(f"{rest} bytes after the last triangle were left out")
    points, nodes = weld(corners)
    blocks = [{"type": "triangle", "nodes": nodes.reshape(-1, 3)}] if len(nodes) else []
    return {"points": points, "blocks": blocks, "groups": groups, "notes": notes}


def weld(corners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct points in order of first appearance, and the index of each corner."""
    if not len(corners):
        return np.zeros((0, 3)), np.zeros(0, np.int64)
    _, first, inverse = np.unique(corners + 0, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    return corners[first[order]], rank[inverse.reshape(-1)]


_SOLID = re.compile(rb"^[ \t]*(solid|endsolid|facet)\b[ \t]*([^\r\n]*)", re.M | re.I)
_VERTEX = re.compile(rb"\bvertex[ \t]+(\S+)[ \t]+(\S+)[ \t]+(\S+)", re.I)


def _stl_text(data: bytes) -> tuple[np.ndarray, list[tuple[str, int]]]:
    solids: list[list[Any]] = []
    closed = False
    for word, rest in _SOLID.findall(data):
        lower = word.lower()
        closed = lower == b"endsolid"
        if lower == b"solid":
            name = rest.strip().decode("utf-8", "replace") or f"solid{len(solids) + 1}"
            solids.append([name, 0])
        elif lower == b"facet" and solids:
            solids[-1][1] += 1
    found = _VERTEX.findall(data)
    facets = sum(n for _, n in solids)
    expect(len(found) == 3 * facets, f"{facets} facets with {len(found)} corners (expected 3 each)")
    expect(closed or not facets, "ends early (no endsolid)")
    words = [word for vertex in found for word in vertex]
    corners = np.array(words).astype(np.float64) if words else np.zeros(0)
    return corners.reshape(-1, 3), [(name, n) for name, n in solids]


def _off(data: bytes) -> Tree:
    """Object File Format: OFF, COFF, NOFF, STOFF and their combinations, ASCII."""
    lines = [bare for line in data.splitlines() if (bare := line.split(b"#", 1)[0].strip())]
    expect(lines, "holds nothing")
    head = re.match(rb"(ST)?(C)?(N)?(4)?(n)?OFF(?![A-Za-z])\s*(BINARY\b)?(.*)", lines[0])
    expect(head, "does not start with OFF")
    assert head is not None
    expect(not head[4] and not head[5], "4-D and n-D OFF are not supported")
    expect(not head[6], "binary OFF is not supported")
    rest = ([head[7].strip()] if head[7].strip() else []) + lines[1:]
    # counts and points may share lines: words decide, not lines, until the faces
    words = iter(rest)
    counts: list[bytes] = []
    for line in words:
        counts += line.split()
        if len(counts) >= 2:
            break
    expect(len(counts) >= 2, "ends in the header")
    n, m = int(counts[0]), int(counts[1])
    expect(n >= 0 and m >= 0, "negative counts")
    expect(n <= len(data) // 2 and m <= len(data) // 2, f"ends early (expected {n} points)")
    after = list(words)
    if len(counts) > 3:
        after.insert(0, b" ".join(counts[3:]))
    width = len(after[0].split()) if n and after else 3
    expect(width >= 3, f"points with {width} coordinates (expected 3)")
    if len(after) >= n and all(len(line.split()) == width for line in after[:n]):
        table = numbers(b" ".join(after[:n]), np.float64, n * width).reshape(n, width)
        after = after[n:]
    else:
        flat = b" ".join(after).split()
        expect(len(flat) >= 3 * n, f"ends early (expected {n} points)")
        table = numbers(b" ".join(flat[: 3 * n])).reshape(n, 3)
        after = _face_lines(flat[3 * n :], m)
    expect(len(after) >= m, f"ends early (expected {m} faces, got {len(after)})")
    sizes = np.array([int(line.split(None, 1)[0]) for line in after[:m]], np.int64)
    expect(not m or sizes.min() >= 1, "a face without corners")
    nodes: list[bytes] = []
    for line, size in zip(after[:m], sizes.tolist(), strict=True):
        corners = line.split()[1 : size + 1]
        expect(len(corners) == size, f"a face with {len(corners)} corners (expected {size})")
        nodes += corners
    flat_nodes = np.array(nodes).astype(np.int64) if nodes else np.zeros(0, np.int64)
    blocks = by_size(flat_nodes, ragged(sizes), SURFACE)
    fields = {}
    if head[3] and width >= 6:
        fields["normal"] = table[:, 3:6]
    if head[2] and width >= 6 + 3 * bool(head[3]):
        fields["colour"] = table[:, 3 + 3 * bool(head[3]) :][:, :4]
    return {"points": table[:, :3].copy(), "blocks": blocks, "point_fields": fields}


def _face_lines(words: list[bytes], m: int) -> list[bytes]:
    lines: list[bytes] = []
    at = 0
    for _ in range(m):
        expect(at < len(words), f"ends early (expected {m} faces, got {len(lines)})")
        size = int(words[at])
        expect(size >= 1, "a face without corners")
        lines.append(b" ".join(words[at : at + size + 1]))
        at += size + 1
    return lines


def _obj(data: bytes) -> Tree:
    """Wavefront OBJ: points (with colours), faces of any size, lines; groups become regions.

    Texture coordinates and normals belong to the corners of faces, not to points: left out.
    """
    data = data.replace(b"\\\r\n", b" ").replace(b"\\\n", b" ")
    points: list[bytes] = []
    widths: set[int] = set()
    nodes: list[int] = []
    sizes: list[int] = []
    lines: list[int] = []
    line_sizes: list[int] = []
    groups: dict[str, list[tuple[int, int]]] = {}
    name, start = b"", 0
    dropped: dict[str, int] = {}

    def close(to: int) -> None:
        if to > start:
            key = name.decode("utf-8", "replace").strip() or "default"
            groups.setdefault(key, []).append((start, to))

    for raw in data.splitlines():
        line = raw.strip()
        if line[:2] in (b"v ", b"v\t"):
            words = line.split(b"#", 1)[0].split()[1:]
            widths.add(len(words))
            points.append(b" ".join(words))
        elif line[:2] in (b"f ", b"f\t", b"l ", b"l\t"):
            words = line.split(b"#", 1)[0].split()[1:]
            n = len(points)
            cell = [int(word.split(b"/", 1)[0]) for word in words]
            # counted from one, or backwards from the last point so far
            cell = [i - 1 if i > 0 else n + i for i in cell]
            expect(all(i >= 0 for i in cell), f"index outside the points in {line[:60]!r}")
            expect(cell, f"a face without corners: {line[:60]!r}")
            if line[:1] == b"f":
                nodes += cell
                sizes.append(len(cell))
            else:
                for a, b in pairwise(cell):
                    lines += (a, b)
                    line_sizes.append(2)
        elif line[:2] in (b"g ", b"o "):
            close(len(sizes))
            name, start = line[2:], len(sizes)
        elif line[:2] in (b"p ", b"vt", b"vn", b"vp"):
            key = line[:2].decode().strip()
            dropped[key] = dropped.get(key, 0) + 1
    close(len(sizes))
    expect(not widths or min(widths) >= 3, "a point with fewer than 3 coordinates")
    table, colours = _obj_points(points, widths)
    blocks = by_size(np.array(nodes, np.int64), ragged(np.array(sizes, np.int64)), SURFACE)
    if line_sizes:
        rows = len(sizes) + np.arange(len(line_sizes))
        blocks.append(
            {"type": "line", "nodes": np.array(lines, np.int64).reshape(-1, 2), "rows": rows}
        )
    meaning = {"vt": "texture coordinates", "vn": "normals", "p": "points of clouds"}
    notes = [f"{n} {meaning[key]} were left out" for key, n in dropped.items() if key in meaning]
    cells = {
        key: {"cells": np.concatenate([np.arange(a, b) for a, b in runs])}
        for key, runs in groups.items()
        if len(groups) > 1
    }
    fields = {} if colours is None else {"colour": colours}
    return {
        "points": table,
        "blocks": blocks,
        "point_fields": fields,
        "groups": cells,
        "notes": notes,
    }


_SWAPPED = re.compile(rb"([+-])[eE](?=\d)")


def _obj_points(points: list[bytes], widths: set[int]) -> tuple[np.ndarray, np.ndarray | None]:
    if not points:
        return np.zeros((0, 3)), None
    # 3.1+e2: some programs put the sign of the exponent before the e
    points = [_SWAPPED.sub(rb"e\1", p) if b"e" in p.lower() else p for p in points]
    if len(widths) == 1:
        width = widths.pop()
        table = numbers(b" ".join(points)).reshape(len(points), width)
        # x y z, x y z w, or x y z r g b
        colours = table[:, 3:6].copy() if width >= 6 else None
        return table[:, :3].copy(), colours
    return numbers(b" ".join(b" ".join(p.split()[:3]) for p in points)).reshape(-1, 3), None
