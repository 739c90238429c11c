"""Neighbours against loops over all pairs, scipy and the torch reference; laws; bad input."""

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree
from torch.library import opcheck

from meshsim import native
from meshsim.ops import neighbors
from meshsim.ops.neighbors import knn, radius

OPS = torch.ops.meshsim
DTYPES = (torch.float32, torch.float64)


@pytest.fixture(autouse=True)
def compiled():
    """What is tested is the compiled kernel, unless it is switched off or cannot be built."""
    if native.allowed() and "no C++ compiler" not in native._state["why"]:
        assert all(native.active()[op]["cpu"] == "native" for op in ("radius", "knn"))


def rand(*shape, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, dtype=torch.float64, generator=generator).to(dtype)


def squares(points, queries):
    p, q = points.double().numpy(), queries.double().numpy()
    out = np.zeros((len(q), len(p)))
    for d in range(p.shape[1]):
        out += (p[None, :, d] - q[:, None, d]) ** 2
    return torch.from_numpy(out)


def loop_radius(points, queries, r, most=None):
    rows = []
    for row in squares(points, queries):
        inside = (row <= r * r).nonzero().squeeze(1).tolist()
        if most is not None:
            inside = sorted(sorted(inside, key=lambda i: (row[i], i))[:most])
        rows.append(inside)
    return rows


def loop_knn(points, queries, k):
    return [
        sorted(range(len(points)), key=row.__getitem__)[:k]
        for row in squares(points, queries).tolist()
    ]


def rows_of(rowptr, indices):
    return [part.tolist() for part in indices.split(rowptr.diff().tolist())]


def clouds(dim, dtype):
    """Points of the kinds that break neighbour searches."""
    uniform = rand(400, dim, dtype=dtype)
    graded = uniform.clone()
    graded[:, 0] = 10 ** (-6 * graded[:, 0])
    line = uniform.clone()
    line[:, 1:] = 0.25
    lattice = (uniform * 6).round()
    return {
        "uniform": uniform,
        "graded": graded,
        "collinear": line,
        "lattice": lattice,
        "twice": torch.cat([uniform[:150]] * 3),
        "one place": torch.ones(150, dim, dtype=dtype),
        "far away": uniform + 1e6,
        "outlier": torch.cat([uniform, torch.full((1, dim), 1e12, dtype=dtype)]),
        "few": uniform[:3],
    }


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [1, 2, 3])
def test_equals_loops_over_all_pairs(dim, dtype):
    for name, points in clouds(dim, dtype).items():
        queries = torch.cat([points[::3], rand(40, dim, dtype=dtype, seed=1) * 2 - 0.5])
        for r in (0.0, 0.1, 1.0):
            assert rows_of(*radius(points, queries, r)) == loop_radius(points, queries, r), name
        found = rows_of(*radius(points, queries, 0.3, max_neighbors=4))
        assert found == loop_radius(points, queries, 0.3, 4), name
        for k in (1, 5):
            k = min(k, len(points))
            indices, distances = knn(points, queries, k)
            assert indices.tolist() == loop_knn(points, queries, k), name
            exact = np.sqrt(
                squares(points, queries).gather(1, indices).numpy()
            )  # torch's rounds badly
            assert torch.equal(distances, torch.from_numpy(exact).to(dtype)), name


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [1, 2, 3])
def test_equals_the_reference(dim, dtype):
    for name, points in clouds(dim, dtype).items():
        others = rand(90, dim, dtype=dtype, seed=2)
        for queries in (points, others):
            for most in (None, 0, 7):
                a = OPS.radius(points, queries, 0.2, None, None, most)
                b = neighbors._radius(points, queries, 0.2, None, None, most)
                assert all(map(torch.equal, a, b)), name
            for k in (0, 3, 40, 200, 500):
                a, b = OPS.knn(points, queries, k), neighbors._knn(points, queries, k)
                assert all(map(torch.equal, a, b)), (name, k)


def test_agrees_with_scipy():
    points, queries = rand(5000, 3), rand(700, 3, seed=1)
    tree = cKDTree(points.numpy())
    rows = tree.query_ball_point(queries.numpy(), 0.08, return_sorted=True)
    assert rows_of(*radius(points, queries, 0.08)) == rows.tolist()
    distances, indices = tree.query(queries.numpy(), 16)
    ours = knn(points, queries, 16)
    assert np.array_equal(ours[0].numpy(), indices)
    np.testing.assert_allclose(ours[1].numpy(), distances, rtol=1e-14)


def test_scattered_queries_over_many_points():
    # a group of queries then needs so many leaves that each looks on its own
    points, queries = rand(20_000, 2), rand(9, 2, seed=3) * 4 - 1.5
    assert rows_of(*radius(points, queries, 0.7)) == loop_radius(points, queries, 0.7)
    a, b = OPS.knn(points, queries, 600), neighbors._knn(points, queries, 600)
    assert all(map(torch.equal, a, b))


def crowds(dim, dtype):
    """Points and radii for the cells of a grid: on their sides, crowded, far apart, one cell."""
    axis = torch.arange(-3, 4) / 8
    lattice = torch.cartesian_prod(*[axis] * dim).reshape(-1, dim).to(dtype) + 5
    places = rand(9, dim) * 10
    clusters = (places[:, None] + rand(9, 90, dim, seed=4) * 0.01).flatten(0, 1).to(dtype)
    layer = rand(900, dim, dtype=dtype)
    layer[:, -1] = 10 ** (-3 * layer[:, -1])
    return {
        "lattice": (lattice, (0.125, 0.25, 0.375)),
        "clusters": (clusters, (0.002, 0.005, 0.3)),
        "layer": (layer, (0.003, 0.05)),
        "one cell": (rand(400, dim, dtype=dtype), (3.0,)),
        "fine": (rand(900, dim, dtype=dtype), (1e-6, 1e-9)),  # the second is for the tree
    }


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [1, 2, 3])
def test_cells_of_the_grid_hide_nothing(dim, dtype):
    for name, (points, radii) in crowds(dim, dtype).items():
        outside = torch.cat([points[:40] - 0.2, points[:40] + 3 * radii[-1], points[:5] * 1e6])
        for r in radii:
            for queries in (points, torch.cat([points[::7], outside])):
                found, known = OPS.radius(points, queries, r), neighbors._radius(points, queries, r)
                assert all(map(torch.equal, found, known)), (name, r)
        found = OPS.radius(points, points, radii[-1], None, None, 5)
        assert torch.equal(found[1], neighbors._radius(points, points, radii[-1], None, None, 5)[1])


def test_one_query_of_very_many_points():
    points = rand(4000, 2)
    assert rows_of(*radius(points, points[:1], 0.9)) == loop_radius(points, points[:1], 0.9)


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_rows_of_all_lengths_rise(dim):
    # as long as vectors, a little longer, and too long to be put in order by counting
    lengths = [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 65, 255, 256, 257, 300, 520]
    cluster = torch.repeat_interleave(torch.arange(20), torch.tensor(lengths))
    order = torch.randperm(len(cluster), generator=torch.Generator().manual_seed(7))
    points = rand(len(cluster), dim) * 0.3
    points[:, 0] += 3 * cluster
    points, centres = points[order], torch.zeros(20, dim, dtype=torch.float64)
    centres[:, 0] = 3 * torch.arange(20)
    assert radius(points, centres, 1.0)[0].diff().tolist() == lengths
    outlier = torch.full((1, dim), 1e12, dtype=torch.float64)
    for cloud in (points, torch.cat([points, outlier])):  # the second is for the tree
        for queries in (cloud, centres):
            for most in (None, 9, 256):
                found = OPS.radius(cloud, queries, 1.0, None, None, most)
                known = neighbors._radius(cloud, queries, 1.0, None, None, most)
                assert all(map(torch.equal, found, known)), most


def test_neighbours_on_the_sphere_are_decided_in_float64():
    # distances within a few roundings of r: float32 could not tell them apart
    turn = torch.linspace(0, 6.28, 500, dtype=torch.float64)
    circle = torch.stack([turn.cos(), turn.sin()], 1)
    for points in (circle, circle.float(), circle * (1 + 1e-7 * torch.randn(500, 1).double())):
        centre = torch.zeros(1, 2, dtype=points.dtype)
        assert rows_of(*radius(points, centre, 1.0)) == loop_radius(points, centre, 1.0)
        assert 0 < len(radius(points, centre, 1.0)[1]) < 500 or points is circle


@pytest.mark.parametrize("dim", [2, 3])
def test_many_batches_in_one_grid(dim):
    points, generator = rand(900, dim), torch.Generator().manual_seed(6)
    cuts = torch.randint(0, 901, (60,), generator=generator).sort().values
    batch = torch.cat([torch.tensor([0]), cuts, torch.tensor([900])])
    found = OPS.radius(points, points, 0.3, batch, batch)
    assert all(map(torch.equal, found, neighbors._radius(points, points, 0.3, batch, batch)))


@pytest.mark.parametrize("dim", [2, 3])
def test_the_radius_graph_is_symmetric(dim):
    points = clouds(dim, torch.float32)["graded"]
    rowptr, indices = radius(points, points, 0.05)
    rows = torch.repeat_interleave(rowptr.diff())
    pairs = set(zip(rows.tolist(), indices.tolist(), strict=True))
    assert pairs == {(b, a) for a, b in pairs} and all((i, i) in pairs for i in range(len(points)))


def test_batches_see_only_themselves():
    points, queries = rand(60, 3), rand(40, 3, seed=1)
    of_points, of_queries = torch.tensor([0, 20, 20, 55, 60]), torch.tensor([0, 5, 9, 40, 40])
    rowptr, indices = radius(points, queries, 0.4, of_points, of_queries)
    near, distances = knn(points, queries, 22, of_points, of_queries)
    rows = []
    for b in range(4):
        p, q = (slice(int(o[b]), int(o[b + 1])) for o in (of_points, of_queries))
        rows += [[i + p.start for i in row] for row in loop_radius(points[p], queries[q], 0.4)]
        for row, i in zip(loop_knn(points[p], queries[q], 22), range(q.start, q.stop), strict=True):
            missing = 22 - len(row)
            assert near[i].tolist() == [j + p.start for j in row] + [-1] * missing
            assert distances[i].isinf().sum() == missing
    assert rows_of(rowptr, indices) == rows
    reference = neighbors._radius(points, queries, 0.4, of_points, of_queries)
    assert torch.equal(indices, reference[1])
    assert torch.equal(near, neighbors._knn(points, queries, 22, of_points, of_queries)[0])


def test_nothing_to_search():
    none, some = torch.zeros(0, 3), torch.zeros(2, 3)
    assert radius(none, some, 1.0)[0].tolist() == [0, 0, 0]
    assert radius(some, none, 1.0)[0].tolist() == [0]
    assert knn(none, some, 2)[0].tolist() == [[-1, -1], [-1, -1]]
    assert knn(some, none, 2)[0].shape == (0, 2) and knn(some, some, 0)[1].shape == (2, 0)


def test_strided_points():
    points = rand(6, 200).T[:, ::2]
    assert rows_of(*radius(points, points, 0.2)) == loop_radius(points, points, 0.2)


def test_boundary_is_inside():
    points = torch.tensor([[0.1], [0.3]], dtype=torch.float32)
    r = float(points[1].double() - points[0].double())
    assert len(radius(points, points, r)[1]) == 4
    assert len(radius(points, points, np.nextafter(r, 0))[1]) == 2
    assert len(radius(points, points, float("inf"))[1]) == 4


def test_same_bits_for_any_number_of_threads():
    points = rand(50_000 if native.active()["knn"]["cpu"] == "native" else 3000, 3)
    r = 2.5 * len(points) ** (-1 / 3)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3, 1):
            torch.set_num_threads(threads)
            found = (*OPS.radius(points, points, r), *OPS.radius(points[:9], points, 1e-9))
            results.append((*found, *OPS.knn(points, points, 9)))
    finally:
        torch.set_num_threads(before)
    for again in results[1:]:
        assert all(map(torch.equal, results[0], again))


@pytest.mark.parametrize("dtype", DTYPES)
def test_dispatcher_contract(dtype):
    points, queries = rand(30, 2, dtype=dtype), rand(7, 2, dtype=dtype, seed=1)
    batch = torch.tensor([0, 10, 30]), torch.tensor([0, 7, 7])
    opcheck(OPS.radius.default, (points, queries, 0.3))
    opcheck(OPS.radius.default, (points, queries, 0.3, *batch, 3))
    opcheck(OPS.knn.default, (points, queries, 4))
    opcheck(OPS.knn.default, (points, queries, 4, *batch))


def test_compiles_whole():
    def f(points, queries):
        rowptr, indices = OPS.radius(points, queries, 0.3)
        near, distances = OPS.knn(points, queries, 3)
        return rowptr * 2, indices + 1, near + 1, distances * 2

    points, queries = rand(50, 3), rand(8, 3, seed=1)
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        found = torch.compile(f, fullgraph=True, backend="aot_eager")(points, queries)
    assert all(map(torch.equal, found, f(points, queries)))


P = torch.zeros(4, 3)
BAD = [
    ((P.index_fill(0, torch.tensor(2), torch.nan), P), "`points`.*finite"),
    ((P, P.index_fill(0, torch.tensor(1), torch.inf)), "`queries`.*finite"),
    ((P, torch.zeros(4, 2)), "`queries`: expected shape"),
    ((P, P.double()), "`queries`: expected"),
    ((P.bfloat16(), P.bfloat16()), "`points`: expected float32 or float64"),
    ((P.long(), P.long()), "`points`: expected float32 or float64"),
    ((torch.zeros(4), P), "`points`: expected"),
    ((torch.zeros(4, 4), torch.zeros(4, 4)), "`points`: expected"),
    ((torch.zeros(4, 0), torch.zeros(4, 0)), "`points`: expected"),
]


@pytest.mark.parametrize(("inputs", "message"), BAD)
def test_bad_points_are_named(inputs, message):
    for call in (
        lambda: OPS.radius(*inputs, 1.0),
        lambda: OPS.knn(*inputs, 1),
        lambda: neighbors._radius(*inputs, 1.0),
        lambda: neighbors._knn(*inputs, 1),
    ):
        with pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        (([0, 4], None), "both batches or none"),
        (([0, 4], [0, 2, 4]), "`batch_queries`: expected 2 offsets"),
        (([0, 5], [0, 4]), "`batch_points`: expected to rise from 0 to 4"),
        (([0, 4], [0, 3]), "`batch_queries`: expected to rise from 0 to 4"),
        (([0, 3, 2, 4], [0, 0, 0, 4]), "not rising"),
    ],
)
def test_bad_batches_are_named(batches, message):
    a, b = (None if x is None else torch.tensor(x) for x in batches)
    for call, size in (
        *((f, 1.0) for f in (OPS.radius, neighbors._radius)),
        *((f, 1) for f in (OPS.knn, neighbors._knn)),
    ):
        with pytest.raises(ValueError, match=message):
            call(P, P, size, a, b)


def test_bad_numbers_are_named():
    for r in (-1.0, float("nan")):
        for call in (OPS.radius, neighbors._radius):
            with pytest.raises(ValueError, match="`r`: expected a number >= 0"):
                call(P, P, r)
    for call in (OPS.knn, neighbors._knn):
        with pytest.raises(ValueError, match="`k`: expected >= 0"):
            call(P, P, -1)
    for call in (OPS.radius, neighbors._radius):
        with pytest.raises(ValueError, match="`max_neighbors`: expected >= 0"):
            call(P, P, 1.0, None, None, -2)
