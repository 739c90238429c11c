"""OpenFOAM: cell fields into the time folders of an existing case with the same mesh."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from meshsim.check import InputError, check_finite
from meshsim.io import guard, plain
from meshsim.io.foam_text import cell_values, changed_field, new_field
from meshsim.io.holds import branch_of
from meshsim.io.raw import content
from meshsim.io.raw.foam import Case, find
from meshsim.mesh import Mesh
from meshsim.sample import Sample
from meshsim.series import Series

CLASSES = {1: "Scalar", 3: "Vector", 6: "SymmTensor", 9: "Tensor"}
NONE = "0 0 0 0 0 0 0"
_DIMENSIONS = re.compile(rb"^\s*dimensions\s*\[([^\[\]]*)\]\s*;", re.M)
_WORD = re.compile(r"[^\s\"'/;{}]+")  # OpenFOAM's `word::valid`
_TIME = re.compile(r"\d+(\.\d+)?([eE][-+]?\d+)?")


def losses(obj: Mesh | Series | Sample) -> list[str]:
    """What a case cannot take: everything but cell fields."""
    branch = branch_of(obj)
    mesh = branch.frame(0) if isinstance(branch, Series) else branch
    out = []
    if mesh.point_fields:
        out.append(f"a case takes cell fields only: {', '.join(mesh.point_fields)} is lost")
    odd = [k for k, v in mesh.cell_fields.items() if _width(v.numpy()) not in CLASSES]
    if odd:
        out.append(f"fields of a case have 1, 3, 6 or 9 components: {', '.join(odd)} is lost")
    if odd := [repr(k) for k in mesh.cell_fields if not _WORD.fullmatch(k)]:
        out.append(f"names in a case have no spaces, quotes or /;{{}}: {', '.join(odd)} is lost")
    return out


def place(path: Path) -> tuple[Path, str] | None:
    """Case and time of CASE or CASE/TIME, the time "" where none is named; None: neither.

    >>> place(Path("no such case/0.5")) is None
    True
    """
    if _TIME.fullmatch(path.name) and (path.parent / "constant").is_dir():
        return path.parent, path.name
    return (path, "") if path.is_dir() else None


def write(obj: Mesh | Series | Sample, case: Path, time: str = "") -> list[str]:
    """Write the cell fields to CASE/TIME/FIELD, each file whole or not at all.

    A mesh goes to `time`, else to the last time of the case (or to "0"), a series to its own times.
    A field that the case has already, at this time or before, keeps its file's boundary conditions,
    physical dimensions and whatever else stands there: a solver can start from what is written.
    Values that the mesh brings for patches, and that are not those of the file, are written as
    `calculated`, as are those of a field that is new; that one is without dimensions.

    Raises:
        InputError: the folder holds no case, or a case with another mesh; or, with no `time`
            named, a field would replace another of its name in the case's last time.
    """
    from meshsim.io.formats import format_of

    form = format_of(case)
    tree = guard.fetch(form.module, case, form.options)
    branch = branch_of(obj)
    series = branch if isinstance(branch, Series) else None
    mesh = series.mesh if series is not None else branch
    assert isinstance(mesh, Mesh)
    n = sum(len(block["rows"]) for block in tree["blocks"])
    if mesh.n_cells != n:
        raise InputError(f"the case has {n} cells, the mesh {mesh.n_cells}")
    points = plain.array(mesh.points)
    if len(points) != len(tree["points"]) or not np.allclose(
        points, tree["points"][:, : mesh.dim], rtol=0, atol=1e-6 * np.ptp(tree["points"])
    ):
        raise InputError("the case has other points than the mesh")
    own, other = _middles(tree["blocks"], tree["points"]), _middles(plain.blocks(mesh), points)
    far = np.abs(own[:, : mesh.dim] - other).max(1) > 1e-6 * np.ptp(tree["points"])
    if far.any():
        raise InputError(
            f"the case has other cells than the mesh, or in another order (cell {far.argmax()})"
        )
    patches = {name: (len(p["sizes"]), p["kind"]) for name, p in tree["boundaries"].items()}
    times = [name for _, name in Case(str(case)).times] or ["0"]
    if series is not None:
        if time:
            raise InputError(f"{case / time}: a series goes to times of its own: name the case")
        for t, when in enumerate(series.times.tolist()):
            _frame(series.frame(t), case, f"{when:.10g}", patches, times)
    else:
        if not time:
            time = times[-1]
            _check_free(mesh, case, time)
        _frame(mesh, case, time, patches, times)
    return losses(obj)


def _middles(blocks: list[dict[str, Any]], points: np.ndarray) -> np.ndarray:
    """(C, D) the mean of each cell's points, cells in the order of the file."""
    total = np.zeros((sum(len(block["rows"]) for block in blocks), points.shape[1]))
    for block in blocks:
        nodes, ends = np.asarray(block["nodes"]).reshape(-1), np.arange(len(block["rows"]) + 1)
        if "offsets" in block:
            ends = np.asarray(block["offsets"])
            if "face_offsets" in block:
                ends = np.asarray(block["face_offsets"])[ends]
        else:
            ends = ends * (len(nodes) // len(block["rows"]))
        cell = np.repeat(np.arange(len(block["rows"])), np.diff(ends))
        # a polyhedron lists a point with each of its faces
        cell, nodes = np.divmod(np.unique(cell * len(points) + nodes), len(points))
        count = np.bincount(cell, minlength=len(block["rows"]))
        for k in range(points.shape[1]):
            sums = np.bincount(cell, points[nodes, k], minlength=len(block["rows"]))
            total[block["rows"], k] = sums / count
    return total


def check_free(path: Path, names: Iterable[str]) -> None:
    """Complain, before the work, where `write` would: fields of these names in a case's last time.

    Raises:
        InputError: there is one, and `path` names no time.
    """
    found = place(path)
    if found is None or found[1]:
        return
    times = [name for _, name in Case(str(path)).times]
    for name in names if times else ():
        if find(str(path / times[-1]), name):
            raise _taken(path, times[-1], name)


def _taken(case: Path, time: str, name: str) -> InputError:
    return InputError(
        f"{case}: {time}/{name} is there with other values: name the time to write to"
        f" ({case / time} replaces it)"
    )


def _check_free(mesh: Mesh, case: Path, time: str) -> None:
    for name, values in plain.tree(mesh)["cell_fields"].items():
        path = find(str(case / time), name)
        if path is not None and not _holds(path, values):
            raise _taken(case, time, name)


def _holds(path: str, values: np.ndarray) -> bool:
    """Whether a file's cells have these values already (to float32's digits)."""
    held = cell_values(path)
    rows = values.reshape(len(values), -1)
    if held is None:
        return False
    held = held.reshape(-1, rows.shape[1]) if held.size % rows.shape[1] == 0 else held[None]
    fits = held.shape in (rows.shape, (1, rows.shape[1]))
    return fits and np.allclose(rows, held, rtol=1e-6, atol=0, equal_nan=True)


def _width(values: np.ndarray) -> int:
    return 1 if values.ndim == 1 else int(np.prod(values.shape[1:]))


def _latest(case: Path, name: str, time: str, times: list[str]) -> str | None:
    """The case's file of a field: at this time, else the last one before it, else the first."""
    before = [t for t in times if float(t) < float(time)]
    after = [t for t in times if float(t) > float(time)]
    for folder in (time, *reversed(before), *after):
        path = find(str(case / folder), name)
        if path is not None:
            return path
    return None


def _dimensions(path: str | None) -> str:
    """The physical dimensions that a field's file says, "0 0 0 0 0 0 0" where there is none."""
    found = _DIMENSIONS.search(content(path)) if path is not None else None
    return " ".join(found[1].decode().split()) if found else NONE


def _frame(
    mesh: Mesh, case: Path, time: str, patches: dict[str, tuple[int, str]], times: list[str]
) -> None:
    folder = case / time
    fields = {
        name: values
        for name, values in plain.tree(mesh)["cell_fields"].items()
        if _width(values) in CLASSES and _WORD.fullmatch(name)
    }
    for name in fields:  # OpenFOAM reads no "nan"
        check_finite(mesh.cell_fields[name], name)
    folder.mkdir(exist_ok=True)
    for name, values in fields.items():
        rows = values.astype(np.float64).reshape(len(values), -1)
        kind = CLASSES[rows.shape[1]]
        there = find(str(folder), name)
        like = there or _latest(case, name, time, times)
        text = None
        if like is not None:
            text = changed_field(like, name, time, rows, kind, mesh, there is not None)
        if text is None:
            text = new_field(name, time, rows, kind, mesh, patches, _dimensions(like))
        part = folder / f".{name}.{os.getpid()}.part"
        try:
            part.write_bytes(text)
            with contextlib.suppress(FileNotFoundError):
                shutil.copymode(folder / name, part)
            os.replace(part, folder / name)
            (folder / f"{name}.gz").unlink(missing_ok=True)  # else there were two of them
        finally:
            part.unlink(missing_ok=True)
