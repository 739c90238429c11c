"""Laplacian eigenvectors: eigenvalues, sizes, signs, batches."""

from __future__ import annotations

import pytest
import torch

from meshsim.check import InputError
from meshsim.graph import batch, node_graph
from meshsim.ops.spectrum import laplacian_vectors
from tests.graph.grids import grid
from tests.helpers import MESHES


def ptr(n):
    return torch.tensor([0, n])


def laplacian(edges, n):
    a = torch.zeros(n, n, dtype=torch.float64)
    a[edges[1], edges[0]] = 1
    scale = a.sum(1).clamp_min(1).rsqrt()
    return torch.eye(n, dtype=torch.float64) - scale[:, None] * a * scale


@pytest.mark.parametrize("mesh", [MESHES["channel"], grid(31, 17)])  # dense, sparse
def test_they_are_the_smoothest_eigenvectors(mesh):
    graph = node_graph(mesh)
    edges, n = graph.edge_index, len(graph.pos)
    v = laplacian_vectors(edges, ptr(n), 5)
    matrix = laplacian(edges, n)
    values = torch.linalg.eigvalsh(matrix)[1:6]
    torch.testing.assert_close(matrix @ v, v * values, rtol=0, atol=1e-8)
    torch.testing.assert_close(v.T @ v / n, torch.eye(5).double(), rtol=0, atol=1e-9)
    assert ((v**3).sum(0) >= -1e-9).all()


def test_a_path_has_cosines():
    i = torch.arange(29)
    pairs = torch.cat([torch.stack([i, i + 1]), torch.stack([i + 1, i])], 1)
    edges = pairs[:, pairs[1].argsort(stable=True)]
    v = laplacian_vectors(edges, ptr(30), 1)[:, 0]
    degree = torch.full((30,), 2.0, dtype=torch.float64)
    degree[[0, -1]] = 1
    right = degree.sqrt() * torch.cos(torch.pi * torch.arange(30).double() / 29)
    right *= 30**0.5 / right.norm()
    assert min((v - right).norm(), (v + right).norm()) < 1e-9


def test_renumbering_changes_nothing_else():
    graph = node_graph(MESHES["channel"])
    n, order = len(graph.pos), torch.randperm(15, generator=torch.Generator().manual_seed(0))
    place = order.argsort()
    edges = place[graph.edge_index]
    edges = edges[:, (edges[1] * n + edges[0]).argsort()]
    old, new = (laplacian_vectors(e, ptr(n), 3) for e in (graph.edge_index, edges))
    torch.testing.assert_close(new, old[order], rtol=0, atol=1e-9)


def test_batches_and_small_graphs():
    graphs = [node_graph(MESHES[name]) for name in ("channel", "vertices", "isolated")]
    both = batch(graphs)
    parts = [laplacian_vectors(g.edge_index, ptr(len(g.pos)), 20) for g in graphs]
    assert torch.equal(laplacian_vectors(both.edge_index, both.ptr, 20), torch.cat(parts))
    assert (parts[0][:, 14:] == 0).all() and all(p.shape[1] == 20 for p in parts)
    none = torch.zeros(2, 0, dtype=torch.int64)
    assert laplacian_vectors(none, ptr(0), 2).shape == (0, 2)
    assert (laplacian_vectors(none, ptr(1), 2) == 0).all()
    with pytest.raises(InputError, match="`count`: expected 0 or more, got -1"):
        laplacian_vectors(none, ptr(0), -1)
