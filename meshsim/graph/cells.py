"""The cell graph: cells joined across their common faces."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from meshsim.graph.mesh_graph import MeshGraph, NodeType, sorted_edges
from meshsim.graph.periodic import Periodic, as_periodic, join_faces
from meshsim.mesh import Mesh
from meshsim.ops.adjacency import check_edges


def cell_graph(
    mesh: Mesh, *, periodic: Sequence[Periodic | Sequence[str]] | None = None
) -> MeshGraph:
    """The graph of a mesh's cells, joined across faces, both ways.

    `area` points from sender into receiver and is opposite on the edge back, so that sums of
    fluxes through it telescope. Where more than two cells share a face, each pair of them is
    joined, with the area vector of the face's owner, out of the lower cell.

    Arguments:
        mesh: any mesh.
        periodic: pairs of boundaries whose faces join the cells behind them.

    Raises:
        InputError: unknown boundary; periodic sides that do not match.

    >>> square = [[0., 0.], [1., 0.], [1., 1.], [0., 1.]]
    >>> graph = cell_graph(Mesh(square, {"triangle": [[0, 1, 2], [0, 2, 3]]}))
    >>> graph.edge_index.tolist(), graph.area.tolist()
    ([[1, 0], [0, 1]], [[1.0, -1.0], [-1.0, 1.0]])
    """
    faces, centre = mesh.faces, mesh.cell_centres
    low, high, face = _pairs(mesh)
    image = centre[high]  # (n, D): where `high` is, seen from `low`
    for pair in as_periodic(periodic):
        first, second, shift = join_faces(mesh, pair)
        low = torch.cat([low, faces.owner[first]])
        high = torch.cat([high, faces.owner[second]])
        face = torch.cat([face, first])
        image = torch.cat([image, centre[faces.owner[second]] - shift])
    cell = torch.arange(mesh.n_cells, device=centre.device)
    away, area = image - centre[low], faces.area[face]  # (n, D)
    sender, receiver = torch.cat([low, high]), torch.cat([high, low])
    order = sorted_edges(sender, receiver, mesh.n_cells)
    offset = torch.cat([-away, away])[order]  # (E, D): receiver to sender
    graph = MeshGraph(
        pos=centre,
        edge_index=torch.stack([sender[order], receiver[order]]),
        edge_attr=torch.cat([offset, offset.norm(dim=1, keepdim=True)], 1),
        node_type=torch.full_like(cell, NodeType.NORMAL),
        cell_node=cell,
        area=torch.cat([area, -area])[order],
        distance=offset.norm(dim=1),
        face=torch.cat([face, face])[order],
        n_faces=len(faces),
    )
    check_edges(graph.edge_index, mesh.n_cells)
    return graph


def _pairs(mesh: Mesh) -> tuple[Tensor, Tensor, Tensor]:
    """Every pair of cells with a common face: lower cell, higher cell, face."""
    faces = mesh.faces
    sizes = faces.cell_offsets.diff()  # (F,)
    out = []
    for k in sizes.unique().tolist():
        if k < 2:
            continue
        rows = (sizes == k).nonzero().squeeze(1)
        member = torch.arange(k, device=rows.device)
        cells = faces.cell_index[faces.cell_offsets[rows][:, None] + member]  # (n, k), rising
        i, j = torch.triu_indices(k, k, 1, device=rows.device)
        face = rows[:, None].expand(-1, len(i))
        out.append((cells[:, i].reshape(-1), cells[:, j].reshape(-1), face.reshape(-1)))
    none = faces.owner[:0]
    low, high, face = (torch.cat([none, *(part[i] for part in out)]) for i in range(3))
    return low, high, face
