"""Surfaces: stl, obj, off, ply."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from typing import BinaryIO

import numpy as np

from meshsim.check import InputError
from meshsim.io.plain import flat_rows
from meshsim.io.raw import Tree
from meshsim.io.raw.surfaces import STL_FACET
from meshsim.io.to_vtk import in_file_order

PLY = {"i1": "char", "u1": "uchar", "i2": "short", "u2": "ushort", "i4": "int", "u4": "uint",
       "f4": "float", "f8": "double"}  # fmt: skip


def triangles(plain: Tree) -> tuple[np.ndarray, int]:
    """(n, 3) the cells of a surface as triangles, and how many cells had to be split."""
    _, offsets, nodes = in_file_order(plain["blocks"])
    sizes = np.diff(offsets)
    fans = np.repeat(np.arange(len(sizes)), sizes - 2)
    place = np.arange(len(fans)) - np.repeat(np.cumsum(sizes - 2) - (sizes - 2), sizes - 2)
    first = offsets[fans]
    corners = np.stack([nodes[first], nodes[first + place + 1], nodes[first + place + 2]], 1)
    return corners, int((sizes > 3).sum())


def stl(plain: Tree, file: BinaryIO) -> None:
    """Write binary STL: single precision."""
    corners = plain["points"][triangles(plain)[0]].astype(np.float64)  # (n, 3, 3)
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    length = np.linalg.norm(normal, axis=1, keepdims=True)
    facets = np.zeros(len(corners), STL_FACET)
    facets["normal"] = normal / np.where(length > 0, length, 1.0)
    facets["corners"] = corners
    file.write(b"binary stl by meshsim".ljust(80) + len(facets).to_bytes(4, "little"))
    file.write(facets.tobytes())


def _number(x: float) -> str:
    return repr(float(x))


def _places(points: np.ndarray) -> list[str]:
    # the shortest words that read back to the same numbers, whatever the precision
    words = points.astype(str) if points.dtype == np.float32 else None
    rows = points.tolist() if words is None else words.tolist()
    return [" ".join(map(str if words is not None else _number, row)) for row in rows]


def _rings(plain: Tree, first: int) -> list[str]:
    _, offsets, nodes = in_file_order(plain["blocks"])
    words = (nodes + first).astype(str).tolist()
    ends = offsets.tolist()
    return [" ".join(words[a:b]) for a, b in pairwise(ends)]


def obj(plain: Tree, file: BinaryIO) -> None:
    """Write Wavefront OBJ; regions as groups."""
    lines = ["# meshsim", *(f"v {place}" for place in _places(plain["points"]))]
    rings = _rings(plain, 1)
    letter = "l" if plain["blocks"][0]["type"] == "line" else "f"
    group = np.zeros(len(rings), np.int64)
    names = [""]
    for name, found in plain["groups"].items():
        group[found["cells"]] = len(names)
        names.append(" ".join(name.split()))
    last = 0
    for ring, now in zip(rings, group.tolist(), strict=True):
        if now != last:
            lines.append(f"g {names[now]}".rstrip())
            last = now
        lines.append(f"{letter} {ring}")
    file.write(("\n".join(lines) + "\n").encode("utf-8"))


def off(plain: Tree, file: BinaryIO) -> None:
    """Write the Object File Format."""
    rings = _rings(plain, 0)
    lines = ["OFF", f"{len(plain['points'])} {len(rings)} 0", *_places(plain["points"])]
    lines += [f"{ring.count(' ') + 1} {ring}" for ring in rings]
    file.write(("\n".join(lines) + "\n").encode("utf-8"))


def columns(plain: Tree, place: str) -> tuple[dict[str, np.ndarray], dict[str, Tree]]:
    """Fields as columns of one number each, and what is needed to put them together again."""
    fields: dict[str, np.ndarray] = plain[f"{place}_fields"]
    out: dict[str, np.ndarray] = {}
    about: dict[str, Tree] = {}
    for name, values in fields.items():
        key = re.sub(r"[^0-9A-Za-z_]", "_", name) or "field"
        while key in about or key in out or f"{key}_0" in out:
            key += "_"
        rows = flat_rows(values)
        entry: Tree = {}
        if key != name:
            entry["name"] = name
        if rows.dtype.str[1:] not in PLY:
            entry["dtype"] = values.dtype.name
            rows = rows.astype(_fitting(name, rows))
        elif rows.dtype != values.dtype:
            entry["dtype"] = values.dtype.name
        if f"{place}:{name}" in plain["dtypes"]:
            entry["dtype"] = plain["dtypes"][f"{place}:{name}"]
        if values.ndim != 1:
            entry["shape"] = list(values.shape[1:])
        if rows.ndim == 1:
            out[key] = rows
        else:
            out |= {f"{key}_{i}": rows[:, i] for i in range(rows.shape[1])}
        if entry:
            about[key] = entry
    return out, about


def _fitting(name: str, values: np.ndarray) -> str:
    """PLY has no 64-bit integers: those that fit in 32 bits go there."""
    if values.size and (values.min() < -(2**31) or values.max() >= 2**31):
        raise InputError(f"field {name!r} has integers beyond 32 bits, which .ply cannot hold")
    return "i4"


def ply(plain: Tree, file: BinaryIO) -> None:
    """Write binary PLY with fields of points and faces as properties."""
    points, (_, offsets, nodes) = plain["points"], in_file_order(plain["blocks"])
    vertex, about_points = columns(plain, "point")
    face, about_cells = columns(plain, "cell")
    # x, y, z are taken: a field of such a name must give way
    for taken in ("x", "y", "z"):
        if taken in vertex:
            vertex[f"{taken}_field"] = vertex.pop(taken)
            about_points[f"{taken}_field"] = {**about_points.pop(taken, {}), "name": taken}
    if "vertex_indices" in face or "vertex_index" in face:
        raise InputError("a cell field named vertex_indices cannot be written to .ply")
    head = ["ply", "format binary_little_endian 1.0"]
    text = json.dumps({"point": about_points, "cell": about_cells})
    head.append(f"comment meshsim {text}")
    head.append(f"element vertex {len(points)}")
    kind = PLY[points.dtype.str[1:]]
    head += [f"property {kind} {axis}" for axis in "xyz"]
    head += [f"property {PLY[v.dtype.str[1:]]} {name}" for name, v in vertex.items()]
    sizes = np.diff(offsets)
    # one byte for the number of corners is what most programs expect
    count = "u1" if sizes.max(initial=0) < 256 else "i4"
    head += [f"element face {len(sizes)}", f"property list {PLY[count]} int vertex_indices"]
    head += [f"property {PLY[v.dtype.str[1:]]} {name}" for name, v in face.items()]
    file.write(("\n".join([*head, "end_header"]) + "\n").encode("utf-8"))
    axes = {axis: points[:, i] for i, axis in enumerate("xyz")}
    file.write(_table({**axes, **vertex}, len(points)).tobytes())
    beside = _table(face, len(sizes))
    for size in np.unique(sizes).tolist() if (sizes == sizes[0]).all() else []:
        row = np.dtype([("n", f"<{count}"), ("nodes", "<i4", (size,)), ("rest", beside.dtype)])
        table = np.zeros(len(sizes), row)
        table["n"], table["nodes"] = size, nodes.reshape(-1, size)
        table["rest"] = beside
        file.write(table.tobytes())
        return
    small = nodes.astype("<i4")
    for i, (a, b) in enumerate(zip(offsets.tolist(), offsets[1:].tolist(), strict=False)):
        n = (b - a).to_bytes(int(count[1]), "little")
        file.write(n + small[a:b].tobytes() + beside[i].tobytes())


def _table(fields: dict[str, np.ndarray], n: int) -> np.ndarray:
    row = [(f"c{i}", values.dtype.newbyteorder("<")) for i, values in enumerate(fields.values())]
    table = np.zeros(n, np.dtype(row))
    for i, values in enumerate(fields.values()):
        table[f"c{i}"] = values
    return table
