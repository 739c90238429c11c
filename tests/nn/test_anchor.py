"""Anchored blocks: what is folded is what is computed; supernodes pool neighbours alone."""

import pytest
import torch

from meshsim.check import InputError
from meshsim.nn.anchor import AnchorBlock, Keys, SupernodePooling, rotations
from meshsim.nn.fourier import GaussianFourier, SineCosine
from meshsim.ops.anchors import anchor_blocks


def block(conditions, tokens=False):
    torch.manual_seed(0)
    made = AnchorBlock(32, 2, 2, conditions, tokens).double()
    for p in made.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return made


@pytest.mark.parametrize("conditions", [0, 5])
@pytest.mark.parametrize("anchors", [0, 11])
@torch.no_grad()
def test_a_folded_block_is_the_block(conditions, anchors):
    net = block(conditions)
    x, y = torch.randn(1, 7, 32).double(), torch.randn(1, anchors, 32).double()
    m = net.modulation(torch.randn(1, 5).double()) if conditions else None
    at, there = (rotations(torch.rand(1, n, 3).double(), 16, 0.1, 100.0) for n in (7, anchors))
    keys = net.keys(y, there, m)
    weight, bias, norm = (t[None] for t in net.folded(m))
    ptr = torch.tensor([0, anchors])
    got = anchor_blocks(
        x[0], keys.k[0], keys.v[0], ptr, weight, bias, norm, at[0][0], at[1][0], 2, 1e-6
    )
    torch.testing.assert_close(got, net(x, keys, at, m)[0], rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_logits_depend_on_differences_of_positions():
    net = block(0)
    x, y = torch.randn(1, 7, 32).double(), torch.randn(1, 5, 32).double()
    a, b = torch.rand(1, 7, 2).double(), torch.rand(1, 5, 2).double()
    answers = []
    for by in (0.0, 3.7):
        keys = net.keys(y, rotations(b + by, 16, 0.1, 100.0))
        answers.append(net(x, keys, rotations(a + by, 16, 0.1, 100.0)))
    torch.testing.assert_close(*answers, rtol=1e-10, atol=1e-10)


def test_a_block_starts_unmodulated():
    torch.manual_seed(0)
    net = AnchorBlock(32, 2, 2, 5)
    x = torch.randn(2, 7, 32)
    m = net.modulation(torch.randn(2, 5))
    torch.testing.assert_close(net(x, net.keys(x, None, m), None, m), net(x, net.keys(x, None)))


def test_heads_must_divide_the_width():
    with pytest.raises(InputError, match="divisor of the width"):
        AnchorBlock(32, 3)


@torch.no_grad()
def test_a_token_sees_its_neighbours_and_no_others():
    pool = SupernodePooling(3, 2, 16, neighbours=4).double()
    pos = torch.rand(2, 40, 3, generator=torch.Generator().manual_seed(0)).double()
    x = torch.randn(2, 40, 2, generator=torch.Generator().manual_seed(1)).double()
    before = pool(pos, x, 6)
    near = torch.cdist(pos[0, :1], pos[0])[0].argsort()[:4]
    for i in range(40):
        other = x.clone()
        other[0, i] += 1.0
        changed = (pool(pos, other, 6) - before).abs().amax(2)  # (B, S)
        assert bool(changed[0, 0] > 1e-9) == (i in near.tolist())
        assert float(changed[1].max()) == 0.0  # the other sample


@torch.no_grad()
def test_points_out_of_reach_do_not_count():
    pos = torch.tensor([[[0.0, 0.0], [0.1, 0.0], [5.0, 0.0]]])
    x = torch.tensor([[[1.0], [2.0], [3.0]]])
    pool = SupernodePooling(2, 1, 16, neighbours=3, reach=1.0)
    far = SupernodePooling(2, 1, 16, neighbours=2)
    far.load_state_dict(pool.state_dict())
    torch.testing.assert_close(pool(pos, x, 1), far(pos[:, :2], x[:, :2], 1))


@torch.no_grad()
def test_without_waves_tokens_do_not_move_with_the_points():
    pool = SupernodePooling(3, 0, 16, waves=0).double()
    pos = torch.rand(1, 30, 3).double()
    x = pos[..., :0]
    torch.testing.assert_close(pool(pos, x, 5), pool(pos - 4.0, x, 5), rtol=1e-9, atol=1e-9)


def test_joined_keys_follow_each_other():
    a, b = (Keys(torch.full((1, n, 4), float(n)), torch.full((1, n, 4), -float(n))) for n in (2, 3))
    both = Keys.joined([a, b], a.k)
    assert both.k[0, :, 0].tolist() == [2, 2, 3, 3, 3] and both.v[0, 0, 0] == -2
    assert Keys.joined([], a.k).k.shape == (1, 0, 4)


def test_waves_have_the_lengths_asked_for():
    """A shift by a wavelength brings its sine back, and no shorter one that is not a part of it."""
    waves = SineCosine(1, 3, longest=8.0, shortest=2.0)
    at = lambda x: waves(torch.tensor([[x]]))  # noqa: E731
    torch.testing.assert_close(at(0.3), at(8.3), rtol=0.0, atol=1e-5)
    for i, length in enumerate((8.0, 4.0, 2.0)):
        here, there = at(0.3)[0, [i, 3 + i]], at(0.3 + length)[0, [i, 3 + i]]
        torch.testing.assert_close(here, there, rtol=0.0, atol=1e-5)
    with pytest.raises(InputError, match="shortest"):
        SineCosine(1, 3, longest=1.0, shortest=2.0)


def test_random_features_have_the_kernel_of_their_scale():
    """Their mean product tends to exp(−2 π² s² r²), the Gaussian's transform."""
    features = GaussianFourier(2, 40_000, scale=0.5, seed=3).double()
    x = torch.tensor([[0.1, 0.2], [0.4, -0.1]]).double()
    a, b = features(x)
    r2 = float((x[0] - x[1]).square().sum())
    expected = float(torch.tensor(-2 * torch.pi**2 * 0.25 * r2).exp())
    assert abs(float(a @ b) / 40_000 - expected) < 0.02
