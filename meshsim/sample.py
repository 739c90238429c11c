"""Sample: named meshes and the parameters that go with them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from torch import Tensor

from meshsim.check import InputError
from meshsim.mesh import ArrayLike, Mesh, as_tensor, freeze, thaw
from meshsim.series import Series


class Sample:
    """One case: `{branch: Mesh or Series}` and parameters (inflow, angle, design values).

    A plain case has the one branch "mesh"; a car is {"surface": …, "volume": …}.

    >>> mesh = Mesh([[0., 0.], [1., 0.], [0., 1.]], {"triangle": [[0, 1, 2]]})
    >>> Sample(mesh, {"inflow": 1.5}).mesh
    Mesh(3 points, 2-D, 1 triangle)
    """

    def __init__(
        self,
        branches: Mesh | Series | Mapping[str, Mesh | Series],
        parameters: Mapping[str, ArrayLike] | None = None,
        name: str = "",
    ):
        if isinstance(branches, Mesh | Series):
            branches = {"mesh": branches}
        if not branches:
            raise InputError("a sample needs at least one branch")
        for key, branch in branches.items():
            if not isinstance(branch, Mesh | Series):
                raise InputError(
                    f"branch {key!r}: expected a Mesh or Series, got {type(branch).__name__}"
                )
        self.branches: Mapping[str, Mesh | Series] = MappingProxyType(dict(branches))
        self.parameters: Mapping[str, Tensor] = MappingProxyType(
            {key: as_tensor(value) for key, value in (parameters or {}).items()}
        )
        self.name = name

    def __getstate__(self) -> dict[str, Any]:
        return thaw(self.__dict__)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(freeze(state))

    @property
    def branch(self) -> Mesh | Series:
        """The branch of a sample that has just one."""
        if len(self.branches) != 1:
            raise InputError(f"the sample has branches {', '.join(self.branches)}: say which")
        return next(iter(self.branches.values()))

    @property
    def mesh(self) -> Mesh:
        """The mesh of the only branch."""
        return self.branch.mesh if isinstance(self.branch, Series) else self.branch

    def __repr__(self) -> str:
        return (
            f"Sample({self.name!r}, {dict(self.branches)!r}, parameters: {list(self.parameters)})"
        )
