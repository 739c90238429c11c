"""What neural-field models share: encode a geometry once, decode fields at any points."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from meshsim.check import InputError

Fields = dict[str, Tensor]


class Points(NamedTuple):
    """Places and what is known there.

    Arguments:
        pos: (B, N, D) coordinates.
        x: (B, N, F) features.
    """

    pos: Tensor
    x: Tensor


@dataclass(frozen=True)
class Branch:
    """One kind of place at which fields are wanted: the surface, the volume, the wheels.

    Arguments:
        inputs: columns of the features of its points.
        outputs: {field: components}.
        curl: fields of D components that are the curl of a potential, and so free of divergence.

    Raises:
        InputError: no outputs, an unknown field in `curl`, or features beside it.
    """

    inputs: int = 0
    outputs: Mapping[str, int] = field(default_factory=dict)
    curl: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.outputs or min(self.outputs.values()) < 1 or self.inputs < 0:
            raise InputError(f"branch: expected fields of 1 component or more, got {self}")
        for name in self.curl:
            if self.outputs.get(name, 0) not in (2, 3):
                raise InputError(f"branch: curl of {name!r}: expected a vector among its outputs")
        if self.curl and self.inputs:
            # features change with the place, and nobody could say how
            raise InputError("branch: a curl needs points without features")

    @classmethod
    def of(cls, given: Branch | Mapping[str, Any]) -> Branch:
        """A branch, or the same as a table."""
        if isinstance(given, Branch):
            return given
        return cls(given.get("inputs", 0), dict(given["outputs"]), tuple(given.get("curl", ())))

    def to_dict(self) -> dict[str, Any]:
        """The table that `of` takes."""
        return {"inputs": self.inputs, "outputs": dict(self.outputs), "curl": list(self.curl)}

    @property
    def components(self) -> dict[str, int]:
        """{field: numbers that the network gives for it}: of a potential one in a plane."""
        plane = {name: 1 for name in self.curl if self.outputs[name] == 2}
        return {name: plane.get(name, n) for name, n in self.outputs.items()}


class FieldModel(nn.Module, ABC):
    """A model that encodes a geometry with parameters, and decodes fields at any points.

    Batches are dense: B samples with as many points each. Queries do not see each other: what is
    decoded at a point does not depend on which others are asked for.

    Every model keeps the `arguments` that it was made from, as plain data.
    """

    arguments: dict[str, Any]

    @abstractmethod
    def encode(
        self,
        geometry: Points,
        parameters: Float[Tensor, "B P"],
        anchors: Mapping[str, Points] | None = None,
    ) -> Any:
        """What `decode` needs to know of B samples.

        Arguments:
            geometry: points of the body's surface in random order, (B, G, D) and (B, G, F).
            parameters: (B, P) normalised.
            anchors: {branch: points} at which a model looks that wants to know where fields will
                be asked for; others pay no heed.
        """

    @abstractmethod
    def decode(self, latent: Any, branch: str, points: Points) -> Fields:
        """{field: (B, N, c)} at points of a branch."""

    def decode_each(self, latent: Any, branch: str, points: Points) -> list[Fields]:
        """`decode` of each member of an ensemble; any other model has one."""
        return [self.decode(latent, branch, points)]

    def training_loss(self, batch: FieldBatch, share: float) -> Tensor:
        """What training makes small: the mean squared error of the normalised fields.

        Arguments:
            batch: points with the fields that are known there.
            share: of the training's steps that are done, 0 to 1.
        """
        latent = self.encode(batch.geometry, batch.parameters, batch.points)
        out = {name: self.decode(latent, name, points) for name, points in batch.points.items()}
        return batch.loss(out)


class FieldBatch(NamedTuple):
    """B samples with targets.

    Arguments:
        geometry: of the bodies.
        parameters: (B, P).
        points: {branch: points}.
        targets: {branch: {field: (B, N, c)}} normalised.
        offsets: {branch: {field: (c,)}}: mean over deviation of each field. With them errors are
            relative to the norm of each sample's own values; without, they are mean squares.
    """

    geometry: Points
    parameters: Tensor
    points: Mapping[str, Points]
    targets: Mapping[str, Fields]
    offsets: Mapping[str, Fields] | None = None

    def loss(self, out: Mapping[str, Fields]) -> Tensor:
        """The sum over branches and fields of the mean squared error, or of the relative L2."""
        total: Tensor | None = None
        for branch, fields in self.targets.items():
            for name, truth in fields.items():
                error = (out[branch][name] - truth).square().flatten(1)  # (B, N c)
                if self.offsets is not None:
                    whole = truth + self.offsets[branch][name].to(truth)
                    norm = whole.square().flatten(1).sum(1).clamp_min(1e-12)
                    term = (error.sum(1) / norm).clamp_min(1e-12).sqrt().mean()
                else:
                    term = error.mean()
                total = term if total is None else total + term
        if total is None:
            raise InputError("no targets: nothing to learn")
        return total
