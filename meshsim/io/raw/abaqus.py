"""Abaqus and CalculiX (.inp): instances of parts, sets as regions, surfaces as boundaries."""

from __future__ import annotations

import numpy as np

from meshsim.io.raw import Tree, expect
from meshsim.io.raw.abaqus_deck import Deck, Instance, Scope, parse
from meshsim.io.raw.numbered import tree

# faces of the manual's numbering, by corners
FACES: dict[str, tuple[tuple[int, ...], ...]] = {
    "triangle": ((0, 1), (1, 2), (2, 0)),
    "quad": ((0, 1), (1, 2), (2, 3), (3, 0)),
    "tetra": ((0, 1, 2), (0, 3, 1), (1, 3, 2), (2, 3, 0)),
    "pyramid": ((0, 1, 2, 3), (0, 4, 1), (1, 4, 2), (2, 4, 3), (3, 4, 0)),
    "wedge": ((0, 1, 2), (3, 5, 4), (0, 3, 4, 1), (1, 4, 5, 2), (2, 5, 3, 0)),
    "hexahedron": (
        *((0, 1, 2, 3), (4, 7, 6, 5), (0, 4, 5, 1)),
        *((1, 5, 6, 2), (2, 6, 7, 3), (3, 7, 4, 0)),
    ),
}
WHOLE = ("SPOS", "SNEG", "")


class Placed:
    """A scope put into the mesh: its numbers are shifted, so that instances do not mix.

    Arguments:
        scopes: the part, and what the instance itself adds.
        shift: for nodes and elements.
        prefix: what names of its sets start with.
    """

    def __init__(self, scopes: list[Scope], shift: tuple[int, int], prefix: str):
        self.scopes, self.shift, self.prefix = scopes, shift, prefix

    def members(self, kind: str, name: str, above: tuple[str, ...] = ()) -> np.ndarray:
        """The shifted numbers in a set, those of sets it names among them."""
        out = [np.zeros(0, np.int64)]
        for scope in self.scopes:
            for _, listed in scope.sets.get((kind, name), []):
                out.append(self.resolve(kind, listed, (*above, name)))
        return np.concatenate(out)

    def resolve(self, kind: str, listed: object, above: tuple[str, ...]) -> np.ndarray:
        """Shifted numbers of a list of numbers and names."""
        expect(len(above) < 50, f"set {above[-1]!r} names itself")
        if isinstance(listed, np.ndarray):
            return listed + self.shift[kind == "E"]
        out = [np.zeros(0, np.int64)]
        for item in listed:  # type: ignore[attr-defined]
            if isinstance(item, np.ndarray):
                out.append(item + self.shift[kind == "E"])
            elif isinstance(item, str) and item not in above:
                out.append(self.members(kind, item, above))
        return np.concatenate(out)


def read(path: str, options: Tree) -> Tree:
    """A deck as a tree."""
    deck = parse(path)
    placed = _place(deck)
    parsed = deck.parsed
    at = 0
    for i, (kind, ids, nodes, _) in enumerate(parsed.elements):
        parsed.elements[i] = (kind, ids, nodes, np.arange(at, at + len(ids)))
        at += len(ids)
    expect(sum(map(len, parsed.tags)), "holds no nodes (expected *NODE of Abaqus, or AVS-UCD)")
    for part in placed.values():
        for scope in part.scopes:
            for kind, name in scope.sets:
                if name in scope.internal:
                    continue
                label = part.prefix + scope.labels[name]
                members = part.members(kind, name)
                if kind == "N" and len(members) >= sum(len(t) for s in part.scopes for t in s.tags):
                    continue  # all nodes: says nothing
                groups = parsed.groups if kind == "E" else parsed.node_groups
                groups[label] = [members]
    _assembly_sets(deck, placed)
    out, _, ids = tree(parsed)
    surfaces: dict[str, list[tuple[np.ndarray, str]]] = {}
    for part in placed.values():
        for scope in part.scopes:
            for name, entries in scope.surfaces.items():
                label = part.prefix + scope.labels[name]
                surfaces[label] = [(_who(part, who), face) for who, face in entries]
    for name, entries in deck.assembly.surfaces.items():
        found = [(_across(deck, placed, who), face) for who, face in entries]
        surfaces[deck.assembly.labels[name]] = found
    for label, found in surfaces.items():
        _add_surface(out, label, found, ids)
    return out


def _place(deck: Deck) -> dict[str, Placed]:
    """All instances with their shifted numbers; parts themselves where nothing is instanced."""
    instances = deck.instances
    if not instances:
        names = [name for name, scope in deck.parts.items() if scope.tags or scope.elements]
        instances = [Instance(name, name, np.zeros(3), None, Scope()) for name in names]
        if len(names) > 1:
            deck.parsed.notes.append("parts without instances: each is read once, where it is")
    root = deck.root
    if root.tags or root.elements or root.sets:
        instances = [Instance("", "", np.zeros(3), None, root), *instances]
    out: dict[str, Placed] = {}
    shift = [0, 0]
    several = len(instances) > 1
    parsed = deck.parsed
    for one in instances:
        expect(not one.part or one.part in deck.parts, f"*INSTANCE: no part {one.part!r}")
        scopes = [deck.parts[one.part], one.own] if one.part else [one.own]
        key = one.name.upper()
        expect(key not in out, f"*INSTANCE: {one.name!r} is given twice")
        out[key] = Placed(scopes, (shift[0], shift[1]), f"{one.name}." if several and key else "")
        most, mine = [0, 0], []
        for scope in scopes:
            for tags, points in zip(scope.tags, scope.points, strict=True):
                parsed.tags.append(tags + shift[0])
                parsed.points.append(_moved(points, one))
                most[0] = max(most[0], int(tags.max(initial=0)))
            for kind, ids, nodes in scope.elements:
                mine.append(ids + shift[1])
                parsed.elements.append((kind, mine[-1], nodes + shift[0], ids))
                most[1] = max(most[1], int(ids.max(initial=0)))
        if several and key and mine:
            parsed.groups[one.name] = mine
        shift = [shift[0] + most[0], shift[1] + most[1]]
    n = sum(map(len, deck.assembly.tags))
    if n:
        parsed.ignore("nodes of the assembly (reference points)", n)
    lost = sum(len(ids) for _, ids, _ in deck.assembly.elements)
    if lost:
        parsed.ignore("elements of the assembly", lost)
    return out


def _moved(points: np.ndarray, one: Instance) -> np.ndarray:
    """Translation first, then rotation about an axis through two points (Rodrigues)."""
    x = points + one.move
    if one.turn is None:
        return x
    a, b, angle = one.turn[:3], one.turn[3:6], np.radians(one.turn[6])
    k = b - a
    expect(np.linalg.norm(k) > 0, f"*INSTANCE {one.name!r}: an axis of no length")
    k = k / np.linalg.norm(k)
    v = x - a
    turned = v * np.cos(angle) + np.cross(k, v) * np.sin(angle)
    return np.asarray(a + turned + np.outer(v @ k, k) * (1 - np.cos(angle)))


def _assembly_sets(deck: Deck, placed: dict[str, Placed]) -> None:
    """Sets of the assembly: each line of them says which instance its numbers belong to."""
    parsed = deck.parsed
    for kind, name in deck.assembly.sets:
        if name in deck.assembly.internal:
            continue
        found = _of_assembly(deck, placed, kind, name)
        if len(found):
            groups = parsed.groups if kind == "E" else parsed.node_groups
            groups.setdefault(deck.assembly.labels[name], []).append(found)


def _of_assembly(
    deck: Deck, placed: dict[str, Placed], kind: str, name: str, above: tuple[str, ...] = ()
) -> np.ndarray:
    expect(len(above) < 50, f"set {name!r} names itself")
    out = [np.zeros(0, np.int64)]
    for instance, listed in deck.assembly.sets.get((kind, name), []):
        if instance in placed:
            out.append(placed[instance].resolve(kind, listed, (name,)))
            continue
        for item in listed if isinstance(listed, list) else []:
            if isinstance(item, str) and item not in (*above, name):
                owner, _, inner = item.partition(".")
                if inner and owner in placed:
                    out.append(placed[owner].members(kind, inner))
                else:
                    out.append(_of_assembly(deck, placed, kind, item, (*above, name)))
    return np.concatenate(out)


def _who(part: Placed, who: str) -> np.ndarray:
    """The elements that a line of a surface names: a number or a set."""
    if who.isdigit():
        return np.array([int(who) + part.shift[1]])
    return part.members("E", who)


def _across(deck: Deck, placed: dict[str, Placed], who: str) -> np.ndarray:
    owner, _, inner = who.partition(".")
    if inner and owner in placed:
        return _who(placed[owner], inner)
    return _of_assembly(deck, placed, "E", who)


def _add_surface(
    out: Tree, label: str, entries: list[tuple[np.ndarray, str]], ids: np.ndarray
) -> None:
    """The faces of a surface as a boundary, or its shells as a group of cells."""
    sizes, nodes, cells = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], []
    vague = False
    for wanted, face in entries:
        for block in out["blocks"]:
            shape = block["type"].rstrip("0123456789")
            mine = np.isin(ids[block["rows"]], wanted)
            number = int(face[1:]) - 1 if face[:1] in ("S", "E") and face[1:].isdigit() else -1
            if not mine.any():
                continue
            if 0 <= number < len(FACES.get(shape, ())):
                corners = block["nodes"][mine][:, FACES[shape][number]]
                sizes.append(np.full(len(corners), corners.shape[1]))
                nodes.append(corners.reshape(-1))
            elif face in WHOLE and shape in ("triangle", "quad"):
                cells.append(block["rows"][mine])
            else:
                vague = True
    if vague:
        out["notes"].append(f"surface {label!r}: parts without a named face were left out")
    if cells:
        key = label if label not in out["groups"] else f"{label} (surface)"
        out["groups"][key] = {"cells": np.sort(np.concatenate(cells))}
    if len(sizes) > 1:
        key = label if label not in (*out["boundaries"], *out["groups"]) else f"{label} (surface)"
        out["boundaries"][key] = {"sizes": np.concatenate(sizes), "nodes": np.concatenate(nodes)}
