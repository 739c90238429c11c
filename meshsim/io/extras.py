"""What a format has no place for, as a few arrays and one JSON text beside the mesh.

VTK files carry them as field data, XDMF as Information, CGNS as user-defined data. Boundaries are
faces by their corner points, regions are places of cells in the file. The text says how many
points and cells they belong to, with a checksum of the connectivity: a program that changes the
mesh and passes the arrays on makes them stale, and they are then left out with a note.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from meshsim.io.raw import Tree, ragged

VERSION = 1


def fingerprint(n_points: int, blocks: list[Tree]) -> list[int]:
    """Numbers that tell meshes apart: counts, and sums over the nodes of the cells.

    Arguments:
        blocks: as in `meshsim.io.raw`, of the top dimension, each with `rows`.
    """
    cells = total = mixed = 0
    for block in blocks:
        nodes, rows = np.asarray(block["nodes"], np.int64), np.asarray(block["rows"], np.int64)
        if nodes.ndim == 2:
            per_cell = nodes.sum(1)
        else:
            of = np.asarray(block["offsets"], np.int64)
            if "face_offsets" in block:
                of = np.asarray(block["face_offsets"], np.int64)[of]
            sums = np.concatenate([[0], np.cumsum(nodes)])
            per_cell = sums[of[1:]] - sums[of[:-1]]
        cells += len(rows)
        total += int(per_cell.sum())
        with np.errstate(over="ignore"):
            mixed += int(((rows + 1) * per_cell).sum())
    return [n_points, cells, total, mixed & 0xFFFFFFFFFFFF]


def pack(about: Tree, arrays: dict[str, np.ndarray]) -> Tree:
    """{"meshsim": JSON, "meshsim:NAME": array}."""
    text = json.dumps({"version": VERSION, **about, "arrays": list(arrays)})
    return {"meshsim": text, **{f"meshsim:{name}": values for name, values in arrays.items()}}


def _sound(about: Tree) -> bool:
    """True if all entries that others rely on are there and of their type."""
    kinds = {"types": list, "flattened": list, "shapes": dict, "dtypes": dict, "arrays": list}
    good = all(isinstance(about[name], kind) for name, kind in kinds.items())
    words = [*about["types"], *about["flattened"], *about["dtypes"].values()]
    return (
        good
        and all(isinstance(word, str) for word in words)
        and all(isinstance(n, int) and n >= 0 for s in about["shapes"].values() for n in s)
        and about["dim"] in (2, 3)
        and isinstance(about["z"], float | int | None)
    )


def unpack(extras: Tree, n_points: int, blocks: list[Tree]) -> tuple[Tree, str]:
    """The content of extras, or {} and a note why they are not used.

    Returns:
        ({"dim", "z", "flattened", "shapes", "dtypes", "boundaries", "groups", …}, note).
    """
    if "meshsim" not in extras:
        return {}, ""
    stale = "what meshsim stored beside the mesh (boundaries, regions) does not fit it: left out"
    try:
        about: dict[str, Any] = json.loads(extras["meshsim"])
        if about["version"] != VERSION:
            return {}, f"{stale} (version {about['version']})"
        if about["key"] != fingerprint(n_points, blocks) or not _sound(about):
            return {}, stale

        def array(name: str) -> np.ndarray:
            return np.asarray(extras[f"meshsim:{name}"])

        boundaries: Tree = {}
        for name, found in about.get("boundaries", {}).items():
            sizes = array(f"boundary:{name}:sizes").reshape(-1).astype(np.int64)
            nodes = array(f"boundary:{name}:nodes").reshape(-1).astype(np.int64)
            if len(sizes) and (sizes.min() < 1 or ragged(sizes)[-1] != len(nodes)):
                return {}, stale
            fields = {
                key: array(f"boundary:{name}:field:{key}").reshape(shape)
                for key, shape in found["fields"].items()
            }
            boundaries[name] = {"sizes": sizes, "nodes": nodes, "kind": found["kind"],
                                "fields": fields}  # fmt: skip
        groups = {
            name: {"cells": array(f"region:{name}").reshape(-1).astype(np.int64)}
            for name in about.get("regions", [])
        }
        order = {"order": array("order").reshape(-1)} if "order" in about["arrays"] else {}
        return {**about, "boundaries": boundaries, "groups": groups, **order}, ""
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError, OverflowError):
        return {}, stale
