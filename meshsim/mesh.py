"""Mesh: points, typed cells, fields, named boundaries and regions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from meshsim.check import InputError, check_index, check_known, check_length, check_shape
from meshsim.geometry import measure, topology
from meshsim.geometry.cells import TYPES, Cells
from meshsim.geometry.topology import Faces

ArrayLike = Any  # a tensor, a NumPy array or nested lists

_ARGUMENTS = (
    *("points", "cells", "point_fields", "cell_fields", "boundaries", "regions", "global_fields"),
    *("file_order", "z", "flattened", "notes", "source"),
)


def as_tensor(x: ArrayLike, dtype: torch.dtype | None = None) -> Tensor:
    """A tensor of anything array-like; byte order and strides that torch lacks are converted."""
    if isinstance(x, Tensor):
        return x if dtype is None else x.to(dtype)
    try:
        a = np.asarray(x)
    except ValueError:
        raise InputError("cannot use a ragged list as an array (rows differ in length)") from None
    if a.dtype == bool or a.dtype.kind in "iuf":
        a = a.astype(a.dtype.newbyteorder("="), copy=False)
        if a.dtype == np.float16 or a.dtype == np.longdouble:
            a = a.astype(np.float64 if a.dtype == np.longdouble else np.float32)
        if a.dtype.kind == "u" and a.dtype.itemsize > 1:
            a = a.astype(np.int64)
        if not a.flags.writeable or any(s < 0 for s in a.strides):
            a = a.copy()
        t = torch.from_numpy(np.ascontiguousarray(a).reshape(a.shape))
        return t if dtype is None else t.to(dtype)
    raise InputError(f"cannot use an array of dtype {a.dtype} (expected real numbers)")


def as_index(x: ArrayLike, name: str) -> Tensor:
    """An int64 tensor of anything array-like that holds whole numbers."""
    index = as_tensor(x)
    if index.numel() and (index.is_floating_point() or index.dtype == torch.bool):
        raise InputError(f"`{name}`: expected whole numbers (indices), got {index.dtype}")
    return index.long()


@dataclass(frozen=True, eq=False)
class Boundary:
    """A named part of the boundary.

    Arguments:
        faces: (Fb,) int64, indices into `mesh.faces`, in file order.
        fields: {name: (Fb, …)}, one row for each of `faces`.
        kind: what the file says it is (an OpenFOAM patch type, for instance), or "".
    """

    faces: Tensor
    fields: Mapping[str, Tensor] = field(default_factory=dict)
    kind: str = ""


@dataclass(frozen=True)
class MeshSource:
    """Where a mesh was read from.

    Arguments:
        path: the file, as it was given.
        format: what it was taken for.
        reader: the library that opened it ("meshsim" for our own readers).
    """

    path: str
    format: str
    reader: str


class Mesh:
    """A mesh of any cell types with fields on points, cells and boundaries.

    Tensors are not edited in place: operations return a new Mesh.

    Arguments:
        points: (N, D) float, D = 2 or 3.
        cells: typed blocks of one topological dimension, or {type: (C, k) int}.
        point_fields: {name: (N, …)}.
        cell_fields: {name: (C, …)}, rows in block order.
        boundaries: {name: Boundary or (Fb,) face indices}; see also `with_boundary_cells`.
        regions: {name: (n,) cell indices}.
        global_fields: {name: anything numeric}, values that belong to the whole mesh.
        file_order: (C,) int64, `file_order[c]` is the place of cell c in the file it came
            from; None when block order is file order.
        z: the plane's third coordinate, for a planar mesh read from a file that had three.
        flattened: names of vector fields that lost a zero third component when read.
        notes: what the reader found odd, one sentence each.
        source: the file, format and reader that it came from; None for meshes made otherwise.

    Raises:
        InputError: indices outside the points, lengths that do not fit, no points or cells.

    >>> mesh = Mesh([[0., 0.], [1., 0.], [0., 1.]], {"triangle": [[0, 1, 2]]})
    >>> mesh
    Mesh(3 points, 2-D, 1 triangle)
    >>> mesh.with_fields(point={"p": [1., 2., 3.]}).point_fields["p"].shape
    torch.Size([3])
    """

    point_fields: Mapping[str, Tensor]
    cell_fields: Mapping[str, Tensor]
    boundaries: Mapping[str, Boundary]
    regions: Mapping[str, Tensor]
    global_fields: Mapping[str, Tensor]
    file_order: Tensor | None
    z: float | None
    flattened: frozenset[str]
    notes: tuple[str, ...]
    source: MeshSource | None

    def __init__(
        self,
        points: ArrayLike,
        cells: Sequence[Cells] | Mapping[str, ArrayLike],
        point_fields: Mapping[str, ArrayLike] | None = None,
        cell_fields: Mapping[str, ArrayLike] | None = None,
        boundaries: Mapping[str, Boundary | ArrayLike] | None = None,
        regions: Mapping[str, ArrayLike] | None = None,
        global_fields: Mapping[str, ArrayLike] | None = None,
        file_order: Tensor | None = None,
        z: float | None = None,
        flattened: frozenset[str] = frozenset(),
        notes: tuple[str, ...] = (),
        source: MeshSource | None = None,
    ):
        self.points = as_tensor(points)
        if not self.points.is_floating_point():
            self.points = self.points.double()
        if self.points.dim() != 2 or self.points.shape[1] not in (2, 3):
            raise InputError(
                f"`points`: expected shape (N, 2) or (N, 3), got {tuple(self.points.shape)}"
            )
        if isinstance(cells, Mapping):
            cells = [
                Cells(name, as_index(nodes, f"cells[{name}]")) for name, nodes in cells.items()
            ]
        self.cells: tuple[Cells, ...] = tuple(block for block in cells if len(block))
        if len(self.points) == 0 or not self.cells:
            raise InputError(f"the mesh is empty ({len(self.points)} points, {self.n_cells} cells)")
        dims = {block.dim for block in self.cells}
        if len(dims) > 1:
            raise InputError(f"`cells`: expected blocks of one dimension, got dimensions {dims}")
        if self.cell_dim > self.dim:
            raise InputError(f"`cells`: {self.cell_dim}-D cells on {self.dim}-D points")
        for block in self.cells:
            block.check(self.n_points)
        self._derived: dict[str, Any] = {}
        self._bounded = False
        self._set(
            point_fields=point_fields or {},
            cell_fields=cell_fields or {},
            boundaries=boundaries or {},
            regions=regions or {},
            global_fields=global_fields or {},
            file_order=file_order,
            z=z,
            flattened=flattened,
            notes=notes,
            source=source,
        )

    def _set(self, **values: Any) -> None:
        """Check and keep attributes other than points and cells."""
        for key, value in values.items():
            match key:
                case "point_fields":
                    value = _fields(value, self.n_points, "points", key)
                case "cell_fields":
                    value = _fields(value, self.n_cells, "cells", key)
                case "global_fields":
                    value = {name: as_tensor(v) for name, v in value.items()}
                case "boundaries":
                    value = {name: _boundary(name, b) for name, b in value.items()}
                    self._bounded = False
                case "regions":
                    value = {name: as_index(r, f"regions[{name}]") for name, r in value.items()}
                    for name, region in value.items():
                        check_index(region, self.n_cells, f"regions[{name}]", "cells")
                case "file_order" if value is not None:
                    check_length(value, self.n_cells, key, "cells")
                    check_index(value, self.n_cells, key, "cells")
            self.__dict__.update(freeze({key: value}))

    @property
    def n_points(self) -> int:
        """N."""
        return len(self.points)

    @property
    def n_cells(self) -> int:
        """C, over all blocks."""
        return sum(len(block) for block in self.cells)

    @property
    def dim(self) -> int:
        """D, the dimension of space."""
        return int(self.points.shape[1])

    @property
    def cell_dim(self) -> int:
        """Topological dimension of the cells; less than `dim` on a surface."""
        return self.cells[0].dim

    def _once(self, name: str, derive: Callable[[], Any]) -> Any:
        """What follows from points and cells, computed once for all meshes that share them."""
        if name not in self._derived:
            self._derived[name] = derive()
        return self._derived[name]

    @property
    def faces(self) -> Faces:
        """Faces of all cells with owner, neighbour, area vector and centre; internal ones first.

        Raises:
            InputError: a boundary names a face that is not there.
        """
        faces = self._once("faces", lambda: topology.faces(self.points, self.cells))
        if not self._bounded:
            for name, boundary in self.boundaries.items():
                check_index(boundary.faces, len(faces), f"boundaries[{name}]", "faces")
            self._bounded = True
        return faces

    @property
    def edges(self) -> Tensor:
        """(n, 2) int64: each edge of the cells once, lower point first, sorted."""
        return self._once("edges", lambda: topology.edges(self.cells, self.n_points))

    @property
    def cell_measures(self) -> Tensor:
        """(C,) length, area or volume of each cell."""
        return self._sizes[0]

    @property
    def _sizes(self) -> tuple[Tensor, Tensor]:
        """Measures and centres of the cells."""
        return self._once("sizes", lambda: measure.measures_and_centres(self.points, self.cells))

    @property
    def box(self) -> Tensor:
        """(2, D) lowest and highest coordinates of the points of cells; without cells, of all.

        >>> Mesh([[0.0, 0.0], [2.0, 0.0], [0.0, 1.0], [9.0, 9.0]], {"triangle": [[0, 1, 2]]}).box
        tensor([[0., 0.],
                [2., 1.]], dtype=torch.float64)
        """
        return self._once("box", self._box)

    def _box(self) -> Tensor:
        nodes = [block.nodes.reshape(-1) for block in self.cells if len(block)]
        x = self.points[torch.cat(nodes)] if nodes else self.points
        return torch.stack([x.amin(0), x.amax(0)])

    @property
    def cell_centres(self) -> Tensor:
        """(C, D) centroid of each cell."""
        return self._sizes[1]

    def replace(self, **changes: Any) -> Mesh:
        """A new Mesh with some constructor arguments changed.

        Boundaries refer to faces: give new ones when `cells` change. What has been derived
        (faces, edges, measures) is carried over where it still holds.
        """
        points = as_tensor(changes.get("points", self.points))
        if (
            "cells" in changes
            or points.shape != self.points.shape
            or set(changes) - set(_ARGUMENTS)
        ):
            return Mesh(**{name: getattr(self, name) for name in _ARGUMENTS} | changes)
        new = object.__new__(Mesh)
        new.__dict__.update(self.__dict__)
        if changes.pop("points", None) is not None:
            new.points = points if points.is_floating_point() else points.double()
            new._derived = {k: v for k, v in self._derived.items() if k == "edges"}
        new._set(**changes)
        return new

    def with_fields(
        self,
        point: Mapping[str, ArrayLike] | None = None,
        cell: Mapping[str, ArrayLike] | None = None,
    ) -> Mesh:
        """A new Mesh with fields added or replaced, each {name: (N or C, …)}."""
        return self.replace(
            point_fields={**self.point_fields, **(point or {})},
            cell_fields={**self.cell_fields, **(cell or {})},
        )

    def with_boundary_cells(
        self,
        blocks: Mapping[str, Sequence[Cells]],
        fields: Mapping[str, Mapping[str, ArrayLike]] | None = None,
        kinds: Mapping[str, str] | None = None,
    ) -> Mesh:
        """Name boundaries by their own cells, matched to faces by their corner points.

        Arguments:
            blocks: {name: cells of one dimension less}.
            fields: {boundary: {field: (n,…)}}, a row for each of its cells.
            kinds: {boundary: kind}.

        Returns:
            A new Mesh. Cells that are no face of the mesh are left out, with a note.

        Raises:
            InputError: an index outside the points; fields of another length.
        """
        boundaries: dict[str, Boundary] = dict(self.boundaries)
        notes = list(self.notes)
        sizes = [sum(len(block) for block in parts) for parts in blocks.values()]
        every = [block for parts in blocks.values() for block in parts]
        for block in every:
            block.check(self.n_points)
        found_all = topology.match_faces(self.faces, every, self.n_points)
        for name, found in zip(blocks, found_all.split(sizes), strict=True):
            keep = found >= 0
            if not keep.all():
                notes.append(
                    f"boundary {name!r}: {int((~keep).sum())} of {len(keep)} cells are no face"
                    " of the mesh and were left out"
                )
            if keep.any():
                rows = {}
                for key, value in ((fields or {}).get(name) or {}).items():
                    row = as_tensor(value)
                    check_length(row, len(keep), f"{name}.{key}", "boundary's cells")
                    rows[key] = row[keep]
                boundaries[name] = Boundary(found[keep], rows, (kinds or {}).get(name, ""))
        return self.replace(boundaries=boundaries, notes=tuple(notes))

    def boundary_points(self, name: str) -> Tensor:
        """(n,) int64, sorted: the points on a named boundary (corners and midside nodes)."""
        check_known(name, self.boundaries, "boundary")
        return topology.face_points(self.faces, self.boundaries[name].faces)

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Mesh:
        """A new Mesh on a device; `dtype` changes floating-point points and fields only."""

        def move(t: Tensor) -> Tensor:
            return t.to(device, dtype if t.is_floating_point() else None)

        return self.replace(
            points=move(self.points),
            cells=[block.map(move) for block in self.cells],
            point_fields={k: move(v) for k, v in self.point_fields.items()},
            cell_fields={k: move(v) for k, v in self.cell_fields.items()},
            boundaries={
                k: replace(b, faces=move(b.faces), fields={n: move(v) for n, v in b.fields.items()})
                for k, b in self.boundaries.items()
            },
            regions={k: move(v) for k, v in self.regions.items()},
            global_fields={k: move(v) for k, v in self.global_fields.items()},
            file_order=None if self.file_order is None else move(self.file_order),
        )

    def __getstate__(self) -> dict[str, Any]:
        return thaw(self.__dict__ | {"_derived": {}})

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(freeze(state))

    def __repr__(self) -> str:
        counts: dict[str, int] = {}
        for block in self.cells:
            counts[block.type] = counts.get(block.type, 0) + len(block)
        cells = ", ".join(f"{n} {name}" for name, n in counts.items())
        more = "".join(
            f", {what}: {' '.join(names)}"
            for what, names in (
                ("point", self.point_fields),
                ("cell", self.cell_fields),
                ("boundaries", self.boundaries),
            )
            if names
        )
        return f"Mesh({self.n_points} points, {self.dim}-D, {cells}{more})"


def freeze(values: Mapping[str, Any]) -> dict[str, Any]:
    """Public dictionaries made read-only."""
    return {
        k: MappingProxyType(v) if isinstance(v, dict) and k[0] != "_" else v
        for k, v in values.items()
    }


def thaw(values: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `freeze`: read-only dictionaries can be neither copied nor pickled."""
    return {k: dict(v) if isinstance(v, MappingProxyType) else v for k, v in values.items()}


def _boundary(name: str, value: Boundary | ArrayLike) -> Boundary:
    what = f"boundaries[{name}]"
    whole = value if isinstance(value, Boundary) else None
    faces = as_index(whole.faces if whole else value, what)
    check_shape(faces, (None,), what)
    rows = _fields(whole.fields if whole else {}, len(faces), "boundary's faces", what)
    return Boundary(faces, rows, whole.kind if whole else "")


def _fields(fields: Mapping[str, ArrayLike], n: int, of: str, where: str) -> dict[str, Tensor]:
    out = {name: as_tensor(values) for name, values in fields.items()}
    for name, values in out.items():
        check_length(values, n, f"{where}[{name}]", of)
    return out


__all__ = ["TYPES", "Boundary", "Cells", "Faces", "Mesh", "as_index", "as_tensor"]
