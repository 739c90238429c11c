"""Clouds: places in the body's frame, features with the signs and units they claim."""

import math

import pytest
import torch

from meshsim.body import oriented
from meshsim.check import InputError
from meshsim.clouds import Frame, check_rows, cloud, place_features, place_of, target
from meshsim.mesh import Mesh
from meshsim.potential import Potential, flow_about, on_surface, thinned


def sphere(n=12, radius=1.0, shift=(0.0, 0.0, 0.0), inwards=False):
    """Quads and triangles by latitude, normals outwards unless asked otherwise."""
    theta = torch.linspace(0, math.pi, n + 1).double()[1:-1]
    phi = torch.arange(2 * n).double() * math.pi / n
    x = theta.cos()[:, None].expand(-1, 2 * n)
    y, z = theta.sin()[:, None] * phi.cos(), theta.sin()[:, None] * phi.sin()
    poles = torch.tensor([[1.0, 0.0, 0.0], [-1.0, 0, 0]]).double()
    unit = torch.cat([poles, torch.stack([x, y, z], 2).reshape(-1, 3)])

    def at(i, j):
        return 2 + 2 * n * i + j % (2 * n)

    quads = [
        [at(i, j), at(i + 1, j), at(i + 1, j + 1), at(i, j + 1)]
        for i in range(n - 2)
        for j in range(2 * n)
    ]
    caps = [[0, at(0, j), at(0, j + 1)] for j in range(2 * n)]
    caps += [[1, at(n - 2, j + 1), at(n - 2, j)] for j in range(2 * n)]
    cells = {"quad": torch.tensor(quads), "triangle": torch.tensor(caps)}
    if inwards:
        cells = {name: nodes.flip(1) for name, nodes in cells.items()}
    return Mesh(radius * unit + torch.tensor(shift).double(), cells)


def circle(n=40, clockwise=False):
    angle = torch.arange(n).double() * 2 * math.pi / n
    angle = -angle if clockwise else angle
    points = torch.stack([3 + angle.cos(), angle.sin()], 1)
    ends = torch.stack([torch.arange(n), (torch.arange(n) + 1) % n], 1)
    return Mesh(points, {"line": ends})


@pytest.mark.parametrize("inwards", [False, True])
@pytest.mark.parametrize("location", ["point", "cell"])
def test_normals_of_a_sphere_look_outwards_however_it_is_wound(location, inwards):
    body = sphere(inwards=inwards)
    curvature = cloud(body, location, ["curvature"], body).features["curvature"]
    assert float(curvature.median()) == pytest.approx(1.0, abs=0.1)
    made = cloud(body, location, ["normal", "box_position", "box_size"], body)
    out = made.pos / made.pos.norm(dim=1, keepdim=True)
    assert float((made.features["normal"] * out).sum(1).min()) > 0.97
    torch.testing.assert_close(made.features["box_position"], made.pos, rtol=0.0, atol=0.03)


@pytest.mark.parametrize("clockwise", [False, True])
@pytest.mark.parametrize("location", ["point", "cell"])
def test_normals_of_a_curve_look_outwards_however_it_is_wound(clockwise, location):
    body = circle(clockwise=clockwise)
    made = cloud(body, location, ["normal"], body)
    out = made.pos - torch.tensor([3.0, 0.0]).double()
    out = out / out.norm(dim=1, keepdim=True)
    torch.testing.assert_close(made.features["normal"], out, rtol=0.0, atol=1e-12)


def test_a_volume_is_seen_in_the_frame_of_the_body():
    body = sphere(radius=2.0, shift=(5.0, 0.0, 0.0))
    volume = Mesh([[5.0, 0.0, 2.0], [9.0, 0.0, 0.0], [5.0, 4.0, 0.0], [5.0, 0.0, 6.0]],
                  {"tetra": [[0, 1, 2, 3]]})  # fmt: skip
    found = cloud(volume, "point", ["box_position"], body).features["box_position"]
    expected = torch.tensor([[0.0, 0.0, 1.0], [2.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 3.0]])
    torch.testing.assert_close(found, expected.double(), rtol=0.0, atol=1e-9)


def test_frames():
    bodies = [sphere(radius=r, shift=(x, 1.0, 0.0)).points for r, x in ((1.0, 0.0), (3.0, 10.0))]
    frame = Frame.of(bodies, ["x", "z"], scaled=False)
    assert frame.length == pytest.approx(2.0)
    origin, length = frame.of_body(bodies[1] + torch.tensor([7.0, 7.0, 7.0]))
    # along y the place counts as it is
    torch.testing.assert_close(origin, torch.tensor([17.0, 1.0, 7.0]).double())
    assert length == frame.length
    assert Frame.of(bodies, ["x", "z"], scaled=True).of_body(bodies[1])[1] == pytest.approx(3.0)
    assert Frame(**frame.to_dict()) == Frame(**frame.to_dict())
    with pytest.raises(InputError, match="length"):
        Frame(length=0.0)
    with pytest.raises(InputError, match="axis"):
        Frame(centred=["w"])


@pytest.mark.parametrize("inwards", [False, True])
def test_potential_flow_past_a_sphere(inwards):
    """cp = 1 − 9/4 sin² θ and speed 3/2 sin θ (Lamb, Hydrodynamics, §91), also wound inside out."""
    body = sphere(16, radius=0.7, inwards=inwards)
    places = sphere(9, radius=0.7).points
    normals = places / 0.7
    found = on_surface(body, Potential([2.0, 0.0, 0.0]), places, normals)
    sine2 = 1 - normals[:, 0] ** 2
    assert float((found[:, 0] - (1 - 2.25 * sine2)).abs().max()) < 0.12
    assert float((found[:, 1:].norm(dim=1) - 1.5 * sine2.sqrt()).abs().max()) < 0.1


def test_potential_features_of_a_mirrored_body_are_mirrored():
    body = Mesh(sphere().points * torch.tensor([1.0, 0.6, 0.4]) + torch.tensor([0, 0, 0.1]),
                sphere().cells)  # fmt: skip
    flip = torch.tensor([1.0, -1.0, 1.0]).double()
    image = Mesh(body.points * flip, {b.type: b.nodes.flip(1) for b in body.cells})
    which = Potential([1.0, 0.0, 0.0], ["z", -0.5])
    names = ["potential_cp", "potential_velocity"]
    a, b = (cloud(m, "point", names, m, which).features for m in (body, image))
    torch.testing.assert_close(a["potential_cp"], b["potential_cp"], rtol=0.0, atol=1e-6)
    velocity = "potential_velocity"
    torch.testing.assert_close(a[velocity] * flip, b[velocity], rtol=0.0, atol=1e-6)


def test_a_fine_surface_is_thinned_out_for_the_panels():
    body = sphere(40)
    points, (block,) = thinned(body, 1000)
    triangles = block.nodes
    assert 500 <= len(triangles) <= 1100
    volume = torch.einsum(
        "ti,ti->t",
        points[triangles[:, 0]],
        torch.linalg.cross(points[triangles[:, 1]], points[triangles[:, 2]]),
    )
    assert float(volume.sum() / 6) == pytest.approx(4 * math.pi / 3, rel=0.02)
    whole, coarse = (
        on_surface(body, Potential([1.0, 0.0, 0.0], panels=n), body.points, body.points)
        for n in (100_000, 1000)
    )
    assert float((whole - coarse).abs().mean()) < 0.05


def test_what_cannot_be_had_is_named():
    body = sphere()
    with pytest.raises(InputError, match="unknown feature 'colour'"):
        cloud(body, "point", ["colour"], body)
    with pytest.raises(InputError, match=r"needs \[surrogate.potential"):
        cloud(body, "point", ["potential_cp"], body)
    with pytest.raises(InputError, match="lacks the cell field"):
        target(body, "cell", "p", "sample 'a'")
    with pytest.raises(InputError, match="missing"):
        place_of(body, "p", "sample 'a'")
    both = body.with_fields(
        point={"p": torch.zeros(body.n_points)}, cell={"p": torch.zeros(body.n_cells)}
    )
    with pytest.raises(InputError, match="at points and in cells"):
        place_of(both, "p", "sample 'a'")
    for wrong in ({"direction": [0.0, 0.0, 0.0]}, {"direction": [1.0]},
                  {"direction": [1.0, 0.0, 0.0], "ground": ["q", 1.0]},
                  {"direction": [1.0, 0.0, 0.0], "panels": 2}):  # fmt: skip
        with pytest.raises(InputError):
            Potential(**wrong)


NEAR = ["distance", "closest_point", "boundary_layer"]


def places(dim, dtype=torch.float64, n=200, seed=0):
    x = torch.rand(n, dim, generator=torch.Generator().manual_seed(seed)).double()
    return (4 * x - 2).to(dtype)


@pytest.mark.parametrize("dim", [2, 3])
def test_distances_from_a_round_body_are_those_of_the_radius_to_the_chords_error(dim):
    """d − (|x| − r) is above 0 and falls fourfold when the sides are halved."""
    x = places(dim)
    errors = []
    for n in (10, 20, 40):
        body = sphere(n) if dim == 3 else circle(2 * n)
        x_of = x + torch.tensor([3.0, 0.0]).double() if dim == 2 else x
        found, _ = place_features(x_of, NEAR, body)
        off = found["distance"][:, 0] - (x.norm(dim=1) - 1)
        assert float(off.min()) > -1e-9
        errors.append(float(off.max()))
        length = found["closest_point"].norm(dim=1)
        torch.testing.assert_close(length, found["distance"][:, 0].abs(), rtol=0.0, atol=1e-9)
        ends, _ = place_features(x_of + found["closest_point"], NEAR, body)
        assert float(ends["distance"].abs().max()) < 1e-9
        assert float((ends["boundary_layer"] - 1).abs().max()) < 1e-6
    assert 3.5 < errors[0] / errors[1] < 4.5 and 3.5 < errors[1] / errors[2] < 4.5


@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("dim", [2, 3])
def test_mirrored_distances_are_those_of_the_mirrored_body(dim, dtype, near):
    body = sphere(8, shift=(0.3, 0.2, 0.1)) if dim == 3 else circle(15)
    flip = torch.tensor([1.0, -1.0, 1.0]).double()[:dim]
    image = Mesh(body.points * flip, body.cells)
    x = places(dim, dtype)
    a, _ = place_features(x, NEAR, body)
    b, _ = place_features(x * flip.to(dtype), NEAR, image)
    for name in NEAR:
        assert a[name].dtype == dtype
        sign = flip.to(dtype) if name == "closest_point" else 1.0
        torch.testing.assert_close(a[name] * sign, b[name], rtol=0.0, atol=near)


def test_scaled_bodies_have_the_same_distances_in_their_own_unit():
    x = places(3)
    a, _ = place_features(x, NEAR, sphere(8), unit=1.0)
    b, _ = place_features(1000 * x, NEAR, sphere(8, radius=1000.0), unit=1000.0)
    for name in NEAR:
        torch.testing.assert_close(a[name], b[name], rtol=0.0, atol=1e-9)


def test_walls_are_the_nearest_pieces():
    body, x = sphere(8), places(3)
    found, walls = place_features(x, NEAR, body, walls=True)
    from meshsim.physics.walls import squared_distance

    square = squared_distance(x, walls, torch.arange(len(x)))
    torch.testing.assert_close(square.sqrt(), found["distance"][:, 0].abs())


def test_distances_of_no_places_and_of_no_surface():
    empty, _ = place_features(torch.zeros(0, 3), NEAR, sphere(5))
    assert [v.shape for v in empty.values()] == [(0, 1), (0, 3), (0, 1)]
    solid = Mesh([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], {"triangle": [[0, 1, 2]]})
    with pytest.raises(InputError, match="expected a body, a surface in 3-D or a closed curve"):
        cloud(solid, "point", ["distance"], solid)


def some_turned(body, which):
    cells, first = [], 0
    for block in body.cells:
        rows = torch.isin(torch.arange(first, first + len(block)), which)
        first += len(block)
        cells.append((block.type, torch.where(rows[:, None], block.nodes.flip(1), block.nodes)))
    return Mesh(body.points, dict(cells))


def test_faces_wound_against_the_others_are_turned():
    body = sphere(8)
    assert oriented(body) is body
    for which in (torch.tensor([5, 40, 100]), torch.arange(body.n_cells)):
        for location in ("point", "cell"):
            a = cloud(body, location, ["normal", "curvature"], body).features
            b = cloud(some_turned(body, which), location, ["normal", "curvature"], body).features
            for name in a:
                torch.testing.assert_close(a[name], b[name], rtol=0.0, atol=1e-12)


def test_faces_that_share_no_points_are_turned_too():
    body = some_turned(sphere(8), torch.tensor([5, 40, 100]))
    rings = [body.points[block.nodes] for block in body.cells]
    cells, first = {}, 0
    for block, corners in zip(body.cells, rings, strict=True):
        count = corners.shape[0] * corners.shape[1]
        cells[block.type] = (first + torch.arange(count)).reshape(corners.shape[:2])
        first += count
    loose = Mesh(torch.cat([c.flatten(0, 1) for c in rings]), cells)
    a, b = (cloud(m, "cell", ["normal"], m).features["normal"] for m in (sphere(8), loose))
    torch.testing.assert_close(a, b, rtol=0.0, atol=1e-12)


def test_a_part_that_is_inside_out_is_turned():
    one, two = sphere(6), sphere(6, radius=0.5, shift=(3.0, 0.0, 0.0))
    cells = {}
    for a, b in zip(one.cells, two.cells, strict=True):
        cells[a.type] = torch.cat([a.nodes, (b.nodes + one.n_points).flip(1)])
    both = Mesh(torch.cat([one.points, two.points]), cells)
    out = cloud(both, "point", ["normal"], both).features["normal"]
    middle = torch.tensor([3.0, 0.0, 0.0]).double()
    assert float((out[one.n_points :] * (two.points - middle)).sum(1).min()) > 0
    assert float((out[: one.n_points] * one.points).sum(1).min()) > 0


def test_segments_wound_against_the_others_are_turned():
    body = circle(20)
    mixed = some_turned(body, torch.tensor([3, 4, 11]))
    for location in ("point", "cell"):
        a, b = (cloud(m, location, ["normal"], m).features["normal"] for m in (body, mixed))
        torch.testing.assert_close(a, b, rtol=0.0, atol=1e-12)


def test_polygons_are_turned():
    corners = [[x, y, z] for x in (0.0, 1.0) for y in (0.0, 1.0) for z in (0.0, 1.0)]
    faces = [[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]]
    from meshsim.mesh import Cells

    def cube(faces):
        nodes = torch.tensor(faces).flatten()
        return Mesh(corners, [Cells("polygon", nodes, torch.arange(7) * 4)])

    mixed = cube([f[::-1] if i in (1, 4) else f for i, f in enumerate(faces)])
    out = mixed.cell_centres - 0.5
    for mesh in (mixed, cube([f[::-1] for f in faces])):
        found = cloud(mesh, "cell", ["normal"], mesh).features["normal"]
        torch.testing.assert_close(found, 2 * out, rtol=0.0, atol=1e-12)


def test_a_body_across_the_ground_is_said_with_the_way_out():
    body = sphere(6, shift=(0.0, 0.0, 0.8))
    flow = Potential((1.0, 0.0, 0.0), ("z", 0.0))
    with pytest.raises(InputError, match=r"z = -0\.2 to 1\.8.*move it by 0\.2 along z"):
        cloud(body, "cell", ["potential_cp"], body, flow)
    standing = sphere(12, shift=(0.0, 0.0, 1.0))  # it touches, and is thinned out
    flow = Potential((1.0, 0.0, 0.0), ("z", 0.0), panels=100)
    made = cloud(standing, "cell", ["potential_cp"], standing, flow)
    assert torch.isfinite(made.features["potential_cp"]).all()


def test_values_that_are_not_finite_are_counted_by_places():
    values = torch.ones(5, 2)
    values[1] = math.nan
    values[3, 1] = math.inf
    with pytest.raises(InputError, match=r"x is not finite .* at 2 of 5 points, the first 1"):
        check_rows(values, "x", "point")
    check_rows(torch.zeros(0, 2), "x", "point")


def with_flat_faces(body, count=7):
    """The body with faces of no area: an edge there and back, and three points on a line."""
    cells = {b.type: b.nodes for b in body.cells}
    some = cells["triangle"][:count]
    middle = body.points[some[:, :2]].mean(1)
    flat = torch.stack([some[:, 0], some[:, 1], some[:, 1]], 1)
    line = torch.stack([some[:, 0], body.n_points + torch.arange(count), some[:, 1]], 1)
    cells["triangle"] = torch.cat([cells["triangle"], flat, line])
    return Mesh(torch.cat([body.points, middle]), cells)


@pytest.mark.parametrize("panels", [100_000, 1000])
def test_faces_without_area_change_no_potential_flow(panels):
    body = sphere(16 if panels > 1000 else 30)
    which = Potential([1.0, 0.0, 0.0], panels=panels)
    odd = with_flat_faces(body)
    a, b = (on_surface(m, which, body.points, body.points) for m in (body, odd))
    torch.testing.assert_close(a, b, rtol=0.0, atol=1e-6)


def test_faces_that_meeting_points_make_flat_are_left_out():
    body = sphere(30)
    nodes = thinned(body, 10**6)[1]
    assert sum(len(b) for b in nodes) == body.n_cells
    x = body.points.clone()
    quads = next(b.nodes for b in body.cells if b.type == "quad")
    x[quads[100:110, 0]] = x[quads[100:110, 1]]
    found = on_surface(Mesh(x, body.cells), Potential([1.0, 0.0, 0.0], panels=1000), x, x)
    assert torch.isfinite(found).all()


def test_a_body_that_few_faces_of_area_are_left_of_is_not_thinned():
    for body in (sphere(8), sphere(8, inwards=True)):
        count = sum(len(b) * (b.nodes.shape[1] - 2) for b in body.cells)
        points, cells = thinned(with_flat_faces(body), count)
        assert torch.equal(points[: body.n_points], body.points)
        assert all(int(b.nodes.max()) < body.n_points for b in cells)


def test_the_flow_is_of_the_cells_not_of_the_points_alone():
    which, body = Potential([1.0, 0.0, 0.0]), sphere(8)
    whole = flow_about(body, which)
    assert flow_about(body.with_fields({"p": body.points[:, 0]}), which) is whole
    half = Mesh(body.points, {"quad": next(b.nodes for b in body.cells if b.type == "quad")[:40]})
    assert len(flow_about(half, which).panels.area) == 40
    assert len(flow_about(body, which).panels.area) == body.n_cells


@pytest.mark.parametrize(
    "wrong",
    [
        {"direction": ["a", 0.0, 1.0]},
        {"direction": [math.nan, 0.0, 1.0]},
        {"direction": "xyz"},
        {"direction": 3.0},
        {"direction": [1.0, 0.0, 0.0], "ground": ["y", "a"]},
        {"direction": [1.0, 0.0, 0.0], "ground": ["y", math.inf]},
        {"direction": [1.0, 0.0, 0.0], "ground": 2.0},
        {"direction": [1.0, 0.0, 0.0], "panels": 30.5},
        {"direction": [1.0, 0.0, 0.0], "panels": "many"},
    ],
)
def test_a_flow_is_of_finite_numbers(wrong):
    with pytest.raises(InputError, match=r"potential\."):
        unchecked = object.__new__(Potential)  # as without the types that tests assert
        unchecked.__dict__.update({"ground": (), "panels": 3000, **wrong})
        unchecked.__post_init__()


def test_places_are_within_the_box_of_the_points_that_cells_use():
    body = sphere(8)
    loose = Mesh(torch.cat([body.points, torch.tensor([[50.0, 0.0, 0.0]]).double()]), body.cells)
    assert torch.equal(loose.box, body.box)
    a, b = (cloud(m, "point", ["box_position", "box_size"], m).features for m in (body, loose))
    for name in a:
        assert torch.equal(a[name], b[name][:-1])
