"""GraphTransformer: its formula, exact reach, symmetries, batching, and life in a simulator."""

from __future__ import annotations

import json

import pytest
import torch

from meshsim import Simulator
from meshsim.check import InputError
from meshsim.graph import batch, node_graph, unbatch
from meshsim.models import GraphTransformer
from meshsim.nn import rotation
from meshsim.ops import widen
from meshsim.simulator_files import known_models
from meshsim.train import Config, train
from tests.graph.grids import brick, grid
from tests.helpers import MESHES
from tests.train.conftest import channel, flow, make_store

OUTPUTS = {"velocity": 2, "pressure": 1}
OPTIONS = {
    "plain": {},
    "window": {"window": 3},
    "rings": {"rings": [3]},
    "random": {"random_edges": 0.2},
    "global": {"global_nodes": 2},
    "no self": {"self_edges": False, "window": 2},
    "eigenvectors": {"eigenvectors": 3},
    "bias": {"edge_bias": True, "rotary": False},
    "unit": {"length": 0.7},
    "gate": {"gate": True},
    "everything": {"window": 2, "rings": [4], "random_edges": 0.1, "global_nodes": 1}
    | {"eigenvectors": 2, "edge_bias": True},
}
everywhere = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)


def with_inputs(mesh, dtype=torch.float64, columns=4, seed=0):
    graph = node_graph(mesh.to(dtype=dtype))
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(len(graph.pos), columns, dtype=torch.float64, generator=generator)
    graph.x = x.to(dtype)
    return graph


def net(dim=2, dtype=torch.float64, **changes):
    torch.manual_seed(1)
    arguments = {"width": 16, "depth": 2, "heads": 2, "hidden_layers": 1} | changes
    return GraphTransformer(4, dim + 1, OUTPUTS, **arguments).to(dtype)


def together(out):
    return torch.cat(list(out["mesh"].values()), 1)


def felt(model, graph, row=0):
    """(N,) bool: the nodes whose values change what comes out at `row`."""
    x = graph.x.detach().requires_grad_()
    twin = graph.clone()
    twin.x = x
    (slope,) = torch.autograd.grad(together(model(twin))[row].square().sum(), x)
    return slope.abs().sum(1) > 0


def hops_to(graph, row=0):
    """(N,) how many hops a message takes from each node to `row`."""
    far = torch.full((graph.num_nodes,), 10**6)
    far[row] = 0
    sender, receiver = graph.edge_index
    for _ in range(graph.num_nodes):
        far = far.scatter_reduce(0, sender, far[receiver] + 1, "amin")
    return far


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("window", [1, 2, 3])
def test_reach_is_exactly_hops(depth, window):
    graph, model = with_inputs(grid(14, 1)), net(depth=depth, window=window)
    assert model.hops == depth * window
    assert torch.equal(felt(model, graph), hops_to(graph) <= model.hops)


@pytest.mark.parametrize("depth", [1, 2])
def test_rings_reach_as_far_as_they_say(depth):
    graph, model = with_inputs(grid(19, 1)), net(depth=depth, window=0, rings=[2, 5])
    far = hops_to(graph)
    assert model.hops == 5 * depth
    # one block sees rings 0, 2 and 5; on a ladder two blocks see their sums and differences
    one = {0, 2, 5}
    if depth == 1:
        assert torch.equal(felt(model, graph), torch.isin(far, torch.tensor([*one])))
    seen = felt(model, graph)
    assert not seen[far > model.hops].any() and seen[far == model.hops].all()


def test_without_self_edges_a_block_sees_neighbours_and_the_residual():
    graph = with_inputs(grid(8, 1))
    assert torch.equal(felt(net(depth=1, self_edges=False), graph), hops_to(graph) <= 1)


def test_random_edges_reach_their_other_ends():
    graph, model = with_inputs(grid(30, 1)), net(depth=1, random_edges=0.3)
    assert model.hops is None
    mask = widen(graph.edge_index, torch.tensor([0, graph.num_nodes]), random_edges=0.3)
    for row in (0, 17, 40):
        listed = torch.zeros(graph.num_nodes, dtype=torch.bool)
        listed[mask.col[mask.rowptr[row] : mask.rowptr[row + 1]]] = True
        assert torch.equal(felt(model, graph, row), listed)


def test_a_global_node_makes_everything_felt_after_two_blocks():
    graph = with_inputs(grid(20, 1))
    one, two = (net(depth=d, global_nodes=1) for d in (1, 2))
    assert one.hops is None and felt(two, graph).all()
    assert torch.equal(felt(one, graph), hops_to(graph) <= 1)  # it has not looked yet itself


def test_laplacian_positions_are_global():
    assert net(eigenvectors=2).hops is None


@everywhere
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 5e-5), (torch.float64, 1e-12)])
def test_batch_equals_one_by_one(dtype, tolerance, options):
    meshes = [MESHES["channel"], grid(5, 4), MESHES["isolated"]]
    graphs = [with_inputs(m, dtype, seed=i) for i, m in enumerate(meshes)]
    model, both = net(dtype=dtype, **options), batch(graphs)
    for part, graph in zip(unbatch(together(model(both)), both), graphs, strict=True):
        torch.testing.assert_close(part, together(model(graph)), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", [name for name in OPTIONS if "random" not in OPTIONS[name]])
def test_renumbering_nodes_renumbers_the_answer(name):
    options = {k: v for k, v in OPTIONS[name].items() if k != "random_edges"}
    graph, model = with_inputs(MESHES["channel"]), net(**options)
    n = graph.num_nodes
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    edges = order.argsort()[graph.edge_index]
    by = (edges[1] * n + edges[0]).argsort()
    twin = graph.clone()
    twin.x, twin.pos, twin.edge_attr = graph.x[order], graph.pos[order], graph.edge_attr[by]
    twin.edge_index = edges[:, by]
    found, right = together(model(twin)), together(model(graph))[order]
    torch.testing.assert_close(found, right, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("options", [{}, {"length": 0.7}, {"global_nodes": 2}])
def test_moving_a_mesh_changes_nothing_and_stretching_it_does(options):
    mesh, model = MESHES["mixed_solid"], net(3, **options)
    graph = with_inputs(mesh)
    moved, larger, skewed = graph.clone(), graph.clone(), graph.clone()
    moved.pos = graph.pos + torch.tensor([100.0, -30.0, 7.0])
    larger.pos = 3 * graph.pos
    skewed.pos = graph.pos * torch.tensor([1.0, 2.0, 1.0])
    right = together(model(graph))
    torch.testing.assert_close(together(model(moved)), right, rtol=1e-10, atol=1e-10)
    same = torch.allclose(together(model(larger)), right, rtol=1e-10, atol=1e-10)
    assert same == ("length" not in options)  # the unit is the mesh's own unless it is given
    assert not torch.allclose(together(model(skewed)), right, rtol=1e-6)


def test_it_is_its_formula():
    graph, model = with_inputs(MESHES["channel"]), net(heads=2)
    far = (graph.pos[graph.edge_index[0]] - graph.pos[graph.edge_index[1]]).norm(dim=1).mean()
    cos, sin = rotation((graph.pos - graph.pos.mean(0)) / far, 8)
    turn = torch.complex(cos, sin)[:, None]  # (N, 1, 4)
    sees = torch.eye(15, dtype=torch.bool)
    sees[graph.edge_index[1], graph.edge_index[0]] = True

    def rms(x):
        return x / (x.square().mean(1, keepdim=True) + 1e-6).sqrt()

    x = rms(model.encode(graph.x))
    for block in model.blocks:
        q, k, v = (t.unflatten(1, (2, 8)) for t in block.attention.qkv(rms(x)).chunk(3, 1))
        q, k = (torch.complex(t[..., :4], t[..., 4:]) * turn for t in (q, k))
        s = torch.einsum("ihd,jhd->ijh", q, k.conj()).real / 8**0.5
        p = s.masked_fill(~sees[:, :, None], -torch.inf).softmax(1)
        x = x + block.attention.out(torch.einsum("ijh,jhd->ihd", p, v).flatten(1))
        x = x + block.mlp(rms(x))
    torch.testing.assert_close(together(model(graph)), model.decode(x), rtol=1e-10, atol=1e-10)


@everywhere
def test_arguments_make_the_same_architecture(options):
    model = net(**options)
    arguments = json.loads(json.dumps(model.arguments))
    twin = GraphTransformer(**arguments).double()
    twin.load_state_dict(model.state_dict())
    graph = with_inputs(MESHES["channel"])
    assert torch.equal(together(twin(graph)), together(model(graph)))
    assert twin.hops == model.hops


@everywhere
@pytest.mark.parametrize("name", ["channel", "isolated", "vertices", "fins"])
def test_every_weight_learns_on_any_mesh(name, options):
    graph = with_inputs(MESHES[name], torch.float32)
    model = net(graph.pos.shape[1], torch.float32, **options)
    together(model(graph)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_same_bits_every_run():
    graph = with_inputs(brick(6, 5, 4), torch.float32)
    model, runs = net(3, torch.float32, **OPTIONS["everything"]), []
    for _ in range(3):
        model.zero_grad()
        out = together(model(graph))
        out.square().sum().backward()
        runs.append([out.detach(), *(p.grad.clone() for p in model.parameters())])
    assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(run, runs[0], strict=True))


def test_bfloat16_autocast():
    graph, model = with_inputs(MESHES["channel"], torch.float32), net(dtype=torch.float32)
    exact = together(model(graph))
    with torch.autocast("cpu", torch.bfloat16):
        out = together(model(graph))
    assert (out.float() - exact).norm() <= 0.05 * exact.norm()
    out.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_positions_edited_in_place_are_seen():
    graph, model = with_inputs(MESHES["channel"]), net()
    before = together(model(graph))
    graph.pos[3] += 0.3
    assert not torch.equal(together(model(graph)), before)


def test_it_learns_in_a_simulator_and_survives_saving(tmp_path):
    assert known_models()["graph_transformer"] is GraphTransformer
    store = make_store(tmp_path / "store", count=3, frames=10)
    settings = {"steps": 60, "batch": 2, "threads": 1, "warmup": 2, "lr": 3e-3, "log_every": 1}
    settings |= {"validate_steps": 3, "noise": 0.0}
    model = {"name": "graph_transformer", "width": 32, "depth": 2, "heads": 4, "window": 2}
    recipe = {"data": {"store": str(store.path)}, "model": model, "train": settings}
    train(Config.from_dict(recipe), tmp_path / "run")
    rows = (tmp_path / "run" / "log.csv").read_text().splitlines()
    column = rows[0].split(",").index("loss")
    losses = [float(row.split(",")[column]) for row in rows[1:]]
    assert sum(losses[-10:]) < 0.6 * sum(losses[:10])
    simulator = Simulator.load(tmp_path / "run")
    assert isinstance(simulator.model, GraphTransformer) and simulator.model.hops == 4
    series = flow(channel(), 1.1, frames=4)
    first = simulator.rollout(series, 3, parameters={"inflow": 1.1})
    simulator.save(tmp_path / "copy")
    document = json.loads((tmp_path / "copy" / "simulator.json").read_text())
    assert document["architecture"]["name"] == "graph_transformer"
    again = Simulator.load(tmp_path / "copy").rollout(series, 3, parameters={"inflow": 1.1})
    fields = (s.point_fields["velocity"][3] for s in (first, again))
    assert torch.equal(*fields)


def test_refusals():
    graph = with_inputs(MESHES["channel"])
    with pytest.raises(InputError, match=r"`graph.x`: expected 5 columns, got \(15, 4\)"):
        GraphTransformer(5, 3, OUTPUTS, width=4, depth=1).double()(graph)
    with pytest.raises(InputError, match=r"`graph.edge_attr`: expected 4 columns"):
        GraphTransformer(4, 4, OUTPUTS, width=4, depth=1, edge_bias=True).double()(graph)
    for arguments, message in (
        ({"depth": 0}, "`depth`: expected 1 or more, got 0"),
        ({"heads": 3}, "`heads`: expected a divisor of the width 64, got 3"),
        ({"window": -1}, "`window`: expected 0 or more, got -1"),
        ({"rings": [2, 0]}, r"`rings`: expected distances of 1 or more, got \[2, 0\]"),
        ({"base": 1.0}, "`base`: expected more than 1, got 1.0"),
        ({"random_edges": -0.5}, "`random_edges`: expected 0 or more, got -0.5"),
    ):
        with pytest.raises(InputError, match=message):
            GraphTransformer(4, 3, OUTPUTS, **arguments)
    with pytest.raises(InputError, match="`outputs`: expected at least one field"):
        GraphTransformer(4, 3, {})
    graph.edge_index = graph.edge_index.flip(1)
    with pytest.raises(InputError, match="sorted by receiver"):
        net()(graph)
