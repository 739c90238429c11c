"""A polyhedral mesh that OpenFOAM's polyDualMesh made (tests/files/README.md says how)."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from meshsim.cli import main
from meshsim.findings import check
from meshsim.graph import cell_graph
from meshsim.io import read, write

CASE = Path(__file__).parents[1] / "files" / "dual_step"
VOLUME = 2 * 1 * 0.5 - 1 * 0.25 * 0.5  # of the channel but for the step


@pytest.fixture(scope="module")
def mesh():
    return read(CASE)


def test_it_is_of_polyhedra(mesh):
    cells = {block.type: len(block) for block in mesh.cells}
    assert mesh.n_cells == 165 and cells["polyhedron"] > 100
    assert set(mesh.boundaries) == {"inlet", "outlet", "step", "top", "sides"}


def test_volumes_sum_to_the_domain(mesh):
    assert float(mesh.cell_measures.sum()) == pytest.approx(VOLUME, rel=1e-12)
    assert (mesh.cell_measures > 0).all()
    faces = mesh.faces
    outside = faces.neighbour < 0
    flux = (faces.centre[outside] * faces.area[outside]).sum()  # of x, whose divergence is 3
    assert float(flux) / 3 == pytest.approx(VOLUME, rel=1e-6)
    area = {
        name: float(faces.area[b.faces].norm(dim=1).sum()) for name, b in mesh.boundaries.items()
    }
    assert area["inlet"] == pytest.approx(0.5) and area["outlet"] == pytest.approx(0.375)
    assert area["step"] == pytest.approx(0.5 + 0.125 + 0.5)


def test_every_cell_is_closed_and_fluxes_telescope(mesh):
    faces = mesh.faces
    inner = faces.neighbour >= 0
    total = torch.zeros(mesh.n_cells, 3, dtype=torch.float64)
    total.index_add_(0, faces.owner, faces.area)
    total.index_add_(0, faces.neighbour[inner], -faces.area[inner])
    assert total.abs().max() < 1e-15
    graph = cell_graph(mesh)
    assert graph.num_edges == 2 * int(inner.sum())
    # what flows into the cells over their inner faces sums to nothing, whatever the flow
    flow = torch.randn(mesh.n_cells, 3, dtype=torch.float64)
    sender, receiver = graph.edge_index
    mean = 0.5 * (flow[sender] + flow[receiver])
    into = torch.zeros(mesh.n_cells, dtype=torch.float64)
    into.index_add_(0, receiver, (mean * graph.area).sum(1))
    assert abs(float(into.sum())) < 1e-14 and into.abs().max() > 1e-3
    # and those of a constant flow are what enters through the cells' outer faces
    steady = torch.zeros(mesh.n_cells, 3, dtype=torch.float64)
    steady.index_add_(0, receiver, graph.area)
    outer = torch.zeros_like(steady).index_add_(0, faces.owner[~inner], faces.area[~inner])
    torch.testing.assert_close(steady, outer, rtol=0, atol=1e-15)


def test_nothing_is_wrong_with_it(mesh):
    found = check(mesh)
    assert found["ok"] and found["problems"] == []


def test_it_comes_back_from_a_file(mesh, tmp_path):
    write(mesh, tmp_path / "dual.vtu")
    back = read(tmp_path / "dual.vtu")
    assert float(back.cell_measures.sum()) == pytest.approx(VOLUME, rel=1e-12)
    assert len(back.faces) == len(mesh.faces)


def test_a_case_to_vtu_and_back(mesh, tmp_path):
    case = tmp_path / "case"
    shutil.copytree(CASE, case)
    given = {"U": torch.randn(mesh.n_cells, 3).double(), "p": torch.randn(mesh.n_cells).double()}
    write(mesh.with_fields(cell=given), case / "0")
    assert main(["convert", str(case), str(tmp_path / "a.vtu")]) == 0
    assert main(["convert", str(tmp_path / "a.vtu"), str(case / "5")]) == 0
    for time in (0, 5):
        back = read(case, time=time)
        for name, values in given.items():
            assert torch.equal(back.cell_fields[name], values)
    assert set(back.boundaries) == set(mesh.boundaries)
