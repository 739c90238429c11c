"""Graphs of fixed meshes from gmsh, for the benchmarks."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from meshsim.benchmarks import graph_of


def _mesh(dim: int, size: float) -> Tensor:
    import gmsh

    gmsh.initialize()
    gmsh.option.setNumber("General.Terminal", 0)
    gmsh.model.add("box")
    if dim == 2:
        gmsh.model.occ.addRectangle(0, 0, 0, 1, 1)
    else:
        gmsh.model.occ.addBox(0, 0, 0, 1, 1, 1)
    gmsh.model.occ.synchronize()
    gmsh.option.setNumber("Mesh.MeshSizeMax", size)
    gmsh.option.setNumber("Mesh.RandomSeed", 1)
    gmsh.model.mesh.generate(dim)
    tags, _, _ = gmsh.model.mesh.getNodes()
    _, _, found = gmsh.model.mesh.getElements(dim)
    gmsh.finalize()
    number = torch.zeros(int(tags.max()) + 1, dtype=torch.int64)
    number[torch.from_numpy(tags.astype("int64"))] = torch.arange(len(tags))
    return number[torch.from_numpy(found[0].astype("int64"))].reshape(-1, dim + 1)


def triangle_graph(nodes: int) -> tuple[Tensor, int]:
    """(2, E) edges of a triangle mesh with about so many nodes, and how many it has."""
    return graph_of(_mesh(2, 1.08 / nodes**0.5))


def tetra_graph(nodes: int) -> tuple[Tensor, int]:
    """(2, E) edges of a tetrahedron mesh with about so many nodes, and how many it has."""
    return graph_of(_mesh(3, 0.965 / nodes ** (1 / 3)))


SIZES: dict[str, Callable[[], tuple[Tensor, int]]] = {
    "200": lambda: triangle_graph(200),
    "2k": lambda: triangle_graph(2_000),
    "30k": lambda: tetra_graph(30_000),
    "300k": lambda: tetra_graph(355_000),
}
