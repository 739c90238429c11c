"""Starting from another run: its weights, and the statistics that go with them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meshsim.check import InputError
from meshsim.data.statistics import Normaliser
from meshsim.loading import check_single
from meshsim.simulator_files import WEIGHTS

if TYPE_CHECKING:
    from meshsim.simulator import Simulator
    from meshsim.surrogate import Surrogate
    from meshsim.train.clouds import CloudFacts
    from meshsim.train.setup import Facts


def weights_hash(folder: Path | str | None) -> str | None:
    """sha256 of the weights in a run's folder: part of what another run was asked for."""
    if folder is None:
        return None
    path = Path(folder) / WEIGHTS
    if not path.exists():
        check_single(folder)
        raise InputError(f"{folder}: no trained simulator to start from (no {WEIGHTS})")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def keep_statistics(facts: Facts | CloudFacts, other: Simulator | Surrogate) -> None:
    """Weights fit the statistics that they were trained with: take those over where they fit."""
    from meshsim.surrogate import Surrogate

    known = other.normaliser.to_dict()
    now = facts.normaliser.to_dict()
    for name, entry in now.items():
        if isinstance(other, Surrogate) and not _alike(name, facts, other):
            continue
        if name in known and len(known[name]["mean"]) == len(entry["mean"]):
            now[name] = known[name]
    facts.normaliser = Normaliser.from_dict(now)


def _alike(name: str, facts: Any, other: Surrogate) -> bool:
    """Whether a quantity is in the same unit in both: powers of parameters, lengths of bodies."""
    branch, _, field = name.partition(":")
    if field and branch in facts.wanted and branch in other.branches:
        was, now = (w.scales.get(field, {}) for w in (other.branches[branch], facts.wanted[branch]))
        return dict(was) == dict(now)
    from meshsim.clouds import NEAR

    near = name.rsplit("/", 1)[-1] in NEAR
    return not near or facts.frame.scaled == other.frame.scaled


def copy_weights(
    simulator: Simulator | Surrogate, other: Simulator | Surrogate, folder: Path | str
) -> None:
    """Copy all weights; both must have the same architecture."""
    new, old = simulator.model.state_dict(), other.model.state_dict()
    for name in [*new, *old]:
        if name not in old or name not in new:
            where = folder if name not in old else "the new model"
            raise InputError(f"{folder}: cannot start from it: {where} has no tensor {name!r}")
        if old[name].shape != new[name].shape:
            raise InputError(
                f"{folder}: cannot start from it: tensor {name!r}: expected shape"
                f" {tuple(new[name].shape)}, got {tuple(old[name].shape)}"
            )
    simulator.model.load_state_dict(old)
