"""MessageBlock: the concatenated formula, the hand-written gradient, the same bits."""

import pytest
import torch

from meshsim import native
from meshsim.nn import MessageBlock, pass_messages
from meshsim.nn import message as module
from meshsim.ops.adjacency import adjacency
from tests.ops.blocks import needs_native

ACTIVATIONS = ["relu", "silu", "gelu"]


def case(dtype=torch.float64, n=7, n_edges=25, width=6):
    """A random graph with a doubled edge, a self-loop, and node n − 1 without any edge."""
    generator = torch.Generator().manual_seed(0)
    receiver = torch.randint(n - 1, (n_edges,), generator=generator).sort().values
    sender = torch.randint(n - 1, (n_edges,), generator=generator)
    sender[0], sender[1] = receiver[0], sender[2]
    edges = torch.stack([sender, receiver])
    x = torch.randn(n, width, dtype=torch.float64, generator=generator)
    e = torch.randn(n_edges, width, dtype=torch.float64, generator=generator)
    return x.to(dtype), e.to(dtype), edges, adjacency(edges, n)


def concatenated(block, x, e, edges):
    """Pfaff et al., eq. 2, as written: one MLP of [e, x_i, x_j], one of [x, Σ e']."""
    sender, receiver = edges
    e = e + block.edge(torch.cat([e, x[sender], x[receiver]], 1))
    total = torch.zeros_like(x).index_add(0, receiver, e)
    return x + block.node(torch.cat([x, total], 1)), e


def gradients(f, block, x, e):
    """Outputs of f(x, e) and the gradients of a mixed sum of them."""
    x, e = x.clone().requires_grad_(), e.clone().requires_grad_()
    new_x, new_e = f(x, e)
    loss = (new_x.sin() * 1.5).sum() + new_e.cos().sum()
    found = torch.autograd.grad(loss, [x, e, *block.parameters()])
    return [new_x.detach(), new_e.detach(), *found]


@pytest.mark.parametrize("way", ["forward", "composed"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("hidden_layers", [0, 1, 2, 3])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_splitting_is_concatenating(activation, hidden_layers, dtype, tolerance, way):
    x, e, edges, table = case(dtype)
    block = MessageBlock(6, hidden_layers, activation).to(dtype)

    def ours(x, e):
        return block(x, e, table) if way == "forward" else block.composed(table, x, e)

    expected = gradients(lambda x, e: concatenated(block, x, e, edges), block, x, e)
    for a, b in zip(gradients(ours, block, x, e), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("activation", ["silu", "gelu"])  # ReLU has kinks
def test_gradients_of_the_fused_block(activation):
    x, e, _, table = case(n=5, n_edges=8, width=3)
    block = MessageBlock(3, 2, activation).double()
    assert module.can_fuse(x, e, block.edge, block.node)
    inputs = (x.requires_grad_(), e.requires_grad_())
    assert torch.autograd.gradcheck(lambda x, e: block(x, e, table), inputs)
    assert torch.autograd.gradgradcheck(lambda x, e: block(x, e, table), inputs)


def test_second_derivatives_reach_the_weights():
    x, e, edges, table = case()
    block = MessageBlock(6, 1, "silu").double()

    def penalty(f):
        u = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(f(u, e)[0].square().sum(), u, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), block.edge.layers[0].weight)[0]

    torch.testing.assert_close(
        penalty(lambda x, e: block(x, e, table)),
        penalty(lambda x, e: concatenated(block, x, e, edges)),
    )


@pytest.mark.parametrize("frozen", ["x", "e", "weights", "edge"])
def test_only_some_gradients_are_wanted(frozen):
    x, e, edges, table = case()
    block = MessageBlock(6).double()
    x.requires_grad_(frozen != "x")
    e.requires_grad_(frozen != "e")
    off = {"weights": block, "edge": block.edge}.get(frozen)
    if off is not None:
        off.requires_grad_(False)
    wanted = [t for t in (x, e, *block.parameters()) if t.requires_grad]
    new_x, _ = block(x, e, table)  # the new edges go unused: their gradient is absent
    ours = torch.autograd.grad(new_x.square().sum(), wanted)
    new_x, _ = concatenated(block, x, e, edges)
    for a, b in zip(ours, torch.autograd.grad(new_x.square().sum(), wanted), strict=True):
        torch.testing.assert_close(a, b)


def test_chains_and_reuse_do_not_spoil_each_other():
    """Gradients are overwritten in place: two blocks, results used twice, backward twice."""
    x, e, edges, table = case()
    first, second = MessageBlock(6).double(), MessageBlock(6).double()
    weights = [*first.parameters(), *second.parameters()]

    def loss(call):
        a, b = call(first, x, e)
        c, d = call(second, a, b)
        return (a * c).sum() + (b * d).sum() + (c.square() + a).sum()

    ours = loss(lambda block, x, e: block(x, e, table))
    theirs = loss(lambda block, x, e: concatenated(block, x, e, edges))
    once = torch.autograd.grad(ours, weights, retain_graph=True)
    again = torch.autograd.grad(ours, weights)
    expected = torch.autograd.grad(theirs, weights)
    for a, b, c in zip(once, again, expected, strict=True):
        assert torch.equal(a, b)
        torch.testing.assert_close(a, c)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_same_bits_every_run(dtype):
    x, e, _, table = case(dtype, n=300, n_edges=2000, width=32)
    block = MessageBlock(32).to(dtype)
    runs = [gradients(lambda x, e: block(x, e, table), block, x, e) for _ in range(3)]
    assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(run, runs[0], strict=True))


def test_inputs_are_left_alone():
    x, e, _, table = case()
    kept = x.clone(), e.clone()
    block = MessageBlock(6).double()
    block(x, e, table)
    with torch.no_grad():
        block(x, e, table)
    assert torch.equal(x, kept[0]) and torch.equal(e, kept[1])


@pytest.mark.parametrize("n", [0, 4])
def test_without_edges_or_nodes(n):
    table = adjacency(torch.zeros(2, 0, dtype=torch.int64), n)
    block = MessageBlock(6)
    x = torch.randn(n, 6, requires_grad=True)
    new_x, new_e = block(x, torch.zeros(0, 6), table)
    zero = torch.zeros(n, 6)
    torch.testing.assert_close(new_x, x + block.node(torch.cat([x, zero], 1)))
    assert new_e.shape == (0, 6)
    new_x.sum().backward()
    assert x.grad.shape == (n, 6)


def test_bfloat16_autocast_is_close_and_keeps_the_state_in_float32():
    x, e, edges, table = case(torch.float32, width=16)
    block = MessageBlock(16, activation="silu")
    exact = gradients(lambda x, e: concatenated(block, x, e, edges), block, x, e)

    def rounded(x, e):
        with torch.autocast("cpu", torch.bfloat16):
            return block(x, e, table)

    found = gradients(rounded, block, x, e)
    assert all(a.dtype == torch.float32 for a in found)
    for a, b in zip(found, exact, strict=True):
        assert (a - b).norm() <= 0.05 * b.norm()


def chain(blocks, table):
    """The blocks one after the other, out of autograd's own operations."""

    def run(x, e):
        for block in blocks:
            x, e = block.composed(table, x, e)
        return x, e

    return run


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("hidden_layers", [0, 1, 2, 3])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_passing_messages_is_block_after_block(activation, hidden_layers, compiled, monkeypatch):
    if compiled:
        needs_native("edge_block")
    else:
        monkeypatch.setattr(native, "has_kernel", lambda *_: False)
    x, e, _, table = case(width=16)
    blocks = [MessageBlock(16, hidden_layers, activation).double() for _ in range(3)]
    every = torch.nn.ModuleList(blocks)
    right = gradients(chain(blocks, table), every, x, e)
    found = gradients(lambda x, e: pass_messages(blocks, x, e, table), every, x, e)
    for a, b in zip(found, right, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_second_derivatives_reach_the_weights_of_all_blocks_but_frozen_ones(frozen):
    needs_native("edge_block")
    x, e, _, table = case(width=16)
    blocks = [MessageBlock(16, 1, "silu").double() for _ in range(3)]
    blocks[frozen].requires_grad_(False)
    wanted = [p for block in blocks for p in block.parameters() if p.requires_grad]

    def penalty(f):
        u = x.clone().requires_grad_()
        (slope,) = torch.autograd.grad(f(u, e)[0].square().sum(), u, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), wanted, allow_unused=True)

    right = penalty(chain(blocks, table))
    for a, b in zip(penalty(lambda x, e: pass_messages(blocks, x, e, table)), right, strict=True):
        b = torch.zeros_like(a) if b is None else b  # biases after which nothing bends
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("overwrite", [True, False])
def test_without_gradients_edges_are_overwritten_only_where_allowed(overwrite):
    needs_native("edge_block")
    x, e, _, table = case(width=16)
    blocks = [MessageBlock(16, 1, "silu").double() for _ in range(3)]
    kept = e.clone()
    with torch.no_grad():
        right = chain(blocks, table)(x, e)
        found = pass_messages(blocks, x, e, table, overwrite=overwrite)
    for a, b in zip(found, right, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    assert torch.equal(e, kept) != overwrite


def test_under_autocast_products_alone_are_rounded():
    needs_native("edge_block")
    x, e, _, table = case(torch.float32, width=16)
    blocks = [MessageBlock(16, 1, "silu") for _ in range(3)]
    right = chain(blocks, table)(x, e)
    with torch.autocast("cpu", torch.bfloat16):
        found = pass_messages(blocks, x, e, table)
    for a, b in zip(found, right, strict=True):
        assert a.dtype == torch.float32
        assert (a - b).norm() < 1e-2 * b.norm()


@pytest.mark.parametrize("compiled", [True, False])
def test_edges_in_bfloat16_are_rounded_once_a_block(compiled, monkeypatch):
    if compiled:
        needs_native("edge_block")
        assert native.active()["edge_block"]["cpu"] == "native"
    else:
        monkeypatch.setattr(native, "has_kernel", lambda *_: False)
    x, e, _, table = case(torch.float32, width=16)
    blocks = [MessageBlock(16, 1, "silu") for _ in range(3)]
    with torch.no_grad():
        low = e.bfloat16()
        a, b = x, low
        for block in blocks:
            total = torch.zeros_like(x)
            new = b.float() + block.edge(
                torch.cat([b.float(), a[table.sender], a[table.receiver]], 1)
            )
            total.index_add_(0, table.receiver, new)  # of what was not rounded
            a, b = a + block.node(torch.cat([a, total], 1)), new.bfloat16()
        found = pass_messages(blocks, x, low, table)
    assert found[0].dtype == torch.float32 and found[1].dtype == torch.bfloat16
    torch.testing.assert_close(found[0], a, rtol=1e-5, atol=1e-5)
    # a sum that lies between two numbers of bfloat16 may go to either
    torch.testing.assert_close(found[1].float(), b.float(), rtol=2**-7, atol=1e-5)
    assert (found[1] != b).float().mean() < 0.02
