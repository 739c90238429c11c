"""Values on boundaries: to the bit where they are prescribed, with the right slopes."""

import math

import pytest
import torch
import trimesh

from meshsim.check import InputError
from meshsim.physics.boundary import blended, facets, fixed_value, joined, plane
from meshsim.physics.walls import squared_distance

DTYPES = [torch.float32, torch.float64]


def network(dim, dtype, out=2):
    torch.manual_seed(0)
    layers = torch.nn.Linear(dim, 16), torch.nn.Tanh(), torch.nn.Linear(16, out)
    return torch.nn.Sequential(*layers).to(dtype)


def slope(field, x):
    x = x.detach().requires_grad_()
    return torch.autograd.grad(field(x).sum(), x)[0]


def box_sides(dim):
    """The planes of the unit square or cube, distances inwards."""
    sides = []
    for axis in range(dim):
        way = [0.0] * dim
        way[axis] = 1.0
        sides += [plane([0.0] * dim, way), plane([1.0] * dim, [-w for w in way])]
    return sides


def on_sides(dim, dtype, n=20):
    """Points on each side of the unit box: a list, in the order of `box_sides`."""
    out = []
    for axis in range(dim):
        for end in (0.0, 1.0):
            x = 0.1 + 0.8 * torch.rand(n, dim, dtype=dtype)
            x[:, axis] = end
            out.append(x)
    return out


def given(k):
    """A value for the k-th side, which differs from all others'."""
    return lambda x: torch.stack([torch.sin(3 * x.sum(1) + k), k + x[:, 0] ** 2], 1)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("power", [1, 2])
@pytest.mark.parametrize("order", [1, 2, 4])
def test_the_values_of_every_side_are_met_to_the_bit(dim, dtype, power, order):
    sides = box_sides(dim)
    values = [given(k) for k in range(2 * dim)]
    u = fixed_value(network(dim, dtype), joined(sides, order), blended(values, sides, power))
    for value, x in zip(values, on_sides(dim, dtype), strict=True):
        assert torch.equal(u(x), value(x))
    inside = torch.rand(20, dim, dtype=dtype)
    assert (u(inside) != blended(values, sides, power)(inside)).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [2, 3])
def test_corners_and_edges_where_values_agree(dim, dtype):
    """One value for all sides: to the bit at corners as well, and no NaN in its slope."""
    sides = box_sides(dim)
    u = fixed_value(network(dim, dtype), joined(sides), blended([given(3)] * 2 * dim, sides))
    corners = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=dtype)] * dim)
    edges = corners.clone()
    edges[:, 0] = 0.3
    for x in (corners, edges):
        assert torch.equal(u(x), given(3)(x))
        assert slope(u, x).isfinite().all()


def test_blending_keeps_constants_and_the_range():
    sides = box_sides(3)
    x = torch.rand(100, 3).double()
    constants = [lambda x, k=k: torch.full((len(x), 1), float(k)).to(x) for k in range(6)]
    g = blended(constants, sides)(x)
    assert g.min() > 0 and g.max() < 5
    # By the definition of the weights.
    d = torch.stack([side(x) for side in sides], 1)
    want = (torch.arange(6.0) / d).sum(1) / (1 / d).sum(1)
    assert (g[:, 0] - want).abs().max() < 1e-13
    assert torch.equal(blended([constants[2]] * 6, sides)(x), constants[2](x))
    assert blended(constants, sides)(x[:0]).shape == (0, 1)


@pytest.mark.parametrize("power", [1, 2])
def test_slopes_are_those_of_the_definition(power):
    """Also half-way between two sides, where it is not clear which is nearer."""
    sides = box_sides(2)
    values = [given(k) for k in range(4)]
    x = torch.tensor([[0.5, 0.5], [0.5, 0.2], [0.3, 0.3], [0.9, 0.4]]).double().requires_grad_()
    g = blended(values, sides, power)
    d = torch.stack([side(x) for side in sides], 1)
    weight = d**-power / (d**-power).sum(1, keepdim=True)
    plain = (weight[:, :, None] * torch.stack([value(x) for value in values], 1)).sum(1)
    (want,) = torch.autograd.grad(plain.sum(), x, retain_graph=True)
    assert (slope(g, x) - want).abs().max() < 1e-13
    assert torch.autograd.gradgradcheck(lambda at: g(at[3:]), x)
    m = 3
    (want,) = torch.autograd.grad(((d**-m).sum(1) ** (-1 / m)).sum(), x)
    assert (slope(joined(sides, m), x) - want).abs().max() < 1e-13


@pytest.mark.parametrize("order", [1, 2, 3])
def test_joined_is_a_distance_to_its_order_at_each_part(order):
    """∂d/∂n = 1, and the derivatives along n from the second up to the order are 0."""
    x = torch.tensor([[0.4, 0.0]]).double()
    d = joined(box_sides(2), order)
    t = torch.zeros(1).double().requires_grad_()
    value = d(x + t[:, None] * torch.tensor([[0.0, 1.0]]).double())
    assert value.item() == 0
    for k in range(1, order + 2):
        (value,) = torch.autograd.grad(value.sum(), t, create_graph=True)
        if k <= order:
            assert abs(value.item() - (k == 1)) < 1e-13
        else:
            assert abs(value.item()) > 0.1


def test_joined_does_not_depend_on_the_order_of_its_parts():
    x = torch.rand(50, 3).double()
    sides = box_sides(3)
    d = joined(sides)(x)
    assert torch.allclose(joined(sides[::-1])(x), d, rtol=1e-14)
    twice = joined([joined(sides[:2]), joined(sides[2:])])(x)  # R-equivalence is associative
    assert torch.allclose(twice, d, rtol=1e-14)
    assert (d <= torch.stack([side(x) for side in sides]).amin(0)).all()


def gon(n=7, dtype=torch.float64):
    angle = torch.arange(n) * 2 * math.pi / n
    ring = torch.stack([angle.cos(), 0.6 * angle.sin()], 1).to(dtype)
    return torch.stack([ring, ring.roll(-1, 0)], 1)  # counter-clockwise: left is inside


def ball(dtype=torch.float64):
    """A coarse sphere, its normals inwards."""
    return torch.tensor(trimesh.creation.icosphere(subdivisions=1).triangles).to(dtype).flip(1)


WALLS = {2: gon, 3: ball}


def on(walls, ends):
    """Points on walls: corners, or inside each."""
    k = walls.shape[1]
    if ends:
        return walls.reshape(-1, k)
    torch.manual_seed(1)
    shares = 0.1 + torch.rand(10, len(walls), k).to(walls)
    shares = shares / shares.sum(2, keepdim=True)
    return torch.einsum("nsk,skd->nsd", shares, walls).reshape(-1, k)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [2, 3])
def test_walls_of_facets_hold_a_field(dim, dtype):
    walls = WALLS[dim](dtype=dtype)
    d = joined([facets(walls)])
    u = fixed_value(network(dim, dtype), d, given(1))
    assert torch.equal(u(on(walls, True)), given(1)(on(walls, True)))
    x = on(walls, False)
    assert (u(x) - given(1)(x)).abs().max() < 4 * torch.finfo(dtype).eps
    assert slope(u, on(walls, True)).isfinite().all() and slope(u, x).isfinite().all()
    # Inside it is a distance to first order, along the wall's normal.
    inside = on(walls, False) * (1 - 1e-4)
    far = squared_distance(inside, walls).sqrt()
    assert ((d(inside) / far - 1).abs() < 0.02).all()
    assert (slope(d, inside).norm(dim=1) - 1).abs().max() < 0.03


@pytest.mark.parametrize("dim", [2, 3])
def test_a_facet_is_zero_on_itself_only_and_a_distance_nearby(dim):
    walls = WALLS[dim]()[:3]
    x = on(walls, False)
    d = facets(walls)(x)
    own = torch.arange(len(x)) % 3
    assert d[torch.arange(len(x)), own].max() < 1e-15
    d[torch.arange(len(x)), own] = 1
    assert d.min() > 1e-3
    one = facets(walls[:1])
    torch.manual_seed(2)
    space = torch.randn(500, dim).double() * 2
    true = squared_distance(space, walls[:1]).sqrt()
    ratio = one(space)[:, 0] / true
    assert ratio.min() > 0.2 and ratio.max() < 30
    # On either side of it: φ = f + O(f³).
    centre = walls[:1].mean(1)
    normal = slope(one, centre)
    assert torch.allclose(normal.norm(), torch.tensor(1.0).double())
    off = [abs(float(one(centre + h * normal)) - abs(h)) for h in (0.1, 0.05, -0.05)]
    assert off[0] / off[1] > 2**3.5 and off[1] == pytest.approx(off[2], rel=1e-3)
    # It does not matter in which unit lengths are.
    assert torch.allclose(facets(1e3 * walls)(1e3 * space), 1e3 * facets(walls)(space), rtol=1e-12)


def test_facets_are_differentiable_twice_beside_and_beyond_their_ends():
    for dim in (2, 3):
        walls = WALLS[dim]()[:2]
        torch.manual_seed(3)
        x = torch.randn(6, dim).double().requires_grad_()
        assert torch.autograd.gradcheck(facets(walls), x)
        assert torch.autograd.gradgradcheck(facets(walls), x)


def test_a_poisson_problem_keeps_its_boundary_through_training():
    torch.manual_seed(4)
    net = network(2, torch.float32, 1)
    sides = box_sides(2)
    u = fixed_value(net, joined(sides), lambda x: x[:, :1] * x[:, 1:])
    optimiser = torch.optim.Adam(net.parameters(), 1e-2)
    x, losses = torch.rand(64, 2), []
    want = x[:, :1] * x[:, 1:] + (math.pi * x).sin().prod(1, keepdim=True)
    for _ in range(40):
        optimiser.zero_grad()
        loss = (u(x) - want).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]
    for x in on_sides(2, torch.float32):
        assert torch.equal(u(x), x[:, :1] * x[:, 1:])


def test_bad_input_is_named():
    x = torch.rand(4, 2)
    d, g = plane((0.0, 0.0), (1.0, 0.0)), given(0)
    with pytest.raises(
        InputError, match=r"`distance\(points\)`: expected shape \(4\), got \(4, 1\)"
    ):
        fixed_value(g, lambda x: x[:, :1], g)(x)
    with pytest.raises(
        InputError, match=r"`field\(points\)`: expected shape \(4, 2\), got \(4, 1\)"
    ):
        fixed_value(lambda x: x[:, :1], d, g)(x)
    with pytest.raises(InputError, match="`values`: expected one for each distance, got 1 and 2"):
        blended([g], [d, d])
    with pytest.raises(InputError, match="expected distances and an order ≥ 1, got 0 and 1"):
        joined([])
    with pytest.raises(InputError, match="`normal`: expected a direction, got"):
        plane((0.0, 0.0), (0.0, 0.0))
    with pytest.raises(InputError, match=r"`normal`: expected shape \(2\), got \(3,\)"):
        plane((0.0, 0.0), (0.0, 0.0, 1.0))
    with pytest.raises(
        InputError, match=r"`corners`: expected shape \(\*, 2, 2\), got \(1, 3, 2\)"
    ):
        facets(torch.rand(1, 3, 2))
    with pytest.raises(InputError, match="`corners`: facet 1 has no size"):
        facets(torch.stack([torch.eye(2), torch.ones(2, 2)]))
    with pytest.raises(InputError, match="`corners`: 1 values are not finite"):
        facets(torch.tensor([[[0.0, 0.0], [1.0, torch.nan]]]))
