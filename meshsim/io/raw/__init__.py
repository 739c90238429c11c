"""Readers that give plain arrays: NumPy only, no torch, so that the guarded child starts fast.

Each module has `read(path, options) -> tree`. A tree is made of dicts, lists, numbers, strings
and NumPy arrays:

    points          (N, 2) or (N, 3) float
    blocks          [{"type", "nodes", "offsets"?, "face_offsets"?, "rows"?}], any dimensions;
                    `rows` are the places of the block's cells in the file, (n,) int64, rising;
                    without it the cells follow those of the block before
    point_fields    {name: (N, …)}
    cell_fields     {name: (C, …)}, C over all blocks, in the order of the file
    groups          {name: {"cells": places of cells in the file, "kind"?}}: regions if the cells
                    are of the top dimension, boundaries if of one less
    boundaries      {name: {"sizes", "nodes", "kind"?, "fields"?}}: faces by their corners; or
                    {name: {"points", "kind"?}}: all outer faces whose corners are among the points
    global_fields   {name: array}
    extras          {name: array or str}, see `meshsim.io.extras`
    exact           True: fields have the shapes that they are meant to have, and points the
                    dimension (other formats: (N, 1) is (N,), and planar meshes lose z)
    covered         {cell field: places of the cells that have it}, where not all do
    file_order, z, flattened, parameters    as in Mesh and Sample
    series          {"point", "cell": {name: (T, N, …)}, "points"?}: all frames at once
    notes           [sentence]
    times           [time], for a series; `steps` [token]: what to give as the option "step"
    frames          {"point": [names], "cell": [names]}: fields that the steps hold;
                    "points": True where the points move

A frame, read with the option "step", has `point_fields`, `cell_fields` and, where they move
(option "moves"), `points`; the option "rows" tells how many points and cells there are. What is
wrong with a file is raised as `ValueError` (or whatever the library raises); the caller names
the file.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
from typing import Any

import numpy as np

Tree = dict[str, Any]

# VTK's number: meshsim's name, nodes per cell (0: any)
VTK_TYPES: dict[int, tuple[str, int]] = {
    1: ("vertex", 1),
    3: ("line", 2),
    5: ("triangle", 3),
    7: ("polygon", 0),
    9: ("quad", 4),
    10: ("tetra", 4),
    12: ("hexahedron", 8),
    13: ("wedge", 6),
    14: ("pyramid", 5),
    21: ("line3", 3),
    22: ("triangle6", 6),
    23: ("quad8", 8),
    24: ("tetra10", 10),
    25: ("hexahedron20", 20),
    26: ("wedge15", 15),
    27: ("pyramid13", 13),
    28: ("quad9", 9),
    29: ("hexahedron27", 27),
    32: ("wedge18", 18),
    33: ("hexahedron24", 24),
    34: ("triangle7", 7),
    37: ("pyramid19", 19),
    42: ("polyhedron", 0),
}
NODES: dict[str, int] = {**dict(VTK_TYPES.values()), "pyramid14": 14}

DIM = {"vertex": 0, "line": 1, "triangle": 2, "quad": 2, "polygon": 2}  # others: 3

OPENERS: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"\xfd7zXZ": lzma.open, b"BZh": bz2.open}


def unpacked(path: str) -> Any:
    """The file, opened for reading bytes; gzip, xz and bzip2 are recognised by their content."""
    with open(path, "rb") as file:
        head = file.read(6)
    for magic, opener in OPENERS.items():
        if head.startswith(magic):
            return opener(path, "rb")
    return open(path, "rb")


def content(path: str) -> bytes:
    """All bytes of a file, unpacked."""
    with unpacked(path) as file:
        return bytes(file.read())


def expect(true: Any, message: str) -> None:
    """Raise `ValueError` with the message unless `true`."""
    if not true:
        raise ValueError(message)


def numbers(text: bytes, dtype: Any = np.float64, count: int = -1) -> np.ndarray:
    """The numbers in ASCII text, separated by white space.

    Raises:
        ValueError: something is not a number, or there are fewer than `count`.
    """
    try:
        # the last number shows that all before it was read; half of this one may be left over
        out = np.fromstring(text + b" 0", dtype, sep=" ")[:-1]
    except ValueError:
        out = np.zeros(0, dtype)
    if len(out) != len(_starts(text)):  # slowly, to say which word it is
        words = text.split()
        out = np.array(words[:count] if count >= 0 else words).astype(dtype)
    expect(len(out) >= count, f"ends early (expected {count} numbers, got {len(out)})")
    return out[:count] if count >= 0 else out


def _starts(text: bytes) -> np.ndarray:
    """Where the words begin."""
    space = np.frombuffer(text, np.uint8) <= 32
    word = ~space
    word[1:] &= space[:-1]
    return np.flatnonzero(word)


def integer_lines(text: bytes) -> tuple[np.ndarray, np.ndarray]:
    """The integers in the lines of ASCII text: all of them, and offsets of the lines with any.

    >>> [x.tolist() for x in integer_lines(b"1 2 3\\n\\n4 5\\n")]
    [[1, 2, 3, 4, 5], [0, 3, 5]]
    """
    values, starts = numbers(text, np.int64), _starts(text)
    raw = np.frombuffer(text, np.uint8)
    ends = np.searchsorted(starts, np.flatnonzero((raw == 10) | (raw == 13)))
    of = np.concatenate([[0], ends, [len(starts)]])
    return values, of[np.append(True, of[1:] > of[:-1])]


def beside(path: str, name: str) -> str:
    """A file named in another file: relative names are looked up beside it.

    Raises:
        ValueError: it lies outside the other file's folder.
    """
    folder = os.path.dirname(os.path.abspath(path))
    found = os.path.normpath(os.path.join(folder, name))
    inside = found == folder or found.startswith(folder.rstrip(os.sep) + os.sep)
    expect(inside and "\0" not in name, f"names {name!r}, which is outside its folder: not read")
    return found


def ragged(sizes: np.ndarray) -> np.ndarray:
    """Offsets (n + 1,) of rows with these sizes."""
    return np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)]).astype(np.int64)


def gather(values: np.ndarray, offsets: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The values of some rows of a ragged array, one row after another."""
    sizes = np.diff(offsets)[rows]
    total = int(sizes.sum())
    if total == 0:
        return values[:0]
    start = np.repeat(offsets[:-1][rows] - ragged(sizes)[:-1], sizes)
    return values[start + np.arange(total)]


def rows_of_size(nodes: np.ndarray, offsets: np.ndarray, rows: np.ndarray, size: int) -> np.ndarray:
    """(n, size) the values of some rows of a ragged array, all of one size; `rows` rise.

    Rows that follow each other are not copied.
    """
    if len(rows) and rows[-1] - rows[0] + 1 == len(rows):
        start = int(offsets[rows[0]])
        return nodes[start : start + len(rows) * size].reshape(-1, size)
    return nodes[offsets[rows][:, None] + np.arange(size)]


def by_size(
    nodes: np.ndarray, offsets: np.ndarray, names: dict[int, str], rest: str = "polygon"
) -> list[Tree]:
    """Blocks of ragged cells: one for each size that has a name, one ragged for all others."""
    sizes = np.diff(offsets)
    blocks: list[Tree] = []
    other = np.ones(len(sizes), bool)
    for size, name in names.items():
        rows = np.flatnonzero(sizes == size)
        if len(rows):
            other[rows] = False
            cells = rows_of_size(nodes, offsets, rows, size)
            blocks.append({"type": name, "nodes": cells, "rows": rows})
    rows = np.flatnonzero(other & (sizes > 0))
    if len(rows):
        flat = gather(nodes, offsets, rows)
        blocks.append({"type": rest, "nodes": flat, "offsets": ragged(sizes[rows]), "rows": rows})
    return blocks


SURFACE = {1: "vertex", 2: "line", 3: "triangle", 4: "quad"}


def check_indices(nodes: np.ndarray, n: int, what: str) -> None:
    """Raise `ValueError` if an index is outside 0..n-1."""
    if nodes.size and (int(nodes.min()) < 0 or int(nodes.max()) >= n):
        bad = nodes[(nodes < 0) | (nodes >= n)].flat[0]
        raise ValueError(f"`{what}`: index {bad} is outside 0..{n - 1} ({n} points)")


def stack_components(fields: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Scalars named …X …Y …Z or …_x _y _z become the components of one vector.

    >>> list(stack_components({"VelocityX": np.zeros(2), "VelocityY": np.ones(2)}))
    ['Velocity']
    """
    out: dict[str, np.ndarray] = {}
    used: set[str] = set()
    for name, values in fields.items():
        if name in used:
            continue
        stem, last = name[:-1], name[-1:]
        rest = [stem + {"X": c, "x": c.lower()}[last] for c in "YZ"] if last in ("X", "x") else []
        found = [n for n in rest if n in fields]
        same = all(fields[n].shape == values.shape and values.ndim == 1 for n in found)
        vector = stem.rstrip("_")
        whole = bool(found) and found == rest[: len(found)] and same
        if whole and vector and vector not in fields:
            out[vector] = np.stack([values, *(fields[n] for n in found)], axis=1)
            used.update(found)
            continue
        out[name] = values
    return out
