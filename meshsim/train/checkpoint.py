"""A run's state on disk: one safetensors file, written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from meshsim.check import InputError, one_line
from meshsim.simulator_files import write_atomically

if TYPE_CHECKING:
    from meshsim.train.shard import Shards

_META = "meshsim"


def write(path: Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
    """Write tensors and plain data into one file.

    A kill at any moment leaves either the file that was there or the new one.
    """
    from safetensors.torch import save

    plain = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    write_atomically(path, save(plain, {_META: json.dumps(meta)}))


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write` wrote.

    Raises:
        InputError: the file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            meta = json.loads((file.metadata() or {})[_META])
            return {name: file.get_tensor(name) for name in file.keys()}, meta  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a checkpoint of a run: {one_line(error)}") from error


def optimiser_tensors(
    optimisers: Sequence[torch.optim.Optimizer],
    weights: Mapping[str, Tensor],
    shards: Shards | None = None,
) -> dict[str, Tensor]:
    """{"<key>:<parameter>": tensor}: the optimisers' state of each parameter, by name.

    Arguments:
        optimisers: of the weights.
        weights: {name: what the optimisers were given}.
        shards: makes whole what is divided; every process must then call this.
    """
    out = {}
    for optimiser in optimisers:
        for name, weight in weights.items():
            for key, value in optimiser.state.get(weight, {}).items():
                tensor = torch.as_tensor(value)
                if shards is not None and key != "step":
                    tensor = shards.whole(weight, tensor)
                if shards is None or shards.world.first:
                    out[f"{key}:{name}"] = tensor
    return out


def restore_optimisers(
    optimisers: Sequence[torch.optim.Optimizer],
    weights: Mapping[str, Tensor],
    tensors: Mapping[str, Tensor],
    shards: Shards | None = None,
) -> None:
    """Give back what `optimiser_tensors` took; arguments as there."""
    for optimiser in optimisers:
        groups = optimiser.param_groups
        own = {id(p) for group in groups for p in group["params"]}
        fused = {id(p) for group in groups if group.get("fused") for p in group["params"]}
        for name, value in tensors.items():
            key, parameter = name.split(":", 1)
            p = weights[parameter]
            if id(p) in own:
                # moments live with the weights, AdamW's step count there only where it is fused
                if key == "step":
                    value = value.to(p.device) if id(p) in fused else value
                else:
                    value = value.to(p.device) if shards is None else shards.own(p, value).clone()
                optimiser.state[p][key] = value
