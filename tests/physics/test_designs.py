"""Coefficients, shadows and how designs are ranked."""

import math
from itertools import pairwise

import pytest
import scipy.stats
import torch
import trimesh

from meshsim.check import InputError
from meshsim.geometry.cells import Cells
from meshsim.geometry.measure import cell_normals
from meshsim.physics.designs import (
    coefficients,
    frontal_area,
    r_squared,
    spearman,
    weighted_relative_l2,
)
from meshsim.physics.forces import Forces, forces
from tests.helpers import MESHES, polygons


def body(mesh, shift=(0.0, 0.0, 0.0)):
    x = torch.tensor(mesh.vertices) + torch.tensor(shift)
    return x, Cells("triangle", torch.tensor(mesh.faces))


def together(*bodies):
    """Several bodies as one surface."""
    first, points, cells = 0, [], []
    for x, block in bodies:
        cells.append(Cells(block.type, block.nodes + first))
        points.append(x)
        first += len(x)
    return torch.cat(points), cells


SPHERE = body(trimesh.creation.icosphere(subdivisions=3))
BOX = body(trimesh.creation.box(extents=(1.0, 2.0, 3.0)))
DIRECTIONS = [(1.0, 0.0, 0.0), (0.0, 0.0, -2.0), (1.0, 1.0, 0.0), (0.3, -0.5, 0.9)]


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("x_block", [SPHERE, BOX], ids=["sphere", "box"])
def test_a_convex_body_shows_half_of_what_its_faces_show(x_block, direction):
    """½ Σ |n·d| dA is exact for it alone, Cauchy; the shadow comes to it."""
    x, block = x_block
    d = torch.tensor(direction).double()
    want = float((cell_normals(x, [block]) @ (d / d.norm())).abs().sum() / 2)
    off = [abs(frontal_area(x, [block], direction, rows) / want - 1) for rows in (32, 1024)]
    assert off[0] < 3e-3 and off[1] < 1e-5
    assert abs(frontal_area(x.float(), [block], direction) / want - 1) < 1e-5


def test_the_sphere_shows_its_disc():
    off = []
    for level in (2, 3, 4):
        x, block = body(trimesh.creation.icosphere(subdivisions=level))
        off.append(math.pi - frontal_area(x, [block], (1.0, 2.0, -1.0)))
    rates = [math.log2(a / b) for a, b in pairwise(off)]
    assert all(1.8 < rate < 2.2 for rate in rates) and 0 < off[-1] < 0.01


def test_the_error_falls_with_the_square_of_the_rows():
    """On a box seen from a corner, whose outline has no edge along the rows."""
    x, block = BOX
    d = torch.tensor([1.0, 1.0, 1.0]).double()
    want = float((cell_normals(x, [block]) @ (d / d.norm())).abs().sum() / 2)
    off = [
        sum((frontal_area(x, [block], (1.0, 1.0, 1.0), n + k) - want) ** 2 for k in range(20))
        for n in (100, 400, 1600)
    ]
    assert all(8 < math.sqrt(a / b) < 32 for a, b in pairwise(off)), off


def test_what_is_behind_counts_once():
    x, block = BOX
    behind = together(BOX, (x + torch.tensor([5.0, 0.0, 0.0]), block))
    assert abs(frontal_area(*behind, (1.0, 0.0, 0.0)) - 6) < 1e-5
    shifted = together(BOX, (x + torch.tensor([5.0, 0.5, 1.0]), block))
    assert abs(frontal_area(*shifted, (1.0, 0.0, 0.0)) - (6 + 6 - 1.5 * 2)) < 2e-5
    apart = together(BOX, (x + torch.tensor([0.0, 9.0, 9.0]), block))
    assert abs(frontal_area(*apart, (1.0, 0.0, 0.0)) - 12) < 3e-4
    inside = together(SPHERE, (SPHERE[0] * 0.3, SPHERE[1]))
    assert frontal_area(*inside, (0.0, 1.0, 0.0)) == pytest.approx(
        frontal_area(SPHERE[0], [SPHERE[1]], (0.0, 1.0, 0.0)), abs=1e-12
    )


def test_holes_are_seen_through():
    ring = trimesh.creation.annulus(r_min=0.5, r_max=1.0, height=0.3, sections=64)
    x, block = body(ring)
    want = 32 * math.sin(2 * math.pi / 64) * (1 - 0.25)
    assert abs(frontal_area(x, [block], (0.0, 0.0, 1.0)) / want - 1) < 1e-4


def test_winding_cells_and_openness_do_not_matter():
    mesh = MESHES["cube_surface"]
    want = 1.0
    d = (0.0, 1.0, 0.0)
    assert abs(frontal_area(mesh.points, mesh.cells, d) - want) < 1e-5
    flipped = [Cells(b.type, b.nodes.flip(1)) for b in mesh.cells]
    assert abs(frontal_area(mesh.points, flipped, d) - want) < 1e-5
    angle = torch.arange(7).double() * 2 * math.pi / 7
    ring = torch.stack([angle.cos(), angle.sin(), 0.2 * (2 * angle).cos()], 1)
    seen = frontal_area(ring, [polygons([list(range(7))])], (0.0, 0.0, 1.0))
    assert abs(seen / (3.5 * math.sin(2 * math.pi / 7)) - 1) < 1e-5


def test_nothing_and_what_is_seen_edge_on_show_nothing():
    x, block = BOX
    assert frontal_area(x, [], (1.0, 0.0, 0.0)) == 0.0
    assert frontal_area(x * torch.tensor([1.0, 1.0, 0.0]), [block], (1.0, 0.0, 0.0)) < 1e-12
    assert frontal_area(0 * x, [block], (1.0, 0.0, 0.0)) == 0.0


def test_in_the_plane_the_shadow_is_a_length():
    x = torch.tensor([[0.0, 0.0], [3.0, 0.0], [3.0, 1.0], [0.0, 1.0], [5.0, 0.5], [5.0, 4.0]])
    lines = [Cells("line", torch.tensor([[0, 1], [1, 2], [2, 3], [3, 0], [4, 5]]))]
    assert frontal_area(x, lines, (1.0, 0.0)) == 4.0
    assert frontal_area(x, lines, (0.0, -1.0)) == 3.0


def test_large_surfaces_are_crossed_piece_by_piece():
    """More pairs of triangle and row than are held at once."""
    x, block = body(trimesh.creation.icosphere(subdivisions=5))
    want = float((cell_normals(x, [block])[:, 0]).abs().sum() / 2)
    assert abs(frontal_area(x, [block], (1.0, 0.0, 0.0), rows=3000) / want - 1) < 1e-5


def test_coefficients_of_a_car_and_of_a_wing():
    f = Forces(
        torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.5, 0.0, 0.0]), torch.tensor([4.0, 5.0, 6.0])
    )
    got = coefficients(f, 2.0, 3.0, 4.0, length=0.5)
    q = 0.5 * 2 * 9 * 4
    want = {"drag": 1.5, "lift": 3, "side": 2, "roll": 8, "pitch": 10, "yaw": 12}
    assert {k: float(v) * q for k, v in got.items()} == pytest.approx(want)
    assert set(coefficients(f, 2.0, 3.0, 4.0)) == {"drag", "lift", "side"}
    a = 0.2  # turned with the wind, the size of the force stays
    turned = coefficients(
        f,
        2.0,
        3.0,
        4.0,
        drag=(math.cos(a), 0.0, math.sin(a)),
        lift=(-math.sin(a), 0.0, math.cos(a)),
    )
    assert float(turned["side"]) == pytest.approx(2 / q)
    assert sum(float(v) ** 2 for v in turned.values()) == pytest.approx((2.25 + 4 + 9) / q**2)


def test_pitch_is_positive_nose_up_in_space_and_in_the_plane():
    """A lifting force upstream of the centre: the same panel in 2-D and, of unit span, in 3-D."""
    x = torch.tensor([[-1.0, 0.0], [-0.5, 0.0]]).double()
    panel = [Cells("line", torch.tensor([[0, 1]]))]  # its normal points down, pressure lifts
    flat = coefficients(
        forces(x, panel, torch.ones(1).double(), on="cell"), 1.0, 1.0, 1.0, length=1.0
    )
    deep = torch.tensor([[-1.0, 0, 0], [-1.0, 1, 0], [-0.5, 1, 0], [-0.5, 0, 0]]).double()
    face = [Cells("quad", torch.tensor([[0, 1, 2, 3]]))]
    solid = forces(deep, face, torch.ones(1).double(), on="cell", centre=(0.0, 0.5, 0.0))
    space = coefficients(solid, 1.0, 1.0, 1.0, length=1.0)
    assert float(flat["lift"]) == 1.0 and float(flat["pitch"]) == 0.75
    assert float(space["lift"]) == 1.0 and float(space["pitch"]) == 0.75
    assert float(space["roll"]) == 0.0 and set(flat) == {"drag", "lift", "pitch"}


def test_coefficients_keep_the_gradient():
    p = torch.ones(len(SPHERE[0])).double().requires_grad_()
    coefficients(forces(SPHERE[0], [SPHERE[1]], p), 1.0, 1.0, 1.0)["drag"].backward()
    assert p.grad is not None and bool((p.grad != 0).any())


def test_weighted_error():
    torch.manual_seed(0)
    t, p = torch.randn(50, 3), torch.randn(50, 3)
    plain = float((p - t).double().norm() / t.double().norm())
    assert weighted_relative_l2(t, p, torch.full((50,), 0.1)) == pytest.approx(plain, rel=1e-6)
    twice = torch.cat([t, t[:10]]), torch.cat([p, p[:10]])  # a value twice, or of double weight
    weights = torch.ones(50)
    weights[:10] = 2
    want = weighted_relative_l2(*twice, torch.ones(60))
    assert weighted_relative_l2(t, p, weights) == pytest.approx(want, rel=1e-12)
    assert weighted_relative_l2(t, t, weights) == 0.0
    assert weighted_relative_l2(0 * t, p, weights) == math.inf
    assert weighted_relative_l2(t[:0], p[:0], weights[:0]) == 0.0
    with pytest.raises(InputError, match=r"`weights`: expected 50 rows .*got 49"):
        weighted_relative_l2(t, p, weights[1:])
    with pytest.raises(InputError, match="`weights`: expected none below 0, got -2"):
        weighted_relative_l2(t, p, -weights)


def test_r_squared_knows_the_mean_and_the_truth():
    torch.manual_seed(1)
    t = torch.randn(20)
    assert r_squared(t, t) == 1.0
    assert r_squared(t, t.mean().expand(20)) == pytest.approx(0, abs=1e-6)
    # Of a least-squares line it is the square of the correlation.
    x = t + torch.randn(20)
    slope, rest, r, *_ = scipy.stats.linregress(x.numpy(), t.numpy())
    assert r_squared(t, slope * x + rest) == pytest.approx(r**2, rel=1e-5)
    assert math.isnan(r_squared(torch.ones(3), torch.ones(3)))
    assert math.isnan(r_squared(t[:0], t[:0]))


def test_spearman_sees_the_order_only():
    torch.manual_seed(2)
    a, b = torch.randn(30), torch.randn(30)
    assert spearman(a, a.exp()) == 1.0 and spearman(a, -(a**3)) == -1.0
    assert spearman(a, b) == pytest.approx(spearman(b, a.exp()), abs=1e-15)
    ties = torch.randint(0, 5, (30,)).double(), torch.randint(0, 5, (30,)).double()
    assert spearman(*ties) == pytest.approx(scipy.stats.spearmanr(*ties).statistic, abs=1e-14)
    assert math.isnan(spearman(a, torch.ones(30))) and math.isnan(spearman(a[:0], b[:0]))
    with pytest.raises(InputError, match="`prediction`: 1 values are not finite"):
        spearman(a, torch.where(a == a.max(), math.nan, b))


def test_bad_input_is_named():
    f = Forces(torch.ones(3), torch.ones(3), torch.ones(3))
    with pytest.raises(InputError, match="`speed`: expected a positive number, got 0"):
        coefficients(f, 1.0, 0.0, 1.0)
    with pytest.raises(
        InputError, match=r"`lift`: expected a direction across drag, got 0\.707 along"
    ):
        coefficients(f, 1.0, 1.0, 1.0, lift=(1.0, 0.0, 1.0))
    with pytest.raises(InputError, match=r"`drag`: expected shape \(3\), got \(2,\)"):
        coefficients(f, 1.0, 1.0, 1.0, drag=(1.0, 0.0))
    with pytest.raises(InputError, match="`direction`: expected a direction, got"):
        frontal_area(BOX[0], [BOX[1]], (0.0, 0.0, 0.0))
    with pytest.raises(InputError, match="`rows`: expected at least 1, got 0"):
        frontal_area(BOX[0], [BOX[1]], (1.0, 0.0, 0.0), 0)
    with pytest.raises(InputError, match="`points`: 1 values are not finite"):
        frontal_area(torch.tensor([[0.0, 0.0], [1.0, math.inf]]), [], (1.0, 0.0))
