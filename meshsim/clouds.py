"""What a field model sees of a mesh: places in the body's frame, features, and fields there."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from meshsim.body import body_of, oriented
from meshsim.check import InputError, check_count, check_finite, check_known, nearest
from meshsim.geometry import measure
from meshsim.geometry.distance import Closest
from meshsim.mesh import ArrayLike, Mesh, as_tensor
from meshsim.potential import AXES, Potential, on_surface

# Columns of each feature; 0 stands for D.
WIDTHS = {
    "box_position": 0,
    "box_size": 0,
    "normal": 0,
    "curvature": 1,
    "log_measure": 1,
    "potential_cp": 1,
    "potential_velocity": 0,
    "distance": 1,
    "closest_point": 0,
    "boundary_layer": 1,
}
# Vectors, which a mirror turns round along its axis.
ODD = ("box_position", "normal", "potential_velocity", "closest_point")
ANYWHERE = ("box_position", "box_size", "distance", "closest_point", "boundary_layer")
NEAR = ANYWHERE[2:]
LAYER = 0.04  # of the body's longest side: how thick the feature "boundary_layer" is


class Cloud(NamedTuple):
    """Places of a branch, in the mesh's own order.

    Arguments:
        pos: (N, D) coordinates as in the file.
        features: {name: (N, w)}.
        walls: (N, D, D) corners of the triangle or segment of the body that is nearest to each
            place, if they were asked for.
    """

    pos: Tensor
    features: Mapping[str, Tensor]
    walls: Tensor | None = None


@dataclass(frozen=True)
class Frame:
    """Coordinates of a model: (x − origin) / length.

    Arguments:
        centred: axes along which the origin is the middle of the body's bounding box, so that
            moving a body along them changes nothing; along the others it is `origin`.
        scaled: whether the length is half the body's longest side, so that only shape counts;
            else it is `length`.
        origin: (D,).
        length: a length in the unit of the files.
    """

    centred: Sequence[str] = AXES
    scaled: bool = False
    origin: Sequence[float] = ()
    length: float = 1.0

    def __post_init__(self) -> None:
        for axis in self.centred:
            check_known(axis, AXES, "axis of `centred`:")
        if not self.length > 0:
            raise InputError(f"`length`: expected above 0, got {self.length:g}")

    @classmethod
    def of(cls, bodies: Sequence[Tensor], centred: Sequence[str], scaled: bool) -> Frame:
        """The frame of some training bodies' points: means of their boxes."""
        low = torch.stack([b.amin(0) for b in bodies]).double()
        high = torch.stack([b.amax(0) for b in bodies]).double()
        half = float((high - low).amax(1).mean()) / 2
        origin = ((low + high) / 2).mean(0).tolist()
        return cls(tuple(centred), scaled, tuple(origin), half if half > 0 else 1.0)

    def of_body(self, body: Float[Tensor, "N D"]) -> tuple[Tensor, float]:
        """Origin (D,) and length for a body's points, or the ends of its box."""
        low, high = body.amin(0).double(), body.amax(0).double()
        origin = (low + high) / 2
        for k, value in enumerate(self.origin):
            if AXES[k] not in self.centred:
                origin[k] = value
        half = float((high - low).max()) / 2
        return origin, half if self.scaled and half > 0 else self.length

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "centred": list(self.centred), "scaled": self.scaled, "origin": list(self.origin),
            "length": self.length,
        }  # fmt: skip


@dataclass(frozen=True)
class Wanted:
    """What is predicted on one branch of a sample.

    Arguments:
        fields: {name: components}.
        location: "point" or "cell".
        features: of its places, names of `meshsim.clouds`.
        anchors: how many places stand for the branch in a pass.
        curl: fields that are free of divergence.
        no_slip: whether those are zero on the body.
        scales: {field: {parameter: power}}: the field counts in units of the product of these
            powers of the sample's parameters, ρ U² of a pressure for one.
    """

    fields: Mapping[str, int]
    location: str = "point"
    features: Sequence[str] = ()
    anchors: int = 512
    curl: Sequence[str] = field(default_factory=tuple)
    no_slip: bool = False
    scales: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_known(self.location, ("point", "cell"), "location")
        check_count(self.anchors, "anchors")

    def scale(self, name: str, known: Mapping[str, ArrayLike]) -> float:
        """What the field's values are divided by, for a sample's parameters.

        Raises:
            InputError: a parameter is missing, or is not a positive number.

        >>> Wanted({"p": 1}, scales={"p": {"density": 1.0, "speed": 2.0}}).scale(
        ...     "p", {"density": 1.2, "speed": 10.0}
        ... )
        120.0
        """
        out = 1.0
        for parameter, power in self.scales.get(name, {}).items():
            if parameter not in known:
                raise InputError(f"parameter {parameter!r} is missing: {name!r} scales with it")
            value = as_tensor(known[parameter], torch.float64)
            if value.numel() != 1 or not 0 < float(value) < math.inf:
                raise InputError(
                    f"parameter {parameter!r}: expected a positive number, as {name!r} scales"
                    f" with it, got {value.tolist()}"
                )
            try:
                out *= float(value) ** power
            except OverflowError:
                out = math.inf
        if not 0 < out < math.inf:
            raise InputError(f"{name!r} is scaled by {out:g}: expected another power or unit")
        return out


def cloud(
    mesh: Mesh,
    location: str,
    names: Sequence[str],
    body: Mesh,
    potential: Potential | None = None,
    *,
    unit: float = 1.0,
    walls: bool = False,
) -> Cloud:
    """The places of a mesh's points or cells, with features.

    normal, curvature, log_measure: as in `meshsim.graph.features.point_features`, of surfaces,
    outwards however they are wound; in cells the normal is the cell's own. potential_cp,
    potential_velocity: pressure coefficient and velocity (over the inflow's) of the potential flow
    about the body. The others, which any place has: see `place_features`.

    Arguments:
        mesh: of the branch.
        location: "point" or "cell".
        names: of `WIDTHS`.
        body: the surface.
        potential: the flow of the features that need one.
        unit: the length that distances are counted in.
        walls: whether to look for the nearest piece of the body too.

    Raises:
        InputError: an unknown feature, or one that this mesh cannot have.
    """
    check_known(location, ("point", "cell"), "location")
    for what, given in (("body", body), ("mesh", mesh)):
        check_finite(given.points, f"points of the {what}")
    pos = mesh.points if location == "point" else mesh.cell_centres
    pos = pos[:, : mesh.dim].to(mesh.points.dtype)
    for name in names:
        check_known(name, WIDTHS, "feature")
    anywhere, corners = place_features(pos, names, body, unit=unit, walls=walls)
    found: dict[str, Tensor] = {}
    for name in names:
        if name in anywhere:
            found[name] = anywhere[name]
        elif name.startswith("potential"):
            if potential is None:
                raise InputError(f"feature {name!r}: needs [surrogate.potential], a direction")
            normals = _of_surface(mesh, location, "normal")
            values = on_surface(body, potential, pos, normals).to(pos)
            found[name] = values[:, :1] if name == "potential_cp" else values[:, 1:]
        else:
            found[name] = _of_surface(mesh, location, name).to(pos)
    return Cloud(pos, found, corners)


def place_features(
    pos: Float[Tensor, "N D"],
    names: Sequence[str],
    body: Mesh,
    *,
    unit: float = 1.0,
    walls: bool = False,
) -> tuple[dict[str, Tensor], Tensor | None]:
    """Those of some features that need no mesh, only where a place lies from the body.

    box_position: x within the body's bounding box, −1 to 1 along each axis. box_size: the box's
    sides. distance: d from the body, negative inside. closest_point: the vector from the place to
    the nearest point of the body, of length |d|. boundary_layer: max(0, 1 − |d|/δ)², δ being 4 %
    of the body's longest side, as MARIO sees it (Catalani et al., arXiv:2505.14704).

    Arguments:
        pos: (N, D) places.
        names: features; those not of `ANYWHERE` are passed over.
        body: a surface in space or a closed curve in the plane.
        unit: the length that distances are counted in.
        walls: whether to look for the nearest piece of the body too.

    Returns:
        {name: (N, w)}, and the corners of those pieces, (N, D, D) float64, or None.

    Raises:
        InputError: distances from what is no surface.

    >>> corners = [[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]
    >>> square = Mesh(corners, {"line": [[0, 1], [1, 2], [2, 3], [3, 0]]})
    >>> found, _ = place_features(torch.tensor([[0.5, 3.0]]), ["distance", "closest_point"], square)
    >>> found["distance"].tolist(), found["closest_point"].tolist()
    ([[2.0]], [[0.0, -2.0]])
    """
    low, high = body.box
    size = high - low
    found: dict[str, Tensor] = {}
    near: Closest | None = None
    if walls or any(name in NEAR for name in names):
        near = body_of(body).distance(pos.detach().double().cpu())
    for name in names:
        if name == "box_position":
            middle = (low + high) / 2
            found[name] = 2 * (pos - middle.to(pos)) / size.masked_fill(size == 0, 1.0).to(pos)
        elif name == "box_size":
            found[name] = size.to(pos).expand(len(pos), -1)
        elif name in NEAR:
            assert near is not None
            if name == "closest_point":
                found[name] = ((near.points - pos.double().cpu()) / unit).to(pos)
            elif name == "distance":
                found[name] = (near.distance / unit).to(pos)[:, None]
            else:
                ratio = near.distance.abs() / (LAYER * float(size.max()))
                found[name] = (1 - ratio).clamp_min(0).square().to(pos)[:, None]
    corners = near.pieces.points[near.nodes] if walls and near is not None else None
    return found, corners


def used(mesh: Mesh, location: str) -> Tensor | None:
    """(n,) int64 the places that are of the mesh: points that a cell uses; None if those are all.

    Of a mesh without cells, all points are.
    """
    if location == "cell" or mesh.n_cells == 0:
        return None
    on = torch.zeros(mesh.n_points, dtype=torch.bool, device=mesh.points.device)
    for block in mesh.cells:
        on[block.nodes.reshape(-1)] = True
    return None if bool(on.all()) else on.nonzero().squeeze(1)


def fills(mesh: Mesh, body: Mesh, names: Sequence[str]) -> bool:
    """Whether places like a mesh's can be drawn about another body: it fills the space there."""
    volume = mesh.cell_dim == mesh.dim and body.cell_dim == body.dim - 1
    return volume and all(name in ANYWHERE for name in names)


def _of_surface(mesh: Mesh, location: str, name: str) -> Tensor:
    from meshsim.graph.features import point_features

    if name in ("normal", "curvature"):
        mesh = oriented(mesh)
    if name == "normal" and (mesh.cell_dim, mesh.dim) == (1, 2):
        return _curve_normals(mesh, location)
    if location == "cell" and name == "log_measure":
        return mesh.cell_measures.clamp_min(1e-300).log()[:, None]
    if location == "cell" and name == "normal":
        area = measure.cell_normals(mesh.points, mesh.cells)
        values = area / area.norm(dim=1, keepdim=True).clamp_min(1e-300)
    else:
        values = point_features(mesh, [name])
        values = values if location == "point" else _to_cells(mesh, values)
    return values


def _curve_normals(mesh: Mesh, location: str) -> Tensor:
    """Unit normals of a closed curve in the plane that runs counterclockwise."""
    ends = torch.cat([block.nodes[:, :2] for block in mesh.cells])  # (C, 2)
    a, b = mesh.points[ends].unbind(1)
    along = b - a
    normal = torch.stack([along[:, 1], -along[:, 0]], 1)  # (C, 2), as long as the segment
    if location == "point":
        at_points = torch.zeros_like(mesh.points)
        normal = at_points.index_add(0, ends.T.flatten(), torch.cat([normal, normal]))
    size = normal.norm(dim=1, keepdim=True)
    return normal / size.masked_fill(size == 0, 1.0)


def _to_cells(mesh: Mesh, values: Tensor) -> Tensor:
    """(C, w) means over each cell's points."""
    parts = []
    for block in mesh.cells:
        if block.offsets is None:
            parts.append(values[block.nodes].mean(1))
        else:
            cell = torch.repeat_interleave(block.offsets.diff())
            total = values.new_zeros(len(block), values.shape[1])
            total = total.index_add(0, cell, values[block.nodes])
            parts.append(total / block.offsets.diff().clamp(min=1)[:, None])
    return torch.cat(parts)


def target(mesh: Mesh, location: str, name: str, where: str) -> Float[Tensor, "N c"]:
    """(N, c) values of a field.

    Raises:
        InputError: the field is missing or not finite; both name it.
    """
    held = mesh.point_fields if location == "point" else mesh.cell_fields
    if name not in held:
        raise InputError(f"{where} lacks the {location} field {name!r}: {nearest(name, held)}")
    values = held[name].reshape(len(held[name]), -1)
    check_rows(values, f"{where}: field {name!r}", location)
    return values


def check_rows(values: Tensor, what: str, location: str) -> None:
    """Raise `InputError` if values (N, c) are not finite at some places, and count those."""
    bad = ~torch.isfinite(values).all(1)
    if bool(bad.any()):
        raise InputError(
            f"{what} is not finite (NaN or infinite) at {int(bad.sum()):,} of {len(bad):,}"
            f" {location}s, the first {int(bad.nonzero()[0, 0])}: repair it, or leave it out"
        )


def place_of(mesh: Mesh, name: str, where: str) -> str:
    """ "point" or "cell": where a mesh has a field."""
    places = [p for p in ("point", "cell") if name in getattr(mesh, f"{p}_fields")]
    if len(places) != 1:
        held = [*mesh.point_fields, *mesh.cell_fields]
        raise InputError(
            f"{where}: field {name!r} is {'at points and in cells' if places else 'missing'}"
            + ("" if places else f": {nearest(name, held)}")
        )
    return places[0]
