"""The text of an OpenFOAM field: new, or that of one that was there with other cell values."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from meshsim.io.raw.foam_file import File, load, uniform
from meshsim.mesh import Mesh

KEPT = {"empty", "cyclic", "cyclicAMI", "symmetry", "symmetryPlane", "wedge", "processor"}
_INTERNAL = re.compile(rb"\$:?internalField\b")
_INCLUDE = re.compile(rb"^\s*#include\s*\"", re.M)
_LOCATION = re.compile(rb'(\blocation\s+)"[^"]*"')


def new_field(
    name: str, time: str, rows: np.ndarray, kind: str, mesh: Mesh,
    patches: Mapping[str, tuple[int, str]], dimensions: str,
) -> bytes:  # fmt: skip
    """A field of cells with values of patches as `calculated`, where the mesh's boundaries have it.

    Arguments:
        name, time: of the field and of its folder.
        rows: (C, c) float64.
        kind: "Scalar", "Vector" …
        mesh: whose boundaries may have fields of that name.
        patches: {patch: (faces, type)}.
        dimensions: seven exponents, as text.
    """
    boundary = []
    for patch, (n, of) in patches.items():
        given = _given(mesh, patch, name)
        if of in KEPT:
            entry = f"type {of};"
        elif given is not None and len(given) == n:
            values = values_list(given, kind, None).decode()
            entry = f"type calculated;\n        value nonuniform {values};"
        else:
            entry = "type zeroGradient;"
        boundary.append(f"    {patch}\n    {{\n        {entry}\n    }}")
    head = (
        "FoamFile\n{\n    version 2.0;\n    format ascii;\n"
        f'    class vol{kind}Field;\n    location "{time}";\n    object {name};\n}}\n\n'
        f"dimensions [{dimensions}];\n\ninternalField nonuniform "
    )
    tail = ";\n\nboundaryField\n{\n" + "\n".join(boundary) + "\n}\n"
    return head.encode() + values_list(rows, kind, None) + tail.encode()


def changed_field(
    path: str, name: str, time: str, rows: np.ndarray, kind: str, mesh: Mesh, same_folder: bool
) -> bytes | None:
    """The file at `path` with other values in its cells; all else stays, its conditions too.

    Returns:
        The bytes; None where the file cannot stay as it is: it is another kind of field, it
        includes files that are not beside it, or the mesh brings other values for its patches.
    """
    try:
        file = load(path)
        span = _entries(file)
        at, end, value = span["internalField"]
        held = span["boundaryField"][2]
    except (KeyError, ValueError):
        return None
    if file.header.get("class") != f"vol{kind}Field" or not isinstance(held, dict):
        return None
    data = file.data
    if not same_folder and _INCLUDE.search(data):
        return None
    for patch in mesh.boundaries:
        given = _given(mesh, patch, name)
        if given is not None and not _same(given, held.get(patch)):
            return None
    outside = (data[:at], data[end:])
    if any(_INTERNAL.search(part) for part in outside):
        # what said "as in all cells" said one value
        if uniform(value) is None:
            return None
        one = data[at:end].strip()
        outside = tuple(_INTERNAL.sub(lambda _: one, part) for part in outside)  # type: ignore[assignment]
    before = _LOCATION.sub(lambda found: found[1] + f'"{time}"'.encode(), outside[0], count=1)
    return before + b" nonuniform " + values_list(rows, kind, file) + outside[1]


def cell_values(path: str) -> np.ndarray | None:
    """What stands in a file's internalField: (C, c) or (c,) where it is uniform."""
    try:
        value = _entries(load(path))["internalField"][2]
    except (KeyError, ValueError):
        return None
    return value if isinstance(value, np.ndarray) else uniform(value)


def _entries(file: File) -> dict[str, tuple[int, int, object]]:
    """{keyword: (start and end of its value, value)} of a file's top level."""
    out: dict[str, tuple[int, int, object]] = {}
    while file.peek():
        if file.peek() == b";":
            file.at += 1
            continue
        key = file.word().strip('"')
        if key.startswith("#"):
            file.at = (file.data.find(b"\n", file.at) + 1) or len(file.data)
            continue
        start = file.at
        if file.peek() == b"{":
            file.at += 1
            found: object = file.dictionary(True)
            out[key] = (start, file.at, found)
        else:
            found = file.value()
            semicolon = file.data[file.at - 1 : file.at] == b";"
            out[key] = (start, file.at - semicolon, found)
    return out


def _given(mesh: Mesh, patch: str, name: str) -> np.ndarray | None:
    found = mesh.boundaries.get(patch)
    values = None if found is None else found.fields.get(name)
    if values is None:
        return None
    rows = values.detach().cpu().double().numpy()
    return rows.reshape(len(rows), -1)


def _same(given: np.ndarray, entry: object) -> bool:
    """Whether a patch's entry says these values."""
    value = entry.get("value") if isinstance(entry, dict) else None
    held = value if isinstance(value, np.ndarray) else uniform(value)
    if held is None:
        return value is None or "$" in str(value)
    if not isinstance(value, np.ndarray):
        held = held[None]
    return np.allclose(given, held.reshape(len(held), -1), rtol=1e-6, atol=0)


def values_list(rows: np.ndarray, kind: str, like: File | None) -> bytes:
    """ "List<vector> n (…)" as text, or as bytes where the file it goes to is binary."""
    rows = rows.astype(np.float64).reshape(len(rows), -1)
    word = f"List<{kind[0].lower()}{kind[1:]}>\n{len(rows)}\n(".encode()
    if like is not None and like.binary:
        return word + rows.astype(like.dtype("f")).tobytes() + b")"
    if rows.shape[1] == 1:
        lines = [repr(value) for value in rows[:, 0].tolist()]
    else:
        lines = [f"({' '.join(map(repr, row))})" for row in rows.tolist()]
    return word + b"\n" + "\n".join(lines).encode() + b"\n)"
