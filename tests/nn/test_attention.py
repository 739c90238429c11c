"""Rotary positions, masked attention, RMSNorm and the gated MLP keep their formulas."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from meshsim import native
from meshsim.check import InputError
from meshsim.nn import GatedMLP, MaskedAttention, RMSNorm, TransformerBlock, rotate, rotation
from meshsim.nn.attention import attend
from meshsim.ops.widen import widen
from tests.ops.blocks import needs_native, random

FULL = torch.cartesian_prod(torch.arange(6), torch.arange(6)).flip(1).T  # everybody to everybody


def full(n: int = 6):
    edges = FULL[:, (n > FULL).all(0)]
    return widen(edges, torch.tensor([0, n]))


@pytest.mark.parametrize(("dim", "depth"), [(1, 8), (2, 8), (2, 16), (3, 16), (3, 4), (2, 2)])
def test_logits_depend_on_differences_of_positions(dim, depth):
    places, shift = random(6, dim, seed=1), random(1, dim, seed=2)
    q, k = random(6, 2 * depth, seed=3), random(6, 2 * depth, seed=4)

    def logits(x):
        by = rotation(x, depth)
        a, b = (rotate(t, *by, 2).unflatten(1, (2, depth)) for t in (q, k))
        return torch.einsum("ihd,jhd->ijh", a, b)

    torch.testing.assert_close(logits(places + shift), logits(places), rtol=1e-12, atol=1e-12)
    if depth >= 2 * dim:
        assert (logits(2 * places) - logits(places)).abs().max() > 1e-3
    plain = torch.einsum("ihd,ihd->ih", q.unflatten(1, (2, depth)), k.unflatten(1, (2, depth)))
    same = torch.diagonal(logits(places)).T  # a node and itself
    torch.testing.assert_close(same, plain, rtol=1e-12, atol=1e-12)


def test_rotation_is_the_formula():
    place = torch.tensor([[0.3, -0.7]], dtype=torch.float64)
    cos, sin = rotation(place, 8, base=9.0)
    angles = torch.tensor([[0.3, 0.3 / 3, -0.7, -0.7 / 3]], dtype=torch.float64)
    torch.testing.assert_close(cos, angles.cos())
    torch.testing.assert_close(sin, angles.sin())
    x = random(1, 10)
    turned = rotate(x, cos, sin, 1)
    assert torch.equal(turned[:, 8:], x[:, 8:])  # what is left over stays
    pair = torch.complex(x[:, :4], x[:, 4:8]) * torch.polar(torch.ones_like(angles), angles)
    torch.testing.assert_close(turned[:, :8], torch.cat([pair.real, pair.imag], 1))


def test_a_full_mask_is_torch_attention():
    torch.manual_seed(0)
    ours = MaskedAttention(32, 4).double()
    torchs = torch.nn.MultiheadAttention(32, 4, batch_first=True).double()
    with torch.no_grad():
        torchs.in_proj_weight.copy_(ours.qkv.weight)
        torchs.in_proj_bias.zero_()
        torchs.out_proj.weight.copy_(ours.out.weight)
        torchs.out_proj.bias.copy_(ours.out.bias)
    x = random(6, 32)
    right, _ = torchs(x[None], x[None], x[None])
    torch.testing.assert_close(ours(x, full()), right[0], rtol=1e-12, atol=1e-12)


def test_neighbours_in_any_order_give_the_same():
    torch.manual_seed(0)
    block, x = TransformerBlock(16, 2).double(), random(6, 16)
    order = torch.tensor([3, 5, 0, 1, 4, 2])
    found = block(x[order], full())
    torch.testing.assert_close(found, block(x, full())[order], rtol=1e-12, atol=1e-12)


def test_bias_is_added_to_logits():
    torch.manual_seed(0)
    layer, x, mask = MaskedAttention(8, 2).double(), random(6, 8), full()
    only = torch.full((36, 2), -math.inf, dtype=torch.float64)
    row = torch.repeat_interleave(mask.rowptr.diff())
    only[row == mask.col] = 0  # nobody but themselves
    right = layer.out(layer.qkv(x)[:, 16:])
    torch.testing.assert_close(layer(x, mask, bias=only), right, rtol=1e-12, atol=1e-12)


def test_block_is_its_formula():
    torch.manual_seed(0)
    block, x = TransformerBlock(16, 2, expansion=2).double(), random(6, 16)
    y = x + block.attention(F.rms_norm(x, (16,), eps=1e-6), full())
    h = F.rms_norm(y, (16,), eps=1e-6)
    gate, up = block.mlp.inner(h).split(32, 1)
    right = y + block.mlp.out(F.gelu(gate) * up)
    torch.testing.assert_close(block(x, full()), right, rtol=1e-12, atol=1e-12)


def test_gate_multiplies_what_the_heads_give():
    torch.manual_seed(0)
    layer, x = MaskedAttention(8, 2, gate=True).double(), random(6, 8)
    plain = MaskedAttention(8, 2).double()
    plain.load_state_dict({k: v for k, v in layer.state_dict().items() if "gate" not in k})
    plain.out = torch.nn.Identity()
    right = layer.out(torch.sigmoid(layer.gate(x)) * plain(x, full()))
    torch.testing.assert_close(layer(x, full()), right, rtol=1e-12, atol=1e-12)


def stack(heads=2, expansion=2, gate=False, dtype=torch.float64):
    torch.manual_seed(0)
    return [TransformerBlock(16, heads, expansion, gate).to(dtype) for _ in range(3)]


def gradients(run, blocks, x):
    """The result, and gradients of rows and of every parameter."""
    x = x.detach().requires_grad_()
    given = [x, *(p for block in blocks for p in block.parameters())]
    y = run(x)
    return [y, *torch.autograd.grad(y, given, random(*y.shape, seed=9).to(y.dtype))]


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("turned", [True, False])
@pytest.mark.parametrize("expansion", [1, 3])
@pytest.mark.parametrize("gate", [False, True])
def test_blocks_one_after_the_other(compiled, turned, expansion, gate, monkeypatch):
    if compiled:
        needs_native("token_block")
    else:
        monkeypatch.setattr(native, "has_kernel", lambda *_: False)
    blocks, x, mask = stack(expansion=expansion, gate=gate), random(6, 16), full()
    by = rotation(random(6, 2, seed=3), 8) if turned else None
    biases = [random(36, 2, seed=i) for i in range(3)] if turned else [None] * 3

    def one_by_one(x):
        for block, bias in zip(blocks, biases, strict=True):
            x = block(x, mask, by, bias)
        return x

    right = gradients(one_by_one, blocks, x)
    found = gradients(lambda x: attend(blocks, x, mask, by, biases), blocks, x)
    for a, b in zip(found, right, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-11)


def test_under_autocast_products_alone_are_rounded():
    needs_native("token_block")
    blocks, x = stack(dtype=torch.float32), random(6, 16).float()
    right = gradients(lambda x: attend(blocks, x, full()), blocks, x)
    with torch.autocast("cpu", torch.bfloat16):
        found = gradients(lambda x: attend(blocks, x, full()), blocks, x)
    for a, b in zip(found, right, strict=True):
        assert a.dtype == torch.float32
        assert (a - b).norm() < 2e-2 * b.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_rms_norm(dtype):
    norm, x = RMSNorm(24), random(5, 24)
    with torch.no_grad():
        norm.weight.copy_(random(24, seed=1))
    right = F.rms_norm(x, (24,), norm.weight.double(), 1e-6)
    found = norm.to(dtype)(x.to(dtype))
    tolerance = {torch.float32: 1e-6, torch.float64: 1e-7, torch.bfloat16: 2e-2}[dtype]
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), right, rtol=tolerance, atol=tolerance)
    assert (norm(torch.zeros(2, 24, dtype=dtype)) == 0).all()


def test_gated_mlp_width():
    mlp = GatedMLP(8, expansion=3)
    assert sum(p.numel() for p in mlp.parameters()) == 8 * 48 + 48 + 24 * 8 + 8


def test_refusals():
    with pytest.raises(InputError, match="`heads`: expected a divisor of the width 10, got 4"):
        MaskedAttention(10, 4)
