"""Points on surfaces: shares kept, evenness, the same points for the same seed, curvature."""

import math

import pytest
import torch

from meshsim.check import InputError
from meshsim.geometry.cells import Cells
from meshsim.geometry.measure import cell_measures, cell_normals
from meshsim.geometry.pieces import pieces
from meshsim.geometry.sampling import bending, curvature_weights, ring_edges, sample_surface
from tests.geometry.bodies import box, circle, cylinder, sphere
from tests.helpers import DTYPES, MESHES, polygons

SURFACES = {
    "sphere": sphere(2),
    "cube of triangles and quads": (MESHES["cube_surface"].points, MESHES["cube_surface"].cells),
    "polygons": (
        torch.nn.functional.pad(MESHES["polygons"].points, (0, 1)),
        MESHES["polygons"].cells,
    ),
    "circle": circle(37),
}


def counts(found, faces):
    return torch.bincount(found.face, minlength=faces).double()


@pytest.mark.parametrize("name", SURFACES)
@pytest.mark.parametrize("n", [1, 7, 1000, 20_000])
def test_every_face_has_its_share(name, n):
    points, blocks = SURFACES[name]
    area = cell_measures(points, blocks)
    share = area / area.sum()
    for weights, expected in ((None, share), (share.sqrt(), share.sqrt() / share.sqrt().sum())):
        found = sample_surface(points, blocks, n, 3, weights)
        assert (counts(found, len(area)) - n * expected).abs().max() < 2


def test_neighbours_have_their_share_together():
    """Runs along Morton's curve: of a sphere of 20,480 faces every octant is one, or a few."""
    points, blocks = sphere(5)
    found = sample_surface(points, blocks, 800, 0)
    octant = (found.points > 0).long() @ torch.tensor([1, 2, 4])
    assert (torch.bincount(octant) - 100).abs().max() <= 8  # by chance: ± 9.4 in the mean


@pytest.mark.parametrize("name", SURFACES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_samples_lie_on_their_faces_with_their_normals(name, dtype):
    points, blocks = SURFACES[name]
    points = points.to(dtype)
    found = sample_surface(points, blocks, 500, 1)
    assert found.points.dtype == found.normals.dtype == found.weights.dtype == dtype
    close = 20 * torch.finfo(dtype).eps
    corners = found.pieces.points[found.nodes]
    assert torch.equal(found.pieces.face[:0], found.face[:0])
    away = ((found.points - corners[:, 0]) * found.normals).sum(1)
    assert away.abs().max() < close
    assert (found.normals.norm(dim=1) - 1).abs().max() < close
    assert (found.weights.sum(1) - 1).abs().max() < close and found.weights.min() >= 0
    if points.shape[1] == 3:
        normals = torch.nn.functional.normalize(cell_normals(points, blocks), dim=1)
        assert (normals[found.face] - found.normals).abs().max() < close
    # A linear field is what it is, vectors too, on quads and polygons as on triangles.
    slope = torch.linspace(-1, 2, points.shape[1] * 2, dtype=dtype).reshape(2, -1)
    values = found.interpolate(points @ slope.T + 0.5)
    torch.testing.assert_close(values, found.points @ slope.T + 0.5, rtol=0, atol=close)


def test_polygons_bent_inwards_are_not_left():
    """An L, the mean of whose corners lies outside."""
    ring = torch.tensor([[0, 0], [3, 0], [3, 1], [1, 1], [1, 4], [0, 4]]).double()
    found = sample_surface(torch.nn.functional.pad(ring, (0, 1)), [polygons([list(range(6))])], 999)
    x, y = found.points[:, 0], found.points[:, 1]
    assert ((y <= 1) | (x <= 1)).all() and x.min() >= 0 and y.min() >= 0
    assert abs(int((y > 1).sum()) - 999 * 3 / 6) < 8  # by chance ± 16; the line cuts pieces


def test_means_converge_as_one_over_n():
    """The mean of x² over a sphere: what is drawn by chance goes down with the root of n only."""
    points, blocks = sphere(3)
    corners = points[blocks[0].nodes]
    area = cell_measures(points, blocks)
    # ∫ x² over a triangle: A/12 (Σ xᵢ² + (Σ xᵢ)²).
    exact = area @ (corners.square().sum(1) + corners.sum(1).square()) / 12 / area.sum()
    off = []
    for n in (128, 512, 2048, 8192):
        found = [
            sample_surface(points, blocks, n, seed).points.square().mean(0) for seed in range(12)
        ]
        off.append(float((torch.stack(found) - exact).square().mean().sqrt()))
    rate = math.log(off[0] / off[-1]) / math.log(64)
    assert 0.75 < rate < 1.3
    assert off[-1] < 0.2 * (4 / 45 / 8192) ** 0.5  # var x² over a sphere is 4/45


def test_large_faces_are_filled_evenly():
    """One triangle, 4^5 points: on Basu and Owen's curve one lies in each of its 4^5 parts."""
    points = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]).double()
    found = sample_surface(points, [Cells("triangle", torch.tensor([[0, 1, 2]]))], 1024, 5)
    cell = (found.weights * 32).floor()
    key = cell @ torch.tensor([10_000.0, 100.0, 1.0]).double()
    assert len(torch.unique(key)) == 1024  # 32² small triangles, each known by its floors


def test_the_middle_of_a_sphere_is_its_middle():
    points, blocks = sphere(4)
    found = sample_surface(points, blocks, 4096, 0)
    assert found.points.mean(0).abs().max() < 1e-3  # by chance 9e-3
    assert (found.normals * found.points).sum(1).min() > 0.99


def test_a_seed_gives_the_same_bits():
    points, blocks = sphere(3)
    first, again = (sample_surface(points, blocks, 333, 8) for _ in range(2))
    for a, b in zip(first[:5], again[:5], strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(first.points, sample_surface(points, blocks, 333, 9).points)
    generator = torch.Generator().manual_seed(8)
    one, two = (sample_surface(points, blocks, 333, generator) for _ in range(2))
    assert torch.equal(one.points, first.points) and not torch.equal(two.points, first.points)


def test_faces_without_area_get_none_and_nothing_is_not_sampled():
    points = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [2, 0, 0], [0, 0, 0]]).double()
    cells = [Cells("triangle", torch.tensor([[0, 1, 3], [0, 1, 2], [0, 4, 1], [2, 2, 2]]))]
    assert counts(sample_surface(points, cells, 100), 4).tolist() == [0, 100, 0, 0]
    empty = sample_surface(points, cells, 0)
    assert empty.points.shape == (0, 3) and empty.face.shape == (0,)
    assert sample_surface(points, [], 0).normals.shape == (0, 3)
    with pytest.raises(InputError, match="faces with an area"):
        sample_surface(points, [], 1)
    with pytest.raises(InputError, match="faces with an area"):
        sample_surface(points, cells, 1, weights=torch.tensor([1.0, 0.0, 1.0, 1.0]))
    with pytest.raises(InputError, match="`weights`: expected 4 rows"):
        sample_surface(points, cells, 1, weights=torch.ones(3))
    with pytest.raises(InputError, match=r"`weights`: expected >= 0, got -1\.0"):
        sample_surface(points, cells, 1, weights=torch.tensor([1.0, 2.0, -1.0, 1.0]))
    with pytest.raises(InputError, match="`n`: expected >= 0, got -1"):
        sample_surface(points, cells, -1)
    with pytest.raises(InputError, match="expected 1-D cells on 2-D points, got 2-D"):
        sample_surface(points[:, :2].clone(), cells, 1)
    with pytest.raises(InputError, match="`points`: 3 values are not finite"):
        sample_surface(torch.full((1, 3), torch.nan), [], 1)


def test_the_last_face_takes_what_rounds_up():
    """With a stratum that ends at one, and a last face without share."""
    points = torch.tensor([[0.0, 0.0], [0.1, 0.0], [0.3, 0.0], [0.3, 0.0]]).double()
    curve = [Cells("line", torch.tensor([[0, 1], [1, 2], [2, 3]]))]
    found = sample_surface(points, curve, 100_000, 0)
    assert counts(found, 3)[2] == 0 and found.points[:, 0].max() <= 0.3


@pytest.mark.parametrize("dtype", DTYPES)
def test_curvature_adds_up_by_steiners_formula(dtype):
    """∫|H| of a box is π (a + b + c), of a ball of radius R in the limit 4 π R."""
    points, blocks = box((2.0, 3.0, 5.0))
    points = points.to(dtype)
    angle, mean = bending(points, blocks)
    total = (mean * cell_measures(points, blocks)).sum()
    assert float(total) == pytest.approx(math.pi * 10, rel=1e-6)
    assert angle.tolist() == pytest.approx([math.pi / 2] * 6, rel=1e-6)
    assert angle.dtype == mean.dtype == dtype
    off = []
    for level in (1, 2, 3):
        points, blocks = sphere(level, radius=0.5)
        total = (bending(points, blocks)[1] * cell_measures(points, blocks)).sum()
        off.append(abs(float(total) / (2 * math.pi) - 1))
    assert off[0] > 3.5 * off[1] > 12 * off[2]  # to second order


def test_curvature_of_a_cylinder_and_of_a_circle():
    points, blocks = cylinder(200, radius=2.0)
    inside = blocks[0]  # its side
    mean = bending(points, [inside])[1]
    assert mean.tolist() == pytest.approx([0.25] * 200, rel=1e-3)  # H = 1 / 2 R
    points, blocks = circle(100, radius=2.0)
    angle, curvature = bending(points, blocks)
    assert curvature.tolist() == pytest.approx([0.5] * 100, rel=1e-3)
    assert float((curvature * cell_measures(points, blocks)).sum()) == pytest.approx(2 * math.pi)
    assert angle.tolist() == pytest.approx([2 * math.pi / 100] * 100)


def test_bending_does_not_mind_how_faces_are_wound():
    points, blocks = sphere(2)
    nodes = blocks[0].nodes.clone()
    nodes[::3] = nodes[::3].flip(1)
    for a, b in zip(
        bending(points, blocks), bending(points, [Cells("triangle", nodes)]), strict=True
    ):
        torch.testing.assert_close(a, b)


def test_an_edge_has_the_same_share_on_any_mesh_of_it():
    """Of a cube cut into n² squares a side: the faces at its edges have 1 − φ of the points."""
    for n in (2, 4, 8):
        points, blocks = box((1.0, 1.0, 1.0), n)
        angle, _ = bending(points, blocks)
        share = curvature_weights(points, blocks, floor=0.25)
        edge = angle > 1
        even = float(edge.double().mean())
        assert float(share[edge].sum()) == pytest.approx(0.75 + 0.25 * even)
        assert float(share.sum()) == pytest.approx(1) and float(share.min()) > 0


def test_weights_where_nothing_bends_and_bad_ones():
    points = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])
    blocks = [Cells("triangle", torch.tensor([[0, 1, 2], [0, 2, 3]]))]
    assert curvature_weights(points, blocks).tolist() == [0.5, 0.5]
    assert curvature_weights(points, []).shape == (0,)
    for by in ("mean", "angle"):
        assert float(curvature_weights(*box((1.0, 2.0, 4.0)), by=by).sum()) == pytest.approx(1)
    with pytest.raises(InputError, match="unknown curvature 'gauss'"):
        curvature_weights(points, blocks, by="gauss")
    with pytest.raises(InputError, match=r"`floor`: expected 0\.\.1"):
        curvature_weights(points, blocks, floor=1.5)


def test_pieces_keep_areas_and_edges_cancel():
    for name in ("cube_surface", "lifted"):
        mesh = MESHES[name]
        found = pieces(mesh.points, mesh.cells)
        area = torch.zeros(mesh.n_cells).double()
        area = area.index_add(0, found.face, found.vectors().norm(dim=1))
        torch.testing.assert_close(area, mesh.cell_measures)
        assert (found.face.diff() >= 0).all()
    ends, _ = ring_edges(MESHES["cube_surface"].cells)
    assert len(ends) == 2 * len(torch.unique(ends.sort(1).values, dim=0))
