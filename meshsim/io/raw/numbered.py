"""Meshes whose nodes and elements carry numbers of their own: UNV, Nastran, Abaqus, AVS-UCD."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import numpy as np

from meshsim.io.raw import DIM, NODES, Tree, expect


@dataclass
class Numbered:
    """What a file said of nodes, elements and groups, all by the file's own numbers.

    Arguments:
        tags: numbers of nodes, an array a section; `points` (n, 3) are their places.
        elements: (our type, numbers (n,), nodes (n, k) by their numbers, places in the file).
        groups: {name: numbers of elements}; `node_groups` {name: numbers of nodes}.
        ignored: {what was not read: how often}.
    """

    tags: list[np.ndarray] = field(default_factory=list)
    points: list[np.ndarray] = field(default_factory=list)
    elements: list[tuple[str, np.ndarray, np.ndarray, np.ndarray]] = field(default_factory=list)
    groups: dict[str, list[np.ndarray]] = field(default_factory=dict)
    node_groups: dict[str, list[np.ndarray]] = field(default_factory=dict)
    ignored: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def ignore(self, what: str, n: int = 1) -> None:
        """Count what is left out; a note says it."""
        self.ignored[what] = self.ignored.get(what, 0) + n


def included(path: str, name: str) -> tuple[str, str]:
    """The place of a file that another names, or "" and why it is not read.

    Only files in the folder of the one that was asked for, or below it, are read.
    """
    folder = os.path.realpath(os.path.dirname(os.path.abspath(path)))
    place = os.path.realpath(os.path.join(folder, name.replace("\\", "/")))
    if os.path.commonpath([place, folder]) != folder:
        return "", "outside the folder of the file"
    return (place, "") if os.path.isfile(place) else ("", "not there")


def places(known: np.ndarray, wanted: np.ndarray, what: str) -> np.ndarray:
    """Where the numbers `wanted` stand in the list `known`.

    Raises:
        ValueError: one of them does not; the message starts with `what`.
    """
    order = np.argsort(known, kind="stable")
    at = np.searchsorted(known[order], wanted)
    inside = at < len(known)
    good = inside & (known[order][np.where(inside, at, 0)] == wanted) if len(known) else inside
    if not good.all():
        raise ValueError(f"{what} {int(wanted[~good].flat[0])} does not exist")
    return order[at]


def tree(parsed: Numbered) -> tuple[Tree, np.ndarray, np.ndarray]:
    """The tree of a file, the numbers of its points, and those of its cells (by place).

    Raises:
        ValueError: there are no nodes or no elements, or an element names a missing node.
    """
    expect(sum(map(len, parsed.tags)), "holds no nodes")
    tags, points = _nodes(parsed)
    left = ", ".join(f"{n} {what}" for what, n in parsed.ignored.items())
    why = f" ({left} cannot be read)" if left else ""
    expect(sum(len(ids) for _, ids, _, _ in parsed.elements), f"holds no elements{why}")
    notes = [*parsed.notes, *([f"left out: {left}"] if left else [])]
    total = 1 + max(int(rows.max()) for _, _, _, rows in parsed.elements if len(rows))
    ids = np.full(total, -1, np.int64)
    dims = np.full(total, -1, np.int64)
    by_type: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for kind, numbers, nodes, rows in parsed.elements:
        if len(rows):
            expect(nodes.shape[1] == NODES[kind], f"a {kind} with {nodes.shape[1]} nodes")
            ids[rows] = numbers
            dims[rows] = DIM.get(kind.rstrip("0123456789"), 3)
            by_type.setdefault(kind, []).append((nodes, rows))
    blocks = []
    for kind, parts in by_type.items():
        nodes = places(tags, np.concatenate([n for n, _ in parts]), "an element names node")
        rows = np.concatenate([r for _, r in parts])
        order = np.argsort(rows, kind="stable")
        blocks.append({"type": kind, "nodes": nodes[order], "rows": rows[order]})
    groups: Tree = {}
    for name, lists in parsed.groups.items():
        wanted = np.unique(np.concatenate(lists))
        cells = np.flatnonzero(np.isin(ids, wanted) & (dims >= 0))
        if len(cells):
            groups[name] = {"cells": cells}
    out: Tree = {"points": points, "blocks": blocks, "groups": groups, "boundaries": {}}
    missing, few = 0, []
    least = 3 if dims.max() == 3 else 2
    for name, lists in parsed.node_groups.items():
        wanted = np.unique(np.concatenate(lists))
        inside = np.flatnonzero(np.isin(tags, wanted))
        missing += len(wanted) - len(inside)
        if len(inside) == len(tags):  # "all nodes": says nothing
            continue
        if name in groups and np.array_equal(inside, _used(blocks, groups[name]["cells"])):
            continue  # the nodes of the elements of that name
        if len(inside) < least:
            few.append(name)
        else:
            key = name if name not in groups else f"{name} (nodes)"
            out["boundaries"][key] = {"points": inside}
    if few:
        notes.append(f"groups of too few nodes for a face were left out: {', '.join(few)}")
    if missing:
        notes.append(f"groups name {missing} nodes that do not exist")
    out["notes"] = notes
    return out, tags, ids


def _used(blocks: list[Tree], cells: np.ndarray) -> np.ndarray:
    """The points of some cells, rising."""
    mine = [b["nodes"][np.isin(b["rows"], cells)].reshape(-1) for b in blocks]
    return np.unique(np.concatenate(mine))


def _nodes(parsed: Numbered) -> tuple[np.ndarray, np.ndarray]:
    """Numbers and places of the nodes in the file's order; of one given again the last place."""
    tags, points = np.concatenate(parsed.tags), np.concatenate(parsed.points)
    _, last = np.unique(tags[::-1], return_index=True)
    again = len(tags) - len(last)
    if again:
        keep = np.sort(len(tags) - 1 - last)
        parsed.notes.append(f"{again} nodes are given more than once: the last place is kept")
        tags, points = tags[keep], points[keep]
    return tags, points


def field_of(
    ids: np.ndarray, values: np.ndarray, known: np.ndarray, what: str
) -> tuple[np.ndarray, np.ndarray]:
    """A field given by numbers: (n, …) with NaN where there is no value, and where there is one."""
    rows = places(known, ids, what)
    if len(rows) == len(known) and (rows == np.arange(len(known))).all():
        return values, rows
    out = np.full((len(known), *values.shape[1:]), np.nan)
    out[rows] = values
    return out, rows
