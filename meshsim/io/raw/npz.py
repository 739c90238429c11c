"""meshsim's own .npz: see `meshsim.io.to_npz` for the layout."""

from __future__ import annotations

from urllib.parse import unquote

import numpy as np

from meshsim.io.raw import NODES, Tree, expect

NUMBERS = (
    *("points", "cells", "point", "cell", "global", "boundary", "boundary_field", "region"),
    *("times", "parameter", "z", "file_order"),
)
FACES = {"vertex": 1, "line": 2, "triangle": 3, "quad": 4}


def read(path: str, options: Tree) -> Tree:
    """An .npz as a tree; with `times`, arrays (T, N, …) become `series`."""
    with np.load(path, allow_pickle=False) as file:
        data = {name: file[name] for name in file.files}
    expect("points" in data, f"has no array `points` (got {', '.join(list(data)[:8]) or 'none'})")
    for name, values in data.items():
        kinds = "biuf" if name.partition("/")[0] in NUMBERS else "biufU"
        expect(values.dtype.kind in kinds, f"`{name}` has dtype {values.dtype} (expected numbers)")
    times = data["times"].astype(np.float64) if "times" in data else None
    expect(times is None or times.ndim == 1, "`times` is no list of times")
    moves = times is not None and data["points"].ndim == 3
    expect(
        moves or data["points"].ndim == 2,
        f"`points` has shape {data['points'].shape} (expected (N, D), or (T, N, D) with `times`)",
    )
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
    if moves and times is not None:
        fits = len(data["points"]) == len(times) > 0
        expect(fits, f"`points` has {len(data['points'])} times, `times` {len(times)}")
        series["points"], out["points"] = data["points"], data["points"][0]
    rows = {"point": len(out["points"]), "cell": sum(_length(b) for b in out["blocks"])}
    for key, values in data.items():
        place, _, rest = key.partition("/")
        name = unquote(rest)
        if place in rows:
            moving = times is not None and values.ndim >= 2
            if moving and values.shape[:2] == (len(times), rows[place]):  # type: ignore[arg-type]
                series[place][name] = values
                continue
            here = len(values) if values.ndim else 0
            expect(
                here == rows[place],
                f"`{key}` has shape {values.shape} (expected {rows[place]} rows, one for each"
                f" {place})",
            )
            out[f"{place}_fields"][name] = values
        elif place == "global":
            out["global_fields"][name] = values
        elif place == "parameter":
            out["parameters"][name] = values
        elif place == "region":
            out["groups"][name] = {"cells": _indices(key, values, 1), "region": True}
    if "z" in data:
        expect(data["z"].size == 1, f"`z` has shape {data['z'].shape} (expected one number)")
        out["z"] = float(data["z"].item())
    if "file_order" in data:
        out["file_order"] = _indices("file_order", data["file_order"], 1)
    if "flattened" in data:
        out["flattened"] = [str(name) for name in np.atleast_1d(data["flattened"])]
    pairs = [str(text).rpartition("=") for text in np.atleast_1d(data.get("dtypes", []))]
    out["dtypes"] = {key: dtype for key, _, dtype in pairs}
    if times is not None:
        out["times"], out["series"] = times.tolist(), series
    return out


def _length(block: Tree) -> int:
    return len(block["offsets"]) - 1 if "offsets" in block else len(block["nodes"])


def _indices(key: str, values: np.ndarray, dims: int) -> np.ndarray:
    """Whole numbers in an array of so many dimensions, as int64."""
    whole = values.dtype.kind in "iu" or not values.size
    expect(whole, f"`{key}` has dtype {values.dtype} (expected whole numbers)")
    shape = "(n,)" if dims == 1 else "(n, k)"
    expect(values.ndim == dims, f"`{key}` has shape {values.shape} (expected {shape})")
    return values.astype(np.int64)


def _offsets(key: str, values: np.ndarray, total: int) -> np.ndarray:
    """Where the rows of a ragged array of so many entries begin, and the last one ends."""
    offsets = _indices(key, values, 1)
    expect(
        len(offsets) and offsets[0] == 0 and offsets[-1] == total and (np.diff(offsets) >= 0).all(),
        f"`{key}`: expected offsets that rise from 0 to {total}",
    )
    return offsets


def _ragged(key: str, found: dict[str, np.ndarray], parts: tuple[str, ...]) -> Tree:
    """Ragged rows: the flat array `nodes`, and offsets into it, or into the offsets before."""
    lacking = [part for part in parts if part not in found]
    expect(not lacking, f"`{key}` lacks {', '.join(lacking)}")
    out: Tree = {"nodes": _indices(f"{key}/nodes", found["nodes"], 1)}
    total = len(out["nodes"])
    for part in parts[1:]:
        out[part] = _offsets(f"{key}/{part}", found[part], total)
        total = len(out[part]) - 1
    return out


PARTS = {"polygon": ("nodes", "offsets"), "polyhedron": ("nodes", "face_offsets", "offsets")}


def _blocks(data: dict[str, np.ndarray]) -> list[Tree]:
    found: dict[str, dict[str, np.ndarray]] = {}
    for key, values in data.items():
        place, _, rest = key.partition("/")
        if place != "cells":
            continue
        kind, _, part = rest.partition("/")
        expect(kind in NODES, f"`{key}`: unknown cell type {kind!r} (known: {', '.join(NODES)})")
        known = PARTS.get(kind, ("",))
        expect(part in known, f"`{key}`: unknown array (expected {' and '.join(known) or kind})")
        found.setdefault(kind, {})[part] = values
    blocks = []
    for kind, arrays in found.items():
        if kind in PARTS:
            blocks.append({"type": kind, **_ragged(f"cells/{kind}", arrays, PARTS[kind])})
            continue
        nodes = _indices(f"cells/{kind}", arrays[""], 2)
        k, shape = NODES[kind], nodes.shape
        expect(shape[1] == k, f"`cells/{kind}`: shape {shape}, not (C, {k})")
        blocks.append({"type": kind, "nodes": nodes})
    return blocks


def _boundaries(data: dict[str, np.ndarray]) -> Tree:
    out: Tree = {}
    ragged: dict[str, dict[str, np.ndarray]] = {}
    for key, values in data.items():
        words = key.split("/")
        if words[0] != "boundary" or len(words) < 3:
            continue
        found = out.setdefault(
            unquote(words[1]), {"sizes": [], "nodes": [], "kind": "", "fields": {}}
        )
        if words[2] == "polygon":
            whole = "/".join(words[:3])
            ragged.setdefault(whole, {})[words[-1]] = values
            if len(ragged[whole]) == 2:
                one = _ragged(whole, ragged[whole], PARTS["polygon"])
                found["sizes"].append(np.diff(one["offsets"]))
                found["nodes"].append(one["nodes"])
            continue
        corners, nodes = FACES.get(words[2].rstrip("0123456789"), 0), _indices(key, values, 2)
        expect(
            corners and nodes.shape[1] == NODES.get(words[2]),
            f"`{key}`: expected (n, k) of a face type",
        )
        found["sizes"].append(np.full(len(nodes), corners))
        found["nodes"].append(nodes[:, :corners].reshape(-1))
    for whole, arrays in ragged.items():
        lacking = [part for part in PARTS["polygon"] if part not in arrays]
        expect(not lacking, f"`{whole}` lacks {', '.join(lacking)}")
    for found in out.values():
        for what in ("sizes", "nodes"):
            found[what] = np.concatenate([np.zeros(0, np.int64), *found[what]])
    for key, values in data.items():
        words = key.split("/")
        name = unquote(words[1]) if len(words) > 1 else ""
        if words[0] == "boundary_kind" and name in out:
            word = values.dtype.kind == "U" and not values.ndim
            expect(
                word, f"`{key}` has dtype {values.dtype}, shape {values.shape} (expected a word)"
            )
            out[name]["kind"] = str(values)
        elif words[0] == "boundary_field" and len(words) == 3 and name in out:
            n = len(out[name]["sizes"])
            fits = values.ndim > 0 and len(values) == n
            expect(fits, f"`{key}` has shape {values.shape} (expected {n} rows, one for each face)")
            out[name]["fields"][unquote(words[2])] = values
    return out
