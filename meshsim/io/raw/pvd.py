"""ParaView's .pvd and .series: times and the files that hold them."""

from __future__ import annotations

import json
import os
import re
from typing import Any

from meshsim.io.raw import Tree, beside, content, expect, steps, vtk
from meshsim.io.raw.markup import parse
from meshsim.io.raw.merge import merge


def read(path: str, options: Tree) -> Tree:
    """A .pvd as a tree: the first frame with its mesh; `options["step"]` reads one frame's fields.

    Frames with another connectivity begin a further segment (`later`). For files above 256 MiB
    only sizes (and the points of a few frames) are compared when the series is opened.
    """
    files, times = _listed(path)
    if "step" in options:
        step = options["step"]
        expect(0 <= step < len(files), f"has no step {step}")
        return steps.frame(_parts(files[step]), options, os.path.basename(files[step][0]))
    keys = [_key(parts, whole) for parts, whole in zip(files, _whole(files), strict=True)]
    return steps.series(lambda i: _parts(files[i]), times, keys)


def _listed(path: str) -> tuple[list[list[str]], list[float]]:
    data = content(path)
    listed = data.lstrip()[:1] == b"{"
    sets: list[Any] = _json(data) if listed else list(parse(data).findall("Collection/DataSet"))
    expect(sets, "lists no files")
    by_time: dict[float, list[str]] = {}
    for i, entry in enumerate(sets):
        name = entry.get("file", "")
        file = beside(path, name)
        expect(name and os.path.exists(file), f"names {name!r}, which is not there")
        by_time.setdefault(float(entry.get("timestep") or i), []).append(file)
    times = sorted(by_time)
    return [by_time[t] for t in times], times


def _json(data: bytes) -> list[dict[str, str]]:
    """The entries of ParaView's .series: {"files": [{"name": …, "time": …}, …]}."""
    try:
        files = json.loads(data)["files"]
        return [{"file": str(f["name"]), "timestep": str(float(f["time"]))} for f in files]
    except (ValueError, KeyError, TypeError, OverflowError):
        raise ValueError('is no list of files (expected {"files": [{"name", "time"}]})') from None


def _kind(path: str) -> str:
    with open(path, "rb") as file:
        head = file.read(2000)
    if head.startswith(b"# vtk DataFile"):
        return "legacy"
    if head.startswith(b"\x89HDF"):
        return "vtkhdf"
    found = re.search(rb'<VTKFile[^>]*\btype="(\w+)"', head)
    expect(found, f"{os.path.basename(path)} is no VTK file")
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


def _whole(files: list[list[str]]) -> list[bool]:
    """Which frames to read in full when the series is opened."""
    total = sum(os.path.getsize(part) for parts in files for part in parts)
    return steps.looked_at(len(files), total)


def _key(files: list[str], whole: bool) -> steps.Key:
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
    return (tuple(sizes), *steps.key(_parts(files))[1:])
