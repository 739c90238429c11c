"""CGNS in HDF5: one base, one zone, a section a cell type, boundaries as sections with ZoneBC."""

from __future__ import annotations

from typing import Any, BinaryIO

import numpy as np

from meshsim.check import InputError
from meshsim.io.hdf5 import hdf5
from meshsim.io.plain import face_blocks, flat_rows, packed
from meshsim.io.raw import DIM, Tree, ragged
from meshsim.io.raw.cgns import component_names
from meshsim.io.raw.cgns_cells import NFACE, NGON, TYPES

NUMBERS = {name: (number, order) for number, (name, order) in TYPES.items()}
LETTERS = {"i4": "I4", "u4": "U4", "i8": "I8", "u8": "U8", "f4": "R4", "f8": "R8"}
LONGEST = 32  # characters of a name
VERSION = 4.2


def put(parent: Any, name: str, label: str, data: Any = None) -> Any:
    """A node: an HDF5 group with CGNS's attributes and its data.

    Arguments:
        data: an array, a string, or None.
    """
    if "/" in name or name in (".", "") or len(name.encode()) > LONGEST:
        raise InputError(f"the name {name!r} cannot be written to .cgns (at most {LONGEST} bytes)")
    group = parent.create_group(name, track_order=True)
    kind = "MT"
    if isinstance(data, str):
        kind, values = "C1", np.frombuffer(data.encode("utf-8"), np.int8)
    elif data is not None:
        values = np.ascontiguousarray(data)
        kind = LETTERS[values.dtype.str[1:]]
    group.attrs.create("name", name.encode(), dtype="S33")
    group.attrs.create("label", label.encode(), dtype="S33")
    group.attrs.create("type", kind.encode(), dtype="S3")
    group.attrs.create("flags", np.array([1], np.int32))
    if kind != "MT" and values.size:
        group.create_dataset(" data", data=values)
    return group


def write(plain: Tree, target: BinaryIO, order: np.ndarray | None = None) -> None:
    """Write a mesh.

    Arguments:
        target: a file open for reading and writing.
        plain: cells in the order of their blocks (CGNS has a section a type).
        order: (C,) the mesh's file order, stored beside.
    """
    dim = 3 if plain["points"].shape[1] == 3 else 2
    top = max(DIM.get(b["type"].rstrip("0123456789"), 3) for b in plain["blocks"])
    n, c = len(plain["points"]), sum(len(block["rows"]) for block in plain["blocks"])
    with hdf5(target) as file:
        file.attrs.create("name", b"HDF5 MotherNode", dtype="S33")
        file.attrs.create("label", b"Root Node of HDF5 File", dtype="S33")
        file.attrs.create("type", b"MT", dtype="S3")
        file.create_dataset(" format", data=np.frombuffer(b"IEEE_LITTLE_32\0", np.int8))
        version = b"HDF5 Version 1.10.0".ljust(33, b"\0")
        file.create_dataset(" hdf5version", data=np.frombuffer(version, np.int8))
        put(file, "CGNSLibraryVersion", "CGNSLibraryVersion_t", np.array([VERSION], np.float32))
        base = put(file, "Base", "CGNSBase_t", np.array([top, dim], np.int32))
        zone = put(base, "Zone", "Zone_t", np.array([[n], [c], [0]], np.int64))
        put(zone, "ZoneType", "ZoneType_t", "Unstructured")
        grid = put(zone, "GridCoordinates", "GridCoordinates_t")
        for i, axis in enumerate("XYZ"[:dim]):
            put(grid, f"Coordinate{axis}", "DataArray_t", plain["points"][:, i])
        last = _cells(zone, plain["blocks"], c)
        _boundaries(zone, plain["boundaries"], last)
        for place, where in (("point", "Vertex"), ("cell", "CellCenter")):
            _solution(zone, plain[f"{place}_fields"], where)
        # VTK's and our reader find global values only among the extras
        extras = packed(_with_stored_types(plain), order, widths=_widths(plain))
        put(base, "meshsim", "Descriptor_t", extras.pop("meshsim"))
        store = put(base, "meshsim arrays", "UserDefinedData_t")
        for i, (name, values) in enumerate(extras.items()):
            node = put(store, f"array{i}", "DataArray_t", _stored(np.asarray(values)))
            put(node, "name", "Descriptor_t", name.removeprefix("meshsim:"))
        for i, (name, values) in enumerate(plain["global_fields"].items()):
            node = put(store, f"global{i}", "DataArray_t", _stored(np.atleast_1d(values)))
            put(node, "name", "Descriptor_t", f"global:{name}")


def _stored(values: np.ndarray) -> np.ndarray:
    """Values in a type that CGNS knows."""
    values = flat_rows(values)
    if values.dtype.str[1:] in LETTERS:
        return values
    return values.astype(np.int32)


def _widths(plain: Tree) -> Tree:
    """Components of the fields that have several."""
    fields = {**plain["point_fields"], **plain["cell_fields"]}
    rows = {name: flat_rows(values) for name, values in fields.items()}
    return {name: values.shape[1] for name, values in rows.items() if values.ndim == 2}


def _with_stored_types(plain: Tree) -> Tree:
    """With the types to restore, where CGNS has none of its own."""
    dtypes = dict(plain["dtypes"])
    for place in ("point", "cell", "global"):
        for name, values in plain[f"{place}_fields"].items():
            if flat_rows(values).dtype.str[1:] not in LETTERS and values.dtype != np.bool_:
                dtypes.setdefault(f"{place}:{name}", values.dtype.name)
    for part_name, part in plain["boundaries"].items():
        for name, values in part["fields"].items():
            if flat_rows(values).dtype.str[1:] not in LETTERS and values.dtype != np.bool_:
                dtypes.setdefault(f"boundary:{part_name}:{name}", values.dtype.name)
    return {**plain, "dtypes": dtypes}


def _section(
    zone: Any, name: str, kind: int, nodes: np.ndarray, first: int, n: int,
    offsets: np.ndarray | None = None,
) -> int:  # fmt: skip
    section = put(zone, name, "Elements_t", np.array([kind, 0], np.int32))
    put(section, "ElementRange", "IndexRange_t", np.array([first, first + n - 1], np.int64))
    put(section, "ElementConnectivity", "DataArray_t", nodes.astype(np.int64).reshape(-1))
    if offsets is not None:
        put(section, "ElementStartOffset", "DataArray_t", offsets.astype(np.int64))
    return first + n


def _block(zone: Any, name: str, block: Tree, first: int) -> int:
    """A section of cells; gives the next free element number."""
    n = len(block["rows"])
    if block["type"] == "polygon":
        return _section(zone, name, NGON, block["nodes"] + 1, first, n, block["offsets"])
    number, order = NUMBERS[block["type"]]
    nodes = block["nodes"] if order is None else block["nodes"][:, np.argsort(order)]
    return _section(zone, name, number, nodes + 1, first, n)


def _cells(zone: Any, blocks: list[Tree], n: int) -> int:
    """Sections of the cells, numbered from one; gives the next free number."""
    first = 1
    faces: list[tuple[Tree, int]] = []
    for block in blocks:
        if block["type"] == "polyhedron":
            faces.append((block, first))
            first += len(block["rows"])
        else:
            first = _block(zone, f"Elements_{block['type']}", block, first)
    for block, start in faces:
        # the faces stand after the cells, once for each cell that has them
        sizes = np.diff(block["face_offsets"])
        numbers = np.arange(first, first + len(sizes))
        _section(
            zone, "Elements_polyhedron", NFACE, numbers, start, len(block["rows"]),
            block["offsets"],
        )  # fmt: skip
        first = _section(zone, "Faces", NGON, block["nodes"] + 1, first, len(sizes), ragged(sizes))
    return first


def _boundaries(zone: Any, boundaries: Tree, first: int) -> None:
    if not boundaries:
        return
    conditions = put(zone, "ZoneBC", "ZoneBC_t")
    for i, (name, part) in enumerate(boundaries.items()):
        start = first
        for j, block in enumerate(face_blocks(part)):
            first = _block(zone, f"Boundary{i}_{j}", block, first)
        kind = part["kind"] if part["kind"].startswith("BC") else "UserDefined"
        bc = put(conditions, name, "BC_t", kind)
        put(bc, "PointRange", "IndexRange_t", np.array([[start], [first - 1]], np.int64))
        where = "EdgeCenter" if part["sizes"].max(initial=2) <= 2 else "FaceCenter"
        put(bc, "GridLocation", "GridLocation_t", where)


def _solution(zone: Any, fields: Tree, where: str) -> None:
    if not fields:
        return
    node = put(zone, f"{where}Fields", "FlowSolution_t")
    put(node, "GridLocation", "GridLocation_t", where)
    for name, values in fields.items():
        rows = _stored(values)
        if rows.ndim == 1:
            put(node, name, "DataArray_t", rows)
            continue
        for i, part in enumerate(component_names(name, rows.shape[1])):
            put(node, part, "DataArray_t", rows[:, i])
