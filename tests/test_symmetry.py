"""Mirror images are what a mirrored mesh gives; averaging over them commutes with each of them."""

import pytest
import torch

from meshsim.data import Field, Moments, Normaliser, Schema
from meshsim.mesh import Mesh
from meshsim.models.meshgraphnet import MeshGraphNet
from meshsim.simulator import BoundaryRule, Simulator
from meshsim.symmetry import AXES, mirror

# every kind of column that can flip: features, vectors at nodes, a global vector after a scalar
SCHEMA = Schema(
    [
        Field("velocity", "state", components=2),
        Field("T", "state"),
        Field("level", "parameter", "global"),
        Field("wind", "parameter", "global", components=2),
        Field("slope", "parameter", components=2),
        Field("traction", "target", components=2),
    ]
)
FEATURES = {"box_size": 2, "position": 2, "normal": 2, "wall_distance": 1}
WIND = torch.tensor([0.7, -0.4])


def mesh(signs=(1.0, 1.0)):
    """An uneven triangle mesh with a vector field, mirrored by `signs`."""
    g = torch.Generator().manual_seed(2)
    x, y = torch.meshgrid(torch.arange(5.0), torch.arange(4.0), indexing="ij")
    points = torch.stack([x, y], -1).reshape(-1, 2) + 0.3 * torch.rand(20, 2, generator=g)
    at = torch.arange(20).reshape(5, 4)
    quads = torch.stack([at[:-1, :-1], at[1:, :-1], at[1:, 1:], at[:-1, 1:]], -1).reshape(-1, 4)
    flip = torch.tensor(signs)
    fields = {
        "velocity": torch.randn(20, 2, generator=g) * flip,
        "T": torch.randn(20, generator=g),
        "slope": torch.randn(20, 2, generator=g) * flip,
    }
    return Mesh(points.double() * flip, {"quad": quads}, point_fields=fields)


def simulator(symmetry=(), bundle=2):
    g = torch.Generator().manual_seed(1)
    widths = {f.name: f.components for f in SCHEMA} | {"edge_attr": 3}
    widths |= {f"{f.name}.rate": bundle * f.components for f in SCHEMA.states}
    widths |= {f"feature.{name}": w for name, w in FEATURES.items()}
    norm = Normaliser(
        {n: Moments(w).update(0.3 + torch.rand(9, w, generator=g)) for n, w in widths.items()}
    )
    columns = 9 + 3 + sum(FEATURES.values()) + 5
    torch.manual_seed(0)
    model = MeshGraphNet(
        columns,
        3,
        {"velocity": 2 * bundle, "T": bundle, "traction": 2},
        width=8,
        depth=2,
        hidden_layers=1,
        activation="silu",
    )
    return Simulator(
        model,
        SCHEMA,
        norm,
        bundle=bundle,
        boundary=BoundaryRule({"velocity": []}),
        features=list(FEATURES),
        dt=0.1,
        symmetry=symmetry,
    ).double()


def ready(sim, signs=(1.0, 1.0)):
    here = mesh(signs)
    wind = WIND * torch.tensor(signs)
    graph = sim.graph(here, {"wind": wind.tolist(), "level": 0.5})
    return graph, sim.state(graph, here)


def signs_of(axis):
    return [-1.0 if a == axis else 1.0 for a in AXES[:2]]


@pytest.mark.parametrize("axis", ["x", "y"])
def test_the_mirrored_graph_is_the_graph_of_the_mirrored_mesh(axis):
    sim = simulator()
    image, state = mirror(sim, *ready(sim), axis)
    graph, expected = ready(sim, signs_of(axis))
    assert torch.allclose(image.pos, graph.pos, atol=1e-6)
    assert torch.allclose(image.edge_attr, graph.edge_attr, atol=1e-6)
    assert torch.allclose(image.static, graph.static, atol=1e-6)
    for name, x in expected.items():
        assert torch.equal(state[name], x)


@pytest.mark.parametrize("symmetry", [("x",), ("y",), ("x", "y")])
def test_averaging_over_mirror_images_commutes_with_each(symmetry):
    """f(R u) = R f(u) for every reflection R asked for; without averaging it does not hold."""
    for axis in symmetry:
        for asked, holds in ((symmetry, True), ((), False)):
            sim = simulator(asked)
            with torch.no_grad():
                rates, targets = sim.evaluate(*ready(sim))
                mirrored, others = sim.evaluate(*ready(sim, signs_of(axis)))
            flip = torch.tensor(signs_of(axis)).double()
            assert torch.allclose(mirrored["T"], rates["T"], atol=1e-6) is holds
            there = rates["velocity"] * flip.repeat(2)
            assert torch.allclose(mirrored["velocity"], there, atol=1e-6) is holds
            assert (
                torch.allclose(others["traction"], targets["traction"] * flip, atol=1e-6) is holds
            )


def test_only_the_chosen_graphs_of_a_batch_are_mirrored():
    from meshsim.graph import batch

    sim = simulator()
    graph, state = ready(sim)
    both = batch([graph, graph])
    twice = {name: torch.cat([x, x]) for name, x in state.items()}
    image, after = mirror(sim, both, twice, "y", torch.tensor([False, True]))
    alone, expected = mirror(sim, graph, state, "y")
    n = len(graph.pos)
    assert torch.equal(image.static[:n], graph.static) and torch.equal(
        image.static[n:], alone.static
    )
    assert torch.equal(after["velocity"][:n], state["velocity"])
    assert torch.equal(after["velocity"][n:], expected["velocity"])
