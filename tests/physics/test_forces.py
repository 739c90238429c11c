"""Forces on bodies: Gauss's theorem on closed surfaces of every kind of face, and exact moments."""

import math
from itertools import pairwise

import pytest
import torch
import trimesh

from meshsim.check import InputError
from meshsim.geometry.cells import Cells
from meshsim.geometry.measure import cell_centres, cell_measures, cell_normals
from meshsim.mesh import Mesh
from meshsim.physics.forces import body_forces, forces
from tests.helpers import MESHES, polygons, quadratic

FLUID = ("mixed_solid", "polyhedra", "channel")


def sphere(level=2):
    body = trimesh.creation.icosphere(subdivisions=level)
    return torch.tensor(body.vertices), [Cells("triangle", torch.tensor(body.faces))]


def football(level=1):
    """Hexagons and pentagons, warped: the dual of the sphere's triangles, stretched."""
    x, (triangles,) = sphere(level)
    centres = x[triangles.nodes].mean(1)
    rings = []
    for point in range(len(x)):
        around = (triangles.nodes == point).any(1).nonzero()[:, 0]
        out = x[point] / x[point].norm()
        a = torch.linalg.cross(out, centres[around[0]])
        b = torch.linalg.cross(out, a)
        angle = torch.atan2(centres[around] @ b, centres[around] @ a)
        rings.append(around[angle.argsort()].tolist())
    stretch = torch.tensor([2.0, 1.0, 0.7], dtype=torch.float64)
    bumps = 0.1 * torch.sin(5 * centres + 0.3)
    return centres * stretch + bumps, [polygons(rings)]


def brick():
    """Quads and triangles together, the quads warped."""
    mesh = MESHES["cube_surface"]
    x = mesh.points + 0.1 * torch.sin(4 * mesh.points + torch.arange(3))
    sign = (cell_normals(x, mesh.cells) * (cell_centres(x, mesh.cells) - x.mean(0))).sum(1)
    assert (sign > 0).all()
    return x, list(mesh.cells)


BODIES = {"sphere": sphere(), "football": football(), "brick": brick()}
bodies = pytest.mark.parametrize(("x", "cells"), BODIES.values(), ids=BODIES)


def inside(x, cells):
    """Volume and centroid of what lies within the fans, by tetrahedra from the origin."""
    total, moment = 0.0, torch.zeros(3).double()
    for block in cells:
        offsets = block.offsets
        for c in range(len(block)):
            ring = block.nodes[c] if offsets is None else block.nodes[offsets[c] : offsets[c + 1]]
            corners = x[ring]
            tip = corners.mean(0)
            for a, b in zip(corners, corners.roll(-1, 0), strict=True):
                each = float(torch.linalg.det(torch.stack([tip, a, b]))) / 6
                total, moment = total + each, moment + each * (tip + a + b) / 4
    return total, moment / total


@bodies
@pytest.mark.parametrize("on", ["point", "cell"])
def test_constant_pressure_does_nothing_to_a_closed_body(x, cells, on):
    n = len(x) if on == "point" else sum(len(block) for block in cells)
    found = forces(x, cells, torch.ones(n).double(), on=on, centre=(3.0, -2.0, 1.0))
    assert found.total.abs().max() < 1e-13
    assert found.moment.abs().max() < 1e-13


@bodies
def test_linear_pressure_lifts_by_the_volume_at_its_centroid(x, cells):
    """Archimedes: −∫ (g·x + c) n dA = −V g, and it acts at the centroid of what is within."""
    g = torch.tensor([0.3, -1.2, 0.7], dtype=torch.float64)
    v, centroid = inside(x, cells)
    found = forces(x, cells, x @ g + 5)
    assert (found.total + v * g).abs().max() < 1e-13
    assert torch.allclose(found.moment, torch.linalg.cross(centroid, -v * g), atol=1e-13)
    about = forces(x, cells, x @ g + 5, centre=centroid.tolist())
    assert about.moment.abs().max() < 1e-13


def test_the_sphere_comes_to_its_volume():
    """−∫ x n dA → −4/3 π e_x, to second order in the size of the faces."""
    off = []
    for level in (2, 3, 4):
        x, cells = sphere(level)
        found = forces(x, cells, x[:, 0].contiguous()).total
        assert found[1:].abs().max() < 1e-13
        off.append(float(found[0]) + 4 / 3 * math.pi)
    rates = [math.log2(a / b) for a, b in pairwise(off)]
    assert all(abs(rate - 2) < 0.05 for rate in rates)
    assert off[-1] < 0.02


def test_moments_are_exact_for_linear_values():
    """Against the edge-midpoint rule, which is exact for quadratics on triangles."""
    torch.manual_seed(0)
    x = torch.randn(3, 3, dtype=torch.float64)
    p, t = torch.randn(3, dtype=torch.float64), torch.randn(3, 3, dtype=torch.float64)
    centre = torch.randn(3, dtype=torch.float64)
    cells = [Cells("triangle", torch.tensor([[0, 1, 2]]))]
    found = forces(x, cells, p, t, centre=centre.tolist())
    area = cell_normals(x, cells)[0]
    middle = [(v + v.roll(-1, 0)) / 2 for v in (x - centre, p, t)]
    pushed = -middle[1][:, None] * area
    rubbed = middle[2] * area.norm()
    assert torch.allclose(found.pressure, pushed.mean(0))
    assert torch.allclose(found.friction, rubbed.mean(0))
    assert torch.allclose(found.moment, torch.linalg.cross(middle[0], pushed + rubbed).mean(0))


@bodies
def test_moments_move_with_their_centre(x, cells):
    torch.manual_seed(1)
    p, t = torch.randn(len(x), dtype=torch.float64), torch.randn_like(x)
    at = forces(x, cells, p, t)
    moved = forces(x, cells, p, t, centre=(1.0, 2.0, 3.0))
    arm = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    assert torch.allclose(moved.moment, at.moment - torch.linalg.cross(arm, at.total))


@bodies
def test_constant_friction_weighs_each_face_with_its_area(x, cells):
    t = torch.tensor([[1.0, 2.0, -1.0]], dtype=torch.float64)
    n = sum(len(block) for block in cells)
    found = forces(x, cells, torch.zeros(n).double(), t.expand(n, 3), on="cell")
    assert torch.allclose(found.friction, cell_measures(x, cells).sum() * t[0])
    same = forces(x, cells, torch.zeros(len(x)).double(), t.expand(len(x), 3))
    assert torch.allclose(found.friction, same.friction)
    assert torch.allclose(found.moment, same.moment)
    centroid = (cell_measures(x, cells)[:, None] * cell_centres(x, cells)).sum(0)
    assert torch.allclose(found.moment, torch.linalg.cross(centroid, t[0]))


def test_a_flat_face_that_is_not_convex_is_exact():
    """A square with a slot that takes its middle out: the fan folds over itself, with signs."""
    x = [[0, 0], [4, 0], [4, 4], [2.1, 4], [2.1, 0.2], [1.9, 0.2], [1.9, 4], [0, 4]]
    x = torch.tensor([[*p, 0.0] for p in x], dtype=torch.float64)
    pieces = (
        [[0, 1, 2, 3, 4, 5, 6, 7]],
        [[0, 5, 6], [0, 6, 7], [0, 1, 4], [0, 4, 5], [1, 2, 3], [1, 3, 4]],
    )
    t = torch.stack([x[:, 0], 1 - x[:, 1], x[:, 0] + x[:, 1]], 1)
    whole, split = (forces(x, [polygons(rings)], 2 * x[:, 0] - x[:, 1], t) for rings in pieces)
    assert torch.allclose(whole.pressure, split.pressure)
    assert torch.allclose(whole.friction, split.friction)
    assert torch.allclose(whole.moment, split.moment)


def contour(n=40):
    angle = torch.arange(n, dtype=torch.float64) * 2 * math.pi / n
    x = torch.stack([2 * angle.cos() + 0.3 * (2 * angle).sin(), angle.sin() + 0.5], 1)
    i = torch.arange(n)
    return x, [Cells("line", torch.stack([i, (i + 1) % n], 1))]


def test_contours_in_the_plane():
    x, cells = contour()
    after = x.roll(-1, 0)
    inside = (x[:, 0] * after[:, 1] - x[:, 1] * after[:, 0]).sum() / 2
    flat = forces(x, cells, torch.ones(len(x)).double(), centre=(1.0, 2.0))
    assert flat.total.abs().max() < 1e-13 and flat.moment.abs() < 1e-13
    assert flat.total.shape == (2,) and flat.moment.shape == ()
    found = forces(x, cells, x[:, 1].contiguous())
    assert torch.allclose(found.total, torch.tensor([0.0, -float(inside)]).double(), atol=1e-13)
    t = torch.stack([x[:, 1], -x[:, 0]], 1)  # (r × τ) = −|r|² on each line, by Simpson's rule
    length = (after - x).norm(dim=1)
    squares = (x.square() + 4 * ((x + after) / 2).square() + after.square()).sum(1) / 6
    spun = forces(x, cells, torch.zeros(len(x)).double(), t)
    assert torch.allclose(spun.moment, -(length * squares).sum())
    side = [Cells("line", torch.tensor([[0, 1]]))]
    shear = torch.tensor([[0.0, 1.0]]).double()
    turned = forces(
        torch.tensor([[1.0, 0.0], [1.0, 2.0]]).double(),
        side,
        torch.zeros(1).double(),
        shear,
        on="cell",
    )
    assert turned.moment == 2.0  # upwards on the right: counter-clockwise


def test_a_prism_is_a_contour_times_its_span():
    x, (lines,) = contour(12)
    n, span = len(x), 3.0
    low, high = (torch.nn.functional.pad(x, (0, 1), value=z) for z in (0.0, span))
    quads = torch.stack(
        [lines.nodes[:, 0], lines.nodes[:, 1], lines.nodes[:, 1] + n, lines.nodes[:, 0] + n], 1
    )
    torch.manual_seed(2)
    p, t = torch.randn(n).double(), torch.randn(n, 2).double()
    t[:, 1] = 0
    flat = forces(x, [lines], p, t, on="cell")
    deep = forces(
        torch.cat([low, high]),
        [Cells("quad", quads)],
        p,
        torch.nn.functional.pad(t, (0, 1)),
        on="cell",
    )
    assert torch.allclose(deep.total[:2], span * flat.total)
    assert torch.allclose(deep.moment[2], span * flat.moment)


@pytest.mark.parametrize("name", FLUID)
def test_a_boundary_of_the_fluid_pushes_outwards(name):
    """On all of the boundary of a mesh with p = x the fluid is pushed by −V: its walls by +V."""
    mesh = MESHES[name]
    outside = (mesh.faces.neighbour < 0).nonzero()[:, 0]
    mesh = mesh.replace(
        boundaries={"wall": outside}, point_fields={"p": mesh.points[:, 0]}, cell_fields={}
    )
    found = body_forces(mesh, "p", boundary="wall").total
    want = torch.zeros(mesh.dim).double()
    want[0] = float(mesh.cell_measures.sum())
    assert torch.allclose(found, want, atol=1e-12)


def test_fields_are_found_on_boundary_cells_and_points():
    mesh = MESHES["mixed_solid"]
    floor = torch.tensor([0.0, 0.0, -2.0], dtype=torch.float64)  # n into the fluid is +z
    ones = {"p": torch.ones(mesh.n_points)}
    on_points = mesh.replace(point_fields=ones, cell_fields={})
    assert torch.allclose(body_forces(on_points, "p", boundary="floor").total, floor)
    on_cells = mesh.replace(point_fields=ones, cell_fields={"p": 2 * torch.ones(mesh.n_cells, 1)})
    assert torch.allclose(body_forces(on_cells, "p", boundary="floor").total, 2 * floor)
    faces = mesh.boundaries["floor"].faces
    area = mesh.faces.area[faces]
    assert torch.allclose(
        body_forces(mesh, "q", boundary="floor").total,
        mesh.boundaries["floor"].fields["q"].double() @ area,
    )
    surface = MESHES["cube_surface"].replace(cell_fields={"p": torch.arange(8.0)}, point_fields={})
    want = -(torch.arange(8.0).double()[:, None] * cell_normals(surface.points, surface.cells)).sum(
        0
    )
    assert torch.allclose(body_forces(surface, "p").total, want)
    assert torch.allclose(body_forces(surface, "p", outward=False).total, -want)


def test_quadratic_cells_count_by_their_corners():
    mesh = MESHES["cube_surface"]
    fine = quadratic(mesh, {"triangle": "triangle6", "quad": "quad9"})
    found = forces(fine.points, fine.cells, fine.points[:, 0].contiguous()).total
    assert torch.allclose(
        found, forces(mesh.points, mesh.cells, mesh.points[:, 0].contiguous()).total
    )


def test_gradients_reach_values_and_points():
    torch.manual_seed(3)
    cells = [
        Cells("triangle", torch.tensor([[0, 1, 4]])),
        Cells("quad", torch.tensor([[0, 1, 2, 3]])),
    ]
    inputs = [torch.randn(5, 3), torch.randn(5), torch.randn(5, 3)]

    def every(x, p, t):
        found = forces(x, cells, p, t)
        return torch.cat([found.pressure, found.friction, found.moment])

    assert torch.autograd.gradcheck(every, [v.double().requires_grad_() for v in inputs])


def test_dtypes_far_away_and_empty():
    x, cells = BODIES["sphere"]
    p = x[:, 0].contiguous()
    exact = forces(x, cells, p)
    single = forces(x.float(), cells, p.float())
    assert single.total.dtype == torch.float32
    assert (single.total - exact.total).abs().max() < 1e-6
    far = forces(x + 1e6, cells, p, centre=(1e6, 1e6, 1e6))
    assert (far.total - exact.total).abs().max() < 1e-8
    none = forces(x, [], p)
    assert not none.total.any() and not none.moment.any()


def test_bad_input_is_named():
    x, cells = BODIES["sphere"]
    p = torch.ones(len(x)).double()
    with pytest.raises(InputError, match=r"`pressure`: expected 162 rows .*points.*, got 3"):
        forces(x, cells, p[:3])
    with pytest.raises(InputError, match=r"`friction`: expected shape \(162, 3\), got \(5, 3\)"):
        forces(x, cells, p, x[:5])
    with pytest.raises(InputError, match=r"`pressure`: 1 values are not finite"):
        forces(x, cells, torch.where(torch.arange(len(x)) == 7, math.nan, p))
    with pytest.raises(InputError, match="unknown place of values 'points': did you mean 'point'"):
        forces(x, cells, p, on="points")
    with pytest.raises(InputError, match="2-D cells in 3-D or lines in 2-D, got 2-D in 2-D"):
        forces(x[:, :2].contiguous(), cells, p)
    with pytest.raises(InputError, match=r"`centre`: expected shape \(3\), got \(2,\)"):
        forces(x, cells, p, centre=(0.0, 0.0))
    mesh = Mesh(x, cells, {"p": p}, {"tau": x.new_zeros(len(cells[0]), 3)})
    with pytest.raises(InputError, match="unknown field 'q'"):
        body_forces(mesh, "q")
    with pytest.raises(InputError, match="'p' and 'tau' are in different places"):
        body_forces(mesh, "p", "tau")
    with pytest.raises(InputError, match="unknown boundary 'wall'"):
        body_forces(mesh, "p", boundary="wall")
