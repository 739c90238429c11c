"""I-DEAS universal files (.unv): nodes, elements, groups and results, by their datasets."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from meshsim.io.raw import Tree, content, expect, numbers
from meshsim.io.raw.numbered import Numbered, field_of, tree

NODES = {"2411": 4, "781": 4, "15": 4}  # integers before the place of a node
ELEMENTS = {"2412": 6, "780": 8}  # integers before the nodes of an element
# numbers an entity of a group: its kind, its tag and (later) two more
GROUPS = {"752": 2, "2417": 2, "2429": 2, "2430": 2, "2432": 2, "2435": 4, "2452": 4, "2467": 4,
          "2477": 4}  # fmt: skip
BEAMS = {11, 21, 22, 23, 24, 31, 32}  # a line of three more integers
# (dimension of the descriptor, nodes): our type, and which of the file's nodes stand at our places;
# quadratic cells are given ring by ring, nodes between corners among the corners
SHAPES: dict[tuple[int, int], tuple[str, list[int] | None]] = {
    (1, 2): ("line", None),
    (1, 3): ("line3", [0, 2, 1]),
    (2, 3): ("triangle", None),
    (2, 4): ("quad", None),
    (2, 6): ("triangle6", [0, 2, 4, 1, 3, 5]),
    (2, 8): ("quad8", [0, 2, 4, 6, 1, 3, 5, 7]),
    (3, 4): ("tetra", None),
    (3, 5): ("pyramid", None),
    (3, 6): ("wedge", None),
    (3, 8): ("hexahedron", None),
    (3, 10): ("tetra10", [0, 2, 4, 9, 1, 3, 5, 6, 7, 8]),
    (3, 13): ("pyramid13", [0, 2, 4, 6, 12, 1, 3, 5, 7, 8, 9, 10, 11]),
    (3, 15): ("wedge15", [0, 2, 4, 9, 11, 13, 1, 3, 5, 10, 12, 14, 6, 7, 8]),
    (3, 20): (
        "hexahedron20",
        [0, 2, 4, 6, 12, 14, 16, 18, 1, 3, 5, 7, 13, 15, 17, 19, 8, 9, 10, 11],
    ),
}
_MARK = re.compile(rb"^[ \t]*-1[ \t]*\r?$", re.M)
_D = bytes.maketrans(b"Dd", b"Ee")


def _dim(descriptor: int) -> int:
    """The dimension of the elements of a descriptor; 0 for masses, springs, constraints."""
    if 11 <= descriptor <= 32 or 171 <= descriptor <= 172:
        return 1
    if 41 <= descriptor <= 96:
        return 2
    return 3 if 101 <= descriptor <= 119 else 0


@dataclass
class Result:
    """One dataset of results: values at nodes or in elements, at one time."""

    name: str
    place: str
    time: float
    ids: np.ndarray
    values: np.ndarray


@dataclass
class Parsed(Numbered):
    """What the datasets of a file gave."""

    results: list[Result] = field(default_factory=list)
    count: int = 0  # elements so far, also those left out


def read(path: str, options: Tree) -> Tree:
    """A .unv file as a tree; results at several times make a series."""
    data = content(path)
    parsed = Parsed()
    marks = [found.span() for found in _MARK.finditer(data)]
    expect(marks, "holds no dataset (expected lines of -1)")
    expect(not data[marks[-1][1] :].strip(), "ends early (a dataset without its closing -1)")
    # between two datasets there is nothing; where one mark of two was forgotten they still part
    for (_, a), (b, _) in pairwise(marks):
        head, _, body = data[a:b].lstrip().partition(b"\n")
        kind = head.split()[0].decode("latin-1") if head.split() else ""
        try:
            if kind in NODES:
                _read_nodes(body, parsed, kind)
            elif kind in ELEMENTS:
                _read_elements(body, parsed, ELEMENTS[kind])
            elif kind in GROUPS:
                _read_groups(body, parsed, GROUPS[kind])
            elif kind == "757":
                _read_restraints(body, parsed)
            elif kind == "164":
                _read_units(body, parsed)
            elif kind in ("55", "56", "2414"):
                _read_result(body, parsed, kind)
        except (ValueError, IndexError) as error:
            raise ValueError(f"dataset {kind}: {error or 'ends early'}") from error
    out, tags, ids = tree(parsed)
    _fields(parsed, out, tags, ids)
    return out


def _read_nodes(body: bytes, parsed: Parsed, kind: str) -> None:
    table = numbers(body.translate(_D))
    expect(len(table) % 7 == 0, f"ends early ({len(table)} numbers, expected 7 a node)")
    table = table.reshape(-1, 7)
    parsed.tags.append(table[:, 0].astype(np.int64))
    parsed.points.append(table[:, 4:].copy())


def _read_elements(body: bytes, parsed: Parsed, width: int) -> None:
    flat = numbers(body, np.int64)
    values, at = flat.tolist(), 0
    found: dict[tuple[int, int], list[tuple[int, int]]] = {}  # (descriptor, nodes): place, row
    while at < len(values):
        expect(at + width <= len(values), "ends early in an element")
        descriptor, n = values[at + 1], values[at + width - 1]
        expect(n >= 0, f"element {values[at]} has {n} nodes")
        first = at + width + (3 if descriptor in BEAMS else 0)
        expect(first + n <= len(values), f"ends early in element {values[at]}")
        found.setdefault((descriptor, n), []).append((at, parsed.count))
        parsed.count += 1
        at = first + n
    for (descriptor, n), where in found.items():
        dim = _dim(descriptor)
        if (dim, n) not in SHAPES:
            parsed.ignore(f"elements of descriptor {descriptor} with {n} nodes", len(where))
            continue
        shape, order = SHAPES[dim, n]
        starts, rows = np.array(where, np.int64).T
        first = starts + width + (3 if descriptor in BEAMS else 0)
        nodes = flat[first[:, None] + (np.arange(n) if order is None else np.array(order))]
        parsed.elements.append((shape, flat[starts], nodes, rows))


def _read_groups(body: bytes, parsed: Parsed, step: int) -> None:
    """Groups: a line of numbers that ends with a count, a name, entities of `step` numbers."""
    lines = [line for line in body.decode("utf-8", "replace").splitlines() if line.strip()]
    at = 0
    while at < len(lines):
        head = lines[at].split()
        expect(at + 1 < len(lines) and head[-1].isdigit(), "a group is damaged")
        n, name = int(head[-1]), lines[at + 1].strip() or f"group {head[0]}"
        at += 2
        words: list[str] = []
        while at < len(lines) and len(words) < step * n:
            words += lines[at].split()
            at += 1
        expect(len(words) >= step * n, f"group {name!r} ends early")
        table = np.array(words[: step * n], np.int64).reshape(n, step)
        others = int(((table[:, 0] != 7) & (table[:, 0] != 8)).sum())
        if others:
            parsed.ignore(f"entities of group {name!r} that are no nodes or elements", others)
        for code, groups in ((8, parsed.groups), (7, parsed.node_groups)):
            mine = table[table[:, 0] == code, 1]
            if len(mine):
                groups.setdefault(name, []).append(mine)


def _read_restraints(body: bytes, parsed: Parsed) -> None:
    """Restraint sets: older files name their boundaries by the nodes that are held."""
    lines = [line for line in body.decode("utf-8", "replace").splitlines() if line.strip()]
    expect(len(lines) >= 2, "ends early")
    name = re.sub(r"\s*\(\s*\d+\s*\)\s*$", "", lines[1]).strip() or f"set {lines[0].strip()}"
    nodes = [int(line.split()[0]) for line in lines[2:] if line.split()[0].isdigit()]
    if nodes:
        parsed.node_groups.setdefault(name, []).append(np.array(nodes, np.int64))


def _read_units(body: bytes, parsed: Parsed) -> None:
    lines = body.decode("utf-8", "replace").splitlines()
    said = " ".join(re.sub(r"^\s*\d+|\d+\s*$", "", lines[0].rstrip()).split())
    factor = float(numbers(lines[1].encode().translate(_D), count=1)[0]) if lines[1:] else 1.0
    scale = "" if factor == 1 else f"; divided by {factor:g} lengths are in metres (not applied)"
    parsed.notes.append(f"units of the file: {said or 'unknown'}{scale}")


def _read_result(body: bytes, parsed: Parsed, kind: str) -> None:
    """Results on nodes (one a node) or elements, real numbers only."""
    lines = body.decode("utf-8", "replace").replace("\r", "").split("\n")
    if kind == "2414":
        name, place, about = lines[1].strip(), int(lines[2].split()[0]), lines[8].split()
        reals, start = lines[11].split(), 13
    else:
        name, place, about = lines[0].strip(), 1 if kind == "55" else 2, lines[5].split()
        counts = [int(word) for word in lines[6].split()]
        whole = -(-(2 + counts[0]) // 8)  # integers stand eight a line, reals six
        start = 6 + whole + -(-counts[1] // 6)
        reals = lines[6 + whole].split()
    analysis, width = int(about[1]), int(about[5])
    name = name if name and name.upper() != "NONE" else f"result {about[3]}"
    if place not in (1, 2) or about[4] not in ("2", "4") or width < 1:
        parsed.ignore(f"results {name!r} (complex, or at corners of elements)")
        return
    time = float(reals[0].upper().replace("D", "E")) if analysis in (4, 9) and reals else 0.0
    flat = numbers(" ".join(lines[start:]).encode().translate(_D))
    if place == 1:
        expect(len(flat) % (1 + width) == 0, f"result {name!r} ends early")
        table = flat.reshape(-1, 1 + width)
    else:  # element number, values a element, values
        expect(len(flat) % (2 + width) == 0, f"result {name!r} ends early or is not one a element")
        table = flat.reshape(-1, 2 + width)
        if len(table) and (table[:, 1] != width).any():
            parsed.ignore(f"results {name!r} (several layers an element)")
            return
        table = np.delete(table, 1, axis=1)
    values = table[:, 1] if width == 1 else table[:, 1:]
    at = ("point", "cell")[place - 1]
    parsed.results.append(Result(name, at, time, table[:, 0].astype(np.int64), values))


def _fields(parsed: Parsed, out: Tree, tags: np.ndarray, ids: np.ndarray) -> None:
    """Results as fields; those given at every one of several times as a series."""
    known = {"point": tags, "cell": ids}
    found: dict[tuple[str, str], dict[float, tuple[np.ndarray, np.ndarray]]] = {}
    for r in parsed.results:
        steps = found.setdefault((r.place, r.name), {})
        what = f"result {r.name!r}: number"
        steps[r.time] = field_of(r.ids, r.values, known[r.place], what)
    times = sorted({t for steps in found.values() if len(steps) > 1 for t in steps})
    series: Tree = {"point": {}, "cell": {}}
    for (place, name), steps in found.items():
        first, rows = next(iter(steps.values()))
        same = len({values.shape for values, _ in steps.values()}) == 1
        if len(times) > 1 and set(steps) == set(times) and same:
            series[place][name] = np.stack([steps[t][0] for t in times])
            continue
        if len(steps) > 1:
            out["notes"].append(f"{name!r} is not given at every time: only the first is kept")
        out.setdefault(f"{place}_fields", {})[name] = first
        if len(rows) < len(known[place]):
            if place == "cell":
                out.setdefault("covered", {})[name] = rows
            else:
                out["notes"].append(f"point field {name!r} is NaN where the file has no value")
    if series["point"] or series["cell"]:
        out["times"], out["series"] = times, series
