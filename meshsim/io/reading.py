"""`read`: any file as Mesh, Series or Sample."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from meshsim.check import InputError, one_line
from meshsim.io import guard
from meshsim.io.build import Built
from meshsim.io.entries import PARTED
from meshsim.io.formats import FALLBACKS, Format, case_folder, format_of
from meshsim.io.frames import Lazy, Source
from meshsim.io.planar import flat
from meshsim.io.raw import Tree
from meshsim.mesh import Mesh, MeshSource
from meshsim.sample import Sample
from meshsim.series import Series


def read(
    path: str | Path,
    *,
    planar: bool = True,
    time: float | int | str | None = None,
    entry: int | None = None,
    part: int | None = None,
    isolate: bool = True,
    trust: bool = False,
) -> Mesh | Series | Sample:
    """Read a mesh file or an OpenFOAM case.

    The file is parsed in a child process with limits on memory and time, so that no file can end
    this one. Every index is checked.

    Arguments:
        path: a file of any known format (by its content, then its suffix) or a case folder.
        planar: read meshes whose points all have one third coordinate as two-dimensional;
            formats of surfaces (stl, obj, ply, off) never are.
        time: of a series, the mesh at this time: a number, "first" or "last".
        entry: of a file that holds many samples (.tfrecord and its HDF5 kin), which one; None: the
            first, with a note.
        part: of a file of several parts (zones of a CGNS file, partitions of a .vtkhdf, pieces of
            a .vtu or .vtp), this one alone, as if it were the file; see `meshsim.io.entries.parts`.
        isolate: read in the guarded child; False reads in this process, without limits.
        trust: True is the same as `isolate=False` (the command line's `--trust`).

    Returns:
        A Mesh; a Series where the file has times; a Sample where it has parameters, or several
        branches (the regions of an OpenFOAM case). A mesh says in `source` which reader opened it.

    Raises:
        InputError: the file is missing, empty, damaged, of no known format, or holds no mesh.

    >>> import tempfile, pathlib
    >>> file = pathlib.Path(tempfile.mkdtemp()) / "a.off"
    >>> _ = file.write_text("OFF\\n3 1 0\\n0 0 0\\n1 0 0\\n0 1 0\\n3 0 1 2\\n")
    >>> read(file)
    Mesh(3 points, 3-D, 1 triangle)
    """
    given, path = str(path), Path(path)
    trust = trust or not isolate
    form = format_of(path)
    if form.module == "foam":
        path = case_folder(path)
    if entry is not None:
        if form.module != "trajectories":
            raise InputError(f"{path}: holds one mesh: leave out `entry`")
        form = replace(form, options={**form.options, "entry": entry})
    forms = [form, *FALLBACKS.get(form.name, ())]
    if part is not None:
        if form.module not in PARTED:
            raise InputError(f"{path}: cannot be read in parts: leave out `part`")
        forms = [replace(form, options={**form.options, "part": part})]
    tree, used = guard.fetch_first([(f.module, f.options) for f in forms], path, trust)
    source, form = MeshSource(given, form.name, forms[used].reader), forms[used]
    try:
        if "branches" in tree:
            found = {
                name: _whole(part, path, _region(form, name), planar, time, trust)
                for name, part in tree["branches"].items()
            }
            return _sourced(Sample(found, name=path.stem), source)
        return _sourced(_whole(tree, path, form, planar, time, trust), source)
    except InputError as error:
        message = str(error)
        raise InputError(message if str(path) in message else f"{path}: {message}") from error


def _region(form: Format, name: str) -> Format:
    """The format, for one branch of a file that has several."""
    return replace(form, options={**form.options, "region": name})


def _whole(
    tree: Tree, path: Path, form: Format, planar: bool, time: float | int | str | None, trust: bool
) -> Any:
    """What one tree of a file holds, or that at a time."""
    if time is not None and form.module == "foam" and "times" in tree:
        # with the values on the patches, which a series does not hold
        segments = [tree, *tree.get("later", [])]
        times = [t for segment in segments for t in segment["times"]]
        steps = [s for segment in segments for s in segment["steps"]]
        step = steps[_nearest(times, time)]
        tree = guard.fetch(form.module, path, {**form.options, "time": step}, trust)
        return Built(tree, form.surface, planar).mesh
    out = _made(tree, path, form, planar, trust)
    return out if time is None else at(out, time)


def _made(tree: Tree, path: Path, form: Format, planar: bool, trust: bool) -> Any:
    if "series" in tree:
        segments = [tree, *tree.get("later", [])]
        eager = [_eager(segment, form, planar) for segment in segments]
        out: Mesh | Series = _with_later(eager[0], tuple(eager[1:])) if eager[1:] else eager[0]
    elif "times" in tree:
        segments = [tree, *tree.get("later", [])]
        parts = [_lazy(segment, path, form, planar, trust) for segment in segments]
        first = parts[0]
        out = first if len(parts) == 1 else _with_later(first, tuple(parts[1:]))
    else:
        out = Built(tree, form.surface, planar).mesh
    if tree.get("parameters"):
        return Sample(out, tree["parameters"], name=path.stem)
    return out


def _sourced(out: Any, source: MeshSource) -> Any:
    """The same with `source` on every mesh."""
    if isinstance(out, Mesh):
        return out.replace(source=source)
    if isinstance(out, Sample):
        branches = {name: _sourced(branch, source) for name, branch in out.branches.items()}
        return Sample(branches, out.parameters, name=out.name)
    later = tuple(_sourced(segment, source) for segment in out.later)
    mesh = out.mesh.replace(source=source)
    return Series(mesh, out.times, out.point_fields, out.cell_fields, out.points, later)


def _with_later(first: Series, later: tuple[Series, ...]) -> Series:
    return Series(
        first.mesh, first.times, first.point_fields, first.cell_fields, first.points, later
    )


def _eager(tree: Tree, form: Format, planar: bool) -> Series:
    """A series whose frames came with the mesh."""
    built = Built(tree, form.surface, planar)
    series, times = tree["series"], tree["times"]

    def frames(place: str) -> dict[str, np.ndarray]:
        out = {}
        for name, values in series[place].items():
            if place == "cell":
                values = values[:, built.rows]
            if (
                built.form.planar
                and values.ndim == 3
                and flat(values.reshape(-1, *values.shape[2:]))
            ):
                values = np.ascontiguousarray(values[:, :, :2])
                flattened.add(name)
            out[name] = values
        return out

    flattened: set[str] = set(built.mesh.flattened)
    points, cells = frames("point"), frames("cell")
    mesh = built.mesh.replace(flattened=frozenset(flattened))
    moving = series.get("points")
    if moving is not None and not np.isfinite(moving).all():
        raise InputError("`points`: not finite at every time")
    return Series(mesh, times, points, cells, moving)


def _lazy(tree: Tree, path: Path, form: Format, planar: bool, trust: bool) -> Series:
    """A series whose frames are read when they are asked for."""
    steps, about = tree["steps"], tree["frames"]
    ends = {}
    if planar and not form.surface:
        # a vector is flat if it is so in the first and in the last frame; others are checked
        for step in dict.fromkeys((steps[0], steps[-1])):
            options = {**form.options, "step": step}
            ends[step] = guard.fetch(form.module, path, options, trust)
    moving = {(place, name) for place in ("point", "cell") for name in about[place]}
    still = {
        **tree,
        **{
            f"{place}_fields": {
                name: values
                for name, values in tree.get(f"{place}_fields", {}).items()
                if (place, name) not in moving
            }
            for place in ("point", "cell")
        },
    }
    built = Built(still, form.surface, planar)
    moves = bool(about.get("points"))
    source = Source(path, form, trust, built, steps, moves, about.get("key"))
    flattened: set[str] = set()

    def lazy(place: str, name: str) -> Lazy:
        found = [frame[f"{place}_fields"].get(name) for frame in ends.values()]
        known = f"{place}:{name}" in built.form.shapes
        flatten = built.form.planar and not known and all(v is not None and flat(v) for v in found)
        if flatten:
            flattened.add(name)
        return Lazy(source, place, name, flatten)

    points = {name: lazy("point", name) for name in about["point"]}
    cells = {name: lazy("cell", name) for name in about["cell"]}
    if flattened - built.mesh.flattened and not built.ours:
        built.mesh = built.mesh.replace(flattened=built.mesh.flattened | flattened)
    return Series(
        built.mesh, tree["times"], points, cells, Lazy(source, "points") if moves else None
    )


def at(out: Mesh | Series | Sample, time: float | int | str) -> Mesh:
    """The mesh of a series at a time: a number, "first" or "last", which one mesh is itself.

    Raises:
        InputError: no series, or no such time; the nearest one is named.
    """
    series = out.branch if isinstance(out, Sample) else out
    if isinstance(series, Mesh):
        if time in ("first", "last"):
            return series
        raise InputError("holds one mesh, no series: leave out `time`")
    times = [float(t) for segment in series.segments for t in segment.times]
    n = _nearest(times, time)
    for segment in series.segments:
        if n < len(segment):
            return segment.frame(n)
        n -= len(segment)
    raise AssertionError


def _nearest(times: list[float], time: float | int | str) -> int:
    if time in ("first", "last"):
        return 0 if time == "first" else len(times) - 1
    try:
        wanted = float(time)
    except (ValueError, OverflowError):
        wanted = math.nan
    if not math.isfinite(wanted):
        said = one_line(repr(time), 60)
        raise InputError(f"time {said}: expected a number, 'first' or 'last'")
    n = int(np.argmin(np.abs(np.array(times) - wanted)))
    span = max(abs(times[0]), abs(times[-1]), 1e-300)
    if abs(times[n] - wanted) > 1e-6 * span:
        raise InputError(
            f"has no time {wanted:g} ({len(times)} times from {times[0]:g} to {times[-1]:g},"
            f" nearest {times[n]:g})"
        )
    return n
