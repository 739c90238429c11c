"""PLY: ASCII and binary of either byte order, with all properties of points and faces."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from meshsim.io.raw import SURFACE, Tree, by_size, content, expect, ragged

TYPES = {
    "char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1",
    "short": "i2", "int16": "i2", "ushort": "u2", "uint16": "u2",
    "int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4",
    "float": "f4", "float32": "f4", "double": "f8", "float64": "f8",
    "int64": "i8", "uint64": "u8",
}  # fmt: skip
VECTORS = {("nx", "ny", "nz"): "normal", ("red", "green", "blue"): "colour"}


@dataclass
class Element:
    """One kind of things in a PLY file: how many, and their properties in order."""

    name: str
    count: int
    properties: list[tuple[str, str, str]] = field(default_factory=list)  # name, type, count type


def read(path: str, options: Tree) -> Tree:
    """A PLY file as a tree; properties named base_0, base_1 … are joined."""
    data = content(path)
    elements, form, at, comments = _header(data)
    order = {"binary_little_endian": "<", "binary_big_endian": ">", "ascii": ""}
    expect(form in order, f"format {form!r} (expected ascii or binary_little/big_endian)")
    values: dict[str, Tree] = {}
    lines = [line for line in data[at:].splitlines() if line.strip()] if form == "ascii" else []
    place = 0 if form == "ascii" else at
    lost = form == "ascii" and _without_faces(elements, lines)
    for element in elements:
        if form == "ascii":
            rows = lines[place : place + element.count]
            try:
                early = f"ends early (expected {element.count} {element.name}, got {len(rows)})"
                expect(len(rows) == element.count, early)
                values[element.name] = _ascii(rows, element)
                place += element.count
            except ValueError:
                # wrapped lines? then words tell where a row ends, and none may be left over
                try:
                    lines, place = _unwrapped(lines[place:], element), element.count
                    values[element.name] = _ascii(lines[: element.count], element)
                    expect(element is not elements[-1] or len(lines) == place, "words left over")
                except ValueError:
                    lines = []
                if not lines:
                    raise
        else:
            values[element.name], place = _binary(data, place, element, order[form])
    out = _tree(values, comments)
    if lost:
        out["notes"].append("the header lacks 'element face': rows after the points are faces")
    return out


def _without_faces(elements: list[Element], lines: list[bytes]) -> bool:
    """Give the header the line "element face" that some files lack, if the rows show it."""
    if len(elements) != 1 or elements[0].name != "vertex" or not lines:
        return False
    vertex = elements[0]
    plain = [p for p in vertex.properties if not p[2]]
    lists = [p for p in vertex.properties if p[2]]
    rows, rest = lines[: vertex.count], lines[vertex.count :]
    if len(lists) != 1 or any(len(row.split()) != len(plain) for row in rows):
        return False
    vertex.properties = plain
    if not rest:
        return False
    elements.append(Element("face", len(rest), lists))
    return True


def _header(data: bytes) -> tuple[list[Element], str, int, list[str]]:
    end = data[:100_000].find(b"end_header")
    expect(data[:3] == b"ply" and end >= 0, "has no complete ply header")
    after = end + len(b"end_header")
    after += 2 if data[after : after + 2] == b"\r\n" else 1
    elements: list[Element] = []
    form, comments = "", []
    for line in data[:end].decode("utf-8", "replace").splitlines()[1:]:
        words = line.split()
        if not words or words[0] == "obj_info":
            continue
        if words[0] == "comment":
            comments.append(line.strip()[8:])
        elif words[0] == "format":
            expect(len(words) >= 2, "has a damaged header")
            form = words[1]
        elif words[0] == "element":
            expect(len(words) == 3, f"has a damaged header: {line[:60]!r}")
            whole = words[2].isascii() and words[2].isdigit()
            expect(whole, f"expected a number of {words[1][:20]}, got {words[2][:20]!r}")
            # each takes a byte or more; int() refuses what has thousands of digits
            early = f"ends early (expected {words[2][:20]} {words[1][:20]}, got {len(data)} bytes)"
            expect(len(words[2]) < 20 and int(words[2]) <= len(data), early)
            twice = f"names the element {words[1][:20]!r} twice"
            expect(all(known.name != words[1] for known in elements), twice)
            elements.append(Element(words[1], int(words[2])))
        elif words[0] == "property":
            expect(elements and len(words) >= 3, f"has a damaged header: {line[:60]!r}")
            kinds = words[2:4] if words[1] == "list" else words[1:2]
            expect(all(kind in TYPES for kind in kinds), f"unknown type in {line[:60]!r}")
            if words[1] == "list":
                expect(len(words) == 5, f"has a damaged header: {line[:60]!r}")
                whole = TYPES[words[2]][0] != "f"
                expect(
                    whole, f"a list counted by {words[2]}: {line[:60]!r} (expected whole numbers)"
                )
            of = TYPES[words[2]] if words[1] == "list" else ""
            name = words[4] if of else words[2]
            twice = f"names the property {name[:20]!r} of {elements[-1].name[:20]!r} twice"
            expect(all(known != name for known, _, _ in elements[-1].properties), twice)
            elements[-1].properties.append((name, TYPES[kinds[-1]], of))
    return elements, form, after, comments


def _unwrapped(lines: list[bytes], element: Element) -> list[bytes]:
    """The rows of an element whose lines were broken, a line each, and the lines after them."""
    words = b" ".join(lines).split()
    out, at = [], 0
    for row in range(element.count):
        start = at
        for _, _, of in element.properties:
            expect(
                at < len(words), f"ends early (expected {element.count} {element.name}, got {row})"
            )
            n = int(words[at]) if of else 1
            expect(0 <= n <= len(words), f"a damaged list in {element.name}")
            at += n + bool(of)
        expect(at <= len(words), f"ends early (expected {element.count} {element.name}, got {row})")
        out.append(b" ".join(words[start:at]))
    return [*out, b" ".join(words[at:])] if at < len(words) else out


def _ascii(lines: list[bytes], element: Element) -> Tree:
    """The properties of an element, a line each; words beyond them are left out."""
    if all(not of for _, _, of in element.properties):
        width = len(element.properties)
        rows = [line.split()[:width] for line in lines]
        expect(all(len(row) == width for row in rows), f"a short line in {element.name}")
        table = np.array(rows).reshape(len(rows), width) if rows else np.zeros((0, width), "S1")
        return {
            name: _cast(table[:, i], kind) for i, (name, kind, _) in enumerate(element.properties)
        }
    columns: dict[str, list[bytes]] = {name: [] for name, _, _ in element.properties}
    sizes: dict[str, list[int]] = {name: [] for name, _, _ in element.properties}
    for line in lines:
        words = line.split()
        at = 0
        for name, _, of in element.properties:
            expect(at < len(words), f"a short line in {element.name}")
            n = int(words[at]) if of else 1
            at += bool(of)
            expect(n >= 0 and at + n <= len(words), f"a short line in {element.name}")
            columns[name] += words[at : at + n]
            sizes[name].append(n)
            at += n
    out: Tree = {}
    for name, kind, of in element.properties:
        flat = _cast(np.array(columns[name]) if columns[name] else np.zeros(0, "S1"), kind)
        out[name] = (flat, np.array(sizes[name], np.int64)) if of else flat
    return out


def _cast(words: np.ndarray, kind: str) -> np.ndarray:
    if not words.size:
        return np.zeros(words.shape, kind)
    if kind[0] == "f":
        return words.astype(np.float64).astype(kind)
    try:
        return words.astype(np.int64).astype(kind)
    except ValueError:  # 255.0 in an integer column
        return words.astype(np.float64).astype(kind)


def _binary(data: bytes, at: int, element: Element, order: str) -> tuple[Tree, int]:
    early = f"ends early (expected {element.count} {element.name})"
    if all(not of for _, _, of in element.properties):
        row = np.dtype([(f"p{i}", order + k) for i, (_, k, _) in enumerate(element.properties)])
        expect(len(data) - at >= element.count * row.itemsize, early)
        table = np.frombuffer(data, row, element.count, at) if row.itemsize else None
        columns = {
            name: table[f"p{i}"].astype(kind)  # type: ignore[index]
            for i, (name, kind, _) in enumerate(element.properties)
        }
        return columns, at + element.count * row.itemsize
    fast = _even(data, at, element, order)
    if fast is not None:
        return fast
    flat: dict[str, list[np.ndarray]] = {name: [] for name, _, _ in element.properties}
    sizes: dict[str, list[int]] = {name: [] for name, _, _ in element.properties}
    for _ in range(element.count):
        for name, kind, of in element.properties:
            n = 1
            if of:
                width = np.dtype(of).itemsize
                expect(at + width <= len(data), early)
                n = int(np.frombuffer(data, order + of, 1, at)[0])
                at += width
            width = np.dtype(kind).itemsize * n
            expect(n >= 0 and at + width <= len(data), early)
            flat[name].append(np.frombuffer(data, order + kind, n, at))
            sizes[name].append(n)
            at += width
    out: Tree = {}
    for name, kind, of in element.properties:
        joined = np.concatenate([np.zeros(0, kind), *flat[name]]).astype(kind)
        out[name] = (joined, np.array(sizes[name], np.int64)) if of else joined
    return out, at


def _even(data: bytes, at: int, element: Element, order: str) -> tuple[Tree, int] | None:
    """The common case that all rows have lists of the same length: one array."""
    sizes: list[int] = []
    place = at
    for _, kind, of in element.properties:
        n = 1
        if of:
            width = np.dtype(of).itemsize
            if place + width > len(data) or element.count == 0:
                return None
            n = int(np.frombuffer(data, order + of, 1, place)[0])
            place += width
        sizes.append(n)
        place += np.dtype(kind).itemsize * max(n, 0)
        if n < 0 or place > len(data):
            return None
    row: list[Any] = []
    for i, ((_, kind, of), n) in enumerate(zip(element.properties, sizes, strict=True)):
        row += [(f"n{i}", order + of)] if of else []
        row += [(f"p{i}", order + kind, (n,))] if of else [(f"p{i}", order + kind)]
    dtype = np.dtype(row)
    if len(data) - at < element.count * dtype.itemsize:
        return None
    table = np.frombuffer(data, dtype, element.count, at)
    out: Tree = {}
    for i, ((name, kind, of), n) in enumerate(zip(element.properties, sizes, strict=True)):
        if of and (table[f"n{i}"] != n).any():
            return None
        values = table[f"p{i}"].astype(kind)
        out[name] = (values.reshape(-1), np.full(element.count, n)) if of else values
    return out, at + element.count * dtype.itemsize


def _tree(values: dict[str, Tree], comments: list[str]) -> Tree:
    vertex = dict(values.get("vertex", {}))
    expect(all(axis in vertex for axis in "xyz"), "has no points (expected vertex x, y, z)")
    points = np.stack([vertex.pop(axis) for axis in "xyz"], 1)
    face = dict(values.get("face", {}))
    notes = []
    corners = next((face.pop(n) for n in ("vertex_indices", "vertex_index") if n in face), None)
    cell_fields = {}
    for name, column in face.items():
        if isinstance(column, tuple):
            notes.append(f"the list {name!r} of the faces was left out")
        else:
            cell_fields[name] = column
    blocks: list[Tree] = []
    if corners is not None:
        expect(isinstance(corners, tuple), "faces without lists of corners")
        flat, sizes = corners
        whole = flat.dtype.kind != "f" or not (flat % 1).any()
        expect(whole, "faces whose corners are no whole numbers")
        if (sizes == 0).any():
            notes.append(f"{int((sizes == 0).sum())} faces without corners were left out")
            cell_fields = {name: column[sizes > 0] for name, column in cell_fields.items()}
            sizes = sizes[sizes > 0]
        blocks = by_size(flat.astype(np.int64), ragged(sizes), SURFACE)
    if "tristrips" in values:
        notes.append("triangle strips were left out")
    if "edge" in values and not blocks and {"vertex1", "vertex2"} <= set(values["edge"]):
        ends = [values["edge"][n].astype(np.int64) for n in ("vertex1", "vertex2")]
        blocks = [{"type": "line", "nodes": np.stack(ends, 1)}]
        cell_fields = {}
    lists = [name for name, column in vertex.items() if isinstance(column, tuple)]
    for name in lists:
        notes.append(f"the list {name!r} of the points was left out")
        del vertex[name]
    about = _about(comments)
    dtypes: Tree = {}
    return {
        "points": points if points.dtype.kind == "f" else points.astype(np.float64),
        "blocks": blocks,
        "point_fields": _ours(vertex, about["point"], "point", dtypes)
        if about
        else _vectors(vertex),
        "cell_fields": _ours(cell_fields, about["cell"], "cell", dtypes)
        if about
        else _vectors(cell_fields),
        "dtypes": dtypes,
        "exact": bool(about),
        "notes": notes,
    }


def _about(comments: list[str]) -> Tree:
    """What our writer said of the fields, or {} where nothing sound is said."""
    for comment in comments:
        if comment.startswith("meshsim "):
            try:
                found = json.loads(comment[8:])
                about = {place: dict(found[place]) for place in ("point", "cell")}
            except (ValueError, KeyError, TypeError, RecursionError):
                return {}
            entries = [entry for place in about.values() for entry in place.values()]
            return about if all(map(_sound, entries)) else {}
    return {}


def _sound(entry: Any) -> bool:
    """Whether this can be what our writer said of a field."""
    if not isinstance(entry, dict):
        return False
    shape = entry.get("shape", [])
    words = [entry.get(key, "") for key in ("name", "dtype")]
    return (
        isinstance(shape, list)
        and all(isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in shape)
        and all(isinstance(word, str) for word in words)
    )


def _ours(columns: Tree, about: Tree, place: str, dtypes: Tree) -> Tree:
    """Columns put together as they were before they were written."""
    out = dict(columns)
    for key, entry in about.items():
        name, shape = entry.get("name", key), entry.get("shape")
        if shape is not None:
            count = math.prod(shape)  # as the file says, whatever it says
            if not 1 <= count <= len(columns):
                continue
            parts = [f"{key}_{i}" for i in range(count)]
            if not all(part in out for part in parts):
                continue
            joined = np.stack([out.pop(part) for part in parts], 1)
            out[name] = joined.reshape(len(joined), *shape)
        elif key in out:
            out[name] = out.pop(key)
        if "dtype" in entry:
            dtypes[f"{place}:{name}"] = entry["dtype"]
    return out


def _vectors(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Normals, colours and columns named base_0, base_1, … as fields of several components."""
    out: dict[str, np.ndarray] = {}
    taken: set[str] = set()
    for name in columns:
        if name in taken:
            continue
        for parts, vector in VECTORS.items():
            if name == parts[0] and all(part in columns for part in parts):
                every = (*parts, "alpha") if vector == "colour" and "alpha" in columns else parts
                out[vector] = np.stack([columns[part] for part in every], 1)
                taken.update(every)
                break
        else:
            base = name.removesuffix("_0")
            several = [f"{base}_{i}" for i in range(len(columns)) if f"{base}_{i}" in columns]
            if base != name and len({columns[part].dtype for part in several}) == 1:
                out[base] = np.stack([columns[part] for part in several], 1)
                taken.update(several)
            else:
                out[name] = columns[name]
    return out
