"""One loop for every kind of problem: steady surfaces, cells, periodic meshes, both together."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from meshsim.check import InputError
from meshsim.data import Field, Schema, Store
from meshsim.mesh import Cells, Mesh
from meshsim.sample import Sample
from meshsim.series import Series
from meshsim.train import Config, evaluate, train
from meshsim.train.batches import Batches, mesh_key
from meshsim.train.setup import gather, schema_of, windows_of

MODEL = {"width": 16, "depth": 2, "hidden_layers": 1, "activation": "silu"}


def patch(n, bend):
    """A bent surface in 3-D, each with its own number of points."""
    u, v = np.meshgrid(np.linspace(-1, 1, n), np.linspace(-1, 1, n + 1), indexing="ij")
    points = np.stack([u, v, bend * (u**2 - 0.5 * v**2)], -1).reshape(-1, 3)
    at = np.arange(n * (n + 1)).reshape(n, n + 1)
    quads = np.stack([at[:-1, :-1], at[1:, :-1], at[1:, 1:], at[:-1, 1:]], -1)
    mesh = Mesh(points, {"quad": quads.reshape(-1, 4)})
    x = mesh.points
    return mesh.with_fields(point={"pressure": (2 * x[:, 2] - x[:, 1] + 3).float()})


@pytest.fixture(scope="module")
def surfaces(tmp_path_factory):
    path = tmp_path_factory.mktemp("surfaces") / "store"
    store = Store.create(path, Schema([Field("pressure", "target", unit="Pa")]))
    for i in range(6):
        store.append(Sample({"surface": patch(5 + i, 0.1 * i - 0.2)}, name=f"s{i}"), {})
    store.set_splits({"train": ["s0", "s1", "s3", "s5"], "test": ["s2", "s4"]})
    return store


def steady_recipe(store, **train_options):
    return {
        "data": {"store": str(store.path)},
        "model": dict(MODEL),
        "simulator": {"features": ["position", "normal", "curvature", "box_size"]},
        "train": {"steps": 60, "batch": 2, "threads": 1, "warmup": 5, "lr": 5e-3} | train_options,
    }


def test_a_steady_target_is_learned_from_geometry(surfaces, tmp_path):
    raw = steady_recipe(surfaces, steps=80, jitter=0.01, loss="relative_l2")
    simulator = train(Config.from_dict(raw), tmp_path / "run")
    report = evaluate(simulator, surfaces)
    model = report["metrics"]["pressure"]
    constant = report["baselines"]["training_mean"]["pressure"]
    assert report["samples"] == 2 and model["relative_l2"] < 0.3 * constant["relative_l2"]
    assert simulator.dt is None
    answer = simulator.predict(surfaces.sample("s2"))
    assert answer.point_fields["pressure"].shape == (answer.n_points,)


def test_a_field_with_a_reference_scale_has_its_own_mean_as_baseline(surfaces, tmp_path):
    raw = steady_recipe(surfaces, steps=2)
    raw["fields"] = {"pressure": {"scale": 2.0}}
    report = evaluate(train(Config.from_dict(raw), tmp_path / "run"), surfaces)
    truth = [surfaces.sample(n).mesh.point_fields["pressure"].double() for n in ("s2", "s4")]
    expected = sum(float(p.std(correction=0)) for p in truth) / 2
    assert report["baselines"]["own_mean"]["pressure"]["rmse"] == pytest.approx(expected)
    assert "training_mean" not in report["baselines"]


def test_meshes_that_differ_in_the_kind_of_a_boundary_share_no_graph():
    mesh = strip()
    names = {name: replace(b, kind="wall") for name, b in mesh.boundaries.items()}
    walled = mesh.replace(boundaries=names)
    assert mesh_key(walled, []) != mesh_key(mesh, []) == mesh_key(strip(), [])


def test_mirroring_and_symmetry_go_through_the_same_recipe(surfaces, tmp_path):
    raw = steady_recipe(surfaces, mirror=["x"])
    raw["simulator"]["symmetry"] = ["x"]
    simulator = train(Config.from_dict(raw), tmp_path / "run")
    mesh = patch(7, 0.1)
    found = simulator.predict(mesh).point_fields["pressure"].reshape(7, 8)
    assert torch.allclose(found, found.flip(0), atol=1e-4)


def test_a_batch_of_different_meshes_is_the_meshes_side_by_side(surfaces):
    config = Config.from_dict(steady_recipe(surfaces))
    schema = schema_of(config, surfaces)
    facts = gather(config, surfaces, schema)
    from meshsim.train.setup import build

    simulator = build(config, schema, facts).eval()
    batches = Batches(simulator, windows_of(config, surfaces, schema, 1))
    both = batches.make([0, 3])
    with torch.no_grad():
        together = simulator.evaluate(both.graph, {})[1]["pressure"]
        apart = [simulator.evaluate(batches.make([i]).graph, {})[1]["pressure"] for i in (0, 3)]
    assert torch.allclose(together, torch.cat(apart), atol=1e-5)
    assert float(both.weights["pressure"].sum()) == pytest.approx(1.0)
    truth = [surfaces.sample(n).mesh.point_fields["pressure"] for n in ("s0", "s5")]
    assert torch.equal(both.targets["pressure"][0, :, 0], torch.cat(truth))


def strip(nx=8, ny=2):
    """Quads on [0, 1] × [0, 0.25], open at left and right."""
    x, y = torch.meshgrid(
        torch.linspace(0, 1, nx + 1), torch.linspace(0, 0.25, ny + 1), indexing="ij"
    )
    points = torch.stack([x.reshape(-1), y.reshape(-1)], 1).double()
    at = torch.arange((nx + 1) * (ny + 1)).reshape(nx + 1, ny + 1)
    quads = torch.stack([at[:-1, :-1], at[1:, :-1], at[1:, 1:], at[:-1, 1:]], -1).reshape(-1, 4)

    def lines(k):
        return [Cells("line", torch.stack([k[:-1], k[1:]], 1))]

    mesh = Mesh(points, {"quad": quads})
    return mesh.with_boundary_cells({"left": lines(at[0]), "right": lines(at[-1])})


def carried(places, frames=20, dt=0.05):
    """(T, n): a sine that moves to the right with speed 1, periodic in x."""
    t = dt * torch.arange(frames, dtype=torch.float64)[:, None]
    return torch.sin(2 * torch.pi * (places[:, 0] - t)).float()


@pytest.mark.parametrize("location", ["point", "cell"])
def test_states_at_points_of_a_periodic_mesh_and_in_cells(tmp_path, location):
    mesh = strip()
    times = (0.05 * torch.arange(20)).tolist()
    places = mesh.points if location == "point" else mesh.cell_centres
    fields = {f"{location}_fields": {"c": carried(places)}}
    store = Store.create(tmp_path / "store", Schema([Field("c", "state", location)]))
    store.append(Sample(Series(mesh, times, **fields), name="a"), {})
    raw = {
        "data": {"store": str(store.path), "train": ["a"], "frames": [0, 15]},
        "model": dict(MODEL),
        "simulator": {"periodic": [["left", "right"]], "bundle": 2},
        "train": {"steps": 80, "batch": 4, "threads": 1, "warmup": 5, "lr": 1e-2, "ema": 0.9},
    }
    simulator = train(Config.from_dict(raw), tmp_path / "run")
    report = evaluate(simulator, store, split=["a"], start=14)
    one, still = (
        table["c"]["one_step"] for table in (report["metrics"], report["baselines"]["persistence"])
    )
    assert one < 0.7 * still
    series = simulator.rollout(store.sample("a"), 4)
    assert series.field("c").shape == (5, len(places))
    if location == "point":  # points that share a node have one value
        left, right = (mesh.boundary_points(n) for n in ("left", "right"))
        assert torch.equal(series.field("c")[1:, left], series.field("c")[1:, right])


def test_states_and_targets_together(tmp_path):
    mesh = strip()
    c = carried(mesh.points)
    schema = Schema([Field("c", "state"), Field("p", "target")])
    store = Store.create(tmp_path / "store", schema)
    times = (0.05 * torch.arange(20)).tolist()
    store.append(Sample(Series(mesh, times, {"c": c, "p": 3 * c + 1}), name="a"), {})
    raw = {
        "data": {"store": str(store.path), "train": ["a"]},
        "model": dict(MODEL),
        "train": {
            "steps": 150,
            "batch": 2,
            "unroll": 2,
            "threads": 1,
            "warmup": 5,
            "lr": 1e-2,
            "ema": 0.9,
        },
    }
    simulator = train(Config.from_dict(raw), tmp_path / "run")
    series = simulator.rollout(store.sample("a"), 3)
    p, c = series.field("p"), series.field("c")
    assert p.shape == (4, mesh.n_points)
    assert float((p - (3 * c + 1)).std() / p.std()) < 0.15  # one frame later: 0.31
    report = evaluate(simulator, store, split=["a"], steps=5)
    assert set(report["metrics"]) == {"c", "p"}
    # one step of a target is judged on the same frames as its baselines', not on the first alone
    sample, squares = store.sample("a"), []
    for t in range(5):
        step = simulator.rollout(sample, 1, start=float(sample.branch.times[t])).frame(1)
        true = sample.branch.frame(t + 1).point_fields["p"]
        squares.append(float((step.point_fields["p"] - true).square().mean()))
    assert report["metrics"]["p"]["one_step"] == pytest.approx((sum(squares) / 5) ** 0.5, rel=1e-3)


def test_samples_that_do_not_fit_each_other(tmp_path):
    mesh = strip()
    store = Store.create(tmp_path / "store", Schema([Field("c", "state")]))
    for name, dt in (("a", 0.05), ("b", 0.08)):
        times = (dt * torch.arange(6)).tolist()
        store.append(Sample(Series(mesh, times, {"c": carried(mesh.points, 6)}), name=name), {})
    raw = {
        "data": {"store": str(store.path), "train": ["a", "b"]},
        "model": dict(MODEL),
        "train": {"steps": 2, "threads": 1},
    }
    with pytest.raises(InputError, match=r"'b': time steps of 0.08 .* \(expected 0.05"):
        train(Config.from_dict(raw), tmp_path / "run")


def test_a_reference_scale_comes_back_dimensional(tmp_path):
    """In kPa with the scale in kPa the network is that of Pa, and the prediction a thousandth."""
    mesh, found = strip(), {}
    for name, unit in (("Pa", 1.0), ("kPa", 2.0**-10)):  # a power of two: no rounding
        p = (100.0 + 50.0 * carried(mesh.points)[0]) * unit
        schema = Schema([Field("p", "target", unit=name, scale=64.0 * unit)])
        store = Store.create(tmp_path / name, schema)
        store.append(Sample(mesh.with_fields({"p": p}), name="a"))
        raw = {
            "data": {"store": str(store.path), "train": ["a"]},
            "model": dict(MODEL),
            "train": {"steps": 30, "batch": 1, "threads": 1, "lr": 1e-2, "ema": 0.9},
        }
        simulator = train(Config.from_dict(raw), tmp_path / f"run_{name}")
        assert simulator.normaliser.std("p").tolist() == [64.0 * unit]
        found[name] = simulator.predict(mesh).point_fields["p"]
    assert torch.equal(found["kPa"], found["Pa"] * 2.0**-10)
    assert 50 < found["Pa"].abs().mean() < 200
