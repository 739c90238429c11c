"""The reference solver: exact solutions, orders of convergence, balances; the recipe's files."""

import importlib.util
import sys
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

pytest.importorskip("skfem", reason="the extra `solve` is not installed")
pytest.importorskip("gmsh", reason="the extra `solve` is not installed", exc_type=ImportError)

import skfem

from meshsim.check import InputError, MissingExtra
from meshsim.solvers.channel import Channel, Inflow, no_slip
from meshsim.solvers.navier_stokes import FlowProblem, March
from meshsim.solvers.taylor_hood import TaylorHood

HEIGHT, LENGTH, VISCOSITY = 0.4, 1.0, 0.01


def box(n: int, x: tuple[float, float], y: tuple[float, float], shake: float = 0.0) -> TaylorHood:
    """n × n squares cut into triangles, the inner points moved, with four named sides."""
    mesh = skfem.MeshTri.init_tensor(np.linspace(*x, n + 1), np.linspace(*y, n + 1))
    inside = mesh.interior_nodes()
    moved = np.random.default_rng(0).uniform(-shake, shake, (2, len(inside)))
    points = mesh.p.copy()
    points[:, inside] += moved * np.array([[x[1] - x[0]], [y[1] - y[0]]]) / n
    mesh = skfem.MeshTri(points, mesh.t)
    return TaylorHood(
        skfem.MeshTri2.from_mesh(mesh).with_boundaries(
            {
                "left": lambda p: np.isclose(p[0], x[0]),
                "right": lambda p: np.isclose(p[0], x[1]),
                "wall": lambda p: np.isclose(p[1], y[0]) | np.isclose(p[1], y[1]),
            }
        )
    )


def poiseuille() -> tuple[FlowProblem, np.ndarray, np.ndarray]:
    spaces = box(5, (0, LENGTH), (0, HEIGHT), shake=0.2)
    inflow = Inflow(HEIGHT, 1.0)
    problem = FlowProblem(spaces, viscosity=VISCOSITY, prescribed={"left": inflow, "wall": no_slip})
    velocity = inflow(spaces.points)
    slope = 8 * VISCOSITY / HEIGHT**2
    return problem, velocity, slope * (LENGTH - spaces.points[: spaces.vertices, 0])


def test_poiseuille_is_exact() -> None:
    problem, velocity, pressure = poiseuille()
    found, level = problem.steady()
    assert np.abs(found - velocity).max() < 1e-10
    assert np.abs(level - pressure).max() < 1e-10


@pytest.mark.parametrize("coupled", [False, True])
def test_poiseuille_stays(coupled: bool) -> None:
    problem, velocity, pressure = poiseuille()
    march = March(problem, step=0.05, velocity=velocity, pressure=pressure, coupled=coupled)
    march.advance(10)
    assert np.abs(march.velocity - velocity).max() < 1e-10
    assert np.abs(march.pressure - pressure).max() < 1e-10
    assert march.time == pytest.approx(0.5)


def test_force_balances_the_pressure_drop() -> None:
    problem, velocity, pressure = poiseuille()
    drag, lift = problem.force(problem.momentum_residual(velocity, pressure), "wall")
    # the corners of the walls share the inflow's nodes: their part is half a side's pressure
    residual = problem.momentum_residual(velocity, pressure)
    assert np.abs(residual.sum(axis=0)).max() < 1e-12  # what enters leaves
    left, wall = (np.unique(problem.spaces.edges(name)) for name in ("left", "wall"))
    only_inflow = -residual[np.setdiff1d(left, wall)].sum(axis=0)[0]
    assert drag + only_inflow == pytest.approx(0.0, abs=1e-12)
    assert lift == pytest.approx(0.0, abs=1e-12)
    shear = 2 * 4 * VISCOSITY / HEIGHT * LENGTH
    corners = np.intersect1d(left, wall)
    assert drag + residual[corners].sum(axis=0)[0] == pytest.approx(shear, rel=0.05)


def kovasznay(points: np.ndarray, time: float = 0.0) -> np.ndarray:
    """Kovasznay 1948, Reynolds number 40."""
    rate = 20 - np.sqrt(400 + 4 * np.pi**2)
    x, y = points.T
    wave = np.exp(rate * x)
    u = 1 - wave * np.cos(2 * np.pi * y)
    return np.stack([u, rate / (2 * np.pi) * wave * np.sin(2 * np.pi * y)], axis=1)


def test_space_order_three() -> None:
    errors = []
    for n in (6, 12, 24):
        spaces = box(n, (-0.5, 1.0), (-0.5, 0.5))
        sides = dict.fromkeys(("left", "right", "wall"), kovasznay)
        problem = FlowProblem(spaces, viscosity=1 / 40, prescribed=sides)
        assert len(problem.free_vertices) == 0
        velocity, _ = problem.steady()
        errors.append(spaces.error(velocity, kovasznay(spaces.points)))
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    assert orders[-1] > 2.8, (errors, orders)


def taylor_green(points: np.ndarray, time: float) -> np.ndarray:
    """Taylor and Green's vortices, viscosity .01, drifting to the right with velocity 1."""
    x, y = points[:, 0] - time, points[:, 1]
    decay = np.exp(-2 * np.pi**2 * 0.01 * time)
    u = -np.cos(np.pi * x) * np.sin(np.pi * y) * decay
    v = np.sin(np.pi * x) * np.cos(np.pi * y) * decay
    return np.stack([1.0 + u, v], axis=1)


@pytest.mark.parametrize("coupled", [False, True])
def test_time_order_two(coupled: bool) -> None:
    spaces = box(8, (0, 1), (0, 1))
    sides = dict.fromkeys(("left", "right", "wall"), taylor_green)
    problem = FlowProblem(spaces, viscosity=0.01, prescribed=sides)
    x, y = spaces.points[: spaces.vertices].T
    pressure = -0.25 * (np.cos(2 * np.pi * x) + np.cos(2 * np.pi * y))
    ends = []
    # differences of successive steps: the error of the mesh is in all of them alike
    for steps in (8, 16, 32, 64):
        start = taylor_green(spaces.points, 0.0)
        march = March(problem, step=0.8 / steps, velocity=start, pressure=pressure, coupled=coupled)
        march.advance(steps)
        ends.append(march.velocity)
    changes = [spaces.error(a, b) for a, b in pairwise(ends)]
    orders = np.log2(np.array(changes[:-1]) / changes[1:])
    assert orders[-1] > 1.8, (changes, orders)
    assert spaces.error(ends[-1], taylor_green(spaces.points, 0.8)) < 5e-3


def test_convection_is_the_integral() -> None:
    spaces = TaylorHood(Channel().mesh(cylinder=0.04, wake=0.1, far=0.12))
    velocity = np.random.default_rng(1).normal(size=(spaces.nodes, 2))
    basis = skfem.Basis(spaces.mesh, skfem.ElementTriP2(), intorder=5)
    w1, w2 = (basis.interpolate(np.ascontiguousarray(w)) for w in velocity.T)
    form = skfem.BilinearForm(lambda u, v, w: (w["a"] * u.grad[0] + w["b"] * u.grad[1]) * v)
    expected = form.assemble(basis, a=w1, b=w2).toarray()
    found = spaces.matrix(spaces.convection(velocity)).toarray()
    assert np.abs(found - expected).max() < 1e-12 * np.abs(expected).max()
    # Newton's other half: the derivative of w·∇w in the direction d is w·∇d + d·∇w
    direction = np.random.default_rng(2).normal(size=(spaces.nodes, 2))
    moved = spaces.matrix(spaces.convection(direction)) @ velocity
    (xx, xy), (yx, yy) = (tuple(map(spaces.matrix, row)) for row in spaces.reaction(velocity))
    other = np.stack([m @ direction[:, 0] + n @ direction[:, 1] for m, n in ((xx, xy), (yx, yy))])
    assert np.allclose(moved, other.T, atol=1e-12)


def test_channel_mesh() -> None:
    channel = Channel(centre=(0.4, 0.22), radius=0.045)
    spaces = TaylorHood(channel.mesh(cylinder=0.02, wake=0.06, far=0.1))
    rim = spaces.points[spaces.edges("cylinder")] - channel.centre  # (n, 3, 2)
    assert np.allclose(np.hypot(rim[..., 0], rim[..., 1]), channel.radius, atol=1e-12)
    for x in (-1, 1):  # front and back are vertices
        place = (channel.centre[0] + x * channel.radius, channel.centre[1])
        assert np.hypot(*(spaces.points[: spaces.vertices] - place).T).min() < 1e-12
    triangles = spaces.linear_triangles()
    a, b, c = (spaces.points[triangles[:, i]] for i in range(3))
    (ux, uy), (vx, vy) = (b - a).T, (c - a).T
    area = 0.5 * (ux * vy - uy * vx)
    assert area.min() > 0
    hole = np.pi * channel.radius**2
    assert area.sum() == pytest.approx(channel.length * channel.height - hole, rel=2e-4)
    assert spaces.mass.sum() == pytest.approx(channel.length * channel.height - hole, rel=1e-6)
    total = sum(len(spaces.edges(name)) for name in ("inflow", "outflow", "wall", "cylinder"))
    assert total == len(spaces.mesh.boundary_facets())


def test_dfg_2d1_on_a_coarse_mesh() -> None:
    channel = Channel()
    spaces = TaylorHood(channel.mesh(cylinder=0.01, wake=0.04, far=0.06))
    sides = {"inflow": channel.inflow(0.3), "wall": no_slip, "cylinder": no_slip}
    problem = FlowProblem(spaces, viscosity=1e-3, prescribed=sides)
    velocity, pressure = problem.steady()
    drag, lift = 500 * problem.force(problem.momentum_residual(velocity, pressure), "cylinder")
    # Schäfer and Turek 1996; tests/verify/dfg.py reaches their bands
    assert drag == pytest.approx(5.5795, rel=2e-3)
    assert lift == pytest.approx(0.0106, rel=0.1)
    # the steady flow stays when it is marched
    march = March(problem, step=0.01, velocity=velocity, pressure=pressure, coupled=True)
    march.advance(5)
    assert np.abs(march.velocity - velocity).max() < 1e-7


def test_errors_say_what_was_expected() -> None:
    with pytest.raises(InputError, match=r"radius: expected between 0 and 0\.2.*got 0\.3"):
        Channel(radius=0.3)
    with pytest.raises(InputError, match="wake: expected an edge length above 0, got 0"):
        Channel().mesh(cylinder=0.1, wake=0.0, far=0.1)
    problem, velocity, _ = poiseuille()
    with pytest.raises(InputError, match="unknown boundary 'inflow'"):
        problem.spaces.edges("inflow")
    with pytest.raises(InputError, match="viscosity: expected above 0, got -1"):
        FlowProblem(problem.spaces, viscosity=-1.0, prescribed={})
    with pytest.raises(InputError, match="step: expected above 0, got 0"):
        March(problem, step=0.0, velocity=velocity)
    with pytest.raises(InputError, match=r"velocity: expected shape \(121, 2\), got \(3, 2\)"):
        March(problem, step=0.1, velocity=velocity[:3])


@pytest.mark.parametrize("package", ["gmsh", "skfem"])
def test_missing_extra_is_named(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=r"meshsim\[solve\]"):
        Channel().mesh(cylinder=0.05, wake=0.2, far=0.2)


def recipe(name: str) -> ModuleType:
    path = Path(__file__).resolve().parents[1] / "datasets" / name / "prepare.py"
    spec = importlib.util.spec_from_file_location(f"recipe_{name}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_recipe_repeats_and_carries_on(tmp_path: Path) -> None:
    generate = recipe("cylinder_flow").generate
    tiny = {"flows": 2, "frames": 3, "mesh_size": 2.5, "spin_up": 0.0, "geometry": "random"}
    calls: list[tuple[int, int]] = []
    first = generate(tmp_path / "a", **tiny, progress=lambda *n: calls.append(n))
    assert [p.name for p in first] == ["flow_000.npz", "flow_001.npz"]
    assert calls == [(0, 2), (1, 2), (2, 2)]
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == [p.name for p in first]

    with np.load(first[0]) as file:
        n, frames = len(file["points"]), file["point/velocity"]
        assert frames.shape == (3, n, 2) and frames.dtype == np.float32
        assert file["point/pressure"].shape == (3, n)
        assert file["times"].tolist() == pytest.approx([0, 0.02, 0.04])
        assert file["cells/triangle"].max() == n - 1
        assert {k for k in file.files if k.startswith("boundary/")} == {
            f"boundary/{b}/line" for b in ("inflow", "outflow", "wall", "cylinder")
        }
        rim = file["points"][file["boundary/cylinder/line"].ravel()]
        centre = file["parameter/centre_x"], file["parameter/centre_y"]
        assert np.hypot(*(rim - centre).T) == pytest.approx(float(file["parameter/radius"]))
        expected = 2 / 3 * file["parameter/inflow"] * 2 * file["parameter/radius"] / 1e-3
        assert file["parameter/reynolds"] == pytest.approx(expected)
        assert np.all(frames[:, file["boundary/wall/line"].ravel()] == 0)

    # a file that is there is left alone, one that is missing comes back the same
    kept, lost = first[0].stat().st_mtime_ns, first[1].read_bytes()
    first[1].unlink()
    generate(tmp_path / "a", **tiny)
    assert first[0].stat().st_mtime_ns == kept
    with np.load(first[1]) as again:
        (tmp_path / "lost.npz").write_bytes(lost)
        with np.load(tmp_path / "lost.npz") as before:
            assert all(np.array_equal(again[k], before[k]) for k in before.files)

    with pytest.raises(InputError, match="holds another case"):
        generate(tmp_path / "a", **tiny | {"seed": 1})


def test_recipe_draws_inflow_from_every_part_of_the_range() -> None:
    prepare = recipe("cylinder_flow")
    given = {"frames": 1, "dt": 0.02, "seed": 4}
    cases = prepare.cases(6, geometry="random", inflow=(1.2, 1.8), **given)
    parts = [int((case.inflow - 1.2) / 0.1) for case in cases]
    assert parts == list(range(6))
    assert all(0.045 <= case.radius <= 0.06 for case in cases)
    listed = prepare.cases(3, geometry="fixed", inflow=[1.3, 1.4, 1.5], **given)
    assert [case.inflow for case in listed] == [1.3, 1.4, 1.5]
    with pytest.raises(InputError, match="geometry: expected 'fixed' or 'random', got 'round'"):
        prepare.cases(1, geometry="round", inflow=(1, 2), **given)


def test_extrema_and_frequency_of_a_known_series() -> None:
    prepare = recipe("dfg_cylinder")
    t = np.arange(0, 2, 0.0025)
    phase = 2 * np.pi * t / 0.33 - 0.7
    series = np.column_stack([t, 3.2 + 0.03 * np.cos(2 * phase), -0.02 + np.sin(phase), t])
    found = prepare.measure(series)
    assert found["strouhal"] == pytest.approx(0.1 / 0.33, rel=1e-6)
    assert found["cd_max"] == pytest.approx(3.23, rel=1e-6)
    assert found["cl_max"] == pytest.approx(0.98, rel=1e-5)
    assert found["cl_min"] == pytest.approx(-1.02, rel=1e-5)
    assert prepare.periodic(series)
    series[:, 2] *= 1 + 0.01 * t
    assert not prepare.periodic(series)
