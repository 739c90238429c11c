"""Exodus files: counts from the netCDF header, fields from the variables themselves."""

import numpy as np
import pytest
import torch
from scipy.io import netcdf_file

from meshsim.check import InputError
from meshsim.io import format_of, read
from meshsim.mesh import Mesh
from meshsim.series import Series
from tests.io.exodus_files import as_hdf5, write

GRID = np.stack(np.meshgrid([0.0, 1.0], [0.0, 1.0], [0.0, 1.0, 2.0], indexing="ij"), -1)
POINTS = GRID.reshape(-1, 3)
TIMES = [0.0, 0.5, 2.0]


def node(i, j, k):
    return 6 * i + 3 * j + k


def hexahedron(k):
    ring = [(0, 0), (1, 0), (1, 1), (0, 1)]
    return np.array([[node(i, j, k + up) for up in (0, 1) for i, j in ring]])


def column(path, **more):
    """Two hexahedra on each other, the upper one's block first by its id, and a shell below."""
    shell = np.array([[node(0, 0, 0), node(0, 1, 0), node(1, 1, 0), node(1, 0, 0)]])
    blocks = [(10, "HEX8", hexahedron(0), "lower"), (5, "HEX", hexahedron(1), ""),
              (7, "SHELL4", shell, "plate")]  # fmt: skip
    sides = [(3, "in", [1, 1], [5, 1]), (9, "", [2], [6]), (12, "edge", [3], [3])]
    tops = [node(i, j, 2) + 1 for i in (0, 1) for j in (0, 1)]
    nodes = [(1, "top nodes", tops), (2, "in", [1, 2])]
    index = np.arange(36.0).reshape(3, 12)
    nodal = {"disp_x": index, "disp_y": 2 * index, "disp_z": 3 * index, "T": index + 0.25}
    elem = {"p": [np.array([[1.0], [2], [3]]), np.array([[4.0], [5], [6]]), None],
            "q": [np.array([[1.0], [2], [3]]), None, None]}  # fmt: skip
    write(path, POINTS, blocks, sides, nodes, TIMES, nodal, elem, **more)


@pytest.mark.parametrize("hdf5", [False, True])
@pytest.mark.parametrize("suffix", ["e", "exo", "ex2", "g", "unknown"])
def test_blocks_sets_and_all_times(tmp_path, hdf5, suffix):
    path = tmp_path / f"a.{suffix}"
    column(path)
    if hdf5:
        as_hdf5(path, tmp_path / f"b.{suffix}")
        path = tmp_path / f"b.{suffix}"
    assert format_of(path).name == "exodus"
    series = read(path)
    assert isinstance(series, Series)
    assert series.times.tolist() == TIMES
    mesh = series.mesh
    assert (mesh.n_points, mesh.n_cells) == (12, 2)  # num_nodes; the shell is a boundary
    torch.testing.assert_close(mesh.points, torch.from_numpy(POINTS))
    assert {k: v.tolist() for k, v in mesh.regions.items()} == {"lower": [0], "block 5": [1]}
    sizes = {name: len(b.faces) for name, b in mesh.boundaries.items()}
    assert sizes == {"plate": 1, "in": 2, "side set 9": 1, "top nodes": 1}
    centre = mesh.faces.centre[mesh.boundaries["side set 9"].faces]
    torch.testing.assert_close(centre, torch.tensor([[0.5, 0.5, 2.0]], dtype=torch.float64))
    notes = " ".join(mesh.notes)
    assert "'edge'" in notes and "node set 'in'" in notes and "'q' has no value in 1 cells" in notes
    assert "'p'" not in notes
    for t in range(3):
        frame = series.frame(t)
        index = torch.arange(12.0, dtype=torch.float64) + 12 * t
        torch.testing.assert_close(frame.point_fields["T"], index + 0.25)
        vector = torch.stack([index, 2 * index, 3 * index], 1)
        torch.testing.assert_close(frame.point_fields["disp"], vector)
        assert frame.cell_fields["p"].tolist() == [1.0 + t, 4.0 + t]


# corner nodes, then the pairs of corners whose middle each further node is, in Exodus's order
BOTTOM, UP, TOP = [(0, 1), (1, 2), (2, 3), (3, 0)], [(0, 4), (1, 5), (2, 6), (3, 7)], \
    [(4, 5), (5, 6), (6, 7), (7, 4)]  # fmt: skip
CUBE = [(0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (1, 1, 1), (0, 1, 1)]
PRISM = [CUBE[i] for i in (0, 1, 3, 4, 5, 7)]
TENT = [*CUBE[:4], (0.5, 0.5, 1)]
TETRA = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
TRI = [(0, 1), (1, 2), (2, 0)]
FACES = [CUBE, CUBE[:4], CUBE[4:], [CUBE[i] for i in (0, 3, 4, 7)],
         [CUBE[i] for i in (1, 2, 5, 6)], [CUBE[i] for i in (0, 1, 4, 5)],
         [CUBE[i] for i in (2, 3, 6, 7)]]  # fmt: skip
TYPES = {
    # Exodus's name: corners, edges in Exodus's order, centres of; our name, edges in our order
    "HEX20": (CUBE, BOTTOM + UP + TOP, [], "hexahedron20", BOTTOM + TOP + UP),
    "HEX27": (CUBE, BOTTOM + UP + TOP, FACES, "hexahedron27", BOTTOM + TOP + UP),
    "WEDGE6": (PRISM, [], [], "wedge", []),
    "WEDGE15": (
        PRISM, [*TRI, (0, 3), (1, 4), (2, 5), (3, 4), (4, 5), (5, 3)], [],
        "wedge15", [*TRI, (3, 4), (4, 5), (5, 3), (0, 3), (1, 4), (2, 5)],
    ),
    "PYRAMID5": (TENT, [], [], "pyramid", []),
    "PYRAMID13": (TENT, [*BOTTOM, (0, 4), (1, 4), (2, 4), (3, 4)], [], "pyramid13",
                  [*BOTTOM, (0, 4), (1, 4), (2, 4), (3, 4)]),
    "TETRA4": (TETRA, [], [], "tetra", []),
    "TETRA10": (TETRA, [*TRI, (0, 3), (1, 3), (2, 3)], [], "tetra10",
                [*TRI, (0, 3), (1, 3), (2, 3)]),
    "TRI3": (CUBE[:3], [], [], "triangle", []),
    "TRI6": (CUBE[:3], TRI, [], "triangle6", TRI),
    "QUAD4": (CUBE[:4], [], [], "quad", []),
    "QUAD8": (CUBE[:4], BOTTOM, [], "quad8", BOTTOM),
    "QUAD9": (CUBE[:4], BOTTOM, [CUBE[:4]], "quad9", BOTTOM),
    "BAR2": (CUBE[:2], [], [], "line", []),
    "BAR3": (CUBE[:2], [(0, 1)], [], "line3", [(0, 1)]),
}  # fmt: skip


@pytest.mark.parametrize("kind", TYPES)
def test_every_type_of_element(tmp_path, kind):
    """Midside nodes lie in the middle of the edges where our order has them."""
    corners, edges, centres, name, ours = TYPES[kind]
    base = np.array(corners, float)
    middle = [base[list(edge)].mean(0) for edge in edges] + [np.mean(c, 0) for c in centres]
    points = np.concatenate([base, np.array(middle).reshape(-1, 3)])
    write(tmp_path / "a.exo", points, [(1, kind, np.arange(len(points))[None], "")])
    mesh = read(tmp_path / "a.exo", planar=False)
    assert isinstance(mesh, Mesh)
    assert [block.type for block in mesh.cells] == [name]
    got = mesh.points[mesh.cells[0].nodes[0]].numpy()
    np.testing.assert_array_equal(got[: len(base)], base)
    for i, edge in enumerate(ours):
        np.testing.assert_array_equal(got[len(base) + i], base[list(edge)].mean(0))
    if name == "hexahedron27":
        np.testing.assert_array_equal(got[26], [0.5, 0.5, 0.5])
    assert float(mesh.cell_measures[0]) > 0


def test_two_dimensions_and_one_time(tmp_path):
    points = np.array([[0.0, 0], [1, 0], [1, 1], [0, 1]])
    cells = np.array([[0, 1, 2, 3]])
    nodal = {"u_x": np.ones((1, 4)), "u_y": 2 * np.ones((1, 4))}
    write(tmp_path / "a.e", points, [(1, "QUAD", cells, "box")], [(1, "left", [1], [4])],
          times=[3.0], nodal=nodal)  # fmt: skip
    mesh = read(tmp_path / "a.e")
    assert isinstance(mesh, Mesh) and mesh.dim == 2
    assert mesh.point_fields["u"].tolist() == [[1.0, 2.0]] * 4
    assert mesh.boundary_points("left").tolist() == [0, 3]
    assert "box" in mesh.regions


def test_times_of_a_run_that_was_started_again(tmp_path):
    nodal = {"T": np.arange(4.0)[:, None] * np.ones((4, 12))}
    write(tmp_path / "a.e", POINTS, [(1, "HEX8", hexahedron(0), "")],
          times=[0.0, 1.0, 2.0, 1.0], nodal=nodal)  # fmt: skip
    series = read(tmp_path / "a.e")
    assert series.times.tolist() == [0, 1, 2]
    assert [float(series.frame(t).point_fields["T"][0]) for t in range(3)] == [0, 3, 2]
    assert "come twice" in series.mesh.notes[0]


def test_files_cut_short_are_refused(tmp_path):
    path = tmp_path / "a.e"
    column(path)
    data = path.read_bytes()
    for part in (5, 9, 40, 60, 99):
        path.write_bytes(data[: len(data) * part // 100])
        with pytest.raises(InputError, match=r"ends early|damaged|holds no") as error:
            read(path)
        assert "\n" not in str(error.value) and str(path) in str(error.value)


def test_netcdf_that_is_no_exodus_is_refused(tmp_path):
    with netcdf_file(str(tmp_path / "a.e"), "w") as file:
        file.createDimension("x", 3)
    with pytest.raises(InputError, match="netCDF file, but no Exodus"):
        read(tmp_path / "a.e")
    (tmp_path / "b.exo").write_text("some words\n")
    with pytest.raises(InputError, match="is no netCDF file"):
        read(tmp_path / "b.exo")


@pytest.mark.parametrize(
    "name", ["disk_out_ref.ex2", "mesh_fs8.exo", "coarseGrid.e", "box-noglom.ex2"]
)
def test_other_peoples_files(real_data, name):
    """Counts and values from the file's own variables, through SciPy."""
    path = real_data / "pyvista__vtk-data/Data" / name
    mesh = read(path, planar=False)
    with netcdf_file(str(path), mmap=False) as file:
        dims = file.dimensions
        assert mesh.n_points == dims["num_nodes"] and mesh.n_cells == dims["num_elem"]
        first = file.variables["connect1"][:] - 1
        np.testing.assert_array_equal(mesh.cells[0].nodes[: len(first)].numpy(), first)
        x = file.variables["coordx" if "coordx" in file.variables else "coord"][:]
        x = x if x.ndim == 1 else x[0]
        np.testing.assert_array_equal(mesh.points[:, 0].numpy(), x)
        sides = sum(dims[f"num_side_ss{k + 1}"] for k in range(dims.get("num_side_sets", 0)))
        assert sum(len(b.faces) for b in mesh.boundaries.values() if b.kind == "side set") == sides
        for k in range(dims["num_el_blk"]):
            ids = file.variables["eb_prop1"][:]
            assert len(mesh.regions[f"block {ids[k]}"]) == dims[f"num_el_in_blk{k + 1}"]
