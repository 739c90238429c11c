"""Linear finite elements that can be differentiated with respect to the points: how far to move.

−Δu + c u = f on a moved mesh and the error of its solution, as functions of the points in torch, so
that a mover can be trained on what it is for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.sparse import csc_matrix
from scipy.sparse.linalg import splu
from torch import Tensor

from meshsim.movers.simplices import Quadrature

Field = Callable[[Tensor], Tensor]


def shape_functions(
    x: Float[Tensor, "N D"], cells: Int[Tensor, "C k"]
) -> tuple[Float[Tensor, " C"], Float[Tensor, "C k D"]]:
    """Signed measures (C,) and gradients of the barycentric coordinates (C, D + 1, D)."""
    dim = x.shape[1]
    edges = x[cells[:, 1:]] - x[cells[:, :1]]  # (C, D, D)
    if dim == 2:
        a, b = edges[:, 0], edges[:, 1]
        det = a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]
        rest = torch.stack(
            [torch.stack([b[:, 1], -b[:, 0]], 1), torch.stack([-a[:, 1], a[:, 0]], 1)], 1
        )
    else:
        a, b, c = edges.unbind(1)
        rest = torch.stack([torch.linalg.cross(b, c), torch.linalg.cross(c, a)], 1)
        rest = torch.cat([rest, torch.linalg.cross(a, b)[:, None]], 1)
        det = (a * rest[:, 0]).sum(1)
    rest = rest / det[:, None, None]
    return det / (2 if dim == 2 else 6), torch.cat([-rest.sum(1, keepdim=True), rest], 1)


class _Solve(torch.autograd.Function):
    """u = A⁻¹ b inside and g on held points, A the sum of the cells' symmetric matrices."""

    @staticmethod
    def forward(
        ctx: Any, local: Tensor, load: Tensor, held: Tensor, given: Tensor, cells: Tensor
    ) -> Tensor:
        n, k = len(load), cells.shape[1]
        rows = cells.repeat_interleave(k, 1).reshape(-1).numpy()
        columns = cells.repeat(1, k).reshape(-1).numpy()
        matrix = csc_matrix((local.detach().numpy().reshape(-1), (rows, columns)), shape=(n, n))
        inside = np.flatnonzero(~held.numpy())
        out = np.where(held.numpy(), given.detach().numpy(), 0.0)
        rest = load.detach().numpy()[inside] - (matrix @ out)[inside]
        factors = splu(
            matrix[inside][:, inside].tocsc(),
            permc_spec="MMD_AT_PLUS_A",
            diag_pivot_thresh=0.0,
            options={"SymmetricMode": True},
        )
        out[inside] = factors.solve(rest)
        found = torch.from_numpy(out)
        ctx.save_for_backward(found, cells)
        ctx.rest = (matrix, inside, factors, held.numpy())
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        found, cells = ctx.saved_tensors
        matrix, inside, factors, held = ctx.rest
        grad = grads[0].numpy()
        back = np.zeros(len(grad))
        back[inside] = factors.solve(np.ascontiguousarray(grad[inside]))
        adjoint = torch.from_numpy(back)
        local = -adjoint[cells][:, :, None] * found[cells][:, None, :]
        given = np.where(held, grad - matrix @ back, 0.0)
        return local, adjoint, None, torch.from_numpy(given), None


def solution(
    x: Float[Tensor, "N D"],
    cells: Int[Tensor, "C k"],
    held: Bool[Tensor, " N"],
    source: Field,
    boundary: Field,
    reaction: float,
    rule: Quadrature,
) -> Float[Tensor, " N"]:
    """u with −Δu + c u = f inside and u = g at held points; differentiable in x.

    Arguments:
        cells: (C, D + 1), of positive measure at x.
        source, boundary: f, g at points (…, D), give (…).
        reaction: c ≥ 0.
        rule: quadrature of f.
    """
    size, slope = shape_functions(x, cells)
    k = cells.shape[1]
    mass = (torch.eye(k, dtype=x.dtype) + 1) / (k * (k + 1))
    local = size[:, None, None] * (slope @ slope.transpose(1, 2) + reaction * mass)
    at, weights = torch.from_numpy(rule.at), torch.from_numpy(rule.weights)
    values = source(at @ x[cells]) * weights * size[:, None]  # (C, q)
    load = torch.zeros(len(x), dtype=x.dtype).index_add(
        0, cells.reshape(-1), (values @ at).reshape(-1)
    )
    found: Tensor = _Solve.apply(local, load, held, boundary(x), cells)
    return found


def error(
    x: Float[Tensor, "N D"],
    cells: Int[Tensor, "C k"],
    values: Float[Tensor, " N"],
    exact: Field,
    rule: Quadrature,
) -> Float[Tensor, ""]:
    """√∫ (u − exact)² of point values; differentiable in x and the values."""
    size, _ = shape_functions(x, cells)
    at, weights = torch.from_numpy(rule.at), torch.from_numpy(rule.weights)
    gap = values[cells] @ at.T - exact(at @ x[cells])
    return ((gap**2 @ weights) * size).sum().sqrt()
