"""Files that hold many samples: how many there are, and a checksum of one."""

from __future__ import annotations

from pathlib import Path

from meshsim.check import InputError
from meshsim.io import guard
from meshsim.io.formats import format_of

MODULE = "trajectories"


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
