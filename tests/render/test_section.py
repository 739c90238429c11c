"""Sections and halves of volumes."""

import numpy as np
import pytest
import torch

import meshsim
from meshsim import Series, render
from meshsim.check import InputError
from meshsim.geometry.cells import Cells
from meshsim.mesh import Mesh
from meshsim.render.section import clip, plane, section
from tests.helpers import MESHES
from tests.render.drawing import grid, panel, pixels

SIDES = ((0, 3, 2, 1), (4, 5, 6, 7), (0, 1, 5, 4), (2, 3, 7, 6), (1, 2, 6, 5), (0, 4, 7, 3))


def cube(n: int = 4, kind: str = "hexahedron", dtype: torch.dtype = torch.float64) -> Mesh:
    """The unit cube with p = x + 2y + 3z and the number of each cell."""
    x = np.linspace(0, 1, n + 1)
    points = np.stack(np.meshgrid(x, x, x, indexing="ij"), -1).reshape(-1, 3)
    i = np.arange((n + 1) ** 3).reshape([n + 1] * 3)
    corners = [
        (0, 0, 0),
        (1, 0, 0),
        (1, 1, 0),
        (0, 1, 0),
        (0, 0, 1),
        (1, 0, 1),
        (1, 1, 1),
        (0, 1, 1),
    ]
    cells = np.stack([i[a : n + a, b : n + b, c : n + c].ravel() for a, b, c in corners], 1)
    if kind == "tetra":
        split = [(0, 1, 2, 6), (0, 2, 3, 6), (0, 3, 7, 6), (0, 7, 4, 6), (0, 4, 5, 6), (0, 5, 1, 6)]
        cells = np.concatenate([cells[:, list(s)] for s in split])
    if kind != "polyhedron":
        blocks = [Cells(kind, torch.from_numpy(cells))]
    else:
        nodes = torch.from_numpy(cells[:, np.array(SIDES)].reshape(-1))
        blocks = [Cells(kind, nodes, 6 * torch.arange(n**3 + 1), 4 * torch.arange(6 * n**3 + 1))]
    mesh = Mesh(torch.tensor(points, dtype=dtype), blocks)
    p = mesh.points @ torch.tensor([1.0, 2.0, 3.0], dtype=dtype)
    return mesh.with_fields({"p": p, "u": mesh.points}, {"k": torch.arange(mesh.n_cells)})


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["hexahedron", "tetra", "polyhedron"])
@pytest.mark.parametrize("place", [0.0, 0.3, 0.5, 1.0])
def test_a_section_of_the_unit_cube_has_area_one(kind, place, dtype):
    mesh = cube(4, kind, dtype)
    found = section(mesh, [("y", place)])
    close = {"atol": 5e-6, "rtol": 0.0}
    assert float(found.cell_measures.sum()) == pytest.approx(1.0, abs=1e-5)
    assert float((found.points[:, 1] - place).abs().max()) < 2e-6
    wanted = found.points @ torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    torch.testing.assert_close(found.point_fields["p"].double(), wanted, **close)
    torch.testing.assert_close(found.point_fields["u"].double(), found.points, **close)
    assert found.point_fields["p"].dtype == dtype
    # a piece of the section lies in the cell whose number it has
    apart = (found.cell_centres - mesh.cell_centres[found.cell_fields["k"]].double()).abs()
    assert float(apart.max()) <= 0.25


def test_several_planes_and_lower_meshes():
    assert float(section(cube(), [("x", 0.5), ("z", 0.2)]).cell_measures.sum()) == pytest.approx(2)
    line = section(grid(), [("x", 0.3)])
    assert line.cell_dim == 1 and line.dim == 2
    assert float(line.cell_measures.sum()) == pytest.approx(1.0)
    ring = section(MESHES["cube_surface"], [plane(MESHES["cube_surface"], "z")])
    assert float(ring.cell_measures.sum()) == pytest.approx(4.0)


@pytest.mark.parametrize("kind", ["hexahedron", "tetra", "polyhedron"])
def test_a_clip_keeps_half_of_the_cells(kind):
    mesh = cube(4, kind)
    halves = [clip(mesh, "x", 0.5, keep) for keep in ("low", "high")]
    assert [half.n_cells for half in halves] == [mesh.n_cells // 2] * 2
    for half, side in zip(halves, (-1, 1), strict=True):
        assert float(half.cell_measures.sum()) == pytest.approx(0.5)
        assert (side * (half.points[:, 0] - 0.5) >= 0).all() and half.n_points == 75
        torch.testing.assert_close(half.point_fields["u"], half.points)
        kept = half.cell_fields["k"]
        torch.testing.assert_close(half.cell_centres, mesh.cell_centres[kept])


@pytest.mark.parametrize("axis", ["x", "y", "z"])
@pytest.mark.parametrize("up", ["y", "z"])
def test_the_cut_side_is_seen(tmp_path, boards, axis, up):
    mesh = cube().replace(point_fields={})
    inner = ((mesh.cell_centres - 0.5).abs() < 0.2).all(1).double()
    mesh = mesh.with_fields(cell={"inner": inner})
    out = render.field(clip(mesh, axis, 0.5, up=up), "inner", tmp_path / "c.png", up=up, width=400)
    shown = panel(pixels(out), boards[0], 0)
    yellow = (shown[..., 0] > 130) & (shown[..., 1] > 130) & (shown[..., 2] < 110)
    assert yellow.mean() > 0.03


def test_a_series_is_cut_at_every_time():
    mesh = cube(2).replace(point_fields={}, cell_fields={})
    p = mesh.points[:, 0]
    times = [0.0, 1.0, 4.0]
    series = Series(mesh, times, {"p": torch.stack([p * t for t in times])},
                    {"k": torch.arange(8.0).repeat(3, 1)})  # fmt: skip
    cut, half = section(series, [("x", 0.75)]), clip(series, "x", 0.5, "low")
    assert isinstance(cut, Series) and isinstance(half, Series)
    for t, time in enumerate(times):
        assert cut.frame(t).point_fields["p"].unique().numpy() == pytest.approx(0.75 * time)
        torch.testing.assert_close(half.frame(t).point_fields["p"], half.mesh.points[:, 0] * time)
        assert half.frame(t).cell_fields["k"].tolist() == [0, 1, 2, 3]
    moving = Series(mesh, [0.0, 1.0], points=torch.stack([mesh.points, 2 * mesh.points]))
    cut = section(moving, [("x", 0.5)])
    areas = [float(part.frame(0).cell_measures.sum()) for part in cut.segments]
    assert areas == pytest.approx([1.0, 4.0])
    assert float(clip(moving, "x", 0.5, "low").frame(1).cell_measures.sum()) == pytest.approx(4.0)


def test_what_cannot_be_cut_is_said():
    mesh = cube(1)
    for text, words in (("w=1", "axis 'w'"), ("x=2", "beside the mesh, which lies in x 0..1"),
                        ("x=a", "an axis and a number"), ("x=nan", "a number")):  # fmt: skip
        with pytest.raises(InputError, match=words):
            plane(mesh, text)
    assert plane(mesh, "z") == ("z", 0.5) and plane(mesh, "y=1") == ("y", 1.0)
    with pytest.raises(InputError, match="unknown axis 'z'"):
        plane(grid(), "z")
    for flat in (grid(), MESHES["cube_surface"]):
        with pytest.raises(InputError, match="no inside"):
            clip(flat, "x", 0.5)
    with pytest.raises(InputError, match="no cell would be left"):
        clip(mesh, "x", 0.9, "high")
    with pytest.raises(InputError, match="have no sections"):
        section(section(grid(), [("x", 0.3)]), [("y", 0.5)])


def test_a_real_case_is_cut(real_data, tmp_path):
    case = real_data / "fluiddyn__fluidfoam/output_samples/box"
    if not case.is_dir():
        pytest.skip("fluiddyn__fluidfoam is not among the files")
    mesh = meshsim.read(case, time="last")
    low, high = mesh.points.aminmax(dim=0)
    side = (high - low).double()
    assert float(section(mesh, [plane(mesh, "z")]).cell_measures.sum()) == pytest.approx(
        float(side[0] * side[1]), rel=1e-5
    )
    assert clip(mesh, *plane(mesh, "x")).n_cells == mesh.n_cells // 2
