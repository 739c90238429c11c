"""What `meshsim info` reports, as plain data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from meshsim.mesh import Mesh, MeshSource, as_tensor
from meshsim.sample import Sample
from meshsim.series import Frames, Series


def describe(
    obj: Mesh | Series | Sample,
    *,
    file: str = "",
    format: str = "",
    reader: str = "",
    full: bool = False,
) -> dict[str, Any]:
    """Say what an object holds, as data that JSON can carry (DESIGN §5, `info --json`).

    Arguments:
        obj: what to look at.
        file, format, reader: where it came from; by default what the mesh says of its source.
        full: look at every frame of a series for the ranges of its fields; otherwise at the first
            and the last, which a note says.

    Returns:
        {"file", "format", "reader", "points", "dim", "cells", "faces", "point_fields",
        "cell_fields", "boundaries", "regions", "times", "bounds", "notes", "parameters"};
        a Sample of several branches has "branches" {name: these} instead.

    >>> mesh = Mesh([[0., 0.], [1., 0.], [0., 1.]], {"triangle": [[0, 1, 2]]}, {"p": [1., 2., 3.]})
    >>> describe(mesh)["point_fields"]
    {'p': {'shape': [3], 'dtype': 'float64', 'min': 1.0, 'max': 3.0}}
    """
    found = _source(obj)
    if found is not None:
        file, format, reader = (
            file or found.path, format or found.format, reader or found.reader
        )  # fmt: skip
    source = {"file": file, "format": format, "reader": reader}
    if isinstance(obj, Sample):
        parameters = {name: value.tolist() for name, value in obj.parameters.items()}
        if len(obj.branches) > 1:
            branches = {name: describe(b, full=full) for name, b in obj.branches.items()}
            for branch in branches.values():
                for key in (*source, "parameters"):
                    del branch[key]
            return {**source, "branches": branches, "parameters": parameters}
        return {**source, **_branch(obj.branch, full), "parameters": parameters}
    return {**source, **_branch(obj, full), "parameters": {}}


def _source(obj: Mesh | Series | Sample) -> MeshSource | None:
    if isinstance(obj, Sample):
        return next((s for b in obj.branches.values() if (s := _source(b)) is not None), None)
    return obj.source if isinstance(obj, Mesh) else obj.mesh.source


def _branch(branch: Mesh | Series, full: bool) -> dict[str, Any]:
    if isinstance(branch, Mesh):
        return _mesh(branch)
    out = _mesh(branch.mesh)
    frames = range(len(branch)) if full else dict.fromkeys((0, len(branch) - 1))
    for place, fields in (("point", branch.point_fields), ("cell", branch.cell_fields)):
        for name, found in fields.items():
            out[f"{place}_fields"][name] = _frames(found, frames)
    out["times"] = branch.times.tolist()
    if len(frames) < len(branch):
        out["notes"].append("ranges are those of the first and the last time (info --full: of all)")
    if branch.points is not None:
        bounds = [_bounds(as_tensor(branch.points[t])) for t in frames]
        out["bounds"] = [
            [pick(x) for x in zip(*(b[i] for b in bounds), strict=True)]
            for i, pick in ((0, min), (1, max))
        ]
        out["moving"] = True
    if branch.later:
        out["segments"] = [
            {"times": s.times.tolist(), "points": s.mesh.n_points, "cells": _cells(s.mesh)}
            for s in branch.segments
        ]
    return out


def _mesh(mesh: Mesh) -> dict[str, Any]:
    return {
        "points": mesh.n_points,
        "dim": mesh.dim,
        "cells": _cells(mesh),
        "faces": len(mesh.faces),
        "point_fields": {name: _field([v]) for name, v in mesh.point_fields.items()},
        "cell_fields": {name: _field([v]) for name, v in mesh.cell_fields.items()},
        "global_fields": {name: value.tolist() for name, value in mesh.global_fields.items()},
        "boundaries": {name: len(b.faces) for name, b in mesh.boundaries.items()},
        "regions": {name: len(rows) for name, rows in mesh.regions.items()},
        "times": [],
        "bounds": _bounds(mesh.points),
        "notes": list(mesh.notes),
    }


def _cells(mesh: Mesh) -> dict[str, int]:
    out: dict[str, int] = {}
    for block in mesh.cells:
        out[block.type] = out.get(block.type, 0) + len(block)
    return out


def _bounds(points: Tensor) -> list[list[float]]:
    return [points.min(0).values.tolist(), points.max(0).values.tolist()]


def _frames(found: Frames, steps: Iterable[int]) -> dict[str, Any]:
    out = _field([as_tensor(found[t]) for t in steps])
    return {**out, "shape": [len(found), *out["shape"]]}


def _field(frames: list[Tensor]) -> dict[str, Any]:
    """Shape, dtype and range of a field, over some frames; a range for each component."""
    first = frames[0]
    out: dict[str, Any] = {
        "shape": list(first.shape),
        "dtype": str(first.dtype).removeprefix("torch."),
    }
    ranges: list[Mapping[str, Tensor]] = []
    bad = 0
    for values in frames:
        if values.is_complex() or not values.numel():
            continue
        rows = values.reshape(len(values), -1) if values.dim() else values.reshape(1, 1)
        rows = rows.double() if rows.dtype in (torch.bool, torch.float16, torch.bfloat16) else rows
        if rows.is_floating_point():
            finite = torch.isfinite(rows)
            bad += int((~finite).sum())
            low = torch.where(finite, rows, torch.inf).min(0).values
            high = torch.where(finite, rows, -torch.inf).max(0).values
        else:
            low, high = rows.min(0).values, rows.max(0).values
        ranges.append({"min": low, "max": high})
    for key, pick in (("min", torch.minimum), ("max", torch.maximum)):
        value: Any = None
        if ranges:
            total = ranges[0][key]
            for more in ranges[1:]:
                total = pick(total, more[key])
            listed = [x if abs(x) != float("inf") else None for x in total.tolist()]
            value = listed[0] if first.dim() <= 1 else listed
        out[key] = value
    if bad:
        out["not_finite"] = bad
    return out
