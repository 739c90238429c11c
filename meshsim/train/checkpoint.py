"""A run's state on disk: one safetensors file, written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from meshsim.check import InputError, one_line
from meshsim.simulator_files import write_atomically

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
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise InputError(f"{path}: not a checkpoint of a run: {one_line(error)}") from error


def optimiser_tensors(
    optimisers: Sequence[torch.optim.Optimizer], model: nn.Module
) -> dict[str, Tensor]:
    """{"<key>:<parameter>": tensor}: the optimisers' state of each parameter, by name."""
    out = {}
    for optimiser in optimisers:
        for name, parameter in model.named_parameters():
            for key, value in optimiser.state.get(parameter, {}).items():
                out[f"{key}:{name}"] = torch.as_tensor(value)
    return out


def restore_optimisers(
    optimisers: Sequence[torch.optim.Optimizer], model: nn.Module, tensors: Mapping[str, Tensor]
) -> None:
    """Give back what `optimiser_tensors` took."""
    parameters = dict(model.named_parameters())
    for optimiser in optimisers:
        own = {id(p) for group in optimiser.param_groups for p in group["params"]}
        for name, value in tensors.items():
            key, parameter = name.split(":", 1)
            p = parameters[parameter]
            if id(p) in own:
                # AdamW keeps its step count on the CPU; moments live with the weights
                moved = value.to(p.device) if value.shape == p.shape else value
                optimiser.state[p][key] = moved
