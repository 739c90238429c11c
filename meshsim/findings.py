"""What `meshsim check` reports: defects of a mesh and of its fields, as plain data."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor

from meshsim.defects import ERROR, FIRST, INFORMATION, WARNING, Finding, of_mesh
from meshsim.mesh import Mesh, as_tensor
from meshsim.sample import Sample
from meshsim.series import Series

ORDER = (ERROR, WARNING, INFORMATION)


def check(obj: Mesh | Series | Sample, *, limit: int = FIRST, full: bool = False) -> dict[str, Any]:
    """Say whether a mesh, its boundaries and its fields are fit for use, and what is wrong.

    Arguments:
        obj: what to look at. Of a series the mesh it rests on; where it moves also the last one.
        limit: how many numbers a finding lists.
        full: look at the fields of every frame of a series, not the first and the last.

    Returns:
        {"ok": no errors, "problems": [a `Finding` each], "figures": {name: {"max", "mean",
        "over", "threshold"}}}, the figures only of meshes that fill space. A Sample of several
        branches has their problems under "where", and {branch: figures}.

    >>> found = check(Mesh([[0., 0.], [1., 0.], [0., 1.], [5., 5.]], {"triangle": [[0, 1, 2]]}))
    >>> found["ok"], [(f["kind"], f["count"], f["examples"]) for f in found["problems"]]
    (True, [('orphan_points', 1, (3,))])
    """
    branches = obj.branches if isinstance(obj, Sample) else {"mesh": obj}
    found: list[Finding] = []
    figures: dict[str, Any] = {}
    for name, branch in branches.items():
        some, numbers = _branch(branch, limit, full)
        prefix = f"{name}: " if len(branches) > 1 else ""
        found += [replace(f, where=(prefix + f.where).rstrip(": ")) for f in some]
        figures[name] = numbers
    return {
        "ok": not any(f.severity == ERROR for f in found),
        "problems": [asdict(f) for f in sorted(found, key=lambda f: ORDER.index(f.severity))],
        "figures": figures if len(branches) > 1 else next(iter(figures.values())),
    }


def _branch(branch: Mesh | Series, limit: int, full: bool) -> tuple[list[Finding], dict[str, Any]]:
    if isinstance(branch, Mesh):
        shape, numbers = of_mesh(branch, limit)
        return [*shape, *_of_fields(branch, [branch])], numbers
    found: list[Finding] = []
    figures: dict[str, Any] = {}
    for segment in branch.segments:
        last = len(segment) - 1
        moving = segment.points is not None
        shape, own = of_mesh(segment.frame(0) if moving else segment.mesh, limit)
        figures = figures or own
        found += shape
        if moving and last:
            known = {f.kind for f in shape}
            later, _ = of_mesh(segment.frame(last), limit)
            time = f"time {float(segment.times[last]):g}"
            found += [replace(f, where=time) for f in later if f.kind not in known]
        frames = range(last + 1) if full else dict.fromkeys((0, last))
        found += _of_fields(segment.mesh, (segment.frame(t) for t in frames))
    return found, figures


def _of_fields(mesh: Mesh, frames: Iterable[Mesh]) -> list[Finding]:
    """NaN and infinite values, and fields that are the same everywhere at all times looked at."""
    bad: dict[tuple[str, str], int] = {}
    low: dict[tuple[str, str], Tensor] = {}
    high: dict[tuple[str, str], Tensor] = {}
    first: dict[tuple[str, str], Sequence[int]] = {}
    for frame in frames:
        for of, fields in (("points", frame.point_fields), ("cells", frame.cell_fields)):
            for name, values in fields.items():
                rows = as_tensor(values)
                rows = rows.reshape(len(rows), -1)
                key = (of, name)
                if not rows.numel():
                    continue
                if rows.is_floating_point():
                    finite = rows.isfinite()
                    if not bool(finite.all()):
                        bad[key] = bad.get(key, 0) + int((~finite).sum())
                        wrong = (~finite).any(1).nonzero().squeeze(1)
                        first.setdefault(key, wrong[:FIRST].tolist())
                        continue
                least, most = rows.amin(0), rows.amax(0)
                low[key] = torch.minimum(low.get(key, least), least)
                high[key] = torch.maximum(high.get(key, most), most)
    found = []
    for (of, name), count in bad.items():
        examples = tuple(first[of, name])
        text = f"{count} values of field {name!r} on the {of} are NaN or infinite"
        found.append(Finding("field_not_finite", ERROR, count, of, examples, None, text, name))
    for (of, name), least in low.items():
        if (of, name) not in bad and bool((least == high[of, name]).all()):
            n = mesh.n_points if of == "points" else mesh.n_cells
            text = f"field {name!r} has one value on all {of}"
            if n > 1:
                found.append(Finding("constant_field", INFORMATION, n, of, (), None, text, name))
    return found
