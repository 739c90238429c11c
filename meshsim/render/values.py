"""Which numbers a picture shows: a field, a component of it, and what to call it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from meshsim.check import InputError, check_known
from meshsim.mesh import Mesh
from meshsim.render.colour import Number
from meshsim.sample import Sample
from meshsim.series import Series

Array = NDArray[Any]
Location = Literal["point", "cell"]


@dataclass(frozen=True)
class Quantity:
    """A field or a component of it.

    Arguments:
        name: of the field.
        location: where it lives.
        component: None for a scalar or the magnitude of a vector, else the column.
        label: what a title says.
    """

    name: str
    location: Location
    component: int | None
    label: str

    def vector(self, mesh: Mesh) -> Array:
        """The field's values, (n, k) float64: k = 1 for a scalar or a component."""
        fields = mesh.point_fields if self.location == "point" else mesh.cell_fields
        check_known(self.name, fields, f"{self.location} field")
        values = fields[self.name].detach().cpu().double().numpy()
        columns = values.reshape(len(values), -1)
        return columns if self.component is None else columns[:, [self.component]]

    def values(self, mesh: Mesh) -> Array:
        """One number a point or cell, (n,) float64: the magnitude of a vector."""
        columns = self.vector(mesh)
        return columns[:, 0] if columns.shape[1] == 1 else np.linalg.norm(columns, axis=1)


def quantity(mesh: Mesh, name: str | None, component: int | str | None = None) -> Quantity:
    """Choose what to show.

    Arguments:
        mesh: has the field.
        name: a point or cell field (a point field goes first); None: the first there is.
        component: None for the magnitude of a vector, a column, or "x", "y", "z".

    Raises:
        InputError: no such field or component.
    """
    if name is None:
        names = [*mesh.point_fields, *mesh.cell_fields]
        if not names:
            raise InputError("the mesh has no fields to show")
        name = names[0]
    check_known(name, [*mesh.point_fields, *mesh.cell_fields], "field")
    location: Location = "point" if name in mesh.point_fields else "cell"
    values = mesh.point_fields[name] if location == "point" else mesh.cell_fields[name]
    columns = int(np.prod(values.shape[1:], dtype=int))
    if columns == 0:
        raise InputError(f"field {name!r} has no components")
    if component in (None, "magnitude"):
        label = name if columns == 1 else f"{name} magnitude"
        return Quantity(name, location, None, label)
    letters = "xyz"[:columns] if columns <= 3 else ""
    if isinstance(component, str):
        if component not in letters:
            raise InputError(
                f"`component`: {name!r} has {columns} components, got {component!r}"
                f" (expected {', '.join(letters) or 'a number'})"
            )
        component = letters.index(component)
    if not 0 <= component < columns:  # type: ignore[operator]
        raise InputError(f"`component`: expected 0..{columns - 1} for {name!r}, got {component}")
    if columns == 1:
        return Quantity(name, location, None, name)
    letter = letters[component] if letters else f"component {component}"  # type: ignore[index]
    return Quantity(name, location, component, f"{name} {letter}")  # type: ignore[arg-type]


def branch(obj: Mesh | Series | Sample) -> Mesh | Series:
    """What a sample holds, when it is one thing."""
    return obj.branch if isinstance(obj, Sample) else obj


def frame(obj: Mesh | Series | Sample, time: Number | None = None) -> tuple[Mesh, float | None]:
    """The mesh at a time (the last by default), and that time; None for a plain mesh."""
    obj = branch(obj)
    if isinstance(obj, Mesh):
        if time is not None:
            raise InputError("`time`: the mesh has no times (expected a series)")
        return obj, None
    if time is None:
        last = obj.segments[-1]
        return last.frame(-1), float(last.times[-1])
    return obj.at(time), time


def with_unit(label: str, unit: str) -> str:
    """A label and its unit in brackets.

    >>> with_unit("pressure", "Pa")
    'pressure (Pa)'
    """
    return f"{label} ({unit})" if unit else label
