"""Fluent meshes: .msh and .cas (ASCII or binary sections), and the HDF5 kin .msh.h5, .cas.h5.

A mesh is its faces, each between two cells or on the boundary, in zones with names: read as such,
so that zones of faces are boundaries and zones of cells regions. (VTK's readers give every zone
of faces as a copy of the cells beside it, and turn hexahedra inside out.)
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from meshsim.io.raw import Tree, by_size, content, expect, gather, ragged
from meshsim.io.raw.foam_cells import cells

SECTION = re.compile(rb"\(\s*(\d+)\s*")
INTERIOR = 2
KINDS = {3: "wall", 4: "pressure-inlet", 5: "pressure-outlet", 7: "symmetry", 8: "periodic-shadow",
         9: "pressure-far-field", 10: "velocity-inlet", 12: "periodic", 14: "fan",
         20: "mass-flow-inlet", 24: "interface", 36: "outflow", 37: "axis"}  # fmt: skip


def read(path: str, options: Tree) -> Tree:
    """A Fluent mesh as a tree."""
    data = content(path)
    found = _hdf(path) if data.startswith(b"\x89HDF") else _sections(data)
    return _tree(*found)


def _tree(dim: int, points: np.ndarray, zones: list[Tree], faces: list[Tree]) -> Tree:
    """Cells between faces.

    Arguments:
        zones: of cells, {"name", "first", "last"}, counted from 0.
        faces: zones {"name", "kind", "sizes", "nodes", "sides" (n, 2): cells from 0, −1 outside}.
    """
    expect(len(points), "holds no nodes")
    expect(faces, "holds no faces")
    sizes = np.concatenate([zone["sizes"] for zone in faces])
    nodes = np.concatenate([zone["nodes"] for zone in faces])
    sides = np.concatenate([zone["sides"] for zone in faces])
    n_cells = max((zone["last"] + 1 for zone in zones), default=int(sides.max()) + 1)
    expect(dim == 2 or sizes.min() >= 3, "a face with fewer than 3 nodes")
    expect(dim == 3 or (sizes == 2).all(), "a face of a plane mesh without 2 nodes")
    bad = (nodes < 0) | (nodes >= len(points))
    expect(not bad.any(), f"a face names a node outside 1..{len(points)}")
    expect(all(zone["first"] >= 0 for zone in zones), "a zone of cells that begins below 1")
    expect(n_cells <= sides.size, f"{n_cells} cells are more than {len(sides)} faces can have")
    expect(sides.max() < n_cells, f"a face names a cell outside 1..{n_cells}")
    expect((sides >= 0).any(1).all(), "a face without a cell")
    swapped = sides[:, 0] < 0
    owner = np.where(swapped, sides[:, 1], sides[:, 0])
    inside = np.asarray((sides >= 0).all(1))
    if dim == 2:
        blocks = _rings(nodes.reshape(-1, 2), owner, sides[:, 1], inside, n_cells)
    else:
        turned = swapped != _inwards(points, nodes, sizes, owner, swapped)
        flat = _reversed(nodes, ragged(sizes), turned)
        order = np.concatenate([np.flatnonzero(inside), np.flatnonzero(~inside)])
        flat = gather(flat, ragged(sizes), order)
        blocks = cells(
            flat, ragged(sizes[order]), owner[order], sides[inside, 1], n_cells
        )  # fmt: skip
    expect(blocks, "holds no cells")
    boundaries: Tree = {}
    for zone in faces:
        if (zone["sides"] >= 0).all() and zone["kind"] in ("", "interior"):
            continue
        old = boundaries.get(zone["name"], {"sizes": sizes[:0], "nodes": nodes[:0]})
        boundaries[zone["name"]] = {
            "sizes": np.concatenate([old["sizes"], zone["sizes"]]),
            "nodes": np.concatenate([old["nodes"], zone["nodes"]]),
            "kind": zone["kind"],
        }
    groups: Tree = {}
    for zone in zones:
        rows = np.arange(zone["first"], zone["last"] + 1)
        old = groups.get(zone["name"], {"cells": rows[:0]})["cells"]
        groups[zone["name"]] = {"cells": np.concatenate([old, rows])}
    return {"points": points, "blocks": blocks, "groups": groups, "boundaries": boundaries}


def _inwards(
    points: np.ndarray, nodes: np.ndarray, sizes: np.ndarray, owner: np.ndarray, swapped: np.ndarray
) -> bool:
    """True if normals, by the right hand, point into the first cells of faces: most of them do.

    Writers are not of one mind about it, so the points decide.
    """
    of = ragged(sizes)
    centre = np.add.reduceat(points[nodes], of[:-1]) / sizes[:, None]
    count = np.bincount(owner)
    inner = np.stack([np.bincount(owner, centre[:, d]) for d in range(3)], 1)
    out = centre - (inner / np.maximum(count, 1)[:, None])[owner]
    a, b, c = (points[nodes[of[:-1] + k]] for k in range(3))
    along = (np.cross(b - a, c - a) * out).sum(1)
    return bool(np.sign(np.where(swapped, -along, along)).sum() < 0)


def _reversed(nodes: np.ndarray, offsets: np.ndarray, turned: np.ndarray) -> np.ndarray:
    """Corners of the faces, some the other way round."""
    sizes = np.diff(offsets)
    place = np.arange(len(nodes)) - np.repeat(offsets[:-1], sizes)
    back = np.repeat(sizes, sizes) - 1 - place
    turn = np.repeat(turned, sizes)
    return nodes[np.repeat(offsets[:-1], sizes) + np.where(turn, back, place)]


def _rings(
    edges: np.ndarray, owner: np.ndarray, other: np.ndarray, inside: np.ndarray, n: int
) -> list[Tree]:
    """Polygons from the edges around them; of all cells with as many edges at once."""
    cell = np.concatenate([owner, other[inside]])
    every = np.concatenate([edges, edges[inside]])
    order = np.argsort(cell, kind="stable")
    counts = np.bincount(cell, minlength=n)
    of = ragged(counts)
    loops = np.empty(len(every), np.int64)

    def closed(good: np.ndarray, cells: np.ndarray) -> None:
        bad = cells[~good]
        expect(not len(bad), f"cell {bad.min(initial=n) + 1} is not closed by its faces")

    closed(counts > 2, np.arange(n))
    for k in np.unique(counts):
        cells = np.flatnonzero(counts == k)
        here, places = np.arange(len(cells)), of[cells][:, None] + np.arange(k)
        around = every[order[places]]  # (cells, k, 2)
        ring = np.empty((len(cells), k + 1), np.int64)
        ring[:, :2] = around[:, -1]
        free = np.ones((len(cells), k), bool)
        free[:, -1] = False
        for step in range(2, k + 1):
            fits = free & (around == ring[:, step - 1, None, None]).any(2)
            best = fits.argmax(1)
            closed(fits[here, best], cells)
            free[here, best] = False
            ring[:, step] = around[here, best].sum(1) - ring[:, step - 1]
        closed(ring[:, 0] == ring[:, -1], cells)
        loops[places] = ring[:, :-1]
    return by_size(loops, of, {3: "triangle", 4: "quad"})


def _sections(data: bytes) -> tuple[int, np.ndarray, list[Tree], list[Tree]]:
    """What the sections of an ASCII or binary file hold."""
    at, dim = 0, 3
    chunks: list[tuple[int, np.ndarray]] = []
    zones: list[Tree] = []
    faces: list[Tree] = []
    names: dict[int, tuple[str, str]] = {}
    total = 0
    while (start := data.find(b"(", at)) >= 0:
        found = SECTION.match(data, start)
        if found is None:
            at = start + 1
            continue
        index = int(found[1])
        binary, base = index >= 2000, index - (index // 1000) * 1000
        if base in (10, 12, 13):
            head, begin = _header(data, found.end())
            body: bytes | None = None
            if begin is not None:
                body, at = _body(data, begin, index)
            else:
                at = _closed(data, start)
            zone, first, last = head[0], head[1], head[2]
            if base == 10 and zone == 0:
                total = last
            elif base == 10:
                expect(first >= 1 and last >= first, "a zone of nodes of negative size")
                width = head[4] if len(head) > 4 and head[4] in (2, 3) else dim
                table = _points(body, binary, index, last - first + 1, width)
                chunks.append((first - 1, table))
            elif base == 12 and zone and last >= first:
                zones.append({"id": zone, "first": first - 1, "last": last - 1})
            elif base == 13 and zone:
                faces.append(_faces(body, binary, head))
            continue
        at = _closed(data, start)
        text = data[start:at]
        if index == 2 and (number := re.match(rb"\(\s*2\s+(\d)", text)):
            dim = int(number[1])
        elif index in (39, 45):
            words = re.match(rb"\(\s*\d+\s*\(\s*(\d+)\s+([^\s()]+)\s+([^()]+?)\s*\)", text)
            words = words or re.match(rb"\(\s*\d+\s*\(\s*(\d+)\s+(\S+)\s+(\S+)", text)
            if words:
                label = words[3].decode("utf-8", "replace").strip().rsplit(None, 1)
                name = label[0] if len(label) > 1 and label[1].isdigit() else " ".join(label)
                names[int(words[1])] = (name, words[2].decode("utf-8", "replace"))
    have = sum(len(table) for _, table in chunks)
    expect(chunks, "holds no nodes")
    expect(not total or have == total, f"ends early (expected {total} nodes, got {have})")
    points = np.concatenate([table for _, table in sorted(chunks, key=lambda c: c[0])])
    every: list[Tree] = [*zones, *faces]
    for about in every:
        known = names.get(int(about["id"]))
        about["name"] = known[0] if known else f"zone {about['id']}"
        about["kind"] = known[1] if known else KINDS.get(about.get("bc", 0), "")
    return dim, points, zones, faces


def _header(data: bytes, at: int) -> tuple[list[int], int | None]:
    """The hexadecimal numbers of "(…)" and where the body begins, if there is one."""
    open_, close = data.find(b"(", at), data.find(b")", at)
    expect(at <= open_ < close, "ends early (in the header of a section)")
    head = [int(word, 16) for word in data[open_ + 1 : close].split()]
    expect(len(head) >= 3, "a section with a short header")
    rest = re.compile(rb"\s*\(").match(data, close + 1)
    return head, rest.end() if rest else None


def _body(data: bytes, at: int, index: int) -> tuple[bytes, int]:
    """The bytes of a body, and where the next section may begin."""
    if index >= 2000:
        mark = b"End of Binary Section"
        end = data.find(mark, at)
        expect(end >= 0, "ends early (a binary section without its end)")
        return data[at:end], end + len(mark)
    end = data.find(b")", at)
    expect(end >= 0, "ends early (a section without its end)")
    return data[at:end], end + 1


def _closed(data: bytes, start: int) -> int:
    """Behind the parenthesis that closes the one at `start`; text in quotes does not count."""
    depth, at, quoted = 0, start, False
    for mark in re.compile(rb'[()"]').finditer(data, start):
        at = mark.end()
        if mark[0] == b'"':
            quoted = not quoted
        elif not quoted:
            depth += 1 if mark[0] == b"(" else -1
            if depth == 0:
                return at
    raise ValueError("ends early (a section without its end)")


def _points(body: Any, binary: bool, index: int, n: int, width: int) -> np.ndarray:
    expect(body is not None, "a zone of nodes without coordinates")
    if binary:
        dtype = np.dtype("<f8") if index >= 3000 else np.dtype("<f4")
        expect(len(body) >= n * width * dtype.itemsize, f"ends early (expected {n} nodes)")
        return np.frombuffer(body, dtype, n * width).reshape(n, width).astype(np.float64)
    words = body.split()
    expect(len(words) == n * width, f"{len(words)} coordinates (expected {n * width})")
    return np.array(words).astype(np.float64).reshape(n, width)


def _faces(body: Any, binary: bool, head: list[int]) -> Tree:
    """A zone of faces; sizes stand before each face where they differ (type 0 or 5)."""
    zone, first, last, kind = head[0], head[1], head[2], head[3] if len(head) > 3 else 0
    size, n = head[4] if len(head) > 4 else 0, last - first + 1
    expect(body is not None and n >= 1, f"zone {zone} has no faces")
    if binary:
        flat = np.frombuffer(body, "<i4", len(body) // 4).astype(np.int64)
    else:
        flat = np.array([int(word, 16) for word in body.split()], np.int64)
    if size in (2, 3, 4):
        expect(len(flat) >= n * (size + 2), f"zone {zone} ends early (expected {n} faces)")
        table = flat[: n * (size + 2)].reshape(n, size + 2)
        sizes, nodes, sides = np.full(n, size), table[:, :size].reshape(-1), table[:, size:]
    else:
        starts = np.zeros(n, np.int64)
        at = 0
        for i in range(n):
            expect(at < len(flat) and flat[at] >= 2, f"zone {zone} ends early (expected {n} faces)")
            starts[i] = at
            at += int(flat[at]) + 3
        expect(at <= len(flat), f"zone {zone} ends early (expected {n} faces)")
        sizes = flat[starts]
        nodes = flat[np.repeat(starts + 1 - ragged(sizes)[:-1], sizes) + np.arange(sizes.sum())]
        sides = np.stack([flat[starts + sizes + 1], flat[starts + sizes + 2]], 1)
    return {"id": zone, "bc": kind, "sizes": sizes, "nodes": nodes - 1, "sides": sides - 1}


def _hdf(path: str) -> tuple[int, np.ndarray, list[Tree], list[Tree]]:
    """Ansys's common fluids format: the same zones in HDF5."""
    import h5py

    with h5py.File(path, "r") as file:
        expect("meshes/1" in file, "is HDF5 without a Fluent mesh (no meshes/1)")
        mesh = file["meshes/1"]
        dim = int(np.ravel(mesh.attrs["dimension"])[0]) if "dimension" in mesh.attrs else 3
        coords = [mesh["nodes/coords"][key][()] for key in sorted(mesh["nodes/coords"], key=int)]
        points = np.concatenate(coords).astype(np.float64)
        zones = _topology(mesh["cells/zoneTopology"])
        about = _topology(mesh["faces/zoneTopology"])
        group = mesh["faces/nodes"]
        sizes = np.concatenate([group[k]["nnodes"][()] for k in sorted(group, key=int)])
        nodes = np.concatenate([group[k]["nodes"][()] for k in sorted(group, key=int)])
        n = len(sizes)
        first, second = (_column(mesh["faces"], key, n) for key in ("c0", "c1"))
        of = ragged(sizes)
        expect(of[-1] == len(nodes), "its faces have not as many nodes as they announce")
        faces = []
        for zone in about:
            a, b = zone["first"], zone["last"] + 1
            expect(0 <= a < b <= n, f"zone {zone['name']!r} lies outside the {n} faces")
            sides = np.stack([first[a:b], second[a:b]], 1)
            faces.append(zone | {
                "kind": KINDS.get(zone["bc"], ""),
                "sizes": sizes[a:b].astype(np.int64),
                "nodes": nodes[of[a] : of[b]].astype(np.int64) - 1,
                "sides": sides.astype(np.int64) - 1,
            })  # fmt: skip
    return dim, points, zones, faces


def _column(group: Any, key: str, n: int) -> np.ndarray:
    """The cells on one side of all faces; where the last ones are missing there are none."""
    found = group[key]
    parts = [found[k][()] for k in sorted(found, key=int)]
    out = np.zeros(n, np.int64)
    values = np.concatenate(parts) if parts else out[:0]
    expect(len(values) <= n, f"{key} has more rows than there are faces")
    out[: len(values)] = values
    return out


def _topology(group: Any) -> list[Tree]:
    ids, low, high = (np.ravel(group[key][()]) for key in ("id", "minId", "maxId"))
    kinds = np.ravel(group["zoneType"][()]) if "zoneType" in group else np.zeros(len(ids))
    raw = np.ravel(group["name"][()])[0] if "name" in group else b""
    names = (raw.decode("utf-8", "replace") if isinstance(raw, bytes) else str(raw)).split(";")
    return [
        {"name": names[i] if i < len(names) and names[i] else f"zone {int(ids[i])}",
         "first": int(low[i]) - 1, "last": int(high[i]) - 1, "bc": int(kinds[i])}
        for i in range(len(ids))
    ]  # fmt: skip
