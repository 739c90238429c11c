"""Parts with a halo as deep as a model looks: outputs and gradients of the whole graph."""

from __future__ import annotations

import pytest
import torch

from meshsim.check import InputError
from meshsim.graph import MeshGraph, assemble, batch, cell_graph, node_graph, partition
from meshsim.graph.partition import labels
from meshsim.models import GraphTransformer, MeshGraphNet
from meshsim.models.moving_mesh import MPPDE, MovingMeshNet, moved_mesh
from tests.graph.grids import grid
from tests.test_simulator import channel, simulator

METHODS = ["bisection", "metis"]
OUTPUTS = {"velocity": 2, "pressure": 1}
MODELS = {
    "meshgraphnet": lambda: MeshGraphNet(5, 3, OUTPUTS, width=16, depth=3),
    "transformer": lambda: GraphTransformer(5, 3, OUTPUTS, width=16, depth=2, heads=2),
    "wide transformer": lambda: GraphTransformer(
        5, 3, OUTPUTS, width=16, depth=2, heads=2, window=2, rings=[3], edge_bias=True
    ),
}


def needs(method):
    if method == "metis":
        pytest.importorskip("pymetis")


def example(kind="node"):
    """A graph of some hundred nodes with inputs, float64."""
    mesh = grid(12, 9, "triangle")
    graph = (node_graph if kind == "node" else cell_graph)(mesh)
    torch.manual_seed(0)
    graph.pos, graph.edge_attr = graph.pos.double(), graph.edge_attr.double()
    graph.x = torch.randn(graph.num_nodes, 5, dtype=torch.float64)
    return graph


def near(a, b):
    assert float((a - b).norm()) <= 1e-10 * float(b.norm())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["node", "cell"])
@pytest.mark.parametrize("name", MODELS)
def test_outputs_and_gradients_are_the_whole_graphs(name, kind, method):
    needs(method)
    torch.manual_seed(1)
    model, graph = MODELS[name]().double(), example(kind)
    truth = {f: torch.randn(graph.num_nodes, c, dtype=torch.float64) for f, c in OUTPUTS.items()}
    whole = model(graph)["mesh"]
    loss = sum(((whole[f] - truth[f]) ** 2).sum() for f in OUTPUTS)
    wanted = torch.autograd.grad(loss, list(model.parameters()))
    parts = partition(graph, 5, model.hops, method)
    found = [model(part.graph)["mesh"] for part in parts]
    for f in OUTPUTS:
        near(assemble(parts, [y[f] for y in found]), whole[f])
    losses = [
        sum((((y[f] - truth[f][p.nodes]) ** 2)[p.own]).sum() for f in OUTPUTS)
        for p, y in zip(parts, found, strict=True)
    ]
    grads = torch.autograd.grad(sum(losses), list(model.parameters()))
    near(torch.cat([g.flatten() for g in grads]), torch.cat([g.flatten() for g in wanted]))


def test_a_halo_one_hop_too_thin_shows():
    torch.manual_seed(1)
    model, graph = MODELS["meshgraphnet"]().double(), example()
    whole = model(graph)["mesh"]["pressure"]
    parts = partition(graph, 5, model.hops - 1)
    found = assemble(parts, [model(p.graph)["mesh"]["pressure"] for p in parts])
    assert float((found - whole).norm()) > 1e-6 * float(whole.norm())


def test_message_passing_at_rest_too():
    torch.manual_seed(2)
    net = MovingMeshNet(2, 2, width=8, depth=2, branch=False).double()
    graph = example()
    u = torch.randn(graph.num_nodes, 2, dtype=torch.float64)
    assert isinstance(net.at_rest, MPPDE) and net.hops == 2

    cells = torch.tensor([[0, 1, 13]])
    still = moved_mesh(graph.pos, graph.pos, cells, graph.edge_index)  # what moves is not asked

    def mesh_of(g):
        return still._replace(points=g.pos, moved=g.pos, edge_index=g.edge_index)

    whole = net(u, mesh_of(graph))
    parts = partition(graph, 4, net.hops)
    found = [net(u[p.nodes], mesh_of(p.graph)) for p in parts]
    near(assemble(parts, found).detach(), whole.detach())


def test_a_simulators_step():
    """Node types, given values and global parameters are taken along."""
    whole, mesh = simulator("rk4").double(), channel(9, 7)
    graph = whole.graph(mesh, {"inflow": 1.5})
    state = whole.state(graph, mesh)
    parts = partition(graph, 3, 4 * whole.model.hops)  # of an integrator's four stages
    with torch.no_grad():
        wanted = whole.step(graph, state)
        found = [
            whole.step(part.graph, {name: x[part.nodes] for name, x in state.items()})
            for part in parts
        ]
    for name in wanted:
        near(assemble(parts, [y[name] for y in found]), wanted[name])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("parts", [1, 2, 7, 130])
def test_every_node_is_owned_once_and_parts_are_even(method, parts):
    needs(method)
    graph = example()
    made = partition(graph, parts, 2, method)
    owned = torch.cat([p.nodes[p.own] for p in made])
    assert torch.equal(owned.sort().values, torch.arange(graph.num_nodes))
    sizes = torch.bincount(labels(graph, parts, method), minlength=parts)
    if method == "bisection":
        assert int(sizes.max() - sizes.min()) <= max(1, parts.bit_length())
    elif parts < 20:
        assert int(sizes.max()) <= 1.1 * graph.num_nodes / parts + 1
    for p in made:
        assert torch.equal(graph.pos[p.nodes], p.graph.pos)
        assert torch.equal(graph.edge_attr[p.edges], p.graph.edge_attr)
        assert torch.equal(p.nodes[p.graph.edge_index], graph.edge_index[:, p.edges])
        receiver = p.graph.edge_index[1]
        assert bool((receiver.diff() >= 0).all())


def test_metis_cuts_no_more_edges_than_bisection_of_an_l_shape():
    pytest.importorskip("pymetis")
    graph = example()
    corner = (graph.pos[:, 0] < graph.pos[:, 0].mean()) | (graph.pos[:, 1] < graph.pos[:, 1].mean())
    keep = corner.nonzero()[:, 0]
    new = torch.full((graph.num_nodes,), -1)
    new[keep] = torch.arange(len(keep))
    edges = new[graph.edge_index]
    edges = edges[:, (edges >= 0).all(0)]
    shape = MeshGraph(pos=graph.pos[keep], edge_index=edges)

    def cut(method):
        where = labels(shape, 6, method)
        return int((where[edges[0]] != where[edges[1]]).sum())

    assert cut("metis") <= cut("bisection")


def test_what_cannot_be_cut_is_said():
    graph = example()
    for parts in (0, graph.num_nodes + 1):
        with pytest.raises(InputError, match="`parts`"):
            partition(graph, parts, 1)
    with pytest.raises(InputError, match="any distance"):
        partition(graph, 2, None)
    with pytest.raises(InputError, match="single graph"):
        partition(batch([graph, graph]), 2, 1)
    with pytest.raises(InputError, match="method"):
        labels(graph, 2, "kmeans")
    made = partition(graph, 2, 1)
    with pytest.raises(InputError, match="2 arrays"):
        assemble(made, [torch.zeros(3)])
