"""The cells of MED files: types, their order of nodes, blocks and Cartesian grids."""

from __future__ import annotations

from typing import Any

import numpy as np

from meshsim.io.raw import NODES, Tree, check_indices, expect

# MED's name: our type, and which of MED's nodes stand at our places (None: the same order).
# Cells of three dimensions are wound the other way round.
CELLS: dict[str, tuple[str, list[int] | None]] = {
    "PO1": ("vertex", None),
    "SE2": ("line", None),
    "SE3": ("line3", None),
    "TR3": ("triangle", None),
    "TR6": ("triangle6", None),
    "TR7": ("triangle7", None),
    "QU4": ("quad", None),
    "QU8": ("quad8", None),
    "QU9": ("quad9", None),
    "POG": ("polygon", None),
    "TE4": ("tetra", [0, 2, 1, 3]),
    "PY5": ("pyramid", [0, 3, 2, 1, 4]),
    "PE6": ("wedge", [0, 2, 1, 3, 5, 4]),
    "HE8": ("hexahedron", [0, 3, 2, 1, 4, 7, 6, 5]),
    "T10": ("tetra10", [0, 2, 1, 3, 6, 5, 4, 7, 9, 8]),
    "P13": ("pyramid13", [0, 3, 2, 1, 4, 8, 7, 6, 5, 9, 12, 11, 10]),
    "P15": ("wedge15", [0, 2, 1, 3, 5, 4, 8, 7, 6, 11, 10, 9, 12, 14, 13]),
    "P18": ("wedge18", [0, 2, 1, 3, 5, 4, 8, 7, 6, 11, 10, 9, 12, 14, 13, 17, 16, 15]),
    "H20": (
        "hexahedron20",
        [0, 3, 2, 1, 4, 7, 6, 5, 11, 10, 9, 8, 15, 14, 13, 12, 16, 19, 18, 17],
    ),
    "H27": (
        "hexahedron27",
        [
            *(0, 3, 2, 1, 4, 7, 6, 5, 11, 10, 9, 8, 15, 14, 13, 12, 16, 19, 18, 17),
            *(21, 23, 24, 22, 20, 25, 26),
        ],
    ),
    "POE": ("polyhedron", None),
}


def count_of(group: Any, name: str) -> int:
    """How many cells a type has: the announced number, or what the lists say."""
    node = group["NOD"]
    if name in ("POG", "POE"):
        index = group["IFN" if name == "POE" else "INN"]
        return max(len(index) - 1, 0)
    k = NODES[CELLS[name][0]]
    expect(len(node) % k == 0, f"{name}: {len(node)} nodes in cells of {k}")
    return len(node) // k


def sizes_of(mesh: Any) -> tuple[int, dict[str, int]]:
    """Points, and cells of each type in the order of our rows."""
    nodes, cells = mesh.get("NOE", {}), mesh.get("MAI", {})
    axes = [nodes[f"IN{i}"] for i in (1, 2, 3) if f"IN{i}" in nodes]
    if axes:
        kind = ("SE2", "QU4", "HE8")[len(axes) - 1]
        lengths = [len(axis) for axis in axes]
        return int(np.prod(lengths)), {kind: int(np.prod([n - 1 for n in lengths]))}
    found = {
        key: count_of(cells[key], key) for key in CELLS if key in cells and "NOD" in cells[key]
    }
    points = 0
    if "COO" in nodes:
        told = nodes["COO"].attrs.get("NBR")
        listed = [len(nodes[key]) for key in ("FAM", "NUM") if key in nodes]
        points = int(told) if told is not None else (listed or [0])[0]
        dim = mesh.attrs.get("ESP", mesh.attrs.get("DIM"))
        points = points or (len(nodes["COO"]) // int(dim) if dim else 0)
    return points, {key: n for key, n in found.items() if n}


def grid(nodes: Any) -> Tree:
    """A Cartesian grid: points, x fastest, and its lines, quads or hexahedra."""
    axes = [np.asarray(nodes[f"IN{i}"][()], np.float64) for i in (1, 2, 3) if f"IN{i}" in nodes]
    total = int(np.prod([len(axis) for axis in axes]))
    places = np.meshgrid(*axes, indexing="ij")
    points = np.stack([x.reshape(-1, order="F") for x in places], 1)
    index = np.arange(total).reshape([len(axis) for axis in axes], order="F")
    low, high = slice(None, -1), slice(1, None)
    ring = ((low, low), (high, low), (high, high), (low, high))
    corners: tuple[tuple[slice, ...], ...] = ring
    if len(axes) == 1:
        corners = ((low,), (high,))
        points = np.pad(points, ((0, 0), (0, 1)))
    elif len(axes) == 3:
        corners = tuple((*c, k) for k in (low, high) for c in ring)
    table = np.stack([index[c].reshape(-1, order="F") for c in corners], 1)
    kind = ("line", "quad", "hexahedron")[len(axes) - 1]
    return {"points": points, "blocks": [{"type": kind, "nodes": table}]}


def block_of(group: Any, key: str, n: int, n_points: int) -> Tree:
    """The n cells of a type."""
    kind, order = CELLS[key]
    flat = np.asarray(group["NOD"][()], np.int64).reshape(-1) - 1  # counted from one
    if key in ("POG", "POE"):
        offsets = np.asarray(group["INN"][()], np.int64) - 1
        rising = len(offsets) and offsets[0] == 0 and (np.diff(offsets) >= 0).all()
        expect(rising and offsets[-1] == len(flat), f"{key}/INN is damaged")
        if key == "POG":
            return {"type": kind, "nodes": flat, "offsets": offsets}
        of = np.asarray(group["IFN"][()], np.int64) - 1
        rising = len(of) and of[0] == 0 and (np.diff(of) >= 0).all()
        expect(rising and of[-1] == len(offsets) - 1, f"{key}/IFN is damaged")
        return {"type": kind, "nodes": flat, "offsets": of, "face_offsets": offsets}
    check_indices(flat, n_points, f"MAI/{key}")
    nodes = flat.reshape(-1, n).T
    return {"type": kind, "nodes": nodes if order is None else nodes[:, order]}


def text(value: Any) -> str:
    """Letters up to the first zero; behind it may stand anything."""
    raw = value.encode("latin-1", "replace") if isinstance(value, str) else bytes(value)
    return raw.split(b"\0")[0].decode("utf-8", "replace").strip()
