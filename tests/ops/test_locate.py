"""Point location against a loop over all cells; linear functions are reproduced."""

from importlib import import_module

import pytest
import torch
from scipy.spatial import Delaunay
from torch.library import opcheck

from meshsim import native
from meshsim.ops import interpolate, locate

OP = torch.ops.meshsim.locate
module = import_module("meshsim.ops.locate")  # the function has its name
DTYPES = (torch.float32, torch.float64)


@pytest.fixture(autouse=True)
def compiled():
    """What is tested is the compiled kernel, unless it is switched off or cannot be built."""
    if native.allowed() and "no C++ compiler" not in native._state["why"]:
        assert all(native.active()[op]["cpu"] == "native" for op in ("locate", "interpolate"))


def rand(*shape, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, dtype=torch.float64, generator=generator).to(dtype)


def mesh(dim, n=120, dtype=torch.float64, grade=False):
    """Points in the unit cube, its corners among them, and their Delaunay cells."""
    corners = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * dim).double()
    points = torch.cat([corners, rand(n, dim)])
    cells = torch.from_numpy(Delaunay(points.numpy()).simplices).long()
    if grade:
        points[:, 0] = 10 ** (-5 * points[:, 0])
    return points.to(dtype), cells


def loop(points, cells, queries):
    """The first cell with all weights >= −1e-9, one query after another."""
    x = points.double()[cells]
    edges = (x[:, 1:] - x[:, :1]).mT  # (C, D, D)
    out = []
    for q in queries.double():
        rest = torch.linalg.solve(edges, (q - x[:, 0])[:, :, None]).squeeze(2)
        weights = torch.cat([1 - rest.sum(1, keepdim=True), rest], 1)
        inside = (weights >= -1e-9).all(1).nonzero()
        out.append(int(inside[0]) if len(inside) else -1)
    return out


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [2, 3])
def test_equals_a_loop_over_all_cells(dim, dtype):
    points, cells = mesh(dim, dtype=dtype)
    queries = rand(200, dim, dtype=dtype, seed=1) * 1.4 - 0.2
    ids, weights = locate(points, cells, queries)
    assert ids.tolist() == loop(points, cells, queries)
    inside = ids >= 0
    assert 20 < int(inside.sum()) < 190 and (weights[~inside] == 0).all()
    back = (points[cells[ids[inside]]] * weights[inside][:, :, None]).sum(1)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(back, queries[inside], rtol=0, atol=8 * eps)
    torch.testing.assert_close(weights[inside].sum(1), weights.new_ones(int(inside.sum())))


@pytest.mark.parametrize("grade", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [2, 3])
def test_equals_the_reference(dim, dtype, grade):
    points, cells = mesh(dim, 600, dtype, grade)
    queries = torch.cat([points, rand(5000, dim, dtype=dtype, seed=1) * 1.4 - 0.2])
    for tolerance in (0.0, 1e-9, 1e-3):
        a, b = (
            OP(points, cells, queries, tolerance),
            module._locate(points, cells, queries, tolerance),
        )
        assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])


@pytest.mark.parametrize("dim", [2, 3])
def test_shared_corners_and_faces_take_the_smallest_cell(dim):
    points, cells = mesh(dim)
    ids, _ = locate(points, cells, points)
    for i in range(len(points)):
        assert ids[i] == (cells == i).any(1).nonzero()[0]
    middle = points[cells[:, :dim]].mean(1)  # of a face of each cell
    faces = cells[:, :dim].sort(1).values
    for i, face in enumerate(locate(points, cells, middle)[0].tolist()):
        with_face = [
            c for c in range(len(cells)) if set(faces[i].tolist()) <= set(cells[c].tolist())
        ]
        assert face == with_face[0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [2, 3])
def test_linear_functions_are_reproduced(dim, dtype):
    points, cells = mesh(dim, dtype=dtype)
    queries = rand(300, dim, dtype=dtype, seed=2)
    slope = rand(dim, 4, dtype=dtype, seed=3)
    ids, weights = locate(points, cells, queries)
    assert (ids >= 0).all()
    found = interpolate(points @ slope + 1, cells, ids, weights)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(found, queries @ slope + 1, rtol=0, atol=16 * eps)


def test_flat_cells_hold_nothing():
    points = torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
    cells = torch.tensor([[0, 1, 2], [0, 1, 1], [0, 2, 3]])
    assert locate(points, cells, torch.tensor([[0.5, 0.0]]))[0].tolist() == [2]


def test_nothing_to_find():
    points, cells = mesh(2)
    none = torch.zeros(0, 2, dtype=torch.float64)
    assert locate(points, cells, none)[1].shape == (0, 3)
    assert locate(points, cells[:0], points[:2])[0].tolist() == [-1, -1]
    assert locate(none, cells[:0], points[:1])[0].tolist() == [-1]


def test_interpolation_outside():
    points, cells = mesh(2)
    ids, weights = locate(points, cells, torch.tensor([[3.0, 0.0], [0.5, 0.5]]).double())
    found = interpolate(points, cells, ids, weights, outside=-7.0)
    assert found[0].tolist() == [-7.0, -7.0]
    torch.testing.assert_close(found[1], torch.tensor([0.5, 0.5]).double())
    assert interpolate(points[:, 0], cells, ids, weights).shape == (2,)
    assert interpolate(points[:, :, None], cells, ids, weights).shape == (2, 2, 1)


def test_gradients_of_interpolation():
    points, cells = mesh(2, 10)
    ids, weights = locate(points, cells, rand(6, 2, seed=1) * 1.5)
    values = rand(len(points), 2, seed=2).requires_grad_()
    weights.requires_grad_()
    f = lambda v, w: interpolate(v, cells, ids, w)  # noqa: E731
    assert torch.autograd.gradcheck(f, (values, weights))
    assert torch.autograd.gradgradcheck(f, (values, weights))


@pytest.mark.parametrize("dtype", [*DTYPES, torch.bfloat16])
@pytest.mark.parametrize("shape", [(), (1,), (5,), (2, 3), (0,)])
def test_interpolation_equals_a_loop(shape, dtype):
    points, cells = mesh(3, 60)
    queries = rand(90, 3, seed=1) * 1.3
    ids, weights = locate(points, cells, queries)
    values, weights = rand(len(points), *shape, dtype=dtype, seed=2), weights.to(dtype)
    found = interpolate(values, cells, ids, weights, outside=0.25)
    assert found.dtype == dtype and found.shape == (90, *shape)
    eps = torch.finfo(dtype).eps
    for row, cell, weight in zip(found.double(), ids.tolist(), weights.double(), strict=True):
        want = torch.full(shape, 0.25, dtype=torch.float64)
        if cell >= 0:
            want = sum(w * values[i].double() for w, i in zip(weight, cells[cell], strict=True))
        torch.testing.assert_close(row, want, rtol=0, atol=3 * eps)


@pytest.mark.parametrize("dtype", [*DTYPES, torch.bfloat16])
def test_interpolation_equals_the_reference(dtype):
    points, cells = mesh(2, 60)
    ids, weights = locate(points, cells, rand(3000, 2, seed=1) * 1.3)
    values, weights = rand(len(points), 3, dtype=dtype), weights.to(dtype)
    arguments = (values, cells, ids, weights, -1.0)
    found = torch.ops.meshsim.interpolate(*arguments)
    assert torch.equal(found, module._interpolate(*arguments))


def test_mixed_types_are_promoted():
    points, cells = mesh(2, 20)
    ids, weights = locate(points, cells, points)
    found = interpolate(points.float(), cells, ids, weights)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, points.float().double())


def test_gradients_of_interpolated_numbers():
    points, cells = mesh(2, 10)
    ids, weights = locate(points, cells, rand(6, 2, seed=1) * 1.5)
    values = rand(len(points), seed=2).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: interpolate(v, cells, ids, weights), (values,))
    interpolate(values, cells, ids, weights).sum().backward()
    inside = ids >= 0
    want = torch.zeros(len(points), dtype=torch.float64)
    for cell, weight in zip(ids[inside].tolist(), weights[inside], strict=True):
        for i, w in zip(cells[cell].tolist(), weight.tolist(), strict=True):
            want[i] += w
    torch.testing.assert_close(values.grad, want)


def test_same_bits_for_any_number_of_threads():
    points, cells = mesh(3)
    queries, before, results = rand(3000, 3), torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found = OP(points, cells, queries)
            results.append((*found, interpolate(points, cells, *found)))
    finally:
        torch.set_num_threads(before)
    assert all(all(map(torch.equal, results[0], again)) for again in results[1:])


def test_dispatcher_contract():
    points, cells = mesh(3, 20)
    opcheck(OP.default, (points, cells, rand(9, 3)))
    ids, weights = OP(points, cells, rand(9, 3) * 1.5)
    values = rand(len(points), 2).requires_grad_()
    opcheck(torch.ops.meshsim.interpolate.default, (values, cells, ids, weights))


def test_compiles_whole():
    points, cells = mesh(2, 20)
    compiled = torch.compile(
        lambda q: OP(points, cells, q)[1] * 2, fullgraph=True, backend="aot_eager"
    )
    queries = rand(9, 2)
    assert torch.equal(compiled(queries), OP(points, cells, queries)[1] * 2)


X, TRIANGLE = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0, 1, 2]])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((X * torch.nan, TRIANGLE, X), "`points`.*finite"),
        ((X, TRIANGLE, X + torch.inf), "`queries`.*finite"),
        ((X, TRIANGLE + 1, X), "`cells`: index 3 at row"),
        ((X, TRIANGLE - 1, X), "`cells`: index -1 at row"),
        ((X, TRIANGLE.int(), X), "`cells`: expected"),
        ((X, TRIANGLE[:, :2], X), "`cells`: expected shape"),
        ((X, TRIANGLE, X.double()), "`queries`: expected"),
        ((X, TRIANGLE, X[:, :1]), "`queries`: expected shape"),
        ((X[:, :1], TRIANGLE, X[:, :1]), "`points`: expected shape"),
        ((X.half(), TRIANGLE, X.half()), "`points`: expected float32 or float64"),
        ((X, TRIANGLE, X, -1.0), "`tolerance`: expected a number >= 0"),
    ],
)
def test_bad_input_is_named(arguments, message):
    for call in (OP, module._locate):
        with pytest.raises(ValueError, match=message):
            call(*arguments)


def test_bad_ids_are_named():
    weights = torch.full((1, 3), 1 / 3)
    for ids, message in (([1], "`ids`: index 1"), ([-2], "`ids`: expected -1 or")):
        with pytest.raises(ValueError, match=message):
            interpolate(X, TRIANGLE, torch.tensor(ids), weights)
    with pytest.raises((ValueError, TypeError), match="weights"):
        interpolate(X, TRIANGLE, torch.tensor([0]), weights[:, :2])


V, ID, W = torch.zeros(3, 2), torch.tensor([0]), torch.full((1, 3), 1 / 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((V[:, 0], TRIANGLE, ID, W), "`values`: expected shape"),
        ((V.half(), TRIANGLE, ID, W.half()), "`values`: expected float32, float64 or bfloat16"),
        ((V, TRIANGLE, ID, W.double()), "`weights`: expected"),
        ((V, TRIANGLE, ID, W[:, :2]), "`weights`: expected shape"),
        ((V, TRIANGLE, ID, W[:0]), "`weights`: expected shape"),
        ((V, TRIANGLE.int(), ID, W), "`cells`: expected"),
        ((V, TRIANGLE[0], ID, W), "`cells`: expected shape"),
        ((V, TRIANGLE, ID.int(), W), "`ids`: expected"),
        ((V, TRIANGLE, ID[None], W), "`ids`: expected shape"),
        ((V, TRIANGLE, ID + 1, W), "`ids`: index 1 at row 0"),
        ((V, TRIANGLE, ID - 2, W), "`ids`: expected -1 or the number of a cell, got -2"),
        ((V, TRIANGLE + 1, ID, W), "`cells`: index 3 at row 0"),
        ((V, TRIANGLE[:0], ID, W), "`ids`: index 0 at row 0"),
    ],
)
def test_bad_interpolation_is_named(arguments, message):
    for call in (torch.ops.meshsim.interpolate, module._interpolate):
        with pytest.raises(ValueError, match=message):
            call(*arguments)
