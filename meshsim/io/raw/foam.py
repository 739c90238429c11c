"""OpenFOAM cases: polyMesh with its patches and zones, fields at each time."""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np

from meshsim.io.raw import Tree, check_indices, expect, unpacked
from meshsim.io.raw.foam_blocks import load_block
from meshsim.io.raw.foam_cells import cells
from meshsim.io.raw.foam_file import COLLATED, COMPONENTS, File, head, load, uniform
from meshsim.io.raw.foam_layout import TIME, Roots

VOLUME = re.compile(r"vol(Scalar|Vector|SymmTensor|Tensor|SphericalTensor)Field(::Internal)?$")
POINT = re.compile(r"point(Scalar|Vector|SymmTensor|Tensor|SphericalTensor)Field$")
FACE = re.compile(r"surface(Scalar|Vector|SymmTensor|Tensor|SphericalTensor)Field$")


def read(path: str, options: Tree) -> Tree:
    """A case folder as a tree.

    Arguments:
        options: {"step": name of a time folder} reads the fields at that time;
            {"time": name} reads mesh and fields, with the values on patches, at that time;
            {"region": name} reads one region of a case of several.

    Returns:
        The tree; {"branches": {region: tree}} for a case of several regions.
    """
    from meshsim.io.raw.foam_parts import opened, regions

    region = options.get("region", "")
    names = regions(path) if not region else []
    if names:
        trees = {name: opened(path, name).series() for name in names}
        return {"branches": trees}
    case = opened(path, region)
    if "step" in options:
        sizes = options.get("rows", (None, None))
        out = case.frame(options["step"], False, sizes[1], sizes[0])
        if options.get("moves"):
            out["points"] = case.points(options["step"])
        return out
    if "time" in options:
        return case.mesh(options["time"])
    return case.series()


def find(folder: str, name: str) -> str | None:
    """A file of the case, perhaps compressed."""
    for path in (os.path.join(folder, name), os.path.join(folder, name + ".gz")):
        if os.path.isfile(path):
            return path
    return None


class Case:
    """A case folder, or one processor of it: its times, and where mesh and points of each are.

    Arguments:
        path: the folder.
        region: of a case of several.
        roots: {folder: the processor's block in its files, or None}, where they lie in other
            folders than the case itself; a file in two is taken from the first.
        name: of the processor, for messages.
    """

    def __init__(
        self,
        path: str,
        region: str = "",
        roots: Roots | None = None,
        name: str = "",
    ):
        self.region, self.name = region, name
        self.roots = roots or {path: None}
        found = sorted(
            (float(name), name)
            for name in {name for root in self.roots for name in os.listdir(root)}
            if TIME.fullmatch(name) and self.folders(name)
        )
        self.times = [(t, name) for i, (t, name) in enumerate(found) if i == 0 or
                      t > found[i - 1][0]]  # fmt: skip

    def folders(self, time: str, region: str = "") -> list[str]:
        """The folders of a time (or "constant"), in one root or several."""
        here = (os.path.join(root, time, region) for root in self.roots)
        return [folder for folder in here if os.path.isdir(folder)]

    def find(self, time: str, name: str, *within: str) -> str | None:
        """A file of a time (or "constant"), of the region that is read."""
        for folder in self.folders(time, self.region):
            found = find(os.path.join(folder, *within), name)
            if found:
                return found
        return None

    def load(self, path: str) -> File:
        """Open a file of the case."""
        block = next((b for r, b in self.roots.items() if path.startswith(os.path.join(r, ""))))
        return load(path) if block is None else load_block(path, block)

    def instance(self, time: str | None, what: str) -> str | None:
        """The newest file of the mesh (points, faces …) at or before a time."""
        names = [name for t, name in self.times if time is None or t <= float(time)]
        for name in [*reversed(names), "constant"]:
            found = self.find(name, what, "polyMesh")
            if found:
                return found
        if time is not None and what == "points":
            # points only of a later time: better than nothing
            for _, name in self.times:
                found = self.find(name, what, "polyMesh")
                if found:
                    return found
        return None

    def part(self, time: str | None, what: str, how: Callable[[File], Any]) -> Any:
        """What `how` reads from a file of the mesh that must be there; errors name the file.

        faces, owner, neighbour and boundary belong together: of the time with the newest faces.
        """
        path = None
        if what not in ("points", "faces"):
            faces = self.instance(time, "faces")
            path = None if faces is None else find(os.path.dirname(faces), what)
        path = path or self.need(time, what)
        try:
            return how(self.load(path))
        except Exception as error:
            raise ValueError(f"{self.where}polyMesh/{what}: {error}") from error

    def need(self, time: str | None, what: str) -> str:
        """The path of a file of the mesh that must be there."""
        found = self.instance(time, what)
        if found is None:
            raise ValueError(f"{self.where}polyMesh/{what} is not there")
        return found

    @property
    def where(self) -> str:
        """The processor, to begin a message with."""
        return f"{self.name}: " if self.name else ""

    def points(self, time: str | None) -> np.ndarray:
        """(N, 3) at a time."""
        out = self.part(time, "points", lambda file: file.numbers("f", 3))
        return np.asarray(out).reshape(-1, 3)

    def mesh(self, time: str | None, fields: bool = True) -> Tree:
        """The mesh at a time as a tree, with the fields of that time."""
        points = self.points(time)
        nodes, offsets = self.part(time, "faces", File.faces)
        owner, neighbour = self._owners(time)
        n_faces, n_internal = len(offsets) - 1, len(neighbour)
        expect(len(owner) == n_faces, f"owner has {len(owner)} entries (expected {n_faces})")
        expect(n_internal <= n_faces, "neighbour is longer than owner")
        check_indices(nodes, len(points), "faces")
        n_cells = int(max(owner.max(initial=-1), neighbour.max(initial=-1))) + 1
        expect(n_cells > 0, "the mesh has no cells")
        expect(n_cells <= n_faces, f"owner names cell {n_cells - 1} ({n_faces} faces)")
        expect(min(owner.min(), neighbour.min(initial=0)) >= 0, "owner names a negative cell")
        out: Tree = {
            "points": points,
            "blocks": cells(nodes, offsets, owner, neighbour, n_cells),
            "point_fields": {},
            "cell_fields": {},
            "boundaries": {},
            "groups": self._zones(time, n_cells),
            "notes": [],
        }
        for name, patch in self._patches(time).items():
            a, n = patch["start"], patch["n"]
            expect(n_internal <= a <= a + n <= n_faces, f"patch {name!r} is outside the faces")
            if n:
                rows = slice(offsets[a], offsets[a + n])
                sizes = np.diff(offsets)[a : a + n]
                out["boundaries"][name] = {"sizes": sizes, "nodes": nodes[rows],
                                           "kind": patch["type"], "fields": {}}  # fmt: skip
            if patch["type"] == "empty" and n:
                out["notes"].append(
                    f"patch {name!r} is of type empty: a two-dimensional case, one cell thick"
                )
        if time is not None and fields:
            frame = self.frame(time, True, n_cells, len(points))
            for place in ("point_fields", "cell_fields"):
                out[place] = frame[place]
            out["notes"] += [*frame["notes"], *left_out(self.fields(time))]
            for name, values in frame["patch_fields"].items():
                if name in out["boundaries"]:
                    n = len(out["boundaries"][name]["sizes"])
                    out["boundaries"][name]["fields"] = {
                        key: np.broadcast_to(v, (n, *v.shape[1:])).copy() if len(v) == 1 else v
                        for key, v in values.items()
                        if len(v) in (1, n)
                    }
        return out

    def _owners(self, time: str | None) -> tuple[np.ndarray, np.ndarray]:
        owner, neighbour = (
            self.part(time, what, lambda file: file.numbers("i")) for what in ("owner", "neighbour")
        )
        return owner, neighbour

    def _patches(self, time: str | None) -> dict[str, Tree]:
        def patches(file: File) -> dict[str, Tree]:
            file.count()
            file.skip(b"(")
            out = {}
            while file.peek() != b")":
                name = file.word().strip('"')
                file.skip(b"{")
                entries = file.dictionary(True)
                try:
                    n, start = int(entries["nFaces"]), int(entries["startFace"])
                except (KeyError, TypeError, ValueError):
                    raise ValueError(f"patch {name!r} has no nFaces, startFace") from None
                expect(n >= 0 and start >= 0, f"patch {name!r} has negative numbers")
                kind = str(entries.get("type", ""))
                out[name] = {"n": n, "start": start, "type": kind,
                             "of": str(entries.get("referPatch", ""))}  # fmt: skip
            return out

        found: dict[str, Tree] = self.part(time, "boundary", patches)
        return found

    def _zones(self, time: str | None, n_cells: int) -> Tree:
        found = self.instance(time, "cellZones")
        if found is None:
            return {}
        out: Tree = {}
        try:
            file = self.load(found)
            n = file.count()
            if n == 0:
                return {}
            file.skip(b"(")
            while file.peek() not in (b")", b""):
                name = file.word().strip('"')
                file.skip(b"{")
                while file.peek() != b"}":
                    key = file.word()
                    if key == "cellLabels":
                        if file.peek() == b"L":
                            file.word()
                        labels = file.numbers("i")
                        check_indices(labels, n_cells, f"cellZone {name}")
                        out[name] = {"cells": labels}
                        if file.peek() == b";":
                            file.at += 1
                    else:
                        file.value()
                file.at += 1
        except ValueError as error:
            raise ValueError(f"{self.where}cellZones: {error}") from error
        return out

    def series(self) -> Tree:
        """The case: one mesh with all times, later segments where the topology changes."""
        return series(self)

    def fields(self, time: str) -> list[tuple[str, str]]:
        """(name, "cell", "point" or "face") of the fields of a time, by headers of files."""
        out: dict[str, str] = {}
        for folder in self.folders(time, self.region):
            for entry in sorted(os.listdir(folder)):
                name = entry.removesuffix(".gz")
                if name in out or not os.path.isfile(os.path.join(folder, entry)):
                    continue
                kind = _class(os.path.join(folder, entry))
                for pattern, place in ((VOLUME, "cell"), (POINT, "point"), (FACE, "face")):
                    if pattern.match(kind):
                        out[name] = place
        return sorted(out.items())

    def frame(
        self, time: str, patches: bool, n_cells: int | None = None, n_points: int | None = None
    ) -> Tree:
        """The fields of a time: {"cell_fields", "point_fields", "patch_fields", "points"?}."""
        out: Tree = {"cell_fields": {}, "point_fields": {}, "patch_fields": {}, "notes": []}
        expect(self.folders(time), f"time {time} is not there")
        if n_cells is None:
            n_cells, n_points = self._sizes(time)
        for name, kind in self.fields(time):
            if kind == "face":
                continue
            path = self.find(time, name)
            try:
                file = self.load(str(path))
                entries = file.dictionary()
                inside = _value(entries.get("internalField", entries.get("value")), entries)
                if inside is None:
                    out["notes"].append(f"{time}/{name}: its values could not be read (macros?)")
                    continue
                n = n_cells if kind == "cell" else n_points
                if len(inside) not in (1, n):
                    out["notes"].append(f"{time}/{name}: {len(inside)} values, not {n}: left out")
                    continue
                out[f"{kind}_fields"][name] = _rows(inside, n, file)  # type: ignore[arg-type]
            except Exception as error:
                raise ValueError(f"{time}/{name}: {error}") from error
            for patch, found in (entries.get("boundaryField") or {}).items():
                if patches and isinstance(found, dict):
                    values = _value(found.get("value"), entries)
                    if values is not None:
                        out["patch_fields"].setdefault(patch, {})[name] = values
        return out

    def _sizes(self, time: str) -> tuple[int, int]:
        """Cells and points, from the note in the header of owner where it is."""
        note = self.part(time, "owner", lambda file: file.header.get("note", ""))
        found = re.search(r"nPoints:\s*(\d+)\s+nCells:\s*(\d+)", note)
        if found:
            return int(found[2]), int(found[1])
        cells, neighbour = self._owners(time)
        n = int(max(cells.max(initial=-1), neighbour.max(initial=-1))) + 1
        return n, len(self.points(time))


def left_out(fields: list[tuple[str, str]]) -> list[str]:
    """A note on the fields on faces, which meshes have no place for."""
    names = sorted({name for name, kind in fields if kind == "face"})
    return [f"fields on faces are left out: {', '.join(names)}"] if names else []


def series(case: Any) -> Tree:
    """A case (or its joined parts): one mesh with all times, segments where topology changes.

    Fields that not every time has are left out with a note: they can be read at their time.
    """
    if not case.times:
        out: Tree = case.mesh(None)
        return out
    if len(case.times) == 1:
        out = case.mesh(case.times[0][1])
        return out
    keys = [case.instance(name, "faces") for _, name in case.times]
    starts = [i for i, key in enumerate(keys) if i == 0 or key != keys[i - 1]]
    trees = []
    for a, b in zip(starts, [*starts[1:], len(keys)], strict=True):
        names = [name for _, name in case.times[a:b]]
        tree = case.mesh(names[0], fields=False)
        every = [set(case.fields(name)) for name in names]
        common, union = set.intersection(*every), set.union(*every)
        tree["times"], tree["steps"] = [t for t, _ in case.times[a:b]], names
        moves = len({case.instance(name, "points") for name in names}) > 1
        tree["frames"] = {
            place: sorted(name for name, kind in common if kind == place)
            for place in ("point", "cell")
        } | {"points": moves}
        tree["notes"].append("values on the patches are read with a single time")
        rest = sorted({name for name, kind in union - common if kind != "face"})
        if rest:
            counts = [f"{name} ({sum(name in dict(here) for here in every)})" for name in rest]
            tree["notes"].append(
                f"not given at every time, so left out: {', '.join(counts)} of {len(names)} times;"
                " read them with their time"
            )
        tree["notes"] += left_out(sorted(union))
        trees.append(tree)
    return trees[0] | {"later": trees[1:]}


def _class(path: str) -> str:
    """The class that a file's header names, or that of the blocks in it, or ""."""
    place = os.sep.join(path.rsplit(os.sep, 2)[1:])
    try:
        with unpacked(path) as file:
            start = file.read(8192)
    except OSError:
        return ""
    except (EOFError, zlib.error) as error:
        raise ValueError(f"{place}: {error}") from error
    found = head(start)
    if found is not None and found[0].get("class") == COLLATED:
        known = found[0].get("data.class")
        found = ({"class": known}, 0) if known else head(start[found[1] :])
        expect(found, f"{place}: block 0 is cut off or has no FoamFile header")
    return "" if found is None else found[0].get("class", "")


def _value(entry: Any, entries: Tree) -> np.ndarray | None:
    """The values of an entry: (n, …), or (1, …) for uniform ones."""
    for _ in range(5):
        if isinstance(entry, str) and entry.startswith("$"):
            entry = entries.get(entry[1:].strip("{}"))
    if isinstance(entry, np.ndarray):
        return entry
    if isinstance(entry, str) and "$" in entry:
        for word in re.findall(r"\$\{?(\w+)\}?", entry):
            entry = re.sub(rf"\$\{{?{word}\}}?", str(entries.get(word, "")), entry)
    value = uniform(entry)
    if value is None:
        return None
    return value if len(value) == 1 else value[None]


def _rows(values: np.ndarray, n: int, file: File) -> np.ndarray:
    kind = file.header.get("class", "")
    found = VOLUME.match(kind) or POINT.match(kind)
    assert found is not None
    width = COMPONENTS[found[1][0].lower() + found[1][1:]]
    expect(
        (values.shape[1] if values.ndim == 2 else 1) == width,
        f"{kind} with {values.shape[-1]} components",
    )
    if len(values) == 1 and n != 1:
        return np.broadcast_to(values, (n, *values.shape[1:])).copy()
    return values
