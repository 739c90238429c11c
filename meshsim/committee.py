"""Committee: what several trained models of any kind say together."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from meshsim.check import InputError, check_known
from meshsim.mesh import ArrayLike, Mesh
from meshsim.models.ensemble import Ensemble, GraphEnsemble
from meshsim.ranges import COUNT, without_count
from meshsim.ranges import values as numbers
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
        InputError: fewer than two, one that advances in time or predicts on several branches, no
            field in common, or one that differs in place, components or unit, different branches.
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
            _alike([fields[name].place for fields in names], name, "at {}s")
            _alike([fields[name].components for fields in names], name, "of {} components")
            _alike([fields[name].unit for fields in names if fields[name].unit], name, "in {}")
        self.location = names[0][self.fields[0]].place
        branches = dict.fromkeys(filter(None, map(_branch, self.members)))
        if len(branches) > 1:
            raise InputError(f"`members`: of different branches ({', '.join(branches)})")
        self.branch = next(iter(branches), "")
        sizes = torch.tensor([_networks(member) for member in self.members], dtype=torch.float64)
        self.weights = (sizes / sizes.sum()).tolist()

    @property
    def asked(self) -> list[str]:
        """Names of all parameters that a member needs."""
        return list(dict.fromkeys(name for member in self.members for name in _asked(member)))

    def content(self, data: Mesh | Series | Sample) -> Mesh:
        """The mesh that it predicts on: of a sample its branch, of a series the first time.

        Raises:
            InputError: a sample of several branches, none of them the members'.
        """
        if isinstance(data, Sample):
            if self.branch in data.branches or (self.branch and len(data.branches) > 1):
                check_known(self.branch, data.branches, f"branch of sample {data.name!r}:")
                data = data.branches[self.branch]
            else:
                data = data.branch
        return data.frame(0) if isinstance(data, Series) else data

    def predict(
        self,
        data: Mesh | Series | Sample,
        parameters: Mapping[str, ArrayLike] | None = None,
        *,
        draws: int = 1,
        spread: bool = False,
    ) -> Mesh:
        """The mesh with the members' mean.

        Arguments:
            data: see `content`.
            parameters: {name: value}; each member takes those that it knows.
            draws: of anchors, for neural fields.
            spread: add "<field>_spread", the deviation over all networks (and draws).

        Raises:
            InputError: something is missing, or a parameter that no member knows.
        """
        mesh = self.content(data)
        given = dict(data.parameters) if isinstance(data, Sample) else {}
        given |= numbers(parameters or {})
        for name in parameters or {}:
            if name not in self.asked:
                raise InputError(f"parameter {name!r} is asked for by no member")
        means: dict[str, Tensor] = {}
        squares: dict[str, Tensor] = {}
        beyond = 0
        for member, weight in zip(self.members, self.weights, strict=True):
            own = {name: value for name, value in given.items() if name in _asked(member)}
            several = _networks(member) > 1 or (isinstance(member, Surrogate) and draws > 1)
            found = _answer(member, mesh, own, draws, spread and several)
            beyond = max(beyond, int(found.global_fields.get(COUNT, torch.zeros(1))))
            fields = found.point_fields if self.location == "point" else found.cell_fields
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
        mesh = mesh.with_fields(**{self.location: out})
        return mesh.replace(global_fields=without_count(mesh.global_fields, beyond))

    def describe(self) -> dict[str, Any]:
        """What it is made of, as plain data."""
        members = {
            str(i): {
                "kind": "neural field" if isinstance(member, Surrogate) else "graph network",
                "model": type(_network(member)).__name__,
                "networks": _networks(member),
                "weight": weight,
                "fields": list(_fields(member)),
                "parameters": _asked(member),
            }
            for i, (member, weight) in enumerate(zip(self.members, self.weights, strict=True))
        }
        return {
            "fields": self.fields,
            "location": self.location,
            "branch": self.branch,
            "parameters": self.asked,
            "networks": sum(_networks(member) for member in self.members),
            "members": members,
        }

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
    good = isinstance(names, list) and names == [str(i) for i in range(len(names))]
    if not isinstance(names, list) or not good or len(names) < 2:
        raise InputError(f"{folder / DESCRIPTION}: members: expected 0, 1, …, got {names!r}")
    return [folder / name for name in names]


class _Field(NamedTuple):
    place: str
    components: int
    unit: str


def _fields(member: Simulator | Surrogate) -> dict[str, _Field]:
    """What a member predicts; a neural field knows no units."""
    if isinstance(member, Simulator):
        if member.schema.states:
            raise InputError("`members`: a committee predicts steady fields, this one has states")
        return {
            f.name: _Field(member.location, f.components, f.unit) for f in member.schema.targets
        }
    if list(member.branches) != [member.geometry]:
        names = ", ".join(member.branches)
        raise InputError(f"`members`: a committee predicts on one surface, this one on {names}")
    want = member.branches[member.geometry]
    return {name: _Field(want.location, n, "") for name, n in want.fields.items()}


def _alike(found: Sequence[object], name: str, what: str) -> None:
    """Raise `InputError` unless all members say the same of a field."""
    kinds = list(dict.fromkeys(found))
    if len(kinds) > 1:
        told = ", ".join(f"{what.format(kind)} for {say}" for kind, say in
                         zip(kinds, ("some", "others"), strict=False))  # fmt: skip
        raise InputError(f"`members`: {name!r} is {told}")


def _branch(member: Simulator | Surrogate) -> str:
    """The branch of a sample that a member works on; "" for the only one."""
    return member.geometry if isinstance(member, Surrogate) else member.branch


def _network(member: Simulator | Surrogate) -> nn.Module:
    model = member.model
    return model.members[0] if isinstance(model, Ensemble | GraphEnsemble) else model


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
) -> Mesh:
    how: dict[str, Any] = {"spread": spread}
    if isinstance(member, Surrogate):
        how["draws"] = draws
    # one call for both kinds: a warning that both give of one line is said once
    found = member.predict(mesh, parameters, **how)
    assert isinstance(found, Mesh)
    return found
