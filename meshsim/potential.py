"""The potential flow about a body as features: what an inviscid fluid would do there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from meshsim.body import FLAT, oriented
from meshsim.check import InputError, check_count, check_known
from meshsim.geometry.cells import Cells, take
from meshsim.geometry.measure import triangles
from meshsim.geometry.quality import degenerate
from meshsim.mesh import Mesh
from meshsim.ops.neighbors import knn
from meshsim.physics.source_panels import Flow, solve

AXES = ("x", "y", "z")
NEAR = 4  # panels that a place takes its values from
# (nodes of the cells, {which: flow}) by the points of the body, dropped with them.
_flows = WeakTensorKeyDictionary()


@dataclass(frozen=True)
class Potential:
    """Which potential flow: see `meshsim.physics.source_panels`.

    Arguments:
        direction: (3,) of the flow far away.
        ground: (axis, height) of a plane that the flow does not cross; none if empty.
        panels: at most how many; a finer surface is thinned out first, so that the features do
            not depend on how finely a body is meshed.
    """

    direction: Sequence[float]
    ground: Sequence[Any] = field(default_factory=tuple)
    panels: int = 3000

    def __post_init__(self) -> None:
        given = self.direction
        if not isinstance(given, Sequence) or isinstance(given, str) or len(given) != 3:
            raise InputError(f"potential.direction: expected three numbers, got {given}")
        if not all(map(_finite, given)) or not any(given):
            raise InputError(f"potential.direction: expected finite numbers, not all 0: {given}")
        if self.ground:
            pair = isinstance(self.ground, Sequence) and not isinstance(self.ground, str)
            if not pair or len(self.ground) != 2 or not _finite(self.ground[1]):
                raise InputError(
                    f"potential.ground: expected an axis and a height, got {self.ground}"
                )
            check_known(self.ground[0], AXES, "axis of potential.ground:")
        check_count(self.panels, "potential.panels", 10)


def _finite(x: object) -> bool:
    return isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x)


def on_surface(
    body: Mesh, which: Potential, places: Float[Tensor, "N 3"], normals: Float[Tensor, "N 3"]
) -> Float[Tensor, "N 4"]:
    """Pressure coefficient and velocity over U at places on the body.

    Values of the nearest panels that look the same way, weighted by 1/distance².

    Arguments:
        body: a surface; wound inside out it is turned.
        which: the flow.
        places: (N, 3) on the surface.
        normals: (N, 3) there, outwards.

    Returns:
        (N, 4): cp, then the tangential velocity.
    """
    flow = flow_about(body, which)
    centre, normal = flow.panels.centre, flow.panels.axes[:, 2]
    index, far = knn(centre, places.double(), min(NEAR, len(centre)))
    facing = (normal[index] * normals.double()[:, None]).sum(2).clamp_min(1e-3)
    typical = float(flow.panels.area.mean())
    weight = facing.square() / (far.square() + 1e-3 * typical)  # (N, K)
    weight = weight / weight.sum(1, keepdim=True)
    speed = float(flow.inflow.norm())
    u = (flow.surface_velocity[index] / speed * weight[..., None]).sum(1)  # (N, 3)
    cp = (flow.cp[index] * weight).sum(1, keepdim=True).clamp(-4.0, 1.0)
    return torch.cat([cp, u], 1).to(places.dtype)


def at_points(body: Mesh, which: Potential) -> Float[Tensor, "N 4"]:
    """(N, 4) `on_surface` at a surface's own points."""
    from meshsim.graph.features import point_features

    flow_about(body, which)  # says what is wrong with a body
    return on_surface(body, which, body.points, point_features(oriented(body), ["normal"]))


def flow_about(body: Mesh, which: Potential) -> Flow:
    """The flow, its panels wound outwards; kept with the body's points."""
    nodes = [block.nodes for block in body.cells]
    held = _flows.get(body.points)
    if held is None or [id(n) for n in held[0]] != [id(n) for n in nodes]:
        held = _flows[body.points] = (nodes, {})
    kept, key = held[1], repr(which)
    if key not in kept:
        if body.dim != 3 or body.cell_dim != 2:
            raise InputError("potential flow: needs a surface, 2-D cells in 3-D")
        points, cells = thinned(oriented(body), which.panels)
        ground = None
        if which.ground:
            ground = (AXES.index(which.ground[0]), float(which.ground[1]))
            points = _beside(points, body, *ground)
        inflow = torch.tensor([float(v) for v in which.direction], dtype=torch.float64)
        kept[key] = solve(points.double(), cells, inflow, ground)
    return kept[key]


def _beside(points: Tensor, body: Mesh, axis: int, height: float) -> Tensor:
    """Points of a thinned surface kept on the body's side of the ground."""
    low, high = body.box[:, axis].tolist()
    slack = 1e-6 * (high - low)
    name = AXES[axis]
    if low < height - slack and high > height + slack:
        up, down = height - low, high - height
        by, side = (up, low) if up <= down else (-down, high)
        raise InputError(
            f"potential.ground: the body reaches from {name} = {low:.6g} to {high:.6g}, across the"
            f" ground at {height:.6g}: expected it on one side (move it by {by:.6g} along {name},"
            f" or train with the ground at {side:.6g})"
        )
    held = points[:, axis].clamp(min=height) if high > height else points[:, axis].clamp(max=height)
    return torch.cat([points[:, :axis], held[:, None], points[:, axis + 1 :]], 1)


def thinned(body: Mesh, most: int) -> tuple[Tensor, Sequence[Cells]]:
    """Points and cells of a surface wound outwards.

    The surface's own where those are no more than `most`; else about `most` triangles, by quadric
    decimation. Faces without area are left out.
    """
    body = _with_area(body)
    points, nodes = body.points, triangles(body.cells)[0]
    corners = points[nodes].double()  # (T, 3, 3)
    a, b, c = (corners - corners.mean((0, 1))).unbind(1)
    outwards = float((a * torch.linalg.cross(b, c)).sum()) >= 0  # six times the volume
    if outwards and body.n_cells <= most:
        return points, body.cells
    if len(nodes) > most:
        import pyvista

        faces = torch.nn.functional.pad(nodes, (1, 0), value=3).cpu().numpy()
        surface = pyvista.PolyData(points.cpu().double().numpy(), faces.ravel())
        small = surface.clean(polys_to_lines=False)  # a face that points near make flat goes
        if small.n_cells > most:
            small = small.decimate(1 - most / small.n_cells)
        points = torch.from_numpy(small.points).double()
        nodes = torch.from_numpy(small.faces.reshape(-1, 4)[:, 1:].astype("int64"))
    return points, [Cells("triangle", nodes if outwards else nodes.flip(1))]


def _with_area(body: Mesh) -> Mesh:
    """The surface without faces that have no area."""
    flat = degenerate(body.points, body.cells, FLAT)
    if len(flat) == body.n_cells:
        raise InputError("potential flow: the body has no area")
    if not len(flat):
        return body
    firm = torch.ones(body.n_cells, dtype=torch.bool, device=flat.device)
    firm[flat] = False
    parts = firm.split([len(block) for block in body.cells])
    pairs = zip(body.cells, parts, strict=True)
    return Mesh(body.points, [take(block, rows.nonzero().squeeze(1)) for block, rows in pairs])
