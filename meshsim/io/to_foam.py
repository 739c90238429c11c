"""OpenFOAM: cell fields into the time folders of an existing case with the same mesh."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from pathlib import Path

import numpy as np

from meshsim.check import InputError
from meshsim.io import guard, plain
from meshsim.io.holds import branch_of
from meshsim.io.raw import content
from meshsim.io.raw.foam import Case, find
from meshsim.mesh import Mesh
from meshsim.sample import Sample
from meshsim.series import Series

CLASSES = {1: "Scalar", 3: "Vector", 6: "SymmTensor", 9: "Tensor"}
NONE = "0 0 0 0 0 0 0"
_DIMENSIONS = re.compile(rb"^\s*dimensions\s*\[([^\[\]]*)\]\s*;", re.M)
KEPT = {"empty", "cyclic", "cyclicAMI", "symmetry", "symmetryPlane", "wedge", "processor"}


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
    return out


def write(obj: Mesh | Series | Sample, case: Path) -> list[str]:
    """Write the cell fields to CASE/TIME/FIELD, each file whole or not at all.

    A mesh goes to the last time of the case (or to "0"), a series to its own times. Values on
    patches are written as `calculated` from the boundary's field of that name, if it has one; the
    boundary conditions of a file that was there are lost. Physical dimensions are those of the
    case's field of that name; a field that is new is without.

    Raises:
        InputError: the folder holds no case, or a case with another mesh.
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
    patches = {name: (len(p["sizes"]), p["kind"]) for name, p in tree["boundaries"].items()}
    times = [name for _, name in Case(str(case)).times] or ["0"]
    units = {name: _dimensions(case, name, times) for name in _names(branch)}
    if series is None:
        _frame(mesh, case / times[-1], patches, units)
    else:
        for t, time in enumerate(series.times.tolist()):
            _frame(series.frame(t), case / f"{time:.10g}", patches, units)
    return losses(obj)


def _width(values: np.ndarray) -> int:
    return 1 if values.ndim == 1 else int(np.prod(values.shape[1:]))


def _names(branch: Mesh | Series) -> list[str]:
    more = branch.cell_fields if isinstance(branch, Series) else {}
    mesh = branch.mesh if isinstance(branch, Series) else branch
    return [*mesh.cell_fields, *more]


def _dimensions(case: Path, name: str, times: list[str]) -> str:
    """The physical dimensions of the case's field of a name, "0 0 0 0 0 0 0" where it has none."""
    for time in reversed(times):
        path = find(str(case / time), name)
        if path is not None:
            found = _DIMENSIONS.search(content(path))
            return " ".join(found[1].decode().split()) if found else NONE
    return NONE


def _frame(
    mesh: Mesh, folder: Path, patches: dict[str, tuple[int, str]], units: dict[str, str]
) -> None:
    fields = plain.tree(mesh)
    folder.mkdir(exist_ok=True)
    for name, values in fields["cell_fields"].items():
        if _width(values) not in CLASSES:
            continue
        part = folder / f".{name}.{os.getpid()}.part"
        try:
            text = _text(name, folder.name, values, mesh, patches, units.get(name, NONE))
            part.write_text(text, encoding="utf-8")
            with contextlib.suppress(FileNotFoundError):
                shutil.copymode(folder / name, part)
            os.replace(part, folder / name)
        finally:
            part.unlink(missing_ok=True)


def _text(
    name: str, time: str, values: np.ndarray, mesh: Mesh, patches: dict[str, tuple[int, str]],
    units: str,
) -> str:  # fmt: skip
    rows = values.astype(np.float64).reshape(len(values), -1)
    kind = CLASSES[rows.shape[1]]
    boundary = []
    for patch, (n, of) in patches.items():
        if of in KEPT:
            entry = f"type {of};"
        else:
            found = mesh.boundaries.get(patch)
            given = None if found is None else found.fields.get(name)
            if given is not None and len(given) == n:
                entry = f"type calculated;\n        value {_list(plain.array(given), kind)};"
            else:
                entry = "type zeroGradient;"
        boundary.append(f"    {patch}\n    {{\n        {entry}\n    }}")
    return (
        "FoamFile\n{\n    version 2.0;\n    format ascii;\n"
        f'    class vol{kind}Field;\n    location "{time}";\n    object {name};\n}}\n\n'
        f"dimensions [{units}];\n\ninternalField {_list(rows, kind)};\n\n"
        "boundaryField\n{\n" + "\n".join(boundary) + "\n}\n"
    )


def _list(values: np.ndarray, kind: str) -> str:
    rows = values.astype(np.float64).reshape(len(values), -1).tolist()
    word = kind[0].lower() + kind[1:]
    if len(rows[0]) == 1 if rows else True:
        lines = [repr(row[0]) for row in rows]
    else:
        lines = [f"({' '.join(map(repr, row))})" for row in rows]
    return f"nonuniform List<{word}>\n{len(rows)}\n(\n" + "\n".join(lines) + "\n)"
