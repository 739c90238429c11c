"""A surrogate on disk: the same two files as a simulator's, with another description."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from meshsim.check import InputError
from meshsim.clouds import Frame, Wanted
from meshsim.data.statistics import Normaliser
from meshsim.domain import Domain
from meshsim.models.ensemble import Ensemble
from meshsim.potential import Potential
from meshsim.simulator_files import (
    DESCRIPTION,
    DTYPES,
    FORMAT,
    WEIGHTS,
    checked_members,
    described_by,
    read_description,
    read_tensors,
    versions,
    write_atomically,
)

if TYPE_CHECKING:
    from meshsim.models.field import FieldModel
    from meshsim.surrogate import Surrogate


def field_models() -> dict[str, Callable[..., FieldModel]]:
    """{name on disk: class} of the field models that come with meshsim."""
    from meshsim.models.anchored import AnchoredTransformer
    from meshsim.models.coral import CORAL
    from meshsim.models.enf2enf import ENF2ENF
    from meshsim.models.mario import MARIO
    from meshsim.models.point_mlp import PointMLP

    return {
        "anchored": AnchoredTransformer,
        "coral": CORAL,
        "enf2enf": ENF2ENF,
        "mario": MARIO,
        "point_mlp": PointMLP,
    }


def save(surrogate: Surrogate, folder: Path) -> None:
    """Write the weights, then the description that holds their sha256."""
    from safetensors.torch import save as to_bytes

    model = surrogate.model
    weights = to_bytes({n: t.detach().cpu().contiguous() for n, t in model.state_dict().items()})
    names: dict[object, str] = {cls: name for name, cls in field_models().items()}
    members = list(model.members) if isinstance(model, Ensemble) else [model]
    document = {
        "format": FORMAT,
        "kind": "surrogate",
        "architecture": {
            "name": names.get(type(members[0]), type(members[0]).__name__.lower()),
            "members": len(members),
            "arguments": model.arguments,
            "dtype": str(surrogate.dtype).removeprefix("torch."),
        },
        "statistics": surrogate.normaliser.to_dict(),
        **surrogate.describe(),
        "versions": versions(),
        "weights": {"file": WEIGHTS, "sha256": hashlib.sha256(weights).hexdigest()},
    }
    text = json.dumps(document, indent=1, allow_nan=False)
    write_atomically(folder / WEIGHTS, weights)
    write_atomically(folder / DESCRIPTION, text.encode())


def load(cls: type[Surrogate], folder: Path) -> Surrogate:
    """Read, check against each other, and put together."""
    path, weights = folder / DESCRIPTION, folder / WEIGHTS
    document = read_description(path)
    if document.get("kind") != "surrogate":
        raise InputError(f"{path}: describes a simulator on graphs (see Simulator.load)")
    with described_by(path):
        shapes = _model(document, "meta")
    tensors = read_tensors(weights, shapes, document["weights"]["sha256"])
    with described_by(path):
        surrogate = _parts(cls, document, _model(document, "cpu"))
        surrogate.model.load_state_dict(tensors)
    return surrogate.eval()


_KEYS = (
    *("architecture", "statistics", "frame", "branches", "geometry", "points", "features"),
    *("parameters", "potential", "symmetry", "absent", "ranges", "configuration", "weights"),
)


def _model(document: dict[str, Any], device: str) -> nn.Module:
    for key in _KEYS:
        if key not in document:
            raise InputError(f"the key {key!r} is missing")
    if "sha256" not in document["weights"]:
        raise InputError("the key 'weights.sha256' is missing")
    architecture = document["architecture"]
    name, dtype, models = architecture["name"], architecture["dtype"], field_models()
    if name not in models or dtype not in DTYPES:
        raise InputError(f"unknown architecture {name!r} or dtype {dtype!r}")
    count = checked_members(architecture)
    with torch.device(device):
        made = [models[name](**architecture["arguments"]) for _ in range(count)]
        return (made[0] if count == 1 else Ensemble(made)).to(DTYPES[dtype])


def _parts(cls: type[Surrogate], document: dict[str, Any], model: Any) -> Surrogate:
    return cls(
        model,
        Normaliser.from_dict(document["statistics"]),
        Frame(**document["frame"]),
        {name: Wanted(**w) for name, w in document["branches"].items()},
        geometry=document["geometry"],
        points=document["points"],
        features=document["features"],
        parameters=document["parameters"],
        potential=None if document["potential"] is None else Potential(**document["potential"]),
        symmetry=document["symmetry"],
        absent=document["absent"],
        domains={name: Domain(**d) for name, d in document.get("domains", {}).items()},
        ranges=document["ranges"],
        configuration=document["configuration"],
    )
