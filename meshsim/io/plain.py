"""A mesh as plain arrays, the way the writers want them: the tree of `meshsim.io.raw`."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from meshsim.io import extras
from meshsim.io.raw import Tree, gather, ragged
from meshsim.mesh import Mesh

FACE_TYPES = {
    (1, 0): "vertex", (2, 0): "line", (2, 1): "line3", (3, 0): "triangle", (3, 3): "triangle6",
    (3, 4): "triangle7", (4, 0): "quad", (4, 4): "quad8", (4, 5): "quad9",
}  # fmt: skip


def array(x: Tensor) -> np.ndarray:
    """A tensor as NumPy array; bfloat16, which NumPy lacks, as float32."""
    x = x.detach().cpu()
    return (x.float() if x.dtype is torch.bfloat16 else x).numpy()


def blocks(mesh: Mesh) -> list[Tree]:
    """The cells with their places in the file they came from (`rows`)."""
    order = None if mesh.file_order is None else array(mesh.file_order)
    out, at = [], 0
    for block in mesh.cells:
        n = len(block)
        rows = np.arange(at, at + n) if order is None else order[at : at + n]
        at += n
        found: Tree = {"type": block.type, "nodes": array(block.nodes), "rows": rows}
        for name in ("offsets", "face_offsets"):
            values = getattr(block, name)
            if values is not None:
                found[name] = array(values)
        out.append(found)
    return out


def places(mesh: Mesh) -> np.ndarray:
    """(C,) the place in the file of each cell."""
    return np.concatenate([block["rows"] for block in blocks(mesh)])


def in_file_order(mesh: Mesh, values: np.ndarray) -> np.ndarray:
    """Cell values, one a row, in the order of the file."""
    if mesh.file_order is None:
        return values
    out = np.empty_like(values)
    out[places(mesh)] = values
    return out


def lifted(points: np.ndarray, z: float | None) -> np.ndarray:
    """Points (N, 3), planar ones with their third coordinate."""
    if points.shape[1] == 3:
        return points
    return np.pad(points, ((0, 0), (0, 1)), constant_values=z or 0.0)


def padded(values: np.ndarray, dim: int) -> np.ndarray:
    """Vectors (N, 2) of a planar mesh with a third component of zero, as programs expect them."""
    if dim == 2 and values.ndim == 2 and values.shape[1] == 2 and values.dtype.kind == "f":
        return np.pad(values, ((0, 0), (0, 1)))
    return values


def tree(mesh: Mesh, pad: bool = True) -> Tree:
    """A mesh as a tree, cells in the order of the file.

    Arguments:
        pad: give points, and vectors on points and cells, of a planar mesh a third component.

    Returns:
        The tree of `meshsim.io.raw`, with `dtypes` {field: name} of types that NumPy lacks.
    """
    dtypes: dict[str, str] = {}

    def fields(
        found: Mapping[str, Tensor], place: str, cells: bool = False, lift: bool = pad
    ) -> Tree:
        out = {}
        for name, values in found.items():
            if values.dtype is torch.bfloat16:
                dtypes[f"{place}:{name}"] = "bfloat16"
            plain = in_file_order(mesh, array(values)) if cells else array(values)
            out[name] = padded(plain, mesh.dim) if lift else plain
        return out

    points = array(mesh.points)
    found_places = places(mesh)
    return {
        "dim": mesh.dim,
        "points": lifted(points, mesh.z) if pad else points,
        "blocks": blocks(mesh),
        "point_fields": fields(mesh.point_fields, "point"),
        "cell_fields": fields(mesh.cell_fields, "cell", cells=True),
        "global_fields": fields(mesh.global_fields, "global", lift=False),
        "boundaries": {
            name: {
                **faces(mesh, part.faces),
                "kind": part.kind,
                "fields": fields(part.fields, f"boundary:{name}", lift=False),
            }
            for name, part in mesh.boundaries.items()
        },
        "groups": {
            name: {"cells": found_places[array(rows)]} for name, rows in mesh.regions.items()
        },
        "z": mesh.z,
        "flattened": sorted(mesh.flattened),
        "dtypes": dtypes,
        # vectors of a planar mesh that have three components of their own
        "triples": [
            f"{place}:{name}"
            for place, found in (("point", mesh.point_fields), ("cell", mesh.cell_fields))
            for name, values in found.items()
            if mesh.dim == 2 and values.dim() == 2 and values.shape[1] == 3
        ],
    }


def faces(mesh: Mesh, ids: Tensor) -> Tree:
    """Faces by their corners (`sizes`, `nodes`) and the nodes between these (`mids`)."""
    of, index = mesh.faces, array(ids)
    offsets, mid_offsets = array(of.offsets), array(of.mid_offsets)
    return {
        "sizes": np.diff(offsets)[index],
        "nodes": gather(array(of.nodes), offsets, index),
        "mid_sizes": np.diff(mid_offsets)[index],
        "mids": gather(array(of.mid_nodes), mid_offsets, index),
    }


def face_blocks(found: Tree) -> list[Tree]:
    """Faces as typed cells: lines, triangles, quads (quadratic ones too) and polygons."""
    of, mid_of = ragged(found["sizes"]), ragged(found["mid_sizes"])
    pairs = np.stack([found["sizes"], found["mid_sizes"]], 1)
    out = []
    for size, mids in np.unique(pairs, axis=0).tolist():
        rows = np.flatnonzero((pairs == (size, mids)).all(1))
        corners = found["nodes"][of[rows][:, None] + np.arange(size)]
        name = FACE_TYPES.get((size, mids))
        if name is None:
            out.append({"type": "polygon", "nodes": corners.reshape(-1),
                        "offsets": np.arange(len(rows) + 1) * size, "rows": rows})  # fmt: skip
            continue
        middle = found["mids"][mid_of[rows][:, None] + np.arange(mids)]
        out.append({"type": name, "nodes": np.concatenate([corners, middle], 1), "rows": rows})
    return out


def packed(plain: Tree, order: np.ndarray | None = None, widths: Tree | None = None) -> Tree:
    """What a format has no place for, as `extras`.

    Arguments:
        plain: from `tree`.
        order: (C,) the mesh's `file_order`, where the format cannot keep it.
        widths: {field: components}, where the format stores components apart.
    """
    arrays: dict[str, np.ndarray] = {} if order is None else {"order": order}
    about: Tree = {
        "dim": plain["dim"],
        "z": plain["z"],
        "flattened": plain["flattened"],
        "key": extras.fingerprint(len(plain["points"]), plain["blocks"]),
        "types": list(dict.fromkeys(block["type"] for block in plain["blocks"])),
        "boundaries": {},
        "regions": list(plain["groups"]),
        "shapes": {},
        "dtypes": dict(plain["dtypes"]),
        **({} if widths is None else {"widths": widths}),
    }
    for name, part in plain["boundaries"].items():
        arrays[f"boundary:{name}:sizes"] = part["sizes"]
        arrays[f"boundary:{name}:nodes"] = part["nodes"]
        shapes = {}
        for key, values in part["fields"].items():
            arrays[f"boundary:{name}:field:{key}"] = narrow(values)
            shapes[key] = list(values.shape)
            _remember(about["dtypes"], f"boundary:{name}:{key}", values)
        about["boundaries"][name] = {"kind": part["kind"], "fields": shapes}
    for name, group in plain["groups"].items():
        arrays[f"region:{name}"] = group["cells"]
    for place in ("point", "cell", "global"):
        for name, values in plain[f"{place}_fields"].items():
            _remember(about["dtypes"], f"{place}:{name}", values)
            natural = values.ndim == 1 or (values.ndim == 2 and values.shape[1] > 1)
            if place == "global" or not natural or f"{place}:{name}" in plain["triples"]:
                about["shapes"][f"{place}:{name}"] = list(values.shape)
    return extras.pack(about, arrays)


def _remember(dtypes: dict[str, str], key: str, values: np.ndarray) -> None:
    if values.dtype in (np.bool_, np.float16):
        dtypes.setdefault(key, values.dtype.name)


def narrow(values: np.ndarray) -> np.ndarray:
    """Values in a type that file formats know: truth values as bytes, half floats as floats."""
    if values.dtype == np.bool_:
        return values.astype(np.uint8)
    return values.astype(np.float32) if values.dtype == np.float16 else values


def flat_rows(values: np.ndarray) -> np.ndarray:
    """(n,) or (n, k) of a field of any shape."""
    values = narrow(values)
    return values if values.ndim <= 2 else values.reshape(len(values), -1)
