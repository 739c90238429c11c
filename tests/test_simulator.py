"""Simulator: laws of its step, what a user calls, and what may lie on disk."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from meshsim.check import InputError, WorkError
from meshsim.data import Field, Moments, Normaliser, Schema
from meshsim.mesh import Cells, Mesh
from meshsim.models.meshgraphnet import MeshGraphNet
from meshsim.sample import Sample
from meshsim.series import Series
from meshsim.simulator import BoundaryRule, Simulator

SCHEMA = Schema(
    [
        Field("velocity", "state", components=2),
        Field("T", "state"),
        Field("inflow", "parameter", "global"),
    ]
)


def channel(nx=6, ny=4, shift=0.0, stir=None):
    """Mixed quads and triangles on [0, 2] × [0, 1] with boundaries and fields."""
    x, y = torch.meshgrid(torch.linspace(0, 2, nx), torch.linspace(0, 1, ny), indexing="ij")
    points = torch.stack([x.reshape(-1), y.reshape(-1)], 1).double() + shift
    at = torch.arange(nx * ny).reshape(nx, ny)
    quads = torch.stack([at[:-1, :-1], at[1:, :-1], at[1:, 1:], at[:-1, 1:]], -1).reshape(-1, 4)
    half = len(quads) // 2
    blocks = {
        "quad": quads[:half],
        "triangle": torch.cat([quads[half:, [0, 1, 2]], quads[half:, [0, 2, 3]]]),
    }
    order = torch.arange(nx * ny) if stir is None else stir
    back = torch.empty_like(order)
    back[order] = torch.arange(nx * ny)
    sides = {"inlet": at[0], "outlet": at[-1], "wall_low": at[:, 0], "wall_high": at[:, -1]}
    mesh = Mesh(points[order], {k: back[v] for k, v in blocks.items()})
    mesh = mesh.with_boundary_cells(
        {n: [Cells("line", back[torch.stack([s[:-1], s[1:]], 1)])] for n, s in sides.items()}
    )
    g = torch.Generator().manual_seed(0)
    fields = {
        "velocity": torch.randn(nx * ny, 2, generator=g)[order],
        "T": torch.randn(nx * ny, generator=g)[order],
    }
    return mesh.with_fields(point=fields)


def normaliser(schema=SCHEMA, bundle=1, features=(), dim=2):
    g = torch.Generator().manual_seed(1)
    widths = {f.name: f.components for f in schema}
    widths |= {f"{f.name}.rate": bundle * f.components for f in schema.states}
    widths |= {"edge_attr": dim + 1} | {f"feature.{n}": w for n, w in dict(features).items()}
    return Normaliser(
        {n: Moments(w).update(0.3 + torch.rand(9, w, generator=g)) for n, w in widths.items()}
    )


def simulator(integrator="euler", bundle=1, dt=0.1, seed=0, **more):
    torch.manual_seed(seed)
    model = MeshGraphNet(
        13, 3, {"velocity": 2 * bundle, "T": bundle}, width=8, depth=2, hidden_layers=1
    )
    return Simulator(
        model,
        SCHEMA,
        normaliser(bundle=bundle),
        integrator=integrator,
        bundle=bundle,
        dt=dt,
        ranges={"inflow": (1.0, 2.0)},
        **more,
    ).eval()


ALL = [("euler", 1), ("heun", 1), ("rk4", 1), ("direct", 1), ("euler", 3), ("direct", 3)]


@pytest.mark.parametrize(("integrator", "bundle"), ALL)
def test_given_values_stay_on_their_nodes_in_every_frame(integrator, bundle):
    mesh = channel()
    series = simulator(integrator, bundle).rollout(mesh, 7, parameters={"inflow": 1.5})
    fixed = torch.cat([mesh.boundary_points(n) for n in ("inlet", "wall_low", "wall_high")])
    outlet = mesh.boundary_points("outlet")[1:-1]
    for frame in series:
        now = frame.point_fields["velocity"]
        assert torch.equal(now[fixed], mesh.point_fields["velocity"][fixed])
    last = series.frame(-1).point_fields
    assert (last["velocity"][outlet] != mesh.point_fields["velocity"][outlet]).all()
    # a scalar is free everywhere unless a rule says otherwise
    assert (last["T"] != mesh.point_fields["T"]).all()


@pytest.mark.parametrize(("integrator", "bundle"), ALL)
def test_prescribed_boundary_values_are_put_on_their_nodes(integrator, bundle):
    mesh = channel()
    n = mesh.n_points
    moving = torch.arange(8.0)[:, None, None].expand(8, n, 2).clone()
    prescribed = Series(
        mesh, [0.1 * i for i in range(8)], {"velocity": moving, "T": torch.zeros(8, n)}
    )
    series = simulator(integrator, bundle).rollout(
        mesh, 7, parameters={"inflow": 1.5}, boundary=prescribed
    )
    wall = mesh.boundary_points("wall_low")
    for t in range(1, 8):
        values = series.frame(t).point_fields["velocity"][wall]
        assert torch.allclose(values, torch.full_like(values, float(t)))


def test_a_rule_says_where_values_are_given():
    mesh = channel()
    rule = BoundaryRule({"velocity": [], "T": ["INFLOW"]})
    series = simulator(boundary=rule).rollout(mesh, 2, parameters={"inflow": 1.5})
    last, inlet = series.frame(-1).point_fields, mesh.boundary_points("inlet")[1:-1]
    assert torch.equal(last["T"][inlet], mesh.point_fields["T"][inlet])
    assert (last["velocity"] != mesh.point_fields["velocity"]).any(1).all()


@pytest.mark.parametrize("name", ["euler", "heun", "rk4"])
def test_the_step_integrates_the_models_own_rate(name):
    """A model whose rate is constant: every integrator gives u + dt r, exactly."""
    sim = simulator(name)
    with torch.no_grad():
        for p in sim.model.decode.layers[-1].parameters():
            p.zero_()
    mesh = channel()
    graph = sim.graph(mesh, {"inflow": 1.5})
    state = sim.state(graph, mesh)
    new = sim.step(graph, state)
    rate = sim.normaliser.mean("T.rate").float()
    assert torch.allclose(new["T"], state["T"] + 0.1 * rate, atol=1e-6)


class Laplacian(torch.nn.Module):
    """Rates that are exactly the graph Laplacian of the one field."""

    def forward(self, graph):
        sender, receiver = graph.edge_index
        T = graph.x[:, :1]
        return {"mesh": {"T": torch.zeros_like(T).index_add(0, receiver, T[sender] - T[receiver])}}


@pytest.mark.parametrize("name", ["euler", "heun", "rk4"])
def test_a_rollout_of_an_exact_linear_field_is_the_integrators_own_matrix(name):
    """Explicit Euler gives (I + dt L)^n u0, Heun and RK4 the longer Taylor polynomials of dt L."""
    schema = Schema([Field("T", "state")])
    one = (torch.zeros(1), torch.ones(1))
    norm = Normaliser({"T": one, "T.rate": one, "edge_attr": (torch.zeros(3), torch.ones(3))})
    sim = Simulator(Laplacian(), schema, norm, integrator=name, dt=0.05)
    mesh = channel()
    L = torch.zeros(24, 24, dtype=torch.float64)
    for i, j in mesh.edges.tolist():
        L[i, j] = L[j, i] = 1.0
    L -= torch.diag(L.sum(1))
    order = {"euler": 1, "heun": 2, "rk4": 4}[name]
    step = sum(torch.linalg.matrix_power(0.05 * L, k) / math.factorial(k) for k in range(order + 1))
    series = sim.rollout(mesh, 20)
    u = mesh.point_fields["T"].double()
    for t in range(21):
        assert torch.allclose(series.frame(t).point_fields["T"].double(), u, atol=1e-5)
        u = step @ u


def test_a_bundle_gives_mean_rates_over_its_lags():
    sim = simulator(bundle=3)
    mesh = channel()
    graph = sim.graph(mesh, {"inflow": 1.5})
    state = sim.state(graph, mesh)
    with torch.no_grad():
        ahead, _ = sim.advance(graph, state)
        rates = sim.rate(graph, state)
    for i in range(3):
        by_hand = state["T"] + 0.1 * (i + 1) * rates["T"][:, i : i + 1]
        assert torch.allclose(ahead["T"][i], by_hand, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_translation_changes_nothing(dtype):
    sim = simulator().to(dtype)
    a = sim.rollout(channel(), 3, parameters={"inflow": 1.5})
    b = sim.rollout(channel(shift=7.25), 3, parameters={"inflow": 1.5})
    for name in ("velocity", "T"):
        assert torch.allclose(
            a.field(name), b.field(name), atol=1e-5 if dtype.itemsize == 4 else 1e-12
        )


def test_points_keep_their_order_whatever_it_is():
    sim = simulator()
    order = torch.randperm(24, generator=torch.Generator().manual_seed(3))
    a = sim.rollout(channel(), 3, parameters={"inflow": 1.5})
    b = sim.rollout(channel(stir=order), 3, parameters={"inflow": 1.5})
    for name in ("velocity", "T"):
        assert torch.allclose(a.field(name)[:, order], b.field(name), atol=1e-5)


def test_answers_come_on_the_same_mesh():
    mesh = channel().with_fields(
        point={"kept": torch.arange(24)}, cell={"id": torch.arange(23)[:23]}
    )
    series = simulator().rollout(mesh, 2, parameters={"inflow": 1.5})
    assert torch.equal(series.mesh.points, mesh.points)
    assert [b.type for b in series.mesh.cells] == [b.type for b in mesh.cells]
    assert set(series.mesh.boundaries) == set(mesh.boundaries)
    assert torch.equal(series.mesh.point_fields["kept"], torch.arange(24))
    assert "T" not in series.mesh.point_fields and series.field("T").shape == (3, 24)
    answer = simulator().predict(mesh, {"inflow": 1.5})
    assert torch.equal(answer.points, mesh.points) and "id" in answer.cell_fields


def test_a_series_starts_anywhere_and_ends_where_it_ends():
    mesh = channel()
    frames = {"velocity": torch.randn(6, 24, 2), "T": torch.randn(6, 24)}
    sample = Sample(Series(mesh, [1 + 0.1 * i for i in range(6)], frames), {"inflow": 1.5})
    sim = simulator()
    whole = sim.rollout(sample)
    assert len(whole) == 6 and torch.allclose(whole.times, sample.branch.times)
    assert torch.equal(whole.frame(0).point_fields["T"], frames["T"][0])
    late = sim.rollout(sample, start=1.3)
    assert len(late) == 3 and torch.equal(late.frame(0).point_fields["T"], frames["T"][3])
    between = sim.rollout(sample, 1, start=1.25).frame(0).point_fields["T"]
    assert torch.allclose(between, (frames["T"][2] + frames["T"][3]) / 2, atol=1e-5)
    with pytest.raises(InputError, match="outside the series"):
        sim.rollout(sample, start=9.0)


def test_isolated_points_are_predicted_too():
    mesh = channel()
    lonely = mesh.replace(
        points=torch.cat([mesh.points, torch.tensor([[9.0, 9.0]], dtype=torch.float64)]),
        point_fields={k: torch.cat([v, v[:1]]) for k, v in mesh.point_fields.items()},
    )
    series = simulator().rollout(lonely, 2, parameters={"inflow": 1.5})
    assert torch.isfinite(series.field("T")).all() and series.field("T").shape == (3, 25)


def test_parameters_outside_their_range_are_warned_about():
    sim = simulator()
    with pytest.warns(UserWarning, match=r"inflow = 3 is outside .* \(1 to 2\)"):
        sim.predict(channel(), {"inflow": 3.0})
    assert sim.outside({"inflow": 1.5}) == []


@pytest.mark.parametrize(
    ("change", "parameters", "message"),
    [
        ({}, {}, "parameter 'inflow' is missing"),
        ({}, {"inflw": 1.0}, "unknown parameter 'inflw': did you mean 'inflow'"),
        ({}, {"inflow": [1.0, 2.0]}, "expected 1 values, got 2"),
        ({}, {"inflow": math.nan}, "not finite"),
        ({"T": None}, {"inflow": 1.5}, "lacks the state 'T'"),
        ({"T": torch.zeros(24, 3)}, {"inflow": 1.5}, "expected 1 components, got 3"),
        ({"T": torch.full((24,), math.inf)}, {"inflow": 1.5}, "T`: 24 values are not finite"),
    ],
)
def test_what_is_missing_or_wrong_is_named(change, parameters, message):
    mesh = channel()
    fields = {k: v for k, v in (dict(mesh.point_fields) | change).items() if v is not None}
    with pytest.raises(InputError, match=message):
        simulator().rollout(mesh.replace(point_fields=fields), 1, parameters=parameters)


def test_steps_must_be_known_and_states_exist():
    with pytest.raises(InputError, match="`steps`"):
        simulator().rollout(channel(), parameters={"inflow": 1.5})
    moving = Series(channel(), [0.0], {}, points=channel().points[None])
    with pytest.raises(InputError, match="points of the series move"):
        simulator().rollout(moving, 1, parameters={"inflow": 1.5})


def test_a_rollout_that_blows_up_says_when():
    sim = simulator(dt=1e30)
    with pytest.raises(WorkError, match=r"blew up: .* at step"):
        sim.rollout(channel(), 50, parameters={"inflow": 1.5})


def test_parts_that_do_not_fit():
    with pytest.raises(InputError, match="unknown integrator 'eular': did you mean 'euler'"):
        simulator("eular")
    with pytest.raises(InputError, match="`bundle`"):
        simulator("rk4", bundle=2)
    with pytest.raises(InputError, match="`dt`"):
        simulator(dt=None)
    with pytest.raises(InputError, match=r"velocity\.rate.*expected 6 components, got 2"):
        Simulator(torch.nn.Linear(1, 1), SCHEMA, normaliser(bundle=1), bundle=3, dt=0.1)


# --- steady targets ---

STEADY = Schema([Field("p", "target"), Field("traction", "target", components=3)])
WIDTHS = {"position": 3, "normal": 3, "curvature": 1}


def sphere(n=8):
    """A triangulated half of a sphere, symmetric in x."""
    import numpy as np

    u, v = np.meshgrid(np.linspace(0.2, 1.4, n), np.linspace(-1.2, 1.2, n), indexing="ij")
    points = np.stack([np.sin(v) * np.cos(u), np.sin(u), np.cos(v) * np.cos(u)], -1)
    at = np.arange(n * n).reshape(n, n)
    a, b, c, d = at[:-1, :-1], at[:-1, 1:], at[1:, 1:], at[1:, :-1]
    quads = np.stack([a, b, c, d], -1).reshape(-1, 4)
    return Mesh(points.reshape(-1, 3), {"quad": quads})


def steady(symmetry=()):
    torch.manual_seed(0)
    model = MeshGraphNet(16, 4, {"p": 1, "traction": 3}, width=8, depth=2, hidden_layers=1)
    norm = normaliser(STEADY, features=WIDTHS, dim=3)
    return Simulator(model, STEADY, norm, features=list(WIDTHS), symmetry=symmetry).eval()


def test_steady_targets_are_predicted_from_the_geometry():
    answer = steady().predict(sphere())
    assert answer.point_fields["p"].shape == (64,)
    assert answer.point_fields["traction"].shape == (64, 3)
    with pytest.raises(InputError, match="use predict"):
        steady().rollout(sphere(), 3)


def test_symmetry_is_exact_when_asked_for():
    mesh = sphere()
    n = 8
    across = torch.arange(n * n).reshape(n, n).flip(1).reshape(-1)
    found = {s: steady(s).predict(mesh).point_fields for s in ((), ("x",))}
    sign = torch.tensor([-1.0, 1.0, 1.0])
    assert torch.allclose(found["x",]["p"], found["x",]["p"][across], atol=1e-5)
    assert torch.allclose(
        found["x",]["traction"], sign * found["x",]["traction"][across], atol=1e-5
    )
    assert not torch.allclose(found[()]["p"], found[()]["p"][across], atol=1e-3)


# --- on disk ---


@pytest.fixture
def saved(tmp_path):
    simulator(bundle=3, node_types={"inlet": "INFLOW"}, configuration={"a": 1}).save(tmp_path / "s")
    return tmp_path / "s"


def test_saved_and_loaded_it_is_bit_for_bit_the_same(saved):
    before, after = simulator(bundle=3), Simulator.load(saved)
    for name, tensor in before.state_dict().items():
        assert torch.equal(tensor, after.state_dict()[name])
    before.node_types = {"inlet": "INFLOW"}
    a = before.rollout(channel(), 4, parameters={"inflow": 1.5})
    b = after.rollout(channel(), 4, parameters={"inflow": 1.5})
    for name in ("velocity", "T"):
        assert torch.equal(a.field(name), b.field(name))
    assert after.configuration == {"a": 1} and after.bundle == 3 and after.dt == 0.1
    assert sorted(p.name for p in saved.iterdir()) == ["model.safetensors", "simulator.json"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_weights_keep_their_precision(tmp_path, dtype):
    simulator().to(dtype).save(tmp_path)
    assert Simulator.load(tmp_path).dtype == dtype


def edit(saved, **changes):
    path = saved / "simulator.json"
    document = json.loads(path.read_text())
    for key, value in changes.items():
        if value is None:
            del document[key]
        else:
            document[key] = value
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": None}, "the key 'schema' is missing"),
        ({"format": 99}, "format 99 is not known"),
        ({"integrator": "eular"}, "did you mean 'euler'"),
        ({"bundle": 2}, r"velocity\.rate"),
        ({"dt": -1.0}, "`dt`"),
        ({"dt": "soon"}, "dt"),
        ({"bundle": 3.0}, "`bundle`: expected 1|does not describe"),
        ({"ranges": {"inflow": [1.0]}}, "does not describe a simulator: IndexError"),
        ({"format": 99, "versions": "unknown"}, "format 99 is not known"),
        ({"schema": {"velocity": {"role": "stat"}}}, "did you mean 'state'"),
        ({"boundary": {"velocity": 3}}, "does not describe a simulator"),
        ({"statistics": {}}, "statistics of 'edge_attr' are missing"),
        (
            {"architecture": {"name": "os.system", "arguments": {}, "dtype": "float32"}},
            "unknown arch",
        ),
        ({"architecture": {"name": "meshgraphnet", "arguments": {}, "dtype": "int8"}}, "dtype"),
        (
            {"architecture": {"name": "meshgraphnet", "arguments": {"w": 1}, "dtype": "float32"}},
            "does not describe a simulator",
        ),
        ({"weights": {}}, "sha256"),
        ({"weights": {"sha256": "0" * 64}}, "is not what simulator.json was written with"),
    ],
)
def test_an_edited_description_is_refused_in_one_line(saved, changes, message):
    edit(saved, **changes)
    with pytest.raises(InputError, match=message) as error:
        Simulator.load(saved)
    assert "\n" not in str(error.value) and str(saved) in str(error.value)


def tensors(saved, change):
    path = saved / "model.safetensors"
    held = load_file(path)
    change(held)
    save_file(held, path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.update({"decode.layers.1.bias": torch.zeros(7)}),
            r"tensor 'decode.layers.1.bias': expected shape \(9,\), got \(7,\)",
        ),
        (lambda t: t.pop("decode.layers.1.bias"), "tensor 'decode.layers.1.bias' is missing"),
        (lambda t: t.update(more=torch.zeros(1)), "tensor 'more' has no place"),
        (
            lambda t: t.update({"decode.layers.1.bias": torch.zeros(9, dtype=torch.int32)}),
            "expected float32, got int32",
        ),
        (
            lambda t: t.update({"decode.layers.1.bias": torch.full((9,), math.nan)}),
            "9 values are not finite",
        ),
        (
            lambda t: t.update({"decode.layers.1.bias": torch.zeros(9)}),
            "is not what simulator.json was written with",
        ),
    ],
)
def test_wrong_tensors_are_named(saved, change, message):
    tensors(saved, change)
    with pytest.raises(InputError, match=message) as error:
        Simulator.load(saved)
    assert "\n" not in str(error.value)


def test_damaged_and_missing_files(saved, tmp_path):
    with pytest.raises(InputError, match="No such file"):
        Simulator.load(tmp_path / "absent")
    (saved / "model.safetensors").write_bytes(b"\x80\x04cposix\nsystem\n.")
    with pytest.raises(InputError, match="not a safetensors file"):
        Simulator.load(saved)
    (saved / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"model\.safetensors"):
        Simulator.load(saved)
    (saved / "simulator.json").write_text('{"format": 1')
    with pytest.raises(InputError, match="not valid JSON"):
        Simulator.load(saved)


def test_a_huge_architecture_takes_no_memory_before_it_is_refused(saved):
    document = json.loads((saved / "simulator.json").read_text())
    document["architecture"]["arguments"]["width"] = 2**20
    edit(saved, architecture=document["architecture"])
    with pytest.raises(InputError, match="expected shape"):
        Simulator.load(saved)


def test_saving_over_another_is_whole_or_not_at_all(saved, monkeypatch):
    from meshsim import simulator_files

    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(simulator_files.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        simulator(seed=5).save(saved)
    assert Simulator.load(saved).bundle == 3
    assert not [p for p in saved.iterdir() if p.suffix == ".tmp"]
