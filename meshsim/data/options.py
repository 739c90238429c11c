"""What `preprocess` can be told, and what it does to a mesh or a series that was read."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from meshsim.check import InputError, check_known, finite_number, nearest, one_line
from meshsim.data import splits
from meshsim.data.derived import Features
from meshsim.data.frames import Cast, Picked, Stacked, stack
from meshsim.data.parameters import ParameterRule
from meshsim.data.schema import LOCATIONS, Schema
from meshsim.mesh import Boundary, Mesh
from meshsim.series import Frames, Series


@dataclass(frozen=True)
class Options:
    """Options of `preprocess`; keys of its configuration.

    Arguments:
        fields: which fields to keep, and under which names; None: all as they are. A list of
            names, or {name: name in the file, or names to stack as components, or a table
            {"from": …, "role": …, "components": …} as in a schema}. With the location "point" or
            "cell" a field is taken from there alone, where a file has it at both.
        splits: {split: fraction, or names and patterns, or "rest", or {"json": file beside the
            samples, "key": of the list of names in it}}; None: what the folders say, else
            0.8 / 0.1 / 0.1 of train, valid, test.
        seed: of the fractions.
        split_by: "sample", or "folder": samples in one folder share a split, and the rule divides
            folders. Parts of one input that was cut share theirs in any case.
        branch: what to call the branch of a sample that has one.
        branches: {branch: file pattern}: a folder with a file for each is one sample. A file
            "x.vtu" may be cut in "x.vtu.00.part", "x.vtu.01.part", …
        parameters: {"csv": {file pattern: "all", columns or {parameter: column}}, "name": regular
            expression}, see `ParameterRule`.
        cells: {branch: how many cells to keep, drawn at random}; others keep all of theirs.
        features: what to compute for each sample and store beside its fields, see `Features`; with
            `branches`, {branch: features}.
        planar: read flat simulation meshes as two-dimensional.
        trust: read files in this process instead of a guarded one.
        dtype: "float32" or "float64" for floating-point fields; "": as they are.
        frames: [first, end, step] of the times to keep; end 0: to the last.
        time: "first", "last" or a time: that one alone, as a steady sample; "": all of them.
        dt: time between the frames of a series, where its file does not say; 0: as they are.
    """

    fields: dict[str, tuple[str, ...]] | None = None
    schema: Schema | None = None
    splits: dict[str, Any] | None = None
    seed: int = 0
    split_by: str = "sample"
    branch: str = "mesh"
    branches: dict[str, str] = field(default_factory=dict)
    parameters: ParameterRule = field(default_factory=ParameterRule)
    cells: dict[str, int] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    features: dict[str, Features] = field(default_factory=dict)
    planar: bool = True
    trust: bool = False
    dtype: str = ""
    frames: tuple[int, int, int] = (0, 0, 1)
    time: str | float = ""
    dt: float = 0.0


_TYPES: dict[str, tuple[type, ...]] = {
    "fields": (Mapping, list, tuple),
    "splits": (Mapping,),
    "seed": (int,),
    "split_by": (str,),
    "branch": (str,),
    "branches": (Mapping,),
    "parameters": (Mapping,),
    "cells": (Mapping,),
    "features": (Mapping,),
    "planar": (bool,),
    "trust": (bool,),
    "dtype": (str,),
    "frames": (list, tuple),
    "time": (str, int, float),
    "dt": (int, float),
}
KEYS = tuple(_TYPES)


def read_options(path: Path | str) -> dict[str, Any]:
    """The checked configuration of a TOML file, as a plain table.

    Raises:
        InputError: the file is missing or no TOML, a key is unknown, a value is wrong.
    """
    try:
        table = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot read: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path}: not valid TOML: {one_line(error)}") from error
    try:
        check_options(table)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return table


def check_options(config: Mapping[str, Any] | None) -> Options:
    """The options of a configuration table.

    Raises:
        InputError: an unknown key (the nearest is named), a value of the wrong kind.

    >>> check_options({"fields": {"velocity": ["vx", "vy"]}}).fields
    {'velocity': ('vx', 'vy')}
    """
    table = dict(config or {})
    for key, value in table.items():
        check_known(key, KEYS, "key of the preprocessing configuration:")
        wrong = isinstance(value, bool) and bool not in _TYPES[key]
        if wrong or not isinstance(value, _TYPES[key]):
            kinds = " or ".join(kind.__name__.lower() for kind in _TYPES[key])
            raise InputError(f"`{key}`: expected {kinds}, got {value!r}")
    fields, schema, places = _fields(table.pop("fields", None))
    parameters = ParameterRule.from_table(table.pop("parameters", {}))
    given = list(table.pop("frames", ()))
    if any(not isinstance(n, int) or isinstance(n, bool) for n in given) or len(given) > 3:
        raise InputError(f"`frames`: expected [first, end, step], got {given}")
    first, end, step = given + [0, 0, 1][len(given) :]
    if first < 0 or step < 1 or (end and end <= first):
        raise InputError(f"`frames`: expected 0 ≤ first < end and step ≥ 1, got {given}")
    for key, pattern in table.get("branches", {}).items():
        if not isinstance(pattern, str):
            raise InputError(f"`branches.{key}`: expected a file pattern, got {pattern!r}")
    known = table.get("branches") or {table.get("branch", "mesh"): ""}
    for key, count in table.get("cells", {}).items():
        check_known(key, known, "branch of `cells`:")
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise InputError(f"`cells.{key}`: expected 1 or more, got {count!r}")
    features = _features(table.pop("features", {}), table)
    if (dt := finite_number(table.pop("dt", 0.0), "dt")) < 0:
        raise InputError(f"`dt`: expected a number from 0, got {dt}")
    if not isinstance(time := table.get("time", ""), str):
        table["time"] = finite_number(time, "time")
    out = Options(
        fields,
        schema,
        parameters=parameters,
        places=places,
        features=features,
        frames=(first, end, step),
        dt=dt,
        **_plain(table),
    )
    if isinstance(out.time, str) and out.time not in ("", "first", "last"):
        raise InputError(f"`time`: expected a number, 'first' or 'last', got {out.time!r}")
    if out.dtype not in ("", "float32", "float64"):
        raise InputError(f"`dtype`: expected 'float32' or 'float64', got {out.dtype!r}")
    check_known(out.split_by, ("sample", "folder"), "way to divide (`split_by`):")
    if out.splits is not None:
        # fractions and forms are checked now, patterns when the names are known
        splits.check_files(out.splits)
        forms = {k: v for k, v in out.splits.items() if not isinstance(v, list | tuple | Mapping)}
        splits.split([], {k: v for k, v in forms.items() if not isinstance(v, str) or v == "rest"})
    return out


def _features(given: Mapping[str, Any], table: Mapping[str, Any]) -> dict[str, Features]:
    """{branch: features}: one table for the only branch, or one for each of several."""
    if not table.get("branches"):
        given = {table.get("branch", "mesh"): given} if given else {}
    out = {}
    for branch, features in given.items():
        if branches := table.get("branches"):
            check_known(branch, branches, "branch of `features`:")
        name = f"features.{branch}" if branches else "features"
        if not isinstance(features, Mapping):
            raise InputError(f"`{name}`: expected a table, got {features!r}")
        out[branch] = Features.from_table(features, name)
        if branch in table.get("cells", {}) and (out[branch].levels or out[branch].partition):
            raise InputError(
                f"`{name}`: levels and partition are of whole meshes, `cells.{branch}` thins it"
            )
    return out


def _plain(table: dict[str, Any]) -> dict[str, Any]:
    return {
        key: dict(value) if isinstance(value, Mapping) else value for key, value in table.items()
    }


def _fields(
    given: Any,
) -> tuple[dict[str, tuple[str, ...]] | None, Schema | None, dict[str, str]]:
    if given is None:
        return None, None, {}
    if not isinstance(given, Mapping):
        given = {name: name for name in given}
    sources: dict[str, tuple[str, ...]] = {}
    tables: dict[str, dict[str, Any]] = {}
    places: dict[str, str] = {}
    for name, entry in given.items():
        origin = entry
        if isinstance(entry, Mapping):
            origin = entry.get("from", name)
            tables[name] = {key: value for key, value in entry.items() if key != "from"}
            place = entry.get("location", "")
            if place in ("point", "cell"):
                places[name] = place
                if len(tables[name]) == 1:
                    tables[name] = {}
            elif "role" not in entry and "location" in entry:
                check_known(place, LOCATIONS, f"location of field {name!r}:")
        origin = (origin,) if isinstance(origin, str) else origin
        wrong = not isinstance(origin, Sequence) or not origin
        if wrong or not all(isinstance(part, str) for part in origin):
            raise InputError(f"`fields.{name}`: expected names of fields, got {entry!r}")
        sources[name] = tuple(origin)
    with_role = {name: entry for name, entry in tables.items() if entry}
    return sources, Schema.from_dict(with_role) if with_role else None, places


def apply(part: Mesh | Series, options: Options) -> Mesh | Series:
    """A mesh or series with the fields, names, times and dtype that the options say.

    Chosen fields that are not there are left out (see `check_chosen`); frames stay unread.
    """
    if isinstance(part, Mesh):
        return _mesh(part, options)
    if options.dt and part.later:
        raise InputError("`dt`: expected a series of one mesh, got one whose mesh changes")
    first, *later = (_series(segment, options) for segment in part.segments)
    return Series(
        first.mesh, first.times, first.point_fields, first.cell_fields, first.points, tuple(later)
    )


def check_chosen(
    branches: Mapping[str, Mesh | Series], parameters: Iterable[str], options: Options
) -> None:
    """Raise `InputError` unless each chosen field is a parameter or is in one of the branches."""
    known = {*parameters}
    for name, origin in (options.fields or {}).items():
        place = options.places.get(name, "")
        held = [_names(part, place) for part in branches.values()]
        if name not in known and not any(names.issuperset(origin) for names in held):
            every = set().union(*held)
            lacking = next((part for part in origin if part not in every), origin[0])
            where = {"point": " at the points", "cell": " in the cells"}.get(place, "")
            hint = nearest(lacking, every | known)
            raise InputError(f"field {lacking!r} is missing{where}: {hint}")


def _names(part: Mesh | Series, place: str) -> set[str]:
    """Names of the fields of a part: at "point" or "cell", or anywhere."""
    if isinstance(part, Series):
        found = [_names(s.mesh, place) for s in part.segments]
        frames = [_at(place, s.point_fields, s.cell_fields) for s in part.segments]
        return set().union(*frames, *found)
    names = _at(place, part.point_fields, part.cell_fields)
    if not place:
        names |= {*part.global_fields}
        names |= {key for b in part.boundaries.values() for key in b.fields}
    return names


def _at(place: str, point: Iterable[str], cell: Iterable[str]) -> set[str]:
    return {*(() if place == "cell" else point), *(() if place == "point" else cell)}


def _mesh(mesh: Mesh, options: Options) -> Mesh:
    dtype = getattr(torch, options.dtype) if options.dtype else None

    def cast(x: Tensor) -> Tensor:
        return x.to(dtype) if dtype is not None and x.is_floating_point() else x

    def chosen(found: Mapping[str, Tensor], place: str = "") -> dict[str, Tensor]:
        return {
            name: cast(found[origin[0]] if len(origin) == 1 else stack([found[o] for o in origin]))
            for name, origin in _where(found, options, place).items()
        }

    flattened = mesh.flattened
    if options.fields is not None:
        pairs = options.fields.items()
        flattened = frozenset(n for n, o in pairs if len(o) == 1 and o[0] in mesh.flattened)
    return mesh.replace(
        point_fields=chosen(mesh.point_fields, "point"),
        cell_fields=chosen(mesh.cell_fields, "cell"),
        global_fields=chosen(mesh.global_fields),
        boundaries={
            name: Boundary(b.faces, chosen(b.fields), b.kind) for name, b in mesh.boundaries.items()
        },
        flattened=flattened,
    )


def _series(series: Series, options: Options) -> Series:
    first, end, step = options.frames
    times = series.times[first : end or None : step]
    if not len(times):
        raise InputError(f"`frames`: {first} is past the last of {len(series)} times")
    if options.dt:
        every = torch.arange(len(series), dtype=torch.float64) * options.dt
        times = every[first : end or None : step]

    def picked(frames: Frames) -> Frames:
        return frames if len(times) == len(series) else Picked(frames, first, step, len(times))

    def chosen(found: Mapping[str, Frames], place: str) -> dict[str, Frames]:
        out: dict[str, Frames] = {}
        for name, origin in _where(found, options, place).items():
            parts = [picked(found[o]) for o in origin]
            frames = parts[0] if len(parts) == 1 else Stacked(parts)
            out[name] = Cast(frames, getattr(torch, options.dtype)) if options.dtype else frames
        return out

    return Series(
        _mesh(series.mesh, options),
        times,
        chosen(series.point_fields, "point"),
        chosen(series.cell_fields, "cell"),
        None if series.points is None else picked(series.points),
    )


def _where(found: Mapping[str, Any], options: Options, place: str) -> dict[str, tuple[str, ...]]:
    """{name: origins} of the chosen fields that belong here, every part of them in `found`."""
    if options.fields is None:
        return {name: (name,) for name in found}
    return {
        name: origin
        for name, origin in options.fields.items()
        if all(part in found for part in origin)
        and (not place or options.places.get(name, place) == place)
    }
