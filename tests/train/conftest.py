"""A small channel with a wave running through it, as samples and as a store."""

import math

import pytest
import torch

from meshsim.data import Field, Schema, Store
from meshsim.mesh import Cells, Mesh
from meshsim.sample import Sample
from meshsim.series import Series

SCHEMA = Schema(
    [
        Field("velocity", "state", components=2, noise=0.01),
        Field("inflow", "parameter", "global"),
    ]
)


def channel(nx=7, ny=4):
    """Triangles on [0, 2] × [0, 1] with the boundaries inlet, outlet and wall."""
    x, y = torch.meshgrid(torch.linspace(0, 2, nx), torch.linspace(0, 1, ny), indexing="ij")
    points = torch.stack([x.reshape(-1), y.reshape(-1)], 1).double()
    at = torch.arange(nx * ny).reshape(nx, ny)
    a, b, c, d = at[:-1, :-1], at[1:, :-1], at[1:, 1:], at[:-1, 1:]
    a, b, c, d = (k.reshape(-1) for k in (a, b, c, d))
    triangles = torch.cat([torch.stack([a, b, c], 1), torch.stack([a, c, d], 1)])

    def lines(nodes):
        return [Cells("line", torch.stack([nodes[:-1], nodes[1:]], 1))]

    mesh = Mesh(points, {"triangle": triangles})
    walls = lines(at[:, 0]) + lines(at[:, -1])
    return mesh.with_boundary_cells({"inlet": lines(at[0]), "outlet": lines(at[-1]), "wall": walls})


def flow(mesh, inflow, frames=30, dt=0.05):
    """A wave that travels with the inflow's speed."""
    x, y = mesh.points.unbind(1)
    t = dt * torch.arange(frames, dtype=torch.float64)[:, None]
    phase = 2 * math.pi * (x - inflow * t)
    shape = 4 * y * (1 - y)
    inside = (x > 0).double()
    u = inflow * shape * (1 + 0.3 * inside * torch.sin(phase))
    v = inside * shape * 0.4 * inflow * torch.cos(phase)
    velocity = torch.stack([u, v], 2).float()  # (T, N, 2)
    return Series(mesh, (t[:, 0]).tolist(), {"velocity": velocity})


def make_store(path, count=4, frames=30, mesh=None):
    """A store of waves: the last sample is for validation, the others for training."""
    store = Store.create(path, SCHEMA)
    names = [f"case_{i}" for i in range(count)]
    for i, name in enumerate(names):
        inflow = 1.0 + 0.2 * i
        series = flow(mesh or channel(), inflow, frames)
        store.append(Sample(series, {"inflow": inflow}, name=name), {})
    store.set_splits({"train": names[:-1], "valid": names[-1:]})
    return store


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("waves") / "store")


@pytest.fixture
def recipe(store):
    """The smallest recipe that uses everything; tests change what they are about."""

    def make(**train):
        settings = {"steps": 12, "batch": 2, "threads": 1, "warmup": 2, "lr": 3e-3}
        settings |= {"checkpoint_every": 5, "validate_steps": 5, "log_every": 2}
        return {
            "data": {"store": str(store.path)},
            "model": {"name": "meshgraphnet", "width": 8, "depth": 2, "hidden_layers": 1},
            "train": settings | train,
        }

    return make
