"""Values prescribed on boundaries, met exactly: by how a field is built, not by a loss.

u = g + d N with d a distance to the boundary and N free, a network for instance, is g where d = 0
(Lagaris, Likas and Fotiadis, IEEE Trans. Neural Networks 9, 1998). Distances of several parts are
joined by R-functions, their values by transfinite interpolation (Sukumar and Srivastava, "Exact
imposition of boundary conditions with distance functions in physics-informed deep neural
networks", Comput. Methods Appl. Mech. Eng. 389, 2022).

Distances here are functions of points (N, D), zero on their part and positive elsewhere where it
matters, with a gradient that is not zero on it; they need not measure the true distance far away.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from meshsim.check import InputError, check_finite, check_shape

Field = Callable[[Tensor], Tensor]


def fixed_value(field: Field, distance: Field, value: Field) -> Field:
    """u(x) = g(x) + d(x) N(x): exactly g on the boundary, free elsewhere.

    Arguments:
        field: N, points (N, D) to (N, c).
        distance: d, to (N,); see `plane`, `facets` and `joined`.
        value: g, to (N, c), what is prescribed, extended into the domain; see `blended`.

    Returns:
        Points to (N, c). Where d is 0 it is g to the bit, if N is finite there.

    >>> u = fixed_value(torch.exp, lambda x: x[:, 0], lambda x: 0 * x + 3.0)
    >>> u(torch.tensor([[0.0], [1.0]]))
    tensor([[3.0000],
            [5.7183]])
    """

    def held(x: Tensor) -> Tensor:
        g, d, free = value(x), distance(x), field(x)
        check_shape(d, (len(x),), "distance(points)")
        check_shape(free, tuple(g.shape), "field(points)")
        return g + d[:, None] * free

    return held


def blended(values: Sequence[Field], distances: Sequence[Field], power: int = 1) -> Field:
    """g = Σ wᵢ gᵢ with wᵢ = dᵢ^−μ / Σⱼ dⱼ^−μ: each part's value on that part, smooth in between.

    Interpolation by inverse distances to whole parts of a boundary (transfinite interpolation,
    Sukumar and Srivastava 2022), to be given to `fixed_value` as its value, with the distance of
    the parts `joined`.

    Arguments:
        values: gᵢ, points (N, D) to (N, c).
        distances: dᵢ, points to (N,), not negative, one for each value.
        power: μ; with 2 the value leaves its part without a slope of the others'.

    Returns:
        Points to (N, c). Where one dᵢ is 0 it is gᵢ to the bit; where several are, the mean of
        those, which is to the bit the value that they agree on.

    Raises:
        InputError: not as many values as distances, or none.

    >>> one, two = (lambda x: 0 * x[:, :1] + 1), (lambda x: 0 * x[:, :1] + 2)
    >>> g = blended([one, two], [lambda x: x[:, 0], lambda x: 1 - x[:, 0]])
    >>> g(torch.tensor([[0.0], [0.25], [1.0]])).T
    tensor([[1.0000, 1.2500, 2.0000]])
    """
    if len(values) != len(distances) or not values:
        raise InputError(
            f"`values`: expected one for each distance, got {len(values)} and {len(distances)}"
        )

    def mean(x: Tensor) -> Tensor:
        g = torch.stack([value(x) for value in values], 1)  # (N, P, c)
        near, ratio = _ratios(_columns(distances, x))
        ratio = ratio**power
        weight = (ratio / ratio.sum(1, keepdim=True))[:, :, None]
        own = g.gather(1, near[:, :, None].expand(-1, 1, g.shape[2]))  # (N, 1, c)
        # Differences, so that values that agree come out as they are.
        return (own + (weight * (g - own)).sum(1, keepdim=True)).squeeze(1)

    return mean


def joined(distances: Sequence[Field], order: int = 1) -> Field:
    """One distance to several parts, d = (Σ dᵢ^−m)^(−1/m): R-equivalence.

    Zero where one of them is; there its gradient is that part's own, and its derivatives up to the
    order m, if dᵢ's are those of a distance, stay so. (Sukumar and Srivastava 2022, after Biswas
    and Shapiro, "Approximate distance fields with non-vanishing gradients", 2004.)

    Arguments:
        distances: dᵢ, points (N, D) to (N,) or, of many parts at once, to (N, S); not negative.
        order: m ≥ 1.

    Returns:
        Points to (N,), below the least of the dᵢ.

    >>> d = joined([lambda x: x[:, 0], lambda x: 1 - x[:, 0]])
    >>> d(torch.tensor([[0.0], [0.5], [1.0]]))
    tensor([0.0000, 0.2500, 0.0000])
    """
    if not distances or order < 1:
        raise InputError(f"expected distances and an order ≥ 1, got {len(distances)} and {order}")

    def all_of(x: Tensor) -> Tensor:
        d = _columns(distances, x)
        near, ratio = _ratios(d)
        return d.gather(1, near).squeeze(1) / (ratio**order).sum(1) ** (1 / order)

    return all_of


def _columns(distances: Sequence[Field], x: Tensor) -> Tensor:
    """(N, S) distances."""
    columns = [distance(x) for distance in distances]
    return torch.cat([d[:, None] if d.dim() == 1 else d for d in columns], 1)


def _ratios(d: Tensor) -> tuple[Tensor, Tensor]:
    """Which is the least (N, 1), and it over each, in [0, 1]; 1 for those that are zero with it."""
    near = d.argmin(1, keepdim=True)
    zero = d == 0
    return near, torch.where(zero, 1.0, d.gather(1, near) / torch.where(zero, 1.0, d))


def plane(point: Sequence[float], normal: Sequence[float]) -> Field:
    """n·(x − a): the distance from a plane, or in 2-D a line, on the side that the normal shows.

    Arguments:
        point: (D,) a, on the plane.
        normal: (D,) of any length, into the domain.

    >>> plane((0.0, 1.0), (0.0, -2.0))(torch.tensor([[5.0, 0.0]]))
    tensor([1.])
    """
    a, n = torch.tensor(point, dtype=torch.float64), torch.tensor(normal, dtype=torch.float64)
    check_shape(n, tuple(a.shape), "normal")
    if not 0 < float(n.norm()) < float("inf"):
        raise InputError(f"`normal`: expected a direction, got {list(normal)}")
    n = n / n.norm()
    return lambda x: (x - a.to(x)) @ n.to(x)


def facets(corners: Float[Tensor, "S K D"]) -> Field:
    """Distances to segments or triangles, smooth but at their ends, for `joined`.

    φ = √(f² + ((√(t² + (f²/l)²) − t) / 2)²), with f the distance to the facet's line or plane and
    t ≥ 0 where it is meant (Sukumar and Srivastava 2022; their f⁴ is over the facet's size l
    squared here, so that units of length do not matter). For segments t is theirs,
    (l²/4 − |x − c|²) / l, for triangles the distances to the edges joined by the R-conjunction
    a + b − √(a² + b²). φ is zero on the facet only, and to first order the distance there.

    Arguments:
        corners: (S, 2, 2) segments in the plane, or (S, 3, 3) triangles. On the facet itself the
            gradient is that of its left, or of the side that its right-hand normal shows.

    Returns:
        Points (N, D) to (N, S); zero on a facet to the rounding of the points.

    Raises:
        InputError: corners of another shape, or not finite; a facet of no size.

    >>> d = facets(torch.tensor([[[0.0, 0.0], [2.0, 0.0]]]))
    >>> d(torch.tensor([[1.0, 0.0], [1.0, 0.5], [3.0, 0.0]])).T
    tensor([[0.0000, 0.5001, 1.5000]])
    """
    k = corners.shape[2]
    check_shape(corners, (None, k, k) if k in (2, 3) else (None, 3, 3), "corners")
    check_finite(corners, "corners")
    c = corners.double()
    ways = c.roll(-1, 1) - c  # (S, k, D)
    if k == 2:
        normal = torch.stack([-ways[:, 0, 1], ways[:, 0, 0]], 1)
    else:
        normal = torch.linalg.cross(ways[:, 0], ways[:, 1])
    if not bool((normal.norm(dim=1) > 0).all()):
        raise InputError(f"`corners`: facet {int(normal.norm(dim=1).argmin())} has no size")
    normal = torch.nn.functional.normalize(normal, dim=1, eps=0.0)
    size = ways.norm(dim=2).amax(1)
    inward = torch.linalg.cross(normal[:, None], ways) if k == 3 else ways
    inward = torch.nn.functional.normalize(inward, dim=2, eps=0.0)

    def distances(x: Tensor) -> Tensor:
        r = x[:, None, None] - c.to(x)  # (N, S, k, D)
        f = (r[:, :, 0] * normal.to(x)).sum(2)
        f = torch.where(f < 0, -f, f)
        length = size.to(x)
        if k == 2:
            t = length / 4 - r.mean(2).square().sum(2) / length
        else:
            a, b, e = (r * inward.to(x)).sum(3).unbind(2)
            a = a + b - _root(a.square() + b.square())
            t = a + e - _root(a.square() + e.square())
        s = _root(t.square() + (f.square() / length).square())
        meant = t > 0
        # √(f² + q²) has no gradient at 0, f √(1 + (q/f)²) has; q/f is written without difference.
        slant = f**3 / length.square() / (2 * torch.where(meant, s + t, 1.0))
        return torch.where(
            meant, f * (1 + slant.square()).sqrt(), _root(f.square() + ((s - t) / 2).square())
        )

    return distances


def _root(x: Tensor) -> Tensor:
    """√x, with the gradient 0 at 0."""
    zero = x <= 0
    return torch.where(zero, 0.0, torch.where(zero, 1.0, x).sqrt())
