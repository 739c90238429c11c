"""Abaqus and CalculiX decks as keywords with data, sorted into parts, instances and sets."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from meshsim.io.raw import content, expect
from meshsim.io.raw.numbered import Numbered, included

# the dimension of elements by the start of their type, longest first
_KINDS: tuple[tuple[str, int], ...] = (
    (r"(SFM|M|R|F)3D[34689]", 2),
    (r"T3D[23]|T2D[23]|R2D2|F2D2|RAX2|[SM]AXA?[12]|MGAX|MCL|B[23][123]|PIPE[23][12]", 1),
    (r"ELBOW3|FRAME[23]D|[DA]?C1D[23]|PSI[23]", 1),
    (r"\w*C3D\d|COH3D|CSS8|SC[68]|Q3D", 3),
    (r"[A-Z]*C?P[ES]G?\d|[A-Z]*C?G?AX\d|[A-Z]*C2D\d|COH2D|COHAX|WARP2D|D?S[34689]|STRI|EMC2D", 2),
)
SHAPES: dict[tuple[int, int], tuple[str, list[int] | None]] = {
    (1, 2): ("line", None),
    (1, 3): ("line3", [0, 2, 1]),
    (2, 3): ("triangle", None),
    (2, 4): ("quad", None),
    (2, 6): ("triangle6", None),
    (2, 8): ("quad8", None),
    (2, 9): ("quad9", None),
    (3, 4): ("tetra", None),
    (3, 5): ("pyramid", None),
    (3, 6): ("wedge", None),
    (3, 8): ("hexahedron", None),
    (3, 10): ("tetra10", None),
    (3, 13): ("pyramid13", None),
    (3, 15): ("wedge15", None),
    (3, 18): ("wedge18", None),
    (3, 20): ("hexahedron20", None),
    (3, 27): ("hexahedron27", [*range(20), 26, 24, 23, 25, 21, 22, 20]),
}
# types whose number does not tell how many nodes they have
_NODES = {"STRI65": 6, "STRI35": 3, "C3D15V": 18, "B23": 2, "B33": 2, "FRAME2D": 2, "FRAME3D": 2}
# they make nodes or elements of others: without them the mesh would be silently wrong
GENERATORS = ("NGEN", "NFILL", "NCOPY", "NMAP", "ELGEN", "ELCOPY")


def shape_of(kind: str) -> tuple[str, list[int] | None, int]:
    """Our type, order and number of nodes of an Abaqus type; "" where it is no cell.

    >>> shape_of("C3D8R")[0], shape_of("S4R5")[0], shape_of("B32")[0], shape_of("MASS")[0]
    ('hexahedron', 'quad', 'line3', '')
    """
    for start, dim in _KINDS:
        if re.match(start, kind):
            n = _NODES.get(kind, 0) or _counted(kind, dim)
            shape, order = SHAPES.get((dim, n), ("", None))
            return shape, order, n
    return "", None, 0


def _counted(kind: str, dim: int) -> int:
    if dim == 1:
        ends = re.match(r"(B|PIPE|ELBOW)[23]([123])", kind)
        if ends:
            return 3 if ends[2] == "2" else 2
        if kind[:3] in ("SAX", "MAX"):
            return 3 if kind[3:4] == "2" else 2
        found = re.search(r"D([23])", kind)
        return int(found[1]) if found else 2
    found = re.search(r"(?:[123]D|SC|CSS|AX|P[ES]G?|^D?S|STRI)(\d+)", kind)
    return int(found[1]) if found else 0


@dataclass
class Scope:
    """What a part, an instance or the assembly defines; sets by their upper-case names.

    Arguments:
        elements: (type, numbers, nodes) by the numbers of the file.
        sets: {("N" or "E", NAME): [numbers, or names of sets, with the instance]}.
        surfaces: {name: [(set or number, face)]}; `labels` how names were written.
        internal: sets that the program made for itself.
        system: origin and axes that nodes are given in from here on (*SYSTEM).
    """

    tags: list[np.ndarray] = field(default_factory=list)
    points: list[np.ndarray] = field(default_factory=list)
    elements: list[tuple[str, np.ndarray, np.ndarray]] = field(default_factory=list)
    sets: dict[tuple[str, str], list[tuple[str, Any]]] = field(default_factory=dict)
    surfaces: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    internal: set[str] = field(default_factory=set)
    system: tuple[np.ndarray, np.ndarray] | None = None

    def add(self, kind: str, name: str, instance: str, members: Any) -> None:
        """More members of a set of nodes ("N") or elements ("E")."""
        self.labels.setdefault(name.upper(), name)
        self.sets.setdefault((kind, name.upper()), []).append((instance.upper(), members))


@dataclass
class Instance:
    """A part put into the assembly: moved, then turned about the axis a–b by an angle."""

    name: str
    part: str
    move: np.ndarray
    turn: np.ndarray | None
    own: Scope


@dataclass
class Deck:
    """A whole file."""

    root: Scope = field(default_factory=Scope)
    parts: dict[str, Scope] = field(default_factory=dict)
    assembly: Scope = field(default_factory=Scope)
    instances: list[Instance] = field(default_factory=list)
    parsed: Numbered = field(default_factory=Numbered)
    missing: list[str] = field(default_factory=list)


def keywords(
    path: str, main: str, deck: Deck, above: tuple[str, ...] = ()
) -> Iterator[tuple[str, dict[str, str], list[str]]]:
    """Keywords with their parameters and lines of data; those of included files among them."""
    lines = content(path).decode("latin-1").removeprefix("\xef\xbb\xbf").splitlines()
    at, n = 0, len(lines)
    while at < n:
        line = lines[at].strip()
        at += 1
        if not line.startswith("*") or line.startswith("**"):
            continue
        while line.endswith(",") and at < n and not lines[at].lstrip().startswith("*"):
            line += lines[at].strip()
            at += 1
        name, _, rest = line[1:].partition(",")
        options = {}
        for word in re.findall(r'[^,"]*(?:"[^"]*"[^,"]*)*', rest):
            key, _, value = word.partition("=")
            if key.strip():
                options["".join(key.upper().split())] = value.strip().strip('"')
        data = []
        while at < n and (not lines[at].lstrip().startswith("*") or lines[at].lstrip()[:2] == "**"):
            if lines[at].strip() and lines[at].lstrip()[:2] != "**":
                data.append(lines[at])
            at += 1
        name = " ".join(name.upper().split())
        file = options.get("INPUT", "")
        if name == "INCLUDE" or (file and name in ("NODE", "ELEMENT", "NSET", "ELSET")):
            place, why = included(main, file)
            expect(place, f"includes {file!r}, which is {why}")
            expect(place not in above and len(above) < 8, f"includes {file!r} in a circle")
            if name == "INCLUDE":
                yield from keywords(place, main, deck, (*above, place))
                continue
            text = content(place).decode("latin-1").splitlines()
            data += [row for row in text if row.strip() and row.lstrip()[:2] != "**"]
        yield name, options, data


def parse(path: str) -> Deck:
    """All that makes the mesh of a deck."""
    deck = Deck()
    scope = deck.root
    for name, options, data in keywords(path, path, deck):
        try:
            if name == "PART":
                scope = deck.parts.setdefault(_needed(options, "NAME").upper(), Scope())
            elif name in ("END PART", "END ASSEMBLY"):
                scope = deck.root
            elif name in ("ASSEMBLY", "END INSTANCE"):
                scope = deck.assembly
            elif name == "INSTANCE":
                deck.instances.append(_instance(options, data))
                scope = deck.instances[-1].own
            elif name == "SYSTEM":
                scope.system = _system(data)
            elif name == "NODE":
                _nodes(scope, options, data)
            elif name == "ELEMENT":
                _elements(scope, options, data, deck.parsed)
            elif name in ("NSET", "ELSET"):
                label = _needed(options, name)
                members = _members(options, data)
                scope.add(name[0], label, options.get("INSTANCE", ""), members)
                if "INTERNAL" in options or label.startswith("_"):
                    scope.internal.add(label.upper())
            elif name == "SURFACE":
                _surface(scope, options, data, deck.parsed)
            elif name in GENERATORS and data:
                raise ValueError("is not supported")
        except (ValueError, IndexError, OverflowError) as error:
            raise ValueError(f"*{name}: {error}") from error
    return deck


def _needed(options: dict[str, str], key: str) -> str:
    expect(options.get(key), f"has no {key}=")
    return options[key]


def _instance(options: dict[str, str], data: list[str]) -> Instance:
    rows = [[float(w or 0) for w in line.replace(" ", "").rstrip(",").split(",")] for line in data]
    move, turn = np.zeros(3), None
    if rows and len(rows[0]) <= 3:
        move[: len(rows[0])] = rows[0]
        rows = rows[1:]
    if rows and len(rows[0]) == 7:
        turn = np.array(rows[0])
    return Instance(_needed(options, "NAME"), options.get("PART", "").upper(), move, turn, Scope())


def _system(data: list[str]) -> tuple[np.ndarray, np.ndarray] | None:
    """Origin a, the x axis towards b, c in the x-y plane; without c turned about z."""
    words = [float(w or 0) for line in data for w in line.rstrip(" ,").split(",")]
    if not words:
        return None
    expect(len(words) in (3, 6, 9), f"{len(words)} numbers (expected 3, 6 or 9)")
    a = np.array(words[:3])
    if len(words) == 3:
        return a, np.eye(3)
    x = np.array(words[3:6]) - a
    c = np.array(words[6:9]) - a if len(words) == 9 else np.cross([0.0, 0.0, 1.0], x)
    z = np.cross(x, c)
    expect(np.linalg.norm(z) > 0, "its three points are on a line")
    axes = np.stack([x, np.cross(z, x), z])
    return a, axes / np.linalg.norm(axes, axis=1, keepdims=True)


def _table(data: list[str], kind: Any) -> np.ndarray | None:
    """Lines of one width as an array, fast; None where they differ or have empty places."""
    width = data[0].rstrip(" ,").count(",") + 1
    text = ",".join(line.rstrip(" \t,") for line in data)
    words = text.split(",")
    if len(words) != width * len(data) or any(
        line.rstrip(" \t,").count(",") != width - 1 for line in data
    ):
        return None
    try:
        return np.array(words).astype(kind).reshape(len(data), width)
    except ValueError:
        return None


def _nodes(scope: Scope, options: dict[str, str], data: list[str]) -> None:
    if not data:
        return
    table = _table(data, np.float64)
    if table is None:
        rows = [[w.strip() for w in line.split(",")] for line in data]
        table = np.array([[float(w or 0) for w in (row + [""] * 4)[:4]] for row in rows])
    expect(table.shape[1] >= 2, "a node without coordinates")
    tags = table[:, 0].astype(np.int64)
    x = np.zeros((len(table), 3))
    x[:, : min(table.shape[1] - 1, 3)] = table[:, 1:4]
    system = options.get("SYSTEM", "R").upper()
    a, b = np.radians(x[:, 1]), np.radians(x[:, 2])
    if system == "C":
        x = np.stack([x[:, 0] * np.cos(a), x[:, 0] * np.sin(a), x[:, 2]], 1)
    elif system == "S":  # angle in the x-y plane, angle above it
        r = x[:, 0]
        x = np.stack([r * np.cos(a) * np.cos(b), r * np.sin(a) * np.cos(b), r * np.sin(b)], 1)
    if scope.system is not None:
        x = scope.system[0] + x @ scope.system[1]
    scope.tags.append(tags)
    scope.points.append(x)
    if options.get("NSET"):
        scope.add("N", options["NSET"], "", tags)


def _elements(scope: Scope, options: dict[str, str], data: list[str], parsed: Numbered) -> None:
    kind = _needed(options, "TYPE").upper()
    shape, order, n = shape_of(kind)
    if not shape:
        first = sum(not line.rstrip().endswith(",") for line in data)
        parsed.ignore(f"elements of type {kind}", first)
        return
    if shape[:4] == "line":  # a node that says how the beam is turned may follow
        data = [",".join(line.split(",")[: n + 1]) for line in data]
    words = ",".join(line.strip().rstrip(",") for line in data).split(",")
    flat = np.array([w for w in words if w.strip()]).astype(np.int64) if data else np.zeros(0, int)
    expect(len(flat) % (n + 1) == 0, f"{kind}: {len(flat)} numbers (expected {n + 1} an element)")
    table = flat.reshape(-1, n + 1)
    nodes = table[:, 1:]
    scope.elements.append((shape, table[:, 0], nodes if order is None else nodes[:, order]))
    if options.get("ELSET"):
        scope.add("E", options["ELSET"], "", table[:, 0])


def _members(options: dict[str, str], data: list[str]) -> list[Any]:
    """Numbers and names of other sets; GENERATE gives first, last, step."""
    out: list[Any] = []
    if "GENERATE" in options:
        for line in data:
            words = [int(w) for w in line.rstrip(" ,").split(",")]
            first, last, step = [*words, 1][:3]
            expect(step > 0 and last - first < 1 << 40, "a damaged range")
            out.append(np.arange(first, last + 1, step))
        return out
    entries = [w.strip() for line in data for w in line.split(",") if w.strip()]
    out.append(np.array([int(w) for w in entries if w.isdigit()], np.int64))
    out += [w.strip('"').upper() for w in entries if not w.isdigit()]
    return out


def _surface(scope: Scope, options: dict[str, str], data: list[str], parsed: Numbered) -> None:
    name = _needed(options, "NAME")
    kind = options.get("TYPE", "ELEMENT").upper()
    if kind not in ("ELEMENT", "NODE") or "COMBINE" in options or not data:
        parsed.ignore(f"surfaces of kind {kind} ({name!r})")
        return
    if kind == "NODE":
        scope.add("N", name, "", _members({}, [line.split(",")[0] for line in data]))
        return
    scope.labels.setdefault(name.upper(), name)
    for line in data:
        who, _, face = line.partition(",")
        entry = who.strip().strip('"').upper(), face.strip(" ,\t").upper()
        scope.surfaces.setdefault(name.upper(), []).append(entry)
