"""What a sample looks like in a store: a tree of plain data, and arrays named by paths."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import torch
from torch import Tensor

from meshsim.check import InputError
from meshsim.mesh import Boundary, Cells, Mesh
from meshsim.sample import Sample
from meshsim.series import Frames, Series

INLINE = 64  # numbers; smaller arrays stand in the tree itself, a file each would cost more
Tree = dict[str, Any]


@dataclass
class Layout:
    """A sample taken apart.

    Arguments:
        tree: JSON-able; leaves are paths of arrays, or `{"dtype", "shape", "values"}`.
        arrays: {path: tensor}.
        series: for each segment {path: (frames, rows)}; rows is N or C.
        fields: {path: (branch, location, name)} of arrays that are fields of the sample.
        components: {(branch, location, name): numbers a row}, where known before reading;
            parameters have the location "parameter" and no branch.
    """

    tree: Tree = field(default_factory=dict)
    arrays: dict[str, Tensor] = field(default_factory=dict)
    series: list[dict[str, tuple[Frames, int]]] = field(default_factory=list)
    fields: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    components: dict[tuple[str, str, str], int] = field(default_factory=dict)
    _taken: set[str] = field(default_factory=set)

    def path(self, *parts: str) -> str:
        """A path not given out before; "p" and "P" differ even where file names do not."""
        base = "/".join(key(part) for part in parts)
        path, n = base, 1
        while path.lower() in self._taken:
            n += 1
            path = f"{base}~{n}"
        self._taken.add(path.lower())
        return path

    def put(self, values: Tensor, *parts: str, small: bool = False) -> Any:
        """Keep an array; returns its leaf for the tree."""
        x = values.detach().cpu()
        if x.dtype is torch.bfloat16:
            raise InputError(f"`{parts[-1]}`: a store cannot hold bfloat16, use float32")
        inline = small and x.numel() <= INLINE and bool(torch.isfinite(x).all())
        if inline and not x.is_complex():
            dtype = str(x.dtype).removeprefix("torch.")
            return {"dtype": dtype, "shape": list(x.shape), "values": x.reshape(-1).tolist()}
        path = self.path(*parts)
        self.arrays[path] = x
        return path


def key(name: str) -> str:
    """A name as a part of a path that zarr and file systems accept; distinct names stay distinct.

    >>> key("p_rgh"), key("grad(U)/x"), key("..")
    ('p_rgh', 'grad%28U%29%2Fx', '%2E%2E')
    """
    out = quote(name, safe=" ")
    if set(out) <= {"."} or out.lower() == "zarr.json":
        out = out.replace(".", "%2E")
    if out.startswith("__"):  # zarr keeps these for itself
        out = "%5F" + out[1:]
    if not out or len(out.encode()) > 200:
        raise InputError(f"the name {name[:40]!r} is empty or too long to be stored")
    return out


def take_apart(sample: Sample) -> Layout:
    """A sample as a tree and arrays; frames of series stay unread."""
    layout = Layout()
    layout.tree["parameters"] = {
        name: layout.put(value, "parameters", name, small=True)
        for name, value in sample.parameters.items()
    }
    for name, value in sample.parameters.items():
        layout.components["", "parameter", name] = value.numel()
    branches = layout.tree["branches"] = {}
    for branch, content in sample.branches.items():
        if isinstance(content, Mesh):
            branches[branch] = {"mesh": _mesh(layout, content, branch)}
            continue
        parts = content.segments
        branches[branch] = {
            "segments": [
                _series(layout, part, branch, *([f"segment {n}"] if n else []))
                for n, part in enumerate(parts)
            ]
        }
    return layout


def _mesh(layout: Layout, mesh: Mesh, branch: str, *where: str) -> Tree:
    def fields(found: Mapping[str, Tensor], place: str, small: bool = False) -> Tree:
        out = {}
        for name, values in found.items():
            here = (branch, *where, f"{place}_fields", name)
            out[name] = leaf = layout.put(values, *here, small=small)
            rows = 1 if place == "global" else len(values)
            layout.components[branch, place, name] = values.numel() // max(rows, 1)
            if isinstance(leaf, str):
                layout.fields[leaf] = (branch, place, name)
        return out

    def cells(block: Cells) -> Tree:
        here = (branch, *where, "cells", block.type)
        parts = {"nodes": block.nodes, "offsets": block.offsets, "face_offsets": block.face_offsets}
        held = {name: x for name, x in parts.items() if x is not None}
        return {"type": block.type} | {name: layout.put(x, *here, name) for name, x in held.items()}

    def boundary(name: str, part: Boundary) -> Tree:
        here = (branch, *where, "boundaries", name)
        faces = layout.put(part.faces, *here, "faces")
        held = {k: layout.put(v, *here, "fields", k) for k, v in part.fields.items()}
        layout.fields |= {path: (branch, "boundary", k) for k, path in held.items()}
        return {"kind": part.kind, "faces": faces, "fields": held}

    return {
        "points": layout.put(mesh.points, branch, *where, "points"),
        "cells": [cells(block) for block in mesh.cells],
        "point_fields": fields(mesh.point_fields, "point"),
        "cell_fields": fields(mesh.cell_fields, "cell"),
        "global_fields": fields(mesh.global_fields, "global", small=True),
        "boundaries": {name: boundary(name, part) for name, part in mesh.boundaries.items()},
        "regions": {
            name: layout.put(rows, branch, *where, "regions", name)
            for name, rows in mesh.regions.items()
        },
        "file_order": None
        if mesh.file_order is None
        else layout.put(mesh.file_order, branch, *where, "file_order"),
        "z": None if mesh.z is None else float(mesh.z),
        "flattened": sorted(mesh.flattened),
        "notes": list(mesh.notes),
    }


def _series(layout: Layout, series: Series, branch: str, *where: str) -> Tree:
    here: dict[str, tuple[Frames, int]] = {}
    layout.series.append(here)

    def frames(found: Mapping[str, Frames], place: str, rows: int) -> Tree:
        out = {}
        for name, values in found.items():
            path = out[name] = layout.path(branch, *where, f"{place}_frames", name)
            here[path] = (values, rows)
            layout.fields[path] = (branch, place, name)
        return out

    mesh = series.mesh
    tree = {
        "mesh": _mesh(layout, mesh, branch, *where),
        "times": layout.put(series.times, branch, *where, "times"),
        "point_frames": frames(series.point_fields, "point", mesh.n_points),
        "cell_frames": frames(series.cell_fields, "cell", mesh.n_cells),
        "moving_points": None,
    }
    if series.points is not None:
        path = tree["moving_points"] = layout.path(branch, *where, "moving_points")
        here[path] = (series.points, mesh.n_points)
    return tree


def put_together(
    tree: Tree,
    name: str,
    array: Callable[[str], Tensor],
    frames: Callable[[str], Frames],
) -> Sample:
    """The sample of a tree; `array` and `frames` fetch what a path names."""

    def get(leaf: Any) -> Tensor:
        if isinstance(leaf, str):
            return array(leaf)
        dtype = getattr(torch, leaf["dtype"])
        return torch.tensor(leaf["values"], dtype=dtype).reshape(leaf["shape"])

    def every(leaves: Mapping[str, Any]) -> dict[str, Tensor]:
        return {key: get(leaf) for key, leaf in leaves.items()}

    def mesh(part: Tree) -> Mesh:
        return Mesh(
            get(part["points"]),
            [
                Cells(block["type"], **every({k: v for k, v in block.items() if k != "type"}))
                for block in part["cells"]
            ],
            every(part["point_fields"]),
            every(part["cell_fields"]),
            {
                key: Boundary(get(b["faces"]), every(b["fields"]), b["kind"])
                for key, b in part["boundaries"].items()
            },
            every(part["regions"]),
            every(part["global_fields"]),
            file_order=None if part["file_order"] is None else get(part["file_order"]),
            z=part["z"],
            flattened=frozenset(part["flattened"]),
            notes=tuple(part["notes"]),
        )

    def series(part: Tree, later: tuple[Series, ...]) -> Series:
        return Series(
            mesh(part["mesh"]),
            get(part["times"]),
            {key: frames(path) for key, path in part["point_frames"].items()},
            {key: frames(path) for key, path in part["cell_frames"].items()},
            None if part["moving_points"] is None else frames(part["moving_points"]),
            later,
        )

    branches: dict[str, Mesh | Series] = {}
    for branch, part in tree["branches"].items():
        if "mesh" in part:
            branches[branch] = mesh(part["mesh"])
            continue
        first, *rest = part["segments"]
        branches[branch] = series(first, tuple(series(segment, ()) for segment in rest))
    return Sample(branches, every(tree["parameters"]), name)
