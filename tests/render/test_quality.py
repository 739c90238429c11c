"""Quality of cells: the figures that `check` has, counted."""

import numpy as np
import pytest
import torch

from meshsim import findings, render
from meshsim.check import InputError
from meshsim.mesh import Mesh
from meshsim.render.quality import BINS, counts, qualities
from tests.helpers import MESHES
from tests.render.drawing import grid, pixels
from tests.render.test_section import cube


@pytest.mark.parametrize("name", ["mixed_solid", "warped", "polyhedra", "channel", "polygons"])
def test_the_worst_are_those_of_check(name):
    mesh = MESHES[name]
    found, known = qualities(mesh), findings.check(mesh)["figures"]
    skew = max(known[k]["max"] for k in ("skewness", "boundary_skewness") if k in known)
    assert float(found["skewness"].max()) == pytest.approx(skew, abs=1e-12)
    assert float(found["aspect ratio"].max()) == pytest.approx(known["aspect_ratio"]["max"])
    if "non_orthogonality" in known:
        angle = known["non_orthogonality"]["max"]
        assert float(found["non-orthogonality"].max()) == pytest.approx(angle, abs=1e-9)
    size = found["volume" if mesh.cell_dim == 3 else "area"]
    torch.testing.assert_close(size, mesh.cell_measures)
    assert all(len(values) == mesh.n_cells for values in found.values())


def test_a_cube_is_perfect_and_a_surface_has_edges():
    found = qualities(cube(2))
    assert float(found["non-orthogonality"].max()) < 1e-5
    assert float(found["skewness"].max()) < 1e-9
    torch.testing.assert_close(found["aspect ratio"], torch.ones(8, dtype=torch.float64))
    flat = Mesh([[0.0, 0, 1], [3, 0, 1], [3, 4, 1]], {"triangle": [[0, 1, 2]]})
    found = qualities(flat)
    assert list(found) == ["aspect ratio", "area"]
    assert float(found["aspect ratio"]) == pytest.approx(5 / 3)
    assert float(found["area"]) == pytest.approx(6.0)
    with pytest.raises(InputError, match="lines and points"):
        qualities(Mesh([[0.0, 0], [1, 0]], {"line": [[0, 1]]}))


def test_a_histogram_counts_every_cell():
    rng = np.random.default_rng(0)
    for values in (rng.normal(size=999), np.exp(5 * rng.normal(size=999)), np.full(7, 2.0),
                   np.zeros(5), np.array([1e-300, 1.0]), np.array([3.0])):  # fmt: skip
        for growing in (False, True):
            number, edges = counts(values, growing)
            assert number.sum() == len(values) and len(edges) == len(number) + 1 <= BINS + 1
            assert (np.diff(edges) > 0).all()
    assert counts(np.array([1.0, np.nan, np.inf]))[0].sum() == 1
    assert counts(np.array([]))[0].sum() == 0


def test_a_picture_has_the_mesh_and_the_histograms(tmp_path):
    image = pixels(render.quality(cube(3), tmp_path / "q.png", name="volume", clipped="x"))
    left, right = image[:, : image.shape[1] // 2], image[:, -300:]
    assert (left < 240).any(-1).mean() > 0.1
    assert (np.abs(right - np.array([47, 87, 179])).max(-1) < 5).sum() > 500  # bars
    with pytest.raises(InputError, match=r"unknown quality 'skew'.*skewness"):
        render.quality(grid(), tmp_path / "q.png", name="skew")


def test_what_has_no_inside_is_not_clipped(tmp_path):
    with pytest.raises(InputError, match="only volumes can be clipped"):
        render.quality(grid(), tmp_path / "o.png", clipped="x")
