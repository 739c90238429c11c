"""What a field model sees of a mesh: places in the body's frame, features, and fields there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from meshsim.check import InputError, check_finite, check_known, nearest
from meshsim.geometry import measure
from meshsim.mesh import Mesh
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
}
# Vectors, which a mirror turns round along its axis.
ODD = ("box_position", "normal", "potential_velocity")


class Cloud(NamedTuple):
    """Places of a branch, in the mesh's own order.

    Arguments:
        pos: (N, D) coordinates as in the file.
        features: {name: (N, w)}.
        share: (N,) each place's share of the mesh's measure.
    """

    pos: Tensor
    features: Mapping[str, Tensor]
    share: Tensor


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
        """Origin (D,) and length for a body's points."""
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
    """

    fields: Mapping[str, int]
    location: str = "point"
    features: Sequence[str] = ()
    anchors: int = 512
    curl: Sequence[str] = field(default_factory=tuple)


def cloud(
    mesh: Mesh,
    location: str,
    names: Sequence[str],
    body: Mesh,
    potential: Potential | None = None,
) -> Cloud:
    """The places of a mesh's points or cells, with features.

    box_position: x within the body's bounding box, −1 to 1 along each axis. box_size: the box's
    sides. normal, curvature, log_measure: as in `meshsim.graph.features.point_features`, of
    surfaces, outwards however they are wound; in cells the normal is the cell's own.
    potential_cp, potential_velocity: pressure coefficient and velocity (over the inflow's) of the
    potential flow about the body.

    Arguments:
        mesh: of the branch.
        location: "point" or "cell".
        names: of `WIDTHS`.
        body: the surface.
        potential: the flow of the features that need one.

    Raises:
        InputError: an unknown feature, or one that this mesh cannot have.
    """
    check_known(location, ("point", "cell"), "location")
    pos = mesh.points if location == "point" else mesh.cell_centres
    pos = pos[:, : mesh.dim].to(mesh.points.dtype)
    check_finite(mesh.points, "points")
    low, high = body.points.amin(0), body.points.amax(0)
    size = high - low
    found: dict[str, Tensor] = {}
    for name in names:
        check_known(name, WIDTHS, "feature")
        if name == "box_position":
            middle = (low + high) / 2
            found[name] = 2 * (pos - middle.to(pos)) / size.masked_fill(size == 0, 1.0).to(pos)
        elif name == "box_size":
            found[name] = size.to(pos).expand(len(pos), -1)
        elif name.startswith("potential"):
            if potential is None:
                raise InputError(f"feature {name!r}: needs [surrogate.potential], a direction")
            normals = _of_surface(mesh, location, "normal")
            values = on_surface(body, potential, pos, normals).to(pos)
            found[name] = values[:, :1] if name == "potential_cp" else values[:, 1:]
        else:
            found[name] = _of_surface(mesh, location, name).to(pos)
    return Cloud(pos, found, _share(mesh, location))


def _of_surface(mesh: Mesh, location: str, name: str) -> Tensor:
    from meshsim.graph.features import point_features

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
    return -values if name in ("normal", "curvature") and _inside_out(mesh) else values


def _inside_out(mesh: Mesh) -> bool:
    """Whether a surface in 3-D is wound so that its normals look inwards."""
    if (mesh.cell_dim, mesh.dim) != (2, 3):
        return False
    middle = mesh.cell_centres - mesh.cell_centres.mean(0)
    return float((measure.cell_normals(mesh.points, mesh.cells) * middle).sum()) < 0


def _curve_normals(mesh: Mesh, location: str) -> Tensor:
    """Unit normals of a closed curve in the plane, outwards however it is wound."""
    ends = torch.cat([block.nodes[:, :2] for block in mesh.cells])  # (C, 2)
    a, b = mesh.points[ends].unbind(1)
    along = b - a
    normal = torch.stack([along[:, 1], -along[:, 0]], 1)  # (C, 2), as long as the segment
    if float((normal * (a + b)).sum()) < 0:  # four times the enclosed area
        normal = -normal
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


def _share(mesh: Mesh, location: str) -> Tensor:
    if location == "cell":
        return mesh.cell_measures.double()
    return measure.point_measures(mesh.points, mesh.cells).double()


def target(mesh: Mesh, location: str, name: str, where: str) -> Float[Tensor, "N c"]:
    """(N, c) values of a field.

    Raises:
        InputError: the field is missing or not finite; both name it.
    """
    held = mesh.point_fields if location == "point" else mesh.cell_fields
    if name not in held:
        raise InputError(f"{where} lacks the {location} field {name!r}: {nearest(name, held)}")
    values = held[name].reshape(len(held[name]), -1)
    check_finite(values, f"{where}: {name}")
    return values


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
