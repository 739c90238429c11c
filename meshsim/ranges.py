"""What the training saw of parameters and bodies, and what of a new case lies outside of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from jaxtyping import Float
from torch import Tensor

from meshsim.body import UNITS
from meshsim.check import InputError
from meshsim.mesh import ArrayLike, Mesh, as_tensor
from meshsim.potential import AXES, Potential

Ranges = Mapping[str, tuple[float, float]]
COUNT = "extrapolation"  # the global field of a prediction that says how many lie outside
PLACE = 0.01  # of a body's longest side: so far beside the training's bodies it is in their place
FIT = 1.25  # a body in another unit is told by sides that are within this factor then


def of_bodies(
    boxes: Float[Tensor, "S 2 D"], placed: Iterable[str] = ()
) -> dict[str, tuple[float, float]]:
    """Ranges of some bodies' bounding boxes.

    Arguments:
        boxes: (S, 2, D) lowest and highest coordinates of each.
        placed: axes along which it matters where a body is.

    Returns:
        "box.x", …: (shortest, longest) side along each axis; "low.x", … along those of `placed`:
        of the lowest coordinates.

    >>> body = Mesh([[0.0, 1.0], [2.0, 1.0], [0.0, 4.0]], {"line": [[0, 1], [1, 2], [2, 0]]})
    >>> of_bodies(body.box[None], ["y"])
    {'box.x': (2.0, 2.0), 'box.y': (3.0, 3.0), 'low.y': (1.0, 1.0)}
    """
    low, size = boxes[:, 0].double(), (boxes[:, 1] - boxes[:, 0]).double()
    seen = {f"box.{AXES[k]}": size[:, k] for k in range(boxes.shape[2])}
    seen |= {f"low.{AXES[k]}": low[:, k] for k in range(boxes.shape[2]) if AXES[k] in placed}
    return {name: (float(x.min()), float(x.max())) for name, x in seen.items()}


def placed_by(potential: Potential | None) -> list[str]:
    """Axes along which a potential flow depends on where the body is: that of its ground."""
    return [] if potential is None or not potential.ground else [str(potential.ground[0])]


def outside(ranges: Ranges, parameters: Mapping[str, ArrayLike]) -> list[str]:
    """A sentence for each parameter outside its range.

    >>> outside({"inflow": (1.0, 2.0)}, {"inflow": 3})
    ['parameter inflow = 3 is outside the range seen in training (1 to 2)']
    """
    out = []
    for name, (low, high) in ranges.items():
        if name not in parameters:
            continue
        value = as_tensor(parameters[name]).double()
        slack = 1e-6 * max(abs(low), abs(high))
        if value.numel() and (value.min() < low - slack or value.max() > high + slack):
            got = ", ".join(f"{v:g}" for v in value.reshape(-1).tolist())
            out.append(f"parameter {name} = {got} {_beyond(low, high)}")
    return out


def body_outside(ranges: Ranges, body: Mesh) -> list[str]:
    """A sentence for each side of a body, and each place of it, outside the training's ranges.

    Where all sides fit in another unit of length, it asks.

    >>> body = Mesh([[0.0, 0.0], [500.0, 0.0]], {"line": [[0, 1]]})
    >>> body_outside({"box.x": (0.4, 0.6)}, body)[0].partition("; ")[2]
    'is it in millimetres? scale it by 0.001'
    """
    low, high = body.box.double()
    sides, out = (high - low).tolist(), []
    near = PLACE * max(sides)
    hint = _unit(ranges, sides)
    for k, side in enumerate(sides):
        axis = AXES[k]
        least, most = ranges.get(f"box.{axis}", (side, side))
        if not least * (1 - 1e-6) <= side <= most * (1 + 1e-6):
            out.append(f"the body's side along {axis} = {side:g} {_beyond(least, most)}{hint}")
        at = float(low[k])
        least, most = ranges.get(f"low.{axis}", (at, at))
        if not least - near <= at <= most + near:
            out.append(f"the body begins at {axis} = {at:g}, which {_beyond(least, most)}")
    return out


def values(parameters: Mapping[str, ArrayLike]) -> dict[str, Tensor]:
    """Parameters as tensors.

    Raises:
        InputError: one is no number, and no array of numbers; it is named.
    """
    out = {}
    for name, value in parameters.items():
        try:
            out[name] = as_tensor(value)
        except (InputError, TypeError) as error:
            raise InputError(f"parameter {name!r}: expected numbers, got {value!r}") from error
    return out


def without_count(fields: Mapping[str, Tensor], sentences: int = 0) -> dict[str, ArrayLike]:
    """Global fields of an input as those of its prediction: with this count, or none."""
    kept: dict[str, ArrayLike] = {name: x for name, x in fields.items() if name != COUNT}
    return kept | ({COUNT: float(sentences)} if sentences else {})


def _beyond(low: float, high: float) -> str:
    return f"is outside the range seen in training ({low:g} to {high:g})"


def _unit(ranges: Ranges, sides: list[float]) -> str:
    """Ask whether a body is in a unit in which all its sides would be as those of the training."""
    known = [(s, *ranges[f"box.{a}"]) for a, s in zip(AXES, sides, strict=False)
             if f"box.{a}" in ranges]  # fmt: skip
    for factor, unit in {**UNITS, 1000.0: f"kilometres, or {UNITS[1000.0]}"}.items():
        if all(low / FIT <= s * factor <= high * FIT for s, low, high in known):
            return f"; is it in {unit}? scale it by {factor:g}"
    return ""
