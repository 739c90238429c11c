"""What goes into a simulator: wrong parts and wrong meshes are named."""

import pytest
import torch

from meshsim.check import InputError
from meshsim.data import Field, Normaliser, Schema
from meshsim.mesh import Mesh
from meshsim.sample import Sample
from meshsim.simulator import BoundaryRule, Simulator

SCHEMA = Schema([Field("T", "state"), Field("inflow", "parameter", "global")])


class Still(torch.nn.Module):
    """Rates that are zero once decoded."""

    def forward(self, graph):
        return {"mesh": {"T": torch.zeros(len(graph.x), 1)}}


def simulator(**more):
    def unit(n):
        return torch.zeros(n), torch.ones(n)

    widths = {"T": 1, "T.rate": 1, "inflow": 1, "edge_attr": 3}
    norm = Normaliser({name: unit(n) for name, n in widths.items()})
    settings = {"dt": 0.1, "ranges": {"inflow": (1.0, 2.0)}} | more
    return Simulator(Still(), SCHEMA, norm, **settings)


def square(dim=2):
    points = torch.tensor([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]])[:, :dim]
    return Mesh(points, {"quad": [[0, 1, 2, 3]]}, point_fields={"T": torch.ones(4)})


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"boundary": BoundaryRule({"Temp": []})}, "unknown state in the boundary rule: 'Temp'"),
        ({"boundary": BoundaryRule({"T": ["WAL"]})}, "'WAL': did you mean 'WALL'"),
        ({"dt": float("inf")}, "`dt`: expected a time step above 0, got inf"),
        ({"bundle": 0}, "`bundle`: expected 1"),
    ],
)
def test_parts_that_would_fail_later_are_refused_at_once(more, message):
    with pytest.raises(InputError, match=message):
        simulator(**more)


def test_a_mesh_of_another_dimension_is_refused():
    with pytest.raises(InputError, match="expected a 2-D mesh, as those of the training, got 3-D"):
        simulator().rollout(square(3), 1, parameters={"inflow": 1.5})


def test_a_sample_without_the_branch_says_which_there_are():
    with pytest.raises(InputError, match=r"'surface': .*known: mesh"):
        simulator(branch="surface").predict(Sample(square(), {"inflow": 1.5}))


class Spy(torch.nn.Module):
    """Keeps its input and gives outputs that tell every row and column apart."""

    def forward(self, graph):
        self.x = graph.x
        n = len(graph.x)
        rows = torch.arange(n)[:, None]
        return {"mesh": {"u": rows + torch.arange(4.0) / 10, "T": rows + torch.arange(2.0) / 10}}


@pytest.mark.parametrize("integrator", ["euler", "direct"])
def test_a_pass_encodes_what_goes_in_and_decodes_what_comes_out(integrator):
    """By hand: x = (value − mean) / std, and frame i is u + i dt (y_i σ_i + μ_i), or y σ + μ."""
    schema = Schema([Field("u", "state", components=2), Field("T", "state"), *SCHEMA.parameters])
    widths = {"u": 2, "T": 1, "u.rate": 4, "T.rate": 2, "inflow": 1, "edge_attr": 3}
    known = {
        name: (0.1 + torch.arange(float(n)), 2.0 + torch.arange(float(n)))
        for name, n in widths.items()
    }
    spy, dt = Spy(), 0.1
    rule = BoundaryRule({"u": []})
    norm = Normaliser(known)
    sim = Simulator(spy, schema, norm, integrator=integrator, bundle=2, dt=dt, boundary=rule)
    g = torch.Generator().manual_seed(0)
    state = {"u": torch.randn(4, 2, generator=g), "T": torch.randn(4, 1, generator=g)}
    ahead, _ = sim.advance(sim.graph(square(), {"inflow": 1.5}), state)

    coded = {k: (x - known[k][0]) / known[k][1] for k, x in state.items()}
    one_hot = torch.eye(9)[[0, 0, 0, 0]]
    inflow = torch.full((4, 1), (1.5 - 0.1) / 2.0)
    assert torch.allclose(spy.x, torch.cat([coded["u"], coded["T"], one_hot, inflow], 1))
    for name, c in (("u", 2), ("T", 1)):
        mean, std = known[name if integrator == "direct" else f"{name}.rate"]
        for i in range(2):
            y = torch.arange(4)[:, None] + torch.arange(i * c, i * c + c) / 10
            part = slice(0, c) if integrator == "direct" else slice(i * c, i * c + c)
            out = y * std[part] + mean[part]
            expected = out if integrator == "direct" else state[name] + (i + 1) * dt * out
            assert torch.allclose(ahead[name][i], expected, atol=1e-5)
