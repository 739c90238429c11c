"""MeshGraphNet: its formula, reach, batching, precision and what it refuses."""

import json

import pytest
import torch

from meshsim.check import InputError
from meshsim.graph import batch, node_graph, unbatch
from meshsim.models import MeshGraphNet, meshgraphnet
from tests.graph.grids import grid
from tests.helpers import MESHES

OUTPUTS = {"velocity": 2, "pressure": 1}


def with_inputs(mesh, dtype=torch.float64, columns=4, seed=0):
    graph = node_graph(mesh.to(dtype=dtype))
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(len(graph.pos), columns, dtype=torch.float64, generator=generator)
    graph.x = x.to(dtype)
    return graph


def net(dim=2, dtype=torch.float64, **changes):
    torch.manual_seed(1)
    arguments = {"width": 8, "depth": 3, "activation": "silu"} | changes
    return MeshGraphNet(4, dim + 1, OUTPUTS, **arguments).to(dtype)


def together(out):
    return torch.cat(list(out["mesh"].values()), 1)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-12)])
@pytest.mark.parametrize("activation", ["relu", "silu"])
@pytest.mark.parametrize("name", ["channel", "mixed_solid", "isolated", "quadratic2d", "vertices"])
def test_encode_process_decode(name, activation, dtype, tolerance):
    graph = with_inputs(MESHES[name], dtype)
    model = net(graph.pos.shape[1], dtype, activation=activation)
    sender, receiver = graph.edge_index
    x, e = model.encode_node(graph.x), model.encode_edge(graph.edge_attr)
    for block in model.blocks:
        e = e + block.edge(torch.cat([e, x[sender], x[receiver]], 1))
        total = torch.zeros_like(x).index_add(0, receiver, e)
        x = x + block.node(torch.cat([x, total], 1))
    out = model(graph)["mesh"]
    assert {k: v.shape for k, v in out.items()} == {
        "velocity": (len(x), 2),
        "pressure": (len(x), 1),
    }
    expected = model.decode(x)
    torch.testing.assert_close(together({"mesh": out}), expected, rtol=tolerance, atol=tolerance)
    assert model.decode.norm is None  # outputs are free


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_reach_is_exactly_hops(depth):
    graph = with_inputs(grid(12, 1))
    model = net(depth=depth)
    assert model.hops == depth
    graph.x.requires_grad_()
    left = (graph.pos[:, 0] == 0).nonzero()[0]
    (slope,) = torch.autograd.grad(together(model(graph))[left].sum(), graph.x)
    steps = graph.pos[:, 0] + (graph.pos[:, 1] - graph.pos[left, 1]).abs()  # grid distance
    felt = slope.abs().sum(1) > 0
    assert torch.equal(felt, steps <= depth)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.float64, 1e-13)])
def test_batch_equals_one_by_one(dtype, tolerance):
    graphs = [with_inputs(m, dtype, seed=i) for i, m in enumerate([MESHES["channel"], grid(3, 2)])]
    model = net(dtype=dtype)
    both = batch(graphs)
    for parts, graph in zip(unbatch(together(model(both)), both), graphs, strict=True):
        torch.testing.assert_close(parts, together(model(graph)), rtol=tolerance, atol=tolerance)


def test_encoded_edges_can_be_shared_by_steps():
    graph, model = with_inputs(MESHES["channel"]), net()
    encoded = model.encode_edges(graph)
    assert torch.equal(together(model(graph, encoded)), together(model(graph)))
    # … and their gradient is the sum over the steps
    weight = model.encode_edge.layers[0].weight
    shared = together(model(graph, encoded)).sum() + together(model(graph, encoded)).square().sum()
    apart = together(model(graph)).sum() + together(model(graph)).square().sum()
    torch.testing.assert_close(
        torch.autograd.grad(shared, weight), torch.autograd.grad(apart, weight)
    )


def test_steps_that_share_edges_share_one_room_for_them():
    graph, model = with_inputs(MESHES["channel"]), net(width=16)
    right = together(model(graph)).detach()
    with torch.no_grad():
        encoded = model.encode_edges(graph)
        kept, before = encoded.clone(), len(meshgraphnet._rooms)
        for _ in range(3):
            found = together(model(graph, encoded))
            torch.testing.assert_close(found, right, rtol=1e-12, atol=1e-12)
    assert torch.equal(encoded, kept)
    assert len(meshgraphnet._rooms) == before + 1
    del encoded
    assert len(meshgraphnet._rooms) == before


def test_same_bits_every_run():
    graph, model = with_inputs(grid(20, 20), torch.float32), net(dtype=torch.float32, width=32)
    runs = []
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


@pytest.mark.parametrize("shared", [False, True])
def test_edges_kept_in_bfloat16(shared):
    graph = with_inputs(grid(12, 4))
    exact = together(net(width=16, depth=6)(graph))
    graph, model = (
        with_inputs(grid(12, 4), torch.float32),
        net(dtype=torch.float32, width=16, depth=6),
    )
    right = together(model(graph)).detach()
    model.edge_dtype = torch.bfloat16
    with torch.no_grad():
        edges = model.encode_edges(graph)
        assert edges.dtype == torch.bfloat16
        kept = edges.clone()
        found = together(model(graph, edges if shared else None))
    assert torch.equal(edges, kept) and found.dtype == torch.float32
    assert (right - exact).norm() < 1e-5 * exact.norm()
    assert 1e-4 * exact.norm() < (found - exact).norm() < 1e-2 * exact.norm()
    assert torch.equal(together(model(graph)), right)  # training stays as it was


def test_arguments_make_the_same_architecture():
    model = net(hidden_layers=1, activation="gelu")
    arguments = json.loads(json.dumps(model.arguments))
    twin = MeshGraphNet(**arguments).double()
    twin.load_state_dict(model.state_dict())
    graph = with_inputs(MESHES["channel"])
    assert torch.equal(together(twin(graph)), together(model(graph)))


def test_paper_size_by_default():
    model = MeshGraphNet(11, 3, {"velocity": 2})
    assert (model.width, model.depth, model.hidden_layers) == (128, 15, 2)
    assert model.activation == "relu" and len(model.decode.layers) == 3
    # Two hidden layers everywhere; LayerNorm everywhere but in the decoder.
    h, layers = 128, 2 * (128 * 128 + 128)
    encoders = (11 + 3) * h + 2 * h + 2 * layers + 4 * h
    block = 3 * h * h + 2 * h * h + 2 * h + 2 * layers + 4 * h
    decoder = h * h + h + h * h + h + h * 2 + 2
    assert sum(p.numel() for p in model.parameters()) == encoders + 15 * block + decoder


def test_refusals():
    graph = with_inputs(MESHES["channel"])
    with pytest.raises(InputError, match=r"`graph.x`: expected 5 columns, got \(15, 4\)"):
        MeshGraphNet(5, 3, OUTPUTS, width=4, depth=1).double()(graph)
    with pytest.raises(InputError, match=r"`graph.edge_attr`: expected 4 columns"):
        MeshGraphNet(4, 4, OUTPUTS, width=4, depth=1).double()(graph)
    with pytest.raises(InputError, match="`depth`: expected 1 or more, got 0"):
        MeshGraphNet(4, 3, OUTPUTS, depth=0)
    with pytest.raises(InputError, match=r"`outputs\[p\]`: expected 1 or more, got 0"):
        MeshGraphNet(4, 3, {"p": 0})
    with pytest.raises(InputError, match="`outputs`: expected at least one field"):
        MeshGraphNet(4, 3, {})
    graph.edge_index = graph.edge_index.flip(1)
    with pytest.raises(InputError, match="sorted by receiver"):
        net()(graph)
