"""Fewer cells: those that stay are untouched, whatever their type."""

import pytest
import torch

from meshsim import Cells, Mesh
from meshsim.data.thin import thinned


def tagged(mesh):
    """With the number of each cell and point as a field."""
    return mesh.with_fields(
        cell={"cell": torch.arange(mesh.n_cells)}, point={"node": torch.arange(mesh.n_points)}
    )


@pytest.fixture
def boxes():
    """Three boxes in a row, the first and last of them polyhedra."""
    x = torch.stack(torch.meshgrid(*(torch.arange(n) for n in (4, 2, 2)), indexing="ij"), -1)
    at = torch.arange(16).reshape(4, 2, 2)
    nodes = torch.stack([at[i : i + 2][:, [0, 1, 1, 0], [0, 0, 1, 1]].flatten() for i in range(3)])
    local = [[0, 1, 2, 3], [4, 5, 6, 7], [0, 1, 5, 4], [1, 2, 6, 5], [2, 3, 7, 6], [3, 0, 4, 7]]
    rings = nodes[[0, 2]][:, torch.tensor(local)].flatten()
    cells = [
        Cells("hexahedron", nodes[1:2]),
        Cells("polyhedron", rings, torch.tensor([0, 6, 12]), 4 * torch.arange(13)),
    ]
    order = torch.tensor([1, 0, 2])
    return tagged(Mesh(x.reshape(-1, 3).double(), cells, file_order=order))


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("seed", ["a", "b", "c"])
def test_cells_that_stay_are_what_they_were(mixed_mesh, boxes, count, seed):
    for mesh in (tagged(mixed_mesh), boxes):
        thin = thinned(mesh, count, seed)
        kept, used = thin.cell_fields["cell"], thin.point_fields["node"]
        assert thin.n_cells == count and bool((kept.diff() > 0).all())
        assert torch.equal(thin.points, mesh.points[used])
        assert torch.allclose(thin.cell_centres, mesh.cell_centres[kept])
        assert torch.allclose(thin.cell_measures, mesh.cell_measures[kept])
        for name, values in mesh.cell_fields.items():
            assert torch.equal(thin.cell_fields[name], values[kept])
        nodes = torch.cat([block.nodes.flatten() for block in thin.cells])
        assert torch.equal(nodes.unique(), torch.arange(thin.n_points))  # no point without a cell
        if mesh.file_order is not None and count < mesh.n_cells:
            assert torch.equal(thin.file_order.argsort(), mesh.file_order[kept].argsort())


def test_the_draw_depends_on_the_seed_alone(mixed_mesh):
    strip = Mesh(torch.rand(52, 2), {"triangle": [[i, i + 1, i + 2] for i in range(50)]})
    strip = tagged(strip)
    draws = [thinned(strip, 20, seed).cell_fields["cell"].tolist() for seed in "aab"]
    assert draws[0] == draws[1] != draws[2]
    assert thinned(strip, 50, "a") is strip
    thin = thinned(mixed_mesh, 2, "a")
    assert not thin.boundaries and not thin.regions and thin.z == mixed_mesh.z
    assert thin.notes[-1].startswith("2 of 4 cells, drawn at random")
    assert set(thin.global_fields) == set(mixed_mesh.global_fields)
