"""A simulator on disk: `model.safetensors` beside `simulator.json`; nothing is ever unpickled."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from meshsim.check import InputError, check_finite, nearest, one_line
from meshsim.data.schema import Schema
from meshsim.data.statistics import Normaliser
from meshsim.models.ensemble import GraphEnsemble

if TYPE_CHECKING:
    from meshsim.simulator import Simulator

FORMAT = 1
WEIGHTS, DESCRIPTION = "model.safetensors", "simulator.json"
DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}


def known_models() -> dict[str, Callable[..., nn.Module]]:
    """{name on disk: class} of the models that come with meshsim."""
    from meshsim.models.graph_transformer import GraphTransformer
    from meshsim.models.meshgraphnet import MeshGraphNet

    return {"graph_transformer": GraphTransformer, "meshgraphnet": MeshGraphNet}


def _name(model: nn.Module) -> str:
    """The name on disk of a model; of one that does not come with meshsim, its class's."""
    names = {cls: name for name, cls in known_models().items()}
    return names.get(type(model), type(model).__name__.lower())


def versions() -> dict[str, str]:
    """What made a file."""
    from meshsim import __version__

    return {
        "meshsim": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def write_atomically(path: Path, data: bytes) -> None:
    """Write a whole file or nothing: to a temporary name, flushed to disk, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def save(simulator: Simulator, folder: Path) -> None:
    """Write the weights, then the description that holds their sha256."""
    from safetensors.torch import save as to_bytes

    model = simulator.model
    weights = to_bytes(
        {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}
    )
    arguments = getattr(model, "arguments", {})
    members = list(model.members) if isinstance(model, GraphEnsemble) else [model]
    document = {
        "format": FORMAT,
        "architecture": {
            "name": _name(members[0]),
            "members": len(members),
            "arguments": arguments() if callable(arguments) else dict(arguments),
            "dtype": str(simulator.dtype).removeprefix("torch."),
        },
        "schema": simulator.schema.to_dict(),
        "statistics": simulator.normaliser.to_dict(),
        "ranges": {name: list(r) for name, r in simulator.ranges.items()},
        "integrator": simulator.integrator,
        "bundle": simulator.bundle,
        "dt": simulator.dt,
        "boundary": {f.name: simulator.boundary.types(f) for f in simulator.schema.states},
        "features": simulator.features,
        "node_types": simulator.node_types,
        "periodic": simulator.periodic,
        "potential": None if simulator.potential is None else asdict(simulator.potential),
        "symmetry": simulator.symmetry,
        "branch": simulator.branch,
        "configuration": simulator.configuration,
        "versions": versions(),
        "weights": {"file": WEIGHTS, "sha256": hashlib.sha256(weights).hexdigest()},
    }
    text = json.dumps(document, indent=1, allow_nan=False)
    write_atomically(folder / WEIGHTS, weights)
    write_atomically(folder / DESCRIPTION, text.encode())


def load(
    cls: type[Simulator], folder: Path, models: Mapping[str, Callable[..., nn.Module]] | None
) -> Simulator:
    """Read, check against each other, and put together."""
    path, weights = folder / DESCRIPTION, folder / WEIGHTS
    document = read_description(path)
    if document.get("kind", "simulator") != "simulator":
        raise InputError(f"{path}: describes a {document['kind']} (see meshsim.load)")
    table = known_models() if models is None else models
    with described_by(path):
        shapes = _model(document, table, "meta")  # no memory before the shapes are compared
    tensors = read_tensors(weights, shapes, document["weights"]["sha256"])
    with described_by(path):
        simulator = _parts(cls, document, _model(document, table, "cpu"))
        simulator.model.load_state_dict(tensors)
    return simulator.eval()


@contextmanager
def described_by(path: Path) -> Iterator[None]:
    """Turn whatever a wrong description sets off into one line that names the file."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except (TypeError, ValueError, LookupError, AttributeError, RuntimeError) as error:
        text = one_line(f"{type(error).__name__}: {error}")
        raise InputError(f"{path}: does not describe a simulator: {text}") from error


def read_description(path: Path) -> dict[str, Any]:
    """The checked top of a description."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror} (expected a trained simulator)") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON: {one_line(error)}") from error
    if not isinstance(document, dict) or "format" not in document:
        raise InputError(f"{path}: not a simulator's description (expected the key 'format')")
    if document["format"] != FORMAT:
        raise InputError(
            f"{path}: format {document['format']!r} is not known (expected {FORMAT}): "
            f"written by {one_line(document.get('versions', 'an unknown version'))}"
        )
    return document


_KEYS = (
    "architecture",
    "schema",
    "statistics",
    "ranges",
    "integrator",
    "bundle",
    "dt",
    "boundary",
    "features",
    "node_types",
    "periodic",
    "symmetry",
    "branch",
    "configuration",
    "weights",
)


def _model(
    document: Mapping[str, Any], models: Mapping[str, Callable[..., nn.Module]], device: str
) -> nn.Module:
    for key in _KEYS:
        if key not in document:
            raise InputError(f"the key {key!r} is missing")
    for key in ("architecture.name", "architecture.arguments", "architecture.dtype"):
        if key.split(".")[1] not in document["architecture"]:
            raise InputError(f"the key {key!r} is missing")
    if "sha256" not in document["weights"]:
        raise InputError("the key 'weights.sha256' is missing")
    architecture = document["architecture"]
    name, dtype = architecture["name"], architecture["dtype"]
    if name not in models:
        raise InputError(f"unknown architecture {name!r}: {nearest(name, models)}")
    if dtype not in DTYPES:
        raise InputError(f"architecture.dtype: expected one of {', '.join(DTYPES)}, got {dtype!r}")
    count = checked_members(architecture)
    with torch.device(device):
        made = [models[name](**architecture["arguments"]) for _ in range(count)]
        return (made[0] if count == 1 else GraphEnsemble(made)).to(DTYPES[dtype])


def checked_members(architecture: Mapping[str, Any]) -> int:
    """How many networks a description tells of; one, where an older run does not say."""
    count = architecture.get("members", 1)
    if not isinstance(count, int) or not 1 <= count <= 1000:
        raise InputError(f"architecture.members: expected 1 or more, got {count!r}")
    return count


def _parts(cls: type[Simulator], document: Mapping[str, Any], model: nn.Module) -> Simulator:
    from meshsim.inputs import BoundaryRule
    from meshsim.potential import Potential

    flow = document.get("potential")  # not in older runs
    return cls(
        model,
        Schema.from_dict(document["schema"]),
        Normaliser.from_dict(document["statistics"]),
        integrator=document["integrator"],
        bundle=document["bundle"],
        boundary=BoundaryRule(document["boundary"]),
        features=document["features"],
        dt=document["dt"],
        node_types=document["node_types"],
        periodic=document["periodic"],
        potential=Potential(**flow) if flow else None,
        symmetry=document["symmetry"],
        ranges=document["ranges"],
        branch=document["branch"],
        configuration=document["configuration"],
    )


def read_tensors(path: Path, model: nn.Module, sha256: str) -> dict[str, Tensor]:
    """The tensors of a file, each with the name, shape and dtype that the model expects."""
    try:
        tensors = _tensors(path, model)
        if hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
            raise InputError(f"its content is not what {DESCRIPTION} was written with (sha256)")
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return tensors


def _tensors(path: Path, model: nn.Module) -> dict[str, Tensor]:
    from safetensors import SafetensorError, safe_open

    expected = model.state_dict()
    try:
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
            for name in sorted(set(expected) ^ names):
                if name in expected:
                    raise InputError(f"tensor {name!r} is missing")
                raise InputError(f"tensor {name!r} has no place in the architecture")
            for name, meta in expected.items():
                shape = tuple(file.get_slice(name).get_shape())
                if shape != tuple(meta.shape):
                    raise InputError(
                        f"tensor {name!r}: expected shape {tuple(meta.shape)}, got {shape}"
                    )
            tensors = {name: file.get_tensor(name) for name in expected}
    except OSError as error:
        raise InputError(f"cannot be read: {one_line(error)}") from error
    except SafetensorError as error:
        raise InputError(f"not a safetensors file: {one_line(error)}") from error
    for name, tensor in tensors.items():
        if tensor.dtype != expected[name].dtype:
            want, got = (str(t.dtype).removeprefix("torch.") for t in (expected[name], tensor))
            raise InputError(f"tensor {name!r}: expected {want}, got {got}")
        check_finite(tensor, name)
    return tensors
