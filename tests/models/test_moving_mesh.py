"""MovingMeshNet: its formula, what interpolation keeps, symmetries, and what it refuses."""

import json
import re

import numpy as np
import pytest
import torch

from meshsim.check import InputError
from meshsim.models import MovingMeshNet
from meshsim.models.moving_mesh import LearnedInterpolation, join, moved_mesh
from meshsim.movers import LearnedMover, ball
from meshsim.movers.um2n import Neighbours
from tests.movers.grids import cube, ring, square

GRIDS = {"square": square(7), "cube": cube(3), "ring": ring(3)}
everywhere = pytest.mark.parametrize("name", GRIDS)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def places(name, dtype=torch.float64):
    """Points at rest, moved ones, cells and edges of one of the grids."""
    grid = GRIDS[name]
    monitor = ball(grid.points[len(grid.points) // 2], 0.4, 8.0, 20.0)(grid.points)
    moved = LearnedMover().move(grid, monitor).points
    assert np.linalg.norm(moved - grid.points, axis=1).max() > 0.02
    near = Neighbours.of(grid)
    points, moved = (torch.from_numpy(x).to(dtype) for x in (grid.points, moved))
    return points, moved, torch.from_numpy(grid.cells), torch.stack([near.sender, near.receiver])


def stirred(module):
    """The module with weights everywhere, also where it begins with zeros."""
    for p in module.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return module


def net(dim=2, dtype=torch.float64, **changes):
    arguments = {"width": 8, "depth": 2, "length": 0.2, "difference": 0.5} | changes
    return stirred(MovingMeshNet(2, dim, **arguments)).to(dtype)


def values(points, columns=2):
    return torch.randn(len(points), columns, dtype=points.dtype)


@everywhere
def test_constants_are_interpolated_exactly_whatever_is_learned(name):
    points, moved, cells, edges = places(name)
    mesh = moved_mesh(points, moved, cells, edges)
    interpolation = stirred(LearnedInterpolation(points.shape[1])).double()
    for at in (mesh.there, mesh.back):
        u = torch.full((len(points), 1), 7.0).double()
        learned = interpolation(values(points), at) - LearnedInterpolation(
            points.shape[1]
        ).double()(values(points), at)
        assert learned.abs().max() > 1e-2
        assert (interpolation(u, at) - 7).abs().max() < 1e-12


@everywhere
def test_linear_fields_are_interpolated_exactly_to_begin_with(name):
    points, moved, cells, edges = places(name)
    mesh = moved_mesh(points, moved, cells, edges)
    interpolation = LearnedInterpolation(points.shape[1]).double()
    for x, y, at in ((points, moved, mesh.there), (moved, points, mesh.back)):
        assert (interpolation(x, at) - y).abs().max() < 1e-12


def test_far_outside_a_point_takes_the_nearest_value():
    points, _, cells, edges = places("square")
    moved = points.clone()
    moved[-1] += 1.0
    mesh = moved_mesh(points, moved, cells, edges)
    u = values(points)
    assert torch.equal(LearnedInterpolation(2).double()(u, mesh.there)[-1], u[-1])


@pytest.mark.parametrize("branch", [True, False])
@pytest.mark.parametrize("residual", [True, False])
def test_it_is_its_formula(branch, residual):
    points, moved, cells, edges = places("square")
    u, model = values(points), net(branch=branch, residual=residual)
    sender, receiver = edges

    def network(part, u, x):
        h = part.encode(u)
        way = (x[receiver] - x[sender]) / 0.2
        way = torch.cat([way, way.norm(dim=1, keepdim=True)], 1)
        count = torch.bincount(receiver, minlength=len(x))[:, None]
        for block in part.blocks:
            pair = [h[receiver], h[sender], (u[receiver] - u[sender]) / 0.5, way]
            sent = block.message(torch.cat(pair, 1))
            mean = torch.zeros_like(h).index_add(0, receiver, sent) / count
            h = h + block.update(torch.cat([h, mean], 1))
        return part.decode(h)

    mesh = moved_mesh(points, moved, cells, edges)
    right = network(model.at_rest, u, points)
    if residual:
        right = right + u + model.residue(u)
    if branch:
        change = network(model.on_moved, model.there(u, mesh.there), moved)
        right = right + model.back(change, mesh.back)
    torch.testing.assert_close(model(u, mesh), right, rtol=1e-12, atol=1e-12)


def test_it_begins_with_no_change_or_with_nothing():
    points, moved, cells, edges = places("square")
    u, mesh = values(points), moved_mesh(points, moved, cells, edges)
    assert torch.equal(MovingMeshNet(2).double()(u, mesh), u)
    assert not MovingMeshNet(2, residual=False).double()(u, mesh).any()


def test_no_movement_is_the_control_and_movement_is_not():
    points, moved, cells, edges = places("square")
    u, model = values(points), net()
    still = model(u, moved_mesh(points, points, cells, edges))
    assert torch.equal(model(u, moved_mesh(points, points.clone(), cells, edges)), still)
    assert (model(u, moved_mesh(points, moved, cells, edges)) - still).abs().max() > 1e-3
    # With plain interpolation the control is two networks on one mesh.
    for part in (model.there, model.back):
        torch.nn.init.zeros_(part.weigh.layers[-1].weight)
        torch.nn.init.zeros_(part.weigh.layers[-1].bias)
    still = model(u, moved_mesh(points, points, cells, edges))
    alone = net(branch=False)
    alone.load_state_dict(model.state_dict(), strict=False)
    second = net(branch=False, residual=False)
    second.at_rest.load_state_dict(model.on_moved.state_dict())
    mesh = moved_mesh(points, points, cells, edges)
    torch.testing.assert_close(alone(u, mesh) + second(u, mesh), still, rtol=1e-12, atol=1e-12)


@everywhere
def test_the_numbers_of_points_do_not_matter(name):
    points, moved, cells, edges = places(name)
    u, model = values(points), net(points.shape[1])
    right = model(u, moved_mesh(points, moved, cells, edges))
    order = torch.randperm(len(points))
    new = order.argsort()
    turned = new[edges]
    turned = turned[:, (turned[1] * len(points) + turned[0]).argsort()]
    mesh = moved_mesh(points[order], moved[order], new[cells], turned)
    torch.testing.assert_close(model(u[order], mesh), right[order], rtol=1e-9, atol=1e-9)


@everywhere
def test_a_shift_changes_nothing(name):
    points, moved, cells, edges = places(name)
    u, model = values(points), net(points.shape[1])
    right = model(u, moved_mesh(points, moved, cells, edges))
    shift = torch.arange(1, points.shape[1] + 1).double()
    found = model(u, moved_mesh(points + shift, moved + shift, cells, edges))
    torch.testing.assert_close(found, right, rtol=1e-8, atol=1e-8)


def test_units_are_those_of_the_length():
    points, moved, cells, edges = places("square")
    u, model = values(points), net(length=0.2)
    larger = net(length=0.6)
    larger.load_state_dict(model.state_dict())
    right = model(u, moved_mesh(points, moved, cells, edges))
    found = larger(u, moved_mesh(3 * points, 3 * moved, cells, edges))
    torch.testing.assert_close(found, right, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-4), (torch.float64, 1e-12)])
def test_several_at_once_are_as_one_by_one(dtype, tolerance):
    model = net(dtype=dtype)
    meshes = [moved_mesh(*places(name, dtype)) for name in ("square", "ring")]
    inputs = [values(mesh.points) for mesh in meshes]
    found = model(torch.cat(inputs), join(meshes))
    right = torch.cat([model(u, mesh) for u, mesh in zip(inputs, meshes, strict=True)])
    torch.testing.assert_close(found, right, rtol=tolerance, atol=tolerance)


def test_same_bits_every_run_and_gradients_everywhere():
    points, moved, cells, edges = places("square", torch.float32)
    u, model = values(points).requires_grad_(), net(dtype=torch.float32, width=16)
    runs = []
    for _ in range(3):
        model.zero_grad()
        u.grad = None
        out = model(u, moved_mesh(points, moved, cells, edges))
        out.square().sum().backward()
        gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
        runs.append([out.detach(), u.grad.clone(), *gradients.values()])
    assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(run, runs[0], strict=True))
    # What is added to all of a network's weights alike, `LearnedInterpolation` takes away again.
    silent = {f"{part}.weigh.layers.1.bias" for part in ("there", "back")}
    for name, gradient in gradients.items():
        size = float(gradient.abs().max())
        assert (size < 1e-3) if name in silent else (size > 1e-6), (name, size)


def test_gradients_are_those_of_differences():
    points, moved, cells, edges = places("square")
    mesh, model = moved_mesh(points, moved, cells, edges), net(width=4, depth=1)
    u = values(points).requires_grad_()
    assert torch.autograd.gradcheck(lambda a: model(a, mesh), u, fast_mode=True)


def test_few_points_and_none_without_edges():
    points = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]).double()
    none = torch.zeros(2, 0, dtype=torch.int64)
    for k in (1, 2, 12):
        mesh = moved_mesh(points, points * 0.9, torch.tensor([[0, 1, 2]]), none, k)
        assert net()(values(points), mesh).isfinite().all()


def test_arguments_make_the_same_architecture():
    model = net(branch=False, width=12)
    twin = MovingMeshNet(**json.loads(json.dumps(model.arguments))).double()
    twin.load_state_dict(model.state_dict())
    mesh = moved_mesh(*places("square"))
    u = values(mesh.points)
    assert torch.equal(twin(u, mesh), model(u, mesh))
    assert (model.hops, net().hops) == (2, None)


@pytest.mark.usefixtures("unchecked")
def test_refusals():
    points, moved, cells, edges = places("square")
    wrong = {
        "points": (points[:, 0], moved, cells, edges),
        "moved": (points, moved[:-1], cells, edges),
        "cells": (points, moved, cells[:, :2], edges),
        "edge_index": (points, moved, cells, edges.T),
        "neighbours": (points, moved, cells, edges, 0),
    }
    for name, arguments in wrong.items():
        with pytest.raises(InputError, match=f"`{name}`: expected"):
            moved_mesh(*arguments)
    with pytest.raises(InputError, match="`moved`: 2 values are not finite"):
        moved_mesh(points, moved.clone().index_fill(0, torch.tensor([3]), np.nan), cells, edges)
    mesh = moved_mesh(points, moved, cells, edges)
    with pytest.raises(InputError, match=re.escape("`u`: expected shape (64, 2), got (64, 3)")):
        net()(values(points, 3), mesh)
    with pytest.raises(InputError, match=re.escape("`u`: expected shape (64, 2), got (63, 2)")):
        net()(values(points[:-1]), mesh)
    with pytest.raises(InputError, match=r"`mesh\.points`: expected shape"):
        net(3)(values(points), mesh)
    with pytest.raises(InputError, match="sorted by receiver"):
        net()(values(points), mesh._replace(edge_index=edges.flip(1)))
    for name in ("fields", "dim", "width", "depth"):
        arguments = {"fields": 2, "dim": 2, "width": 8, "depth": 2} | {name: 0}
        with pytest.raises(InputError, match=f"`{name}`: expected 1 or more, got 0"):
            MovingMeshNet(**arguments)
    for name in ("length", "difference"):
        with pytest.raises(InputError, match=f"`{name}`: expected more than 0, got 0"):
            MovingMeshNet(2, **{name: 0.0})
