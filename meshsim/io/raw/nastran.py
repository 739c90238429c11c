"""Nastran bulk data (.bdf, .nas, .fem, .dat): points in any coordinate system, elements, parts."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from meshsim.io.raw import NODES, Tree, expect
from meshsim.io.raw.nastran_cards import Deck, cards, number
from meshsim.io.raw.numbered import Numbered, tree

# card: where its nodes start (after number and property), shapes by their numbers of nodes
_TRIANGLE, _QUAD = ("triangle", "triangle6"), ("quad", "quad8")
ELEMENTS: dict[str, tuple[int, tuple[str, ...]]] = {
    "CTRIA3": (2, ("triangle",)), "CTRIAR": (2, ("triangle",)), "CTRIA6": (2, _TRIANGLE),
    "CTRIAX": (2, _TRIANGLE), "CTRIAX6": (2, ("triangle6",)), "CQUAD4": (2, ("quad",)),
    "CQUADR": (2, ("quad",)), "CSHEAR": (2, ("quad",)), "CQUAD8": (2, _QUAD),
    "CQUAD": (2, (*_QUAD, "quad9")), "CQUADX": (2, (*_QUAD, "quad9")),
    "CPLSTN3": (2, ("triangle",)), "CPLSTN4": (2, ("quad",)), "CPLSTN6": (2, _TRIANGLE),
    "CPLSTN8": (2, _QUAD), "CPLSTS3": (2, ("triangle",)), "CPLSTS4": (2, ("quad",)),
    "CPLSTS6": (2, _TRIANGLE), "CPLSTS8": (2, _QUAD), "CTETRA": (2, ("tetra", "tetra10")),
    "CPYRAM": (2, ("pyramid", "pyramid13")), "CPYRA": (2, ("pyramid", "pyramid13")),
    "CPENTA": (2, ("wedge", "wedge15")), "CHEXA": (2, ("hexahedron", "hexahedron20")),
    "CBAR": (2, ("line",)), "CBEAM": (2, ("line",)), "CROD": (2, ("line",)),
    "CTUBE": (2, ("line",)), "CBEND": (2, ("line",)), "CBEAM3": (2, ("line", "line3")),
    "CONROD": (1, ("line",)), "PLOTEL": (1, ("line",)),
}  # fmt: skip
# which of Nastran's nodes stand at our places, where the order differs
ORDER = {
    "wedge15": [*range(9), 12, 13, 14, 9, 10, 11],
    "hexahedron20": [*range(12), *range(16, 20), *range(12, 16)],
}
SYSTEMS = {"CORD1R", "CORD1C", "CORD1S", "CORD2R", "CORD2C", "CORD2S"}
# elements that are no cells: springs, masses, rigid links; said in a note
OTHERS = ("CBUSH", "CELAS", "CDAMP", "CGAP", "CVISC", "CONM", "CMASS", "RBE", "RBAR", "CWELD",
          "CFAST", "CHBDY", "CAERO", "CRAC", "CINT", "CSEAM", "CAABSF", "CACINF")  # fmt: skip


@dataclass
class Model:
    """The cards that make a mesh.

    Arguments:
        grids: {number: (coordinate system or "" for the default, x1, x2, x3)}, as text.
        systems: {number: card}.
        properties: {number: card's name}, for naming regions.
    """

    parsed: Numbered = field(default_factory=Numbered)
    grids: list[list[str]] = field(default_factory=list)
    systems: dict[int, list[str]] = field(default_factory=dict)
    properties: dict[int, str] = field(default_factory=dict)
    cells: dict[str, list[tuple[int, int, list[int], int]]] = field(default_factory=dict)
    default: str = ""
    count: int = 0
    cut: int = 0  # elements with some but not all nodes between corners


def read(path: str, options: Tree) -> Tree:
    """A bulk data file as a tree; properties (PID) are regions."""
    deck, model = Deck(), Model()
    for card in cards(path, deck):
        name = card[0]
        try:
            _take(name, card, model)
        except (ValueError, IndexError) as error:
            raise ValueError(f"card {name} {card[1] if card[1:] else ''}: {error}") from error
    lost = ", ".join(deck.missing)
    parsed = model.parsed
    expect(model.grids, f"holds no GRID cards{f'; it includes {lost}' if lost else ''}")
    enough = any(model.cells.values())
    expect(enough or not lost, f"holds no elements; it includes {lost}")
    tags = np.array([_whole(g[1]) for g in model.grids], np.int64)
    parsed.tags, parsed.points = [tags], [_places(model, tags)]
    of_property: dict[int, list[int]] = {}
    for kind, found in model.cells.items():
        ids = np.array([e[0] for e in found], np.int64)
        nodes = np.array([e[2] for e in found], np.int64)
        if kind in ORDER:
            nodes = nodes[:, ORDER[kind]]
        parsed.elements.append((kind, ids, nodes, np.array([e[3] for e in found])))
        for e in found:
            of_property.setdefault(e[1], []).append(e[3])
    if model.cut:
        parsed.notes.append(
            f"{model.cut} elements without all of their nodes between corners were read by corners"
        )
    if deck.included:
        parsed.notes.append(f"included: {', '.join(dict.fromkeys(deck.included))}")
    if lost:
        parsed.notes.append(f"includes that were not read: {lost}")
    if deck.open:
        parsed.notes.append("has BEGIN BULK but no ENDDATA: the file may have been cut off")
    out = tree(parsed)[0]
    for pid, rows in sorted(of_property.items()):
        if pid == 0:
            continue
        name = deck.names.get(pid) or f"{model.properties.get(pid, 'property')} {pid}"
        name = f"{name} ({pid})" if name in out["groups"] else name
        out["groups"][name] = {"cells": np.sort(np.array(rows, np.int64))}
    return out


def _whole(text: str) -> int:
    """An integer field; blank is 0."""
    if not text:
        return 0
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"expected an integer, got {text!r}") from None


def _take(name: str, card: list[str], model: Model) -> None:
    if name == "GRID":
        expect(len(card) >= 4, "too few fields")
        model.grids.append(card)
    elif name in ELEMENTS:
        _element(name, card, model)
    elif name in SYSTEMS:
        model.systems[_whole(card[1])] = card
        if name[:5] == "CORD1" and len(card) > 5 and card[5]:
            model.systems[_whole(card[5])] = [name, *card[5:]]
    elif name == "GRDSET":
        model.default = card[2]
    elif name[0] == "P" and name[:5] != "PLOAD" and name != "PARAM" and card[1:2]:
        if card[1].isdigit():
            model.properties.setdefault(int(card[1]), name)
    elif name.startswith(OTHERS):
        model.parsed.ignore(name)


def _element(name: str, card: list[str], model: Model) -> None:
    start, shapes = ELEMENTS[name]
    eid = _whole(card[1])
    pid = _whole(card[2]) if start == 2 and name != "CTRIAX6" else 0
    most = NODES[shapes[-1]]
    text = (card[1 + start : 1 + start + most] + [""] * most)[:most]
    corners = NODES[shapes[0]]
    if name == "CBEAM3":  # the node between stands third, elsewhere nothing follows the two
        text = text[:3]
    if name == "CTRIAX6":  # corners and nodes between in turns
        text = [text[i] for i in (0, 2, 4, 1, 3, 5)]
        corners = 3
    # thickness and angles may follow the nodes: only whole numbers are nodes
    nodes = []
    for i, word in enumerate(text):
        if i >= corners and not word.isdigit():
            word = ""
        nodes.append(_whole(word))
    expect(all(n > 0 for n in nodes[:corners]), f"expected {corners} nodes")
    full = [shape for shape in shapes if all(n > 0 for n in nodes[: NODES[shape]])]
    shape = full[-1] if full else {3: "triangle"}[corners]
    size = NODES[shape]
    if any(n > 0 for n in nodes[size:]):
        model.cut += 1
        if size != corners:
            shape, size = shapes[0], corners
    model.cells.setdefault(shape, []).append((eid, pid, nodes[:size], model.count))
    model.count += 1


def _places(model: Model, tags: np.ndarray) -> np.ndarray:
    """(N, 3) places of the grid points in the basic coordinate system."""
    given = np.array([[number(w) for w in (g[3:6] + [""] * 3)[:3]] for g in model.grids])
    system = [_whole(g[2] or model.default) for g in model.grids]
    row = {tag: i for i, tag in enumerate(tags.tolist())}
    known: dict[int, tuple[str, np.ndarray, np.ndarray]] = {}

    def point(tag: int, above: tuple[int, ...]) -> np.ndarray:
        expect(tag in row, f"a coordinate system names GRID {tag}, which does not exist")
        i = row[tag]
        return basic(system[i], given[i : i + 1], above)[0]

    def basic(cid: int, x: np.ndarray, above: tuple[int, ...] = ()) -> np.ndarray:
        if cid == 0:
            return x
        kind, origin, axes = frame(cid, above)
        a, b = np.radians(x[:, 1]), np.radians(x[:, 2])
        if kind == "C":
            x = np.stack([x[:, 0] * np.cos(a), x[:, 0] * np.sin(a), x[:, 2]], 1)
        elif kind == "S":
            r = x[:, 0]
            x = np.stack([r * np.sin(a) * np.cos(b), r * np.sin(a) * np.sin(b), r * np.cos(a)], 1)
        return origin + x @ axes

    def frame(cid: int, above: tuple[int, ...]) -> tuple[str, np.ndarray, np.ndarray]:
        if cid in known:
            return known[cid]
        expect(cid in model.systems, f"coordinate system {cid} does not exist")
        expect(cid not in above and len(above) < 100, f"coordinate system {cid} names itself")
        card = model.systems[cid]
        inner = (*above, cid)
        if card[0][4] == "1":
            a, b, c = (point(_whole(word), inner) for word in card[2:5])
        else:
            words = (card[3:12] + [""] * 9)[:9]
            three = np.array([number(word) for word in words]).reshape(3, 3)
            a, b, c = basic(_whole(card[2]), three, inner)
        z, x = b - a, c - a
        expect(np.linalg.norm(z) > 0, f"coordinate system {cid} is damaged (A is B)")
        z = z / np.linalg.norm(z)
        x = x - (x @ z) * z
        expect(np.linalg.norm(x) > 0, f"coordinate system {cid} is damaged (C is on its z axis)")
        x = x / np.linalg.norm(x)
        known[cid] = card[0][5], a, np.stack([x, np.cross(z, x), z])
        return known[cid]

    out = given.copy()
    of = np.array(system)
    for cid in np.unique(of).tolist():
        if cid > 0:
            out[of == cid] = basic(cid, given[of == cid])
    return out
