"""`meshsim sample`: fields at points, along a line or on a plane, as numbers."""

from __future__ import annotations

import csv
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meshsim.check import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from meshsim.mesh import Mesh
    from meshsim.series import Series

AXES = "xyz"


def sample(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="A mesh file or case folder.")],
    out: Annotated[Path, typer.Option("--output", "-o", metavar="OUT", help="A .csv.")],
    points: Annotated[
        Path | None, typer.Option("--points", metavar="CSV", help="Places, columns x, y and z.")
    ] = None,
    line: Annotated[
        tuple[str, str] | None,
        typer.Option("--line", metavar="A B", help="Along a line: two places such as 0,0.5,0."),
    ] = None,
    plane: Annotated[
        str | None,
        typer.Option("--plane", metavar="AXIS[=X]", help="On a plane: z=0.1; z: the middle."),
    ] = None,
    count: Annotated[
        int, typer.Option("-n", min=2, help="Places on the line, or along a side of the plane.")
    ] = 100,
    time: Annotated[
        str | None, typer.Option("--time", metavar="T", help="One time: a number, first or last.")
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option("--plot", metavar="PNG", help="Draw the fields over the line, a line a time."),
    ] = None,
    trust: Annotated[bool, typer.Option("--trust", help="Read in this process.")] = False,
) -> None:
    """Write the fields at some places; a place outside of the mesh has empty cells.

    Columns: time (of a series), x, y, z, distance (along a line), then the fields, a vector's
    components apart. Values are interpolated as the cells do it; fields of cells are the cell's.
    """
    from meshsim.cli.arguments import load
    from meshsim.render import probe
    from meshsim.sample import Sample
    from meshsim.series import Series

    if sum(given is not None for given in (points, line, plane)) != 1:
        raise InputError("expected one of --points, --line and --plane")
    if plot is not None and line is None:
        raise InputError("--plot: draws over a --line")
    if out.suffix.lower() != ".csv":
        raise InputError(f"{out}: expected a name ending in .csv")
    if points is not None and points.exists() and out.exists() and out.samefile(points):
        raise InputError(f"{out}: the places are read from it (name another file)")
    data = load(path, trust, time)
    data = data.branch if isinstance(data, Sample) else data
    mesh = data.mesh if isinstance(data, Series) else data
    if isinstance(data, Series) and (data.points is not None or len(data.segments) > 1):
        raise InputError(f"the mesh of {path} changes: choose one --time")
    places = _places(mesh, points, line, plane, count)
    found, inside = probe(data, places)
    rows = _rows(found, inside, line is not None)
    out.parent.mkdir(parents=True, exist_ok=True)
    with open(out, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(rows)
        writer.writerows(zip(*rows.values(), strict=True))
    missing = int((~inside).sum())
    if missing:
        print(f"note: {missing} of {len(places)} places lie outside the mesh", file=sys.stderr)
    print(out, file=sys.stderr)
    if plot is not None:
        from meshsim.render.curves import over_line

        print(over_line(rows, plot), file=sys.stderr)


def _places(
    mesh: Mesh, file: Path | None, line: tuple[str, str] | None, plane: str | None, count: int
) -> Tensor:
    """(N, D) float64."""
    import torch

    from meshsim.render.section import plane as plane_of

    if file is not None:
        return torch.tensor(_read(file, mesh.dim), dtype=torch.float64)
    if line is not None:
        a, b = (torch.tensor(_place(text, mesh.dim), dtype=torch.float64) for text in line)
        return torch.lerp(a, b, torch.linspace(0, 1, count, dtype=torch.float64)[:, None])
    axis, value = plane_of(mesh, plane or "")
    low, high = mesh.points.double().aminmax(dim=0)
    sides = [
        torch.tensor([float(value)], dtype=torch.float64)
        if name == axis
        else torch.linspace(float(low[i]), float(high[i]), count, dtype=torch.float64)
        for i, name in enumerate(AXES[: mesh.dim])
    ]
    return torch.cartesian_prod(*sides)


def _place(text: str, dim: int) -> list[float]:
    try:
        values = [float(word) for word in text.split(",")]
    except ValueError:
        values = []
    if len(values) != dim or not all(map(math.isfinite, values)):
        raise InputError(
            f"{text!r}: expected {dim} numbers with commas between, as {'0,1,2'[: 2 * dim - 1]}"
        )
    return values


def _read(file: Path, dim: int) -> list[list[float]]:
    """Places of a CSV file, with a header or without."""
    try:
        rows = [row for row in csv.reader(file.read_text(encoding="utf-8").splitlines()) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{file}: cannot be read as CSV ({error})") from error
    columns = list(range(dim))
    head = [word.strip().lower() for word in rows[0]] if rows else []
    if set(AXES[:dim]) <= set(head):
        columns, rows = [head.index(name) for name in AXES[:dim]], rows[1:]
    try:
        found = [[float(row[k]) for k in columns] for row in rows]
    except (ValueError, IndexError) as error:
        raise InputError(f"{file}: expected columns {', '.join(AXES[:dim])} of numbers") from error
    if not found:
        raise InputError(f"{file}: holds no places")
    for number, place in enumerate(found):
        if not all(map(math.isfinite, place)):
            raise InputError(f"{file}: place {number} is not finite: {place}")
    return found


def _rows(found: Mesh | Series, inside: Tensor, line: bool) -> dict[str, list[Any]]:
    """{column: values}, all times one after the other."""
    from meshsim.series import Series

    frames = [found.frame(t) for t in range(len(found))] if isinstance(found, Series) else [found]
    out: dict[str, list[Any]] = {}
    within = inside.tolist()
    for t, mesh in enumerate(frames):
        if isinstance(found, Series):
            out.setdefault("time", []).extend([float(found.times[t])] * len(within))
        for k in range(mesh.dim):
            out.setdefault(AXES[k], []).extend(mesh.points[:, k].tolist())
        if line:
            far = (mesh.points - mesh.points[0]).norm(dim=1)
            out.setdefault("distance", []).extend(far.tolist())
        for name, values in {**mesh.point_fields, **mesh.cell_fields}.items():
            flat = values.reshape(len(within), -1)
            for k in range(flat.shape[1]):
                letter = AXES[k] if flat.shape[1] <= 3 else str(k)
                column = name if values.dim() == 1 else f"{name}_{letter}"
                pairs = zip(flat[:, k].tolist(), within, strict=True)
                out.setdefault(column, []).extend(v if ok else "" for v, ok in pairs)
    return out
