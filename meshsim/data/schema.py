"""Field schema: which fields there are, what they are for and where they sit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from dataclasses import fields as dataclass_fields
from math import isfinite, prod
from typing import Any

import torch
from torch import Tensor

from meshsim.check import InputError, check_finite, check_known, nearest
from meshsim.data.frames import block_length, read_block
from meshsim.mesh import Mesh
from meshsim.sample import Sample
from meshsim.series import Frames, Series

ROLES = ("state", "target", "parameter")
LOCATIONS = ("point", "cell", "boundary", "global")
_AT = {
    "point": "at the points",
    "cell": "in the cells",
    "boundary": "on the boundaries",
    "global": "among the global values",
}


@dataclass(frozen=True)
class Field:
    """One named field.

    Arguments:
        name: its name in the sample.
        role: "state" advances in time, "target" is predicted at once, "parameter" is given.
        location: "point", "cell", "boundary" or "global".
        components: numbers a place; a tensor's components are counted flat.
        unit: for labels.
        noise: standard deviation of training noise, in the field's own unit.
        scale: reference value for non-dimensional training; None: statistics decide.

    Raises:
        InputError: an unknown role or location, a number out of range.

    >>> Field("velocity", "state", components=2, unit="m/s").location
    'point'
    """

    name: str
    role: str
    location: str = "point"
    components: int = 1
    unit: str = ""
    noise: float = 0.0
    scale: float | None = None

    def __post_init__(self) -> None:
        if not self.name or not isinstance(self.name, str):
            raise InputError(f"a field needs a name, got {self.name!r}")
        check_known(self.role, ROLES, f"role of field {self.name!r}:")
        check_known(self.location, LOCATIONS, f"location of field {self.name!r}:")
        if self.role == "state" and self.location not in ("point", "cell"):
            raise InputError(
                f"field {self.name!r}: a state sits at points or cells, got {self.location!r}"
            )
        whole = isinstance(self.components, int) and not isinstance(self.components, bool)
        if not whole or self.components < 1:
            raise InputError(
                f"field {self.name!r}: `components`: expected 1 or more, got {self.components!r}"
            )
        for key, value, low in (("noise", self.noise, 0.0), ("scale", self.scale, None)):
            if value is None:
                continue
            number = isinstance(value, int | float) and isfinite(value)
            if not number or (value < low if low is not None else value <= 0):
                want = "0 or more" if low is not None else "a number above 0"
                raise InputError(f"field {self.name!r}: `{key}`: expected {want}, got {value!r}")


class Schema:
    """The fields of a data set, in order.

    Raises:
        InputError: two fields of one name.

    >>> schema = Schema([Field("velocity", "state", components=2), Field("inflow", "parameter",
    ...                  "global")])
    >>> [f.name for f in schema.states], schema == Schema.from_dict(schema.to_dict())
    (['velocity'], True)
    """

    def __init__(self, fields: Sequence[Field]):
        self._fields = {field.name: field for field in fields}
        if len(self._fields) != len(fields):
            names = [field.name for field in fields]
            twice = next(name for name in names if names.count(name) > 1)
            raise InputError(f"the schema has two fields called {twice!r}")

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> Schema:
        """A schema of `{name: {"role": …, "components": …, …}}`, as in a configuration file.

        Raises:
            InputError: an unknown key (the nearest is named), a missing role, a bad value.
        """
        known = [f.name for f in dataclass_fields(Field) if f.name != "name"]
        out = []
        for name, entry in table.items():
            if not isinstance(entry, Mapping):
                raise InputError(
                    f"field {name!r}: expected a table with at least `role`, got {entry!r}"
                )
            for key in entry:
                check_known(key, known, f"key of field {name!r}:")
            if "role" not in entry:
                raise InputError(f"field {name!r}: `role` is missing (one of {', '.join(ROLES)})")
            out.append(Field(name, **entry))
        return cls(out)

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """`{name: {"role": …, …}}`, every key written out; JSON and TOML can hold it."""
        return {
            field.name: {k: v for k, v in asdict(field).items() if k != "name"} for field in self
        }

    def _with(self, role: str) -> tuple[Field, ...]:
        return tuple(field for field in self if field.role == role)

    @property
    def states(self) -> tuple[Field, ...]:
        """Fields that advance in time."""
        return self._with("state")

    @property
    def targets(self) -> tuple[Field, ...]:
        """Fields predicted at once."""
        return self._with("target")

    @property
    def parameters(self) -> tuple[Field, ...]:
        """Fields that are given."""
        return self._with("parameter")

    @property
    def names(self) -> tuple[str, ...]:
        """All names, in order."""
        return tuple(self._fields)

    def __getitem__(self, name: str) -> Field:
        check_known(name, self._fields, "field")
        return self._fields[name]

    def __contains__(self, name: object) -> bool:
        return name in self._fields

    def __iter__(self) -> Iterator[Field]:
        return iter(self._fields.values())

    def __len__(self) -> int:
        return len(self._fields)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schema) and self._fields == other._fields

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Schema({list(self)!r})"

    def check(self, sample: Sample, *, values: bool = True) -> None:
        """Raise `InputError`, naming sample and field, unless the sample fits the schema.

        Arguments:
            sample: every field must be in one of its branches (or among its parameters).
            values: read the numbers too: lengths of all frames, NaN and infinity.
        """
        for field in self:
            places = list(find(sample, field))
            if not places:
                raise InputError(f"sample {sample.name!r}: {_missing(sample, field)}")
            for found in places:
                with _Named(sample, field):
                    _check_place(found, field, values)


@dataclass(frozen=True)
class Place:
    """Where a field was found: steady values, or frames; `rows` is their length (None: any)."""

    values: Tensor | None
    frames: Frames | None
    rows: int | None


class _Named:
    """Prefix errors with the sample and the field."""

    def __init__(self, sample: Sample, field: Field):
        self.prefix = f"sample {sample.name!r}: field {field.name!r}: "

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, InputError):
            raise InputError(self.prefix + str(error)) from error


def find(sample: Sample, field: Field, branch: str | None = None) -> Iterator[Place]:
    """Every place of a sample where a field is: a segment of a branch, or the parameters."""
    if field.location == "global" and field.name in sample.parameters:
        yield Place(sample.parameters[field.name].reshape(1, -1), None, 1)
        return
    for name, content in sample.branches.items():
        if branch is not None and name != branch:
            continue
        for part in content.segments if isinstance(content, Series) else (content,):
            yield from find_in(part, field)


def find_in(part: Mesh | Series, field: Field) -> Iterator[Place]:
    """Where a field is in one mesh or in one segment of a series: at most one place."""
    mesh = part.mesh if isinstance(part, Series) else part
    rows = {"point": mesh.n_points, "cell": mesh.n_cells}.get(field.location)
    if isinstance(part, Series):
        moving = {"point": part.point_fields, "cell": part.cell_fields}.get(field.location, {})
        if field.name in moving:
            yield Place(None, moving[field.name], rows)
            return
    if field.location == "boundary":
        held = [b.fields[field.name] for b in mesh.boundaries.values() if field.name in b.fields]
        if held:
            values = torch.cat([v.reshape(len(v), -1) for v in held])
            yield Place(values, None, len(values))
        return
    steady = {
        "point": mesh.point_fields,
        "cell": mesh.cell_fields,
        "global": mesh.global_fields,
    }[field.location]
    if field.name in steady:
        values = steady[field.name]
        yield Place(values.reshape(1, -1) if rows is None else values, None, rows or 1)


def columns(x: Tensor, lead: int) -> Tensor:
    """Fold everything after the first `lead` axes into one: (T, N) → (T, N, 1) for lead 2."""
    return x.reshape(*x.shape[:lead], prod(x.shape[lead:]))


def _check_place(place: Place, field: Field, values: bool) -> None:
    if place.frames is None:
        assert place.values is not None
        _check_rows(place.values, field, place.rows, "")
        if values:
            check_finite(place.values, "values")
        return
    total = len(place.frames)
    shape = getattr(place.frames, "shape", None)
    if shape is not None and not values:  # known without reading
        _check_rows(torch.empty(shape[1:], device="meta"), field, place.rows, "")
        return
    first = read_block(place.frames, 0, 1)
    step = block_length(first[0].numel() * first.element_size())
    for start in range(0, total if values else 1, step):
        block = first if not values else read_block(place.frames, start, min(start + step, total))
        for t, frame in enumerate(block, start):
            _check_rows(frame, field, place.rows, f"frame {t}: ")
            if values:
                check_finite(frame, f"frame {t}")


def _check_rows(x: Tensor, field: Field, rows: int | None, where: str) -> None:
    if rows is not None and (x.dim() == 0 or len(x) != rows):
        raise InputError(f"{where}expected {rows} rows, got shape {tuple(x.shape)}")
    if (got := prod(x.shape[1:])) != field.components:
        raise InputError(f"{where}expected {field.components} components, got {got}")


def _missing(sample: Sample, field: Field) -> str:
    elsewhere = [
        other
        for other in LOCATIONS
        if other != field.location and any(True for _ in find(sample, _at(field, other)))
    ]
    if elsewhere:
        return (
            f"field {field.name!r} is {_AT[elsewhere[0]]} (expected {_AT[field.location]}: "
            f"location {elsewhere[0]!r}?)"
        )
    return (
        f"field {field.name!r} is missing {_AT[field.location]}: "
        f"{nearest(field.name, _names(sample, field.location))}"
    )


def _at(field: Field, location: str) -> Field:
    return Field(field.name, "target", location, field.components)


def _names(sample: Sample, location: str) -> set[str]:
    names: set[str] = set(sample.parameters) if location == "global" else set()
    for content in sample.branches.values():
        parts: Iterable[Mesh | Series] = (
            content.segments if isinstance(content, Series) else (content,)
        )
        for part in parts:
            mesh = part.mesh if isinstance(part, Series) else part
            if location == "boundary":
                names.update(key for b in mesh.boundaries.values() for key in b.fields)
            else:
                names.update(getattr(mesh, f"{location}_fields"))
            if isinstance(part, Series):
                names.update(getattr(part, f"{location}_fields", ()))
    return names
