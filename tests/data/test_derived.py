"""Features that `preprocess` computes: distances, normals, curvature, measures, node types."""

from __future__ import annotations

import math

import pytest
import torch

import meshsim
from meshsim import Mesh, Series
from meshsim.check import InputError
from meshsim.data import Store, preprocess
from meshsim.data.derived import Features, derive
from meshsim.data.options import check_options
from meshsim.geometry.distance import closest_points
from meshsim.geometry.tree import Surface
from meshsim.mesh import Cells
from tests.graph.grids import brick, grid


def annulus(n: int, rings: int = 4, dtype=torch.float64) -> Mesh:
    """1 ≤ r ≤ 3 in quads, n round the middle; boundaries airfoil (r = 1) and farfield."""
    angle = torch.arange(n, dtype=torch.float64) * 2 * math.pi / n
    r = torch.linspace(1, 3, rings + 1, dtype=torch.float64)
    points = torch.stack([r[:, None] * angle.cos(), r[:, None] * angle.sin()], 2).reshape(-1, 2)
    at = torch.arange((rings + 1) * n).reshape(rings + 1, n)
    ends = torch.stack([at, at.roll(-1, 1)], 2)  # (rings + 1, n, 2)
    quads = torch.cat([ends[:-1], ends[1:].flip(2)], 2).reshape(-1, 4)
    return Mesh(points.to(dtype), {"quad": quads}).with_boundary_cells(
        {"airfoil": [Cells("line", ends[0])], "farfield": [Cells("line", ends[-1])]}
    )


def made(mesh, **table):
    out = derive({"mesh": mesh}, {"mesh": Features.from_table(table)})["mesh"]
    return out.mesh if isinstance(out, Series) else out


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_distance_to_a_circle_is_of_second_order(dtype):
    error = []
    for n in (32, 64):
        mesh = made(annulus(n, dtype=dtype), distance=["airfoil"])
        found, towards = (mesh.point_fields[f"{k}_airfoil"] for k in ("distance", "closest"))
        assert found.dtype == towards.dtype == dtype
        # between the corners too: at the middles of the cells
        middles = made(annulus(n), distance=["airfoil"], at="cell")
        exact = middles.cell_centres.norm(dim=1) - 1
        error.append(float((middles.cell_fields["distance_airfoil"] - exact).abs().max()))
        assert "distance_airfoil" not in middles.point_fields
        assert torch.allclose(found, mesh.points.norm(dim=1) - 1, atol=2e-6)
        assert bool((found > -1e-6).all())
    assert error[0] > 1e-4 and 3.7 < error[0] / error[1] < 4.3


def test_the_nearest_place_is_on_the_surface_and_as_far_as_said():
    mesh = annulus(24)
    found = made(mesh, distance={"walls": "air*|wall", "far": "farfield"}, at="both")
    line = torch.cat([mesh.faces.nodes.reshape(-1, 2)[mesh.boundaries["airfoil"].faces]])
    surface = Surface(mesh.points, [Cells("line", line)])
    for fields, places in (
        (found.point_fields, mesh.points),
        (found.cell_fields, mesh.cell_centres),
    ):
        distance, towards = fields["distance_walls"], fields["closest_walls"]
        assert torch.allclose(towards.norm(dim=1), distance.abs(), atol=1e-14)
        assert float(closest_points(surface, places + towards).distance.max()) < 1e-14
        assert bool((fields["distance_far"] > -1e-12).all())  # inside it is the mesh
        total = distance + fields["distance_far"]
        assert bool((total > 2 * math.cos(math.pi / 24) - 1e-2).all())


@pytest.mark.parametrize("turned", [False, True])
def test_distance_to_the_surface_of_another_branch(turned):
    trimesh = pytest.importorskip("trimesh")
    volume = brick(4, 4, 4)
    volume = volume.replace(points=volume.points - 2.0)
    error = []
    for n in (2, 3):
        ball = trimesh.creation.icosphere(subdivisions=n)
        faces = torch.tensor(ball.faces).long()
        body = Mesh(torch.tensor(ball.vertices), {"triangle": faces.flip(1) if turned else faces})
        found = derive(
            {"surface": body, "volume": volume},
            {"volume": Features.from_table({"distance": ["surface"], "at": "both"})},
        )["volume"]
        gone = []
        for fields, places in (
            (found.point_fields, volume.points),
            (found.cell_fields, volume.cell_centres),
        ):
            exact = places.norm(dim=1) - 1
            inside = fields["distance_surface"] < 0
            assert torch.equal(inside[exact.abs() > 0.02], exact[exact.abs() > 0.02] < 0)
            gone.append(float((fields["distance_surface"] - exact).abs().max()))
        error.append(max(gone))
    assert 3.0 < error[0] / error[1] < 5.0


def test_normals_and_curvature_of_a_circle_are_exact():
    mesh = made(annulus(20), normal=True, curvature=True)
    r = mesh.points.norm(dim=1)
    inner, outer = (r - 1).abs() < 1e-9, (r - 3).abs() < 1e-9
    normal, bend = mesh.point_fields["normal"], mesh.point_fields["curvature"]
    assert torch.allclose(normal[inner], -mesh.points[inner], atol=1e-14)  # out of the mesh
    assert torch.allclose(normal[outer], mesh.points[outer] / 3, atol=1e-14)
    assert not normal[~inner & ~outer].any() and not bend[~inner & ~outer].any()
    assert torch.allclose(bend[outer], torch.full_like(bend[outer], 1 / 3), atol=1e-13)
    assert torch.allclose(bend[inner], torch.full_like(bend[inner], -1.0), atol=1e-13)
    assert torch.allclose(normal, meshsim_normal(mesh), atol=1e-14)


def meshsim_normal(mesh):
    from meshsim.graph.features import point_features

    return point_features(mesh, ["normal"])


def test_normals_and_curvature_of_a_sphere():
    trimesh = pytest.importorskip("trimesh")
    ball = trimesh.creation.icosphere(subdivisions=4, radius=2.0)
    mesh = Mesh(torch.tensor(ball.vertices), {"triangle": torch.tensor(ball.faces).long()})
    found = made(mesh, normal=True, curvature=True).point_fields
    assert float((found["normal"] - mesh.points / 2).norm(dim=1).max()) < 0.01
    assert float((found["curvature"] - 0.5).abs().max()) < 0.02
    flat = made(brick(3, 2, 2), normal=True).point_fields["normal"]
    assert torch.allclose(flat, meshsim_normal(brick(3, 2, 2)), atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_measures_add_up_to_the_domain(dtype):
    mesh = made(annulus(16, dtype=dtype), measure=True)
    area = 16 / 2 * math.sin(2 * math.pi / 16) * (9 - 1)
    for fields in (mesh.point_fields, mesh.cell_fields):
        assert float(fields["measure"].sum()) == pytest.approx(area, rel=1e-6)
    solid = made(brick(3, 2, 2), measure=True)
    assert float(solid.cell_fields["measure"].sum()) == pytest.approx(12, rel=1e-14)
    assert float(solid.point_fields["measure"].sum()) == pytest.approx(12, rel=1e-14)


def test_node_types_by_hand():
    mesh = grid(2, 2)  # left, right, bottom, top
    rule = {"inflow": "left", "outflow": "right", "wall": "top|bottom"}
    kinds = made(mesh, node_type=rule).point_fields["node_type"]
    assert kinds.dtype == torch.int64
    # a corner of an inflow and a wall is a wall
    assert kinds.reshape(3, 3).tolist() == [[6, 6, 6], [4, 0, 5], [6, 6, 6]]
    guessed = made(mesh, node_type=True).point_fields["node_type"]
    assert guessed.reshape(3, 3).tolist() == [[6, 6, 6], [0, 0, 0], [6, 6, 6]]
    plain = made(mesh, node_type={"airfoil": "bottom", "normal": "*"}).point_fields["node_type"]
    assert plain.reshape(3, 3).tolist() == [[2, 2, 2], [0, 0, 0], [0, 0, 0]]
    with pytest.raises(InputError, match=r"`node_type.inflow`: no boundary fits 'lefd': did you"):
        made(mesh, node_type={"inflow": "lefd"})
    with pytest.raises(InputError, match="no named boundaries"):
        made(mesh.replace(boundaries={}), node_type=True)


def test_what_a_mesh_cannot_have_is_said():
    mesh = grid(2, 1)
    with pytest.raises(InputError, match=r"`distance.botom`: no boundary fits 'botom': did you"):
        made(mesh, distance=["botom"])
    with pytest.raises(InputError, match="'measure': the file has a field of that name already"):
        made(mesh.with_fields(cell={"measure": torch.ones(2)}), measure=True)
    line = Mesh([[0.0, 0, 0], [1, 0, 0]], {"line": [[0, 1]]})
    with pytest.raises(InputError, match=r"branch 'mesh': .*expected a surface"):
        made(line, normal=True)
    moving = Series(mesh, [0.0, 1.0], points=mesh.points.expand(2, -1, -1))
    with pytest.raises(InputError, match="branch 'mesh': expected a mesh that rests"):
        made(moving, measure=True)
    rest = Series(mesh, [0.0, 1.0], {"p": torch.zeros(2, 6)})
    assert "measure" in made(rest, measure=True).point_fields


def test_the_configuration_is_checked():
    def wrong(message, table, **more):
        with pytest.raises(InputError, match=message):
            check_options({"features": table, **more})

    wrong("key of `features`: 'distnace': did you mean 'distance'", {"distnace": ["a"]})
    wrong("node type in `features.node_type`: 'INLET'|'inlet'", {"node_type": {"inlet": "x"}})
    wrong("`features.normal`: expected true or false, got 1", {"normal": 1})
    wrong(r"`features.distance`: expected \['wall'\], a list", {"distance": "wall"})
    wrong("`features.levels`: expected 0 or more, got -1", {"levels": -1})
    wrong("`features.partition`: expected 1 part or more, got 0", {"partition": 0})
    wrong("key of `features.partition`: 'part'", {"partition": {"part": 3}})
    wrong("value of `features.at`: 'points'", {"distance": ["a"], "at": "points"})
    both = {"branches": {"surface": "*.vtp", "volume": "*.vtu"}}
    wrong("branch of `features`: 'volum': did you mean 'volume'", {"volum": {}}, **both)
    thin = {"volume": {"levels": 2}}
    wrong("levels and partition are of whole meshes", thin, cells={"volume": 10}, **both)
    told = check_options({"features": {"volume": {"distance": ["surface"]}}, **both})
    assert told.features["volume"].distance == {"surface": ""}
    assert check_options({"features": {"partition": 4}}).features["mesh"].partition == {"parts": 4}


CONFIG = """
fields = ["p"]
trust = true

[features]
node_type = { airfoil = "airfoil", inflow = "far*" }
normal = true
curvature = true
distance = ["airfoil"]
measure = true
levels = 2
partition = 3
"""


def test_preprocess_stores_them(tmp_path):
    from meshsim.data import read_preprocess_config

    for i in range(2):
        mesh = annulus(12 + i).with_fields(point={"p": torch.rand(5 * (12 + i))})
        (tmp_path / "in").mkdir(exist_ok=True)
        meshsim.write(mesh, tmp_path / "in" / f"{i}.npz")
    (tmp_path / "p.toml").write_text(CONFIG)
    config = read_preprocess_config(tmp_path / "p.toml")
    report = preprocess(tmp_path / "in", tmp_path / "s.zarr", config=config)
    assert (report.done, report.failed) == (2, [])
    store = Store(tmp_path / "s.zarr")
    mesh = store.sample("1").mesh
    assert sorted(mesh.point_fields) == [
        *("closest_airfoil", "curvature", "distance_airfoil", "level", "measure", "node_type"),
        *("normal", "p", "part"),
    ]
    assert sorted(mesh.cell_fields) == ["measure"]
    for name in ("level", "node_type", "part"):
        assert mesh.point_fields[name].dtype == torch.int64
    assert mesh.point_fields["part"].unique().tolist() == [0, 1, 2]
    assert mesh.point_fields["node_type"].unique().tolist() == [0, 2, 4]
    found = made(annulus(13), distance=["airfoil"]).point_fields["distance_airfoil"]
    assert torch.equal(mesh.point_fields["distance_airfoil"], found)


def test_branches_have_features_of_their_own(tmp_path):
    """Distances in a volume to the surface beside it, taken before the volume is thinned."""
    trimesh = pytest.importorskip("trimesh")
    folder = tmp_path / "cars" / "run_1"
    folder.mkdir(parents=True)
    ball = trimesh.creation.icosphere(subdivisions=3)
    body = Mesh(torch.tensor(ball.vertices), {"triangle": torch.tensor(ball.faces).long()})
    volume = brick(6, 6, 6)
    meshsim.write(body, folder / "boundary_1.vtp")
    meshsim.write(volume.replace(points=volume.points - 3), folder / "volume_1.vtu")
    config = {
        "branches": {"surface": "boundary_*.vtp", "volume": "volume_*.vtu"},
        "cells": {"volume": 50},
        "planar": False,
        "trust": True,
        "features": {
            "surface": {"normal": True, "measure": True},
            "volume": {"distance": ["surface"], "at": "cell", "measure": True},
        },
    }
    report = preprocess(tmp_path / "cars", tmp_path / "s.zarr", config=config)
    assert (report.done, report.failed) == (1, [])
    branches = Store(tmp_path / "s.zarr").sample("run_1").branches
    surface, volume = branches["surface"], branches["volume"]
    assert float((surface.point_fields["normal"] - surface.points).norm(dim=1).max()) < 0.02
    assert volume.n_cells == 50 and bool((volume.cell_fields["measure"] == 1).all())
    exact = volume.cell_centres.norm(dim=1) - 1
    assert float((volume.cell_fields["distance_surface"] - exact).abs().max()) < 0.01
    assert sorted(volume.point_fields) == ["measure"]


def test_what_is_stored_makes_the_same_levels_and_parts(tmp_path):
    from meshsim.graph import assemble, hierarchy, node_graph, partition
    from meshsim.models import MeshGraphNet

    mesh = made(annulus(30, 8), levels=3, partition=5)
    graph = node_graph(mesh)
    told, fresh = hierarchy(graph, mesh.point_fields["level"]), hierarchy(graph, 3)
    assert len(told) == len(fresh) == 3
    for a, b in zip(told, fresh, strict=True):
        assert torch.equal(a.nodes, b.nodes) and torch.equal(a.parent, b.parent)
        assert torch.equal(a.edge_index, b.edge_index)
    torch.manual_seed(0)
    model = MeshGraphNet(5, 3, {"pressure": 1}, width=16, depth=3).double()
    graph.x = torch.randn(graph.num_nodes, 5, dtype=torch.float64)
    whole = model(graph)["mesh"]["pressure"].detach()
    parts = partition(graph, mesh.point_fields["part"], model.hops)
    assert len(parts) == 5
    found = assemble(parts, [model(part.graph)["mesh"]["pressure"].detach() for part in parts])
    assert float((found - whole).norm()) <= 1e-10 * float(whole.norm())
    some = mesh.point_fields["part"] * 7  # gaps in the numbers make no parts
    assert len(partition(graph, some, 1)) == 5
    with pytest.raises(InputError, match="`parts`: expected 270 rows"):
        partition(graph, some[:5], 1)


def test_parts_of_cells_and_by_metis():
    mesh = made(grid(6, 6), partition={"parts": 4, "at": "cell"})
    assert mesh.cell_fields["part"].bincount().tolist() == [9, 9, 9, 9]
    pytest.importorskip("pymetis")
    mesh = made(grid(6, 6), partition={"parts": 4, "method": "metis"})
    assert mesh.point_fields["part"].unique().tolist() == [0, 1, 2, 3]
