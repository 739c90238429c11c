"""Gmsh's .msh: versions 1, 2, 4.0 and 4.1, ASCII and binary, with physical groups and fields."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np

from meshsim.io.raw import DIM, NODES, Tree, content, expect, integer_lines, numbers
from meshsim.io.raw.numbered import places

# Gmsh's number: our name, and which of Gmsh's nodes stand at our places (None: the same order)
CELLS: dict[int, tuple[str, list[int] | None]] = {
    1: ("line", None),
    2: ("triangle", None),
    3: ("quad", None),
    4: ("tetra", None),
    5: ("hexahedron", None),
    6: ("wedge", None),
    7: ("pyramid", None),
    8: ("line3", None),
    9: ("triangle6", None),
    10: ("quad9", None),
    11: ("tetra10", [0, 1, 2, 3, 4, 5, 6, 7, 9, 8]),
    12: (
        "hexahedron27",
        [*range(8), 8, 11, 13, 9, 16, 18, 19, 17, 10, 12, 14, 15, 22, 23, 21, 24, 20, 25, 26],
    ),
    13: ("wedge18", [*range(6), 6, 9, 7, 12, 14, 13, 8, 10, 11, 15, 17, 16]),
    14: ("pyramid14", [*range(5), 5, 8, 10, 6, 7, 9, 11, 12, 13]),
    15: ("vertex", None),
    16: ("quad8", None),
    17: ("hexahedron20", [*range(8), 8, 11, 13, 9, 16, 18, 19, 17, 10, 12, 14, 15]),
    18: ("wedge15", [*range(6), 6, 9, 7, 12, 14, 13, 8, 10, 11]),
    19: ("pyramid13", [*range(5), 5, 8, 10, 6, 7, 9, 11, 12]),
}
# cells of higher order, read by their corners: (shape, nodes)
HIGHER = {
    20: ("triangle", 9), 21: ("triangle", 10), 22: ("triangle", 12), 23: ("triangle", 15),
    24: ("triangle", 15), 25: ("triangle", 21), 26: ("line", 4), 27: ("line", 5), 28: ("line", 6),
    29: ("tetra", 20), 30: ("tetra", 35), 31: ("tetra", 56), 36: ("quad", 16), 37: ("quad", 25),
    38: ("quad", 36), 39: ("quad", 12), 40: ("quad", 16), 41: ("quad", 20), 90: ("wedge", 40),
    91: ("wedge", 75), 92: ("hexahedron", 64), 93: ("hexahedron", 125), 118: ("pyramid", 30),
}  # fmt: skip
CORNERS = {"line": 2, "triangle": 3, "quad": 4, "tetra": 4, "hexahedron": 8, "wedge": 6,
           "pyramid": 5}  # fmt: skip
ENTITY = ("point", "curve", "surface", "volume")


@dataclass
class Parsed:
    """What the sections of a file gave."""

    tags: list[np.ndarray] = field(default_factory=list)  # node numbers
    points: list[np.ndarray] = field(default_factory=list)
    # (type number, element numbers (n,), nodes (n, k), physical groups, entity) of equal elements
    elements: list[tuple[int, np.ndarray, np.ndarray, tuple[int, ...], int]] = field(
        default_factory=list
    )
    names: dict[tuple[int, int], str] = field(default_factory=dict)
    physical: dict[tuple[int, int], tuple[int, ...]] = field(default_factory=dict)
    # (kind, name, time, components, element or node numbers, values)
    data: list[tuple[str, str, float, int, np.ndarray, np.ndarray]] = field(default_factory=list)


class Cursor:
    """A place in a section: words of ASCII, or bytes of binary numbers."""

    def __init__(self, data: bytes, binary: bool, order: str):
        self.binary, self.order, self.data = binary, order, data
        self.values = np.zeros(0) if binary else numbers(data)
        self.at = 0

    def take(self, kind: str, n: int = 1) -> np.ndarray:
        """The next n numbers; `kind` is i4, u8 or f8 (how they stand in a binary file)."""
        if self.binary:
            dtype = np.dtype(self.order + kind)
            expect(n >= 0 and self.at + n * dtype.itemsize <= len(self.data), "ends early")
            out = np.frombuffer(self.data, dtype, n, self.at)
            self.at += n * dtype.itemsize
            return out.astype(np.float64 if kind == "f8" else np.int64)
        expect(n >= 0 and self.at + n <= len(self.values), "ends early")
        out = self.values[self.at : self.at + n]
        self.at += n
        if kind == "f8":
            return out
        whole = np.abs(out) < 2**53  # what float64 holds exactly; false for NaN
        expect(whole.all() and (out == np.floor(out)).all(), "is damaged: a number is not whole")
        return out.astype(np.int64)

    def ints(self, n: int, kind: str = "i4") -> list[int]:
        """The next n integers as Python's."""
        return [int(i) for i in self.take(kind, n)]


_SECTION = re.compile(rb"^\$(?!End|END)(\w+)[ \t]*\r?\n", re.M)


def read(path: str, options: Tree) -> Tree:
    """A .msh file as a tree; fields at several times make a series."""
    data = content(path)
    parsed, at, version, binary, order = Parsed(), 0, 0.0, False, "<"
    while found := _SECTION.search(data, at):
        name, start = found[1].decode(), found.end()
        end = _end(data, start, name)
        body = data[start:end]
        at = end + 1
        if name == "MeshFormat":
            words = body.split(None, 3)
            expect(len(words) >= 3, "has a damaged $MeshFormat")
            version, binary = float(words[0]), words[1] == b"1"
            if binary:
                one = body[body.index(b"\n") + 1 :][:4]
                order = "<" if int.from_bytes(one, "little") == 1 else ">"
        elif name in ("NOD", "ELM"):
            (_nodes_2 if name == "NOD" else _elements_1)(Cursor(body, False, ""), parsed)
        elif name == "PhysicalNames":
            for line in body.decode("utf-8", "replace").splitlines()[1:]:
                if match := re.match(r'\s*(\d+)\s+(-?\d+)\s+"(.*)"', line):
                    parsed.names[int(match[1]), int(match[2])] = match[3]
        elif name in ("Entities", "PartitionedEntities") and version >= 4.1:
            _entities(Cursor(body, binary, order), parsed, name == "PartitionedEntities")
        elif name == "Entities":
            _entities(Cursor(body, binary, order), parsed, False, 6)
        elif name == "Nodes":
            expect(version, "has $Nodes before $MeshFormat")
            if version < 4:
                head, _, rest = body.partition(b"\n")
                cursor = Cursor(rest if binary else body, binary, order)
                _nodes_2(cursor, parsed, int(head) if binary else None)
            else:
                _nodes_4(Cursor(body, binary, order), parsed, version)
        elif name == "Elements":
            expect(version, "has $Elements before $MeshFormat")
            if version < 4:
                head, _, rest = body.partition(b"\n")
                if binary:
                    _elements_binary_2(Cursor(rest, True, order), parsed, int(head))
                else:
                    _elements_2(rest, parsed, int(head))
            else:
                _elements_4(Cursor(body, binary, order), parsed, version)
        elif name in ("NodeData", "ElementData"):
            parsed.data.append(_data(body, name, binary, order))
    return _tree(parsed)


def _end(data: bytes, start: int, name: str) -> int:
    end = data.find(f"$End{name}".encode(), start)
    if end < 0:
        end = data.find(f"$END{name}".encode(), start)
    expect(end >= 0, f"ends early in ${name}")
    return end


def _nodes_2(cursor: Cursor, parsed: Parsed, n: int | None = None) -> None:
    if n is None:
        (n,) = cursor.ints(1)
        rows = cursor.take("f8", 4 * n).reshape(n, 4)
        parsed.tags.append(rows[:, 0].astype(np.int64))
        parsed.points.append(rows[:, 1:].copy())
        return
    row = np.dtype([("tag", cursor.order + "i4"), ("x", cursor.order + "f8", 3)])
    expect(len(cursor.data) >= n * row.itemsize, "ends early in $Nodes")
    table = np.frombuffer(cursor.data, row, n)
    parsed.tags.append(table["tag"].astype(np.int64))
    parsed.points.append(table["x"].astype(np.float64))


def _nodes_4(cursor: Cursor, parsed: Parsed, version: float) -> None:
    blocks = cursor.ints(4 if version >= 4.1 else 2, "u8")[0]
    for _ in range(blocks):
        a, b, parametric = cursor.ints(3)
        (n,) = cursor.ints(1, "u8")
        # Gmsh 4.1 puts dimension before tag, 4.0 after
        dim = a if version >= 4.1 else b
        width = 3 + (dim if parametric else 0)
        if version >= 4.1:
            parsed.tags.append(cursor.take("u8", n))
            parsed.points.append(cursor.take("f8", width * n).reshape(n, width)[:, :3])
        elif cursor.binary:
            row = np.dtype([("tag", cursor.order + "i4"), ("x", cursor.order + "f8", width)])
            expect(cursor.at + n * row.itemsize <= len(cursor.data), "ends early in $Nodes")
            table = np.frombuffer(cursor.data, row, n, cursor.at)
            cursor.at += n * row.itemsize
            parsed.tags.append(table["tag"].astype(np.int64))
            parsed.points.append(table["x"][:, :3].astype(np.float64))
        else:
            rows = cursor.take("f8", n * (1 + width)).reshape(n, 1 + width)
            parsed.tags.append(rows[:, 0].astype(np.int64))
            parsed.points.append(rows[:, 1:4])


def _size(number: int) -> int:
    if number in CELLS:
        return NODES[CELLS[number][0]]
    expect(number in HIGHER, f"cells of Gmsh type {number} are not supported")
    return HIGHER[number][1]


def _elements_1(cursor: Cursor, parsed: Parsed) -> None:
    (n,) = cursor.ints(1)
    for _ in range(n):
        tag, number, physical, entity, k = cursor.ints(5)
        expect(k == _size(number), f"a cell of Gmsh type {number} with {k} nodes")
        nodes = cursor.take("i4", k)
        groups = (physical,) if physical else ()
        parsed.elements.append((number, np.array([tag]), nodes[None], groups, entity))


def _elements_2(body: bytes, parsed: Parsed, n: int) -> None:
    values, of = integer_lines(body)
    expect(len(of) > n, f"ends early (expected {n} elements, got {len(of) - 1})")
    if n == 0:
        return
    first, sizes = of[:n], np.diff(of)[:n]
    expect((sizes >= 3).all(), "a damaged element: a line of less than three numbers")
    number, tags = values[first + 1], values[first + 2]
    k = sizes - 3 - tags  # nodes
    for kind in sorted(set(number.tolist())):
        wrong = k[(number == kind) & (k != _size(kind))]
        if len(wrong):
            raise ValueError(f"a cell of Gmsh type {kind} with {wrong[0]} nodes")
    last = len(values) - 1
    physical = np.where(tags > 0, values[np.minimum(first + 3, last)], 0)
    entity = np.where(tags > 1, values[np.minimum(first + 4, last)], 0)
    # neighbours in the file with one type and one group become one run
    keys = np.stack([number, tags, physical, entity], 1)
    starts = np.flatnonzero(np.append(True, (keys[1:] != keys[:-1]).any(1)))
    for a, b in zip(starts.tolist(), [*starts[1:].tolist(), n], strict=True):
        kind, skip, group, of_entity = keys[a].tolist()
        nodes = values[first[a:b, None] + 3 + skip + np.arange(_size(kind))]
        groups = (group,) if group else ()
        parsed.elements.append((kind, values[first[a:b]], nodes, groups, of_entity))


def _elements_binary_2(cursor: Cursor, parsed: Parsed, total: int) -> None:
    done = 0
    while done < total:
        number, n, tags = cursor.ints(3)
        expect(n > 0 and 0 <= tags < 100, "has damaged $Elements")
        k = _size(number)
        table = cursor.take("i4", n * (1 + tags + k)).reshape(n, 1 + tags + k)
        keys = table[:, 1 : 1 + min(tags, 2)]
        new = np.append(True, (keys[1:] != keys[:-1]).any(1))
        starts: list[int] = np.flatnonzero(new).tolist()
        for a, b in zip(starts, [*starts[1:], n], strict=True):
            physical = int(table[a, 1]) if tags > 0 else 0
            entity = int(table[a, 2]) if tags > 1 else 0
            groups = (physical,) if physical else ()
            parsed.elements.append((number, table[a:b, 0], table[a:b, 1 + tags :], groups, entity))
        done += n


def _elements_4(cursor: Cursor, parsed: Parsed, version: float) -> None:
    blocks = cursor.ints(4 if version >= 4.1 else 2, "u8")[0]
    for _ in range(blocks):
        a, b, number = cursor.ints(3)
        (n,) = cursor.ints(1, "u8")
        dim, entity = (a, b) if version >= 4.1 else (b, a)
        k = _size(number)
        table = cursor.take("u8" if version >= 4.1 else "i4", n * (1 + k)).reshape(n, 1 + k)
        groups = parsed.physical.get((dim, entity), ())
        if n:
            parsed.elements.append((number, table[:, 0], table[:, 1:], groups, entity))


def _entities(cursor: Cursor, parsed: Parsed, parts: bool, point_box: int = 3) -> None:
    """Which physical groups the entities belong to."""
    if parts:
        _, ghosts = cursor.ints(2, "u8")
        cursor.take("i4", 2 * ghosts)
    counts = cursor.ints(4, "u8")
    for dim, count in enumerate(counts):
        for _ in range(count):
            (tag,) = cursor.ints(1)
            parent: tuple[int, ...] = ()
            if parts:
                above_dim, above = cursor.ints(2)
                cursor.take("i4", cursor.ints(1, "u8")[0])
                parent = parsed.physical.get((above_dim, above), ()) if above_dim == dim else ()
            cursor.take("f8", point_box if dim == 0 else 6)
            groups = tuple(cursor.ints(cursor.ints(1, "u8")[0]))
            parsed.physical[dim, tag] = groups or parent
            if dim:
                cursor.take("i4", cursor.ints(1, "u8")[0])


def _data(
    body: bytes, kind: str, binary: bool, order: str
) -> tuple[str, str, float, int, np.ndarray, np.ndarray]:
    at = 0

    def line() -> bytes:
        nonlocal at
        end = body.find(b"\n", at)
        expect(end >= 0, f"ends early in ${kind}")
        out = body[at:end]
        at = end + 1
        return out.strip()

    strings = [line().strip(b'"').decode("utf-8", "replace") for _ in range(int(line()))]
    reals = [float(line()) for _ in range(int(line()))]
    integers = [int(line()) for _ in range(int(line()))]
    expect(strings and len(integers) >= 3, f"has a damaged ${kind}")
    components, n = integers[1], integers[2]
    expect(components > 0 and 0 <= n <= len(body), f"has a damaged ${kind}")
    rest = body[at:]
    if binary:
        row = np.dtype([("tag", order + "i4"), ("v", order + "f8", components)])
        expect(len(rest) >= n * row.itemsize, f"ends early in ${kind}")
        table = np.frombuffer(rest, row, n)
        tags, values = table["tag"].astype(np.int64), table["v"].astype(np.float64)
    else:
        words = rest.split()
        expect(len(words) >= n * (1 + components), f"ends early in ${kind}")
        cut = np.array(words[: n * (1 + components)] or [b"0"] * 0).reshape(n, 1 + components)
        tags = cut[:, 0].astype(np.int64) if n else np.zeros(0, np.int64)
        values = cut[:, 1:].astype(np.float64) if n else np.zeros((0, components))
    values = values.reshape(n, components)
    time = reals[0] if reals else 0.0
    return kind, strings[0], time, components, tags, values[:, 0] if components == 1 else values


def _tree(parsed: Parsed) -> Tree:
    expect(parsed.points, "holds no nodes")
    expect(parsed.elements, "holds no elements")
    tags, points = np.concatenate(parsed.tags), np.concatenate(parsed.points)
    notes: list[str] = []
    blocks: list[Tree] = []
    groups: dict[str, list[np.ndarray]] = {}
    entities: dict[str, list[np.ndarray]] = {}
    by_type: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    at = 0
    numbers: list[np.ndarray] = []
    # elementary entities count only where nothing is said of physical groups
    named = any(physical for _, _, _, physical, _ in parsed.elements)
    for number, ids, nodes, physical, entity in parsed.elements:
        if number in CELLS:
            name, order = CELLS[number]
        else:
            name, order = HIGHER[number][0], list(range(CORNERS[HIGHER[number][0]]))
            notes.append(f"{len(ids)} cells of higher order were read by their corners")
        rows = np.arange(at, at + len(ids))
        at += len(ids)
        by_type.setdefault(name, []).append((nodes if order is None else nodes[:, order], rows))
        numbers.append(ids)
        dim = DIM.get(name.rstrip("0123456789"), 3)
        for tag in physical:
            label = parsed.names.get((dim, tag), str(tag))
            groups.setdefault(label, []).append(rows)
        if entity and not named:
            entities.setdefault(f"{ENTITY[dim]} {entity}", []).append(rows)
    for name, parts in by_type.items():
        nodes = places(tags, np.concatenate([n for n, _ in parts]), "a cell names a node that")
        blocks.append({"type": name, "nodes": nodes, "rows": np.concatenate([r for _, r in parts])})
    out: Tree = {
        "points": points,
        "blocks": blocks,
        "groups": {name: {"cells": np.concatenate(rows)} for name, rows in groups.items()},
        "notes": list(dict.fromkeys(notes)),
    }
    for name, some in entities.items():
        out["groups"].setdefault(name, {"cells": np.concatenate(some), "entity": True})
    _fields(parsed, out, tags, np.concatenate(numbers))
    return out


def _fields(parsed: Parsed, out: Tree, nodes: np.ndarray, elements: np.ndarray) -> None:
    known = {"NodeData": nodes, "ElementData": elements}
    found: dict[tuple[str, str], dict[float, tuple[np.ndarray, np.ndarray]]] = {}
    for kind, name, time, _, tags, values in parsed.data:
        rows = places(known[kind], tags, f"${kind}: number")
        steps = found.setdefault((kind, name), {})
        old_rows, old = steps.get(time, (rows[:0], values[:0]))
        same = old.shape[1:] == values.shape[1:]
        expect(same, f"{name!r} has different numbers of components in the parts of one time")
        steps[time] = np.concatenate([old_rows, rows]), np.concatenate([old, values])
    times = sorted({t for steps in found.values() if len(steps) > 1 for t in steps})
    series: Tree = {"point": {}, "cell": {}}
    for (kind, name), steps in found.items():
        place = "point" if kind == "NodeData" else "cell"
        n = len(known[kind])
        rows, values = next(iter(steps.values()))
        if len(steps) == len(times) > 1:
            frames = [_spread(*steps[t], n) for t in times]
            series[place][name] = np.stack(frames)
        else:
            if len(steps) > 1:
                out["notes"].append(f"{name!r} is not given at every time: only the first is kept")
            out.setdefault(f"{place}_fields", {})[name] = _spread(rows, values, n)
            if len(np.unique(rows)) < n:
                if place == "cell":
                    out.setdefault("covered", {})[name] = rows
                else:
                    out["notes"].append(f"point field {name!r} is NaN where the file has no value")
    if times and (series["point"] or series["cell"]):
        out["times"], out["series"] = times, series


def _spread(rows: np.ndarray, values: np.ndarray, n: int) -> np.ndarray:
    if len(rows) == n and (rows == np.arange(n)).all():
        return values
    out = np.full((n, *values.shape[1:]), np.nan)
    out[rows] = values
    return out
