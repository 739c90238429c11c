"""Prepared: a sample in the numbers that a field model works in, drawn from and mirrored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from meshsim.clouds import AXES, ODD, Wanted
from meshsim.data.statistics import Normaliser
from meshsim.models.field import Fields, Points


class Prepared(NamedTuple):
    """A sample in the numbers that a model works in.

    Arguments:
        geometry: places of the body, (G, D), and their features, (G, F).
        branches: {branch: the same}.
        parameters: (P,).
        targets: {branch: {field: (N, c)}} normalised, where they are known.
        filled: {branch: as in `branches`} places that only stand for a branch that is not there.
        scales: {"branch:field": what its decoded values are multiplied by}, where that is not 1.
        rows: {branch: the places that anchors are drawn from}, where those are not all.
    """

    geometry: tuple[Tensor, Tensor]
    branches: Mapping[str, tuple[Tensor, Tensor]]
    parameters: Tensor
    targets: Mapping[str, Fields]
    filled: Mapping[str, tuple[Tensor, Tensor]] = {}
    scales: Mapping[str, float] = {}
    rows: Mapping[str, Tensor] = {}


def drawn(cloud: tuple[Tensor, Tensor], rows: Tensor | None) -> tuple[Tensor, Tensor]:
    """The places of a cloud that anchors are drawn from."""
    return cloud if rows is None else (cloud[0][rows], cloud[1][rows])


def picked(cloud: tuple[Tensor, Tensor], count: int, generator: torch.Generator) -> Points:
    """A random draw of at most `count` places, (1, n, D) and (1, n, F)."""
    order = torch.randperm(len(cloud[0]), generator=generator)[:count].to(cloud[0].device)
    return Points(cloud[0][order][None], cloud[1][order][None])


def mirrors(axes: Sequence[str]) -> list[tuple[str, ...]]:
    """All 2^k sets of axes to mirror along.

    >>> mirrors(["x"])
    [(), ('x',)]
    """
    out: list[tuple[str, ...]] = [()]
    for axis in axes:
        out += [(*image, axis) for image in out]
    return out


def image(
    prepared: Prepared,
    axes: Sequence[str],
    norm: Normaliser,
    features: Sequence[str],
    branches: Mapping[str, Wanted],
) -> Prepared:
    """The mirror image of a sample, targets included.

    Arguments:
        prepared: the sample.
        axes: along which its coordinates change their signs.
        norm: the statistics it was made with.
        features: of the geometry.
        branches: what is predicted on each.
    """
    if not axes:
        return prepared
    dim = prepared.geometry[0].shape[1]

    def one(cloud: tuple[Tensor, Tensor], names: Sequence[str], where: str) -> Any:
        pos, x = cloud[0].clone(), cloud[1].clone()
        own = sum(len(norm.mean(f"{where}/{name}")) for name in names)
        for axis in axes:
            k = AXES.index(axis)
            pos[:, k] = -pos[:, k]
            first = 0
            for name in names:
                quantity = f"{where}/{name}"
                if name in ODD:
                    x[:, first + k] = _flipped(norm, x[:, first + k], quantity, k)
                first += len(norm.mean(quantity))
            x[:, own + k :: dim] *= -1  # corners of walls, one after the other
        return pos, x

    def images(clouds: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, Any]:
        return {k: one(made, branches[k].features, k) for k, made in clouds.items()}

    targets: dict[str, Fields] = {}
    for name, fields in prepared.targets.items():
        targets[name] = {}
        for key, y in fields.items():
            y = y.clone()
            for axis in axes:
                k = AXES.index(axis)
                if y.shape[1] == dim > 1:
                    y[:, k] = _flipped(norm, y[:, k], f"{name}:{key}", k)
            targets[name][key] = y
    return prepared._replace(
        geometry=one(prepared.geometry, features, "geometry"),
        branches=images(prepared.branches),
        targets=targets,
        filled=images(prepared.filled),
    )


def _flipped(norm: Normaliser, column: Tensor, quantity: str, k: int) -> Tensor:
    # a flipped value v' = −v is −x − 2 mean/std once normalised
    mean, std = norm.mean(quantity)[k], norm.std(quantity)[k]
    return -column - (2 * mean / std).to(column)
