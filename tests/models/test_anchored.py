"""Anchored transformer: only anchors are seen, queries see nobody; curls have no divergence."""

import itertools

import pytest
import torch

from meshsim.body import Body
from meshsim.check import InputError
from meshsim.clouds import place_features
from meshsim.mesh import Mesh
from meshsim.models.anchored import TILE, AnchoredTransformer
from meshsim.models.field import Branch, FieldBatch, Points
from meshsim.physics.curl import divergence
from tests.test_clouds import circle
from tests.test_surrogate import ellipsoid

BRANCHES = {
    "surface": {"inputs": 2, "outputs": {"pressure": 1, "shear": 3}},
    "volume": {"inputs": 1, "outputs": {"velocity": 3}},
}


def cloud(n, inputs, batch=1, dim=3, seed=0, dtype=torch.float32):
    g = torch.Generator().manual_seed(seed)
    draw = {"generator": g, "dtype": torch.float64}
    return Points(
        (2 * torch.rand(batch, n, dim, **draw) - 1).to(dtype),
        torch.randn(batch, n, inputs, **draw).to(dtype),
    )


def made(dtype=torch.float32, branches=BRANCHES, seed=0, **options):
    """A network whose modulation and gates are not at their neutral start."""
    torch.manual_seed(seed)
    given = {"width": 32, "heads": 2, "blocks": "pscj", "own_blocks": 1, "supernodes": 16}
    net = AnchoredTransformer(
        options.pop("dim", 3), options.pop("geometry_in", 2), branches,
        options.pop("parameters", 2), **{**given, **options},
    )  # fmt: skip
    for block in net.modules():
        if getattr(block, "modulate", None) is not None:
            torch.nn.init.normal_(block.modulate.weight, std=0.2)
            torch.nn.init.normal_(block.modulate.bias, std=0.2)
    return net.to(dtype).eval()


def encoded(net, batch=1, seed=0, dtype=torch.float32):
    geometry = cloud(60, 2, batch, seed=seed, dtype=dtype)
    anchors = {
        "surface": cloud(40, 2, batch, seed=seed + 1, dtype=dtype),
        "volume": cloud(50, 1, batch, seed=seed + 2, dtype=dtype),
    }
    parameters = torch.linspace(-1, 1, 2 * batch, dtype=dtype).reshape(batch, 2)
    return net.encode(geometry, parameters, anchors), anchors


@pytest.mark.parametrize("local", [False, True])
@torch.no_grad()
def test_other_queries_change_no_bit_of_an_answer(local):
    net = made(local=local)
    latent, _ = encoded(net)
    many = cloud(TILE + 700, 2, seed=9)
    whole = net.decode(latent, "surface", many)["pressure"][0]
    order = torch.randperm(many.pos.shape[1], generator=torch.Generator().manual_seed(1))
    moved = net.decode(latent, "surface", Points(many.pos[:, order], many.x[:, order]))
    assert torch.equal(moved["pressure"][0], whole[order])
    for rows in (slice(0, 1), slice(5, 900), slice(TILE - 3, TILE + 3)):
        part = net.decode(latent, "surface", Points(many.pos[:, rows], many.x[:, rows]))
        assert torch.equal(part["pressure"][0], whole[rows])


@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 2e-5), (torch.float64, 1e-11)])
@pytest.mark.parametrize("local", [False, True])
@torch.no_grad()
def test_queries_at_the_anchors_give_the_anchors_answers(dtype, near, local):
    net = made(dtype, local=local)
    latent, anchors = encoded(net, batch=2, dtype=dtype)
    for name, points in anchors.items():
        own = net._split(name, net.head[name](latent.hidden[name]))
        for key, y in net.decode(latent, name, points).items():
            torch.testing.assert_close(y, own[key], rtol=near, atol=near)


@pytest.mark.parametrize(("dtype", "near"), [(torch.float32, 2e-5), (torch.float64, 1e-11)])
def test_the_streamed_path_is_the_one_that_is_trained(dtype, near):
    net = made(dtype)
    latent, _ = encoded(net, dtype=dtype)
    points = cloud(33, 2, seed=4, dtype=dtype)
    trained = net.decode(latent, "surface", points)["shear"]
    with torch.no_grad():
        streamed = net.decode(latent, "surface", points)["shear"]
    torch.testing.assert_close(streamed, trained.detach(), rtol=near, atol=near)


@torch.no_grad()
def test_the_order_of_geometry_points_beyond_the_supernodes_does_not_matter():
    net = made(torch.float64, parameters=0)
    geometry = cloud(60, 2, dtype=torch.float64)
    anchors = {k: cloud(9, v["inputs"], dtype=torch.float64) for k, v in BRANCHES.items()}
    order = torch.cat([torch.arange(16), 16 + torch.randperm(44)])
    other = Points(geometry.pos[:, order], geometry.x[:, order])
    a, b = (net.encode(g, torch.zeros(1, 0), anchors) for g in (geometry, other))
    torch.testing.assert_close(a.hidden, b.hidden, rtol=1e-11, atol=1e-11)


@torch.no_grad()
def test_moving_everything_changes_only_the_sines_and_cosines():
    for waves, same in ((0, True), (4, False)):
        net = made(torch.float64, waves=waves)
        given = cloud(60, 2, dtype=torch.float64)
        anchors = {k: cloud(9, v["inputs"], dtype=torch.float64) for k, v in BRANCHES.items()}
        query = cloud(7, 2, seed=3, dtype=torch.float64)

        def answer(by, net=net, given=given, anchors=anchors, query=query):
            far = {k: Points(p.pos + by, p.x) for k, p in anchors.items()}
            latent = net.encode(
                Points(given.pos + by, given.x), torch.zeros(1, 2, dtype=torch.float64), far
            )
            return net.decode(latent, "surface", Points(query.pos + by, query.x))["pressure"]

        here, there = answer(0.0), answer(torch.tensor([0.3, -1.7, 0.9]).double())
        assert (float((here - there).abs().max()) < 1e-9) == same


@torch.no_grad()
def test_a_local_model_sees_the_points_of_the_body_about_a_query():
    """A change of a geometry point that is no supernode is felt near it, through nothing else."""
    for local in (False, True):
        net = made(torch.float64, blocks="s", own_blocks=0, local=local, neighbours=3)
        geometry = cloud(60, 2, dtype=torch.float64)
        anchors = {k: cloud(9, v["inputs"], dtype=torch.float64) for k, v in BRANCHES.items()}
        other = Points(geometry.pos, geometry.x.index_fill(1, torch.tensor([40]), 5.0))
        at = Points(geometry.pos[:, 40:41] + 1e-3, torch.zeros(1, 1, 2, dtype=torch.float64))
        zero = torch.zeros(1, 2, dtype=torch.float64)
        a, b = (net._direct(net.encode(g, zero, anchors), "surface", at) for g in (geometry, other))
        assert (float((a - b).abs().max()) > 1e-6) == local


@torch.no_grad()
def test_letters_say_who_is_seen():
    """Other branches' anchors change an answer through c and j, not through p and s."""
    for blocks, seen in (("ps", False), ("sc", True), ("j", True)):
        net = made(blocks=blocks)
        geometry = cloud(30, 2)
        answers = []
        for seed in (1, 2):
            anchors = {"surface": cloud(9, 2), "volume": cloud(9, 1, seed=seed)}
            latent = net.encode(geometry, torch.zeros(1, 2), anchors)
            answers.append(net.decode(latent, "surface", cloud(5, 2, seed=3))["pressure"])
        assert torch.equal(*answers) != seen


@torch.no_grad()
def test_parameters_and_geometry_change_the_answer():
    net = made()
    anchors = {k: cloud(9, v["inputs"]) for k, v in BRANCHES.items()}
    query = cloud(5, 2, seed=3)
    given = [(0, torch.zeros(1, 2)), (0, torch.ones(1, 2)), (1, torch.zeros(1, 2))]
    answers = [
        net.decode(net.encode(cloud(30, 2, seed=s), p, anchors), "surface", query)["pressure"]
        for s, p in given
    ]
    for a, b in itertools.combinations(answers, 2):
        assert float((a - b).abs().max()) > 1e-4


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-4), (torch.float64, 1e-10)])
def test_a_curl_has_no_divergence(dim, dtype, bound):
    branches = {"volume": {"outputs": {"velocity": dim, "pressure": 1}, "curl": ["velocity"]}}
    net = made(dtype, branches, dim=dim, blocks="ps", own_blocks=0, parameters=0, length=0.3)
    geometry = cloud(40, 2, dim=dim, dtype=dtype)
    latent = net.encode(
        geometry, torch.zeros(1, 0), {"volume": cloud(20, 0, dim=dim, seed=1, dtype=dtype)}
    )
    points = cloud(50, 0, dim=dim, seed=2, dtype=dtype).pos[0]

    def velocity(x):
        empty = x.new_zeros(1, len(x), 0)
        return net.decode(latent, "volume", Points(x[None], empty))["velocity"][0]

    x = points.clone().requires_grad_()
    u = velocity(x)
    rows = [torch.autograd.grad(u[:, i].sum(), x, retain_graph=True)[0] for i in range(dim)]
    gradient = torch.stack(rows, 1)  # (N, D, D)
    trace = gradient.diagonal(dim1=1, dim2=2).sum(1)
    assert float((trace.abs() / gradient.norm(dim=(1, 2))).max()) < bound
    torch.testing.assert_close(divergence(velocity, points), trace, rtol=0.0, atol=1e-4)


def about_a_body(dim, dtype):
    """A body, and a function from places to `Points` with the walls nearest to them."""
    body = ellipsoid((0.5, 0.4, 0.3), 6)
    if dim == 2:
        body = circle(24)
        body = Mesh(0.5 * (body.points - torch.tensor([3.0, 0.0])), body.cells)

    def points(pos):
        _, walls = place_features(pos[0].double(), (), body, walls=True)
        return Points(pos, walls.to(dtype).reshape(1, pos.shape[1], -1))

    return body, points


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-4), (torch.float64, 1e-10)])
def test_without_slip_a_curl_is_zero_on_the_body_and_has_no_divergence(dim, dtype, bound):
    outputs = {"velocity": dim, "pressure": 1}
    branches = {"volume": {"outputs": outputs, "curl": ["velocity"], "no_slip": True}}
    net = made(dtype, branches, dim=dim, blocks="ps", own_blocks=0, parameters=0, length=0.3)
    body, points = about_a_body(dim, dtype)
    anchors = points(cloud(20, 0, dim=dim, seed=1, dtype=dtype).pos)
    latent = net.encode(cloud(40, 2, dim=dim, dtype=dtype), torch.zeros(1, 0), {"volume": anchors})
    query = points(cloud(300, 0, dim=dim, seed=2, dtype=dtype).pos)
    x = query.pos[0].clone().requires_grad_()
    u = net.decode(latent, "volume", Points(x[None], query.x))["velocity"][0]
    rows = [torch.autograd.grad(u[:, i].sum(), x, retain_graph=True)[0] for i in range(dim)]
    gradient = torch.stack(rows, 1)  # (N, D, D)
    trace = gradient.diagonal(dim1=1, dim2=2).sum(1)
    assert float((trace.abs() / gradient.norm(dim=(1, 2))).max()) < bound
    assert float(u.detach().norm(dim=1).median()) > 1e-2
    drawn = Body.of(body).sample(300).points
    for own in (body.points, drawn):
        with torch.no_grad():
            there = net.decode(latent, "volume", points(own.to(dtype)[None]))
        assert torch.equal(there["velocity"], torch.zeros_like(there["velocity"]))
        assert float(there["pressure"].abs().min()) > 0


@torch.no_grad()
def test_curls_in_tiles_are_those_of_all_at_once():
    branches = {"volume": {"outputs": {"velocity": 2, "pressure": 1}, "curl": ["velocity"]}}
    net = made(torch.float64, branches, dim=2, blocks="ps", own_blocks=0, parameters=0, width=16)
    given = cloud(20, 0, dim=2, seed=1, dtype=torch.float64)
    latent = net.encode(
        cloud(40, 2, dim=2, dtype=torch.float64), torch.zeros(1, 0), {"volume": given}
    )
    many = cloud(TILE + 30, 0, dim=2, seed=2, dtype=torch.float64)
    whole = net.decode(latent, "volume", many)
    part = net.decode(latent, "volume", Points(many.pos[:, TILE - 5 :], many.x[:, TILE - 5 :]))
    for name, y in part.items():
        torch.testing.assert_close(whole[name][:, TILE - 5 :], y, rtol=0.0, atol=1e-11)


def test_a_curl_is_trained():
    branches = {"volume": {"outputs": {"velocity": 2}, "curl": ["velocity"]}}
    net = made(torch.float32, branches, dim=2, blocks="ps", own_blocks=0, parameters=0)
    points = cloud(30, 0, dim=2, seed=1)
    truth = {"volume": {"velocity": torch.stack([points.pos[..., 1], -points.pos[..., 0]], 2)}}
    batch = FieldBatch(cloud(20, 2, dim=2), torch.zeros(1, 0), {"volume": points}, truth)
    optimiser = torch.optim.Adam(net.parameters(), 3e-3)
    losses = []
    for _ in range(60):
        loss = net.training_loss(batch, 0.0)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.05 * losses[0]


def test_checkpoints_give_the_same_gradients():
    found = []
    for checkpoint in (False, True):
        net = made(checkpoint=checkpoint)
        latent, anchors = encoded(net)
        y = net.decode(latent, "surface", anchors["surface"])["pressure"]
        y.square().mean().backward()
        found.append([p.grad for p in net.parameters() if p.grad is not None])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_it_is_rebuilt_from_its_arguments():
    net = made()
    other = AnchoredTransformer(**net.arguments)
    other.load_state_dict(net.state_dict())
    with torch.no_grad():
        a, b = (n.decode(encoded(n)[0], "volume", cloud(5, 1))["velocity"] for n in (net, other))
    assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"blocks": "px"}, "letter of `blocks`"),
        ({"blocks": "c", "branches": {"a": {"outputs": {"p": 1}}}}, "one only"),
        ({"width": 33}, "heads"),
        ({"supernodes": 0}, "supernodes"),
        ({"blocks": "", "own_blocks": 0}, "one block or more"),
    ],
)
def test_what_cannot_be_built_is_named(options, said):
    with pytest.raises(InputError, match=said):
        made(**options)


def test_branches_are_checked():
    with pytest.raises(InputError, match="without features"):
        Branch(inputs=2, outputs={"velocity": 3}, curl=("velocity",))
    with pytest.raises(InputError, match="a vector"):
        Branch(outputs={"p": 1}, curl=("p",))
    with pytest.raises(InputError, match="no_slip needs a field in `curl`"):
        Branch(outputs={"velocity": 3}, no_slip=True)
    held = Branch(outputs={"velocity": 3}, curl=("velocity",), no_slip=True)
    assert Branch.of(held.to_dict()) == held and held.columns(3) == 9
    net = made()
    with pytest.raises(InputError, match="anchors"):
        net.encode(cloud(30, 2), torch.zeros(1, 2), {})
    latent = net.encode(cloud(30, 2), torch.zeros(1, 2), {"surface": cloud(4, 2)})
    assert torch.isfinite(net.decode(latent, "surface", cloud(3, 2))["pressure"]).all()
    with pytest.raises(InputError, match="branch with anchors: 'volume'"):
        net.decode(latent, "volume", cloud(3, 1))
    with pytest.raises(InputError, match="geometry: expected positions"):
        anchors = {k: cloud(4, v["inputs"]) for k, v in BRANCHES.items()}
        net.encode(cloud(30, 5), torch.zeros(1, 2), anchors)
