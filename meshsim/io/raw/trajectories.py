"""Trajectories as DeepMind published them: `meta.json` with TFRecord files, and their HDF5 kin.

A file holds many trajectories (Pfaff et al., "Learning Mesh-Based Simulation with Graph Networks",
ICLR 2021, released data): in a TFRecord each is one record, in HDF5 one group. The option "entry"
says which is wanted, "list" asks how many there are, "digest" for a checksum of one.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from meshsim.io.raw import Tree, expect
from meshsim.io.raw.records import example, index, record

PLACES = ("world_pos", "mesh_pos", "pos")  # the first that there is are the points
STATIC = frozenset(["cells", "mesh_pos", "pos", "node_type"])  # said to be so where no meta.json is
FLAT = {2: "line", 3: "triangle", 4: "quad"}
SOLID = {2: "line", 3: "triangle", 4: "tetra", 8: "hexahedron"}
DTYPE = re.compile(r"\b(?:float(?:16|32|64)|u?int(?:8|16|32|64))\b")
TYPES = ("static", "dynamic", "dynamic_varlen")


@dataclass
class Feature:
    """One array of a trajectory: (rows, k) for all times, or that at each time."""

    static: bool
    values: Sequence[np.ndarray] | np.ndarray

    def at(self, t: int) -> np.ndarray:
        """(rows, k) at a time."""
        return np.asarray(self.values if self.static else self.values[t])


def read(path: str, options: Tree) -> Tree:
    """One trajectory as a tree with `series`, or what there is."""
    packed = _is_hdf(path)
    if options.get("list"):
        count, wrong = (len(_groups(path)), "") if packed else _count(path)
        return {"count": count, "wrong": wrong}
    meta = _meta(path, packed)
    entry = int(options.get("entry", 0))
    if options.get("digest"):
        return {"digest": _hdf_digest(path, entry) if packed else _digest(path, entry)}
    if packed:
        found, total = _hdf(path, entry, meta)
    else:
        found, total = _record(path, entry, meta)
    notes = []
    if total > 1 and "entry" not in options:
        notes.append(f"the first of {total} trajectories")
    step = meta.get("dt", 0)
    sound = isinstance(step, int | float) and not isinstance(step, bool)
    expect(
        sound and 0 <= step <= sys.float_info.max,
        f"meta.json: `dt`: expected a number from 0, got {str(step)[:60]}",
    )
    if not step:
        notes.append("times are numbers of frames: the data set says no time step")
    return _tree(found, float(step) or 1.0, notes)


def _is_hdf(path: str) -> bool:
    with open(path, "rb") as file:
        return file.read(4) == b"\x89HDF"


def _meta(path: str, optional: bool) -> dict[str, Any]:
    place = os.path.join(os.path.dirname(os.path.abspath(path)), "meta.json")
    if not os.path.isfile(place):
        expect(optional, "there is no meta.json beside it, which says what is in it")
        return {}
    with open(place, encoding="utf-8") as file:
        try:
            meta = json.load(file)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"meta.json: not JSON ({error})") from None
    expect(isinstance(meta, dict), f"meta.json: expected a table, got {str(meta)[:60]}")
    features = meta.get("features")
    found = isinstance(features, dict) or (optional and features is None)
    expect(found, "meta.json: has no table `features`")
    for name, about in (features or {}).items():
        here = f"meta.json: feature {name!r}"
        expect(isinstance(about, dict), f"{here}: expected a table, got {str(about)[:60]}")
        kind, shape = about.get("type"), about.get("shape")
        expect(kind in TYPES, f"{here}: type {str(kind)[:60]!r} is none of {', '.join(TYPES)}")
        sound = isinstance(shape, list) and all(map(_is_length, shape))
        expect(
            sound and shape,
            f"{here}: expected a shape of numbers from 0, and −1 or null, got {str(shape)[:60]}",
        )
    return dict(meta)


def _is_length(n: Any) -> bool:
    """Whether this may stand in a shape; null and −1 are lengths that are not said."""
    return n is None or (isinstance(n, int) and not isinstance(n, bool) and n >= -1)


def _count(path: str) -> tuple[int, str]:
    places, wrong = index(path)
    return len(places), wrong


def _raw(path: str, entry: int) -> tuple[bytes, int]:
    places, wrong = index(path)
    expect(places or not wrong, wrong)
    expect(entry != len(places) or not wrong, wrong)
    expect(0 <= entry < len(places), f"has no record {entry} (records 0..{len(places) - 1})")
    with open(path, "rb") as file:
        return record(file, entry, places[entry]), len(places)


def _digest(path: str, entry: int) -> str:
    return hashlib.sha256(_raw(path, entry)[0]).hexdigest()


def _record(path: str, entry: int, meta: dict[str, Any]) -> tuple[dict[str, Feature], int]:
    data, total = _raw(path, entry)
    try:
        raw = example(data)
        return {name: _decoded(name, raw, meta) for name in meta["features"]}, total
    except ValueError as error:
        raise ValueError(f"record {entry}: {error}") from None


def _decoded(name: str, raw: Mapping[str, Any], meta: dict[str, Any]) -> Feature:
    about = meta["features"][name]
    # two of the published files say "<dtype: 'float32'>"
    text = about.get("dtype")
    said = DTYPE.search(text) if isinstance(text, str) else None
    known = ", ".join(("float16…64", "int8…64", "uint8…64"))
    trouble = f"unknown dtype {str(text)[:60]!r} (known: {known})"
    expect(said, f"meta.json: feature {name!r}: {trouble}")
    values = _numbers(name, raw, np.dtype(said[0] if said else "f4"))
    shape = [-1 if n is None else n for n in about["shape"]]
    if about["type"] == "dynamic_varlen":
        lengths = _numbers(f"length_{name}", raw, np.dtype("int32")).astype(np.int64)
        rows = int(lengths.sum())
        expect(
            bool((lengths >= 0).all()) and rows and values.size % rows == 0,
            f"`{name}`: {values.size} numbers do not make {rows} rows",
        )
        return Feature(False, np.split(values.reshape(rows, -1), lengths.cumsum()[:-1]))
    if shape.count(-1) > 1:  # the first is the time
        shape[0] = 1 if about["type"] == "static" else meta.get("trajectory_length", 0)
        expect(
            _is_length(shape[0]) and shape[0],
            f"meta.json: `trajectory_length`: expected a number, got {str(shape[0])[:60]}",
        )
    total = math.prod(n for n in shape if n >= 0)
    open_ones = shape.count(-1)
    fits = values.size == total if not open_ones else total and values.size % total == 0
    expect(
        fits and total <= max(values.size, 1) and open_ones < 2 <= len(shape),
        f"`{name}`: {values.size} numbers do not make shape {str(shape)[:60]}",
    )
    values = values.reshape(shape)
    values = values.reshape(len(values), values.shape[1], -1)  # (T, rows, k)
    return Feature(True, values[0]) if about["type"] == "static" else Feature(False, values)


def _numbers(name: str, raw: Mapping[str, Any], dtype: np.dtype[Any]) -> np.ndarray:
    expect(name in raw, f"has no feature {name!r} (it has {', '.join(sorted(raw)[:12])})")
    values = raw[name]
    if isinstance(values, np.ndarray):
        return values.astype(dtype)
    data = values[0] if len(values) == 1 else b"".join(values)
    expect(len(data) % dtype.itemsize == 0, f"`{name}`: {len(data)} bytes are no {dtype}")
    return np.frombuffer(data, dtype.newbyteorder("<")).astype(dtype, copy=False)


def _linked(group: Any, name: str, kind: type) -> Any:
    """What a group holds under a name, if it is of the kind and no link into another file."""
    import h5py

    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        return None
    return found if isinstance(found := group[name], kind) else None


def _is_trajectory(group: Any) -> bool:
    """Whether a group has cells, as rows of numbers of points, and positions; once or for times."""
    import h5py

    def rows(name: str, kinds: str, widths: Collection[int]) -> bool:
        data = _linked(group, name, h5py.Dataset)
        return (
            data is not None
            and data.dtype.kind in kinds
            and data.ndim in (2, 3)
            and data.shape[-1] in widths
        )

    return rows("cells", "iu", range(2, 28)) and any(rows(name, "f", (2, 3)) for name in PLACES)


def _groups(path: str) -> list[str]:
    """Names of the groups that hold a trajectory; numbers in their order."""
    import h5py

    with h5py.File(path, "r") as file:
        groups = {name: _linked(file, name, h5py.Group) for name in file}
        names = [n for n, group in groups.items() if group is not None and _is_trajectory(group)]
    return sorted(names, key=lambda n: [(not w.isdigit(), int(w) if w.isdigit() else 0, w)
                                        for w in re.findall(r"\d+|\D+", n)])  # fmt: skip


def _entry(path: str, entry: int) -> tuple[str, int]:
    """The group of one trajectory, and how many there are."""
    names = _groups(path)
    expect(names, "no group holds a trajectory (expected `cells` and `pos`, `mesh_pos`, …)")
    expect(0 <= entry < len(names), f"has no trajectory {entry} (0..{len(names) - 1})")
    return names[entry], len(names)


def _hdf_digest(path: str, entry: int) -> str:
    import h5py

    digest = hashlib.sha256()
    with h5py.File(path, "r") as file:
        group = file[_entry(path, entry)[0]]
        for name in sorted(group):
            values = group[name][()]
            digest.update(f"{name} {values.dtype.str} {values.shape} ".encode())
            digest.update(np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()


def _hdf(path: str, entry: int, meta: dict[str, Any]) -> tuple[dict[str, Feature], int]:
    import h5py

    place, total = _entry(path, entry)
    said = {k for k, about in (meta.get("features") or {}).items() if about["type"] == "static"}
    found: dict[str, Feature] = {}
    with h5py.File(path, "r") as file:
        group = file[place]
        for name in group:
            here = f"group {place!r}: `{name}`"
            # a link may lead into another file
            expect(isinstance(group.get(name, getlink=True), h5py.HardLink), f"{here}: is a link")
            data = group[name]
            expect(
                isinstance(data, h5py.Dataset) and data.dtype.kind in "iufb", f"{here}: no array"
            )
            if name in STATIC | said:
                tiled = data.ndim == 3
                values = data[0] if tiled else data[()]
                # repeated for every time by the usual converter; only then is it one mesh
                expect(not tiled or np.array_equal(values, data[-1]), f"{here}: changes in time")
                found[name] = Feature(True, values.reshape(len(values), -1))
            elif data.ndim >= 2:
                found[name] = Feature(False, data[()].reshape(*data.shape[:2], -1))
    return found, total


def _tree(found: dict[str, Feature], step: float, notes: list[str]) -> Tree:
    place = next((name for name in PLACES if name in found), "")
    expect(place and "cells" in found, "has no cells or no positions (mesh_pos, world_pos)")
    lengths = {name: len(f.values) for name, f in found.items() if not f.static}
    expect(lengths, "has no feature that changes in time")
    total = next(iter(lengths.values()))
    other = next((name for name, n in lengths.items() if n != total), "")
    expect(not other, f"`{other}` has {lengths.get(other)} times, others {total}")
    expect(total, "has no times")
    cells, starts = found["cells"], [0]
    kind = np.asarray(cells.values if cells.static else cells.values[0]).dtype
    expect(kind.kind in "iu", f"`cells` has dtype {kind} (expected whole numbers)")
    for t in range(1, 0 if cells.static else total):
        same = np.array_equal(cells.at(t), cells.at(t - 1))
        if not same or len(found[place].at(t)) != len(found[place].at(t - 1)):
            starts.append(t)
    ends = [*starts[1:], total]
    segments = [_segment(found, place, a, b, step) for a, b in zip(starts, ends, strict=True)]
    segments[0]["notes"] = notes
    return {**segments[0], "later": segments[1:]}


def _segment(found: dict[str, Feature], place: str, a: int, b: int, step: float) -> Tree:
    """The frames a … b − 1, all of one mesh."""
    where, cells = found[place], found["cells"].at(a)
    points = where.at(a)
    expect(points.ndim == 2 and points.shape[1] in (2, 3), f"`{place}`: no positions")
    names = SOLID if points.shape[1] == 3 else FLAT
    wide = cells.shape[-1]
    expect(wide in names, f"`cells`: cells of {wide} points in {points.shape[1]}-D are not known")
    out: Tree = {
        "exact": True,
        "points": points,
        "blocks": [{"type": names[wide], "nodes": cells.reshape(-1, wide).astype(np.int64)}],
        "point_fields": {},
        "cell_fields": {},
        "global_fields": {},
        "times": [step * t for t in range(a, b)],
        "series": {"point": {}, "cell": {}},
    }
    if not where.static:
        out["series"]["points"] = np.stack([where.at(t) for t in range(a, b)])
    for name, feature in found.items():
        if name in ("cells", place):
            continue
        first = feature.at(a)
        at = {len(cells): "cell", len(points): "point"}.get(len(first), "")
        expect(
            at or (feature.static and len(first) == 1),
            f"`{name}` has {len(first)} rows, neither the points' ({len(points)}) nor the cells'"
            f" ({len(cells)})",
        )
        if feature.static:
            out[f"{at or 'global'}_fields"][name] = _narrow(first)
        else:
            out["series"][at][name] = _narrow(np.stack([feature.at(t) for t in range(a, b)]))
    return out


def _narrow(values: np.ndarray) -> np.ndarray:
    """One component is no vector; whole numbers are int64."""
    values = values[..., 0] if values.shape[-1] == 1 else values
    return values.astype(np.int64) if values.dtype.kind in "iu" else values
