"""VTK's files, written without VTK: vtu and vtp (XML, raw appended data), legacy vtk (binary).

Boundaries, regions and what else the formats have no place for stand in the field data
(`meshsim.io.extras`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, BinaryIO
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np

from meshsim.check import InputError
from meshsim.io.plain import flat_rows, packed
from meshsim.io.raw import VTK_TYPES, Tree, ragged

NUMBERS = {name: number for number, (name, _) in VTK_TYPES.items()}
XML_TYPES = {
    "i1": "Int8", "u1": "UInt8", "i2": "Int16", "u2": "UInt16", "i4": "Int32", "u4": "UInt32",
    "i8": "Int64", "u8": "UInt64", "f4": "Float32", "f8": "Float64",
}  # fmt: skip
LEGACY_TYPES = {
    "i1": "signed_char", "u1": "unsigned_char", "i2": "short", "u2": "unsigned_short",
    "i4": "int", "u4": "unsigned_int", "i8": "vtktypeint64", "u8": "vtktypeuint64",
    "f4": "float", "f8": "double",
}  # fmt: skip


def in_file_order(blocks: list[Tree]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cells of all blocks, but polyhedra, as one ragged list in the order of the file.

    Returns:
        VTK's types (C,), offsets (C + 1,), points; a polyhedron has no points here.
    """
    n = sum(len(block["rows"]) for block in blocks)
    kinds, sizes = np.zeros(n, np.uint8), np.zeros(n, np.int64)
    flat, starts, at = [], np.zeros(n, np.int64), 0
    for block in blocks:
        rows, nodes = block["rows"], block["nodes"]
        kinds[rows] = NUMBERS[block["type"]]
        if block["type"] == "polyhedron":
            continue
        size = np.diff(block["offsets"]) if "offsets" in block else nodes.shape[1]
        sizes[rows] = size
        starts[rows] = at + ragged(np.broadcast_to(size, len(rows)))[:-1]
        flat.append(nodes.reshape(-1))
        at += nodes.size
    offsets = ragged(sizes)
    values = np.concatenate([np.zeros(0, np.int64), *flat])
    index = np.repeat(starts - offsets[:-1], sizes) + np.arange(offsets[-1])
    return kinds, offsets, values[index]


def face_streams(blocks: list[Tree]) -> dict[int, np.ndarray]:
    """{place in the file: (number of faces, then each face's size and points)} of polyhedra."""
    out = {}
    for block in blocks:
        if block["type"] != "polyhedron":
            continue
        of_cell, of_face, nodes = block["offsets"], block["face_offsets"], block["nodes"]
        sizes = np.diff(of_face)
        # each face's size goes before its points
        places = of_face[:-1] + np.arange(len(sizes))
        stream = np.empty(len(nodes) + len(sizes), np.int64)
        stream[places] = sizes
        rest = np.ones(len(stream), bool)
        rest[places] = False
        stream[rest] = nodes
        ends = np.append(places, len(stream))
        for row, a, b in zip(block["rows"].tolist(), of_cell[:-1], of_cell[1:], strict=True):
            out[row] = np.concatenate([[b - a], stream[ends[a] : ends[b]]])
    return out


def _with_points_of_polyhedra(
    offsets: np.ndarray, nodes: np.ndarray, streams: dict[int, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Polyhedra list their points too, each once."""
    if not streams:
        return offsets, nodes
    parts, sizes = [], np.diff(offsets)
    for row in range(len(sizes)):
        cell = nodes[offsets[row] : offsets[row + 1]]
        if row in streams:
            stream, at, found = streams[row], 1, []
            for _ in range(int(stream[0])):
                found.append(stream[at + 1 : at + 1 + stream[at]])
                at += 1 + int(stream[at])
            cell = np.unique(np.concatenate(found))
        parts.append(cell)
        sizes[row] = len(cell)
    return ragged(sizes), np.concatenate(parts)


class Xml:
    """A VTK XML file: elements that name arrays, the arrays' bytes after them."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.parts: list[np.ndarray] = []
        self.offset = 0

    def array(self, name: str, values: np.ndarray, tuples: bool = False) -> None:
        """An element for an array (n,) or (n, k); `tuples` says how many there are (field data)."""
        values = np.ascontiguousarray(values)
        kind = values.dtype.newbyteorder("<")
        values = values.astype(kind, copy=False)
        # without the word there is one component, and none but (n,) is meant
        k = f' NumberOfComponents="{values.shape[1]}"' if values.ndim == 2 else ""
        count = f' NumberOfTuples="{len(values)}"' if tuples else ""
        self.lines.append(
            f'<DataArray type="{XML_TYPES[values.dtype.str[1:]]}" Name={attribute(name)}'
            f'{k}{count} format="appended" offset="{self.offset}"/>'
        )
        self.parts.append(values)
        self.offset += 8 + values.nbytes

    def section(self, tag: str, arrays: Iterable[tuple[str, np.ndarray]], **flags: Any) -> None:
        """An element around arrays."""
        self.lines.append(f"<{tag}>")
        for name, values in arrays:
            self.array(name, values, **flags)
        self.lines.append(f"</{tag}>")

    def write(self, file: BinaryIO, kind: str) -> None:
        """The whole file."""
        head = (
            f'<?xml version="1.0"?>\n<VTKFile type="{kind}" version="1.0"'
            f' byte_order="LittleEndian" header_type="UInt64">\n<{kind}>\n'
        )
        tail = f'\n</{kind}>\n<AppendedData encoding="raw">\n_'
        file.write((head + "\n".join(self.lines) + tail).encode("utf-8"))
        for values in self.parts:
            file.write(values.nbytes.to_bytes(8, "little"))
            if values.nbytes:
                file.write(values.reshape(-1).view(np.uint8).data)
        file.write(b"\n</AppendedData>\n</VTKFile>\n")


def attribute(name: str) -> str:
    """A name in quotes for XML."""
    if any(ord(c) < 32 for c in name):
        raise InputError(f"the name {name!r} has control characters, which XML cannot hold")
    return quoteattr(name)


def _beside(plain: Tree) -> list[tuple[str, np.ndarray]]:
    """Field data: global fields, then the extras, their text as bytes."""
    out = [(name, flat_rows(np.atleast_1d(v))) for name, v in plain["global_fields"].items()]
    for name, values in packed(plain).items():
        if isinstance(values, str):
            values = np.frombuffer(values.encode("utf-8"), np.uint8)
        out.append((name, flat_rows(np.asarray(values))))
    return out


def _fields(plain: Tree, place: str) -> list[tuple[str, np.ndarray]]:
    return [(name, flat_rows(values)) for name, values in plain[f"{place}_fields"].items()]


def vtu(plain: Tree, file: BinaryIO) -> None:
    """Write an unstructured grid."""
    kinds, offsets, nodes = in_file_order(plain["blocks"])
    streams = face_streams(plain["blocks"])
    offsets, nodes = _with_points_of_polyhedra(offsets, nodes, streams)
    xml = Xml()
    xml.section("FieldData", _beside(plain), tuples=True)
    n, c = len(plain["points"]), len(kinds)
    xml.lines.append(f'<Piece NumberOfPoints="{n}" NumberOfCells="{c}">')
    xml.section("PointData", _fields(plain, "point"))
    xml.section("CellData", _fields(plain, "cell"))
    xml.section("Points", [("Points", plain["points"])])
    cells = [("connectivity", nodes), ("offsets", offsets[1:]), ("types", kinds)]
    if streams:
        ends = np.full(c, -1, np.int64)
        rows = sorted(streams)
        ends[rows] = np.cumsum([len(streams[row]) for row in rows])
        cells += [("faces", np.concatenate([streams[row] for row in rows])), ("faceoffsets", ends)]
    xml.section("Cells", cells)
    xml.lines.append("</Piece>")
    xml.write(file, "UnstructuredGrid")


def vtp(plain: Tree, file: BinaryIO) -> None:
    """Write polygonal data: vertices, lines or polygons."""
    _, offsets, nodes = in_file_order(plain["blocks"])
    dim = {"vertex": "Verts", "line": "Lines"}.get(plain["blocks"][0]["type"], "Polys")
    xml = Xml()
    xml.section("FieldData", _beside(plain), tuples=True)
    counts = " ".join(
        f'NumberOf{tag}="{len(offsets) - 1 if tag == dim else 0}"'
        for tag in ("Verts", "Lines", "Strips", "Polys")
    )
    xml.lines.append(f'<Piece NumberOfPoints="{len(plain["points"])}" {counts}>')
    xml.section("PointData", _fields(plain, "point"))
    xml.section("CellData", _fields(plain, "cell"))
    xml.section("Points", [("Points", plain["points"])])
    for tag in ("Verts", "Lines", "Strips", "Polys"):
        some = (nodes, offsets[1:]) if tag == dim else (nodes[:0], offsets[:0])
        xml.section(tag, [("connectivity", some[0]), ("offsets", some[1])])
    xml.lines.append("</Piece>")
    xml.write(file, "PolyData")


def vtk(plain: Tree, file: BinaryIO) -> None:
    """Write a legacy file, version 3, binary."""
    kinds, offsets, nodes = in_file_order(plain["blocks"])
    streams = face_streams(plain["blocks"])
    if len(plain["points"]) >= 2**31:
        raise InputError("a legacy .vtk file cannot number more than 2^31 points: write .vtu")

    def put(values: np.ndarray) -> None:
        file.write(np.ascontiguousarray(values, values.dtype.newbyteorder(">")).data)
        file.write(b"\n")

    def fields(arrays: list[tuple[str, np.ndarray]], label: str) -> None:
        file.write(f"FIELD {label} {len(arrays)}\n".encode())
        for name, values in arrays:
            k = values.shape[1] if values.ndim == 2 else 1
            kind = LEGACY_TYPES[values.dtype.str[1:]]
            word = quote(name, safe="!#$&'()*+,-./:;<=>?@[]^_`{|}~") or "field"
            file.write(f"{word} {k} {len(values)} {kind}\n".encode())
            put(values)

    file.write(b"# vtk DataFile Version 3.0\nmeshsim\nBINARY\nDATASET UNSTRUCTURED_GRID\n")
    fields(_beside(plain), "FieldData")
    points = plain["points"]
    file.write(f"POINTS {len(points)} {LEGACY_TYPES[points.dtype.str[1:]]}\n".encode())
    put(points)
    sizes = np.diff(offsets)
    stream = np.empty(len(nodes) + len(sizes), np.int64)
    places = offsets[:-1] + np.arange(len(sizes))
    stream[places] = sizes
    rest = np.ones(len(stream), bool)
    rest[places] = False
    stream[rest] = nodes
    if streams:
        of = np.append(places, len(stream))
        parts = [
            np.concatenate([[len(streams[row])], streams[row]])
            if row in streams
            else stream[of[row] : of[row + 1]]
            for row in range(len(sizes))
        ]
        stream = np.concatenate(parts)
    file.write(f"CELLS {len(sizes)} {len(stream)}\n".encode())
    put(stream.astype(np.int32))
    file.write(f"CELL_TYPES {len(kinds)}\n".encode())
    put(kinds.astype(np.int32))
    for place, n in (("point", len(points)), ("cell", len(kinds))):
        arrays = _fields(plain, place)
        if arrays:
            file.write(f"{place.upper()}_DATA {n}\n".encode())
            fields(arrays, "FieldData")
