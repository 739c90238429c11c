"""Exodus II in netCDF (classic or HDF5), read by VTK on the file's own node numbers.

Element blocks become regions, side sets boundaries, node sets boundaries given by their points.
VTK's usual output has the nodes on the interface of two blocks twice; with `SqueezePoints` off
every block keeps all nodes of the file in their order, so that there is nothing to merge.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from meshsim.io.raw import DIM, Tree, expect, ragged, vtk
from meshsim.io.raw.netcdf import check_length
from meshsim.io.raw.steps import rising

UNNAMED = re.compile(r"Unnamed (block|set) ID: (-?\d+)")
IMPLICIT = "ImplicitElementId"


def read(path: str, options: Tree) -> Tree:
    """An Exodus file as a tree; `options["step"]` reads the fields at one time only."""
    check_length(path)
    reader, times = _opened(path)
    step = options.get("step")
    if step is not None:
        expect(0 <= step < len(times), f"has no step {step}")
        reader.SetTimeStep(int(step))
        _enable(reader, sets=False)
        found = _elements(reader, vtk.run(reader))
        return {name: found[name] for name in ("point_fields", "cell_fields", "covered")}
    _enable(reader, sets=True)
    data = vtk.run(reader)
    out = _elements(reader, data)
    _side_sets(reader, data, out)
    _node_sets(reader, data, out)
    times, steps, told = rising(times)
    out["notes"] += told
    if len(times) > 1:
        out["times"], out["steps"] = times, steps
        out["notes"] += _gaps(out)
        out["frames"] = {p: list(out[f"{p}_fields"]) for p in ("point", "cell")}
    return out


def _gaps(out: Tree) -> list[str]:
    """What to say of cell fields that some blocks of cells do not have."""
    top = max(map(_dim, out["blocks"]))
    cells = np.concatenate([b["rows"] for b in out["blocks"] if _dim(b) == top])
    missing = {name: len(np.setdiff1d(cells, rows)) for name, rows in out["covered"].items()}
    return [f"cell field {name!r} has no value in {n} cells" for name, n in missing.items() if n]


def _opened(path: str) -> tuple[Any, list[float]]:
    import vtkmodules.vtkCommonDataModel  # noqa: F401, registers the classes of data
    from vtkmodules.vtkIOExodus import vtkExodusIIReader

    reader = vtkExodusIIReader()
    reader.SetFileName(path)
    vtk.told(reader.UpdateInformation)
    reader.SetSqueezePoints(False)
    reader.SetApplyDisplacements(0)
    reader.SetGenerateObjectIdCellArray(0)
    reader.SetGenerateGlobalNodeIdArray(0)
    reader.SetGenerateGlobalElementIdArray(0)
    reader.SetGenerateImplicitNodeIdArray(0)
    reader.SetGenerateImplicitElementIdArray(1)
    expect(reader.GetNumberOfNodesInFile() > 0, "is an Exodus file without nodes")
    return reader, vtk.times(reader)


def _enable(reader: Any, sets: bool) -> None:
    """Ask for every block and field, and for the sets where `sets`."""
    kinds = {name: getattr(reader, name) for name in ("ELEM_BLOCK", "SIDE_SET", "NODE_SET")}
    for name, kind in kinds.items():
        for i in range(reader.GetNumberOfObjects(kind)):
            reader.SetObjectStatus(kind, i, int(sets or name == "ELEM_BLOCK"))
    for kind in (reader.ELEM_BLOCK, reader.NODAL, reader.GLOBAL):
        for i in range(reader.GetNumberOfObjectArrays(kind)):
            reader.SetObjectArrayStatus(kind, reader.GetObjectArrayName(kind, i), 1)
    for name in ("EDGE_BLOCK", "FACE_BLOCK"):
        kind = getattr(reader, name)
        for i in range(reader.GetNumberOfObjects(kind)):
            reader.SetObjectStatus(kind, i, 0)


def _blocks(data: Any, which: int) -> list[Any]:
    """The data sets under one of the eight headings of VTK's output."""
    group = data.GetBlock(which) if data is not None and data.GetNumberOfBlocks() > which else None
    if group is None:
        return []
    return [group.GetBlock(i) for i in range(group.GetNumberOfBlocks())]


def _name(reader: Any, kind: int, i: int, what: str) -> str:
    given = reader.GetObjectName(kind, i) or ""
    found = UNNAMED.search(given)
    if found is not None:
        return f"{what} {found[2]}"
    return given.strip() or f"{what} {i + 1}"


def _elements(reader: Any, data: Any) -> Tree:
    """Points, fields and the cells of all element blocks, in the order of the file."""
    out: Tree = {"point_fields": {}, "groups": {}, "boundaries": {}, "notes": [], "covered": {}}
    found: list[tuple[str, Tree]] = []
    for i, block in enumerate(_blocks(data, 0)):
        if block is None or not block.GetNumberOfCells():
            continue
        part = vtk.tree(block)
        name = _name(reader, reader.ELEM_BLOCK, i, "block")
        found.append((name, part))
    expect(found, f"holds no elements ({reader.GetNumberOfNodesInFile()} nodes)")
    n_points = reader.GetNumberOfNodesInFile()
    first = found[0][1]
    expect(len(first["points"]) == n_points, "its blocks do not hold all nodes")
    out["points"] = first["points"]
    out["point_fields"] = _named(first["point_fields"])
    start = _starts([part for _, part in found])
    total = sum(len(part["cell_fields"][IMPLICIT]) for _, part in found)
    out["blocks"] = []
    columns: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for (name, part), at in zip(found, start, strict=True):
        n = len(part["cell_fields"].pop(IMPLICIT))
        rows = at + np.arange(n)
        out["blocks"] += [{**b, "rows": b["rows"] + at} for b in part["blocks"]]
        old = out["groups"].get(name, {"cells": rows[:0]})["cells"]
        out["groups"][name] = {"cells": np.concatenate([old, rows])}
        out["notes"] += part["notes"]
        for key, values in _named(part["cell_fields"]).items():
            columns.setdefault(key, []).append((rows, values))
    out["cell_fields"] = {}
    for key, parts in columns.items():
        if len({values.shape[1:] for _, values in parts}) > 1:
            out["notes"].append(f"cell field {key!r} has not the same components in all blocks")
            continue
        rows = np.concatenate([r for r, _ in parts])
        kind = parts[0][1].dtype
        full = np.full((total, *parts[0][1].shape[1:]), np.nan if kind.kind == "f" else 0, kind)
        full[rows] = np.concatenate([values for _, values in parts])
        out["cell_fields"][key] = full
        if len(rows) < total:
            out["covered"][key] = np.sort(rows)
    kept = {"Title", "ElementBlockIds", "QA_Records", "Info_Records"}
    out["global_fields"] = {k: v for k, v in first["global_fields"].items() if k not in kept}
    return out


def _starts(parts: list[Tree]) -> list[int]:
    """Where each block begins in the file: VTK sorts blocks by their ids."""
    sizes = [len(part["cell_fields"][IMPLICIT]) for part in parts]
    firsts = [int(part["cell_fields"][IMPLICIT].min()) for part in parts]
    order = np.argsort(firsts, kind="stable")
    start = np.zeros(len(parts), np.int64)
    start[order] = ragged(np.array(sizes)[order])[:-1]
    return [int(at) for at in start]


def _named(fields: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """VTK names the vector of disp_x, disp_y, disp_z "disp_"."""
    out: dict[str, np.ndarray] = {}
    for name, values in fields.items():
        short = name.rstrip("_") if values.ndim > 1 and values.shape[1] > 1 else name
        out[short if short and short not in fields else name] = values
    return out


def _side_sets(reader: Any, data: Any, out: Tree) -> None:
    top = max(map(_dim, out["blocks"]))
    for i, block in enumerate(_blocks(data, 4)):
        name = _name(reader, reader.SIDE_SET, i, "side set")
        if block is None or not block.GetNumberOfCells():
            if reader.GetNumberOfEntriesInObject(reader.SIDE_SET, i):
                out["notes"].append(f"{name!r}: VTK gives no sides of it: left out")
            continue
        sides = sorted(vtk.tree(block)["blocks"], key=lambda b: int(b["rows"][0]))
        low = [b for b in sides if _dim(b) == top - 1]
        level = [b for b in sides if _dim(b) == top]
        if low:
            sizes, nodes = zip(*map(_faces, low), strict=True)
            out["boundaries"][_free(name, out)] = {
                "sizes": np.concatenate(sizes),
                "nodes": np.concatenate(nodes),
                "kind": "side set",
            }
        if not low and not level:
            out["notes"].append(f"side set {name!r} holds neither faces nor cells: left out")
        if level:
            cells = _same_cells(level, out["blocks"])
            key = _free(name if not low else f"{name} (cells)", out)
            out["groups"][key] = {"cells": np.unique(cells)}
            out["notes"].append(f"side set {name!r} lies on whole cells: kept as a region")


def _free(name: str, out: Tree) -> str:
    """The name, with a number where a block or another set has it."""
    fresh, n = name, 2
    while fresh in out["groups"] or fresh in out["boundaries"]:
        fresh, n = f"{name}_{n}", n + 1
    return fresh


def _dim(block: Tree) -> int:
    return DIM.get(block["type"].rstrip("0123456789"), 3)


def _faces(block: Tree) -> tuple[np.ndarray, np.ndarray]:
    """Cells by their corners: (sizes, nodes)."""
    if "offsets" in block:
        return np.diff(block["offsets"]), np.asarray(block["nodes"])
    corners = _corners(block)
    return np.full(len(corners), corners.shape[1]), corners.reshape(-1)


def _corners(block: Tree) -> np.ndarray:
    """The corners of vertices, lines, triangles and quads."""
    k = {"vertex": 1, "line": 2, "triangle": 3, "quad": 4}.get(block["type"].rstrip("0123456789"))
    return np.asarray(block["nodes"])[:, :k]


def _same_cells(wanted: list[Tree], blocks: list[Tree]) -> np.ndarray:
    """Rows of the cells that have the corners of the wanted ones."""
    known: dict[tuple[int, ...], int] = {}
    for block in blocks:
        if block["nodes"].ndim == 2 and _dim(block) == _dim(wanted[0]):
            corners = np.sort(_corners(block), 1).tolist()
            known |= dict(zip(map(tuple, corners), block["rows"].tolist(), strict=True))
    keys = [tuple(c) for block in wanted for c in np.sort(_corners(block), 1).tolist()]
    return np.array([known[key] for key in keys if key in known], np.int64)


def _node_sets(reader: Any, data: Any, out: Tree) -> None:
    for i, block in enumerate(_blocks(data, 7)):
        name = _name(reader, reader.NODE_SET, i, "node set")
        if block is None or not block.GetNumberOfCells():
            continue
        nodes = vtk.array(block.GetCells().GetConnectivityArray()).astype(np.int64)
        if name in out["boundaries"]:
            out["notes"].append(f"node set {name!r} was left out: a side set has its name")
            continue
        out["boundaries"][_free(name, out)] = {"points": np.unique(nodes), "kind": "node set"}
