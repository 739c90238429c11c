"""One panel of a picture: mesh and view become pixels once, then any field in a moment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from meshsim.mesh import Mesh
from meshsim.render.colour import Number, Scale
from meshsim.render.raster import rasterise, thicken
from meshsim.render.scene import Surface, surface
from meshsim.render.view import View

Array = NDArray[Any]

INK = (20.0, 22.0, 28.0)
SAMPLES = 3  # a pixel, each way
# the samples of a pixel, the middle one first
ORDER = np.argsort(np.abs(np.indices((SAMPLES, SAMPLES)) - SAMPLES // 2).sum(0), None, "stable")


@dataclass(frozen=True, eq=False)
class Mark:
    """Sides of triangles to draw as lines.

    Arguments:
        sides: (M, 3) bool.
        colour: (3,) 0..255.
        strength: 0 (invisible) to 1 (opaque).
        width: in pixels.
    """

    sides: Array
    colour: tuple[Number, Number, Number]
    strength: Number
    width: Number


class Panel:
    """The pixels of a mesh seen from a view.

    A pixel takes the value at its middle, and the share of its samples that the mesh covers:
    matrices that do not depend on the field, so that a movie costs one product a frame.

    Arguments:
        mesh: what to draw.
        view: from where.
        width: in pixels.
        height: in pixels.
        edges: draw the edges of the cells.
        cut: see `scene.surface`.
        shown: the surface, where it is known already.
        marks: lines on top of edges and outline.
    """

    def __init__(
        self,
        mesh: Mesh,
        view: View,
        width: int,
        height: int,
        *,
        edges: bool = False,
        cut: str | None = None,
        shown: Surface | None = None,
        marks: Sequence[Mark] = (),
    ):
        self.width, self.height = width, height
        self.surface = surface(mesh, cut=cut) if shown is None else shown
        place = view.pixels(mesh.points.detach().cpu().double().numpy(), width, height)
        place[:, :2] *= SAMPLES
        corners = place[self.surface.corners]  # (M, k, 3)
        nodes, cells = self.surface.corners, self.surface.cells
        lines = corners.shape[1] == 3
        if not lines:
            corners, ends = thicken(corners, half=(0.9 if corners.shape[1] == 2 else 2.0) * SAMPLES)
            nodes = np.tile(nodes, (2, 1))[np.arange(len(ends))[:, None], ends]
            cells = np.tile(cells, 2)
        seen, weights = (
            a.reshape(height, SAMPLES, width, SAMPLES, -1).transpose(0, 2, 1, 3, 4)
            for a in rasterise(corners, width * SAMPLES, height * SAMPLES)
        )
        seen = seen.reshape(-1, SAMPLES**2)[:, ORDER]
        self.covered = np.flatnonzero((seen >= 0).any(1))  # (P,)
        self._seen = seen[self.covered]  # (P, 9) triangle of each sample, or -1
        weights = weights.reshape(-1, SAMPLES**2, 3)[self.covered][:, ORDER]  # (P, 9, 3)
        self._count = (self._seen >= 0).sum(1, keepdims=True)  # (P, 1)
        pixel, middle = np.arange(len(self.covered)), (self._seen >= 0).argmax(1)
        self.triangle = self._seen[pixel, middle]  # (P,)
        self._nodes = nodes[self.triangle]  # (P, 3)
        self._weights = weights[pixel, middle].astype(np.float64)  # (P, 3)
        self._cells, self._of_mesh = cells, (mesh.n_points, mesh.n_cells)
        every = [*self._outline(corners, edges), *marks] if lines else []
        self._blend = self._blending(view, corners, weights, every)

    def _outline(self, corners: Array, edges: bool) -> list[Mark]:
        marks = []
        if edges:
            size = np.linalg.norm((corners - np.roll(corners, -1, 1))[..., :2], axis=-1)
            chosen = size[self.surface.edges] / SAMPLES
            typical = float(np.median(chosen)) if len(chosen) else 0.0
            # where cells are as small as pixels, lines would only make the picture dark
            marks.append(Mark(self.surface.edges, INK, 0.5 * min(1.0, typical / 12), 0.9))
        if self.surface.normals is None:
            # only one half of the line lies on the mesh
            marks.append(Mark(self.surface.outline, INK, 0.85, 2 * max(1.0, self.width / 1200)))
        return marks

    def _mean(self, samples: Array) -> Array:
        """Mean over the covered samples of each pixel: (P, 9) to (P, 1)."""
        return np.where(self._seen >= 0, samples, 0).sum(1, keepdims=True) / self._count

    def _blending(
        self, view: View, corners: Array, weights: Array, marks: Sequence[Mark]
    ) -> tuple[Array, Array]:
        """Light, lines and coverage as one factor (P, 1) and one summand (P, 3) of the colour."""
        factor = np.ones((len(self.covered), 1))
        if self.surface.normals is not None:
            factor = self._light(view, corners)
        offset = np.zeros((len(self.covered), 3))
        sides = (corners - np.roll(corners, -1, 1))[..., :2]  # (M, 3, 2)
        length = np.linalg.norm(sides, axis=-1)
        area = np.abs(sides[:, 0, 0] * sides[:, 1, 1] - sides[:, 0, 1] * sides[:, 1, 0])
        height = area[:, None] / np.where(length > 0, length, np.inf) / SAMPLES  # pixels
        for mark in marks:
            near = np.zeros(self._seen.shape, bool)
            for i in range(3):  # the distance to side i grows with the weight of corner i + 2
                distance = weights[..., (i + 2) % 3] * height[self._seen, i]
                near |= (distance < mark.width / 2) & mark.sides[self._seen, i]
            share = mark.strength * self._mean(near)
            factor, offset = factor * (1 - share), offset * (1 - share) + share * mark.colour
        share = self._count / SAMPLES**2
        white = 255 * (1 - share)
        return (factor * share).astype(np.float32), (offset * share + white).astype(np.float32)

    def _light(self, view: View, corners: Array) -> Array:
        """How bright each pixel is: light from beside the eye, the same for both sides."""
        normals = self.surface.normals
        assert normals is not None
        facing = normals @ view.axes[2]  # (M, 3)
        # all corners of a triangle show the side that most of them do
        side = np.where(facing.sum(1, keepdims=True) < 0, -1.0, 1.0)
        diffuse = (normals @ (np.array([-0.35, 0.45, 0.82]) @ view.axes) * side).clip(0, 1)
        return (0.66 + 0.34 * (diffuse[self.triangle] * self._weights).sum(1))[:, None]

    @cached_property
    def _point_matrix(self) -> Any:
        from scipy.sparse import csr_matrix

        start = 3 * np.arange(len(self.covered) + 1)
        shape = (len(self.covered), self._of_mesh[0])
        return csr_matrix((self._weights.ravel(), self._nodes.ravel(), start), shape)

    @cached_property
    def _cell_matrix(self) -> Any:
        from scipy.sparse import csr_matrix

        inside = self._seen >= 0
        start = np.concatenate([[0], np.cumsum(inside.sum(1))])
        share = (inside / self._count)[inside]
        shape = (len(self.covered), self._of_mesh[1])
        return csr_matrix((share, self._cells[self._seen[inside]], start), shape)

    def image(self, field: Array, location: str, scale: Scale) -> Array:
        """The panel with a field's colours.

        Arguments:
            field: (N,) or (C,) float, one number a point or cell.
            location: "point" or "cell".
            scale: values to colours.

        Returns:
            (height, width, 3) uint8, white where there is no mesh.
        """
        matrix = self._point_matrix if location == "point" else self._cell_matrix
        return self.paint(scale.colour(np.asarray(matrix @ field)))

    def cell_colours(self, colours: Array) -> Array:
        """(C, 3) colours of cells to those of the covered pixels, (P, 3)."""
        return np.asarray(self._cell_matrix @ np.asarray(colours, dtype=np.float64))

    def paint(self, colours: Array) -> Array:
        """The panel with given colours of the covered pixels, (P, 3); lit, with its lines."""
        factor, offset = self._blend
        out = np.full((self.height * self.width, 3), 255, np.uint8)
        # half is added because the conversion cuts the fraction off
        out[self.covered] = colours.astype(np.float32) * factor + (offset + 0.5)
        return out.reshape(self.height, self.width, 3)
