"""Committee: what several trained models of any kind say together."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from meshsim.check import InputError
from meshsim.mesh import ArrayLike, Mesh
from meshsim.models.ensemble import Ensemble, GraphEnsemble
from meshsim.sample import Sample
from meshsim.series import Series
from meshsim.simulator import Simulator
from meshsim.simulator_files import DESCRIPTION, FORMAT, versions, write_atomically
from meshsim.surrogate import Surrogate


class Committee:
    """The mean of several simulators and surrogates that predict the same fields of a mesh.

    Networks that err differently err less together (Lakshminarayanan, Pritzel and Blundell,
    NeurIPS 2017): a graph network and a neural field more so than two of a kind. Every network
    counts the same, those of an ensemble each.

    Arguments:
        members: two or more, steady, of one branch; what all of them predict is what it predicts.

    Raises:
        InputError: fewer than two, one that advances in time or predicts on several branches, or
            no field in common.
    """

    def __init__(self, members: Sequence[Simulator | Surrogate]):
        if len(members) < 2:
            raise InputError(f"`members`: expected two or more, got {len(members)}")
        self.members = list(members)
        names = [_fields(member) for member in self.members]
        self.fields = [name for name in names[0] if all(name in other for other in names)]
        if not self.fields:
            told = "; ".join(", ".join(fields) for fields in names)
            raise InputError(f"`members`: they predict no field in common ({told})")
        for name in self.fields:
            if len({(fields[name]) for fields in names}) > 1:
                raise InputError(f"`members`: {name!r} at points for some, at cells for others")
        sizes = torch.tensor([_networks(member) for member in self.members], dtype=torch.float64)
        self.weights = (sizes / sizes.sum()).tolist()

    def predict(
        self,
        data: Mesh | Sample,
        parameters: Mapping[str, ArrayLike] | None = None,
        *,
        draws: int = 1,
        spread: bool = False,
    ) -> Mesh:
        """The mesh with the members' mean.

        Arguments:
            data: a mesh, or a sample of one branch.
            parameters: {name: value}; each member takes those that it knows.
            draws: of anchors, for neural fields.
            spread: add "<field>_spread", the deviation over all networks (and draws).

        Raises:
            InputError: something is missing, or a parameter that no member knows.
        """
        mesh = data.branch if isinstance(data, Sample) else data
        mesh = mesh.frame(0) if isinstance(mesh, Series) else mesh
        given = dict(data.parameters) if isinstance(data, Sample) else {}
        given |= {name: torch.as_tensor(value) for name, value in (parameters or {}).items()}
        known = {name for member in self.members for name in _asked(member)}
        for name in parameters or {}:
            if name not in known:
                raise InputError(f"parameter {name!r} is asked for by no member")
        means: dict[str, Tensor] = {}
        squares: dict[str, Tensor] = {}
        beyond = 0.0
        for member, weight in zip(self.members, self.weights, strict=True):
            own = {name: value for name, value in given.items() if name in _asked(member)}
            several = _networks(member) > 1 or (isinstance(member, Surrogate) and draws > 1)
            found, location = _answer(member, mesh, own, draws, spread and several)
            beyond = max(beyond, float(found.global_fields.get("extrapolation", torch.zeros(1))))
            fields = found.point_fields if location == "point" else found.cell_fields
            for name in self.fields:
                y = fields[name].double()
                wide = fields.get(f"{name}_spread", torch.zeros(1)).double()
                means[name] = means.get(name, 0.0) + weight * y
                squares[name] = squares.get(name, 0.0) + weight * (y.square() + wide.square())
        out: dict[str, Tensor] = {name: y.float() for name, y in means.items()}
        if spread:
            for name in self.fields:
                variance = squares[name] - means[name].square()
                out[f"{name}_spread"] = variance.clamp_min(0).sqrt().float()
        place = _fields(self.members[0])[self.fields[0]]
        mesh = mesh.with_fields(**{place: out})
        more = {"extrapolation": beyond} if beyond else {}
        return mesh.replace(global_fields={**mesh.global_fields, **more})

    def save(self, folder: Path | str) -> None:
        """Write the members into folders 0, 1, … of a folder, and a description; see `load`."""
        folder = Path(folder)
        for i, member in enumerate(self.members):
            member.save(folder / str(i))
        document = {
            "format": FORMAT,
            "kind": "committee",
            "members": [str(i) for i in range(len(self.members))],
            "fields": self.fields,
            "versions": versions(),
        }
        write_atomically(folder / DESCRIPTION, json.dumps(document, indent=1).encode())


def member_folders(document: Mapping[str, Any], folder: Path) -> list[Path]:
    """Where the members of a committee's description are: inside its folder only.

    Raises:
        InputError: it names others, or none.
    """
    names = document.get("members")
    if not isinstance(names, list) or names != [str(i) for i in range(len(names))]:
        raise InputError(f"{folder / DESCRIPTION}: members: expected 0, 1, …, got {names!r}")
    return [folder / name for name in names]


def _fields(member: Simulator | Surrogate) -> dict[str, str]:
    """{field: "point" or "cell"} of what a member predicts."""
    if isinstance(member, Simulator):
        if member.schema.states:
            raise InputError("`members`: a committee predicts steady fields, this one has states")
        return {field.name: member.location for field in member.schema.targets}
    if list(member.branches) != [member.geometry]:
        names = ", ".join(member.branches)
        raise InputError(f"`members`: a committee predicts on one surface, this one on {names}")
    want = member.branches[member.geometry]
    return dict.fromkeys(want.fields, want.location)


def _networks(member: Simulator | Surrogate) -> int:
    model = member.model
    return len(model.members) if isinstance(model, Ensemble | GraphEnsemble) else 1


def _asked(member: Simulator | Surrogate) -> list[str]:
    if isinstance(member, Surrogate):
        return member.asked
    return [f.name for f in member.schema.parameters if f.location == "global"]


def _answer(
    member: Simulator | Surrogate,
    mesh: Mesh,
    parameters: Mapping[str, Tensor],
    draws: int,
    spread: bool,
) -> tuple[Mesh, str]:
    if isinstance(member, Surrogate):
        found = member.predict(mesh, parameters, draws=draws, spread=spread)
        assert isinstance(found, Mesh)
        return found, member.branches[member.geometry].location
    return member.predict(mesh, parameters, spread=spread), member.location
