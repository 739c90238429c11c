"""Solvers of G Σ Gᵀ x = y, the matrix that says how laws share what they act on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_array, csr_array, diags_array
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import splu
from torch import Tensor

from meshsim.check import WorkError

_PIVOT = 1e-6  # of rows scaled to one: those that repeat others have less
_FACTORED = 20_000  # most cells whose Laplacian is factored; in 3-D factors fill up
_ACCURACY = 1e-8  # of a solution by iteration; a second one, of what is left, squares it
_STEPS = 20_000

Solver = Callable[[Tensor], Tensor]
Array = Any  # of NumPy


def gram_solver(law: Tensor, spread: Tensor, noise: float) -> Solver:
    """x ↦ (σ² I + G Σ Gᵀ)⁻¹ x on columns; the least solution where rows depend on one another.

    Arguments:
        law: (m, n) float64 G, dense or COO.
        spread: (n,) float64 diagonal of Σ.
        noise: σ.
    """
    if law.is_sparse:
        g = _csr(law)
        gram = torch.from_numpy(((g * spread.detach().cpu().numpy()) @ g.T).toarray())
        gram = gram.to(law.device)
    else:
        gram = (law * spread) @ law.T
    gram = gram + noise**2 * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    size = gram.diagonal().detach()
    scale = torch.where(size > 0, size.clamp(min=1e-300).rsqrt(), 0.0)[:, None]  # (m, 1)
    unit = scale * gram * scale.T
    factor, failed = torch.linalg.cholesky_ex(unit)
    if len(unit) and (bool(failed) or not bool((factor.diagonal() > _PIVOT).all())):
        inverse = torch.linalg.pinv(unit, rtol=1e-12, hermitian=True)
        return lambda x: scale * (inverse @ (scale * x))
    return lambda x: scale * torch.cholesky_solve(scale * x, factor)


def laplacian_solver(law: Tensor, weights: Tensor) -> Solver:
    """x ↦ (A W Aᵀ)⁺ x on columns, but for a constant on each part that is cut off from outside.

    Arguments:
        law: (C, F) float64 COO, +1 where a face leaves a cell and −1 where it enters one.
        weights: (F,) float64, 0 where faces are held.
    """
    if len(law) == 0:
        return lambda x: x
    a, w = _csr(law), weights.cpu().numpy()
    laplacian = ((a * w) @ a.T).tocsr()
    laplacian.eliminate_zeros()
    count, part = connected_components(laplacian, directed=False)
    outside = np.asarray(a.sum(0)).reshape(-1) != 0
    ways_out = np.bincount(part, a @ (w * outside), minlength=count)
    cut_off = ways_out == 0
    invert = _factored(laplacian, part, cut_off) if len(law) <= _FACTORED else _iterated(laplacian)
    of = torch.from_numpy(part).long().to(law.device)
    share = torch.from_numpy(cut_off / np.bincount(part, minlength=count)).to(law.device)[:, None]

    def solve(x: Tensor) -> Tensor:
        total = x.new_zeros(count, x.shape[1]).index_add(0, of, x)
        out: Tensor = _Solve.apply(x - (share * total)[of], invert)
        return out

    return solve


def _factored(laplacian: csr_array, part: Array, cut_off: Array) -> Callable[[Array], Array]:
    # A cell tied down changes nothing where the loads of its part add up to zero.
    first = np.unique(part, return_index=True)[1]
    tie, own, tied = np.zeros(len(part)), laplacian.diagonal(), first[cut_off]
    tie[tied] = np.where(own[tied] > 0, own[tied], 1.0)
    factors = splu(
        (laplacian + diags_array(tie)).tocsc(),
        permc_spec="MMD_AT_PLUS_A",
        diag_pivot_thresh=0.0,
        options={"SymmetricMode": True},
    )
    solve: Callable[[Array], Array] = factors.solve
    return solve


def _iterated(laplacian: csr_array) -> Callable[[Array], Array]:
    """By conjugate gradients with the diagonal as preconditioner."""
    own = laplacian.diagonal()
    scale = 1 / np.where(own > 0, own, 1.0)

    def column(load: Array) -> Array:
        x, rest = np.zeros_like(load), load.copy()
        ahead = scale * rest
        way, size = ahead, rest @ ahead
        goal = _ACCURACY * np.linalg.norm(load)
        for _ in range(_STEPS):
            if np.linalg.norm(rest) <= goal:
                return x
            push = laplacian @ way
            step = size / (way @ push)
            x, rest = x + step * way, rest - step * push
            ahead = scale * rest
            before, size = size, rest @ ahead
            way = ahead + size / before * way
        raise WorkError(f"conjugate gradients: not done in {_STEPS} steps (weights vary too much)")

    return lambda loads: np.stack([column(load) for load in loads.T], 1)


class _Solve(torch.autograd.Function):
    """K⁻¹ x on columns, for a symmetric K."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, invert: Callable[[Array], Array]) -> Tensor:
        ctx.invert = invert
        return torch.from_numpy(invert(x.detach().cpu().contiguous().numpy())).to(x.device)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return _Solve.apply(grads[0], ctx.invert), None


def _csr(law: Tensor) -> csr_array:
    index, values = law.indices().cpu().numpy(), law.values().detach().cpu().numpy()
    return coo_array((values, (index[0], index[1])), shape=tuple(law.shape)).tocsr()
