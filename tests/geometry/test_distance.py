"""Distances and winding numbers: against formulas, slow oracles, invariances."""

import math

import numpy as np
import pytest
import torch

from meshsim.check import InputError
from meshsim.geometry import tree, winding
from meshsim.geometry.cells import Cells
from meshsim.geometry.distance import closest_points, signed_distances
from meshsim.geometry.tree import Surface
from meshsim.geometry.winding import winding_numbers
from tests.geometry.bodies import (
    all_distances,
    all_windings,
    box,
    circle,
    cylinder,
    rotation,
    sphere,
    spread,
)
from tests.helpers import DTYPES, MESHES

SIDES = torch.tensor([2.0, 1.0, 0.5]).double()


def grid(low, high, n, dim=3):
    axis = torch.linspace(low, high, n).double()
    return torch.stack(torch.meshgrid(*[axis] * dim, indexing="ij"), -1).reshape(-1, dim)


def to_box(q, sides):
    """The signed distance from a box about the origin."""
    d = q.abs() - sides / 2
    return d.clamp(min=0).norm(dim=1) + d.amax(1).clamp(max=0)


def corners_of(surface):
    return surface.pieces.points[surface.pieces.nodes].numpy()


@pytest.mark.parametrize("triangles", [False, True])
@pytest.mark.parametrize("n", [1, 5])
def test_a_box_is_exact(triangles, n):
    """Also in line with its sides, edges and corners, where points of grids like to lie."""
    surface = Surface(*box(tuple(SIDES.tolist()), n, triangles))
    q = torch.cat([spread(3000), grid(-2, 2, 17)])
    found = signed_distances(surface, q)
    exact = to_box(q, SIDES)
    assert (found.distance - exact).abs().max() < 4e-16
    assert ((q - found.points).norm(dim=1) - exact.abs()).abs().max() < 4e-16
    off = exact.abs() > 1e-12
    assert torch.equal(winding_numbers(surface, q[off]), (exact[off] < 0).double())


@pytest.mark.parametrize("level", [0, 2])
def test_a_polyhedron_is_exact(level):
    surface = Surface(*sphere(level))
    q = torch.cat([spread(400), 0.05 * spread(100), torch.zeros(1, 3).double()])
    found = closest_points(surface, q)
    every = all_distances(corners_of(surface), q.numpy())
    assert np.abs(found.distance.numpy() - every.min(1)).max() < 1e-15
    own = np.take_along_axis(every, found.face.numpy()[:, None], 1)[:, 0]
    assert np.abs(own - every.min(1)).max() < 1e-15  # the face is one of the nearest
    corners = surface.pieces.points[found.nodes]
    torch.testing.assert_close((corners * found.weights[:, :, None]).sum(1), found.points)
    assert found.weights.min() >= 0


def test_any_triangles_are_exact():
    """A thousandfold of sizes, some across all others, none belonging together; float32 far off."""
    generator = torch.Generator().manual_seed(1)
    size = 10 ** (3 * torch.rand(300, 1, 1, dtype=torch.float64, generator=generator) - 3)
    middle = torch.rand(300, 1, 3, dtype=torch.float64, generator=generator)
    x = middle + size * (torch.rand(300, 3, 3, dtype=torch.float64, generator=generator) - 0.5)
    for shift in (0.0, 1000.0):
        surface = Surface(
            (x + shift).reshape(-1, 3), [Cells("triangle", torch.arange(900).view(-1, 3))]
        )
        q = torch.cat([spread(300), x.mean(1)[:50], 1e6 * spread(5)]) + shift
        found = closest_points(surface, q)
        every = all_distances(x.numpy() + shift, q.numpy())
        close = 1e-15 * (1 + shift + q.abs().amax(1)).numpy()
        assert (np.abs(found.distance.numpy() - every.min(1)) < 8 * close).all()


def test_blocks_that_touch_know_their_inside():
    """Cubes on a lattice: edges of four faces, corners shared, queries in line with centres."""
    full = torch.zeros(7, 7, 7, dtype=torch.bool)
    full[1:6, 1:6, 1:6] = torch.rand(5, 5, 5, generator=torch.Generator().manual_seed(0)) < 0.4
    quads = []
    for axis in range(3):
        for sign in (1, -1):
            for cell in (full & ~full.roll(-sign, axis)).nonzero().tolist():
                low = list(cell)
                low[axis] += sign > 0
                u, v = [0, 0, 0], [0, 0, 0]
                u[(axis + 1) % 3], v[(axis + 2) % 3] = 1, 1
                ring = [
                    low,
                    *(
                        [a + b for a, b in zip(low, w, strict=True)]
                        for w in (u, [i + j for i, j in zip(u, v, strict=True)], v)
                    ),
                ]
                quads.append(ring if sign > 0 else ring[::-1])
    points, index = torch.unique(torch.tensor(quads).reshape(-1, 3), dim=0, return_inverse=True)
    surface = Surface(points.double(), [Cells("quad", index.reshape(-1, 4))])
    q = torch.cat([grid(0.5, 6.5, 7), grid(0.25, 6.75, 14)])
    inside = full[tuple(q.long().T)]
    assert torch.equal(winding_numbers(surface, q), inside.double())
    assert torch.equal(signed_distances(surface, q).distance < 0, inside)


def test_a_fine_sphere_comes_to_the_sphere():
    """A triangle of side h lies at most h² / 6 R below."""
    q = spread(2000)
    off = []
    for level in (2, 3, 4):
        found = signed_distances(Surface(*sphere(level)), q)
        off.append(float((found.distance - (q.norm(dim=1) - 1)).abs().max()))
    assert off[0] > 3.5 * off[1] > 12 * off[2] and off[2] < 2e-3


@pytest.mark.parametrize("dim", [2, 3])
def test_the_gradient_has_length_one(dim):
    surface = Surface(*(circle(40) if dim == 2 else sphere(2)))
    q = spread(500, dim)
    q = q[q.norm(dim=1) > 0.5]
    h = 1e-6
    steps = h * torch.eye(dim).double()
    gradient = torch.stack(
        [
            signed_distances(surface, q + s).distance - signed_distances(surface, q - s).distance
            for s in steps
        ],
        1,
    ) / (2 * h)
    found = signed_distances(surface, q)
    # Away from creases, where two faces inside are equally near.
    smooth = (gradient.norm(dim=1) - 1).abs() < 1e-6
    assert smooth.double().mean() > 0.99
    way = (q - found.points) / found.distance[:, None]
    clear = smooth & (found.distance.abs() > 1e-3)
    assert (gradient - way)[clear].abs().max() < 1e-5


def test_thin_and_degenerate_triangles_are_as_exact():
    """Needles a billionth as high as long, segments, points: distances known in closed form."""
    height = 1e-9
    points = torch.tensor(
        [[0, 0, 0], [1, 0, 0], [0.3, height, 0], [0.25, 0, 0], [5, 5, 5]], dtype=torch.float64
    )
    q = torch.tensor(
        [[0.3, 0, 1e-3], [0.3, 2e-9, 0], [0.7, -1, 0], [-3, 4, 0], [0.5, 0, 2], [1.5, 1, 0]],
        dtype=torch.float64,
    )
    needle = Surface(points, [Cells("triangle", torch.tensor([[2, 0, 1]]))])
    want = [1e-3, 1e-9, 1.0, 5.0, 2.0, 1.25**0.5]
    assert closest_points(needle, q).distance.tolist() == pytest.approx(want, rel=1e-12)
    flat = Surface(points, [Cells("triangle", torch.tensor([[0, 3, 1], [1, 1, 0], [0, 0, 1]]))])
    want[1] = 2e-9
    found = closest_points(flat, q)
    assert found.distance.tolist() == pytest.approx(want, rel=1e-12)
    assert torch.equal(found.normals, torch.zeros_like(found.normals))
    dot = Surface(points, [Cells("triangle", torch.tensor([[4, 4, 4]]))])
    assert closest_points(dot, q).distance.tolist() == pytest.approx(
        (q - 5).norm(dim=1).tolist(), rel=1e-14
    )
    assert winding_numbers(flat, q[2:]).abs().max() < 1e-15


def test_equally_near_faces_give_the_first():
    surface = Surface(*box((1.0, 1.0, 1.0)))
    found = closest_points(surface, torch.tensor([[0.0, 0, 0], [3, 3, 3], [2, 2, 0.2]]).double())
    assert found.face.tolist() == [0, 1, 1]


CLOSED = {
    "sphere": sphere(3),
    "box": box((2.0, 1.0, 0.5), 4),
    "cylinder": cylinder(24),
    "cube of triangles and quads": (MESHES["cube_surface"].points, MESHES["cube_surface"].cells),
    "circle": circle(60),
}


@pytest.mark.parametrize("name", CLOSED)
def test_winding_numbers_of_closed_surfaces(name):
    points, blocks = CLOSED[name]
    q = torch.cat([spread(300, points.shape[1]), grid(-1, 1, 5, points.shape[1])])
    surface = Surface(points, blocks)
    q = q[closest_points(surface, q).distance > 1e-9]
    found = winding_numbers(surface, q)
    assert (found - found.round()).abs().max() == 0 and set(found.tolist()) == {0.0, 1.0}
    assert np.abs(found.numpy() - all_windings(corners_of(surface), q.numpy())).max() < 1e-12


def opened(points, blocks, part):
    """Without every face whose number is a multiple of `part`, and the first third."""
    rows = torch.arange(len(blocks[0]))
    keep = (rows % part > 0) & (rows > len(rows) // 3)
    return points, [Cells(blocks[0].type, blocks[0].nodes[keep])]


@pytest.mark.parametrize("name", ["sphere", "box", "circle"])
def test_winding_numbers_of_open_surfaces_are_sums_of_angles(name):
    surface = Surface(*opened(*CLOSED[name], 7))
    q = torch.cat([spread(200, surface.dim), grid(-1, 1, 5, surface.dim)])
    q = q[closest_points(surface, q).distance > 1e-9]
    found = winding_numbers(surface, q)
    assert np.abs(found.numpy() - all_windings(corners_of(surface), q.numpy())).max() < 1e-12
    assert found.min() < 0.4 < found.max() < 1.0


def test_winding_numbers_go_smoothly_through_a_hole():
    points, blocks = sphere(3)
    middle = points[blocks[0].nodes].mean(1)
    surface = Surface(points, [Cells("triangle", blocks[0].nodes[middle[:, 0] < 0.7])])
    line = torch.zeros(2001, 3).double()
    line[:, 0] = torch.linspace(-0.9, 3, 2001)
    found = winding_numbers(surface, line)
    assert found.diff().max() < 0 and found.diff().min() > -4e-3  # falls without a jump
    assert found[0] > 0.95 and found[-1] < 0.05
    inside = signed_distances(surface, line).distance < 0
    assert inside.long().diff().abs().sum() == 1  # once, and in the hole
    assert 0.5 < float(line[inside][-1, 0]) < 0.9


def test_winding_numbers_add_up_and_turn_their_sign():
    a, b = sphere(2), box((3.0, 3.0, 3.0), 2, triangles=True)
    both = torch.cat([a[0], b[0] + 0.1]), [a[1][0], b[1][0].map(lambda t: t + len(a[0]))]
    q = spread(500)
    one, two = (winding_numbers(Surface(x, blocks), q) for x, blocks in (a, (b[0] + 0.1, b[1])))
    torch.testing.assert_close(winding_numbers(Surface(*both), q), one + two, rtol=0, atol=1e-14)
    back = opened(a[0], [Cells("triangle", a[1][0].nodes.flip(1))], 5)
    forth = opened(*a, 5)
    torch.testing.assert_close(
        winding_numbers(Surface(*back), q), -winding_numbers(Surface(*forth), q), rtol=0, atol=1e-14
    )


@pytest.mark.parametrize("dim", [2, 3])
def test_moved_turned_and_scaled_it_is_the_same(dim):
    points, blocks = opened(*(circle(50) if dim == 2 else sphere(2)), 9)
    q, turn = spread(400, dim), rotation(dim)
    base = signed_distances(Surface(points, blocks), q)
    w = winding_numbers(Surface(points, blocks), q)
    for scale, shift in ((1.0, 0.0), (1e-3, 0.0), (40.0, 7.0)):
        surface = Surface(scale * points @ turn.T + shift, blocks)
        there = scale * q @ turn.T + shift
        found = signed_distances(surface, there)
        assert (found.distance / scale - base.distance).abs().max() < 1e-14
        assert (winding_numbers(surface, there) - w).abs().max() < 1e-13
        assert (found.normals - base.normals @ turn.T)[found.face == base.face].abs().max() < 1e-13


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("tolerance", [0.3, 0.03])
def test_seen_from_afar_within_the_tolerance(dim, tolerance, monkeypatch):
    monkeypatch.setattr(winding, "RIM", -1)
    for points, blocks in (
        (circle(300) if dim == 2 else sphere(3)),
        opened(*(circle(300) if dim == 2 else sphere(3)), 2),
    ):
        surface = Surface(points, blocks)
        q = torch.cat([spread(200, dim), points[:50] * 1.001, 20 * spread(50, dim)])
        off = winding_numbers(surface, q, tolerance) - winding_numbers(surface, q)
        assert 0 < off.abs().max() < tolerance


def test_boxes_far_away_are_not_opened(monkeypatch):
    """Else the figure above would be met by the exact sum."""
    monkeypatch.setattr(winding, "RIM", -1)
    surface, looked = Surface(*sphere(4)), []
    angles = winding._angles
    monkeypatch.setattr(winding, "_angles", lambda x: (looked.append(len(x)), angles(x))[1])
    winding_numbers(surface, 3 * spread(100), 0.1)
    assert sum(looked) < 0.05 * 100 * len(surface)


def test_few_queries_at_once_give_the_same(monkeypatch):
    """In the middle of a sphere every face is about as near: the work is cut up."""
    surface = Surface(*opened(*sphere(4), 9))
    q = torch.cat([1e-3 * spread(40), spread(40)])
    base = signed_distances(surface, q)
    w, far = winding_numbers(surface, q), None
    monkeypatch.setattr(tree, "PAIRS", 256)
    found = signed_distances(surface, q)
    assert torch.equal(found.distance, base.distance) and torch.equal(found.face, base.face)
    assert torch.equal(winding_numbers(surface, q), w)
    monkeypatch.setattr(winding, "RIM", -1)
    far = winding_numbers(surface, q, 0.1)
    assert (far - w).abs().max() < 0.1


@pytest.mark.parametrize("dtype", DTYPES)
def test_types(dtype):
    points, blocks = sphere(2)
    q = spread(200).to(dtype)
    found = signed_distances(Surface(points.to(dtype), blocks), q)
    for values in (found.points, found.distance, found.normals, found.weights):
        assert values.dtype == dtype
    exact = signed_distances(Surface(points.to(dtype).double(), blocks), q.double())
    assert (found.distance - exact.distance).abs().max() < 4 * torch.finfo(dtype).eps
    assert torch.equal(found.face, exact.face)
    assert winding_numbers(Surface(points.to(dtype), blocks), q).dtype == dtype


def test_fields_are_interpolated_where_it_is_nearest():
    mesh = MESHES["cube_surface"]
    found = closest_points(Surface(mesh.points, mesh.cells), spread(100))
    torch.testing.assert_close(found.interpolate(mesh.points), found.points)
    with pytest.raises(InputError, match="`values`: expected 8 rows"):
        found.interpolate(mesh.points[:-1])


def test_the_outline_of_a_square():
    points = torch.tensor([[0.0, 0], [2, 0], [2, 1], [0, 1]]).double()
    curve = Surface(points, [Cells("line", torch.tensor([[0, 1], [1, 2], [2, 3], [3, 0]]))])
    q = torch.cat([spread(500, 2), grid(-1, 3, 17, 2)])
    exact = to_box(q - torch.tensor([1.0, 0.5]).double(), torch.tensor([2.0, 1.0]).double())
    found = signed_distances(curve, q)
    assert (found.distance - exact).abs().max() < 4e-16
    inside = exact < -1e-12
    assert torch.equal(
        winding_numbers(curve, q[exact.abs() > 1e-12]), inside[exact.abs() > 1e-12].double()
    )
    outward = found.normals[exact > 0.1] * (q - found.points)[exact > 0.1]
    assert outward.sum(1).min() > -1e-15


def test_an_open_arc_has_the_angle_it_is_seen_under():
    points, blocks = circle(400)
    arc = Surface(points, [Cells("line", blocks[0].nodes[:100])])  # a quarter
    q = torch.tensor([[0.0, 0.0], [-1.0, 0.0], [0.9, 0.9], [-5.0, 0.0]]).double()
    a, b = math.atan2(1, 5), 0.0
    want = [0.25, 0.125, (math.pi * 2 - 2 * math.atan2(0.9, 0.1) - math.pi / 2) / -(2 * math.pi)]
    found = winding_numbers(arc, q)
    assert found[:2].tolist() == pytest.approx(want[:2], abs=1e-14)
    assert float(found[3]) == pytest.approx((a - b) / (2 * math.pi), abs=1e-14)
    assert found.numpy() == pytest.approx(all_windings(corners_of(arc), q.numpy()), abs=1e-14)


def test_nothing_asked_and_bad_input():
    surface = Surface(*sphere(1))
    none = signed_distances(surface, torch.zeros(0, 3))
    assert none.distance.shape == (0,) and none.points.shape == (0, 3)
    assert winding_numbers(surface, torch.zeros(0, 3), 0.1).shape == (0,)
    with pytest.raises(InputError, match=r"`queries`: expected shape \(\*, 3\), got \(4, 2\)"):
        closest_points(surface, torch.zeros(4, 2))
    with pytest.raises(InputError, match="`queries`: 1 values are not finite"):
        winding_numbers(surface, torch.tensor([[0.0, 0.0, math.nan]]))
    with pytest.raises(InputError, match=r"`tolerance`: expected a number >= 0, got -1\.0"):
        winding_numbers(surface, torch.zeros(1, 3), -1.0)
    with pytest.raises(InputError, match="expected cells to measure to, got none"):
        Surface(torch.zeros(3, 3), [])
    with pytest.raises(InputError, match="expected 2-D cells on 3-D points, got 1-D"):
        Surface(torch.zeros(3, 3), [Cells("line", torch.tensor([[0, 1]]))])
    with pytest.raises(InputError, match="`points`: 9 values are not finite"):
        Surface(torch.full((3, 3), math.inf), [Cells("triangle", torch.tensor([[0, 0, 0]]))])
    one = Surface(torch.eye(3), [Cells("triangle", torch.tensor([[0, 1, 2]]))])
    assert closest_points(one, torch.zeros(1, 3)).distance.tolist() == pytest.approx([3**-0.5])
