import numpy as np
import pytest
import torch

from meshsim import Cells, Mesh
from meshsim.check import InputError
from meshsim.movers.remap import overlap, remap

PRISM = {"bend": 0.15}


def square(n, kind, seed=None, shift=0.0):
    """The unit square: quads, triangles, or polygons (two triangles and what a quad leaves)."""
    axis = np.linspace(0, 1, n + 1)
    points = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    if seed is not None:
        inner = ((points > 1e-9) & (points < 1 - 1e-9)).all(1)
        move = np.random.default_rng(seed).uniform(-0.3, 0.3, points.shape) / n
        points = points + inner[:, None] * move
    i, j = (x.reshape(-1) for x in np.meshgrid(range(n), range(n), indexing="ij"))
    quad = np.stack([i, i + 1, i + 1, i], 1) * (n + 1) + np.stack([j, j, j + 1, j + 1], 1)
    if kind == "quad":
        cells = {"quad": quad}
    elif kind == "triangle":
        cells = {"triangle": np.concatenate([quad[:, [0, 1, 2]], quad[:, [0, 2, 3]]])}
    else:  # pairs of quads joined into bent hexagons
        a, b = quad.reshape(n, n, 4)[::2].reshape(-1, 4), quad.reshape(n, n, 4)[1::2].reshape(-1, 4)
        ring = np.stack([a[:, 0], a[:, 1], b[:, 1], b[:, 2], b[:, 3], a[:, 3]], 1)
        cells = [
            Cells("polygon", torch.tensor(ring).reshape(-1), torch.arange(0, 6 * len(a) + 1, 6))
        ]
    return Mesh(points + shift, cells)


def cube(n, kind, seed=None):
    """The unit cube: hexahedra (bent ones with a seed) or tetrahedra."""
    axis = np.linspace(0, 1, n + 1)
    points = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)
    if seed is not None:
        inner = ((points > 1e-9) & (points < 1 - 1e-9)).all(1)
        move = np.random.default_rng(seed).uniform(-0.2, 0.2, points.shape) / n
        points = points + inner[:, None] * move
    i, j, k = (x.reshape(-1) for x in np.meshgrid(*[range(n)] * 3, indexing="ij"))
    m = n + 1
    base = (i * m + j) * m + k
    x, y, z = m * m, m, 1
    if kind == "hexahedron":
        steps = [0, x, x + y, y, z, x + z, x + y + z, y + z]
        return Mesh(points, {"hexahedron": np.stack([base + s for s in steps], 1)})
    tets = [
        np.stack([base, base + a, base + a + b, base + x + y + z], 1)
        for a in (x, y, z)
        for b in (x, y, z)
        if a != b
    ]
    return Mesh(points, {"tetra": np.concatenate(tets)})


PAIRS = {
    "quads to triangles": (lambda: square(7, "quad", 0), lambda: square(5, "triangle", 1)),
    "triangles to quads": (lambda: square(5, "triangle", 1), lambda: square(7, "quad", 0)),
    "polygons to quads": (lambda: square(6, "polygon", 2), lambda: square(5, "quad")),
    "quads to polygons": (lambda: square(5, "quad"), lambda: square(6, "polygon", 2)),
    "hexahedra to tetrahedra": (lambda: cube(3, "hexahedron", 0), lambda: cube(2, "tetra", 1)),
    "tetrahedra to hexahedra": (lambda: cube(2, "tetra", 1), lambda: cube(3, "hexahedron", 0)),
    "onto itself": (lambda: square(4, "quad", 0), lambda: square(4, "quad", 0)),
}


@pytest.mark.parametrize("case", PAIRS)
def test_integrals_and_constants_are_kept_on_one_domain(case):
    a, b = (make() for make in PAIRS[case])
    known = overlap(a, b)
    # bent faces about their mean, as meshes measure themselves
    assert np.allclose(known.source, a.cell_measures.numpy(), rtol=1e-12)
    assert np.allclose(known.goal, b.cell_measures.numpy(), rtol=1e-12)
    assert abs(known.lost) < 1e-12 and np.abs(known.uncovered).max() < 1e-10
    values = torch.rand(
        a.n_cells, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    for normalise in (False, True):
        out = remap(known, values, normalise)
        had = (a.cell_measures[:, None] * values).sum(0)
        kept = (b.cell_measures[:, None] * out).sum(0)
        assert ((kept - had).abs() / had).max() < 1e-12
        ones = remap(known, torch.full((a.n_cells,), 3.0, dtype=torch.float64), normalise)
        assert (ones - 3).abs().max() < 1e-10
        assert out.min() > values.min() - 1e-12 and out.max() < values.max() + 1e-12


def test_onto_itself_nothing_changes():
    mesh = square(4, "quad", 0)
    values = torch.rand(mesh.n_cells, dtype=torch.float64)
    assert torch.allclose(remap(overlap(mesh, mesh), values), values, atol=1e-12)


def test_linear_fields_to_first_order():
    """The mean error halves with the size of the cells."""
    errors = []
    for n in (8, 16, 32):
        a, b = square(n, "quad", 0), square(n + 3, "triangle", 1)
        out = remap(overlap(a, b), a.cell_centres[:, 0])
        errors.append((b.cell_measures * (out - b.cell_centres[:, 0]).abs()).sum().item())
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    assert (orders > 0.85).all() and (orders < 1.3).all()


def test_what_lies_outside_is_said():
    a, b = square(4, "quad"), square(4, "triangle", shift=0.5)
    known = overlap(a, b)
    assert known.lost == pytest.approx(0.75, abs=1e-12)
    ones = torch.ones(a.n_cells, dtype=torch.float64)
    kept, even = remap(known, ones), remap(known, ones, normalise=True)
    assert (kept.numpy() * known.goal).sum() == pytest.approx(0.25, abs=1e-12)
    covered = known.uncovered < 1 - 1e-9
    assert torch.allclose(even[covered], ones[:1]) and (even[~covered] == 0).all()
    far = overlap(a, square(2, "quad", shift=9.0))
    assert far.lost == 1 and (remap(far, ones) == 0).all()


def test_cells_bent_inwards():
    """An arrowhead and what it leaves of a square, onto triangles: signs make them right."""
    points = [[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [0.7, 0.5]]
    a = Mesh(points, {"quad": [[0, 1, 4, 3]], "triangle": [[1, 2, 4], [2, 3, 4]]})
    known = overlap(a, square(5, "triangle", 3))
    values = torch.tensor([1.0, 5.0, -2.0], dtype=torch.float64)
    had = (a.cell_measures * values).sum().item()
    assert (remap(known, values).numpy() * known.goal).sum() == pytest.approx(had, rel=1e-12)


def test_bad_input():
    flat, solid = square(2, "quad"), cube(1, "tetra")
    with pytest.raises(InputError, match="one dimension"):
        overlap(flat, solid)
    surface = Mesh([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]], {"triangle": [[0, 1, 2]]})
    with pytest.raises(InputError, match="fill 3-D space"):
        overlap(surface, solid)
    known = overlap(flat, flat)
    for values, message in (
        (torch.ones(3), "expected 4 rows"),
        (torch.ones(4, dtype=torch.int64), "floating-point"),
        (torch.full((4,), float("nan")), "values"),
    ):
        with pytest.raises(InputError, match=message):
            remap(known, values)
    assert remap(known, torch.ones(4, 0)).shape == (4, 0)
    assert remap(known, torch.ones(4)).dtype == torch.float32
