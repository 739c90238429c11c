"""The learned mover: how dense a mesh should be for a monitor, carried there without tangling."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from meshsim.check import InputError
from meshsim.movers.monge_ampere import Moved
from meshsim.movers.simplices import Array, Indices, Simplices
from meshsim.movers.transport import Transport, as_density

SHIPPED = Path(__file__).with_name("density.safetensors")
FEATURES = 11
FAINT = 0.1  # range of log m below which its shape counts less
BULK = {2: 2.5, 3: 1.5}  # tetrahedra lose more by their shape


class Density(nn.Module):
    """What to go for, from a monitor function: how dense cells are and which way they stretch.

    log ρ = γ log m + f and the strain E = α T + β S (see `Elastic`), f, α and β learned, point by
    point: T is which way log m rises there, S how it bends (see `_shapes`).

    Equal distribution, ρ = m, is not what makes errors least: it takes from where the monitor is
    small more than it gives where it is large. What does is learned from where m stands among its
    own values: log m over its mean, largest and least, and over the whole mesh its spread, range,
    the share of the mesh above the mean, and the dimension. Nothing depends on the scale of m, on
    the number of points or on the domain.

    Arguments:
        width: of two hidden layers.
        power: γ to begin with; f begins at zero.

    >>> transport = Transport(Simplices([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], [[0, 1, 2]]))
    >>> rho, strain = Density()(torch.ones(3).double(), transport)
    >>> rho.tolist(), tuple(strain.shape)
    ([1.0, 1.0, 1.0], (3, 3))
    """

    def __init__(self, width: int = 32, power: float = 0.7):
        super().__init__()
        self.power = nn.Parameter(torch.tensor(power))
        last = nn.Linear(width, 3)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.layers = nn.Sequential(
            nn.Linear(FEATURES, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), last
        )

    def forward(
        self, monitor: Float[Tensor, " N"], transport: Transport
    ) -> tuple[Float[Tensor, " N"], Float[Tensor, "N P"]]:
        """ρ > 0 and E at points, in float64, from m > 0 there."""
        shares, dim = transport.shares, transport.grid.dim
        share = shares / shares.sum()
        m = monitor.double()
        mean = (m * share).sum()
        high, low = (m / m.max()).log(), (m / m.min()).log()
        a = (m / mean).log()  # (N,)
        spread = ((m / mean - 1) ** 2 * share).sum().sqrt()
        whole = [spread, (m.max() / mean).log(), (m.min() / mean).log(), ((m > mean) * share).sum()]
        whole.append(m.new_tensor(dim - 2.0))
        rise, bend, shape = _shapes(a, share, transport)
        columns = [a, high, low, *(w.expand(len(m)) for w in whole), *shape]
        dtype = self.power.dtype
        out = self.layers(torch.stack(columns, 1).to(dtype)).double()  # (N, 3)
        # Bounded: a density of more than e⁸ to one is not to be had by moving points.
        out = 4.0 * torch.tanh(out / 4.0)
        log = self.power.double() * a + out[:, 0]
        strain = out[:, 1, None, None] * rise + out[:, 2, None, None] * bend  # (N, D, D)
        i, j = torch.triu_indices(dim, dim)
        return (log - log.max()).clamp(min=-16.0).exp(), strain[:, i, j]


def _shapes(
    a: Float[Tensor, " N"], share: Tensor, transport: Transport
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Which way log m rises and bends, of no scale: (N, D, D) each, without trace, and features.

    ∇a ∇aᵀ over |∇a|² and its mean, ∇∇a over the root of |∇∇a|² and its mean, lengths over that of
    the mesh.
    """
    tiny = 1e-24
    length = transport.shares.sum() ** (1 / transport.grid.dim)
    slope = length * transport.slopes(a[:, None]).squeeze(1)  # (N, D)
    twice = length * transport.slopes(slope)  # (N, D, D)
    twice = (twice + twice.transpose(1, 2)) / 2
    steep, curved = (slope**2).sum(1), (twice**2).sum((1, 2))
    steepness = steep + (steep * share).sum() + tiny
    curvature = (curved + (curved * share).sum() + tiny).sqrt()
    rise = slope[:, :, None] * slope[:, None, :] / steepness[:, None, None]
    bend = twice / curvature[:, None, None]
    along = ((slope[:, None, :] @ bend).squeeze(1) * slope).sum(1) / steepness
    size = bend.diagonal(dim1=1, dim2=2).sum(1)
    # Which way m rises says nothing where it hardly does.
    sure = torch.tanh((a.max() - a.min()) / FAINT)
    features = [sure * f for f in (steep / steepness, size, along)]
    return sure * _deviator(rise), sure * _deviator(bend), features


def _deviator(t: Tensor) -> Tensor:
    dim = t.shape[1]
    mean = t.diagonal(dim1=1, dim2=2).sum(1) / dim
    return t - mean[:, None, None] * torch.eye(dim, dtype=t.dtype)


class LearnedMover:
    """Moves points to a learned density by the deformation method: no corner is ever turned.

    Arguments:
        density: trained, or not: the mesh is sound either way. None loads what the package ships.
        steps: of the flow.
        bulk: of the elastic flux, by dimension, or None for the potential one, see `flux`.
        feature, fixed: see `Sides`.
    """

    def __init__(
        self,
        density: Density | None = None,
        steps: int = 4,
        bulk: float | Mapping[int, float] | None = BULK,
        feature: float = 15.0,
        fixed: bool = False,
    ):
        self.density = load_density() if density is None else density
        self.steps, self.bulk, self.feature, self.fixed = steps, bulk, feature, fixed
        self._prepared: tuple[Simplices, Indices | None, Transport] | None = None

    def prepare(self, grid: Simplices, corners: Indices | None = None) -> Transport:
        """What depends on the mesh at rest alone; kept for the next call with the same one."""
        known = self._prepared
        if known is None or known[0] is not grid or known[1] is not corners:
            bulk = self.bulk[grid.dim] if isinstance(self.bulk, Mapping) else self.bulk
            made = Transport(grid, corners, self.steps, bulk, self.feature, self.fixed)
            self._prepared = known = (grid, corners, made)
        return known[2]

    def move(self, grid: Simplices, monitor: Any, corners: Indices | None = None) -> Moved:
        """Move for one monitor function.

        Arguments:
            grid: the mesh at rest.
            monitor: (N,) positive values at its points, or a function that gives them there.
            corners: (K, D + 1) simplices that must stay positive; those of `grid` if None.

        Raises:
            InputError: the monitor's values are not positive, not finite, or not one a point.
        """
        values = as_density(monitor, grid)
        transport = self.prepare(grid, corners)
        with torch.no_grad():
            carried = transport.carry(*self.density(values, transport))
        points: Array = carried.points.numpy()
        return Moved(points, True, share=carried.share)


def save_density(density: Density, path: Path) -> None:
    """Write the weights, and the width they are of, as one safetensors file."""
    width = str(len(density.state_dict()["layers.0.bias"]))
    save_file({k: v.contiguous() for k, v in density.state_dict().items()}, path, {"width": width})


def load_density(path: Path = SHIPPED) -> Density:
    """Read weights; those that the package ships if no path is given.

    Raises:
        InputError: there is no such file.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file (expected the weights of a learned mover)")
    state = load_file(path)
    density = Density(state["layers.0.weight"].shape[0])
    density.load_state_dict(state)
    return density.eval().requires_grad_(False)
