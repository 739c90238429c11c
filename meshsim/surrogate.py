"""Surrogate: a field model and all that it takes to ask it about a body or a mesh."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from meshsim.body import body_of
from meshsim.check import InputError, WorkError, check_count, check_finite, check_known
from meshsim.clouds import AXES, Cloud, Frame, Wanted, cloud, place_features, used
from meshsim.data.statistics import Normaliser
from meshsim.domain import Domain
from meshsim.mesh import ArrayLike, Mesh, as_tensor
from meshsim.models.ensemble import Ensemble
from meshsim.models.field import FieldModel, Fields, Points
from meshsim.potential import Potential
from meshsim.prepared import Prepared, drawn, image, mirrors, picked
from meshsim.ranges import body_outside, outside, without_count
from meshsim.ranges import values as numbers
from meshsim.sample import Sample
from meshsim.series import Series

CHUNK = 1 << 20  # points that are decoded before their fields are put away


class Surrogate(nn.Module):
    """A trained field model that answers on any mesh about any body.

    Arguments:
        model: on normalised inputs.
        normaliser: statistics of "branch:field", "branch/feature", "geometry/feature" and
            parameters.
        frame: how coordinates are scaled.
        branches: {name: what is predicted there}.
        geometry: the branch of a sample that is the body's surface.
        points: how many of its points a pass looks at.
        features: of those points.
        parameters: {name: components}.
        potential: the flow of the features "potential_…".
        symmetry: axes over whose mirror image every prediction is averaged; the frame must be
            centred along them.
        absent: share of the training steps on which a branch was left out; if 0, predictions on
            some of the branches only come with a warning.
        domains: {branch: where its places were}, of those that fill the space about the body; with
            it they need no mesh to be present in a prediction on the other branches.
        ranges: {parameter: (lowest, highest)} seen in training; "box.x", … for the sides of the
            bodies' bounding boxes, "low.x", … for where they begin; see `meshsim.ranges`.
        configuration: the recipe it was trained with, for the record.

    Raises:
        InputError: parts that do not fit together.
    """

    def __init__(
        self,
        model: FieldModel,
        normaliser: Normaliser,
        frame: Frame,
        branches: Mapping[str, Wanted],
        *,
        geometry: str,
        points: int = 2048,
        features: Sequence[str] = (),
        parameters: Mapping[str, int] | None = None,
        potential: Potential | None = None,
        symmetry: Sequence[str] = (),
        absent: float = 0.0,
        domains: Mapping[str, Domain] | None = None,
        ranges: Mapping[str, Sequence[float]] | None = None,
        configuration: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        check_count(points, "points")
        self.model, self.normaliser, self.frame = model, normaliser, frame
        self.branches, self.geometry, self.points = dict(branches), geometry, points
        self.features, self.parameters_of = tuple(features), dict(parameters or {})
        self.potential, self.symmetry, self.absent = potential, tuple(symmetry), absent
        self.domains = dict(domains or {})
        self.ranges = {name: (float(r[0]), float(r[1])) for name, r in (ranges or {}).items()}
        self.configuration = configuration
        self.precision = "fp32"
        for axis in self.symmetry:
            check_known(axis, frame.centred, "axis of symmetry, centred:")
        for name in self.quantities():
            if name not in normaliser:
                raise InputError(f"statistics of {name!r} are missing")

    def quantities(self) -> dict[str, int]:
        """{quantity: components} of all that has statistics; features are counted from those."""
        out = {f"{b}:{f}": n for b, w in self.branches.items() for f, n in w.fields.items()}
        out |= {f"{b}/{f}": 0 for b, w in self.branches.items() for f in w.features}
        return out | {f"geometry/{f}": 0 for f in self.features} | self.parameters_of

    @property
    def asked(self) -> list[str]:
        """Names of all parameters that a prediction needs: inputs, and what fields scale with."""
        scales = [s for want in self.branches.values() for s in want.scales.values()]
        return list(dict.fromkeys([*self.parameters_of, *(name for s in scales for name in s)]))

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return next((p.dtype for p in self.parameters()), torch.float32)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next((p.device for p in self.parameters()), torch.device("cpu"))

    # --- from a sample to numbers ---

    def meshes(self, data: Mesh | Sample) -> tuple[Mesh, dict[str, Mesh]]:
        """The body, and the mesh of each branch that is there.

        Arguments:
            data: a sample with the body among its branches; a mesh is the body alone, and the
                branch of the same name.

        Raises:
            InputError: no body, or nothing to predict on.
        """
        if isinstance(data, Mesh):
            body, held = data, {self.geometry: data}
        else:
            name = self.geometry
            if name not in data.branches and len(data.branches) == 1:
                name = next(iter(data.branches))  # a plain file's only branch
            check_known(name, data.branches, f"branch of sample {data.name!r}:")
            held = {k: _steady(v) for k, v in data.branches.items()}
            body = held[name]
            held.setdefault(self.geometry, body)
        found = {name: held[name] for name in self.branches if name in held}
        if not found:
            wanted = ", ".join(self.branches)
            raise InputError(f"nothing to predict on: expected a branch among {wanted}")
        return body, found

    def prepare(
        self,
        data: Mesh | Sample,
        parameters: Mapping[str, ArrayLike] | None = None,
        fill: bool = False,
    ) -> Prepared:
        """A sample in the model's numbers, without its targets.

        Arguments:
            data: see `meshes`.
            parameters: {name: value}, over those of the sample.
            fill: whether places are drawn for branches that are not there, where a domain of the
                training is known.

        Raises:
            InputError: a branch, feature or parameter is missing or does not fit.
        """
        for name in parameters or {}:
            check_known(name, self.asked, "parameter")
        body, meshes = self.meshes(data)
        known = self._known(data, parameters)
        if body.dim != self.dim:
            raise InputError(f"expected a body in {self.dim}-D as in training, got {body.dim}-D")
        origin, length = self.frame.of_body(body.box)
        unit = length if self.frame.scaled else 1.0

        def scaled(made: Cloud, where: str) -> tuple[Tensor, Tensor]:
            def place(x: Tensor) -> Tensor:
                return ((x - origin.to(x)) / length).to(self.device, self.dtype)

            pos = place(made.pos)
            parts = [pos[:, :0]]
            for name, values in made.features.items():
                parts.append(self.normaliser.encode(f"{where}/{name}", values).to(pos))
            if made.walls is not None:
                parts.append(place(made.walls.to(made.pos)).flatten(1))
            return pos, torch.cat(parts, 1)

        made = cloud(body, "point", self.features, body, self.potential, unit=unit)
        geometry, branches, filled = scaled(made, "geometry"), {}, {}
        on = used(body, "point")
        geometry = geometry if on is None else (geometry[0][on], geometry[1][on])
        drawn_from: dict[str, Tensor] = {}
        scales: dict[str, float] = {}
        for name, mesh in meshes.items():
            want = self.branches[name]
            made = cloud(
                mesh, want.location, want.features, body, self.potential,
                unit=unit, walls=want.no_slip,
            )  # fmt: skip
            branches[name] = scaled(made, name)
            on = used(mesh, want.location)
            drawn_from |= {} if on is None else {name: on}
            scales |= {f"{name}:{key}": want.scale(key, known) for key in want.scales}
        for name in self.fillable(data) if fill else ():
            want = self.branches[name]
            places = self.domains[name].draw(body_of(body), origin, length, 2 * want.anchors)
            if len(places):
                found, walls = place_features(
                    places, want.features, body, unit=unit, walls=want.no_slip
                )
                filled[name] = scaled(Cloud(places, found, walls), name)
        return Prepared(geometry, branches, self._row(known), {}, filled, scales, drawn_from)

    def _known(
        self, data: Mesh | Sample, parameters: Mapping[str, ArrayLike] | None
    ) -> dict[str, Tensor]:
        """All parameters: of the body's mesh, over them the sample's, over them those given."""
        own = data.parameters if isinstance(data, Sample) else {}
        return {**self.meshes(data)[0].global_fields, **own, **numbers(parameters or {})}

    def fillable(self, data: Mesh | Sample) -> list[str]:
        """Branches that are not there and whose places can be drawn about the body."""
        body, found = self.meshes(data)
        surface = body.cell_dim == body.dim - 1
        return [name for name in self.domains if name not in found and surface]

    def _row(self, known: Mapping[str, ArrayLike]) -> Tensor:
        rows = [torch.zeros(0)]
        for name, components in self.parameters_of.items():
            if name not in known:
                names = ", ".join(self.asked)
                raise InputError(f"parameter {name!r} is missing (needed: {names})")
            row = as_tensor(known[name]).reshape(-1).double()
            if len(row) != components:
                raise InputError(
                    f"parameter {name!r}: expected {components} values, got {len(row)}"
                )
            check_finite(row, f"parameter {name}")
            rows.append(self.normaliser.encode(name, row))
        return torch.cat([r.to(self.device, self.dtype) for r in rows])

    def outside(
        self, data: Mesh | Sample, parameters: Mapping[str, ArrayLike] | None = None
    ) -> list[str]:
        """A sentence for each parameter, and each side of the body, outside the training range."""
        found = outside(self.ranges, self._known(data, parameters))
        return found + body_outside(self.ranges, self.meshes(data)[0])

    # --- what a user calls ---

    @torch.no_grad()
    def predict(
        self,
        data: Mesh | Sample,
        parameters: Mapping[str, ArrayLike] | None = None,
        *,
        draws: int = 1,
        spread: bool = False,
        seed: int = 0,
        fill: bool = True,
        progress: Callable[[int, int], None] | None = None,
    ) -> Mesh | Sample:
        """Predict all fields on the branches that are there.

        Arguments:
            data: a body, or a sample; see `meshes`.
            parameters: {name: value}, over those of the sample.
            draws: how many draws of anchors to average over.
            spread: add "<field>_spread", the deviation over draws and the members of an ensemble.
            seed: of the draws.
            fill: whether a branch without a mesh is present all the same, where it fills the space
                about the body as in training: by places that are drawn there. They follow the
                body, not its mirror image: only with `fill` off is a prediction without that mesh
                as symmetric as `symmetry` says.
            progress: called with (points done, points).

        Returns:
            The same mesh or sample with the fields, places in their order. Where parameters or
            body lie outside the training a warning says so, and the global field "extrapolation"
            counts how many.

        Raises:
            InputError: something is missing or does not fit.
            WorkError: a prediction is not finite.
        """
        if torch.is_inference_mode_enabled():  # fields that are curls take gradients even there
            how: dict[str, Any] = {"draws": draws, "spread": spread, "seed": seed, "fill": fill}
            with torch.inference_mode(False), torch.no_grad():
                return self.predict(data, parameters, **how, progress=progress)
        if spread and draws < 2 and not isinstance(self.model, Ensemble):
            raise InputError(f"`draws`: expected 2 or more for a spread, got {draws}")
        sentences = self.outside(data, parameters)
        for sentence in sentences:
            warnings.warn(sentence, stacklevel=3)
        self.eval()
        prepared = self.prepare(data, parameters, fill)
        there = {**prepared.branches, **prepared.filled}
        missing = [name for name in self.branches if name not in there]
        if missing and not self.absent:
            warnings.warn(
                f"no branch {', '.join(missing)}: the training always had it"
                " (surrogate.absent teaches to do without)",
                stacklevel=3,
            )
        sums = self.moments(prepared, draws, seed, progress)
        _, meshes = self.meshes(data)
        out = {}
        for name, mesh in meshes.items():
            fields = {}
            for key, (mean, square) in sums[name].items():
                if not torch.isfinite(mean).all():
                    raise WorkError(f"the prediction of {key!r} is not finite")
                fields[key] = _columns(mean)
                if spread:
                    fields[f"{key}_spread"] = _columns(square)
            known = mesh.with_fields(**{self.branches[name].location: fields})
            held = without_count(mesh.global_fields, len(sentences))
            out[name] = known.replace(global_fields=held)
        if isinstance(data, Mesh):
            return out[self.geometry]
        if len(data.branches) == 1 and len(out) == 1:
            return Sample({k: next(iter(out.values())) for k in data.branches}, data.parameters)
        rest = {k: v for k, v in data.branches.items() if k not in out}
        return Sample({**rest, **out}, data.parameters, data.name)

    @torch.no_grad()
    def moments(
        self,
        prepared: Prepared,
        draws: int = 1,
        seed: int = 0,
        progress: Callable[[int, int], None] | None = None,
    ) -> dict[str, dict[str, tuple[Tensor, Tensor]]]:
        """{branch: {field: (mean, deviation)}} (N, c) over draws and members, decoded."""
        images = mirrors(self.symmetry)
        passes = draws * len(images)
        total = passes * sum(len(pos) for pos, _ in prepared.branches.values())
        done = 0
        means: dict[str, dict[str, tuple[Tensor, Tensor]]] = {}
        runs: dict[tuple[int, int], dict[str, Fields]] = {}
        for draw in range(draws):
            for axes in images:
                given = self.mirrored(prepared, axes)
                latent = self._latent(given, seed + draw)
                for name, (pos, x) in given.branches.items():
                    parts: list[list[Fields]] = []
                    for first in range(0, len(pos), CHUNK):
                        part = Points(*(t[None, first : first + CHUNK] for t in (pos, x)))
                        parts.append(self.model.decode_each(latent, name, part))
                        done += part.pos.shape[1]
                        if progress is not None:
                            progress(done, total)
                    for member, fields in enumerate(zip(*parts, strict=True)):
                        held = runs.setdefault((draw, member), {}).setdefault(name, {})
                        for key in self.branches[name].fields:
                            y = torch.cat([f[key][0] for f in fields])
                            y = self.normaliser.decode(f"{name}:{key}", y.double())
                            y = self._turn(y, axes) / len(images)
                            y = y * prepared.scales.get(f"{name}:{key}", 1.0)
                            held[key] = held[key] + y if key in held else y
        for name in prepared.branches:
            means[name] = {}
            for key in self.branches[name].fields:
                ys = torch.stack([run[name][key] for run in runs.values()])
                means[name][key] = (ys.mean(0).cpu(), ys.std(0, correction=0).cpu())
        return means

    def _latent(self, prepared: Prepared, seed: int) -> Any:
        """Encode a draw of geometry points and anchors."""
        draw = torch.Generator().manual_seed(seed)
        geometry = picked(prepared.geometry, self.points, draw)
        anchors = {}
        there = {**prepared.branches, **prepared.filled}
        for name, want in self.branches.items():
            if name in there:
                places = drawn(there[name], prepared.rows.get(name))
                anchors[name] = picked(places, want.anchors, draw)
        return self.model.encode(geometry, prepared.parameters[None], anchors)

    # --- symmetry ---

    def mirrored(self, prepared: Prepared, axes: Sequence[str]) -> Prepared:
        """The mirror image of a sample, targets included."""
        return image(prepared, axes, self.normaliser, self.features, self.branches)

    @property
    def dim(self) -> int:
        """D."""
        return len(self.frame.origin)

    def _turn(self, y: Tensor, axes: Sequence[str]) -> Tensor:
        """Decoded values (N, c) of a mirror image turned back."""
        for axis in axes:
            if y.shape[1] == self.dim > 1:
                y = y.clone()
                y[:, AXES.index(axis)] *= -1
        return y

    # --- on disk ---

    def save(self, folder: Path | str) -> None:
        """Write `model.safetensors` and `simulator.json` into a folder; see `load`."""
        from meshsim.surrogate_files import save

        save(self, Path(folder))

    @classmethod
    def load(cls, folder: Path | str) -> Surrogate:
        """Read what `save` wrote; nothing is unpickled.

        Raises:
            InputError: a missing or damaged file, tensors that do not fit the architecture.
        """
        from meshsim.surrogate_files import load

        return load(cls, Path(folder))

    def describe(self) -> dict[str, Any]:
        """All but model and statistics, as plain data."""
        return {
            "frame": self.frame.to_dict(),
            "branches": {name: asdict(w) for name, w in self.branches.items()},
            "geometry": self.geometry,
            "points": self.points,
            "features": list(self.features),
            "parameters": self.parameters_of,
            "potential": None if self.potential is None else asdict(self.potential),
            "symmetry": list(self.symmetry),
            "absent": self.absent,
            "domains": {name: d.to_dict() for name, d in self.domains.items()},
            "ranges": {name: list(r) for name, r in self.ranges.items()},
            "configuration": self.configuration,
        }


def _steady(content: Mesh | Series) -> Mesh:
    return content.frame(0) if isinstance(content, Series) else content


def _columns(y: Float[Tensor, "N c"]) -> Tensor:
    return y[:, 0].contiguous() if y.shape[1] == 1 else y
