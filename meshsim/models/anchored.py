"""Anchored transformer: learns from a few thousand anchors, answers at any point."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import pad

from meshsim.check import InputError, check_known
from meshsim.models.field import Branch, FieldBatch, FieldModel, Fields, Points
from meshsim.nn.anchor import AnchorBlock, Keys, SupernodePooling, rotations
from meshsim.nn.attention import Rotation
from meshsim.nn.fourier import SineCosine, unrounded
from meshsim.nn.mlp import MLP
from meshsim.nn.norm import RMSNorm
from meshsim.ops.anchors import anchor_blocks
from meshsim.physics.curl import curl, no_slip
from meshsim.physics.walls import squared_distance

# Queries a pass: always as many, so that the rounding of one does not depend on the others.
TILE, TILE_ON_GPU = 4096, 1 << 18
Stream: TypeAlias = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


@dataclass
class Latent:
    """What queries attend to.

    Arguments:
        keys: {branch: of each block}.
        condition: (B, H) what the parameters came to, or None.
        geometry: the points that were encoded.
        hidden: {branch: (B, A, H)} of the anchors after the last block.
        streams: {branch: arguments of `anchor_blocks` of each sample}, made when first needed.
    """

    keys: dict[str, list[Keys]]
    condition: Tensor | None
    geometry: Points
    hidden: dict[str, Tensor]
    streams: dict[str, list[Stream]] = field(default_factory=dict)


class AnchoredTransformer(FieldModel):
    """Anchored-branched transformer (Alkin et al., "AB-UPT", TMLR 2025).

    The geometry is pooled into S supernodes, which `geometry_blocks` let see each other. Anchors
    of each branch then pass through blocks with weights that all branches share, one for each
    letter of `blocks`: "p" attends to the geometry's tokens, "s" to the anchors of the same
    branch, "c" to those of the other branches, "j" to those of all; then through `own_blocks` of
    each branch with weights of its own, within the branch. Positions enter as sines and cosines
    and turn queries and keys (`rotations`); parameters modulate every block. Queries pass through
    the same blocks but give no keys: they change nothing, and do not see each other.

    Moving all coordinates changes the sines and cosines only (with `waves` = 0: nothing at all);
    turning or mirroring them changes the answer, as it does for the original.

    Fields in the `curl` of a branch are ∇ × ψ of what the network gives. With `no_slip` they are
    ∇ × (d²/(1 + d²) ψ), d being the distance to the body in units of the coordinates: zero on it
    whatever ψ is. A body of flat pieces makes d only piecewise smooth: across the surfaces on
    which two places of the body are equally near, the velocity jumps; elsewhere its divergence is
    zero. ψ being nothing on all of the body, no net flow passes between two bodies in the plane,
    nor through the hole of a ring in space.

    Under `torch.autocast` the products within blocks and of the messages between neighbours
    (their first layer excepted) are rounded. Positions, their sines and rotations, embeddings,
    norms, the rows that go from block to block, what parameters do, heads, and curls with all
    that they are differentiated through, keep the precision of the weights.

    Arguments:
        dim: D.
        geometry_in: columns of the geometry's features.
        branches: {name: `Branch`, or its table}.
        parameters: P; a time counts among them.
        width, heads, expansion: H, heads, and the gated MLP's width in H.
        blocks: letters, see above.
        own_blocks, geometry_blocks: how many.
        supernodes: S, at most as many as geometry points are given.
        neighbours, reach: of `SupernodePooling`.
        local: whether each anchor and each query also gathers the geometry's points about it, as
            the supernodes do: what an edge or a ridge is like is then seen where it counts.
        waves: wavelengths for each axis.
        length: the distance that rotary positions tell apart, in units of the coordinates.
        base: longest over shortest wavelength of the rotations.
        checkpoint: recompute each block in the backward pass, which takes less memory.

    Raises:
        InputError: sizes below 1, an unknown letter, "c" with one branch only.

    >>> net = AnchoredTransformer(3, 0, {"mesh": {"outputs": {"p": 1}}}, width=16, supernodes=8)
    >>> cloud = Points(torch.rand(1, 20, 3), torch.zeros(1, 20, 0))
    >>> latent = net.encode(cloud, torch.zeros(1, 0), {"mesh": cloud})
    >>> net.decode(latent, "mesh", cloud)["p"].shape
    torch.Size([1, 20, 1])
    """

    def __init__(
        self,
        dim: int,
        geometry_in: int,
        branches: Mapping[str, Branch | Mapping[str, Any]],
        parameters: int = 0,
        *,
        width: int = 64,
        heads: int = 4,
        expansion: int = 2,
        blocks: str = "psps",
        own_blocks: int = 0,
        geometry_blocks: int = 1,
        supernodes: int = 256,
        neighbours: int = 16,
        reach: float = 0.0,
        local: bool = False,
        waves: int = 6,
        length: float = 0.05,
        base: float = 100.0,
        checkpoint: bool = False,
    ):
        super().__init__()
        self.branches = {name: Branch.of(given) for name, given in branches.items()}
        sizes = {"dim": dim, "width": width, "heads": heads, "expansion": expansion}
        sizes |= {"supernodes": supernodes, "neighbours": neighbours, "branches": len(branches)}
        for name, size in sizes.items():
            if size < 1:
                raise InputError(f"`{name}`: expected 1 or more, got {size}")
        for letter in blocks:
            check_known(letter, "pscj", "letter of `blocks`:")
        if "c" in blocks and len(branches) < 2:
            raise InputError("`blocks`: 'c' attends to other branches, and there is one only")
        if not blocks and not own_blocks:
            raise InputError("`blocks`: expected one block or more")
        self.arguments: dict[str, Any] = {
            "dim": dim, "geometry_in": geometry_in, "parameters": parameters,
            "branches": {name: b.to_dict() for name, b in self.branches.items()},
            "width": width, "heads": heads, "expansion": expansion, "blocks": blocks,
            "own_blocks": own_blocks, "geometry_blocks": geometry_blocks,
            "supernodes": supernodes, "neighbours": neighbours, "reach": reach,
            "local": local, "waves": waves,
            "length": length, "base": base, "checkpoint": checkpoint,
        }  # fmt: skip
        self.letters, self.supernodes, self.checkpoint = blocks, supernodes, checkpoint
        self.heads, self.length, self.base = heads, length, base
        self.condition = None
        if parameters:
            self.condition = MLP(
                parameters, width, width=width, hidden_layers=1, activation="silu", norm=False
            )
        own = width if parameters else 0

        def block(tokens: bool = False) -> AnchorBlock:
            return AnchorBlock(width, heads, expansion, own, tokens)

        self.pool = SupernodePooling(dim, geometry_in, width, neighbours, reach, waves)
        self.geometry_blocks = nn.ModuleList(block() for _ in range(geometry_blocks))
        self.waves = SineCosine(dim, waves) if waves else None
        self.local = None
        if local:
            self.local = SupernodePooling(dim, geometry_in, width, neighbours, reach, 0)
            del self.local.out  # of the supernodes' own
        first = (self.waves.width if self.waves else 0) + (width if local else 0)
        self.embed = nn.ModuleDict({
            name: MLP(max(first + b.inputs, 1), width, width=width, hidden_layers=1,
                      activation="gelu", norm=False)
            for name, b in self.branches.items()
        })  # fmt: skip
        self.blocks = nn.ModuleList(block(letter == "p") for letter in blocks)
        self.own = nn.ModuleDict(
            {name: nn.ModuleList(block() for _ in range(own_blocks)) for name in self.branches}
        )
        self.head = nn.ModuleDict({
            name: nn.Sequential(RMSNorm(width), nn.Linear(width, sum(b.components.values())))
            for name, b in self.branches.items()
        })  # fmt: skip

    # --- encoding ---

    def encode(
        self,
        geometry: Points,
        parameters: Float[Tensor, "B P"],
        anchors: Mapping[str, Points] | None = None,
    ) -> Latent:
        """Keys and values of all blocks; arguments as for `FieldModel.encode`.

        A branch that has no anchors is not there: nobody sees it, and nothing can be asked of it.

        Raises:
            InputError: no anchors at all, or columns that do not fit.
        """
        anchors = anchors or {}
        for name in anchors:
            check_known(name, self.branches, "branch")
        if not anchors:
            raise InputError("`anchors`: expected those of one branch or more, got none")
        for name, points in anchors.items():
            self._check(points, self._columns(name), name)
        self._check(geometry, self.arguments["geometry_in"], "geometry")
        with unrounded(parameters):
            condition = None if self.condition is None else self.condition(parameters)
        body = self._tokens(geometry, condition)
        by = {name: self._turns(points.pos) for name, points in anchors.items()}
        x = {name: self._embedded(name, p, geometry) for name, p in anchors.items()}
        keys: dict[str, list[Keys]] = {name: [] for name in x}
        for letter, block in zip(self.letters, self.blocks, strict=True):
            assert isinstance(block, AnchorBlock)
            tokens = body if letter == "p" else None
            x, seen = block.together(x, by, condition, letter, tokens, self.checkpoint)
            for name in x:
                keys[name].append(seen[name])
        for name in x:
            for block in self.own[name]:  # type: ignore[attr-defined]
                row = {name: x[name]}
                row, seen = block.together(row, by, condition, again=self.checkpoint)
                x[name] = row[name]
                keys[name].append(seen[name])
        return Latent(keys, condition, geometry, x)

    def _tokens(self, geometry: Points, condition: Tensor | None) -> tuple[Tensor, Rotation]:
        count = min(self.supernodes, geometry.pos.shape[1])
        by = self._turns(geometry.pos[:, :count])
        tokens = {"": self.pool(geometry.pos, geometry.x, count)}
        for block in self.geometry_blocks:
            assert isinstance(block, AnchorBlock)
            tokens, _ = block.together(tokens, {"": by}, condition, again=self.checkpoint)
        return tokens[""], by

    def _turns(self, pos: Tensor) -> Rotation:
        return rotations(pos, self.arguments["width"] // self.heads, self.length, self.base)

    def _embedded(self, branch: str, points: Points, geometry: Points) -> Tensor:
        x = points.x[..., : self.branches[branch].inputs]
        parts = [x] if self.waves is None else [self.waves(points.pos), x]
        if self.local is not None:
            parts.append(self.local.gathered(*geometry, points.pos))
        rows = torch.cat(parts, 2)
        if rows.shape[2] == 0:
            rows = rows.new_zeros(*rows.shape[:2], 1)
        with unrounded(rows):
            return self.embed[branch](rows.flatten(0, 1)).unflatten(0, rows.shape[:2])

    def _columns(self, branch: str) -> int:
        return self.branches[branch].columns(self.arguments["dim"])

    def _check(self, points: Points, inputs: int, name: str) -> None:
        pos, x = points
        dim = self.arguments["dim"]
        if pos.ndim != 3 or pos.shape[2] != dim or x.shape != (*pos.shape[:2], inputs):
            raise InputError(
                f"{name}: expected positions (B, N, {dim}) and features (B, N, {inputs}),"
                f" got {tuple(pos.shape)} and {tuple(x.shape)}"
            )

    # --- decoding ---

    def decode(self, latent: Latent, branch: str, points: Points) -> Fields:
        """{field: (B, N, c)} at any points of a branch.

        Without gradients queries run in tiles of fixed size through one compiled operator: an
        answer then has the same bits whatever else is asked for.
        """
        check_known(branch, latent.keys, "branch with anchors:")
        self._check(points, self._columns(branch), branch)
        rows = self._streamed if not torch.is_grad_enabled() else self._direct
        if self.branches[branch].curl:
            rows = self._direct
            if not torch.is_grad_enabled() and points.pos.shape[1] > TILE:  # they take memory
                tiles = zip(*(t.split(TILE, 1) for t in points), strict=True)
                parts = [self.decode(latent, branch, Points(*tile)) for tile in tiles]
                return {name: torch.cat([y[name] for y in parts], 1) for name in parts[0]}
        return self._fields(branch, points, lambda p: rows(latent, branch, p))

    def _fields(self, branch: str, points: Points, rows: Any) -> Fields:
        spec = self.branches[branch]
        if not spec.curl:
            return self._split(branch, rows(points))
        with unrounded(points.pos):
            return self._curls(branch, points, rows)

    def _curls(self, branch: str, points: Points, rows: Any) -> Fields:
        spec = self.branches[branch]
        create = torch.is_grad_enabled()
        shape = points.pos.shape
        widths = list(spec.components.values())
        walls = spec.walls(points) if spec.no_slip else points.x[:0]
        nearest = torch.arange(len(walls), device=walls.device)

        def from_wall(pos: Tensor) -> Tensor:
            square = squared_distance(pos, walls, nearest)
            return square / (1 + square)

        def potential(name: str) -> Any:
            def of(pos: Tensor) -> Tensor:
                x = points.x.new_zeros(*shape[:2], 0)
                y = rows(Points(pos.unflatten(0, shape[:2]), x))
                return y.split(widths, 2)[list(spec.outputs).index(name)].flatten(0, 1)

            return no_slip(of, from_wall, squared=True) if spec.no_slip else of

        plain = self._split(branch, rows(points))
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            for name in spec.curl:
                flat = points.pos.flatten(0, 1)
                u = curl(potential(name), flat, create_graph=create)
                plain[name] = u.unflatten(0, shape[:2])
        return plain

    def _split(self, branch: str, y: Tensor) -> Fields:
        widths = self.branches[branch].components
        return dict(zip(widths, y.split(list(widths.values()), 2), strict=True))

    def _blocks(self, branch: str) -> Sequence[AnchorBlock]:
        return [*self.blocks, *self.own[branch]]  # type: ignore[misc, list-item]

    def _direct(self, latent: Latent, branch: str, points: Points) -> Tensor:
        by = self._turns(points.pos)
        x = self._embedded(branch, points, latent.geometry)
        for block, keys in zip(self._blocks(branch), latent.keys[branch], strict=True):
            x = block.answered(x, keys, by, latent.condition, self.checkpoint)
        return self._headed(branch, x)

    def _headed(self, branch: str, x: Tensor) -> Tensor:
        with unrounded(x):
            return self.head[branch](x)

    def _streamed(self, latent: Latent, branch: str, points: Points) -> Tensor:
        streams = self._streams(latent, branch)
        widths = sum(self.branches[branch].components.values())
        out = points.pos.new_empty(*points.pos.shape[:2], widths)
        rows_at_once = TILE_ON_GPU if out.is_cuda else TILE
        for b, stream in enumerate(streams):
            for first in range(0, points.pos.shape[1], rows_at_once):
                pos, x = (t[b, first : first + rows_at_once] for t in points)
                n = len(pos)
                tile = Points(*(pad(t, (0, 0, 0, rows_at_once - n))[None] for t in (pos, x)))
                cos, sin = self._turns(tile.pos)
                body = Points(*(t[b : b + 1] for t in latent.geometry))
                rows = self._embedded(branch, tile, body)[0]
                y = anchor_blocks(rows, *stream, cos[0], sin[0], self.heads, _EPS)
                out[b, first : first + n] = self.head[branch](y)[:n]
        return out

    def _streams(self, latent: Latent, branch: str) -> list[Stream]:
        """k, v, ptr, weight, bias, norm of every sample, kept with the latent."""
        if branch not in latent.streams:
            keys = latent.keys[branch]
            sizes = torch.tensor([0, *(k.k.shape[1] for k in keys)], device=keys[0].k.device)
            made: list[Stream] = []
            for b in range(len(keys[0].k)):
                condition = None if latent.condition is None else latent.condition[b : b + 1]
                folded = [blk.folded(blk.modulation(condition)) for blk in self._blocks(branch)]
                weight, bias, norm = (torch.stack(t).detach() for t in zip(*folded, strict=True))
                k, v = (torch.cat([t[i][b] for t in keys]).detach() for i in (0, 1))
                made.append((k, v, sizes.cumsum(0), weight, bias, norm))
            latent.streams[branch] = made
        return latent.streams[branch]

    # --- training ---

    def training_loss(self, batch: FieldBatch, share: float) -> Tensor:
        """As of every field model; anchors are the points themselves."""
        latent = self.encode(batch.geometry, batch.parameters, batch.points)
        out = {}
        for name, points in batch.points.items():
            if self.branches[name].curl:
                out[name] = self.decode(latent, name, points)
            else:  # what a query there would give
                out[name] = self._split(name, self._headed(name, latent.hidden[name]))
        return batch.loss(out)


_EPS = 1e-6
