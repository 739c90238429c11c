"""Monitor functions: recovery, expressions, conventions, bad input."""

import numpy as np
import pytest

from meshsim.check import InputError
from meshsim.movers import FieldMonitor, MongeAmpere, ball
from meshsim.movers.expression import Expression
from meshsim.movers.fields import Gaussians
from meshsim.movers.monitor import at_points
from meshsim.movers.recovery import gradient, hessian, smooth
from meshsim.movers.simplices import quadrature
from meshsim.solvers.elliptic import conical, l2_error, solve
from tests.movers.grids import cube, ring, square

GRIDS = {"square": square(8), "cube": cube(4), "ring": ring(4)}


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("method", ["l2", "average"])
def test_linear_fields_have_their_gradient_and_no_hessian(grid, method):
    slope = np.arange(1.0, grid.dim + 1)
    u = grid.points @ slope + 2
    assert np.abs(gradient(grid, u, method) - slope).max() < 1e-10
    assert np.abs(hessian(grid, u, method)).max() < 1e-8
    assert np.abs(hessian(grid, u, "weak")).max() < 1e-8


@pytest.mark.parametrize(("method", "order"), [("l2", 1.8), ("average", 1.8), ("weak", 0.9)])
def test_recovered_hessians_converge_inside(method, order):
    field = Gaussians(np.ones(1), np.full((1, 2), 0.5), np.full((1, 2), 0.4))
    errors = []
    for n in (16, 32, 64):
        grid = square(n)
        inside = (np.abs(grid.points - 0.5) < 0.3).all(1)
        off = hessian(grid, field(grid.points), method) - field.hessian(grid.points)
        errors.append(np.sqrt((off[inside] ** 2).mean()))
    rates = np.log2(np.array(errors[:-1]) / errors[1:])
    assert (rates > order).all(), rates


def test_smoothing_spreads_and_keeps_constants():
    grid = square(16)
    assert np.abs(smooth(grid, np.full(len(grid.points), 2.0), 10.0) - 2.0).max() < 1e-12
    peak = np.zeros(len(grid.points))
    peak[len(peak) // 2] = 1.0
    less, more = smooth(grid, peak, 2.0), smooth(grid, peak, 20.0)
    assert 0 < more.max() < less.max() < 1


def test_gaussians_have_the_derivatives_they_say():
    field, x, h = Gaussians.draw(np.random.default_rng(3), 3), np.random.rand(5, 3), 1e-4
    e = np.eye(3) * h
    exact = field.hessian(x)
    for i in range(3):
        for j in range(3):
            steps = [field(x + s * e[i] + t * e[j]) * s * t for s in (1, -1) for t in (1, -1)]
            assert np.abs(sum(steps) / (4 * h * h) - exact[:, i, j]).max() < 1e-4
    assert np.allclose(field.laplacian(x), np.trace(exact, axis1=1, axis2=2))


@pytest.mark.parametrize(("dim", "degree"), [(2, 4), (3, 5)])
def test_quadrature_is_exact_to_its_degree(dim, degree):
    fine = conical(dim, 6)
    rule = quadrature(dim)
    rng = np.random.default_rng(0)
    for _ in range(20):
        powers = rng.multinomial(degree, np.full(dim + 1, 1 / (dim + 1)))
        assert rule.weights @ (rule.at**powers).prod(1) == pytest.approx(
            fine.weights @ (fine.at**powers).prod(1), rel=1e-12
        )


def test_poisson_converges_at_second_order_in_three_dimensions():
    def exact(x):
        return np.sin(np.pi * x).prod(1)

    errors = []
    for n in (4, 8, 16):
        grid = cube(n)
        u = solve(grid, lambda x: 3 * np.pi**2 * exact(x), exact)
        errors.append(l2_error(grid, u, exact))
    assert np.log2(errors[1] / errors[2]) > 1.8


def test_values_between_points_and_beyond_the_boundary():
    grid = square(5)
    values = (grid.points @ [2.0, -1.0])[:, None]
    inside = np.random.default_rng(0).random((50, 2))
    assert np.abs(at_points(grid, values, inside)[:, 0] - inside @ [2.0, -1.0]).max() < 1e-12
    beyond = at_points(grid, values, np.array([[1.5, 0.33], [-1.0, -1.0]]))[:, 0]
    assert beyond == pytest.approx([2.0 - 0.33, 0.0], abs=1e-12)


def test_conventions_agree_at_rest_and_differ_once_moved():
    grid = square(16)
    field = ball((0.5, 0.5), 0.3, 1.0, 20.0)
    u = field(grid.points)
    monitors = {
        c: FieldMonitor(grid, "1 + 5*H(u)", {"u": u}, c)
        for c in ("interpolated", "recomputed", "pulled back")
    }
    rest = [m(grid.points) for m in monitors.values()]
    assert np.abs(rest[0] - rest[1]).max() < 1e-9 and np.abs(rest[0] - rest[2]).max() < 1e-9
    moved = MongeAmpere(grid, "quasi-newton", rtol=1e-3).move(monitors["interpolated"])
    there = [m(moved.points) for m in monitors.values()]
    assert np.abs(there[0] - there[1]).max() > 0.1 and np.abs(there[1] - there[2]).max() > 0.1


def test_pulled_back_gradients_are_those_of_the_computational_coordinates():
    """u(x(ξ)) with u = x and x = 2ξ has ∂u/∂ξ = 2: arc = √5 against √2 on the moved mesh."""
    grid = square(4)
    u = grid.points[:, 0]
    shrunk = grid.points * 0.5
    pulled = FieldMonitor(grid, "arc(u)", {"u": u}, "pulled back")(shrunk)
    again = FieldMonitor(grid, "arc(u)", {"u": u}, "recomputed")(shrunk)
    assert pulled == pytest.approx(np.sqrt(1.25)) and again == pytest.approx(np.sqrt(2))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1 + 2*u", 7.0),
        ("u^2 - 1", 8.0),
        ("-u**2", -9.0),
        ("2^-1", 0.5),
        ("max(u, 5) + min(1, u)", 6.0),
        ("sqrt(abs(-u - 1))/2", 1.0),
        ("(1 + u) * (1 - 0.5)", 2.0),
        ("1e-1 * u", 0.3),
    ],
)
def test_arithmetic(text, value):
    assert float(Expression(text, ["u"]).evaluate({"u": np.array(3.0)})) == pytest.approx(value)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "u.__class__",
        "u[0]",
        "lambda: u",
        "[u for u in u]",
        "u if u else u",
        "'a'",
        "True",
        "u @ u",
        "f'{u}'",
        "(u := 1)",
        "u; u",
        "",
        "1 +",
        "abs(u, u)",
        "max(u)",
        "abs(x=u)",
        "open(u)",
        "u == u",
        "1" * 2000,
        "(" * 500 + "u" + ")" * 500,
    ],
)
def test_anything_but_arithmetic_is_refused(text):
    with pytest.raises(InputError):
        Expression(text, ["u"])


def test_unknown_names_give_the_nearest():
    with pytest.raises(InputError, match="pressure"):
        Expression("1 + presure", ["pressure"])
    with pytest.raises(InputError, match="sqrt"):
        Expression("sqr(u)", ["u"])


@pytest.mark.parametrize(
    ("expression", "fields", "said"),
    [
        ("u", {"u": np.zeros(25)}, r"expected positive values, got 0 at point 0 "),
        ("u - 2", {"u": np.ones(25)}, r"got -1 at point 0 "),
        ("1/u", {"u": np.zeros(25)}, r"got inf at point 0 "),
        ("1 + u", {"u": np.full(25, np.nan)}, r"field 'u': nan at point 0"),
        ("1 + u", {"u": np.ones(24)}, r"field 'u': expected 25 point values"),
        ("1 + v", {"u": np.ones(25)}, r"field in expression"),
    ],
)
def test_bad_monitors_are_named(expression, fields, said):
    with pytest.raises(InputError, match=said):
        FieldMonitor(square(4), expression, fields)
