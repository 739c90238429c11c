"""Decomposed OpenFOAM cases as the whole mesh they came from; cases of regions."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from meshsim.io.raw import Tree, check_indices, expect, gather, ragged
from meshsim.io.raw.foam import Case, find, left_out, series
from meshsim.io.raw.foam_cells import cells
from meshsim.io.raw.foam_file import File
from meshsim.io.raw.foam_layout import Layout, processors


def opened(path: str, region: str = "") -> Any:
    """The case, or its processor folders where only they have the mesh, or later times."""
    case = Case(path, region)
    layout = processors(path)
    if layout is None:
        return case
    whole = case.instance(None, "faces") is not None
    last = next((t for t, name in reversed(case.times) if case.fields(name)), -1.0)
    if whole and layout.latest <= last:
        return case
    parts = Parts(path, layout, region, case if whole else None)
    if whole and not any(t > last and parts.fields(name) for t, name in reversed(parts.times)):
        return case
    return parts


def regions(path: str) -> list[str]:
    """The names of the regions of a case that has several meshes and none of its own fields."""
    layout = processors(path)
    homes = [path, *(layout.parts[0] if layout else ())]
    for home in homes:
        constant = os.path.join(home, "constant")
        listed = sorted(os.listdir(constant)) if os.path.isdir(constant) else []
        names = [n for n in listed if find(os.path.join(constant, n, "polyMesh"), "faces")]
        if names:
            case = Case(home)
            own = case.instance(None, "faces") is not None
            if own and any(case.fields(name) for _, name in case.times):
                return []
            return names
    return []


class Parts:
    """The processors of a case, joined by the addressing that decomposePar wrote.

    Arguments:
        whole: the case itself where it still has the mesh, which then is not joined again.

    Raises:
        ValueError: a processor has no folder.
    """

    def __init__(self, path: str, layout: Layout, region: str, whole: Case | None):
        self.path, self.whole = path, whole
        names = [f"processor{k}" for k in range(len(layout.parts))]
        lost = [name for name, roots in zip(names, layout.parts, strict=True) if not roots]
        expect(not lost, f"{', '.join(lost[:3])} of {len(names)} processors is not there")
        self.cases = [
            Case(path, region, roots, name) for name, roots in zip(names, layout.parts, strict=True)
        ]
        shared = any(block for roots in layout.parts for block in roots.values())
        what = "processors in shared files (collated)" if shared else "processor folders"
        self.notes = [f"joined from {len(names)} {what}"]
        if layout.others:
            self.notes.append(f"other decompositions are left out: {', '.join(layout.others)}")
        every = [{name for _, name in case.times} for case in self.cases]
        common = set.intersection(*every)
        self.times = [(t, name) for t, name in self.cases[0].times if name in common]
        some = sorted(set.union(*every) - common, key=float)
        if some:
            self.notes.append(f"times that not all processors have: {', '.join(some)}: left out")

    def instance(self, time: str | None, what: str) -> str | None:
        """Where the first processor has a file of the mesh."""
        return self.cases[0].instance(time, what)

    def fields(self, time: str) -> list[tuple[str, str]]:
        """Fields that all processors have at a time."""
        every = [set(case.fields(time)) for case in self.cases]
        return sorted(set.intersection(*every))

    def series(self) -> Tree:
        """All times, as of a case that was never split."""
        if self.times:
            self.notes += self._partly(self.times[-1][1])
        return series(self)

    def _partly(self, time: str) -> list[str]:
        every: list[set[str]] = [{n for n, _ in case.fields(time)} for case in self.cases]
        some = sorted(n for n in set().union(*every) if not all(n in here for here in every))
        return [f"not in all processors, so left out: {', '.join(some)}"] if some else []

    def _addressing(self, case: Case, time: str | None, what: str, n: int) -> np.ndarray:
        name = f"{what}ProcAddressing"
        faces = case.instance(time, "faces")
        found = case.instance(time, name)
        if faces is not None:
            found = find(os.path.dirname(faces), name)
        where = case.name
        expect(found, f"{where}: polyMesh/{name} is not there: run reconstructParMesh first")
        try:
            out = np.asarray(case.load(str(found)).numbers("i"))
        except Exception as error:
            raise ValueError(f"{where}: polyMesh/{name}: {error}") from error
        expect(n < 0 or len(out) == n, f"{where}: {name} has {len(out)} entries (expected {n})")
        return out

    def points(self, time: str | None) -> np.ndarray:
        """(N, 3) of the whole mesh at a time."""
        if self.whole is not None and not self._changes(time):
            return self.whole.points(None)
        parts, rows = [], []
        for case in self.cases:
            parts.append(case.points(time))
            rows.append(self._addressing(case, time, "point", len(parts[-1])))
        return _scattered(parts, rows, "points")

    def _changes(self, time: str | None) -> bool:
        """The processors have a mesh or points of a time of their own."""
        found = [self.instance(time, what) for what in ("points", "faces")]
        start = tuple(os.path.join(folder, "") for folder in self.cases[0].folders("constant"))
        return any(name is not None and not name.startswith(start) for name in found)

    def mesh(self, time: str | None, fields: bool = True) -> Tree:
        """The whole mesh at a time as a tree."""
        if self.whole is not None and not self._changes(time):
            return self._on_whole(self.whole, time, fields)
        points = self.points(time)
        faces, owners, neighbours, patch_of = [], [], [], []
        names: dict[str, str] = {}
        for case in self.cases:
            part = _Part(self, case, time, len(points))
            faces.append(part.faces)
            owners.append(part.owner)
            neighbours.append(part.neighbour)
            patch_of.append(part.patches)
            for name, kind in part.kinds.items():
                names.setdefault(name, kind)
        ids = np.concatenate([f[2] for f in faces])
        n_faces = int(ids.max(initial=-1)) + 1
        _, first = np.unique(ids, return_index=True)
        missing = n_faces - len(first)
        expect(not missing, f"{missing} of {n_faces} faces are in no processor: is one missing?")
        owner, neighbour = np.full(n_faces, -1), np.full(n_faces, -1)
        for rows, values in owners:
            owner[rows] = values
        for rows, values in neighbours:
            neighbour[rows] = values
        expect(owner.min() >= 0, "a face has no owner in any processor")
        sizes = np.concatenate([np.diff(f[1]) for f in faces])
        nodes = np.concatenate([f[0] for f in faces])
        flat, offsets = gather(nodes, ragged(sizes), first), ragged(sizes[first])
        inside = neighbour >= 0
        n_internal = int(inside.sum())
        expect(inside[:n_internal].all(), "a face between processors is in one of them only")
        n_cells = int(max(owner.max(), neighbour.max(initial=-1))) + 1
        expect(n_cells <= n_faces, f"cellProcAddressing names cell {n_cells - 1} ({n_faces} faces)")
        out: Tree = {
            "points": points,
            "blocks": cells(flat, offsets, owner, neighbour[:n_internal], n_cells),
            "point_fields": {},
            "cell_fields": {},
            "boundaries": {},
            "groups": self._zones(time, n_cells),
            "notes": list(self.notes),
        }
        of_patch = {name: [p.get(name, np.zeros(0, np.int64)) for p in patch_of] for name in names}
        order = sorted(names, key=lambda name: min((int(r.min()) for r in of_patch[name] if len(r)),
                                                   default=n_faces))  # fmt: skip
        for name in order:
            rows = np.concatenate(of_patch[name])
            if len(rows):
                mine = np.sort(rows)
                out["boundaries"][name] = {
                    "sizes": np.diff(offsets)[mine],
                    "nodes": gather(flat, offsets, mine),
                    "kind": names[name],
                    "fields": {},
                }
                if names[name] == "empty":
                    out["notes"].append(
                        f"patch {name!r} is of type empty: a two-dimensional case, one cell thick"
                    )
        if time is not None and fields:
            frame = self.frame(time, True, n_cells, len(points))
            out["notes"] += [*frame["notes"], *left_out(self.fields(time))]
            for place in ("point_fields", "cell_fields"):
                out[place] = frame[place]
            _patch_fields(out, frame["patches"], of_patch)
        return out

    def _on_whole(self, whole: Case, time: str | None, fields: bool) -> Tree:
        """The mesh of the case itself with the fields of the processors."""
        out = whole.mesh(None, fields=False)
        out["notes"] += [*self.notes, "the mesh is that of the case itself"]
        if time is None or not fields:
            return out
        n_cells = 1 + max(int(np.asarray(b.get("rows", [0])).max()) for b in out["blocks"])
        frame = self.frame(time, True)
        for place, n in (("cell", n_cells), ("point", len(out["points"]))):
            for name, values in frame[f"{place}_fields"].items():
                expect(len(values) == n, f"{time}/{name}: {len(values)} values (expected {n})")
            out[f"{place}_fields"] = frame[f"{place}_fields"]
        out["notes"] += [*frame["notes"], *left_out(self.fields(time))]
        try:
            of_patch = self._patch_faces(time)
        except ValueError as error:
            out["notes"].append(f"values on the patches are left out: {error}")
            return out
        _patch_fields(out, frame["patches"], of_patch)
        return out

    def _patch_faces(self, time: str) -> dict[str, list[np.ndarray]]:
        """For each patch its faces in every processor, by their numbers in the whole mesh."""
        out: dict[str, list[np.ndarray]] = {}
        for i, case in enumerate(self.cases):
            ids = np.abs(self._addressing(case, time, "face", -1)) - 1
            for name, patch in case._patches(time).items():
                a, many = patch["start"], patch["n"]
                empty = [np.zeros(0, np.int64)] * len(self.cases)
                out.setdefault(name, empty)[i] = ids[a : a + many]
        return out

    def _zones(self, time: str | None, n_cells: int) -> Tree:
        out: dict[str, list[np.ndarray]] = {}
        for case in self.cases:
            rows = self._addressing(case, time, "cell", -1)
            for name, zone in case._zones(time, len(rows)).items():
                out.setdefault(name, []).append(rows[zone["cells"]])
        return {name: {"cells": np.sort(np.concatenate(parts))} for name, parts in out.items()}

    def frame(
        self, time: str, patches: bool, n_cells: int | None = None, n_points: int | None = None
    ) -> Tree:
        """The fields of a time on the whole mesh; {"patches": [those of each processor]}."""
        listed: dict[tuple[str, str], list[np.ndarray]] = {}
        rows: dict[str, list[np.ndarray]] = {"cell": [], "point": []}
        out: Tree = {"cell_fields": {}, "point_fields": {}, "notes": [], "patches": []}
        kinds = [kind for _, kind in self.fields(time)]
        for case in self.cases:
            here = case.name
            n = {"cell": len(self._addressing(case, time, "cell", -1))}
            n["point"] = len(self._addressing(case, time, "point", -1)) if "point" in kinds else 0
            try:
                found = case.frame(time, patches, n["cell"], n["point"])
            except ValueError as error:
                raise ValueError(f"{here}/{error}") from error
            out["notes"] += [f"{here}/{note}" for note in found["notes"]]
            out["patches"].append(found["patch_fields"])
            for place in rows:
                if n[place]:
                    rows[place].append(self._addressing(case, time, place, -1))
                for name, values in found[f"{place}_fields"].items():
                    listed.setdefault((place, name), []).append(values)
        for (place, name), parts in listed.items():
            if len(parts) == len(self.cases):
                out[f"{place}_fields"][name] = _scattered(parts, rows[place], f"{time}/{name}")
            else:
                out["notes"].append(f"{time}/{name}: not in all processors: left out")
        return out


class _Part:
    """The faces of one processor in the numbers of the whole mesh."""

    def __init__(self, parts: Parts, case: Case, time: str | None, n_points: int):
        nodes, offsets = case.part(time, "faces", File.faces)
        owner, neighbour = case._owners(time)
        n = len(offsets) - 1
        signed = parts._addressing(case, time, "face", n)
        cell = parts._addressing(case, time, "cell", int(owner.max(initial=-1)) + 1)
        point = parts._addressing(case, time, "point", -1)
        check_indices(nodes, len(point), "faces")
        check_indices(point, n_points, "pointProcAddressing")
        where = case.name
        for what, of in (("owner", owner), ("neighbour", neighbour)):
            good = of.min(initial=0) >= 0 and of.max(initial=0) < len(cell)
            expect(good, f"{where}: {what} names a cell outside 0..{len(cell) - 1}")
        expect((signed != 0).all(), f"{where}: faceProcAddressing holds a zero")
        ids, turned = np.abs(signed) - 1, signed < 0
        expect(len(owner) == n >= len(neighbour), f"{where}: owner has {len(owner)} entries")
        # a turned face: backwards from its first corner
        sizes = np.diff(offsets)
        place = np.arange(len(nodes)) - np.repeat(offsets[:-1], sizes)
        size = np.repeat(sizes, sizes)
        back = np.repeat(turned, sizes) & (place > 0)
        start = np.repeat(offsets[:-1], sizes)
        source = np.where(back, start + size - place, np.arange(len(nodes)))
        self.faces = point[nodes][source], offsets, ids
        m = len(neighbour)
        inner, outer = ~turned[:m], np.arange(m, n)
        own, other = cell[owner], cell[neighbour]
        self.owner = _joined(
            (ids[:m], np.where(inner, own[:m], other)),
            (ids[outer][~turned[m:]], own[m:][~turned[m:]]),
        )
        self.neighbour = _joined(
            (ids[:m], np.where(inner, other, own[:m])),
            (ids[outer][turned[m:]], own[m:][turned[m:]]),
        )
        self.patches: dict[str, np.ndarray] = {}
        self.kinds: dict[str, str] = {}

        for name, patch in case._patches(time).items():
            a, many = patch["start"], patch["n"]
            expect(m <= a <= a + many <= n, f"{where}: patch {name!r} is outside the faces")
            if patch["type"] == "processor":
                continue
            cyclic = patch["type"] == "processorCyclic"
            label = patch["of"] if cyclic and patch["of"] else name
            old = self.patches.get(label, np.zeros(0, np.int64))
            self.patches[label] = np.concatenate([old, ids[a : a + many]])
            self.kinds.setdefault(label, "cyclic" if cyclic else patch["type"])


def _joined(
    a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate([a[0], b[0]]), np.concatenate([a[1], b[1]])


def _scattered(parts: list[np.ndarray], rows: list[np.ndarray], what: str) -> np.ndarray:
    """Values of the processors at their places in the whole."""
    where = np.concatenate(rows)
    expect(len(where) and where.min() >= 0, f"{what}: the addressing is damaged")
    total = int(where.max()) + 1
    missing = total - len(np.unique(where))
    expect(not missing, f"{what}: {missing} of {total} are in no processor: is one missing?")
    values = np.concatenate(parts)
    expect(len(values) == len(where), f"{what}: {len(values)} values (expected {len(where)})")
    out = np.empty((total, *values.shape[1:]), values.dtype)
    out[where] = values
    return out


def _patch_fields(
    out: Tree, listed: list[dict[str, dict[str, np.ndarray]]], of_patch: dict[str, list[np.ndarray]]
) -> None:
    """The values on patches: those of each processor, in the order of the whole mesh's faces."""
    for name, found in out["boundaries"].items():
        rows = of_patch.get(name, [])
        if sum(map(len, rows)) != len(found["sizes"]):
            continue  # split cyclic patches
        order = np.argsort(np.concatenate(rows), kind="stable")
        every = [
            fields.get(name, {}) for fields, mine in zip(listed, rows, strict=True) if len(mine)
        ]
        sizes = [len(mine) for mine in rows if len(mine)]
        for key in set.intersection(*(set(fields) for fields in every)):
            parts = [fields[key] for fields in every]
            if all(len(v) in (1, n) for v, n in zip(parts, sizes, strict=True)):
                whole = [
                    np.broadcast_to(v, (n, *v.shape[1:])) if len(v) == 1 else v
                    for v, n in zip(parts, sizes, strict=True)
                ]
                found["fields"][key] = np.concatenate(whole)[order]
