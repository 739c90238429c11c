"""Graph networks trained side by side: each as if alone, together their mean."""

from __future__ import annotations

import copy

import pytest
import torch

import meshsim
from meshsim.check import InputError
from meshsim.models import GraphEnsemble, GraphTransformer, MeshGraphNet
from meshsim.train import Config, train
from tests.test_simulator import channel, simulator
from tests.test_simulator_potential import recipe, store  # noqa: F401  a fixture


def pair(kind=MeshGraphNet, **given):
    torch.manual_seed(0)
    sizes = {"width": 8, "depth": 2, **given}
    if kind is GraphTransformer:
        sizes |= {"heads": 2}
    return GraphEnsemble([kind(13, 3, {"velocity": 2, "T": 1}, **sizes) for _ in range(2)])


@pytest.mark.parametrize("kind", [MeshGraphNet, GraphTransformer])
def test_a_step_is_the_mean_of_the_members(kind):
    whole = simulator()
    whole.model = pair(kind)
    graph = whole._ready(channel(), {"inflow": 1.5})
    state = whole.state(graph, channel())
    with torch.no_grad():
        rates = whole.evaluate(whole.with_edges(graph), state)[0]
        each = [one.evaluate(graph, state)[0] for one in whole.each()]
    for name in rates:
        torch.testing.assert_close(rates[name], (each[0][name] + each[1][name]) / 2)
        assert not torch.equal(each[0][name], each[1][name])
    assert len(whole.rollout(channel(), 3, parameters={"inflow": 1.5})) == 4


def test_each_member_is_trained_as_if_alone(store, tmp_path):  # noqa: F811
    found = []
    for members in (1, 2):
        raw = recipe(store.path)
        raw["model"]["members"] = members
        raw["train"] |= {"optimiser": "adamw", "clip": 0.0}
        train(Config.from_dict(raw), tmp_path / str(members))
        found.append(meshsim.load(tmp_path / str(members)).model)
    alone, first = found[0].state_dict(), found[1].members[0].state_dict()
    for name in alone:
        torch.testing.assert_close(alone[name], first[name], rtol=1e-4, atol=1e-6)
    second = found[1].members[1].state_dict()
    assert any(not torch.equal(first[n], second[n]) for n in first)


def test_it_comes_back_from_disk_and_says_how_far_its_members_disagree(store, tmp_path):  # noqa: F811
    raw = recipe(store.path)
    raw["model"]["members"] = 3
    made = train(Config.from_dict(raw), tmp_path / "run")
    back = meshsim.load(tmp_path / "run")
    body = store.sample("b").mesh
    out = back.predict(body, spread=True).point_fields
    assert torch.equal(out["pressure"], made.predict(body, spread=True).point_fields["pressure"])
    each = torch.stack([one.predict(body).point_fields["pressure"] for one in back.each()])
    torch.testing.assert_close(out["pressure"], each.mean(0))
    torch.testing.assert_close(out["pressure_spread"], each.std(0, correction=0))
    torch.testing.assert_close(out["pressure"], back.predict(body).point_fields["pressure"])


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
def test_an_exported_ensemble_gives_its_mean(tmp_path):
    whole = simulator()
    whole.model = pair()
    whole.export(tmp_path / "step.pt2")
    program = torch.export.load(tmp_path / "step.pt2")
    state, mesh = whole.tensors(channel(), {"inflow": 1.5})
    with torch.no_grad():
        ahead = program.module()(state, mesh)[0]
        graph = whole._ready(channel(), {"inflow": 1.5})
        known = whole.advance(graph, state)[0]
    for name in known:
        torch.testing.assert_close(ahead[name], known[name])


def test_what_is_no_ensemble_has_no_spread():
    with pytest.raises(InputError, match="none"):
        GraphEnsemble([])
    with pytest.raises(InputError, match=r"`spread`: needs an ensemble"):
        simulator().predict(channel(), {"inflow": 1.5}, spread=True)


def test_members_share_all_but_the_network():
    whole = simulator()
    whole.model = pair()
    one, two = whole.each()
    assert one.normaliser is two.normaliser is whole.normaliser
    assert one.model is whole.model.members[0] and copy.copy(whole).model is whole.model
    assert simulator().each()[0].model.__class__ is MeshGraphNet
