"""Velocities without divergence: curls of a potential, whatever function gives it.

∇·(∇ × ψ) = 0 whatever ψ is, so a network that predicts a potential and is differentiated by its
points conserves volume to rounding, trained or not. With d the distance to a wall, d²ψ and its
first derivatives vanish there, and with them the velocity: no slip.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from meshsim.check import InputError, check_shape

Field = Callable[[Tensor], Tensor]


def curl(
    potential: Field, points: Float[Tensor, "N D"], create_graph: bool = False
) -> Float[Tensor, "N D"]:
    """u = ∇ × ψ at points; in the plane u = (∂ψ/∂y, −∂ψ/∂x) of a stream function.

    By automatic differentiation, one backward pass for each component of ψ.

    Arguments:
        potential: (N, D) points to (N, 3) ψ, or (N, 1) where D = 2; each row depends on its own
            point only (layers that normalise over a batch, or attend between points, do not do).
        points: (N, D) float, D = 2 or 3.
        create_graph: for training: u keeps its own graph, back to what the potential learns and
            to points that require a gradient.

    Returns:
        (N, D).

    Raises:
        InputError: points or a potential of another shape.

    >>> curl(lambda x: (x**2).sum(1, keepdim=True) / 2, torch.tensor([[3.0, 4.0]]))
    tensor([[ 4., -3.]])
    """
    dim = points.shape[1]
    if dim not in (2, 3):
        raise InputError(f"`points`: expected shape (N, 2) or (N, 3), got {tuple(points.shape)}")
    rows = _slopes(potential, points, 1 if dim == 2 else 3, "potential", create_graph)
    if dim == 2:
        return torch.stack([rows[0][:, 1], -rows[0][:, 0]], 1)
    a, b, c = rows
    return torch.stack([c[:, 1] - b[:, 2], a[:, 2] - c[:, 0], b[:, 0] - a[:, 1]], 1)


def divergence(
    field: Field, points: Float[Tensor, "N D"], create_graph: bool = False
) -> Float[Tensor, " N"]:
    """∇·u at points, by automatic differentiation.

    Arguments:
        field: (N, D) points to (N, D), each row from its own point only. What is itself made with
            `curl` needs `create_graph=True` in there.
        points: (N, D) float.
        create_graph: for training.

    >>> divergence(lambda x: x * torch.tensor([1.0, 2.0]), torch.zeros(1, 2))
    tensor([3.])
    """
    dim = points.shape[1]
    rows = _slopes(field, points, dim, "field", create_graph)
    return torch.stack([row[:, i] for i, row in enumerate(rows)]).sum(0)


def _slopes(field: Field, points: Tensor, c: int, name: str, create_graph: bool) -> list[Tensor]:
    """The gradients (N, D) of each of c components."""
    with torch.enable_grad():
        keep = create_graph and points.requires_grad
        x = points if keep else points.detach().requires_grad_()
        values = field(x)
        check_shape(values, (len(points), c), f"{name}(points)")
        if torch.is_inference_mode_enabled():
            raise InputError(f"`{name}`: has no gradient under torch.inference_mode (use no_grad)")
        if not values.requires_grad:  # it does not depend on the points
            return [torch.zeros_like(points)] * c
        return [
            torch.autograd.grad(
                values[:, i].sum(),
                x,
                retain_graph=create_graph or i + 1 < c,
                create_graph=create_graph,
                materialize_grads=True,
            )[0]
            for i in range(c)
        ]


def no_slip(potential: Field, distance: Field, squared: bool = False) -> Field:
    """The potential d²ψ, whose curl is zero where d is: exactly, ∇(d²) = 2 d ∇d being zero there.

    Arguments:
        potential: as `curl` takes it.
        distance: (N, D) points to (N,) d, smooth up to the wall: one that ends in a square root
            has no gradient there, and gives NaN. A coordinate, a product of them, or any function
            with a finite gradient that is zero on the wall and nowhere else will do.
        squared: `distance` gives d² itself, as `walls.squared_distance` does.

    Returns:
        (N, D) points to (N, 3) or (N, 1), for `curl`.

    >>> above = no_slip(lambda x: x[:, :1] + 2, lambda x: x[:, 1])
    >>> curl(above, torch.tensor([[1.0, 0.0], [1.0, 1.0]])).abs()
    tensor([[0., 0.],
            [6., 1.]])
    """

    def held(x: Tensor) -> Tensor:
        d = distance(x)
        check_shape(d, (len(x),), "distance(points)")
        return (d if squared else d.square())[:, None] * potential(x)

    return held
