"""The loss of a step, against what it should be by hand."""

import pytest
import torch

from meshsim.data import Store
from meshsim.train.batches import Batches
from meshsim.train.config import Config
from meshsim.train.noise import add_noise, corrected_rate
from meshsim.train.plan import Stage
from meshsim.train.setup import build, gather, schema_of, windows_of
from meshsim.train.step import batch_loss


@pytest.fixture
def ready(recipe):
    """(config, simulator, batches) for windows of some length."""

    def make(length=2, bundle=1, integrator="euler", power=0.0, **train):
        raw = recipe(**train)
        raw["simulator"] = {"bundle": bundle, "integrator": integrator}
        config = Config.from_dict(raw)
        store = Store(config.data.store)
        schema = schema_of(config, store)
        simulator = build(config, schema, gather(config, store, schema))
        windows = windows_of(config, store, schema, length)
        return config, simulator, Batches(simulator, windows, power=power)

    return make


def test_the_loss_is_the_error_of_the_corrected_rate(ready):
    config, simulator, batches = ready(noise=3.0)
    batch = batches.make([0, 40])
    stage = Stage(0.0, 1.0, 2, 1, 0)
    got = batch_loss(simulator, batch, config.train, stage, step=7, share=0.0)

    state = {k: x[0] for k, x in batch.states.items()}
    noisy = add_noise(state, simulator.schema.states, batch.graph.free, 3.0, 0, 7)
    rate = simulator.rate(batch.graph, noisy)["velocity"]
    target = corrected_rate(noisy["velocity"], batch.states["velocity"][1], simulator.dt)
    std = simulator.normaliser.std("velocity.rate")
    by_hand = (batch.weights["velocity"] * ((rate - target) / std) ** 2).sum(0).mean()
    assert float(got.detach()) == pytest.approx(float(by_hand.detach()), rel=1e-4)


@pytest.mark.parametrize(
    ("integrator", "bundle"),
    [("euler", 1), ("heun", 1), ("rk4", 1), ("direct", 1), ("euler", 3), ("direct", 3)],
)
def test_unrolled_passes_are_compared_with_the_frames_they_stand_for(ready, integrator, bundle):
    config, simulator, batches = ready(1 + 3 * bundle, bundle, integrator, noise=0.0)
    batch = batches.make([5])
    stage = Stage(0.0, 1.0, 1, 2, 1)
    got = batch_loss(simulator, batch, config.train, stage, step=0, share=0.0)
    state = {"velocity": batch.states["velocity"][0]}
    seen = []
    with torch.no_grad():
        for _ in range(3):
            ahead = simulator.advance(batch.graph, state)[0]["velocity"]
            seen.append(ahead)
            state = {"velocity": ahead[-1]}
    error = torch.cat(seen[1:]) - batch.states["velocity"][1 + bundle :]
    if integrator == "direct":
        unit = simulator.normaliser.std("velocity").expand(bundle, 1, 2)
    else:
        lags = torch.arange(1, bundle + 1)[:, None, None]
        unit = simulator.normaliser.std("velocity.rate").reshape(bundle, 1, 2) * lags * simulator.dt
    by_hand = (batch.weights["velocity"] * (error / unit.repeat(2, 1, 1)) ** 2).sum(1).mean()
    assert float(got.detach()) == pytest.approx(float(by_hand.detach()), rel=1e-4)


def test_only_the_unrolled_passes_have_gradients(ready):
    config, simulator, batches = ready(3, noise=0.0)
    batch = batches.make([5])
    grads = []
    for stage in (Stage(0.0, 1.0, 1, 1, 1), Stage(0.0, 1.0, 1, 2, 0)):
        simulator.zero_grad()
        batch_loss(simulator, batch, config.train, stage, 0, 0.0).backward()
        grads.append(torch.cat([p.grad.reshape(-1) for p in simulator.model.parameters()]))
    assert torch.isfinite(grads[0]).all() and not torch.allclose(grads[0], grads[1])


def test_mirrored_samples_are_what_the_mirrored_mesh_would_give(ready):
    """Mirroring the graph's inputs equals reading a mirrored mesh; y → 1 − y maps the channel."""
    config, simulator, batches = ready(noise=0.0, mirror=["y"])
    stage = Stage(0.0, 1.0, 1, 1, 0)
    batch = batches.make([5])
    losses = {
        round(float(batch_loss(simulator, batch, config.train, stage, step, 0.0).detach()), 5)
        for step in range(12)
    }
    assert len(losses) == 2  # mirrored and not, by the step's own draw

    from meshsim.symmetry import mirror

    once = mirror(simulator, batch.graph, {k: x[0] for k, x in batch.states.items()}, "y")
    twice = mirror(simulator, *once, "y")
    assert torch.allclose(twice[0].edge_attr, batch.graph.edge_attr, atol=1e-5)
    assert torch.allclose(twice[0].static, batch.graph.static, atol=1e-5)
    assert torch.equal(twice[1]["velocity"], batch.states["velocity"][0])
    norm = simulator.normaliser
    real = norm.decode("edge_attr", once[0].edge_attr)
    before = norm.decode("edge_attr", batch.graph.edge_attr)
    assert torch.allclose(real, before * torch.tensor([1.0, -1.0, 1.0]), atol=1e-5)


def test_windows_on_one_mesh_share_one_batched_graph(ready):
    _, _, batches = ready()
    a, b = batches.make([0, 40]), batches.make([41, 3])
    assert a.graph.edge_index is b.graph.edge_index
    assert len(batches._graphs.held) == 1
    # the inflow is each window's own
    assert not torch.equal(a.graph.static, b.graph.static)


def test_the_order_visits_every_window_once_a_pass(ready):
    _, _, batches = ready()
    n = len(batches.windows)
    seen = [i for p in range(0, 2 * n, 6) for i in batches.indices(0, 0, p, 6)][: 2 * n]
    assert sorted(seen[:n]) == list(range(n)) == sorted(seen[n:]) and seen[:n] != seen[n:]
    again = [i for p in range(0, n, 1) for i in batches.indices(0, 0, p, 1)]
    assert again == seen[:n]


def test_measure_weights_follow_the_cells(ready):
    _, _, batches = ready(power=1.0)
    batch = batches.make([0])
    free = batch.graph.free[:, 0] > 0
    inside = batch.weights["velocity"][free]
    assert float(inside.sum()) == pytest.approx(1.0)
    assert float(inside.max()) > 1.4 * float(inside.min())


def test_a_recipe_chooses_fields_or_changes_the_stores(recipe, store):
    def schema(**fields):
        return schema_of(Config.from_dict(recipe() | {"fields": fields}), store)

    assert schema() == store.schema
    assert schema(velocity={"noise": 0.5})["velocity"].noise == 0.5
    assert schema(velocity={"noise": 0.5}).names == ("velocity", "inflow")
    only = schema(velocity={"role": "state", "noise": 0.0})
    assert only.names == ("velocity",) and only["velocity"].components == 2
