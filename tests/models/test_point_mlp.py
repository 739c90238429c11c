"""Point MLP; laws that all models share which know points one by one, and their distances."""

import json

import pytest
import torch

from meshsim.check import InputError
from meshsim.models.field import Branch, FieldBatch, Points, cloud_distance, in_order
from meshsim.models.point_mlp import PointMLP

BRANCHES = {
    "surface": Branch(2, {"p": 1}),
    "volume": {"inputs": 0, "outputs": {"u": 3, "p": 1}},
}
EXACT = [(2, torch.float64, 1e-11), (3, torch.float64, 1e-11), (3, torch.float32, 1e-5)]


def normal(shape, seed):
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(seed)).double()


def bodies(dim, n=40, seed=0, dtype=torch.float64):
    """Two ellipsoids; features are normals and one number more."""
    unit = torch.nn.functional.normalize(normal((2, n, dim), seed), dim=2)
    axes = torch.tensor([[1.0, 0.6, 0.8], [0.5, 0.9, 0.7]]).double()[:, None, :dim]
    out = torch.nn.functional.normalize(unit / axes, dim=2)
    x = torch.cat([out, unit[..., :1] * axes[..., :1]], 2)
    return Points((unit * axes).to(dtype), x.to(dtype))


def batch(dim, n=30, dtype=torch.float64, seed=1):
    """Two samples whose fields are smooth and depend on body and parameters."""
    parameters = torch.tensor([[0.5, -1.0], [-0.7, 0.4]]).double()
    points, targets = {}, {}
    for i, (name, branch) in enumerate(BRANCHES.items()):
        spec = Branch.of(branch)
        pos, x = normal((2, n, dim), seed + i) / 2, normal((2, n, spec.inputs), seed + 9)
        y = torch.stack([pos[..., 0] + parameters[:, :1], pos[..., 1] * parameters[:, 1:]], 2)
        columns = torch.cat([y, y.flip(2)], 2)
        points[name] = Points(pos.to(dtype), x.to(dtype))
        targets[name] = {k: columns[..., :c].to(dtype) for k, c in spec.outputs.items()}
    geometry = bodies(dim, seed=seed, dtype=dtype)
    return FieldBatch(geometry, parameters.to(dtype), points, targets)


def made(cls, dim, dtype=torch.float64, seed=0, **changes):
    torch.manual_seed(seed)
    return cls(dim, dim + 1, BRANCHES, 2, **changes).to(dtype)


def answer(model, given, **changes):
    given = given._replace(**changes)
    with torch.no_grad():
        latent = model.encode(given.geometry, given.parameters)
        return {k: model.decode(latent, k, points) for k, points in given.points.items()}


def close(a, b, tolerance):
    assert list(a) == list(b)
    for name in a:
        for key in a[name]:
            torch.testing.assert_close(a[name][key], b[name][key], rtol=tolerance, atol=tolerance)


def apart(a, b):
    return min((a[k][f] - b[k][f]).abs().max() for k in a for f in a[k])


def check_shared_laws(model, dim, dtype, tolerance):
    """Shapes; subsets, orders and samples make no difference; parameters and bodies do."""
    given = batch(dim, dtype=dtype)
    out = answer(model, given)
    for name, fields in out.items():
        assert {k: y.shape[2] for k, y in fields.items()} == Branch.of(BRANCHES[name]).outputs
        assert all(y.shape[:2] == (2, 30) and y.dtype == dtype for y in fields.values())

    def taken(index):
        return {k: Points(*(t[:, index] for t in p)) for k, p in given.points.items()}

    index = torch.tensor([7, 3, 21])
    part = {k: {f: y[:, index] for f, y in fields.items()} for k, fields in out.items()}
    close(answer(model, given, points=taken(index)), part, tolerance)
    none = answer(model, given, points=taken(index[:0]))
    assert all(y.shape[1] == 0 for fields in none.values() for y in fields.values())
    order = torch.randperm(40, generator=torch.Generator().manual_seed(5))
    mixed = Points(*(t[:, order] for t in given.geometry))
    close(answer(model, given, geometry=mixed), out, max(tolerance, 1e-9))
    for b in range(2):
        alone = FieldBatch(
            Points(*(t[b : b + 1] for t in given.geometry)),
            given.parameters[b : b + 1],
            {k: Points(*(t[b : b + 1] for t in p)) for k, p in given.points.items()},
            {},
        )
        one = {k: {f: y[b : b + 1] for f, y in fields.items()} for k, fields in out.items()}
        close(answer(model, alone), one, tolerance)
    assert apart(answer(model, given, parameters=given.parameters + 1), out) > 1e-6
    assert apart(answer(model, given, geometry=bodies(dim, seed=8, dtype=dtype)), out) > 1e-9
    latent = model.encode(given.geometry, given.parameters)
    full = {k: model.decode(latent, k, points) for k, points in given.points.items()}
    assert all(y.requires_grad for fields in full.values() for y in fields.values())
    close({k: {f: y.detach() for f, y in v.items()} for k, v in full.items()}, out, tolerance)


def check_rebuilt(model, dim):
    """Arguments are plain, and with the weights they are all that there is."""
    arguments = json.loads(json.dumps(model.arguments))
    torch.manual_seed(123)
    again = type(model)(**arguments).double()
    again.load_state_dict(model.state_dict())
    assert again.arguments == model.arguments
    close(answer(again, batch(dim)), answer(model, batch(dim)), 0.0)


def check_refusals(cls):
    """What cannot be is named."""
    with pytest.raises(InputError, match=r"branch 'v': expected no curl"):
        cls(2, 0, {"v": Branch(0, {"u": 2}, ("u",))})
    with pytest.raises(InputError, match=r"`branches`: expected 1 or more, got 0"):
        cls(2, 0, {})
    with pytest.raises(InputError, match=r"`width`: expected 1 or more, got 0"):
        cls(2, 0, BRANCHES, width=0)
    with pytest.raises(InputError, match=r"`normals`: expected the first of 2 columns among 3"):
        cls(2, 3, BRANCHES, normals=2)
    model, given = made(cls, 2), batch(2)
    with pytest.raises(InputError, match=r"geometry: expected positions \(B, N, 2\)"):
        model.encode(Points(given.geometry.pos, given.geometry.x[..., 1:]), given.parameters)
    with pytest.raises(InputError, match=r"geometry: expected 1 points or more, got 0"):
        model.encode(Points(*(t[:, :0] for t in given.geometry)), given.parameters)
    with pytest.raises(InputError, match=r"`parameters`: expected \(2, 2\), got \(2, 1\)"):
        model.encode(given.geometry, given.parameters[:, :1])
    latent = model.encode(given.geometry, given.parameters)
    with pytest.raises(InputError, match=r"unknown branch 'volum': did you mean 'volume'"):
        model.decode(latent, "volum", given.points["volume"])
    with pytest.raises(InputError, match=r"surface: expected .* features \(B, N, 2\)"):
        model.decode(latent, "surface", given.points["volume"])


def trained(model, given, steps, rate=5e-3, first=0.0, last=1.0):
    """Losses while training from one share of it to another."""
    optimiser, losses = torch.optim.Adam(model.parameters(), lr=rate), []
    for i in range(steps):
        loss = model.training_loss(given, first + (last - first) * i / steps)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    return losses


def felt(model):
    """Names of parameters with a gradient that is not zero."""
    return {n for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}


# --- the distance from a cloud ---


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dim", [2, 3])
def test_at_a_plane_the_distance_is_exact_however_few_points_there_are(dim, dtype):
    cloud = normal((1, 12, dim), 0)
    cloud[..., -1] = 0.25
    up = torch.zeros_like(cloud)
    up[..., -1] = 1
    places = normal((1, 50, dim), 1) / 4
    d, direction = cloud_distance(cloud.to(dtype), up.to(dtype), places.to(dtype))
    near = places[..., :-1].norm(dim=2) < 0.3  # beyond the cloud's edge it is another
    want = (places[..., -1] - 0.25).to(dtype)
    torch.testing.assert_close(d[near], want[near], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(direction, up[:, :1].to(dtype).expand(1, 50, dim))


def test_beyond_an_edge_the_nearest_point_counts_and_not_the_plane():
    x = torch.linspace(-1, 1, 201, dtype=torch.float64)
    plate = torch.stack([x, torch.zeros_like(x)], 1)[None]
    up = torch.tensor([0.0, 1.0]).double().expand(1, 201, 2)
    both = torch.cat([plate + up * 1e-3, plate - up * 1e-3], 1)
    behind = torch.tensor([[[1.5, 0.0], [3.0, 0.002]]]).double()
    d = cloud_distance(both, torch.cat([up, -up], 1), behind)[0]
    torch.testing.assert_close(d, torch.tensor([[0.5, 2.0]]).double(), rtol=0.03, atol=0.0)
    inside = torch.tensor([[[0.3, 0.0], [0.3, 0.0005]]]).double()
    assert (cloud_distance(both, torch.cat([up, -up], 1), inside)[0] < 0).all()


def test_at_a_circle_the_error_falls_with_the_square_of_the_spacing():
    off = []
    for n in (40, 80, 160):
        t = torch.arange(n, dtype=torch.float64)[None] * 2 * torch.pi / n
        circle = torch.stack([t.cos(), t.sin()], 2)
        turn = torch.linspace(0, 6, 97, dtype=torch.float64)[None]
        ring = torch.stack([turn.cos(), turn.sin()], 2)
        for r in (0.5, 1.0, 2.0):
            off.append((cloud_distance(circle, circle, r * ring)[0] - (r - 1)).abs().max())
    rates = torch.stack(off).view(3, 3).log2().diff(dim=0)
    assert (rates < -1.9).all()


def test_without_normals_it_is_the_nearest_point():
    cloud, places = normal((2, 30, 3), 0), normal((2, 20, 3), 1)
    want = torch.cdist(places, cloud).amin(2)
    d, none = cloud_distance(cloud, cloud[..., :0], places)
    torch.testing.assert_close(d, want)
    assert none.shape == (2, 20, 0)
    assert cloud_distance(cloud, cloud[..., :0], cloud)[0].max() == 0


@pytest.mark.parametrize("signed", [True, False])
def test_its_gradient_is_that_of_what_it_computes(signed):
    cloud, normals = bodies(2)[0], bodies(2)[1][..., :2]
    normals = normals if signed else normals[..., :0]
    places = normal((2, 6, 2), 3).requires_grad_()
    (slope,) = torch.autograd.grad(cloud_distance(cloud, normals, places)[0].sum(), places)
    if not signed:  # of a distance it has length one, and on the cloud it is zero
        torch.testing.assert_close(slope.norm(dim=2), torch.ones(2, 6).double())
    on = cloud[:, :6].clone().requires_grad_()
    (slope,) = torch.autograd.grad(cloud_distance(cloud, normals, on)[0].sum(), on)
    assert torch.isfinite(slope).all()


def test_points_in_order_are_the_same_points():
    mixed = Points(
        torch.tensor([[[1.0, 0.0], [0.0, 2.0], [0.0, 1.0]]]), torch.arange(3.0)[None, :, None]
    )
    assert in_order(mixed).x.flatten().tolist() == [2.0, 1.0, 0.0]


# --- the model ---


@pytest.mark.parametrize(("dim", "dtype", "tolerance"), EXACT)
@pytest.mark.parametrize("changes", [{}, {"distance": True, "normals": 0, "norm": False}])
def test_laws(dim, dtype, tolerance, changes):
    check_shared_laws(made(PointMLP, dim, dtype, width=16, **changes), dim, dtype, tolerance)


def test_rebuilt_from_its_arguments():
    check_rebuilt(made(PointMLP, 2, width=16, distance=True), 2)


def test_refusals():
    check_refusals(PointMLP)


def test_without_pooling_or_distances_the_geometry_is_not_looked_at():
    model, given = made(PointMLP, 2, width=8, pooled=False), batch(2)
    out = answer(model, given)
    close(answer(model, given, geometry=bodies(2, seed=8)), out, 0.0)
    close(answer(model, given, geometry=Points(*(t[:, :0] for t in given.geometry))), out, 0.0)


def test_tiles_change_nothing(monkeypatch):
    model, given = made(PointMLP, 3, width=16, distance=True, normals=0), batch(3)
    out = answer(model, given)
    monkeypatch.setattr("meshsim.models.field.TILE", 7)
    close(answer(model, given), out, 1e-12)


@pytest.mark.parametrize("relative", [False, True])
def test_learns_two_samples(relative):
    model, given = made(PointMLP, 2, torch.float32, width=32), batch(2, dtype=torch.float32)
    if relative:
        zeros = {k: {f: torch.zeros(()) for f in fields} for k, fields in given.targets.items()}
        given = given._replace(offsets=zeros)
    losses = trained(model, given, 80)
    assert losses[-1] < losses[0] / 10
    assert felt(model) == {name for name, _ in model.named_parameters()}
