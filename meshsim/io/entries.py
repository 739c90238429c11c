"""Files that hold many samples or parts: how many there are, and a checksum of one sample."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from meshsim.check import InputError, MeshsimError
from meshsim.io import guard
from meshsim.io.formats import format_of

MODULE = "trajectories"
PARTED = ("cgns", "vtk")


def holds_many(path: Path) -> bool:
    """Whether a file may be of a format that holds many samples, by its first bytes.

    HDF5 says what it holds only once it is opened, which `count` does in the guarded child.
    """
    try:
        return format_of(path).module == MODULE
    except InputError:
        return False


def count(path: Path) -> tuple[int, str]:
    """How many samples a file holds, and what is wrong with the rest of it, or "".

    It is 0 for an HDF5 file whose names look like trajectories', but which holds none.

    Raises:
        InputError: it cannot be read at all.
    """
    found = guard.fetch(MODULE, path, {"list": True})
    return int(found["count"]), str(found["wrong"])


def digest(path: Path, entry: int, trust: bool = False) -> str:
    """The sha256 of one sample of a file, without reading the others.

    Raises:
        InputError: there is no such entry, or it is damaged.
    """
    return str(guard.fetch(MODULE, path, {"entry": entry, "digest": True}, trust)["digest"])


def parts(path: Path) -> list[int]:
    """Points of each part of a file that can be read part by part: `read(path, part=k)`.

    They are zones of a CGNS file, partitions of a .vtkhdf, pieces of a .vtu or .vtp. [] where there
    are fewer than two, or the file cannot be read.
    """
    try:
        known = path.stat()
    except OSError:
        return []
    return [*_parts(path, (known.st_size, known.st_mtime_ns, known.st_ino))]


@lru_cache(256)
def _parts(path: Path, stamp: tuple[int, int, int]) -> tuple[int, ...]:
    """Those of a file with this size, time and number."""
    try:
        form = format_of(path)
        if form.module not in PARTED:
            return ()
        found = guard.fetch(form.module, path, {**form.options, "parts": True})["parts"]
    except MeshsimError:
        return ()
    return tuple(int(n) for n in found) if len(found) > 1 else ()
