"""MED files (Salome, code_aster, code_saturne), versions 2.3 to 4: mesh, groups, fields, times."""

from __future__ import annotations

from typing import Any

import numpy as np

from meshsim.io.raw import Tree, expect
from meshsim.io.raw.med_cells import CELLS, block_of, grid, sizes_of, text
from meshsim.io.raw.med_fields import announce, fields_of, frame_at, steps_of, times_of, values_of


def read(path: str, options: Tree) -> Tree:
    """A .med file as a tree; {"step": time} in the options reads the fields at that time."""
    import h5py

    with h5py.File(path, "r") as file:
        expect("ENS_MAA" in file, "holds no mesh (expected ENS_MAA)")
        name, notes = _chosen(file)
        mesh, moves = _first_step(file["ENS_MAA"][name])
        sizes = sizes_of(mesh)
        fields = fields_of(file, name, notes)
        times = times_of(fields)
        if "step" in options:
            return frame_at(file, fields, sizes, float(options["step"]))
        if moves:
            notes.append(f"the mesh changes over {moves} steps: only the first is kept")
        out = _mesh(file, name, mesh, sizes, notes)
        for field, (about, steps) in fields.items():
            if about:
                notes.append(f"components of {field!r}: {about}")
            if len(times) > 1 and len(steps_of(steps)) > 1:
                continue
            for place, (table, rows) in values_of(file, field, steps, sizes).items():
                out[f"{place}_fields"][field] = table
                if len(rows) < len(table) and place == "cell":
                    out.setdefault("covered", {})[field] = rows
                elif len(rows) < len(table):
                    notes.append(f"point field {field!r} is NaN where the file has no value")
        if len(times) > 1:
            announce(out, fields, sizes, times)
        return out


def _chosen(file: Any) -> tuple[str, list[str]]:
    """The first mesh that has cells, and a note that names the others."""
    names = list(file["ENS_MAA"])
    expect(names, "holds no mesh (ENS_MAA is empty)")
    full = [name for name in names if sizes_of(_first_step(file["ENS_MAA"][name])[0])[1]]
    name = (full or names)[0]
    rest = ", ".join(repr(other) for other in names if other != name)
    return name, [f"the file also holds the meshes {rest}: left out"] if rest else []


def _first_step(mesh: Any) -> tuple[Any, int]:
    """The group that holds NOE and MAI (since MED 3 one a time step), and how many if several."""
    if "NOE" in mesh or "MAI" in mesh:
        return mesh, 0
    steps = [mesh[key] for key in sorted(mesh) if "NOE" in mesh[key] or "MAI" in mesh[key]]
    expect(steps, f"mesh {mesh.name.rsplit('/', 1)[-1]!r} has no nodes (expected NOE)")
    return steps[0], len(steps) if len(steps) > 1 else 0


def _mesh(
    file: Any, name: str, mesh: Any, sizes: tuple[int, dict[str, int]], notes: list[str]
) -> Tree:
    n_points, counts = sizes
    out: Tree = {"blocks": [], "point_fields": {}, "cell_fields": {}, "groups": {},
                 "boundaries": {}, "notes": notes}  # fmt: skip
    if any(f"IN{i}" in mesh["NOE"] for i in (1, 2, 3)):
        kind = int(file["ENS_MAA"][name].attrs.get("GTY", 0))
        expect(kind == 0, "a structured mesh that is no Cartesian grid is not supported")
        return out | grid(mesh["NOE"])
    expect("COO" in mesh.get("NOE", {}), "holds no coordinates (expected NOE/COO)")
    flat = np.asarray(mesh["NOE/COO"][()], np.float64).reshape(-1)
    expect(n_points and len(flat) % n_points == 0, f"{len(flat)} coordinates of {n_points} nodes")
    points = flat.reshape(-1, n_points).T
    if points.shape[1] == 1:
        points = np.pad(points, ((0, 0), (0, 1)))
    cells = mesh.get("MAI", {})
    odd = [key for key in cells if key not in CELLS]
    if odd:
        notes.append(f"cells of the types {', '.join(odd)} were left out")
    families, at = [], 0
    for key, n in counts.items():
        block = block_of(cells[key], key, n, n_points)
        out["blocks"].append({**block, "rows": np.arange(at, at + n)})
        families.append(_family(cells[key], n, key))
        at += n
    named = _names(file, name)
    whole = np.concatenate([np.zeros(0, np.int64), *families])
    of_nodes = _family(mesh["NOE"], n_points, "NOE")
    for group, numbers in named.items():
        rows = np.flatnonzero(np.isin(whole, [i for i in numbers if i < 0]))
        if len(rows):
            out["groups"][group] = {"cells": rows}
        inside = np.flatnonzero(np.isin(of_nodes, [i for i in numbers if i > 0]))
        if len(inside) and len(inside) < n_points:
            key = f"{group} (nodes)" if len(rows) else group
            out["boundaries"][key] = {"points": inside}
    out["points"] = np.ascontiguousarray(points)
    unit = text(file["ENS_MAA"][name].attrs.get("UNI", b""))
    if unit:
        notes.append(f"units of the coordinates: {' '.join(dict.fromkeys(unit.split()))}")
    return out


def _family(group: Any, n: int, what: str) -> np.ndarray:
    if "FAM" not in group:
        return np.zeros(n, np.int64)
    out = np.asarray(group["FAM"][()], np.int64).reshape(-1)
    expect(len(out) == n, f"{what}/FAM has {len(out)} entries (expected {n})")
    return out


def _names(file: Any, mesh: str) -> dict[str, list[int]]:
    """The numbers of the families in each group: below zero of cells, above of nodes."""
    out: dict[str, list[int]] = {}

    def visit(group: Any) -> None:
        if "NUM" in group.attrs and "GRO" in group and "NOM" in group["GRO"]:
            letters = np.asarray(group["GRO/NOM"][()]).tobytes()
            for at in range(0, len(letters), 80):
                name = text(letters[at : at + 80])
                if name:
                    out.setdefault(name, []).append(int(group.attrs["NUM"]))
            return
        for key in group:
            if hasattr(group[key], "keys") and key != "GRO":
                visit(group[key])

    for place in (f"FAS/{mesh}", f"ENS_MAA/{mesh}/FAS"):
        if place in file:
            visit(file[place])
    return out
