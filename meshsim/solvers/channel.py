"""Meshes of a channel with a cylinder across it, by gmsh: second order, curved on the cylinder.

The geometry of the DFG benchmark "flow around a cylinder" (Schäfer and Turek 1996) is the default.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from meshsim.check import InputError, MissingExtra


@dataclass(frozen=True)
class Channel:
    """A channel `[0, length] × [0, height]` with a cylinder, lengths in metres.

    The boundaries of its meshes are called inflow (left), outflow (right), wall and cylinder.

    Arguments:
        length: extent in x.
        height: extent in y.
        centre: centre of the cylinder.
        radius: radius of the cylinder.

    Raises:
        InputError: the cylinder does not lie inside the channel.
    """

    length: float = 2.2
    height: float = 0.41
    centre: tuple[float, float] = (0.2, 0.2)
    radius: float = 0.05

    def __post_init__(self) -> None:
        cx, cy = self.centre
        room = min(cx, self.length - cx, cy, self.height - cy)
        if not 0 < self.radius < room:
            raise InputError(
                f"radius: expected between 0 and {room:g}, the distance from the centre "
                f"{self.centre} to the nearest side of the channel, got {self.radius:g}"
            )

    def inflow(self, maximum: float) -> Inflow:
        """The parabolic velocity profile with this `maximum` (m/s) on the axis of the channel."""
        return Inflow(self.height, maximum)

    def mesh(self, *, cylinder: float, wake: float, far: float) -> Any:
        """A second-order triangle mesh, fine at the cylinder, growing into the wake and beyond it.

        The points of the cylinder at its front and back, `centre ± (radius, 0)`, are vertices: the
        benchmark takes its pressure difference there.

        Arguments:
            cylinder: edge length on the cylinder (m).
            wake: edge length in the wake, up to the end of the channel (m).
            far: edge length elsewhere (m).

        Returns:
            A `skfem.MeshTri2` with the four boundaries named.

        Raises:
            InputError: an edge length is not positive.
            MissingExtra: gmsh or scikit-fem is not installed.
        """
        for name, size in (("cylinder", cylinder), ("wake", wake), ("far", far)):
            if not size > 0:
                raise InputError(f"{name}: expected an edge length above 0, got {size}")
        points, cells = self._triangulate(cylinder, wake, far)
        try:
            from skfem import MeshTri2
        except ImportError as error:
            raise MissingExtra("scikit-fem", "solve") from error
        cx, cy = self.centre
        tiny = 1e-9 * self.length
        # scikit-fem calls these with the midpoints of the chords of the boundary edges
        return MeshTri2(points.T, cells.T).with_boundaries(
            {
                "inflow": lambda x: x[0] < tiny,
                "outflow": lambda x: x[0] > self.length - tiny,
                "wall": lambda x: (x[1] < tiny) | (x[1] > self.height - tiny),
                "cylinder": lambda x: np.hypot(x[0] - cx, x[1] - cy) < self.radius * (1 + 1e-9),
            }
        )

    def _triangulate(
        self, cylinder: float, wake: float, far: float
    ) -> tuple[Float[np.ndarray, "N 2"], Int[np.ndarray, "C 6"]]:
        try:
            import gmsh
        except (ImportError, OSError) as error:  # OSError: gmsh loads libGLU when imported
            raise MissingExtra("gmsh", "solve") from error
        cx, cy, r = *self.centre, self.radius
        # interruptible=False leaves Python's signal handlers alone
        gmsh.initialize(argv=["meshsim"], readConfigFiles=False, interruptible=False)
        try:
            gmsh.option.setNumber("General.Terminal", 0)
            gmsh.option.setNumber("General.NumThreads", 1)
            for option in ("FromPoints", "FromCurvature", "ExtendFromBoundary"):
                gmsh.option.setNumber(f"Mesh.MeshSize{option}", 0)
            geo = gmsh.model.geo
            corners = [(0, 0), (self.length, 0), (self.length, self.height), (0, self.height)]
            box = [geo.addPoint(x, y, 0) for x, y in corners]
            sides = [geo.addLine(box[i], box[(i + 1) % 4]) for i in range(4)]
            middle = geo.addPoint(cx, cy, 0)
            rim = [(cx + r, cy), (cx, cy + r), (cx - r, cy), (cx, cy - r)]
            ring = [geo.addPoint(x, y, 0) for x, y in rim]
            arcs = [geo.addCircleArc(ring[i], middle, ring[(i + 1) % 4]) for i in range(4)]
            geo.addPlaneSurface([geo.addCurveLoop(sides), geo.addCurveLoop(arcs)], 1)
            geo.synchronize()

            def size(dim: int, tag: int, x: float, y: float, z: float, given: float) -> float:
                distance = max(np.hypot(x - cx, y - cy) - r, 0.0)
                near = cylinder + 0.12 * distance
                # the wake: a strip behind the cylinder, four diameters wide, slowly growing
                beside = max(abs(y - cy) - 2.4 * r, 0.0) + max(cx - r - x, 0.0)
                return float(min(near, wake + 0.3 * beside, far))

            gmsh.model.mesh.setSizeCallback(size)
            gmsh.option.setNumber("Mesh.Algorithm", 6)  # frontal Delaunay: the most even triangles
            gmsh.model.mesh.generate(2)
            gmsh.model.mesh.setOrder(2)
            tags, xyz, _ = gmsh.model.mesh.getNodes()
            _, nodes = gmsh.model.mesh.getElementsByType(9)  # 9: triangle of six nodes
        finally:
            gmsh.finalize()
        used, cells = np.unique(nodes.astype(np.int64), return_inverse=True)
        order = np.argsort(tags)
        rows = order[np.searchsorted(tags[order], used)]
        return xyz.reshape(-1, 3)[rows, :2], cells.reshape(-1, 6)


@dataclass(frozen=True)
class Inflow:
    """The parabola `u = 4 U y (H − y) / H²`, `v = 0` over a channel of height H.

    Arguments:
        height: H (m).
        maximum: U, the velocity on the axis (m/s); the mean over the height is ⅔ U.

    >>> Inflow(height=0.41, maximum=1.5)(np.array([[0.0, 0.205], [0.0, 0.41]]))
    array([[1.5, 0. ],
           [0. , 0. ]])
    """

    height: float
    maximum: float

    @property
    def mean(self) -> float:
        """The mean velocity over the height, ⅔ U (m/s)."""
        return 2.0 / 3.0 * self.maximum

    def __call__(
        self, points: Float[np.ndarray, "n 2"], time: float = 0.0
    ) -> Float[np.ndarray, "n 2"]:
        """The velocity `(n, 2)` at points `(n, 2)`; the same at every time."""
        y = points[:, 1]
        u = 4.0 * self.maximum * y * (self.height - y) / self.height**2
        return np.stack([u, np.zeros_like(u)], axis=1)


def no_slip(points: Float[np.ndarray, "n 2"], time: float = 0.0) -> Float[np.ndarray, "n 2"]:
    """The velocity `(n, 2)` zero, at points `(n, 2)`: what a wall at rest asks."""
    return np.zeros_like(points)
