"""VTK's list of blocks (.vtm): each file that it names is read, and the parts are merged.

VTK's own reader files pieces under their number and loses those of equal number in two blocks.
"""

from __future__ import annotations

import os

from meshsim.io.raw import Tree, beside, content, expect
from meshsim.io.raw.markup import check_file, parse
from meshsim.io.raw.merge import merge

KINDS = {
    "vtu": "UnstructuredGrid", "vtp": "PolyData", "vts": "StructuredGrid",
    "vtr": "RectilinearGrid", "vti": "ImageData", "pvtu": "PUnstructuredGrid",
    "pvtp": "PPolyData", "pvts": "PStructuredGrid", "pvtr": "PRectilinearGrid",
    "pvti": "PImageData", "vtm": "vtkMultiBlockDataSet",
}  # fmt: skip


def read(path: str, options: Tree) -> Tree:
    """A .vtm as a tree; its parts are named as its data sets are."""
    from meshsim.io.raw import vtk

    check_file(path)
    parts: list[Tree] = []
    names: list[str] = []
    for entry in parse(content(path)).iter("DataSet"):
        file = entry.get("file")
        if not file:
            continue
        suffix = file.rpartition(".")[2].lower()
        expect(suffix in KINDS, f"names {file!r}, which is of no kind that VTK writes into blocks")
        place = beside(path, file)
        expect(os.path.exists(place), f"names {file!r}, which is not there")
        part = (read if suffix == "vtm" else vtk.read)(place, {"kind": KINDS[suffix]})
        if not len(part["points"]):
            continue
        parts.append(part)
        names.append(entry.get("name") or f"block{len(parts)}")
    expect(parts, "names no data sets that hold points")
    return merge(parts, names, compare=True)
