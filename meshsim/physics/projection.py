"""Conservation put back into predictions, with the smallest change that does it.

μ* = μ − Σ Gᵀ (σ² I + G Σ Gᵀ)⁻¹ (G μ − b): a linear law G μ = b, known up to noise σ, updates a
prediction μ of variance Σ (Hansen, Maddix, Alizadeh, Gupta and Mahoney, "Learning physical models
that can respect conservation laws", ICML 2023). σ = 0 makes it exact; with Σ = I as well, μ* is
the closest point that obeys the law. All is linear in μ and b, and computed in float64.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from meshsim.check import InputError, check_finite, check_index, check_shape
from meshsim.physics.gram import Solver, gram_solver, laplacian_solver


def project(
    mean: Float[Tensor, "n *c"],
    rows: Float[Tensor, "m k"],
    total: Float[Tensor, "m2 *d"],
    variance: Float[Tensor, " n2"] | None = None,
    noise: float = 0.0,
) -> Float[Tensor, "n *c"]:
    """The prediction that obeys G μ* = b, as near to the given one as its variance says.

    Arguments:
        mean: (n, …) μ; further dimensions are fields that obey the law one by one.
        rows: (m, n) G, dense or sparse: the weights of a quadrature, for instance. m² numbers are
            held; for one law a cell there is `project_cells`.
        total: (m, …) b.
        variance: (n,) the diagonal of Σ, not negative; None is 1. What has none is left alone.
        noise: σ, of the law.

    Returns:
        (n, …) in the dtype of `mean`. Differentiable; by the variance where `rows` are dense.

    Raises:
        InputError: shapes that do not fit; values that are not finite; a negative variance; laws
            that contradict one another, or bind only what has no variance.

    >>> project(torch.tensor([1.0, 2.0, 3.0]), torch.ones(1, 3), torch.tensor([9.0]))
    tensor([2., 3., 4.])
    """
    law, spread = _law(rows, len(mean), variance, noise)
    check_shape(total, (rows.shape[0], *mean.shape[1:]), "total")
    check_finite(mean, "mean")
    check_finite(total, "total")
    out = _update(mean, law, total, spread, gram_solver(law, spread, noise), noise == 0, "law")
    return out.reshape(mean.shape).to(mean.dtype)


def _update(
    mean: Tensor, law: Tensor, total: Tensor, spread: Tensor, solve: Solver, exact: bool, of: str
) -> Tensor:
    """(n, c) μ − Σ Gᵀ K⁻¹ (G μ − b); `InputError` if the law is `exact` and not met."""
    fields = mean.shape[1:].numel()
    mu, b = mean.double().reshape(len(mean), fields), total.double().reshape(len(total), fields)
    out = mu - spread[:, None] * (law.t() @ solve(law @ mu - b))
    if not exact:
        return out
    out = out - spread[:, None] * (law.t() @ solve(law @ out - b))  # against rounding
    with torch.no_grad():
        got, size = law @ out, law.abs() @ (mu.abs() + out.abs()) + b.abs()
        tolerance = 1e-9 if mean.dtype == total.dtype == torch.float64 else 1e-5
        missed = ((got - b).abs() > tolerance * size).any(1)
    if missed.any():
        k = int(missed.nonzero()[0])
        raise InputError(
            f"{of} {k} cannot be met: expected {b[k].tolist()}, got {got[k].tolist()}"
            " (it contradicts others, or binds only what may not change)"
        )
    return out


def projected_variance(
    rows: Float[Tensor, "m k"], variance: Float[Tensor, " n"], noise: float = 0.0
) -> Float[Tensor, " n"]:
    """What variance is left once the law is known: diag(Σ − Σ Gᵀ (σ² I + G Σ Gᵀ)⁻¹ G Σ).

    Arguments:
        rows: (m, n) G, dense or sparse.
        variance: (n,) the diagonal of Σ, not negative.
        noise: σ, of the law.

    Returns:
        (n,), nowhere more than before.

    >>> projected_variance(torch.ones(1, 4), torch.ones(4))
    tensor([0.7500, 0.7500, 0.7500, 0.7500])
    """
    law, spread = _law(rows, len(variance), variance, noise)
    dense = law.to_dense() if law.is_sparse else law
    known = (dense * gram_solver(law, spread, noise)(dense)).sum(0)
    left = spread - spread.square() * known
    return torch.minimum(left.clamp(min=0), spread).to(variance.dtype)


def _law(rows: Tensor, n: int, variance: Tensor | None, noise: float) -> tuple[Tensor, Tensor]:
    """G, dense or COO, and the diagonal of Σ, both checked and float64."""
    check_shape(rows, (None, n), "rows")
    law = (
        rows.double() if rows.layout == torch.strided else rows.to_sparse_coo().double().coalesce()
    )
    check_finite(law.values() if law.is_sparse else law, "rows")
    if not 0 <= noise < float("inf"):
        raise InputError(f"`noise`: expected a number not below 0, got {noise}")
    if variance is None:
        return law, torch.ones(n, dtype=torch.float64, device=rows.device)
    check_shape(variance, (n,), "variance")
    _check_weights(variance, "variance", law.is_sparse)
    return law, variance.double()


def _check_weights(weights: Tensor, name: str, fixed: bool) -> None:
    check_finite(weights, name)
    if bool((weights < 0).any()):
        raise InputError(f"`{name}`: expected none below 0, got {float(weights.min()):.6g}")
    if fixed and weights.requires_grad:
        raise InputError(f"`{name}`: expected no gradient here, got a tensor that requires it")


def project_flux(
    velocity: Float[Tensor, "F D"],
    area: Float[Tensor, "F2 D2"],
    total: Float[Tensor, ""] | float,
    weights: Float[Tensor, " F3"] | None = None,
) -> Float[Tensor, "F D"]:
    """The velocity on the faces of a surface that carries a given flux, Σ u·S = Q, changed least.

    uᶠ* = uᶠ + wᶠ Sᶠ (Q − Σ u·S) / Σ w |S|², least Σ |u* − u|² / w. Weights 1/|S| make it the least
    change per area, and add one and the same normal velocity everywhere.

    Arguments:
        velocity: (F, D) float.
        area: (F, D) area vectors.
        total: Q; 0 for a closed surface in an incompressible flow.
        weights: (F,) how readily a face changes, not negative; None is 1, and 0 holds it.

    Returns:
        (F, D) in the dtype of `velocity`. Differentiable.

    Raises:
        InputError: shapes that do not fit; values that are not finite; negative weights; a flux
            that is off with nothing free to change.

    >>> area = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])
    >>> project_flux(torch.tensor([[1.0, 5.0], [2.0, 6.0]]), area, 0.0)
    tensor([[1.5000, 5.0000],
            [1.5000, 6.0000]])
    """
    check_shape(area, tuple(velocity.shape), "area")
    row, n = area.double().reshape(1, -1), velocity.shape[1]
    if weights is not None:
        check_shape(weights, (len(velocity),), "weights")
        _check_weights(weights, "weights", False)
        weights = weights.double().repeat_interleave(n)
    b = torch.as_tensor(total, dtype=torch.float64, device=velocity.device).reshape(1)
    flat = velocity.double().reshape(-1)
    return project(flat, row, b, weights).reshape(velocity.shape).to(velocity.dtype)


def project_cells(
    flux: Float[Tensor, "F *c"],
    owner: Int[Tensor, " F2"],
    neighbour: Int[Tensor, " F3"],
    target: Float[Tensor, "C *d"],
    weights: Float[Tensor, " F4"] | None = None,
) -> Float[Tensor, "F *c"]:
    """Fluxes whose sum out of each cell is what it should be, changed least.

    φ* = φ + W Aᵀ λ with A W Aᵀ λ = b − A φ, A φ the sums out of the cells, A W Aᵀ the Laplacian of
    a graph: factored, or, of more than 20,000 cells, solved by conjugate gradients. It makes
    Σ (φ* − φ)² / w least. Without sources a time step has b = −V ∂q/∂t.

    Arguments:
        flux: (F, …) out of the owner; further dimensions are fields that obey the law one by one.
        owner: (F,) cell of each face.
        neighbour: (F,) cell on the other side, −1 outside.
        target: (C, …) b; 0 for an incompressible flow.
        weights: (F,) how readily a face changes, not negative; None is 1, and 0 holds it.

    Returns:
        (F, …) in the dtype of `flux`. Differentiable by flux and target.

    Raises:
        InputError: shapes or indices that do not fit; values that are not finite; negative
            weights; cells that nothing free joins to the outside, with a target that their held
            faces do not carry.
        WorkError: the conjugate gradients do not converge.

    >>> owner, neighbour = torch.tensor([0, 0, 1]), torch.tensor([-1, 1, -1])
    >>> project_cells(torch.tensor([-2.0, 0.0, 4.0]), owner, neighbour, torch.zeros(2))
    tensor([-2.,  2.,  2.])
    """
    n, count = len(target), len(flux)
    check_shape(target, (None, *flux.shape[1:]), "target")
    for index, name in ((owner, "owner"), (neighbour, "neighbour")):
        check_shape(index, (count,), name)
    check_index(owner, n, "owner", "cells")
    check_index(neighbour.clamp(min=0), n, "neighbour", "cells")
    check_finite(flux, "flux")
    check_finite(target, "target")
    w = torch.ones(count, dtype=torch.float64, device=flux.device) if weights is None else weights
    check_shape(w, (count,), "weights")
    _check_weights(w, "weights", True)
    inner = (neighbour >= 0).nonzero()[:, 0]
    face = torch.cat([torch.arange(count, device=owner.device), inner])
    index = torch.stack([torch.cat([owner, neighbour[inner]]), face])
    sign = torch.ones(len(face), dtype=torch.float64, device=flux.device)
    sign[count:] = -1
    law = torch.sparse_coo_tensor(index, sign, (n, count), check_invariants=False).coalesce()  # A
    out = _update(flux, law, target, w.double(), laplacian_solver(law, w.double()), True, "cell")
    return out.reshape(flux.shape).to(flux.dtype)
