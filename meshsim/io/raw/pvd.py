"""ParaView's .pvd: times and the files that hold them."""

from __future__ import annotations

import os
import re
import xml.etree.ElementTree as ElementTree
import zlib

import numpy as np

from meshsim.io.raw import Tree, beside, content, expect, vtk
from meshsim.io.raw.merge import merge

SCAN_BYTES = 256 << 20  # all frames are compared when they are opened, up to this much


def read(path: str, options: Tree) -> Tree:
    """A .pvd as a tree: the first frame with its mesh; `options["step"]` reads one frame's fields.

    Frames with another connectivity begin a further segment (`later`). For files above 256 MiB
    only sizes (and the points of a few frames) are compared when the series is opened.
    """
    files, times = _listed(path)
    if "step" in options:
        step = options["step"]
        expect(0 <= step < len(files), f"has no step {step}")
        return _frame(files[step], options)
    keys = [_key(parts, whole) for parts, whole in zip(files, _whole(files), strict=True)]
    starts = [0]
    for i, (key, before) in enumerate(zip(keys[1:], keys, strict=False), 1):
        if key[0] != before[0] or (None not in (key[1], before[1]) and key[1] != before[1]):
            starts.append(i)
    trees = []
    for a, b in zip(starts, [*starts[1:], len(files)], strict=True):
        tree = _parts(files[a])
        tree["times"], tree["steps"] = times[a:b], list(range(a, b))
        known = [key[2] for key in keys[a:b] if key[2] is not None]
        tree["frames"] = {
            "point": list(tree["point_fields"]),
            "cell": list(tree["cell_fields"]),
            "points": len(set(known)) > 1,
            "key": connectivity(tree["blocks"]),
        }
        trees.append(tree)
    return trees[0] | {"later": trees[1:]}


def _listed(path: str) -> tuple[list[list[str]], list[float]]:
    try:
        root = ElementTree.fromstring(content(path))
    except ElementTree.ParseError as error:
        raise ValueError(f"is not complete XML ({error})") from None
    sets = root.findall("Collection/DataSet")
    expect(sets, "lists no files")
    by_time: dict[float, list[str]] = {}
    for i, entry in enumerate(sets):
        name = entry.get("file", "")
        file = beside(path, name)
        expect(name and os.path.exists(file), f"names {name!r}, which is not there")
        by_time.setdefault(float(entry.get("timestep", i)), []).append(file)
    times = sorted(by_time)
    return [by_time[t] for t in times], times


def _kind(path: str) -> str:
    with open(path, "rb") as file:
        found = re.search(rb'<VTKFile[^>]*\btype="(\w+)"', file.read(2000))
    expect(found, f"{os.path.basename(path)} is no VTK XML file")
    assert found is not None
    return found[1].decode()


def _parts(files: list[str]) -> Tree:
    trees = []
    for file in files:
        try:
            trees.append(vtk.read(file, {"kind": _kind(file)}))
        except Exception as error:
            raise ValueError(f"{os.path.basename(file)}: {error}") from error
    names = [f"part{i}" for i in range(len(trees))]
    return trees[0] if len(trees) == 1 else merge(trees, names, compare=False)


def _frame(files: list[str], options: Tree) -> Tree:
    tree, key = _parts(files), options.get("key")
    expect(
        key is None or key == connectivity(tree["blocks"]),
        f"{os.path.basename(files[0])}: its cells differ from those of the frame before",
    )
    moving = ("points",) if options.get("moves", True) else ()
    return {name: tree[name] for name in ("point_fields", "cell_fields", *moving)}


def connectivity(blocks: list[Tree]) -> int:
    """A checksum of cells."""
    key = 0
    for block in blocks:
        key = zlib.crc32(block["type"].encode(), key)
        for name in ("nodes", "offsets", "face_offsets", "rows"):
            if name in block:
                key = zlib.crc32(np.ascontiguousarray(block[name], np.int64).data, key)
    return key


def _whole(files: list[list[str]]) -> list[bool]:
    """Which frames to read in full when the series is opened."""
    total = sum(os.path.getsize(part) for parts in files for part in parts)
    n = len(files)
    if total <= SCAN_BYTES:
        return [True] * n
    some = {0, 1, n // 2, n - 1}
    return [i in some for i in range(n)]


def _key(files: list[str], whole: bool) -> tuple[object, int | None, int | None]:
    """Sizes, checksum of the cells, checksum of the points (None: not looked at)."""
    sizes = []
    for file in files:
        with open(file, "rb") as opened:
            head = opened.read(1 << 16)
        sizes.append(
            tuple(re.findall(rb'NumberOf(?:Points|Cells|Polys|Lines|Strips|Verts)="\s*(\d+)', head))
        )
    if not whole:
        return tuple(sizes), None, None
    tree = _parts(files)
    points = zlib.crc32(np.ascontiguousarray(tree["points"]).data)
    return tuple(sizes), connectivity(tree["blocks"]), points
