"""A simulator on graphs that knows the potential flow about a surface."""

from __future__ import annotations

import pytest
import torch

import meshsim
from meshsim.check import InputError
from meshsim.clouds import cloud
from meshsim.inputs import FLOW, raw_graph
from meshsim.potential import Potential
from meshsim.train import Config, train

from .test_surrogate import ellipsoid

POTENTIAL = {"direction": [1.0, 0.0, 0.0]}


def recipe(store, features=FLOW):
    return {
        "data": {"store": str(store), "train": ["a", "b"], "valid": ["b"]},
        "fields": {"pressure": {"role": "target", "components": 1}},
        "model": {"name": "meshgraphnet", "width": 16, "depth": 2},
        "simulator": {"features": list(features), "potential": POTENTIAL, "symmetry": ["y"]},
        "train": {"steps": 3, "threads": 1, "mirror": ["y"]},
    }


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    out = meshsim.Store.create(tmp_path_factory.mktemp("flow") / "bodies.zarr")
    for name, axes in (("a", (1.0, 0.5, 0.4)), ("b", (1.0, 0.6, 0.3))):
        out.append(meshsim.Sample(ellipsoid(axes), {}, name))
    return out


def test_its_features_are_those_of_a_surrogate():
    body, which = ellipsoid((1.0, 0.5, 0.4)), Potential([1.0, 0.0, 0.0])
    graph = raw_graph(body, features=FLOW, potential=which)
    known = cloud(body, "point", FLOW, body, which).features
    for name in FLOW:
        assert torch.allclose(getattr(graph, f"feature_{name}").double(), known[name].double())
    turned = body.replace(cells=[b.map(lambda t: t.flip(-1)) for b in body.cells])
    other = raw_graph(turned, features=FLOW, potential=which)
    assert torch.allclose(other.feature_potential_cp, graph.feature_potential_cp)


def test_it_is_trained_saved_and_symmetric(store, tmp_path):
    train(Config.from_dict(recipe(store.path)), tmp_path / "run")
    simulator = meshsim.load(tmp_path / "run")
    assert simulator.potential.direction == [1.0, 0.0, 0.0]
    body = ellipsoid((1.0, 0.5, 0.4))
    image = body.replace(points=body.points * torch.tensor([1.0, -1.0, 1.0]))
    one, two = (simulator.predict(m).point_fields["pressure"] for m in (body, image))
    assert torch.allclose(one, two, atol=2e-4 * float(one.abs().max()))


def test_a_flow_needs_a_direction_and_a_surface(store, tmp_path):
    config = recipe(store.path)
    del config["simulator"]["potential"]
    with pytest.raises(InputError, match=r"simulator\.potential"):
        train(Config.from_dict(config), tmp_path / "run")
    square = meshsim.Mesh([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], {"triangle": [[0, 1, 2]]})
    with pytest.raises(InputError, match="surface"):
        raw_graph(square, features=FLOW, potential=Potential([1.0, 0.0, 0.0]))
