"""CGNS in HDF5, read node by node: zones, sections, boundary conditions, solutions, times.

Files of the old ADF kind are left to VTK.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from meshsim.io.raw import Tree, expect, stack_components
from meshsim.io.raw.cgns_cells import sections, structured
from meshsim.io.raw.merge import merge

FACE_CORNERS = {"vertex": 1, "line": 2, "triangle": 3, "quad": 4}


class Node:
    """A node of the CGNS tree in its HDF5 dress: a group with a label and perhaps data."""

    def __init__(self, group: Any, name: str):
        self.group, self.name = group, name
        self.label = _text(group.attrs.get("label", b""))

    @property
    def data(self) -> np.ndarray | None:
        """The node's array; HDF5 keeps it in the order of C, so indices are reversed."""
        return np.asarray(self.group[" data"][()]) if " data" in self.group else None

    @property
    def text(self) -> str:
        """The node's characters."""
        data = self.data
        return (
            ""
            if data is None
            else data.astype(np.uint8).tobytes().decode("utf-8", "replace").strip("\0 ")
        )

    def all(self, label: str) -> Iterator[Node]:
        """The children with a label, in the order of their creation where the file keeps it."""
        import h5py

        for name, child in self.group.items():
            if isinstance(child, h5py.Group):
                node = Node(child, _text(child.attrs.get("name", name)) or name)
                if node.label == label:
                    yield node

    def first(self, label: str, name: str = "") -> Node | None:
        """The first child with a label (and a name)."""
        return next((n for n in self.all(label) if not name or n.name == name), None)

    def array(self, name: str) -> np.ndarray | None:
        """The data of the child of a name."""
        return Node(self.group[name], name).data if name in self.group else None


def _text(value: Any) -> str:
    raw = value if isinstance(value, bytes) else str(value).encode()
    return raw.split(b"\0", 1)[0].decode("utf-8", "replace").strip()


def read(path: str, options: Tree) -> Tree:
    """A CGNS file as a tree.

    Arguments:
        options: {"step": number} reads the fields at one time only; {"part": number} one zone;
            {"parts": True} gives {"parts": [points of each zone]} instead.
    """
    with open(path, "rb") as file:
        head = file.read(8)
    if head != b"\x89HDF\r\n\x1a\n":
        return {"parts": []} if options.get("parts") else _adf(path)
    import h5py

    with h5py.File(path, "r") as file:
        bases, notes = _bases(Node(file, "/"))
        if options.get("parts"):
            return {"parts": [_count(zone) for _, _, zones in bases for zone in zones]}
        return _file(bases, notes, options.get("step"), options.get("part"))


def _bases(root: Node) -> tuple[list[tuple[int, Node, list[Node]]], list[str]]:
    """(dimension, base, its zones) of those of the highest dimension; notes on the others."""
    bases = []
    for base in root.all("CGNSBase_t"):
        shape = base.data
        expect(shape is not None and shape.size >= 2, f"base {base.name!r} has no dimensions")
        zones = list(base.all("Zone_t"))
        if zones:
            bases.append((int(shape.flat[0]), base, zones))  # type: ignore[union-attr]
    expect(bases, "holds no zones (no CGNSBase_t with a Zone_t)")
    top = max(dim for dim, _, _ in bases)
    notes = [f"base {b.name!r} of dimension {dim} was left out" for dim, b, _ in bases if dim < top]
    return [found for found in bases if found[0] == top], notes


def _count(zone: Node) -> int:
    """How many points a zone has; 0 where that is damaged."""
    size = zone.data
    good = size is not None and size.size >= 3 and size.size % 3 == 0
    return int(np.prod(size.reshape(3, -1)[0])) if good else 0  # type: ignore[union-attr]


def _file(
    bases: list[tuple[int, Node, list[Node]]], notes: list[str], step: int | None, part: int | None
) -> Tree:
    parts, names = [], []
    times: list[float] | None = None
    every = [zone for _, _, zones in bases for zone in zones]
    expect(part is None or 0 <= part < len(every), f"has no zone {part} (it has {len(every)})")
    for dim, base, zones in bases:
        found = _times(base)
        times = found if times is None else times
        for zone in zones:
            if part is not None and zone is not every[part]:
                continue
            parts.append(_zone(zone, base, dim, step, len(found or [])))
            names.append(zone.name)
    steps = {part.pop("at") for part in parts}
    names_at = {key for part in parts for key in part.pop("moving")}
    series = bool(times) and len(times or []) > 1 and steps == {len(times or [])}
    out = merge(parts, names, compare=not series)
    out["extras"], out["global_fields"] = _extras(bases[0][1])
    if part is not None:  # they are of all zones together
        out["extras"] = {}
    out["notes"] = [*out.get("notes", []), *notes]
    if times and series and step is None:
        out["times"], out["steps"] = times, list(range(len(times)))
        out["frames"] = {p: sorted(n for q, n in names_at if q == p) for p in ("point", "cell")}
    return out


def _extras(base: Node) -> tuple[Tree, Tree]:
    """What our writer stored beside the mesh, and the global fields."""
    extras: Tree = {}
    fields: Tree = {}
    words = base.first("Descriptor_t", "meshsim")
    store = base.first("UserDefinedData_t", "meshsim arrays")
    if words is not None:
        extras["meshsim"] = words.text
    for node in [] if store is None else store.all("DataArray_t"):
        label, data = node.first("Descriptor_t", "name"), node.data
        if label is not None:
            values = np.zeros(0, np.int64) if data is None else data
            if label.text.startswith("global:"):
                fields[label.text.removeprefix("global:")] = values
            else:
                extras[f"meshsim:{label.text}"] = values
    return extras, fields


def _times(base: Node) -> list[float] | None:
    iterative = base.first("BaseIterativeData_t")
    values = None if iterative is None else iterative.array("TimeValues")
    return None if values is None else [float(t) for t in values.reshape(-1)]


def _zone(zone: Node, base: Node, dim: int, step: int | None, n_times: int) -> Tree:
    size = zone.data
    expect(size is not None, f"zone {zone.name!r} has no size")
    kind = zone.first("ZoneType_t")
    shape = size.reshape(3, -1) if size is not None and size.size % 3 == 0 else np.zeros((3, 0))
    expect(shape.shape[1] >= 1, f"zone {zone.name!r} has a damaged size")
    n_points, n_cells = (int(np.prod(row.astype(np.int64))) for row in shape[:2])
    expect(n_points >= 0 and n_cells >= 0, f"zone {zone.name!r} has a damaged size")
    points = _points(zone, n_points)
    notes: list[str] = []
    out: Tree = {"points": points, "notes": notes, "groups": {}, "boundaries": {}}
    is_structured = kind is not None and kind.text == "Structured"
    if is_structured:
        out |= structured(zone, shape[0].astype(np.int64), base, notes)
    else:
        out |= sections(zone, dim, base, notes)
    at, moving = _solutions(zone, base, out, n_points, n_cells, step, n_times, notes)
    out["at"], out["moving"] = at, moving
    return out


def _points(zone: Node, n: int) -> np.ndarray:
    grid = zone.first("GridCoordinates_t", "GridCoordinates") or zone.first("GridCoordinates_t")
    expect(grid is not None, f"zone {zone.name!r} has no coordinates")
    axes = [grid.array(f"Coordinate{axis}") for axis in "XYZ"]  # type: ignore[union-attr]
    have = [a for a in axes if a is not None]
    expect(len(have) >= 2, f"zone {zone.name!r}: expected CoordinateX and CoordinateY")
    for a in have:
        expect(a.size == n, f"zone {zone.name!r}: {a.size} coordinates (expected {n})")
        expect(a.dtype.kind == "f", f"zone {zone.name!r}: coordinates of dtype {a.dtype}")
    return np.stack([a.reshape(-1) for a in have], 1)


def _solutions(
    zone: Node, base: Node, out: Tree, n_points: int, n_cells: int, step: int | None,
    n_times: int, notes: list[str],
) -> tuple[int, set[tuple[str, str]]]:  # fmt: skip
    """Put the fields of the solutions into `out`.

    Returns:
        At how many times there are solutions, and which fields change: (place, name).
    """
    joined = _joiner(base)
    solutions = list(zone.all("FlowSolution_t"))
    at = _at_times(zone, [solution.name for solution in solutions], n_times)
    in_time = {name for names in at for name in names}
    wanted = at[0] if at else set()
    if step is not None:
        expect(0 <= step < len(at), f"has no step {step}")
        wanted = at[step]
    fields: dict[str, dict[str, np.ndarray]] = {"point": {}, "cell": {}}
    moving: set[tuple[str, str]] = set()
    rows = {"point": n_points, "cell": n_cells}
    for solution in solutions:
        if solution.name in in_time and solution.name not in wanted:
            continue
        location = solution.first("GridLocation_t")
        place = {"Vertex": "point", "CellCenter": "cell"}.get(
            location.text if location is not None else "Vertex"
        )
        columns: dict[str, np.ndarray] = {}
        for node in solution.all("DataArray_t"):
            data = node.data
            if place is None or data is None or data.dtype.kind not in "iuf":
                notes.append(f"solution {solution.name!r}: {node.name!r} was left out")
                continue
            data = _inside(solution, data)
            expect(
                data.size == rows[place],
                f"field {node.name!r} has {data.size} values (expected {rows[place]})",
            )
            columns[node.name] = data.reshape(-1)
        for name, values in joined(columns).items():
            key = name if place and name not in fields[place] else f"{solution.name}/{name}"
            fields[place or "point"][key] = values
            if solution.name in in_time:
                moving.add((place or "point", key))
    out["point_fields"], out["cell_fields"] = fields["point"], fields["cell"]
    _spread_cells(out, n_cells)
    return len(at), moving


def _joiner(base: Node) -> Callable[[Tree], Tree]:
    """How scalars become vectors: as our writer split them, else by their names."""
    words = base.first("Descriptor_t", "meshsim")
    try:
        said = {} if words is None else dict(json.loads(words.text)["widths"])
    except (ValueError, KeyError, TypeError, RecursionError):
        said = {}
    widths = {name: k for name, k in said.items() if isinstance(k, int)} if said else None
    if widths is None:
        return stack_components

    def joined(columns: Tree) -> Tree:
        out = dict(columns)
        for name, k in widths.items():
            parts = component_names(name, min(k, len(out) + 1))
            if parts and all(part in out for part in parts):
                out[name] = np.stack([out.pop(part) for part in parts], 1)
        return out

    return joined


def component_names(name: str, k: int) -> list[str]:
    """What the k components of a field are called in the file."""
    return [f"{name}{c}" for c in "XYZ"[:k]] if k <= 3 else [f"{name}_{i}" for i in range(k)]


def _at_times(zone: Node, names: list[str], n: int) -> list[set[str]]:
    """The solutions at each of n times: those pointed at, else those numbered one a time."""
    if n < 2:
        return []
    iterative = zone.first("ZoneIterativeData_t")
    pointers = None if iterative is None else iterative.array("FlowSolutionPointers")
    if pointers is not None and pointers.ndim == 2 and len(pointers) == n:
        texts = [row.astype(np.uint8).tobytes() for row in pointers]
        found = [text.decode("utf-8", "replace").strip("\0 ") for text in texts]
        if set(found) <= set(names):
            return [{name} for name in found]
    groups: dict[str, list[str]] = {}
    for name in sorted(names):
        if digits := re.search(r"\d+$", name):
            groups.setdefault(name[: digits.start()], []).append(name)
    every = [group for group in groups.values() if len(group) == n]
    return [{group[t] for group in every} for t in range(n)] if every else []


def _inside(solution: Node, data: np.ndarray) -> np.ndarray:
    """Without the ghost layers (rind) of a structured solution."""
    rind = solution.first("Rind_t")
    planes = None if rind is None else rind.data
    if planes is None or planes.size != 2 * data.ndim:
        return data
    pairs = planes.reshape(-1, 2)[::-1]  # the file counts i first, the array k first
    return data[tuple(slice(int(a), data.shape[d] - int(b)) for d, (a, b) in enumerate(pairs))]


def _spread_cells(out: Tree, n_cells: int) -> None:
    """Cell fields have rows for cells of the top dimension only: tell which they are."""
    top = out.pop("top_rows", None)
    total = sum(len(b["offsets"]) - 1 if "offsets" in b else len(b["nodes"]) for b in out["blocks"])
    if top is None or total == n_cells or not out["cell_fields"]:
        return
    expect(len(top) == n_cells, f"has {len(top)} cells (the zone announces {n_cells})")
    covered = {}
    for name, values in out["cell_fields"].items():
        full = np.zeros((total, *values.shape[1:]), values.dtype)
        full[top] = values
        out["cell_fields"][name] = full
        covered[name] = top
    out["covered"] = covered


def _adf(path: str) -> Tree:
    """The old kind of CGNS file, through VTK: zones with those boundaries that it knows."""
    from vtkmodules.vtkIOCGNSReader import vtkCGNSReader

    from meshsim.io.raw import vtk

    reader = vtkCGNSReader()
    reader.SetFileName(path)
    reader.UpdateInformation()
    reader.EnableAllBases()
    reader.EnableAllPointArrays()
    reader.EnableAllCellArrays()
    reader.LoadBndPatchOn()
    parts: list[Tree] = []
    names: list[str] = []
    for _, base in _children(vtk.run(reader)):
        for zone, content in _children(base):
            if not content.IsA("vtkMultiBlockDataSet"):
                parts.append(vtk.tree(content))
                names.append(zone)
                continue
            inside = dict(_children(content))
            if "Internal" not in inside:
                continue
            part = vtk.tree(inside["Internal"])
            n = len(part["points"])
            part["boundaries"] = {
                name: faces
                for name, patch in _children(inside.get("Patches"))
                if (faces := _patch(vtk.tree(patch), n)) is not None
            }
            parts.append(part)
            names.append(zone)
    out = merge(parts, names)
    out["notes"] = [*out.get("notes", []), "an ADF file, read by VTK, which skips some boundaries"]
    return out


def _children(blocks: Any) -> list[tuple[str, Any]]:
    """The blocks of a multi-block set with their names."""
    if blocks is None or not blocks.IsA("vtkMultiBlockDataSet"):
        return []
    found = []
    for i in range(blocks.GetNumberOfBlocks()):
        block = blocks.GetBlock(i)
        known = blocks.HasMetaData(i) and blocks.GetMetaData(i).Has(blocks.NAME())
        name = blocks.GetMetaData(i).Get(blocks.NAME()) if known else f"block{i + 1}"
        if block is not None:
            found.append((name.strip(), block))
    return found


def _patch(part: Tree, n: int) -> Tree | None:
    """The cells of a patch as faces by their corners, if it numbers the points as its zone does."""
    if len(part["points"]) != n or not part["blocks"]:
        return None
    sizes, nodes = [], []
    for block in part["blocks"]:
        k = FACE_CORNERS.get(block["type"].rstrip("0123456789"))
        if k is None:
            return None
        sizes.append(np.full(len(block["nodes"]), k))
        nodes.append(block["nodes"][:, :k].reshape(-1))
    return {"sizes": np.concatenate(sizes), "nodes": np.concatenate(nodes)}
