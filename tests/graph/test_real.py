"""Graphs of other people's meshes: types guessed from their names, tori from their seams."""

import pytest
import torch

from meshsim.graph import NodeType, cell_graph, node_graph, rowptr
from meshsim.io import read
from meshsim.mesh import Mesh
from meshsim.ops import segment_sum

SU2 = "su2code__TestCases"
SEAMS = [("PeriodicLeft", "PeriodicRight"), ("PeriodicBottom", "PeriodicTop")]


def mesh_of(folder, path) -> Mesh:
    file = folder / path
    if not file.exists():
        pytest.skip(f"{path} is not among the files at hand")
    mesh = read(file, trust=True)
    assert isinstance(mesh, Mesh)
    return mesh


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (f"{SU2}/disc_adj_rans/cylinder/mesh_cylinder.su2", {"OBSTACLE": 76, "INFLOW": 28}),
        (f"{SU2}/navierstokes/cylinder/cylinder_half.su2", {"WALL": 58, "INFLOW": 46}),
        (f"{SU2}/cont_adj_euler/naca0012/mesh_NACA0012_inv.su2", {"AIRFOIL": 200, "INFLOW": 50}),
    ],
)
def test_node_types(real_data, path, expected):
    mesh = mesh_of(real_data, path)
    graph = node_graph(mesh)
    counts = torch.bincount(graph.node_type, minlength=9)
    found = {t.name: int(counts[t]) for t in NodeType if t not in (NodeType.NORMAL, NodeType.SIZE)}
    assert {name: n for name, n in found.items() if n} == expected
    # Euler: points − edges + cells of a plane region is 1 − holes; each named rim here is one loop
    loops = {"mesh_cylinder": 0, "cylinder_half": 1, "mesh_NACA0012_inv": 0}
    stem = path.rsplit("/", 1)[1].removesuffix(".su2")
    assert mesh.n_points - graph.num_edges // 2 + mesh.n_cells == loops[stem]


def test_a_periodic_mesh_is_a_torus(real_data):
    mesh = mesh_of(real_data, f"{SU2}/mms/fvm_euler/TriAdapt.su2")
    nodes, cells = node_graph(mesh, periodic=SEAMS), cell_graph(mesh, periodic=SEAMS)
    assert nodes.num_nodes - nodes.num_edges // 2 + mesh.n_cells == 0  # Euler characteristic
    assert (nodes.node_type == NodeType.NORMAL).all()
    assert (rowptr(cells).diff() == 3).all()  # every triangle has three neighbours
    rest = segment_sum(cells.area, rowptr(cells))
    assert rest.abs().max() <= 1e-6 * cells.area.abs().max()  # seams match to the file's digits
    longest = node_graph(mesh).edge_attr[:, -1].max()
    assert nodes.edge_attr[:, -1].max() <= longest * (1 + 1e-12)  # nearest images
