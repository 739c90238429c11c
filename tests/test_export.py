"""A simulator as a program of torch's own operations: the same numbers, without meshsim."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from meshsim.check import WorkError
from meshsim.models import GraphTransformer, MeshGraphNet
from meshsim.simulator import Simulator

from .test_simulator import SCHEMA, channel, normaliser

pytestmark = [pytest.mark.usefixtures("unchecked"), pytest.mark.slow]
# Where neither meshsim nor the compiled operators can be had.
ALONE = """
import sys, torch
sys.modules["meshsim"] = None
sys.modules["torch_geometric"] = None
program = torch.export.load(sys.argv[1]).module()
with torch.no_grad():
    torch.save([program(*inputs) for inputs in torch.load(sys.argv[2])], sys.argv[2])
assert not [s for s in torch._C._jit_get_all_schemas() if s.name.startswith("meshsim")]
"""
OUTPUTS = {"velocity": 2, "T": 1}
ALL_OPTIONS = {"window": 2, "random_edges": 0.5, "global_nodes": 2, "eigenvectors": 3}
ALL_OPTIONS |= {"edge_bias": True}
MODELS = {
    "meshgraphnet": lambda: MeshGraphNet(13, 3, OUTPUTS, width=16, depth=1, hidden_layers=1),
    "graph_transformer": lambda: GraphTransformer(
        13, 3, OUTPUTS, width=16, depth=1, heads=2, hidden_layers=1, **ALL_OPTIONS
    ),
}


def simulator(name: str, **more) -> Simulator:
    torch.manual_seed(0)
    return Simulator(MODELS[name](), SCHEMA, normaliser(), dt=0.1, **more).eval()


@pytest.mark.parametrize(
    ("name", "more"),
    [("meshgraphnet", {"symmetry": ("y",)}), ("graph_transformer", {"integrator": "heun"})],
)
def test_it_runs_without_meshsim_on_meshes_of_any_size(name, more, tmp_path: Path):
    ours = simulator(name, **more)
    ours.export(tmp_path / "step.pt2")
    meshes = [channel(6, 4), channel(13, 9)]
    given = [ours.tensors(mesh, {"inflow": 1.5}) for mesh in meshes]
    torch.save(given, tmp_path / "tensors")
    command = [sys.executable, "-c", ALONE, str(tmp_path / "step.pt2"), str(tmp_path / "tensors")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for mesh, (state, _), found in zip(
        meshes, given, torch.load(tmp_path / "tensors"), strict=True
    ):
        with torch.no_grad():
            right = ours.advance(ours.graph(mesh, {"inflow": 1.5}), state)
        for a, b in zip(found, right, strict=True):
            assert a.keys() == b.keys()
            for field in b:
                # float32 sums of some hundred terms in another order: 1e-6 of the largest
                error = (a[field] - b[field]).abs().max() / b[field].abs().max()
                assert a[field].shape == b[field].shape and error < 1e-5, (name, field, error)


def test_given_values_stay_on_their_nodes(tmp_path: Path):
    ours = simulator("meshgraphnet")
    ours.export(tmp_path / "step.pt2")
    state, mesh = ours.tensors(channel(), {"inflow": 1.5})
    ahead, targets = torch.export.load(tmp_path / "step.pt2").module()(state, mesh)
    held = mesh["free"][:, 0] == 0
    assert held.any() and not targets
    assert torch.equal(ahead["velocity"][0][held], state["velocity"][held])
    assert not torch.equal(ahead["velocity"][0][~held], state["velocity"][~held])


class Untraceable(torch.nn.Module):
    """Its result's shape depends on values that no program knows beforehand."""

    def forward(self, graph):
        n = int(graph.x.abs().sum())
        return {"mesh": {"velocity": graph.x[:n, :2], "T": graph.x[:n, :1]}}


def test_what_cannot_be_traced_is_said_and_nothing_is_written(tmp_path: Path):
    ours = Simulator(Untraceable(), SCHEMA, normaliser(), dt=0.1)
    with pytest.raises(WorkError, match="cannot be exported"):
        ours.export(tmp_path / "step.pt2")
    assert not list(tmp_path.iterdir())
