"""Which triangle each sample sees: coverage, interpolation, depth."""

import numpy as np
import pytest

from meshsim.render import raster
from meshsim.render.raster import rasterise, thicken


def flat(corners):
    return np.pad(np.asarray(corners, float), [(0, 0), (0, 0), (0, 1)])


def samples(width, height):
    y, x = np.divmod(np.arange(width * height), width)
    return np.stack([x + 0.5, y + 0.5], 1)


@pytest.mark.parametrize("chunk", [7, 50_000])
def test_weights_interpolate_places_exactly(monkeypatch, chunk):
    monkeypatch.setattr(raster, "CHUNK", chunk)
    rng = np.random.default_rng(0)
    corners = flat(rng.uniform(-5, 45, (6, 3, 2)))
    seen, weights = rasterise(corners, 40, 30)
    hit = seen >= 0
    assert hit.any() and not hit.all()
    place = (corners[seen[hit], :, :2] * weights[hit][..., None]).sum(1)
    assert np.abs(place - samples(40, 30)[hit]).max() < 1e-4
    assert weights[hit].min() > -1e-5 and np.abs(weights[hit].sum(1) - 1).max() < 1e-6
    assert not weights[~hit].any()


def test_every_sample_inside_is_covered_and_none_outside():
    rng = np.random.default_rng(1)
    for _ in range(20):
        corners = rng.uniform(-5, 25, (1, 3, 2))
        seen, _ = rasterise(flat(corners), 20, 20)
        a, b, c = corners[0]
        p = samples(20, 20)

        def side(u, v, p=p):
            return (v[0] - u[0]) * (p[:, 1] - u[1]) - (v[1] - u[1]) * (p[:, 0] - u[0])

        sides = np.stack([side(a, b), side(b, c), side(c, a)])
        inside = (sides > 1e-4).all(0) | (sides < -1e-4).all(0)
        outside = ~((sides > -1e-4).all(0) | (sides < 1e-4).all(0))
        assert (seen[inside] == 0).all() and (seen[outside] == -1).all()


def test_triangles_that_share_edges_leave_no_gap():
    angles = np.linspace(0, 2 * np.pi, 14)[:-1]
    ring = 15.25 + 14 * np.stack([np.cos(angles), np.sin(angles)], 1)
    centre = np.full_like(ring, 15.25)
    fan = np.stack([centre, ring, np.roll(ring, -1, 0)], 1)
    seen, _ = rasterise(flat(fan), 31, 31)
    inside = np.linalg.norm(samples(31, 31) - 15.25, axis=1) < 13
    assert (seen[inside] >= 0).all()


def test_the_nearest_triangle_is_seen_whatever_the_order():
    square = [[0, 0], [20, 0], [0, 20]]
    near = np.concatenate([np.array(square, float), np.full((3, 1), -1.05)], 1)
    far = np.concatenate([np.array(square, float) * 2, np.full((3, 1), 1.0)], 1)
    tilted = np.array([[0, 0, -2.0], [20, 0, 2.0], [0, 20, 2.0]])
    for order in ([0, 1], [1, 0]):
        seen, _ = rasterise(np.stack([near, far])[order], 8, 8)
        assert (seen == order.index(0)).all()
    # the tilted one is in front where its depth is below −1.05: next to its first corner
    seen, weights = rasterise(np.stack([near, tilted]), 8, 8)
    depth = (samples(8, 8) / 20 * 4).sum(1) - 2
    assert np.array_equal(seen == 1, depth < -1.05)
    assert weights.shape == (64, 3)


def test_what_cannot_be_drawn_is_left_out():
    good = [[0.0, 0, 0], [9, 0, 0], [0, 9, 0]]
    thin = [[0.0, 0, 0], [4, 4, 0], [8, 8, 0]]
    broken = [[0.0, 0, 0], [np.nan, 0, 0], [0, 9, 0]]
    outside = [[100.0, 100, 0], [109, 100, 0], [100, 109, 0]]
    seen, _ = rasterise(np.array([thin, broken, good, outside]), 5, 5)
    assert set(seen.tolist()) <= {2, -1} and (seen == 2).sum() == 25
    for corners in (np.zeros((0, 3, 3)), np.array([thin, broken])):
        assert (rasterise(corners, 4, 4)[0] == -1).all()
    assert rasterise(np.array([good]), 0, 4)[0].shape == (0,)


def test_segments_and_points_get_a_width():
    triangles, ends = thicken(np.array([[[5.0, 10, 0], [25, 10, 0]]]), 2.0)
    seen, _ = rasterise(triangles, 30, 20)
    assert (seen >= 0).sum() == 24 * 4  # 20 long, 2 more at each end, 4 wide
    assert set(ends.ravel().tolist()) == {0, 1}
    dots, ends = thicken(np.array([[[5.0, 5, 0]]]), 1.0)
    assert (rasterise(dots, 10, 10)[0] >= 0).sum() == 4 and not ends.any()
