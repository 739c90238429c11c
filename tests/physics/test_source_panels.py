"""Panels of constant source: solid angles, spheres and ellipsoids, mirrors, imperfect surfaces."""

import math
from itertools import pairwise

import pytest
import torch

from meshsim.check import InputError
from meshsim.geometry.cells import Cells
from meshsim.geometry.measure import cell_centres
from meshsim.physics import source_panels
from meshsim.physics.source_panels import flat_panels, influence, solve
from tests.helpers import polygons

WIND = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)


def ball(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The unit sphere as 6 n² quads, wound outwards; sides of the cube do not share points."""
    t = torch.tan(torch.linspace(-1, 1, n + 1, dtype=torch.float64) * math.pi / 4)
    a, b = torch.meshgrid(t, t, indexing="ij")
    points, quads = [], []
    for axis in range(3):
        for side in (-1.0, 1.0):
            x = torch.stack([torch.full_like(a, side), a, b], -1).roll(axis, -1)
            i = torch.arange((n + 1) ** 2).reshape(n + 1, n + 1) + len(points) * (n + 1) ** 2
            q = torch.stack([i[:-1, :-1], i[1:, :-1], i[1:, 1:], i[:-1, 1:]], -1).reshape(-1, 4)
            points.append((x / x.norm(dim=-1, keepdim=True)).reshape(-1, 3))
            quads.append(q if side > 0 else q.flip(1))
    return torch.cat(points), torch.cat(quads)


def egg(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Different at both ends, so that symmetry cancels nothing along x."""
    x, quads = ball(n)
    scale = torch.stack([1.4 + 0.3 * x[:, 0], 1 - 0.35 * x[:, 0], 0.7 - 0.25 * x[:, 0]], 1)
    return x * scale, quads


def triangles(quads: torch.Tensor) -> torch.Tensor:
    return torch.cat([quads[:, :3], quads[:, [0, 2, 3]]])


def quad(cells: torch.Tensor) -> list[Cells]:
    return [Cells("quad" if cells.shape[1] == 4 else "triangle", cells)]


def turned(seed: int) -> torch.Tensor:
    q, _ = torch.linalg.qr(torch.randn(3, 3, generator=torch.manual_seed(seed)).double())
    return q * q.det()


def panel(corners: list[list[float]]) -> source_panels.Panels:
    x = torch.tensor(corners, dtype=torch.float64)
    return flat_panels(x, [polygons([list(range(len(x)))])])


SHAPES = {
    "triangle": [[0, 0, 0], [1.3, 0, 0], [0.2, 0.8, 0]],
    "quad": [[0, 0, 0], [1.3, 0.1, 0], [1.0, 0.9, 0], [-0.2, 0.7, 0]],
    "pentagon": [[0, 0, 0], [1, -0.2, 0], [1.5, 0.5, 0], [0.6, 1.2, 0], [-0.1, 0.8, 0]],
    "hollow": [[0, 0, 0], [1.5, 0, 0], [0.5, 0.3, 0], [0.2, 1.1, 0]],  # not convex
}


@pytest.mark.parametrize("corners", SHAPES.values(), ids=SHAPES)
def test_influence_against_quadrature(corners):
    """1/4π ∫ r / r³ dA by the mean of many small triangles."""
    x = torch.tensor(corners, dtype=torch.float64)
    fan = torch.stack([torch.stack([x[0], x[i], x[i + 1]]) for i in range(1, len(x) - 1)])
    area = torch.linalg.cross(fan[:, 1] - fan[:, 0], fan[:, 2] - fan[:, 0])[:, 2] / 2
    m = 200
    i, j = torch.meshgrid(torch.arange(m), torch.arange(m), indexing="ij")
    low = torch.stack([i + 1 / 3, j + 1 / 3], -1)[i + j < m]
    high = torch.stack([i + 2 / 3, j + 2 / 3], -1)[i + j < m - 1]
    at = torch.cat([low, high]).double() / m
    at = torch.cat([1 - at.sum(1, keepdim=True), at], 1)
    source = (at @ fan).reshape(-1, 3)  # centroids of m² small triangles in each
    weight = torch.repeat_interleave(area / m**2, m * m)
    points = torch.tensor([[0.4, 0.3, 0.5], [2.0, 1.0, -0.3], [-0.5, 0.2, 0.0], [0.3, 0.2, -0.4]])
    r = points.double()[:, None] - source
    want = (weight[:, None] * r / r.norm(dim=2, keepdim=True) ** 3).sum(1) / (4 * math.pi)
    turn, shift = turned(0), torch.tensor([3.0, -2.0, 1.0]).double()
    found = influence(panel((x @ turn + shift).tolist()), points.double() @ turn + shift)
    assert (found[:, 0] - want @ turn).abs().max() < 2e-5


@pytest.mark.parametrize("corners", SHAPES.values(), ids=SHAPES)
def test_a_panel_sends_half_to_either_side(corners):
    one = panel(corners)
    centre, normal = one.centre, one.axes[:, 2]
    assert normal.tolist() == [[0, 0, 1]]
    assert float(influence(one, centre, own=True)[0, 0] @ normal[0]) == 0.5
    above, below = (influence(one, centre + s * 1e-9 * normal)[0, 0] for s in (1, -1))
    assert (above - below - normal[0]).abs().max() < 1e-7
    assert (above + below)[2].abs() < 1e-12  # and along it there is no jump
    beside = influence(one, torch.tensor([[4.0, -3.0, 0.0]]))[0, 0]
    assert beside[2] == 0 and beside[0] > 0 > beside[1]


@pytest.mark.parametrize("cut", [False, True], ids=["quads", "triangles"])
def test_solid_angles_of_a_closed_surface(cut):
    """Σ Ω = −4π inside, 0 outside: to rounding where the panels are flat and close up."""
    corners = torch.tensor([[x, y, z] for x in (0, 1) for y in (0, 2) for z in (0, 1)]).double()
    quads = [[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]]
    cells = torch.tensor(quads)
    panels = flat_panels(corners @ turned(1), quad(triangles(cells) if cut else cells))
    inside = torch.tensor([[0.5, 1.0, 0.5], [0.1, 1.9, 0.05], [0.5, 0.5, 0.999]]).double()
    outside = torch.tensor([[1.5, 1.0, 0.5], [-0.01, 0.3, 0.2], [5.0, -4.0, 2.0]]).double()
    for points, want in ((inside, -1.0), (outside, 0.0)):
        across = (influence(panels, points @ turned(1), far=math.inf) * panels.axes[:, 2]).sum(
            (1, 2)
        )
        assert across.tolist() == pytest.approx([want] * 3, abs=1e-12)


def test_far_away_a_source_and_a_quadrupole():
    points, quads = egg(6)
    for cells in (quads, triangles(quads)):
        panels = flat_panels(points, quad(cells))
        near = influence(panels, 3 * points[:40], far=math.inf)
        far = influence(panels, 3 * points[:40])
        off = (near - far).norm(dim=2) / near.norm(dim=2)
        assert 0 < off.max() < 1e-3
        sums = (near.sum(1) - far.sum(1)).norm(dim=1) / near.sum(1).norm(dim=1)
        assert sums.max() < 2e-5
    one = panel(SHAPES["triangle"])  # the remainder falls with the third power of the distance
    way = torch.tensor([[0.48, 0.6, 0.64]]).double()
    off = []
    for r in (10.0, 20.0, 40.0):
        at = one.centre + r * way
        gap = influence(one, at, far=0.0) - influence(one, at, far=math.inf)
        off.append(float(gap.norm()) * r**2)
    assert all(7 < a / b < 9 for a, b in pairwise(off))


@pytest.mark.parametrize("cut", [False, True], ids=["quads", "triangles"])
def test_sphere(cut):
    """1 − 9/4 sin² θ at the faces' centres, to first order."""
    errors, mean = [], []
    for n in (3, 6, 12):
        points, quads = ball(n)
        flow = solve(points, quad(triangles(quads) if cut else quads), WIND)
        x = flow.panels.centre / flow.panels.centre.norm(dim=1, keepdim=True)
        off = flow.cp - 1 + 9 / 4 * (1 - x[:, 0] ** 2)
        errors.append(float(off.abs().max()))
        mean.append(float(off.square().mean().sqrt()))
        assert flow.residual < 1e-9
        through = (flow.surface_velocity * flow.panels.axes[:, 2]).sum(1)
        assert through.abs().max() < 1e-3  # what the far field leaves out
    assert all(a / b > 1.8 for a, b in pairwise(mean))
    assert mean[-1] < (0.03 if cut else 5e-3) and errors[-1] < (0.13 if cut else 0.015)


# axial and transverse coefficients of added mass of prolate spheroids a : b (Lamb,
# Hydrodynamics, 6th edition, article 114)
LAMB = {1.5: (0.305, 0.621), 2.0: (0.209, 0.702), 3.0: (0.122, 0.803)}


@pytest.mark.parametrize("ratio", LAMB)
def test_spheroids_have_lambs_added_mass(ratio):
    """u = (1 + k) (U − (U·n) n) on all of the surface, with its maximum (1 + k) U."""
    x, quads = ball(10)
    points = x * torch.tensor([ratio, 1.0, 1.0], dtype=torch.float64)
    for k, wind in zip(LAMB[ratio], torch.eye(3, dtype=torch.float64), strict=False):
        flow = solve(points, quad(quads), wind)
        normal = flow.panels.centre / torch.tensor([ratio**2, 1.0, 1.0])
        normal = normal / normal.norm(dim=1, keepdim=True)
        want = (1 + k) * (wind - (normal @ wind)[:, None] * normal)
        speed = flow.surface_velocity.norm(dim=1)
        assert (flow.surface_velocity - want).norm(dim=1).mean() < 0.015
        assert float(speed.max()) == pytest.approx(1 + k, rel=0.01)


def test_no_drag_and_no_source():
    """d'Alembert's and Gauss's laws on a body that is not symmetric, falling with refinement."""
    drag, source = [], []
    for n in (4, 8, 16):
        points, quads = egg(n)
        flow = solve(points, quad(quads), WIND)
        size = flow.panels.area
        drag.append(abs(float(flow.force[0] / (flow.cp.abs() @ size))))
        source.append(abs(float(flow.strength @ size / (flow.strength.abs() @ size))))
        assert flow.force[1:].abs().max() < 1e-12
    assert all(a / b > 1.8 for a, b in (*pairwise(drag), *pairwise(source)))
    assert drag[-1] < 0.006 and source[-1] < 0.004


def test_velocity_off_the_body():
    """Around a sphere U (1 + …) of a dipole; no divergence, no curl; the free stream far away."""
    way = torch.randn(20, 3, generator=torch.manual_seed(0)).double()
    x = way / way.norm(dim=1, keepdim=True) * torch.linspace(1.3, 4.0, 20)[:, None].double()
    r = x.norm(dim=1, keepdim=True)
    want = 2 * WIND - (3 * x * x[:, :1] / r**2 - WIND) / r**3
    off = []
    for n in (8, 16):
        points, quads = ball(n)
        flow = solve(points, quad(quads), 2 * WIND)
        off.append(float((flow.velocity(x) - want).norm(dim=1).max()))
        cp = 1 - flow.velocity(x).square().sum(1) / 4
        assert torch.allclose(flow.pressure_coefficient(x), cp)
    assert off[0] > 1.5 * off[1] and off[1] < 0.02 * 2  # of the speed
    h, x = 1e-4, x[r[:, 0] > 1.5]
    rise = torch.stack(
        [
            (flow.velocity(x + h * d) - flow.velocity(x - h * d)) / (2 * h)
            for d in torch.eye(3, dtype=torch.float64)
        ],
        1,
    )  # (n, 3 derivative, 3 component)
    assert rise.diagonal(dim1=1, dim2=2).sum(1).abs().max() < 1e-4
    assert (rise - rise.mT).abs().max() < 1e-4
    far = flow.velocity(1e3 * way)
    assert (far - 2 * WIND).abs().max() < 1e-8


def test_turned_and_scaled_together():
    points, quads = egg(5)
    flow = solve(points, quad(quads), WIND)
    q = turned(3)
    other = solve(0.2 * points @ q + 7, quad(quads), 3 * WIND @ q)
    assert (other.strength - 3 * flow.strength).abs().max() < 1e-8
    assert (other.surface_velocity - 3 * flow.surface_velocity @ q).abs().max() < 1e-8
    assert (other.force - 0.04 * flow.force @ q).abs().max() < 1e-9
    at = 2 * points[::50]
    assert (other.velocity(0.2 * at @ q + 7) - 3 * flow.velocity(at) @ q).abs().max() < 1e-8


@pytest.mark.parametrize(("axis", "height"), [(2, -0.9), (1, 1.3)])
def test_ground_is_a_mirror(axis, height):
    """Nothing flows through it, and it does what the mirrored body beside the first does."""
    points, quads = egg(5)
    flow = solve(points, quad(quads), WIND, ground=(axis, height))
    at = torch.randn(30, 3, generator=torch.manual_seed(1)).double() * 2
    at[:, axis] = height
    assert flow.velocity(at)[:, axis].abs().max() == 0
    image = points.clone()
    image[:, axis] = 2 * height - points[:, axis]
    both = solve(
        torch.cat([points, image]),
        quad(torch.cat([quads, quads.flip(1) + len(points)])),
        WIND,
    )
    half = len(quads)
    assert (both.strength[:half] - flow.strength).abs().max() < 1e-7
    assert (both.surface_velocity[:half] - flow.surface_velocity).abs().max() < 1e-7
    assert (both.velocity(at) - flow.velocity(at)).abs().max() < 1e-7
    apart = flow.force[axis] * (height - float(points[:, axis].mean()))
    assert apart > 0  # drawn to it


def test_imperfect_surfaces():
    """Holes, faces twice, faces inside out and without area: finite, and near the whole body's."""
    points, quads = egg(8)
    whole = solve(points, quad(quads), WIND)
    kept = torch.ones(len(quads), dtype=torch.bool)
    kept[torch.randperm(len(quads), generator=torch.manual_seed(0))[:12]] = False
    open_ = solve(points, quad(quads[kept]), WIND)
    assert open_.residual < 1e-8 and open_.strength.abs().max() < 3 * whole.strength.abs().max()
    assert (open_.cp - whole.cp[kept]).abs().median() < 0.1

    flat = torch.cat([quads, torch.tensor([[0, 1, 0, 1], [5, 5, 5, 5]])])
    flow = solve(points, quad(flat), WIND)
    assert (flow.strength[:-2] - whole.strength).abs().max() < 1e-12
    assert flow.strength[-2:].tolist() == [0, 0] and flow.surface_velocity[-2:].abs().max() == 0

    twice = solve(points, quad(torch.cat([quads, quads[:3]])), WIND)
    assert twice.strength.isfinite().all() and twice.strength.abs().max() < 20
    wrong = quads.clone()
    wrong[10] = wrong[10].flip(0)
    odd = solve(points, quad(wrong), WIND)
    assert odd.cp.isfinite().all() and odd.strength.abs().max() < 20


def test_warped_quads_and_polygons():
    """Panels lie along the area vector through the centroid; a polygon is what its quad is."""
    x = torch.tensor([[0.0, 0, 0.1], [1, 0, -0.1], [1, 1, 0.1], [0, 1, -0.1]]).double()
    one = flat_panels(x, quad(torch.tensor([[0, 1, 2, 3]])))
    assert one.axes[0, 2].tolist() == pytest.approx([0, 0, 1]) and float(one.area) == 1
    assert one.centre.tolist() == [[0.5, 0.5, 0.0]]
    assert one.second.tolist() == [pytest.approx([1 / 12, 1 / 12])]
    points, quads = egg(4)
    same = solve(points, [polygons(quads.tolist())], WIND)
    flow = solve(points, quad(quads), WIND)
    assert torch.allclose(same.strength, flow.strength, rtol=1e-12)
    mixed = [Cells("quad", quads[:50]), Cells("triangle", triangles(quads[50:]))]
    flow = solve(points, mixed, WIND)
    assert torch.allclose(flow.panels.centre, cell_centres(points, mixed), atol=1e-14)
    assert flow.residual < 1e-9


def test_precision_and_empty():
    points, quads = ball(4)
    flow = solve(points.float(), quad(quads), WIND.float())
    assert flow.cp.dtype == torch.float64
    assert (flow.cp - solve(points, quad(quads), WIND).cp).abs().max() < 1e-5
    assert flow.velocity(2 * points.float()).dtype == torch.float32
    for dtype in (torch.float32, torch.float64):
        assert flow.velocity(torch.zeros(0, 3, dtype=dtype)).shape == (0, 3)
        assert flow.pressure_coefficient(torch.zeros(0, 3, dtype=dtype)).dtype == dtype
    assert len(flat_panels(points, [])) == 0


def test_bad_input():
    points, quads = ball(2)
    good = quad(quads)
    for wind, message in (
        (torch.zeros(3).double(), "`inflow`: expected a velocity, got zero"),
        (torch.full((3,), math.nan).double(), "`inflow`: 3 values are not finite"),
    ):
        with pytest.raises(InputError, match=message):
            solve(points, good, wind)
    with pytest.raises(InputError, match="`cells`: expected a surface, got no cell"):
        solve(points, [], WIND)
    with pytest.raises(InputError, match="`cells`: expected 2-D cells"):
        solve(points, [Cells("line", quads[:, :2])], WIND)
    with pytest.raises(InputError, match="`points`: 3 values are not finite"):
        solve(torch.cat([points[:-1], points[:1] * math.nan]), good, WIND)
    with pytest.raises(InputError, match="outside"):
        solve(points[:4], good, WIND)
    for ground, message in (
        ((2, 0.0), "on one side of 0.0, got -1 to 1"),
        ((3, -2.0), "an axis 0, 1 or 2"),
        ((2, math.inf), "an axis 0, 1 or 2 and a height"),
        ((0, -2.0), "`inflow`: expected it along the ground, got 1.0 across it"),
    ):
        with pytest.raises(InputError, match=message):
            solve(points, good, WIND, ground=ground)
    with pytest.raises(InputError, match="not finite"):
        solve(points, good, WIND).velocity(points * math.nan)
