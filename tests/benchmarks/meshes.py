"""Graphs of fixed meshes, and the memory that a call takes, for the benchmarks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

PAGE = 4096


def _graph(cells: Tensor) -> tuple[Tensor, int]:
    from meshsim.graph.mesh_graph import directed

    pairs = [(i, j) for i in range(cells.shape[1]) for j in range(i)]
    both = torch.cat([cells[:, pair] for pair in pairs]).sort(1).values
    used = torch.unique(both, dim=0)
    sender, receiver = directed(used)
    order = receiver.argsort(stable=True)
    return torch.stack([sender[order], receiver[order]]), int(cells.max()) + 1


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
    return _graph(_mesh(2, 1.08 / nodes**0.5))


def tetra_graph(nodes: int) -> tuple[Tensor, int]:
    """(2, E) edges of a tetrahedron mesh with about so many nodes, and how many it has."""
    return _graph(_mesh(3, 0.965 / nodes ** (1 / 3)))


def peak_bytes(call: Callable[[], object]) -> int:
    """The most resident memory a call takes over what was there before it."""

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE

    most, stop = resident(), threading.Event()
    before = most

    def watch() -> None:
        nonlocal most
        while not stop.is_set():
            most = max(most, resident())
            time.sleep(0.0005)

    watcher = threading.Thread(target=watch)
    watcher.start()
    call()
    stop.set()
    watcher.join()
    return max(most, resident()) - before
