"""The one place where messages about bad input are phrased."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from math import isfinite
from numbers import Integral, Real
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


class MeshsimError(Exception):
    """Base of every error that meshsim raises on purpose; its text is one line."""

    exit_code = 1


class InputError(MeshsimError, ValueError):
    """What came in is wrong: a file, an argument, a configuration. Exit code 2."""

    exit_code = 2


class WorkError(MeshsimError, RuntimeError):
    """The input was fine but the work failed. Exit code 1."""


class MissingExtra(MeshsimError, ImportError):
    """A package of an optional extra is not installed.

    >>> str(MissingExtra("skfem", "solve"))
    "skfem is not installed: pip install 'meshsim[solve]'"
    """

    def __init__(self, package: str, extra: str):
        super().__init__(f"{package} is not installed: pip install 'meshsim[{extra}]'")
        self.package, self.extra = package, extra

    def __reduce__(self) -> tuple[type[MissingExtra], tuple[str, str]]:
        return type(self), (self.package, self.extra)  # worker processes send it to their parent


def one_line(text: object, limit: int = 300) -> str:
    """Fold any text into one line of at most `limit` characters."""
    line = " ".join(str(text).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def nearest(name: str, known: Iterable[str]) -> str:
    """Say which known names there are, the closest first.

    >>> nearest("presure", ["pressure", "velocity"])
    "did you mean 'pressure'? (known: pressure, velocity)"
    """
    names = sorted(known)
    listing = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
    close = get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}(known: {listing})" if names else "(there are none)"


def check_known(name: str, known: Iterable[str], what: str) -> None:
    """Raise `InputError` unless `name` is one of `known`; the message names the nearest."""
    names = list(known)
    if name not in names:
        raise InputError(f"unknown {what} {name!r}: {nearest(name, names)}")


def check_count(n: object, name: str, least: int = 1) -> None:
    """Raise `InputError` unless `n` is a whole number of at least `least`.

    >>> check_count(3, "points")
    """
    if not isinstance(n, int) or isinstance(n, bool) or n < least:
        raise InputError(f"`{name}`: expected a whole number of {least} or more, got {n!r}")


def whole_number(n: object, name: str, least: int = 1) -> int:
    """`n` as an int, NumPy's integers too; `InputError` unless it is at least `least`.

    >>> whole_number(3, "points")
    3
    """
    n = int(n) if isinstance(n, Integral) and not isinstance(n, bool) else n
    check_count(n, name, least)
    return int(n)  # type: ignore[call-overload, no-any-return]


def finite_number(x: object, name: str) -> float:
    """`x` as a float; `InputError` unless it is a number, finite and in the range of floats.

    >>> finite_number(3, "dt")
    3.0
    """
    try:
        if isinstance(x, Real) and not isinstance(x, bool) and isfinite(x):
            return float(x)
    except OverflowError:
        raise InputError(f"`{name}`: expected a finite number, got one beyond 1e308") from None
    raise InputError(f"`{name}`: expected a finite number, got {one_line(repr(x), 60)}")


def check_shape(x: Tensor, shape: tuple[int | None, ...], name: str) -> None:
    """Raise `InputError` unless `x` has the shape; None stands for any length.

    >>> import torch
    >>> check_shape(torch.zeros(3, 2), (None, 2), "points")
    """
    fits = x.dim() == len(shape) and all(
        want is None or have == want for have, want in zip(x.shape, shape, strict=True)
    )
    if not fits:
        want = "(" + ", ".join("*" if s is None else str(s) for s in shape) + ")"
        raise InputError(f"`{name}`: expected shape {want}, got {tuple(x.shape)}")


def check_index(index: Tensor, n: int, name: str, of: str = "points") -> None:
    """Raise `InputError` if any entry of `index` lies outside 0..n-1; the first is named.

    Arguments:
        index: any shape, int64.
        n: how many things there are to point at.
        name: what to call the index in the message.
        of: what is pointed at.
    """
    if index.numel() == 0:
        return
    low, high = index.aminmax()
    if low >= 0 and high < n:
        return
    flat = index.reshape(index.shape[0], -1)
    row = int(((flat < 0) | (flat >= n)).any(1).nonzero()[0])
    bad = flat[row][(flat[row] < 0) | (flat[row] >= n)][0]
    raise InputError(f"`{name}`: index {int(bad)} at row {row} is outside 0..{n - 1} ({n} {of})")


def check_finite(x: Tensor, name: str) -> None:
    """Raise `InputError` if `x` holds NaN or infinity; the count and the first row are named."""
    if not x.is_floating_point() or x.numel() == 0:
        return
    bad = ~x.isfinite()
    if bad.any():
        row = int(bad.reshape(bad.shape[0], -1).any(1).nonzero()[0]) if x.dim() else 0
        raise InputError(
            f"`{name}`: {int(bad.sum())} values are not finite (NaN or infinite),"
            f" the first at row {row}"
        )


def check_length(x: Tensor, n: int, name: str, of: str) -> None:
    """Raise `InputError` unless the first dimension of `x` has length `n`."""
    got = x.shape[0] if x.dim() else 0
    if got != n:
        raise InputError(f"`{name}`: expected {n} rows (one for each of the {of}), got {got}")
