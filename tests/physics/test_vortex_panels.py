"""Panels of linear vorticity: exact flows by conformal maps, laws of lift and drag, geometry."""

import math

import numpy as np
import pytest
import torch

from meshsim.check import InputError
from meshsim.physics import vortex_panels
from meshsim.physics.vortex_panels import naca, naca4, naca5, solve, wrap

ANGLE = 0.1
CIRCLES = {"symmetric": -0.1 + 0j, "cambered": -0.1 + 0.1j}


def circle(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    turn = torch.linspace(0, 2 * math.pi, n + 1, dtype=torch.float64)
    return torch.stack([turn.cos(), turn.sin()], 1), turn


def mapped(n: int, centre: complex, tail: float = 0.0) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Kármán and Trefftz's airfoil of that trailing edge angle (Joukowski's of a cusp): (n + 1, 2)
    nodes, the exact cp at them but the two ends, and Γ, at the angle of attack `ANGLE`."""
    radius = abs(1 - centre)
    beta = math.asin(centre.imag / radius)
    turn = np.linspace(0, 2 * np.pi, n + 1)[1:-1] - beta
    zeta = centre + radius * np.exp(1j * turn)
    power = 2 - tail / math.pi
    ratio = (zeta - 1) / (zeta + 1)
    q = np.exp(power * (np.log(np.abs(ratio)) + 1j * np.unwrap(np.angle(ratio))))
    z = power * (1 + q) / (1 - q)
    slope = 4 * power**2 / (zeta**2 - 1) * q / (1 - q) ** 2
    gamma = 4 * math.pi * radius * math.sin(ANGLE + beta)
    away = zeta - centre
    flow = np.exp(-1j * ANGLE) - np.exp(1j * ANGLE) * (radius / away) ** 2
    cp = 1 - np.abs((flow + 1j * gamma / (2 * math.pi * away)) / slope) ** 2
    z = np.concatenate([[power], z, [power]])
    return torch.from_numpy(np.stack([z.real, z.imag], 1)), torch.from_numpy(cp), gamma


def rates(errors: list[float]) -> np.ndarray:
    return np.log2(np.array(errors[:-1]) / errors[1:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_circle_without_circulation(dtype):
    """1 − 4 sin² θ to second order; no force on it."""
    errors = []
    for n in (20, 40, 80, 160):
        ring, turn = circle(n)
        flow = solve(ring.to(dtype), 0.3, 2.0, circulation=0.0)
        errors.append(float((flow.cp - 1 + 4 * torch.sin(turn - 0.3) ** 2).abs().max()))
        assert flow.force.abs().max() < 1e-6 and abs(flow.circulation) < 1e-6
    assert (abs(rates(errors) - 2) < 0.05).all() and errors[-1] < 2e-3


def test_circle_with_circulation():
    """u_θ = −2 U sin θ − Γ / (2π), and the lift is 2 Γ / (U · 2)."""
    ring, turn = circle(200)
    flow = solve(ring, 0.0, 1.5, circulation=2.0)
    want = -3 * torch.sin(turn) - 2 / (2 * math.pi)
    assert (flow.strength - want).abs().max() < 2e-3
    assert flow.circulation == pytest.approx(2.0, rel=1e-12)
    assert flow.lift == pytest.approx(2 * 2.0 / (1.5 * 2), rel=1e-3)


@pytest.mark.parametrize("tail", [0.0, 0.2], ids=["cusp", "wedge"])
@pytest.mark.parametrize("centre", CIRCLES.values(), ids=CIRCLES)
def test_conformal_airfoils(centre, tail):
    """Pressure, circulation and, against each other, both lifts converge to second order."""
    off: dict[str, list[float]] = {"cp": [], "gamma": [], "lift": [], "drag": []}
    tails = []
    for n in (100, 200, 400):
        ring, cp, gamma = mapped(n, centre, tail)
        flow = solve(ring, ANGLE)
        away = (ring[0] - ring[1:-1]).norm(dim=1) > 0.1 * flow.chord
        off["cp"].append(float((flow.cp[1:-1] - cp)[away].abs().max()))
        tails.append(float((flow.cp[1:-1] - cp)[~away].abs().max()))
        off["gamma"].append(abs(flow.circulation - gamma))
        off["lift"].append(abs(flow.lift - 2 * flow.circulation / flow.chord))
        off["drag"].append(abs(flow.drag))
    for name, errors in off.items():
        assert (rates(errors) > 1.75).all(), (name, errors)
    # a cusp's two sides are as near to each other as nodes are: there the order is lower
    assert (rates(tails) > 0.7).all() and tails[-1] < 7e-3
    assert off["cp"][-1] < 5e-3 and off["gamma"][-1] < 1e-4
    assert off["lift"][-1] < 2e-5 and off["drag"][-1] < 4e-5


def test_thin_airfoils_lift_two_pi():
    """dC_L/dα → 2π with the thickness; for Joukowski's 2π (1 + 0.77 t), for others much like it."""
    for t in (0.04, 0.02, 0.01):
        slope = solve(naca4(0.0, 0.0, t), 0.02).lift / 0.02
        assert 0.5 * t < slope / (2 * math.pi) - 1 < 0.9 * t


@pytest.mark.parametrize(("code", "degrees"), [("2402", -2.08), ("23002", -1.09)])
def test_angle_of_no_lift(code, degrees):
    """Thin-airfoil theory of the camber lines (Anderson, Fundamentals of Aerodynamics, §4.8)."""
    a, b = (solve(naca(code), angle).lift for angle in (-0.03, 0.03))
    zero = math.degrees(-0.03 - a * 0.06 / (b - a))
    assert zero == pytest.approx(degrees, abs=0.03)


def test_symmetric_at_no_angle():
    flow = solve(naca("0012"), 0.0)
    assert abs(flow.lift) < 1e-12 and abs(flow.circulation) < 1e-12
    assert (flow.cp - flow.cp.flip(0)).abs().max() < 1e-11


def test_velocity_is_potential_flow():
    """No divergence, no curl; the free stream and a vortex far away; rest inside."""
    flow = solve(naca("4415"), ANGLE, 1.3)
    around = torch.rand(200, 2, dtype=torch.float64, generator=torch.manual_seed(0)) * 3 - 1
    x = around[((around - flow.contour[:, None]).norm(dim=2) > 0.15).all(0)]
    x = x[(x[:, 1].abs() > 0.25) | (x[:, 0] < 0) | (x[:, 0] > 1)]
    h = 1e-4
    rise = [
        (flow.velocity(x + h * d) - flow.velocity(x - h * d)) / (2 * h)
        for d in torch.eye(2, dtype=torch.float64)
    ]
    assert len(x) > 50
    assert (rise[0][:, 0] + rise[1][:, 1]).abs().max() < 1e-6
    assert (rise[0][:, 1] - rise[1][:, 0]).abs().max() < 1e-6

    turn = torch.linspace(0, 2 * math.pi, 401, dtype=torch.float64)[:-1]
    way = torch.stack([turn.cos(), turn.sin()], 1)
    along = torch.stack([-turn.sin(), turn.cos()], 1)
    wind = 1.3 * torch.tensor([math.cos(ANGLE), math.sin(ANGLE)]).double()
    ring = flow.velocity(2 * way)
    assert -(ring * along).sum(1).mean() * 4 * math.pi == pytest.approx(flow.circulation, rel=1e-9)
    assert abs(float((ring * way).sum(1).mean())) < 1e-12  # what is in it is no source
    far = flow.velocity(1e4 * way)
    assert (far - wind + flow.circulation / (2e4 * math.pi) * along).abs().max() < 1e-7

    inside = torch.tensor([[0.2, 0.02], [0.4, 0.04], [0.6, 0.03]]).double()
    assert flow.velocity(inside).abs().max() < 2e-3


def test_contour_is_a_streamline():
    """What flows through panels falls with the square of their length; inside, with the length."""
    through, rest = [], []
    for n in (50, 100, 200):
        flow = solve(mapped(n, -0.1 + 0.1j)[0], ANGLE)
        step = flow.contour.diff(dim=0)
        normal = torch.stack([step[:, 1], -step[:, 0]], 1) / step.norm(dim=1, keepdim=True)
        at = (flow.contour[1:] + flow.contour[:-1]) / 2 + 1e-9 * normal
        velocity = flow.velocity(at)
        size = step.norm(dim=1)
        through.append(float(((velocity * normal).sum(1).abs() * size).sum()))
        # the two sides differ by what flows along the sheet; inside it is nearly at rest
        other = flow.velocity(at - 2e-9 * normal)
        along = ((velocity - other) * step / size[:, None]).sum(1)
        assert (along - (flow.strength[1:] + flow.strength[:-1]) / 2).abs().max() < 1e-6
        rest.append(float((other.norm(dim=1) * size).sum()))
    assert (rates(through) > 1.8).all() and (rates(rest) > 0.9).all()
    assert torch.equal(flow.velocity(flow.contour[1:-1]), flow.surface_velocity[1:-1])
    assert torch.allclose(flow.surface_velocity.norm(dim=1), flow.strength.abs())
    tail = flow.surface_velocity[[0, -1]]  # one velocity, that of the bisector
    assert torch.allclose(tail[0], tail[1]) and tail[0, 0] > 0
    assert torch.allclose(flow.pressure_coefficient(flow.contour[1:-1]), flow.cp[1:-1], atol=1e-12)


def test_either_way_round_turned_scaled_and_faster():
    ring = naca("23012", 41)
    flow = solve(ring, ANGLE)
    back = solve(ring.flip(0), ANGLE)
    assert torch.equal(back.contour, flow.contour)
    assert torch.allclose(back.strength, flow.strength, atol=1e-12)
    c, s = math.cos(0.7), math.sin(0.7)
    turn = torch.tensor([[c, s], [-s, c]]).double()
    other = solve(3 * ring @ turn + 5, ANGLE + 0.7, 2.0)
    assert torch.allclose(other.strength, 2 * flow.strength, atol=1e-9)
    assert torch.allclose(other.force, flow.force, atol=1e-10)
    assert other.circulation == pytest.approx(6 * flow.circulation)
    at = torch.tensor([[-0.3, 0.2], [1.4, -0.1]]).double()
    assert torch.allclose(other.velocity(3 * at @ turn + 5), 2 * flow.velocity(at) @ turn)


def test_naca_sections():
    ring = naca("0012", 401)
    assert ring.shape == (801, 2) and torch.equal(ring[0], ring[-1])
    top = ring[:401]
    assert float(top[:, 1].max()) == pytest.approx(0.06, abs=2e-5)
    assert float(top[top[:, 1].argmax(), 0]) == pytest.approx(0.30, abs=0.01)
    # ordinates of NACA Report 460 for 12 %: 0.04683 at 10 %, 0.05294 at 50 %; tail 0.00126
    blunt = naca("0012", 2001, closed=False)[:2001].flip(0).numpy()
    at = np.interp([0.1, 0.5, 1.0], blunt[:, 0], blunt[:, 1])
    assert at == pytest.approx([0.04683, 0.05294, 0.00126], abs=1e-5)
    line = (naca("4402", 201)[:201].flip(0) + naca("4402", 201)[200:]) / 2
    assert float(line[:, 1].max()) == pytest.approx(0.04, abs=1e-5)
    assert float(line[line[:, 1].argmax(), 0]) == pytest.approx(0.4, abs=0.01)


@pytest.mark.parametrize("place", [0.05, 0.15, 0.25, 0.37])
def test_five_digit_camber_lines_have_their_design_lift(place):
    """2 ∫ dy/dx cos θ dθ, x = (1 − cos θ) / 2: thin-airfoil theory at the ideal angle."""
    ring = naca5(0.4, place, 1e-6, 4001)
    x, y = ((ring[:4001].flip(0) + ring[4000:]) / 2).unbind(1)
    middle = (torch.arange(4000).double() + 0.5) * math.pi / 4000
    lift = 2 * ((y.diff() / x.diff()) * torch.cos(middle)).sum() * math.pi / 4000
    assert float(lift) == pytest.approx(0.4, rel=1e-3)
    assert float(x[y.argmax()]) == pytest.approx(place, abs=2e-3)


@pytest.mark.parametrize(
    ("place", "r", "k"),
    [(0.10, 0.1260, 51.64), (0.15, 0.2025, 15.957), (0.20, 0.2900, 6.643), (0.25, 0.3910, 3.230)],
)
def test_five_digit_camber_lines_are_the_published(place, r, k):
    """k r³ / 6 (1 − x) behind r with the constants of NACA Report 537, design lift 0.3."""
    ring = naca5(0.3, place, 1e-6, 2001)
    line = ((ring[:2001].flip(0) + ring[2000:]) / 2).numpy()
    assert np.interp(0.5, *line.T) == pytest.approx(k * r**3 / 12, rel=8e-3)


def test_wrap_and_precision():
    x = torch.linspace(0, 1, 30, dtype=torch.float32)
    y = 0.1 * (x * (1 - x)).sqrt() * (1 - x)
    ring = wrap(torch.stack([x, y], 1), torch.stack([x, -y], 1))
    flow = solve(ring, ANGLE)
    assert flow.cp.dtype == torch.float64
    assert flow.velocity(torch.zeros(0, 2)).shape == (0, 2)
    assert flow.velocity(torch.ones(1, 2)).dtype == torch.float32
    assert flow.pressure_coefficient(torch.zeros(0, 2).double()).shape == (0,)


@pytest.mark.parametrize(
    ("ring", "message"),
    [
        (circle(8)[0][:-1], "its first point again at the end, got a gap of 0.765"),
        (naca("0012", 11, closed=False), "got a gap of"),
        (circle(3)[0], "at least 5 points, got 4"),
        (circle(8)[0].clone().index_fill_(0, torch.tensor([3, 4]), 2.0), "points 3 and 4 are"),
        (torch.tensor([[0.0, 0], [1, 0], [2, 0], [1, 0], [0.5, 0], [0, 0]]), "got area 0"),
        (circle(8)[0] * math.nan, "`contour`: 18 values are not finite"),
    ],
)
def test_bad_contours(ring, message):
    with pytest.raises(InputError, match=message):
        solve(ring, 0.0)


def test_bad_arguments():
    ring = circle(8)[0]
    for speed in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(InputError, match="`speed`"):
            solve(ring, 0.0, speed)
    with pytest.raises(InputError, match="`angle`"):
        solve(ring, math.nan)
    with pytest.raises(InputError, match="not finite"):
        solve(ring, 0.0).velocity(torch.full((1, 2), math.nan))
    for code, message in {
        "12": "4 or 5 digits, got '12'",
        "23112": "no reflex",
        "0000": "`thickness`: expected above 0",
        "2012": "`place`: expected between 0 and 1",
        "20012": "`place`: expected above 0",
    }.items():
        with pytest.raises(InputError, match=message):
            naca(code)
    assert vortex_panels.stations(3).tolist() == pytest.approx([0, 0.5, 1])
