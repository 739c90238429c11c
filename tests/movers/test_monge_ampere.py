"""The classical mover: published traces, and the laws of the equation."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.optimize import brentq

from meshsim.check import InputError
from meshsim.movers import FieldMonitor, MongeAmpere, Simplices, ball, shock
from meshsim.movers.boundary import closest
from meshsim.movers.fields import Gaussians
from meshsim.movers.recovery import hessian
from meshsim.solvers.elliptic import l2_error, solve
from tests.movers.grids import cube, ring, square, turned

METHODS = ("relaxation", "quasi-newton")
RING = ball((0.5, 0.5), 0.4, 20.0, 200.0)


def gaussian(x: np.ndarray) -> np.ndarray:
    return np.exp(-((x - [0.51, 0.65]) ** 2).sum(1) / 0.01)


def hessian_monitor(x: np.ndarray) -> np.ndarray:
    """1 + 5 |∇∇u| / max |∇∇u| of `gaussian`, exactly."""
    d, u, s = x - [0.51, 0.65], gaussian(x), 100.0
    xx = (4 * s * s * d[:, 0] ** 2 - 2 * s) * u
    yy = (4 * s * s * d[:, 1] ** 2 - 2 * s) * u
    xy = 4 * s * s * d[:, 0] * d[:, 1] * u
    size = np.sqrt(xx**2 + yy**2 + 2 * xy**2)
    return 1 + 5 * size / size.max()


@pytest.mark.parametrize("method", METHODS)
def test_ring_trace_as_published(method):
    mover = MongeAmpere(square(20), method, pseudo_step=0.05)
    moved = mover.move(RING)
    first, last = moved.trace[0], moved.trace[-1]
    assert [f"{v:.2f}" for v in first] == ["12.91", "1.21", "1.16"]
    assert (f"{last.ratio:.2f}", f"{last.variation:.3f}") == ("9.19", "0.349")
    assert moved.converged and last.residual < 1e-8
    assert (mover.grid.signed(moved.points) > 0).all()


@pytest.mark.parametrize("method", METHODS)
def test_helmholtz_trace_as_published(method):
    moved = MongeAmpere(square(20), method).move(hessian_monitor)
    first, last = moved.trace[0], moved.trace[-1]
    assert (
        f"{first.ratio:.2f} {first.variation:.2e} {first.residual:.2e}" == "4.93 4.73e-01 4.77e-01"
    )
    assert f"{last.ratio:.2f} {last.variation:.2e}" == "1.15 2.57e-02"
    assert moved.converged


def source(x: np.ndarray) -> np.ndarray:
    r = ((x - [0.51, 0.65]) ** 2).sum(1)
    return (-4e4 * r + 401) * gaussian(x)


def helmholtz_error(grid: Simplices, points: np.ndarray) -> float:
    moved = Simplices(points, grid.cells)
    return l2_error(moved, solve(moved, source, gaussian, 1.0), gaussian)


def test_helmholtz_errors_as_published():
    grid = square(20)
    assert helmholtz_error(grid, grid.points) == pytest.approx(0.010233816824277486, rel=1e-6)
    moved = MongeAmpere(grid, "quasi-newton").move(hessian_monitor)
    assert helmholtz_error(grid, moved.points) == pytest.approx(0.0059558198850741435, rel=1e-6)


def test_helmholtz_with_the_equation_solved_at_every_step_as_published():
    grid = square(20)

    def monitor(points):
        moved = Simplices(points, grid.cells)
        size = np.linalg.norm(hessian(moved, solve(moved, source, gaussian, 1.0)), axis=(1, 2))
        return 1 + 5 * size / size.max()

    moved = MongeAmpere(grid, "quasi-newton").move(monitor)
    first, last = moved.trace[0], moved.trace[-1]
    assert [f"{v:.3f}" for v in first] == ["5.039", "0.490", "0.493"]  # published 5.04 .490 .493
    assert (f"{last.ratio:.2f}", f"{last.variation:.2e}") == ("1.14", "2.37e-02")
    assert helmholtz_error(grid, moved.points) == pytest.approx(0.00630874419681285, rel=1e-6)


@pytest.mark.slow
def test_the_squares_of_um2n_gain_as_much_as_published():
    """200 fields, monitor 1 + 5 |∇∇u|² / max: the error falls by 12 to 18 % in the mean."""
    grid = square(20)
    mover = MongeAmpere(grid, "quasi-newton", rtol=1e-3)
    gain, half = [], []
    for seed in range(200):
        u = Gaussians.draw(np.random.default_rng(seed))

        def error(points, u=u):
            moved = Simplices(points, grid.cells)
            return l2_error(moved, solve(moved, lambda x: u(x) - u.laplacian(x), u, 1.0, 3), u, 3)

        moved = mover.move(u.monitor)
        assert moved.converged and (grid.signed(moved.points) > 0).all()
        before = error(grid.points)
        gain.append(1 - error(moved.points) / before)
        half.append(1 - error(0.4 * grid.points + 0.6 * moved.points) / before)
    assert 0.12 < np.mean(gain) < 0.18
    assert np.mean(half) > np.mean(gain)  # moving all the way is not what lessens the error


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("grid", [square(6), cube(3), ring(3)], ids=["square", "cube", "ring"])
def test_a_constant_monitor_moves_nothing(grid, method):
    moved = MongeAmpere(grid, method).move(lambda x: np.full(len(x), 3.0))
    assert len(moved.trace) == 1 and moved.converged
    assert np.abs(moved.points - grid.points).max() < 1e-13


def equidistribution(density, n: int) -> np.ndarray:
    """x(ξ) with ∫₀ˣ m = ξ ∫₀¹ m at ξ = 0, 1/n, …, 1."""
    total = quad(density, 0, 1)[0]
    return np.array(
        [
            brentq(lambda x, s=s: quad(density, 0, x)[0] - s * total, 0, 1)
            for s in np.linspace(0, 1, n + 1)
        ]
    )


def test_a_separable_monitor_gives_the_product_of_equidistributions():
    def first(t):
        return 1 + 2 * np.exp(-(((t - 0.4) / 0.2) ** 2))

    def second(t):
        return 1 + t

    errors = []
    for n in (8, 16, 32):
        exact = np.stack(
            np.meshgrid(equidistribution(first, n), equidistribution(second, n), indexing="ij"), -1
        ).reshape(-1, 2)
        moved = MongeAmpere(square(n), "quasi-newton").move(
            lambda x: first(x[:, 0]) * second(x[:, 1])
        )
        errors.append(np.sqrt(((moved.points - exact) ** 2).mean()))
    rates = np.log2(np.array(errors[:-1]) / errors[1:])
    assert (rates > 1.7).all()


@pytest.mark.parametrize("method", METHODS)
def test_straight_sides_keep_their_points_and_the_area(method):
    grid = square(12)
    moved = MongeAmpere(grid, method, rtol=1e-6).move(shock((1.0, 1.0), 0.9, 5.0, 10.0)).points
    for axis in (0, 1):
        for end in (0.0, 1.0):
            on = grid.points[:, axis] == end
            assert (moved[on, axis] == end).all()
            assert np.abs(moved[on] - grid.points[on]).max() > 1e-2  # and they slide
    assert grid.signed(moved).sum() == pytest.approx(1.0, abs=1e-13)


@pytest.mark.parametrize("method", METHODS)
def test_slanted_sides_are_as_straight_ones(method):
    """Turned with its monitor, the square's mesh moves as it did, to the printed tolerance."""
    grid = square(12)
    monitor = shock((1.0, 0.3), 0.6, 5.0, 8.0)
    plain = MongeAmpere(grid, method).move(monitor).points
    tilted = turned(grid, 25.0)
    back = turned(Simplices(grid.points, grid.cells), -25.0)
    c, s = np.cos(np.radians(25)), np.sin(np.radians(25))
    there = np.array([[c, -s], [s, c]])
    moved = MongeAmpere(tilted, method).move(lambda x: monitor(x @ there)).points
    assert back.dim == 2
    assert np.abs(moved @ there - plain).max() < 1e-6


def test_curved_sides_keep_their_points():
    grid = ring(6)
    moved = MongeAmpere(grid, "quasi-newton", rtol=1e-5).move(shock((1.0, 0.0), 1.2, 1.0, 1.5))
    assert moved.converged
    edge = np.unique(grid.boundary)
    shift = np.linalg.norm(moved.points - grid.points, axis=1)[edge]
    off = moved.points[edge] - closest(moved.points[edge], grid.points[grid.boundary])
    assert shift.max() > 0.02
    assert np.abs(off).max() < 1e-14
    assert (grid.signed(moved.points) > 0).all()


@pytest.mark.parametrize("method", METHODS)
def test_tetrahedra_in_a_box(method):
    grid = cube(6)
    moved = MongeAmpere(grid, method, rtol=1e-5).move(ball((0.5, 0.5, 0.5), 0.3, 4.0, 20.0))
    assert moved.converged and (grid.signed(moved.points) > 0).all()
    assert moved.trace[-1].variation < 0.5 * moved.trace[0].variation
    for axis in range(3):
        for end in (0.0, 1.0):
            on = grid.points[:, axis] == end
            assert (moved.points[on, axis] == end).all()
    assert grid.signed(moved.points).sum() == pytest.approx(1.0, abs=1e-13)


def test_both_methods_find_the_same_mesh():
    grid = square(12)
    found = [MongeAmpere(grid, method).move(RING_SOFT).points for method in METHODS]
    assert np.abs(found[0] - found[1]).max() < 1e-6


RING_SOFT = ball((0.5, 0.5), 0.3, 5.0, 30.0)


def test_the_numbers_of_points_and_cells_do_not_matter():
    grid, rng = square(10), np.random.default_rng(0)
    points, cells = rng.permutation(len(grid.points)), rng.permutation(len(grid.cells))
    place = np.argsort(points)
    again = Simplices(grid.points[points], place[grid.cells][cells])
    plain = MongeAmpere(grid).move(RING_SOFT).points
    assert np.abs(MongeAmpere(again).move(RING_SOFT).points - plain[points]).max() < 1e-9


def test_a_warm_start_saves_iterations_and_finds_the_way_back():
    mover = MongeAmpere(square(12))
    first = mover.move(RING_SOFT)
    near = ball((0.52, 0.5), 0.3, 5.0, 30.0)
    assert len(mover.move(near, first.potential).trace) < len(mover.move(near).trace)
    back = mover.move(lambda x: np.ones(len(x)), first.potential)
    assert np.abs(back.points - mover.grid.points).max() < 1e-3


def test_failing_is_said_and_the_last_good_mesh_kept():
    moved = MongeAmpere(square(20), most=3).move(RING)
    assert not moved.converged and "not converged after 3 iterations" in moved.why
    assert (square(20).signed(moved.points) > 0).all()


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf])
def test_monitors_that_are_not_positive_are_refused_by_point(value):
    def monitor(x):
        out = np.ones(len(x))
        out[7] = value
        return out

    with pytest.raises(InputError, match=r"`monitor`: expected positive values, got .* point 7 "):
        MongeAmpere(square(4)).move(monitor)


def test_monitors_of_the_wrong_length_are_refused():
    with pytest.raises(InputError, match="expected 25 values, got shape"):
        MongeAmpere(square(4)).move(lambda x: np.ones(3))


def test_expressions_on_fields_as_published():
    """Recovered Hessians, 1 + 5 |∇∇u_h|: L² projection 5.04 .490 .493, Clément 5.21 .511 .515."""
    grid = square(20)
    u = solve(grid, source, gaussian, 1.0)
    want = {"l2": "5.04 0.490 0.493", "average": "5.21 0.511 0.515"}
    for recovery, numbers in want.items():
        monitor = FieldMonitor(grid, "1 + 5*H(u)", {"u": u}, recovery=recovery)
        first = MongeAmpere(grid, most=0).move(monitor).trace[0]
        assert f"{first.ratio:.2f} {first.variation:.3f} {first.residual:.3f}" == numbers


def test_a_monitor_recomputed_on_a_mesh_that_tangles_on_the_way_is_no_error():
    """Fields steep enough that the first steps turn cells over: a result, or a reason, no raise."""
    grid = square(12)
    u = np.tanh(40 * (grid.points[:, 0] - 0.5)) * np.tanh(40 * (grid.points[:, 1] - 0.5))
    monitor = FieldMonitor(grid, "0.01 + G2(u)", {"u": u}, "recomputed")
    moved = MongeAmpere(grid, most=20).move(monitor)
    assert moved.converged or moved.why
    assert (grid.signed(moved.points) > 0).all()


def test_a_start_of_another_mesh_is_refused():
    with pytest.raises(InputError, match=r"`start`: expected 25 values"):
        MongeAmpere(square(4)).move(RING_SOFT, np.zeros(9))


def test_continuation_reaches_a_contrast_that_is_not_reached_at_once():
    grid, monitor = square(20), ball((0.5, 0.5), 0.25, 200.0, 100.0)
    solver = MongeAmpere(grid, rtol=1e-3, most=300)
    assert not solver.move(monitor).converged
    found = solver.move(monitor, stages=4)
    assert found.converged and found.trace[-1].residual < 1e-3
    assert (grid.signed(found.points) > 0).all()


@pytest.mark.parametrize("method", METHODS)
def test_continuation_ends_where_the_direct_way_does(method):
    grid, monitor = square(12), ball((0.5, 0.5), 0.25, 5.0, 50.0)
    direct, staged = (
        MongeAmpere(grid, method, 1e-8).move(monitor, stages=stages) for stages in (1, 3)
    )
    assert np.abs(direct.points - staged.points).max() < 1e-6
    with pytest.raises(InputError, match="stages"):
        MongeAmpere(grid).move(monitor, stages=0)


@pytest.mark.parametrize("method", METHODS)
def test_what_is_no_number_is_no_convergence(method):
    grid = square(6)
    with pytest.raises(InputError, match="1e±100"):
        MongeAmpere(grid, method).move(lambda x: np.exp(-1400 * x[:, 0] + 700))
    found = MongeAmpere(grid, method, rtol=float("nan")).move(ball((0.5, 0.5), 0.3, 2.0, 20.0))
    assert not found.converged and found.why


def test_a_stage_that_fails_is_named():
    found = MongeAmpere(square(8), "quasi-newton", 1e-3).move(
        ball((0.5, 0.5), 0.25, 1e4, 400.0), stages=3
    )
    assert not found.converged and "of 3" in found.why
    assert len(found.trace) > 1
