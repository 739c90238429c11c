"""Several trees as one mesh: the zones of a case, the pieces of a parallel file."""

from __future__ import annotations

import numpy as np

from meshsim.io.raw import DIM, Tree, expect


def merge(parts: list[Tree], names: list[str], weld: bool = True, compare: bool = True) -> Tree:
    """One tree of several; each part becomes a group of its name.

    Points of different parts that coincide exactly, and carry the same values, become one (with
    `compare` False whatever they carry, the first part's values are kept: frames of a series must
    all have the same points). Fields
    that not all parts have are left out, with a note. Cells that VTK marks as duplicates (ghost
    cells) are dropped. With `weld` False all points are kept.
    """
    parts = [_without_ghosts(part) for part in parts]
    pairs = [(p, n) for p, n in zip(parts, names, strict=True) if len(p["points"]) and p["blocks"]]
    expect(pairs, "holds no part with points and cells")
    parts, names = [p for p, _ in pairs], [n for _, n in pairs]
    if len(parts) == 1:
        return parts[0]
    top = max(p["points"].shape[1] for p in parts)
    points = np.concatenate(
        [np.pad(q, ((0, 0), (0, top - q.shape[1]))) for q in (p["points"] for p in parts)]
    )
    notes = [note for p in parts for note in p.get("notes", [])]
    point_fields = _common(parts, "point_fields", notes)
    keep, new, told = _welded(parts, points, point_fields if compare else {}, weld)
    notes += told
    out: Tree = {
        "points": points[keep],
        "point_fields": {name: values[keep] for name, values in point_fields.items()},
        "cell_fields": _common(parts, "cell_fields", notes),
        "blocks": [],
        "groups": {},
        "boundaries": {},
        "global_fields": dict(parts[0].get("global_fields", {})),
        "notes": notes,
    }
    partly = _only_above(parts, out, notes)
    first_point = first_cell = 0
    for part, name in zip(parts, _distinct(names), strict=True):
        n_cells = 0
        for block in part["blocks"]:
            rows = block.get("rows")
            n = len(block["offsets"]) - 1 if "offsets" in block else len(block["nodes"])
            if rows is None:
                rows = np.arange(n_cells, n_cells + n)
            n_cells += n
            moved = {"nodes": new[block["nodes"] + first_point], "rows": rows + first_cell}
            out["blocks"].append(block | moved)
        top = max(map(_dim, part["blocks"]))
        cells = [b["rows"] for b in out["blocks"][-len(part["blocks"]) :] if _dim(b) == top]
        out["groups"][name] = {"cells": np.sort(np.concatenate(cells))}
        for key, group in part.get("groups", {}).items():
            _add(out["groups"], key, {**group, "cells": group["cells"] + first_cell}, "cells")
        for key, found in part.get("boundaries", {}).items():
            where = "points" if "points" in found else "nodes"
            moved = {where: new[np.asarray(found[where]) + first_point]}
            _add(out["boundaries"], key, {**found, **moved, "fields": {}}, where)
        for key in out["cell_fields"]:
            if key in partly or any(key in p.get("covered", {}) for p in parts):
                rows = part.get("covered", {}).get(key, np.arange(n_cells)) + first_cell
                rows = rows if key in part.get("cell_fields", {}) else rows[:0]
                covered = out.setdefault("covered", {})
                covered[key] = np.concatenate([covered.get(key, rows[:0]), rows])
        first_point += len(part["points"])
        first_cell += n_cells
    return out


def _only_above(parts: list[Tree], out: Tree, notes: list[str]) -> set[str]:
    """Cell fields that all parts have but those of lower dimension, the boundaries: kept."""
    dims = [max(map(_dim, p["blocks"])) for p in parts]
    tops = [p for p, dim in zip(parts, dims, strict=True) if dim == max(dims)]
    found = set()
    for name in dict.fromkeys(name for p in tops for name in p.get("cell_fields", {})):
        have = [p["cell_fields"][name] for p in tops if name in p.get("cell_fields", {})]
        if name in out["cell_fields"] or len(have) < len(tops):
            continue
        shapes = {v.shape[1:] for v in have}
        if len(shapes) > 1 or any(
            name in p.get("cell_fields", {}) and p["cell_fields"][name].shape[1:] not in shapes
            for p in parts
        ):
            continue
        empty = np.zeros((1, *shapes.pop()), have[0].dtype)
        rows = [
            p.get("cell_fields", {}).get(name, empty[np.zeros(_count(p), np.int64)]) for p in parts
        ]
        out["cell_fields"][name] = np.concatenate(rows)
        notes.remove(_missing("cell", name))
        found.add(name)
    return found


def _count(part: Tree) -> int:
    return sum(len(b["offsets"]) - 1 if "offsets" in b else len(b["nodes"]) for b in part["blocks"])


def _missing(where: str, name: str) -> str:
    return f"{where} field {name!r} is not in every part alike and was left out"


def _dim(block: Tree) -> int:
    return DIM.get(block["type"].rstrip("0123456789"), 3)


def _distinct(names: list[str]) -> list[str]:
    out: list[str] = []
    for name in names:
        n = 2
        fresh = name
        while fresh in out:
            fresh, n = f"{name}_{n}", n + 1
        out.append(fresh)
    return out


def _add(into: Tree, key: str, found: Tree, what: str) -> None:
    """Parts may share a boundary or a group: the pieces of one name are put together."""
    old = into.get(key)
    if old is None:
        into[key] = found
    elif what in old:
        into[key] = {**old, what: np.concatenate([old[what], found[what]])}
        if "sizes" in old:
            into[key]["sizes"] = np.concatenate([old["sizes"], found["sizes"]])
    else:
        into[f"{key}_2"] = found


def _common(parts: list[Tree], place: str, notes: list[str]) -> dict[str, np.ndarray]:
    out = {}
    every = dict.fromkeys(name for p in parts for name in p.get(place, {}))
    for name in every:
        found = [p.get(place, {}).get(name) for p in parts]
        have = [f for f in found if f is not None]
        if len(have) == len(parts) and len({f.shape[1:] for f in have}) == 1:
            out[name] = np.concatenate(have)
        else:
            notes.append(_missing(place.removesuffix("_fields"), name))
    return out


def _welded(
    parts: list[Tree], points: np.ndarray, fields: dict[str, np.ndarray], weld: bool
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Which points to keep, and each point's new number.

    Only points of different parts are joined: two points of one part may coincide on purpose
    (a slit, a baffle).
    """
    n = len(points)
    owner = np.repeat(np.arange(len(parts)), [len(p["points"]) for p in parts])
    bits = np.ascontiguousarray(points + 0.0)  # -0.0 and 0.0 are one place
    _, first, inverse, counts = np.unique(
        bits, axis=0, return_index=True, return_inverse=True, return_counts=True
    )
    inverse = inverse.reshape(-1)
    alone_in_part = np.unique(inverse * len(parts) + owner).size == n
    together = first[inverse]
    joined = together != np.arange(n)
    if not joined.any():
        return np.arange(n), np.arange(n), []
    if not weld:
        told = f"{int(joined.sum())} points of the {len(parts)} parts coincide: kept apart"
        return np.arange(n), np.arange(n), [told]
    if not alone_in_part:
        twice = np.zeros(len(counts), bool)
        seen, times = np.unique(inverse * len(parts) + owner, return_counts=True)
        twice[seen[times > 1] // len(parts)] = True
        joined &= ~twice[inverse]
    apart = np.zeros(n, bool)
    for values in fields.values():
        flat = values.reshape(n, -1)
        apart |= (flat != flat[together]).any(1)
    differ = np.zeros(len(counts), bool)
    differ[inverse[apart]] = True
    kept_apart = joined & differ[inverse]
    joined &= ~differ[inverse]
    keep = np.flatnonzero(~joined)
    new = np.full(n, -1, np.int64)
    new[keep] = np.arange(len(keep))
    new[joined] = new[together[joined]]
    notes = []
    if joined.any():
        notes.append(
            f"{int(joined.sum())} points shared by the {len(parts)} parts were merged"
            f" ({n} points in the file)"
        )
    if kept_apart.any():
        notes.append(
            f"{int(kept_apart.sum())} points of different parts coincide but carry different"
            " values: kept apart"
        )
    return keep, new, notes


def _without_ghosts(part: Tree) -> Tree:
    ghost = part.get("cell_fields", {}).get("vtkGhostType")
    if ghost is None or not (ghost & 1).any() or part.get("groups") or part.get("boundaries"):
        return part
    real = (ghost & 1) == 0
    new_row = np.cumsum(real) - 1
    blocks, at = [], 0
    for block in part["blocks"]:
        if "offsets" in block:
            return part
        rows = block.get("rows")
        rows = np.arange(at, at + len(block["nodes"])) if rows is None else rows
        at += len(block["nodes"])
        mine = real[rows]
        blocks.append({**block, "nodes": block["nodes"][mine], "rows": new_row[rows[mine]]})
    fields = {k: v[real] for k, v in part["cell_fields"].items() if k != "vtkGhostType"}
    return {**part, "blocks": blocks, "cell_fields": fields}
