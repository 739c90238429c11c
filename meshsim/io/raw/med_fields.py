"""The fields of MED files (CHA): on nodes and cells, with profiles, at times."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from meshsim.io.raw import DIM, Tree, check_indices, expect, ragged
from meshsim.io.raw.med_cells import CELLS, text

NO_PROFILE = ("MED_NO_PROFILE_INTERNAL", "MED_NOPFL", "MED_NOPFLi", "")


@dataclass
class Values:
    """The values of a field in one kind of places at one time.

    Arguments:
        place: "NOE" (nodes), "MAI.TE4" (cells of a type), "NOE.TE4" (corners of cells).
        step: (time step, iteration, time).
        profile: name of the list of places, or one that says "all".
        gauss: values a place.
        data: the HDF5 data set: component by component.
    """

    place: str
    step: tuple[int, int, float]
    profile: str
    gauss: int
    data: Any


def fields_of(file: Any, mesh: str, notes: list[str]) -> dict[str, tuple[str, list[Values]]]:
    """{field: (its components in words, its values)} of one mesh."""
    out: dict[str, tuple[str, list[Values]]] = {}
    elsewhere, inside = [], []
    for name in file.get("CHA", {}):
        group = file["CHA"][name]
        at = text(group.attrs.get("MAI", b"")) or mesh
        found = [v for v in _walk(group, "", (0, 0, 0.0), "") if v.place]
        here = [v for v in found if at == mesh]
        kept = [v for v in here if v.gauss == 1 and (v.place == "NOE" or v.place[:4] == "MAI.")]
        if at != mesh and not here:
            elsewhere.append(name)
        elif len(kept) < len(here):
            inside.append(name)
        if kept:
            letters = [text(group.attrs.get(key, b"")) for key in ("NOM", "UNI")]
            n = int(group.attrs.get("NCO", 1))
            words = [[part[16 * i : 16 * i + 16].strip() for i in range(n)] for part in letters]
            pairs = [f"{a} [{b}]" if b else a for a, b in zip(*words, strict=True)]
            out[name] = ", ".join(p for p in pairs if p.strip()), kept
    if elsewhere:
        notes.append(f"fields on other meshes were left out: {', '.join(elsewhere)}")
    if inside:
        notes.append(f"values at integration points or corners left out: {', '.join(inside)}")
    return out


def _walk(
    group: Any, place: str, step: tuple[int, int, float], profile: str, depth: int = 0
) -> Iterator[Values]:
    """All values below a field; the order of the levels changed between MED 2 and 3."""
    if "CO" in group:
        profile = profile or text(group.attrs.get("PFL", b""))
        yield Values(place, step, profile, int(group.attrs.get("NGA", 1)), group["CO"])
        return
    for key in group if depth < 5 else ():
        below = group[key]
        if not hasattr(below, "keys"):
            continue
        at, when, listed = place, step, profile
        if "NDT" in below.attrs:
            number, iteration, time = (below.attrs.get(k, 0) for k in ("NDT", "NOR", "PDT"))
            when = int(number), int(iteration), float(time)
        elif key == "NOE" or key[:4] in ("MAI.", "NOE."):
            at = key
        elif place:
            listed = text(below.attrs.get("PFL", b"")) or key
        yield from _walk(below, at, when, listed, depth + 1)


def steps_of(values: list[Values]) -> list[tuple[int, int, float]]:
    """The different steps of a field: (number, iteration, time)."""
    return list(dict.fromkeys(v.step for v in values))


def times_of(fields: dict[str, tuple[str, list[Values]]]) -> list[float]:
    """The times of the fields that have several; their numbers where all times are the same."""
    several = [steps_of(values) for _, values in fields.values() if len(steps_of(values)) > 1]
    if any(len({t for _, _, t in steps}) == 1 for steps in several):
        for _, values in fields.values():
            for v in values:
                v.step = (v.step[0], v.step[1], float(v.step[0]))
        several = [steps_of(values) for _, values in fields.values() if len(steps_of(values)) > 1]
    return sorted({t for steps in several for _, _, t in steps})


def values_of(
    file: Any, name: str, values: list[Values], sizes: tuple[int, dict[str, int]]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Values of one time by place: all rows, NaN where there is no value; the rows that have one.

    {"point" or "cell": (rows, …)}
    """
    n_points, counts = sizes
    first = dict(zip(counts, ragged(np.array(list(counts.values()))).tolist(), strict=False))
    out: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for place, total in (("point", n_points), ("cell", sum(counts.values()))):
        parts: list[tuple[np.ndarray, np.ndarray]] = []
        for v in values:
            kind = v.place.partition(".")[2]
            if (place == "point") != (v.place == "NOE") or (kind and kind not in counts):
                continue
            n, start = (n_points, 0) if place == "point" else (counts[kind], first[kind])
            width = _width(file, name)
            flat = np.asarray(v.data[()]).reshape(-1)
            expect(len(flat) % width == 0, f"field {name!r} is damaged")
            table = flat.reshape(width, -1).T
            rows = np.arange(n)
            if v.profile not in NO_PROFILE and f"PROFILS/{v.profile}/PFL" in file:
                rows = np.asarray(file[f"PROFILS/{v.profile}/PFL"][()], np.int64) - 1
                check_indices(rows, n, f"profile {v.profile}")
            expect(len(table) == len(rows), f"field {name!r}: {len(table)} values of {len(rows)}")
            parts.append((table, rows + start))
        if parts:
            rows = np.concatenate([r for _, r in parts])
            table = np.concatenate([t for t, _ in parts])
            if len(np.unique(rows)) < total:
                whole = np.full((total, table.shape[1]), np.nan)
            else:
                whole = np.empty((total, table.shape[1]), table.dtype)
            whole[rows] = table
            out[place] = whole[:, 0] if whole.shape[1] == 1 else whole, np.unique(rows)
    return out


def _width(file: Any, name: str) -> int:
    return max(int(file["CHA"][name].attrs.get("NCO", 1)), 1)


def _at(values: list[Values], time: float) -> list[Values]:
    """The values at a time; of several iterations the last."""
    here = [v for v in values if v.step[2] == time]
    last = max((v.step[:2] for v in here), default=None)
    return [v for v in here if v.step[:2] == last]


def announce(
    out: Tree,
    fields: dict[str, tuple[str, list[Values]]],
    sizes: tuple[int, dict[str, int]],
    times: list[float],
) -> None:
    """Say which fields the steps hold; those that some lack are NaN there, with a note."""
    tops = max(DIM.get(CELLS[key][0].rstrip("0123456789"), 3) for key in sizes[1])
    frames: dict[str, list[str]] = {"point": [], "cell": []}
    for name, (_, values) in fields.items():
        steps = steps_of(values)
        if len(steps) < 2:
            continue
        if any(v.place == "NOE" for v in values):
            frames["point"].append(name)
        kinds = {v.place[4:] for v in values if v.place[:4] == "MAI." and v.place[4:] in sizes[1]}
        if any(DIM.get(CELLS[k][0].rstrip("0123456789"), 3) == tops for k in kinds):
            frames["cell"].append(name)
        elif kinds:
            out["notes"].append(f"{name!r} is given on boundaries at several times: left out")
        missing = len(times) - len({t for _, _, t in steps})
        if missing:
            out["notes"].append(f"{name!r} is NaN at {missing} of {len(times)} times: not given")
    out["times"], out["steps"] = times, [repr(t) for t in times]
    out["frames"] = frames


def frame_at(
    file: Any,
    fields: dict[str, tuple[str, list[Values]]],
    sizes: tuple[int, dict[str, int]],
    time: float,
) -> Tree:
    """All fields of several times at one of them, NaN where they are not given."""
    out: Tree = {"point_fields": {}, "cell_fields": {}}
    totals = {"point": sizes[0], "cell": sum(sizes[1].values())}
    for name, (_, values) in fields.items():
        if len(steps_of(values)) < 2:
            continue
        found = values_of(file, name, _at(values, time), sizes)
        width = _width(file, name)
        for place, total in totals.items():
            shape = (total,) if width == 1 else (total, width)
            table = found[place][0] if place in found else np.full(shape, np.nan)
            out[f"{place}_fields"][name] = table
    return out
