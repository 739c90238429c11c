"""Several models of one kind, trained side by side: their mean, and how far they disagree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from meshsim.check import InputError
from meshsim.models.field import FieldBatch, FieldModel, Fields, Points

if TYPE_CHECKING:
    from meshsim.graph import MeshGraph


class Ensemble(FieldModel):
    """A deep ensemble (Lakshminarayanan, Pritzel and Blundell, NeurIPS 2017, §2.4).

    Members start from weights of their own and see the same batches; nothing passes between them.
    `decode` gives their mean.

    Arguments:
        members: one model or more, of one architecture.

    Raises:
        InputError: no members.
    """

    def __init__(self, members: Sequence[FieldModel]):
        super().__init__()
        if not members:
            raise InputError("`members`: expected one model or more, got none")
        self.members = nn.ModuleList(members)
        self.arguments = members[0].arguments

    def encode(
        self,
        geometry: Points,
        parameters: Float[Tensor, "B P"],
        anchors: Mapping[str, Points] | None = None,
    ) -> list[Any]:
        """What each member needs to know."""
        return [m.encode(geometry, parameters, anchors) for m in self._each()]

    def decode_each(self, latent: list[Any], branch: str, points: Points) -> list[Fields]:
        """{field: (B, N, c)} of each member."""
        pairs = zip(self._each(), latent, strict=True)
        return [m.decode(known, branch, points) for m, known in pairs]

    def decode(self, latent: list[Any], branch: str, points: Points) -> Fields:
        """{field: (B, N, c)}, means over the members."""
        each = self.decode_each(latent, branch, points)
        return {name: torch.stack([y[name] for y in each]).mean(0) for name in each[0]}

    def training_loss(self, batch: FieldBatch, share: float) -> Tensor:
        """The sum of the members' losses: the gradient of each is its own."""
        return torch.stack([m.training_loss(batch, share) for m in self._each()]).sum()

    def _each(self) -> list[FieldModel]:
        return list(self.members)  # type: ignore[arg-type]


class GraphEnsemble(nn.Module):
    """A deep ensemble of models on graphs; of one reference with `Ensemble`.

    Called as a member is, it gives the mean of their outputs. The loss of a training step is the
    sum of what each member's own outputs give.

    Arguments:
        members: one model or more, of one architecture.

    Raises:
        InputError: no members.
    """

    def __init__(self, members: Sequence[nn.Module]):
        super().__init__()
        if not members:
            raise InputError("`members`: expected one model or more, got none")
        self.members = nn.ModuleList(members)
        self.arguments = getattr(members[0], "arguments", {})

    def encode_edges(self, graph: MeshGraph) -> list[Tensor] | None:
        """What each member encodes of the edges; None of members that encode none beforehand."""
        encoders = [getattr(m, "encode_edges", None) for m in self.members]
        return [encode(graph) for encode in encoders if callable(encode)] or None

    def derived(self, graph: MeshGraph) -> dict[str, Tensor]:
        """What an exported program takes of a graph: the members', who take the same."""
        derived = getattr(self.members[0], "derived", None)
        return derived(graph) if callable(derived) else {}

    def forward(
        self, graph: MeshGraph, edges: Sequence[Tensor] | None = None
    ) -> dict[str, dict[str, Tensor]]:
        """{branch: {field: (N, c)}}, means over the members.

        Arguments:
            graph: as a member takes it.
            edges: of `encode_edges`.
        """
        if edges is None:
            each = [member(graph) for member in self.members]
        else:
            each = [m(graph, e) for m, e in zip(self.members, edges, strict=True)]
        return {
            branch: {name: torch.stack([y[branch][name] for y in each]).mean(0) for name in fields}
            for branch, fields in each[0].items()
        }
