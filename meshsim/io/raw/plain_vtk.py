"""Surfaces in ply through VTK, where our own reader gives up."""

from __future__ import annotations

from meshsim.io.raw import Tree, vtk


def read(path: str, options: Tree) -> Tree:
    """A surface as a tree."""
    import vtkmodules.vtkCommonDataModel  # noqa: F401, registers the classes of data
    from vtkmodules.vtkIOPLY import vtkPLYReader

    reader = vtkPLYReader()
    reader.SetFileName(path)
    return vtk.tree(vtk.run(reader))
