"""A repair gives back the mesh that a defect was planted in, says what it did, and is done once."""

import pytest
import torch

from meshsim.check import InputError
from meshsim.findings import check
from meshsim.geometry.cells import Cells, take
from meshsim.geometry.mirror import mirrored
from meshsim.linear import linear, linearised
from meshsim.mesh import Boundary, Mesh
from meshsim.repair import repair, repaired
from meshsim.sample import Sample
from meshsim.series import Series
from tests.helpers import MESHES
from tests.sound import LINEAR, QUADRATIC, SOUND, SURFACES
from tests.test_findings import joined


def sides(mesh):
    """Each boundary as {corner points of a face: its row of q}."""
    out = {}
    for name, b in mesh.boundaries.items():
        f = mesh.faces
        rows = [frozenset(f.nodes[f.offsets[i] : f.offsets[i + 1]].tolist()) for i in b.faces]
        out[name] = dict(zip(rows, b.fields["q"].tolist(), strict=True))
    return out


def equal(a, b, turned=False):
    torch.testing.assert_close(a.points, b.points, rtol=0, atol=1e-9)
    for p, q in zip(a.cells, b.cells, strict=True):
        assert p.type == q.type
        assert torch.equal(p.nodes, q.nodes) or turned
    for kind in ("point_fields", "cell_fields", "regions"):
        x, y = getattr(a, kind), getattr(b, kind)
        assert set(x) == set(y) and all(torch.equal(x[k], y[k]) for k in x)
    assert sides(a) == sides(b)


def again(mesh):
    found = repair(mesh)
    assert found.done == () and found.mesh is mesh


def dressed(mesh, points, block, like, cell_like=()):
    """`mesh` with other points and cells, the new ones with the values of some old ones."""
    rows = torch.cat([torch.arange(mesh.n_points), torch.tensor(like, dtype=torch.int64)])
    cells = torch.cat([torch.arange(mesh.n_cells), torch.tensor(cell_like, dtype=torch.int64)])
    return Mesh(
        points,
        [block],
        {k: v[rows] for k, v in mesh.point_fields.items()},
        {k: v[cells] for k, v in mesh.cell_fields.items()},
        regions=mesh.regions,
    )


def with_sides(planted, mesh):
    """The boundaries of `mesh` on the planted one, whose outside faces it has, too."""
    f = mesh.faces
    for name, b in mesh.boundaries.items():
        rings = [f.nodes[f.offsets[i] : f.offsets[i + 1]] for i in b.faces]
        blocks = [
            Cells("line", r[None])
            if len(r) == 2
            else Cells("polygon", r, torch.tensor([0, len(r)]))
            for r in rings
        ]
        planted = planted.with_boundary_cells({name: blocks}, {name: b.fields})
    return planted


@pytest.mark.parametrize("name", list(SOUND))
def test_sound_meshes_are_left_as_they_are(name):
    again(SOUND[name])
    again(SOUND[name].to(dtype=torch.float32))


@pytest.mark.parametrize("name", list(SOUND))
def test_points_are_merged_and_dropped(name):
    mesh = SOUND[name]
    n, block = mesh.n_points, mesh.cells[0]
    flat = block.nodes.clone().reshape(-1)
    inner = torch.bincount(flat, minlength=n)
    for b in mesh.boundaries:
        inner[mesh.boundary_points(b)] = 0  # a named wall would stay as it is
    shared = int(inner.argmax())
    if int(inner.max()) == 0:
        pytest.skip("no point inside")
    flat[(flat == shared).nonzero()[-1]] = n
    points = torch.cat([mesh.points, mesh.points[[shared]] + 1e-13, mesh.points[:1] + 9])
    cells = Cells(block.type, flat.reshape(block.nodes.shape), block.offsets, block.face_offsets)
    planted = with_sides(dressed(mesh, points, cells, [shared, 0]), mesh)
    found = repair(planted)
    assert found.done == (
        "1 point merged with another at its place",
        "1 point of no cell dropped",
    )
    equal(found.mesh, mesh)
    again(found.mesh)


@pytest.mark.parametrize("name", list(SOUND))
def test_double_and_empty_cells_are_dropped(name):
    mesh = SOUND[name]
    cells = joined(mesh.cells[0], take(mesh.cells[0], torch.tensor([4])))
    more = []
    if name in ("triangle", "tetra", "surface of triangle"):
        k = cells.nodes.shape[1]
        far = torch.tensor([[0, *[mesh.n_points - 1] * (k - 1)]])
        cells, more = Cells(cells.type, torch.cat([cells.nodes, far])), [0]
    planted = with_sides(dressed(mesh, mesh.points, cells, [], [4, *more]), mesh)
    found = repair(planted)
    assert found.done[0] == "1 cell dropped: double" and len(found.done) == 1 + len(more)
    equal(found.mesh, mesh)
    again(found.mesh)


@pytest.mark.parametrize("name", [n for n in LINEAR if n != "polyhedron"])
def test_cells_listed_the_wrong_way_are_turned(name):
    mesh = SOUND[name]
    rows = torch.zeros(mesh.n_cells, dtype=torch.bool)
    rows[[1, 4]] = True
    planted = dressed(mesh, mesh.points, mirrored(mesh.cells[0], rows), [])
    found = repair(with_sides(planted, mesh))
    assert found.done == ("2 cells turned: listed the wrong way round",)
    equal(found.mesh, mesh, turned=True)
    assert check(found.mesh)["problems"] == []
    again(found.mesh)


@pytest.mark.parametrize("name", list(SURFACES))
def test_surfaces_are_wound_alike_and_outwards(name):
    mesh = SOUND[name]
    rows = torch.ones(mesh.n_cells, dtype=torch.bool)
    rows[[2, 30]] = False
    planted = dressed(mesh, mesh.points, mirrored(mesh.cells[0], rows), [])
    found = repair(planted)
    assert len(found.done) == 1 and "wound against" in found.done[0]
    assert check(found.mesh)["problems"] == []
    again(found.mesh)


def test_what_has_no_one_answer_is_left_and_said():
    tangled = MESHES["tangled"]
    assert repair(tangled).mesh is tangled  # turning what overlaps would hide it
    mesh = SOUND["quad"]
    flat = mesh.cells[0].nodes.clone().reshape(-1)
    flat[(flat == 5).nonzero()[-1]] = mesh.n_points
    points = torch.cat([mesh.points, mesh.points[[5]]])
    planted = dressed(mesh, points, Cells("quad", flat.reshape(-1, 4)), [6])
    found = repair(planted)  # the point's values are another's
    assert found.done == () and "fields differ" in found.left[0]
    twice = joined(mesh.cells[0], take(mesh.cells[0], torch.tensor([4])))
    found = repair(dressed(mesh, mesh.points, twice, [], [0]))
    assert found.done == () and "fields or types differ" in found.left[0]
    line = Mesh([[0.0, 0], [1, 0], [2, 0], [1, 1]], {"triangle": [[0, 2, 3], [0, 1, 2]]})
    found = repair(line)
    assert found.done == () and "1 cell without size left" in found.left[0]
    with pytest.raises(InputError, match="NaN"):
        repair(line.replace(points=line.points * torch.nan))
    with pytest.raises(InputError, match="leave nothing"):
        repair(Mesh([[0.0, 0], [1, 0]], {"triangle": [[0, 0, 1]]}))


def test_a_named_slit_is_not_closed():
    x = torch.tensor([[0, 0], [1, 0], [2, 0], [0, 1], [1, 1], [2, 1], [1, 0], [1, 1]]).double()
    mesh = Mesh(x, {"quad": [[0, 1, 4, 3], [6, 2, 5, 7]]})
    assert repair(mesh).mesh.n_points == 6
    slit = (mesh.faces.centre[:, 0] == 1).nonzero().flatten()
    found = repair(mesh.replace(boundaries={"plate": slit}))
    assert found.done == () and "named boundary" in found.left[0]


def test_a_series_and_a_sample_are_repaired_frame_by_frame():
    mesh = MESHES["isolated"]
    bare = Mesh(mesh.points, mesh.cells)
    p = torch.rand(3, mesh.n_points)
    series, done, _ = repaired(Series(bare, [0.0, 1.0, 2.0], {"p": p}))
    assert done == ["2 points of no cell dropped"]
    assert torch.equal(series.field("p"), p[:, [0, 2, 3, 4]])
    sample, done, _ = repaired(Sample({"a": bare, "b": SOUND["quad"]}, {"v": 1.0}))
    assert done == ["a: 2 points of no cell dropped"] and sample.parameters["v"] == 1.0
    with pytest.raises(InputError, match="moves"):
        repaired(Series(bare, [0.0], points=bare.points[None]))


@pytest.mark.parametrize("name", list(QUADRATIC))
def test_linear_cells_are_those_that_were_made_quadratic(name):
    mesh = SOUND[name]
    found = linearised(mesh)
    want = LINEAR[found.cells[0].type]
    assert torch.equal(found.points, want.points)
    assert torch.equal(found.cells[0].nodes, want.cells[0].nodes)
    assert torch.equal(found.point_fields["p"], mesh.point_fields["p"][: want.n_points])
    assert torch.equal(found.cell_fields["k"], mesh.cell_fields["k"])
    assert sides(found) == {
        k: {frozenset(s): q for s, q in v.items()} for k, v in sides(mesh).items()
    }
    assert linearised(found) is found
    p = torch.rand(2, mesh.n_points)
    series = linear(Series(mesh, [0.0, 1.0], {"w": p}))
    assert torch.equal(series.field("w"), p[:, : want.n_points])


def test_regions_and_places_in_the_file_go_along():
    mesh = MESHES["isolated"]
    both = joined(mesh.cells[0], take(mesh.cells[0], torch.tensor([0])))
    planted = Mesh(
        mesh.points,
        [both],
        regions={"a": torch.tensor([2, 1])},
        file_order=torch.tensor([2, 0, 1]),
        boundaries={"none": Boundary(torch.zeros(0, dtype=torch.int64))},
    )
    found = repair(planted).mesh
    assert found.regions["a"].tolist() == [1] and found.file_order.tolist() == [1, 0]
    assert len(found.boundaries["none"].faces) == 0
