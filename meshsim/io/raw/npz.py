"""meshsim's own .npz: see `meshsim.io.to_npz` for the layout."""

from __future__ import annotations

from urllib.parse import unquote

import numpy as np

from meshsim.io.raw import NODES, Tree, expect, ragged

CORNERS = {"vertex": 1, "line": 2, "triangle": 3, "quad": 4}


def read(path: str, options: Tree) -> Tree:
    """An .npz as a tree; with `times`, arrays (T, N, …) become `series`."""
    with np.load(path, allow_pickle=False) as file:
        data = {name: file[name] for name in file.files}
    expect("points" in data, f"has no array `points` (got {', '.join(list(data)[:8]) or 'none'})")
    for name, values in data.items():
        expect(
            values.dtype.kind in "biufU", f"`{name}` has dtype {values.dtype} (expected numbers)"
        )
    times = np.atleast_1d(data["times"]).astype(np.float64) if "times" in data else None
    out: Tree = {
        "exact": True,  # shapes are as they are meant
        "points": data["points"],
        "blocks": _blocks(data),
        "point_fields": {},
        "cell_fields": {},
        "global_fields": {},
        "parameters": {},
        "boundaries": _boundaries(data),
        "groups": {},
        "notes": [str(note) for note in np.atleast_1d(data.get("notes", []))],
    }
    series: Tree = {"point": {}, "cell": {}}
    if times is not None and data["points"].ndim == 3:
        expect(len(data["points"]) == len(times), "`points` and `times` differ in length")
        series["points"], out["points"] = data["points"], data["points"][0]
    rows = {"point": len(out["points"]), "cell": sum(_length(b) for b in out["blocks"])}
    for key, values in data.items():
        place, _, rest = key.partition("/")
        name = unquote(rest)
        if place in rows:
            moving = times is not None and values.ndim >= 2
            if moving and values.shape[:2] == (len(times), rows[place]):  # type: ignore[arg-type]
                series[place][name] = values
            else:
                out[f"{place}_fields"][name] = values
        elif place == "global":
            out["global_fields"][name] = values
        elif place == "parameter":
            out["parameters"][name] = values
        elif place == "region":
            out["groups"][name] = {"cells": values, "region": True}
    for key in ("z", "file_order"):
        if key in data:
            out[key] = float(data[key]) if key == "z" else data[key]
    if "flattened" in data:
        out["flattened"] = [str(name) for name in np.atleast_1d(data["flattened"])]
    pairs = [str(text).rpartition("=") for text in np.atleast_1d(data.get("dtypes", []))]
    out["dtypes"] = {key: dtype for key, _, dtype in pairs}
    if times is not None:
        out["times"], out["series"] = times.tolist(), series
    return out


def _length(block: Tree) -> int:
    return len(block["offsets"]) - 1 if "offsets" in block else len(block["nodes"])


def _blocks(data: dict[str, np.ndarray]) -> list[Tree]:
    blocks: dict[str, Tree] = {}
    for key, values in data.items():
        place, _, rest = key.partition("/")
        if place != "cells":
            continue
        kind, _, part = rest.partition("/")
        expect(kind in NODES, f"`{key}`: unknown cell type {kind!r} (known: {', '.join(NODES)})")
        expect(values.dtype.kind in "iu", f"`{key}` has dtype {values.dtype} (expected integers)")
        blocks.setdefault(kind, {"type": kind})[part or "nodes"] = values.astype(np.int64)
    for kind, block in blocks.items():
        want = {"polygon": {"offsets"}, "polyhedron": {"offsets", "face_offsets"}}.get(kind, set())
        missing = sorted((want | {"nodes"}) - set(block))
        expect(not missing, f"`cells/{kind}` lacks {', '.join(missing)}")
        k = NODES[kind]
        shape = block["nodes"].shape
        if k:
            expect(
                len(shape) == 2 and shape[1] == k, f"`cells/{kind}`: shape {shape}, not (C, {k})"
            )
    return list(blocks.values())


def _boundaries(data: dict[str, np.ndarray]) -> Tree:
    out: Tree = {}
    for key, values in data.items():
        words = key.split("/")
        if words[0] == "boundary" and len(words) >= 3:
            name = unquote(words[1])
            found = out.setdefault(name, {"sizes": [], "nodes": [], "kind": "", "fields": {}})
            if words[2] == "polygon":
                if words[-1] == "offsets":
                    found["sizes"].append(np.diff(values))
                else:
                    found["nodes"].append(values.astype(np.int64))
                continue
            shape = words[2].rstrip("0123456789")
            expect(
                shape in CORNERS and values.ndim == 2, f"`{key}`: expected (n, k) of a face type"
            )
            found["sizes"].append(np.full(len(values), CORNERS[shape]))
            found["nodes"].append(values[:, : CORNERS[shape]].astype(np.int64).reshape(-1))
    for key, values in data.items():
        words = key.split("/")
        name = unquote(words[1]) if len(words) > 1 else ""
        if words[0] == "boundary_kind" and name in out:
            out[name]["kind"] = str(values)
        elif words[0] == "boundary_field" and len(words) == 3 and name in out:
            out[name]["fields"][unquote(words[2])] = values
    for found in out.values():
        for what in ("sizes", "nodes"):
            found[what] = np.concatenate([np.zeros(0, np.int64), *found[what]])
        expect(ragged(found["sizes"])[-1] == len(found["nodes"]), "a boundary is damaged")
    return out
