"""AVS-UCD (.inp, .avs), ASCII and binary: cells with materials, values on nodes and cells."""

from __future__ import annotations

from typing import Any

import numpy as np

from meshsim.io.raw import DIM, NODES, Tree, content, expect
from meshsim.io.raw.numbered import Numbered, field_of, tree

# AVS's word, its number in binary files: our type. AVS draws solids from the top down.
SHAPES = {
    "pt": "vertex", "line": "line", "tri": "triangle", "quad": "quad", "tet": "tetra",
    "pyr": "pyramid", "prism": "wedge", "hex": "hexahedron",
}  # fmt: skip
UPSIDE_DOWN = {
    "tetra": [0, 1, 3, 2],
    "wedge": [3, 4, 5, 0, 1, 2],
    "hexahedron": [4, 5, 6, 7, 0, 1, 2, 3],
}


def read(path: str, options: Tree) -> Tree:
    """An AVS-UCD file as a tree; materials of cells are regions, of their faces boundaries."""
    data = content(path)
    if data[:1] == b"\x07":
        return _binary(data)
    lines = data.decode("latin-1").splitlines()
    start = next((i for i, x in enumerate(lines) if x.strip() and x.lstrip()[0] != "#"), 0)
    head = lines[start].split() if lines else []
    expect(len(head) >= 5 and all(w.isdigit() for w in head[:5]), "expected five integers first")
    n, m, of_nodes, of_cells, _ = (int(word) for word in head[:5])
    rows = [x.split() for x in lines[start + 1 :] if x.strip()]
    expect(len(rows) >= n + m, f"ends early (expected {n} nodes and {m} cells)")
    short = next((i for i, row in enumerate(rows[:n]) if len(row) < 4), None)
    expect(short is None, f"node {(short or 0) + 1} has too few coordinates")
    table = np.array([row[:4] for row in rows[:n]], dtype="U32").reshape(n, 4)
    parsed = Numbered([_ids(table[:, 0])], [table[:, 1:].astype(np.float64)])
    materials = np.zeros(m, np.int64)
    found: dict[str, list[tuple[int, list[int], int]]] = {}
    for i, row in enumerate(rows[n : n + m]):
        expect(len(row) >= 3, f"cell {i + 1} is damaged")
        kind = SHAPES.get(row[2].lower(), "")
        expect(kind, f"cell {i + 1}: unknown type {row[2][:20]!r}")
        nodes = row[3 : 3 + NODES[kind]]
        expect(len(nodes) == NODES[kind], f"cell {i + 1}: a {kind} with {len(nodes)} nodes")
        materials[i] = int(row[1])
        found.setdefault(kind, []).append((int(row[0]), [int(w) for w in nodes], i))
    _add(parsed, found)
    values: list[tuple[str, str, np.ndarray, np.ndarray]] = []
    at = n + m
    for place, width, count in (("point", of_nodes, n), ("cell", of_cells, m)):
        if width == 0 or count == 0:
            continue
        expect(at < len(rows), f"ends early (expected values on {count} {place}s)")
        sizes = [int(w) for w in rows[at][1 : 1 + int(rows[at][0])]]
        expect(sum(sizes) == width, f"values on {place}s: {sum(sizes)} components, not {width}")
        labels = [" ".join(row).split(",")[0].strip() for row in rows[at + 1 : at + 1 + len(sizes)]]
        at += 1 + len(sizes)
        part = rows[at : at + count]
        whole = len(part) == count and all(len(row) == width + 1 for row in part)
        expect(whole, f"ends early (expected values on {count} {place}s)")
        listed = np.array(part)
        numbers = listed[:, 1:].astype(np.float64)
        for label, columns in _columns(labels, sizes):
            values.append((place, label, _ids(listed[:, 0]), numbers[:, columns]))
        at += count
    return _tree(parsed, materials, values)


def _ids(words: np.ndarray) -> np.ndarray:
    return words.astype(np.int64)


def _columns(labels: list[str], sizes: list[int]) -> list[tuple[str, Any]]:
    out, at = [], 0
    for i, size in enumerate(sizes):
        label = labels[i] if i < len(labels) and labels[i] else f"value{i + 1}"
        out.append((label, at if size == 1 else slice(at, at + size)))
        at += size
    return out


def _add(parsed: Numbered, found: dict[str, list[tuple[int, list[int], int]]]) -> None:
    for kind, cells in found.items():
        ids, rows = ([c[i] for c in cells] for i in (0, 2))
        nodes = np.array([c[1] for c in cells], np.int64)
        parsed.elements.append((kind, np.array(ids), nodes, np.array(rows)))


def _tree(
    parsed: Numbered, materials: np.ndarray, values: list[tuple[str, str, np.ndarray, np.ndarray]]
) -> Tree:
    out, tags, ids = tree(parsed)
    for block in out["blocks"]:
        block["nodes"] = _upright(out["points"], block["type"], block["nodes"])
    dims = np.zeros(len(ids), np.int64)
    for block in out["blocks"]:
        dims[block["rows"]] = DIM.get(block["type"], 3)
    top = dims.max()
    for dim, name in ((top, "material"), (top - 1, "boundary")):
        for number in np.unique(materials[dims == dim]).tolist():
            cells = np.flatnonzero((dims == dim) & (materials == number))
            out["groups"][f"{name} {number}"] = {"cells": cells}
    for place, label, numbers, table in values:
        known = tags if place == "point" else ids
        out.setdefault(f"{place}_fields", {})[label] = field_of(numbers, table, known, label)[0]
    return out


def _upright(points: np.ndarray, kind: str, nodes: np.ndarray) -> np.ndarray:
    """Solids in our order: AVS draws them from the top, many programs write them from below.

    Both are the same cell with one face or the other first; the signed volume tells which.
    """
    if kind == "pyramid":
        # AVS names the tip first; else four nodes in one plane come first
        x = points[nodes]  # (n, 5, 3)
        first = np.abs(_volume(x[:, 0], x[:, 1], x[:, 2], x[:, 3]))
        last = np.abs(_volume(x[:, 4], x[:, 1], x[:, 2], x[:, 3]))
        if first.sum() > last.sum():
            nodes = nodes[:, [1, 2, 3, 4, 0]]
        x = points[nodes]
        inside = _volume(x[:, 0], x[:, 1], x[:, 2], x[:, 4])
        return nodes[:, [0, 3, 2, 1, 4]] if inside.sum() < 0 else nodes
    if kind not in UPSIDE_DOWN:
        return nodes
    x = points[nodes]
    tip = {"tetra": 3, "wedge": 3, "hexahedron": 4}[kind]
    side = 3 if kind == "hexahedron" else 2
    volume = _volume(x[:, 0], x[:, 1], x[:, side], x[:, tip])
    return nodes[:, UPSIDE_DOWN[kind]] if volume.sum() < 0 else nodes


def _volume(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> np.ndarray:
    return np.asarray(np.einsum("ij,ij->i", np.cross(b - a, c - a), d - a))


def _binary(data: bytes) -> Tree:
    """A binary file, of the byte order in which its counts fit its length."""
    for order in ("<", ">"):
        counts = np.frombuffer(data[1:25].ljust(24, b"\0"), order + "i4").astype(np.int64)
        n, m, of_nodes, of_cells, _, listed = counts.tolist()
        size = 25 + 16 * m + 4 * listed + 12 * n
        if min(counts) >= 0 and size <= len(data):
            break
    else:
        raise ValueError(f"ends early ({len(data)} bytes)")
    at = 25
    heads = np.frombuffer(data, order + "i4", 4 * m, at).reshape(m, 4).astype(np.int64)
    at += 16 * m
    nodes = np.frombuffer(data, order + "i4", listed, at).astype(np.int64)
    at += 4 * listed
    points = np.frombuffer(data, order + "f4", 3 * n, at).reshape(3, n).T.astype(np.float64)
    at += 12 * n
    parsed = Numbered([np.arange(1, n + 1)], [points])
    kinds = list(SHAPES.values())
    found: dict[str, list[tuple[int, list[int], int]]] = {}
    first = 0
    for i, (_, _, many, number) in enumerate(heads.tolist()):
        expect(0 <= number < len(kinds), f"cell {i + 1}: unknown type {number}")
        kind = kinds[number]
        expect(many == NODES[kind], f"cell {i + 1}: a {kind} with {many} nodes")
        expect(first + many <= listed, "has damaged cells")
        found.setdefault(kind, []).append((i, nodes[first : first + many].tolist(), i))
        first += many
    _add(parsed, found)
    values = []
    for place, width, count in (("point", of_nodes, n), ("cell", of_cells, m)):
        if width == 0:
            continue
        expect(at + 2052 + 4 * width * (count + 4) <= len(data), f"ends early (values on {place}s)")
        labels = data[at : at + 1024].split(b"\0")[0].decode("latin-1").split(".")
        (many,) = np.frombuffer(data, order + "i4", 1, at + 2048).tolist()
        sizes = np.frombuffer(data, order + "i4", width, at + 2052).tolist()[: max(many, 0)]
        expect(sum(sizes) == width and min(sizes) > 0, f"values on {place}s are damaged")
        at += 2052 + 12 * width  # behind stand the least and the greatest value of each
        flat = np.frombuffer(data, order + "f4", width * count, at).reshape(width, count)
        at += 4 * width * (count + 1)
        numbers = np.arange(1, n + 1) if place == "point" else np.arange(m)
        for label, columns in _columns([x.strip() for x in labels], sizes):
            values.append((place, label, numbers, flat.T[:, columns].astype(np.float64)))
    return _tree(parsed, heads[:, 1], values)
