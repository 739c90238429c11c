"""Trees of plain arrays made into meshes; every index is checked, whoever read the file."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from meshsim.check import InputError
from meshsim.geometry.cells import TYPES, Cells
from meshsim.io import extras
from meshsim.io.planar import flat, other_plane, plane
from meshsim.io.raw import Tree, gather, ragged
from meshsim.mesh import Boundary, Mesh, as_tensor

DTYPES = {name: getattr(torch, name) for name in ("bool", "float16", "bfloat16", "uint8", "int8",
                                                  "int16", "int32", "int64", "float32",
                                                  "float64")}  # fmt: skip


class Form:
    """How the fields of a file become the fields of its mesh: shapes, dtypes, components.

    Arguments:
        about: what `extras.unpack` gave, or {}.
        planar: the mesh lost its third coordinate.
        exact: fields have their own shape already.
    """

    def __init__(self, about: Tree, planar: bool, exact: bool = False):
        self.exact = exact
        self.shapes, self.dtypes = about.get("shapes", {}), about.get("dtypes", {})
        self.planar = planar
        self.flattened: set[str] = set()

    def __call__(self, key: str, values: np.ndarray, rows: int | None = None) -> Any:
        """A field by its key "point:NAME", "cell:NAME", "global:NAME" or "boundary:NAME:FIELD"."""
        shape = self.shapes.get(key)
        values = np.asarray(values)
        if shape is not None and rows is not None:
            shape = [rows, *shape[1:]]
        if shape is not None and values.size == math.prod(shape):
            values = values.reshape(shape)
        elif shape is None and not self.exact and not key.startswith("global:"):
            if values.ndim == 2 and values.shape[1] == 1:
                values = values[:, 0]
            if self.planar and flat(values):
                values = np.ascontiguousarray(values[:, :2])
                self.flattened.add(key.rsplit(":", 1)[1] if key[0] == "b" else key.split(":", 1)[1])
        return self.cast(key, values)

    def cast(self, key: str, values: np.ndarray) -> Any:
        """The values in the dtype that they had before they were stored."""
        dtype = DTYPES.get(self.dtypes.get(key, ""))
        return as_tensor(values) if dtype is None else as_tensor(values, dtype)


class Built:
    """A mesh, and what is needed to give later frames of its file the same form.

    Arguments:
        tree: from a raw reader.
        surface: of a format of surfaces, which are never planar.
        planar: drop the third coordinate of planar meshes.

    Raises:
        InputError: what the tree holds is no mesh; the message does not name the file.
    """

    def __init__(self, tree: Tree, surface: bool, planar: bool):
        points = _points(tree)
        blocks = [_checked(block, len(points)) for block in _rows(tree["blocks"])]
        if not blocks:
            raise InputError(f"holds no cells ({len(points)} points)")
        self.n_rows = 1 + max(int(block["rows"].max()) for block in blocks)
        self.top = max(TYPES[block["type"]][0] for block in blocks)
        top = _joined([block for block in blocks if TYPES[block["type"]][0] == self.top])
        in_order = np.sort(np.concatenate([block["rows"] for block in top]))
        ranked = [{**b, "rows": np.searchsorted(in_order, b["rows"])} for b in top]
        about, stale = extras.unpack(tree.get("extras", {}), len(points), ranked)
        if about:
            # a mesh of ours: the blocks stand in the order in which it had them
            first = {name: i for i, name in enumerate(about["types"])}
            top.sort(key=lambda block: first.get(block["type"], len(first)))
        self.rows = np.concatenate([block["rows"] for block in top])  # (C,) places in the file
        order = np.searchsorted(in_order, self.rows)
        notes = [*tree.get("notes", []), *([stale] if stale else [])]
        exact = bool(tree.get("exact"))
        flatten = planar and not (surface or exact) and self.top <= 2
        flatten = flatten and about.get("dim", 2) == 2
        z = plane(points) if flatten and points.shape[1] == 3 else None
        if flatten and z is None:
            notes += filter(None, [other_plane(points)])
        known = about or {"dtypes": tree.get("dtypes", {})}
        self.form = Form(known, z is not None, exact)
        self.ours = bool(about)
        self.dim = points.shape[1] if z is None else 2
        given = about.get("order", tree.get("file_order"))
        if given is None and (order != np.arange(len(order))).any():
            given = order
        if given is not None and not np.array_equal(np.sort(given), np.arange(len(order))):
            raise InputError("`file_order` does not name each cell once")
        mesh = Mesh(
            points[:, : self.dim],
            [_cells(block) for block in top],
            {k: self.form(f"point:{k}", v) for k, v in tree.get("point_fields", {}).items()},
            self._cell_fields(tree, in_order, notes),
            global_fields={
                k: self.form(f"global:{k}", v) for k, v in tree.get("global_fields", {}).items()
            },
            file_order=None if given is None else as_tensor(given, torch.int64),
            z=about.get("z", tree.get("z")) if z is None else about.get("z", z),
        )
        place = np.full(self.n_rows, -1, np.int64)
        place[self.rows] = np.arange(len(self.rows))
        lower = [b for b in blocks if TYPES[b["type"]][0] == self.top - 1]
        rest = sum(len(b["rows"]) for b in blocks if TYPES[b["type"]][0] < self.top - 1)
        if rest:
            notes.append(f"{rest} cells of dimension below {self.top - 1} were left out")
        regions, named = _split_groups(tree.get("groups", {}), place, lower)
        for name, group in about.get("groups", {}).items():
            regions[name] = place[in_order[_inside(group["cells"], len(in_order), name)]]
        mesh = mesh.replace(regions=regions, notes=tuple(dict.fromkeys(notes)))
        mesh = self._boundaries(mesh, lower, named, tree, about)
        flattened = about.get("flattened", [*self.form.flattened, *tree.get("flattened", [])])
        self.mesh = mesh.replace(flattened=frozenset(flattened))

    def _cell_fields(self, tree: Tree, in_order: np.ndarray, notes: list[str]) -> dict[str, Any]:
        out = {}
        for name, values in tree.get("cell_fields", {}).items():
            if len(values) != self.n_rows:
                raise InputError(
                    f"cell field {name!r} has {len(values)} rows (expected {self.n_rows})"
                )
            known = tree.get("covered", {}).get(name)
            have = np.ones(1, bool) if known is None else np.isin(in_order, known)
            if have.any():
                out[name] = self.form(f"cell:{name}", values[self.rows])
                if not have.all():
                    notes.append(f"cell field {name!r} has no value in {int((~have).sum())} cells")
        return out

    def _boundaries(
        self, mesh: Mesh, lower: list[Tree], named: dict[str, Tree], tree: Tree, about: Tree
    ) -> Mesh:
        parts: dict[str, list[Cells]] = {}
        fields: dict[str, dict[str, Any]] = {}
        kinds: dict[str, str] = {}
        rows, sizes, nodes = _faces(lower)
        of = ragged(sizes)
        covered = tree.get("covered", {})
        for name, group in named.items():
            cells = group["cells"]
            at = np.asarray(np.searchsorted(rows, cells))
            parts[name] = [_face_cells(self.top, sizes[at], gather(nodes, of, at))]
            kinds[name] = group.get("kind", "")
            fields[name] = {
                key: self.form(f"boundary:{name}:{key}", values[cells])
                for key, values in tree.get("cell_fields", {}).items()
                if key not in covered or np.isin(cells, covered[key]).all()
            }
        ours = about.get("boundaries", {})
        for name, found in {**tree.get("boundaries", {}), **ours}.items():
            if "points" in found:
                continue
            _inside(found["nodes"], mesh.n_points, f"{name} (boundary)", "points")
            whole = [] if name in ours else parts.get(name, [])
            parts[name] = [*whole, _face_cells(self.top, found["sizes"], found["nodes"])]
            kinds[name] = found.get("kind", "")
            form = self.form.cast if name in ours else self.form
            fields[name] = {
                key: form(f"boundary:{name}:{key}", values)
                for key, values in found.get("fields", {}).items()
                if not whole
            }
        for name, some in fields.items():
            n = sum(map(len, parts[name]))
            for key, values in some.items():
                if len(values) != n:
                    raise InputError(
                        f"boundary {name!r}: field {key!r} has {len(values)} rows (expected {n})"
                    )
        if parts:
            mesh = mesh.with_boundary_cells(parts, fields, kinds)
        for name, found in tree.get("boundaries", {}).items():
            if "points" in found:
                mesh = _from_points(mesh, name, found)
        return mesh


def _inside(index: np.ndarray, n: int, name: str, of: str = "cells") -> np.ndarray:
    index = np.asarray(index, np.int64)
    if index.size and (index.min() < 0 or index.max() >= n):
        wrong = int(index[(index < 0) | (index >= n)].flat[0])
        raise InputError(f"{name!r}: index {wrong} is outside 0..{n - 1} ({n} {of})")
    return index


def _points(tree: Tree) -> np.ndarray:
    points = np.asarray(tree["points"])
    if points.ndim != 2 or points.shape[1] not in (2, 3) or points.dtype.kind not in "fiu":
        raise InputError(f"points of shape {points.shape} (expected (N, 2) or (N, 3))")
    if not len(points):
        raise InputError("holds no points")
    points = points if points.dtype.kind == "f" else points.astype(np.float64)
    bad = ~np.isfinite(points).all(1)
    if bad.any():
        raise InputError(
            f"{int(bad.sum())} points have coordinates that are not finite, first point"
            f" {int(np.argmax(bad))}"
        )
    return points


def _rows(blocks: list[Tree]) -> list[Tree]:
    out, at = [], 0
    for block in blocks:
        n = len(block["offsets"]) - 1 if "offsets" in block else len(block["nodes"])
        rows = np.asarray(block.get("rows", np.arange(at, at + n)))
        if n:
            out.append({**block, "rows": rows})
            at = max(at, int(rows.max()) + 1)
    return out


def _checked(block: Tree, n_points: int) -> Tree:
    """A block of cells whose indices lie inside the points; else an error that names one."""
    kind, nodes = block["type"], np.asarray(block["nodes"])
    if nodes.size and (nodes.min() < 0 or nodes.max() >= n_points):
        wrong = (nodes < 0) | (nodes >= n_points)
        row = int(np.argwhere(wrong)[0][0])
        raise InputError(
            f"`cells[{kind}]`: index {int(nodes[wrong].flat[0])} at row {row} is outside"
            f" 0..{n_points - 1} ({n_points} points)"
        )
    return block


def _joined(blocks: list[Tree]) -> list[Tree]:
    """One block a type, in the order in which the types first appear."""
    blocks = sorted(blocks, key=lambda block: int(block["rows"][0]))
    out = []
    for kind in dict.fromkeys(block["type"] for block in blocks):
        same = [block for block in blocks if block["type"] == kind]
        if len(same) == 1:
            out.append(same[0])
            continue
        joined: Tree = {"type": kind}
        for key in ("nodes", "rows"):
            joined[key] = np.concatenate([block[key] for block in same])
        for key in ("offsets", "face_offsets"):
            if key in same[0]:
                joined[key] = ragged(np.concatenate([np.diff(block[key]) for block in same]))
        out.append(joined)
    return out


def _cells(block: Tree) -> Cells:
    more = {
        key: as_tensor(block[key], torch.int64)
        for key in ("offsets", "face_offsets")
        if key in block
    }
    return Cells(block["type"], as_tensor(block["nodes"], torch.int64), **more)


def _face_cells(top: int, sizes: np.ndarray, nodes: np.ndarray) -> Cells:
    """Faces of cells of dimension `top`, by their corners."""
    wide = {1: 1, 2: 2}.get(top)
    if wide is not None and (sizes != wide).any():
        odd = int(sizes[sizes != wide][0])
        raise InputError(
            f"a boundary has a face of {odd} points (expected {wide}, in a mesh of {top}-D cells)"
        )
    flat_nodes = as_tensor(nodes, torch.int64)
    if top == 1:
        return Cells("vertex", flat_nodes.reshape(-1, 1))
    if top == 2:
        return Cells("line", flat_nodes.reshape(-1, 2))
    return Cells("polygon", flat_nodes, as_tensor(ragged(sizes)))


def _faces(lower: list[Tree]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cells of one dimension less by their corners: (rows, sizes, flat nodes), rows rising."""
    rows, sizes, nodes = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for block in lower:
        corners = TYPES[block["type"]][2]
        rows.append(block["rows"])
        if corners:
            sizes.append(np.full(len(block["rows"]), corners))
            nodes.append(np.asarray(block["nodes"])[:, :corners].reshape(-1))
        else:
            sizes.append(np.diff(block["offsets"]))
            nodes.append(np.asarray(block["nodes"]))
    row, size, flat_nodes = (np.concatenate(x) for x in (rows, sizes, nodes))
    order = np.argsort(row, kind="stable")
    return row[order], size[order], gather(flat_nodes, ragged(size), order)


def _split_groups(
    groups: Tree, place: np.ndarray, lower: list[Tree]
) -> tuple[dict[str, np.ndarray], dict[str, Tree]]:
    """Groups of cells as regions (cells in block order) and boundaries (places in the file).

    Arguments:
        place: (rows,) the number of the cell at a place of the file, −1 for lower dimensions.
        lower: blocks of one dimension less; those in no group become "boundary".
    """
    low = np.zeros(len(place), bool)
    for block in lower:
        low[block["rows"]] = True
    left = low.copy()
    regions: dict[str, np.ndarray] = {}
    boundaries: dict[str, Tree] = {}
    n_top = int((place >= 0).sum())
    for name, group in groups.items():
        if group.get("region"):  # cells of the mesh, not of the file
            regions[name] = _inside(group["cells"], n_top, name)
            continue
        cells = _inside(group["cells"], len(place), name)
        top = place[cells][place[cells] >= 0]
        if len(top) and not (group.get("entity") and len(top) == n_top):
            regions[name] = top
        mine = cells[low[cells]]
        if len(mine):
            boundaries[name] = {**group, "cells": mine}
            left[mine] = False
    if left.any():
        name = "boundary"
        while name in boundaries:
            name += "_rest"
        boundaries[name] = {"cells": np.flatnonzero(left)}
    return regions, boundaries


def _from_points(mesh: Mesh, name: str, found: Tree) -> Mesh:
    """A boundary given by points: all outer faces whose corners are among them."""
    points = _inside(found["points"], mesh.n_points, name, "points")
    inside = torch.zeros(mesh.n_points, dtype=torch.bool)
    inside[torch.from_numpy(points)] = True
    of = mesh.faces
    hits = torch.nn.functional.pad(inside[of.nodes].long().cumsum(0), (1, 0))
    full = (hits[of.offsets[1:]] - hits[of.offsets[:-1]]) == of.offsets.diff()
    ids = torch.nonzero(full & (of.neighbour < 0)).flatten()
    if not len(ids):
        note = f"boundary {name!r}: its {len(points)} points make no outer face: left out"
        return mesh.replace(notes=(*mesh.notes, note))
    boundaries = {**mesh.boundaries, name: Boundary(ids, kind=found.get("kind", ""))}
    return mesh.replace(boundaries=boundaries)
