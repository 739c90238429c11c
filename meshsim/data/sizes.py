"""Bytes of inputs on disk, and of those that are in memory at once when they are read."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from meshsim.check import MeshsimError
from meshsim.data.sources import Source, named_by, source_files
from meshsim.io import entries


def kind_of(path: Path) -> str:
    """The format of a source's file, by name; "openfoam" of a case folder."""
    from meshsim.io.formats import suffix_of

    return "openfoam" if path.is_dir() else suffix_of(path)


def sizes(path: Path, entry: int | None = None, part: int | None = None) -> tuple[int, int]:
    """Bytes of a file or case with what belongs to it, and of those that are held at once.

    A .pvd and a case are read time by time: the largest time counts (of a case, with its mesh). Of
    a file that holds many samples, one has an even share; of one with parts, a part has what its
    points are of all.
    """
    if part is not None:
        points = entries.parts(path)
        share = total([path]) * points[part] // max(sum(points), 1) if part < len(points) else 0
        return share, share
    if entry is not None:
        share = total([path]) // max(_count(path), 1)
        return share, share
    try:
        files = source_files(Source("", path, (("", path),), ""))
    except (MeshsimError, OSError):
        return 0, 0  # its reading says what is wrong
    size = total(files)
    if path.is_dir():
        times: dict[str, int] = {}
        for file in files:
            inside = file.relative_to(path).parts
            place = inside[1] if inside[0].startswith("processor") else inside[0]
            if re.fullmatch(r"[\d.eE+-]+", place):
                times[place] = times.get(place, 0) + total([file])
        return size, size - sum(times.values()) + max(times.values(), default=0)
    if kind_of(path) == "pvd":
        return size, max((sizes(part)[0] for part in named_by(path)), default=size)
    return size, size


@lru_cache
def _count(path: Path) -> int:
    try:
        return entries.count(path)[0]
    except MeshsimError:
        return 1


def total(files: Iterable[Path]) -> int:
    """Bytes of files; 0 for those that cannot be asked."""
    out = 0
    for file in files:
        try:
            out += os.stat(file).st_size
        except OSError:
            continue
    return out
