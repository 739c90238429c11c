"""Tecplot ASCII, read by VTK; each zone becomes a region, or a boundary of lower dimension."""

from __future__ import annotations

import numpy as np

from meshsim.io.raw import Tree, content, expect, stack_components, tecplot_sizes, vtk
from meshsim.io.raw.merge import merge


def read(path: str, options: Tree) -> Tree:
    """An ASCII file as a tree."""
    expect(not content(path)[:8].startswith(b"#!TDV"), "is binary Tecplot, which is not supported")
    tecplot_sizes.check(path)
    import vtkmodules.vtkCommonDataModel  # noqa: F401, registers the classes of data
    from vtkmodules.vtkIOGeometry import vtkTecplotReader

    reader = vtkTecplotReader()
    reader.SetFileName(path)
    vtk.told(reader.UpdateInformation)
    for i in range(reader.GetNumberOfDataArrays()):
        reader.SetDataArrayStatus(reader.GetDataArrayName(i), 1)
    parts, names = vtk.leaves(vtk.run(reader))
    for part in parts:
        for place in ("point_fields", "cell_fields"):
            part[place] = stack_components(part[place])
    expect(parts, "holds no zone with points")
    out = merge(parts, names)
    if len(parts) == 1 and out["blocks"]:
        n = sum(len(block["rows"]) for block in out["blocks"])
        out["groups"] = {names[0]: {"cells": np.arange(n)}}
    return out
