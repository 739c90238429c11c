"""Training of neural fields: what the loop asks of a `Surrogate` and the clouds of its samples."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from meshsim.body import body_of
from meshsim.check import InputError, check_finite, check_known
from meshsim.clouds import AXES, Frame, Wanted, check_rows, cloud, fills, place_of, target
from meshsim.data.statistics import Moments, Normaliser
from meshsim.data.store import Store
from meshsim.domain import Domain, Places
from meshsim.mesh import Mesh
from meshsim.models.ensemble import Ensemble
from meshsim.models.field import FieldBatch, Points
from meshsim.prepared import Prepared
from meshsim.ranges import of_bodies, placed_by
from meshsim.sample import Sample
from meshsim.surrogate import Surrogate
from meshsim.surrogate_files import field_models
from meshsim.train.config import Config
from meshsim.train.evaluate import evaluate_surrogate
from meshsim.train.noise import ABSENT, CLOUD, MIRROR, draw, order
from meshsim.train.plan import Stage
from meshsim.train.warm_start import copy_weights, keep_statistics
from meshsim.train.world import World

BODIES = 8  # whose distances from the places about them are measured


@dataclass
class CloudFacts:
    """What the training samples say.

    Arguments:
        normaliser: statistics of fields, features and parameters.
        frame: of the bodies.
        ranges: of parameters, and of the sides and places of the bodies.
        wanted: {branch: …}.
        geometry: the branch that is the body.
        parameters: {name: components}.
        domains: {branch: where its places are}, of branches that fill the space about the body.
    """

    normaliser: Normaliser
    frame: Frame
    ranges: dict[str, tuple[float, float]]
    wanted: dict[str, Wanted]
    geometry: str
    parameters: dict[str, int]
    domains: dict[str, Domain] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for the run's record."""
        return {
            "statistics": self.normaliser.to_dict(),
            "frame": self.frame.to_dict(),
            "ranges": {name: list(pair) for name, pair in self.ranges.items()},
            "wanted": {name: vars(w) for name, w in self.wanted.items()},
            "geometry": self.geometry,
            "parameters": self.parameters,
            "domains": {name: d.to_dict() for name, d in self.domains.items()},
        }

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> CloudFacts:
        """What `to_dict` gave."""
        return cls(
            Normaliser.from_dict(raw["statistics"]),
            Frame(**raw["frame"]),
            {name: (low, high) for name, (low, high) in raw["ranges"].items()},
            {name: Wanted(**w) for name, w in raw["wanted"].items()},
            raw["geometry"],
            dict(raw["parameters"]),
            {name: Domain(**d) for name, d in raw.get("domains", {}).items()},
        )


class CloudTask:
    """Random draws of points of a store's samples.

    Arguments:
        config: the recipe.
        store: where the samples are.
        world: who else trains; each process takes its share of every batch.

    Raises:
        InputError: the recipe names no branch, or asks for what a neural field has not.
    """

    def __init__(self, config: Config, store: Store, world: World | None = None):
        self.config, self.store, self.world = config, store, world or World()
        if self.world.size > 1 and not (config.train.steps or config.train.calibrate):
            raise InputError("train.calibrate: several processes need a number of steps")
        if not config.surrogate.branches:
            raise InputError("surrogate.branches: expected one or more (what is to be predicted)")
        if config.train.loss == "l1":
            raise InputError("train.loss: expected mse or relative_l2 for a neural field, got l1")
        self.names = store.members(config.data.train)
        self.potential = config.surrogate.potential.flow()
        self._held: dict[str, Prepared] = {}

    def asked(self) -> dict[str, Any]:
        """What of the data decides the result, beside recipe and content: nothing."""
        return {}

    # --- statistics ---

    def gather(self, progress: Callable[..., None] | None) -> None:
        """Read the training samples once: statistics, places and sizes of all that is used."""
        settings = self.config.surrogate
        first = self.store.sample(self.names[0])
        geometry = settings.geometry or next(iter(first.branches))
        moments: dict[str, Moments] = {}
        wanted: dict[str, Wanted] = {}
        boxes: list[Tensor] = []
        about: dict[str, list[Places]] = {}
        scales: dict[str, list[float]] = {}
        for i, name in enumerate(self.names):
            sample = self.store.sample(name)
            body, meshes = self._meshes(sample, geometry)
            where = f"sample {name!r}, branch {geometry!r}"
            boxes.append(body.box)
            longest = float((body.box[1] - body.box[0]).max())
            unit = longest / 2 or 1.0 if settings.scaled else 1.0
            with _named(where):
                made = cloud(body, "point", settings.features, body, self.potential, unit=unit)
            for key, values in made.features.items():
                check_rows(values, f"{where}: feature {key!r}", "point")
                _add(moments, f"geometry/{key}", values)
            for branch, mesh in meshes.items():
                found = self._wanted(branch, mesh, name)
                where = f"sample {name!r}, branch {branch!r}"
                if wanted.setdefault(branch, found) != found:
                    raise InputError(
                        f"sample {name!r}, branch {branch!r}: fields {found.fields} at the"
                        f" {found.location}s, elsewhere {wanted[branch].fields}"
                        f" at the {wanted[branch].location}s"
                    )
                with _named(where):
                    made = cloud(
                        mesh, found.location, found.features, body, self.potential, unit=unit
                    )
                    if found.no_slip:
                        body_of(body)
                for key, values in made.features.items():
                    check_rows(values, f"{where}: feature {key!r}", found.location)
                    _add(moments, f"{branch}/{key}", values)
                for key in found.fields:
                    values = target(mesh, found.location, key, where)
                    with _named(where):
                        values = values / found.scale(key, sample.parameters)
                    _add(moments, f"{branch}:{key}", values)
                if fills(mesh, body, found.features):
                    with suppress(InputError):  # a body without a surface has no places about it
                        about.setdefault(branch, []).append(Places.of(made.pos, body, i < BODIES))
            self._check_parameters(sample)
            for key in {p for w in wanted.values() for s in w.scales.values() for p in s}:
                scales.setdefault(key, []).append(float(sample.parameters[key]))
            for key in settings.parameters:
                _add(moments, key, sample.parameters[key].reshape(1, -1))
            if progress is not None:
                progress(i + 1, len(self.names), "reading the training samples")
        parameters = {key: len(moments[key]) for key in settings.parameters}
        ranges = {k: (float(moments[k].min.min()), float(moments[k].max.max())) for k in parameters}
        for key, seen in scales.items():
            ranges.setdefault(key, (min(seen), max(seen)))
        placed = [axis for axis in AXES if axis not in settings.centred]
        ranges |= of_bodies(torch.stack(boxes), [*placed, *placed_by(self.potential)])
        table: dict[str, Any] = dict(moments)
        for key in moments:
            if key.endswith("/normal"):  # a unit vector stays one
                dim = len(moments[key])
                table[key] = (torch.zeros(dim), torch.ones(dim))
        for branch, want in wanted.items():
            for key in want.curl:  # one factor for all components, or it would not stay a curl
                m = moments[f"{branch}:{key}"]
                size = (m.variance + m.mean.square()).mean().sqrt()
                table[f"{branch}:{key}"] = (torch.zeros(len(m)), size.expand(len(m)))
        frame = Frame.of(boxes, settings.centred, settings.scaled)
        domains = {branch: Domain.of(found, frame.of_body) for branch, found in about.items()}
        self.facts = CloudFacts(
            Normaliser(table),
            frame,
            ranges,
            wanted,
            geometry,
            parameters,
            {branch: domain for branch, domain in domains.items() if domain is not None},
        )
        self._check_validation(geometry)

    def _check_validation(self, geometry: str) -> None:
        """What validation will read has what it needs: better said now than at the end."""
        split, most = self.config.data.valid, self.config.train.validate_samples
        if split == "valid" and split not in self.store.splits:
            return
        for name in self.store.members(split)[:most]:
            sample = self.store.sample(name)
            check_known(geometry, sample.branches, f"branch of sample {name!r}:")
            meshes = {k: v for k, v in sample.branches.items() if isinstance(v, Mesh)}
            for branch, want in self.facts.wanted.items():
                for key in want.fields if branch in meshes else ():
                    where = f"sample {name!r}, branch {branch!r}"
                    target(meshes[branch], want.location, key, where)
                    with _named(where):
                        want.scale(key, sample.parameters)
            self._check_parameters(sample)

    def _check_parameters(self, sample: Sample) -> None:
        for key in self.config.surrogate.parameters:
            check_known(key, sample.parameters, f"parameter of sample {sample.name!r}:")
            check_finite(sample.parameters[key], f"sample {sample.name!r}: parameter {key}")

    def _meshes(self, sample: Sample, geometry: str) -> tuple[Mesh, dict[str, Mesh]]:
        held = {k: v for k, v in sample.branches.items() if isinstance(v, Mesh)}
        for name in (geometry, *self.config.surrogate.branches):
            check_known(name, held, f"branch of sample {sample.name!r}:")
        return held[geometry], {name: held[name] for name in self.config.surrogate.branches}

    def _wanted(self, branch: str, mesh: Mesh, sample: str) -> Wanted:
        settings = self.config.surrogate.branches[branch]
        if not settings.fields:
            raise InputError(f"surrogate.branches.{branch}.fields: expected names, got none")
        where = f"sample {sample!r}, branch {branch!r}"
        places = {name: place_of(mesh, name, where) for name in settings.fields}
        location = places[settings.fields[0]]
        if set(places.values()) != {location}:
            raise InputError(f"{where}: expected all fields at one kind of place, got {places}")
        fields = {n: target(mesh, location, n, where).shape[1] for n in settings.fields}
        return Wanted(
            fields, location, settings.features, settings.anchors, settings.curl,
            settings.no_slip, settings.scales,
        )  # fmt: skip

    def take(self, facts: Mapping[str, Any]) -> None:
        """Statistics that a run's record holds, instead of `gather`."""
        self.facts = CloudFacts.from_dict(facts)

    # --- the surrogate ---

    def build(self, other: Path | str | None, new: bool) -> Surrogate:
        """The surrogate that is to be trained; arguments as for `GraphTask.build`."""
        known = None if other is None else Surrogate.load(other)
        if new and known is not None:
            keep_statistics(self.facts, known)
        facts, settings = self.facts, self.config.surrogate
        self.surrogate = Surrogate(
            self._model(),
            facts.normaliser,
            facts.frame,
            facts.wanted,
            geometry=facts.geometry,
            points=settings.points,
            features=settings.features,
            parameters=facts.parameters,
            potential=self.potential,
            symmetry=settings.symmetry,
            absent=settings.absent,
            domains=facts.domains,
            ranges=facts.ranges,
            configuration=self.config.to_dict(),
        )
        if known is not None and other is not None:
            copy_weights(self.surrogate, known, other)
        return self.surrogate

    def _model(self) -> Any:
        config, facts = self.config, self.facts
        cls = field_models()[config.model.name]
        own = {"dim", "geometry_in", "branches", "parameters"}
        known = [n for n in inspect.signature(cls).parameters if n not in own]
        for name in config.model.arguments:
            check_known(name, known, f"argument of the model {config.model.name}:")
        norm = facts.normaliser

        def width(where: str, names: Sequence[str]) -> int:
            return sum(len(norm.mean(f"{where}/{name}")) for name in names)

        branches = {
            name: {
                "inputs": width(name, w.features),
                "outputs": dict(w.fields),
                "curl": list(w.curl),
                "no_slip": w.no_slip,
            }
            for name, w in facts.wanted.items()
        }
        dim, inputs = len(facts.frame.origin), width("geometry", config.surrogate.features)
        parameters = sum(facts.parameters.values())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.train.seed)
            try:
                made = [
                    cls(dim, inputs, branches, parameters, **config.model.arguments)
                    for _ in range(config.model.members)
                ]
            except TypeError as error:
                raise InputError(f"model {config.model.name}: {error}") from error
        return made[0] if len(made) == 1 else Ensemble(made)

    # --- batches ---

    def enter(self, stage: Stage) -> None:
        """A stage needs nothing made ready."""

    def loss(self, number: int, stage: Stage, position: int, step: int, share: float) -> Tensor:
        """The loss of a step on random draws that seed, step and sample alone decide."""
        seed, n = self.config.train.seed, len(self.names)
        rows = []
        for i in range(position + self.world.rank, position + stage.batch, self.world.size):
            which = int(order(seed, number, i // n, n)[i % n])
            prepared = self._prepared(self.names[which])
            rows.append(self._drawn(self._present(prepared, step), step, i - position))
        # weights are rounded anew for each use, so that their gradients add up in float32
        low = self.config.train.precision == "bf16"
        device = self.surrogate.device.type
        with torch.autocast(device, torch.bfloat16, enabled=low, cache_enabled=False):
            return self.surrogate.model.training_loss(self._batch(rows), share)

    def _present(self, prepared: Prepared, step: int) -> Prepared:
        """A sample without the branches that this step leaves out."""
        random = draw(self.config.train.seed, ABSENT, step).random(len(prepared.branches))
        out = random < self.config.surrogate.absent
        kept = {
            name: prepared.branches[name]
            for name, gone in zip(prepared.branches, out, strict=True)
            if not gone or name == self.facts.geometry
        }
        return prepared._replace(branches=kept) if kept else prepared

    def _prepared(self, name: str) -> Prepared:
        if name not in self._held:
            sample, facts = self.store.sample(name), self.facts
            made = self.surrogate.prepare(sample, {})
            _, meshes = self._meshes(sample, facts.geometry)
            targets: dict[str, dict[str, Tensor]] = {}
            for branch, want in facts.wanted.items():
                targets[branch] = {}
                for key in want.fields:
                    y = target(meshes[branch], want.location, key, f"sample {name!r}").double()
                    y = facts.normaliser.encode(
                        f"{branch}:{key}", y / made.scales.get(f"{branch}:{key}", 1.0)
                    )
                    targets[branch][key] = y.to(made.parameters)
            self._held[name] = made._replace(targets=targets)
        return self._held[name]

    def _drawn(self, prepared: Prepared, step: int, place: int) -> Prepared:
        train, settings = self.config.train, self.config.surrogate
        random = draw(train.seed, CLOUD, step, place)

        def rows(of: Tensor, count: int) -> Tensor:
            taken = random.choice(len(of), min(count, len(of)), replace=False)
            return torch.from_numpy(taken).to(of.device)

        take = rows(prepared.geometry[0], settings.points)
        branches, targets = {}, {}
        for name, (pos, x) in prepared.branches.items():
            held = prepared.rows.get(name)
            chosen = rows(pos if held is None else held, self.facts.wanted[name].anchors)
            chosen = chosen if held is None else held[chosen]
            branches[name] = (pos[chosen], x[chosen])
            targets[name] = {key: y[chosen] for key, y in prepared.targets[name].items()}
        geometry = (prepared.geometry[0][take], prepared.geometry[1][take])
        part = Prepared(geometry, branches, prepared.parameters, targets)
        flips = draw(train.seed, MIRROR, step, place).random(len(AXES)) < 0.5
        axes = [axis for axis in train.mirror if flips[AXES.index(axis)]]
        return self.surrogate.mirrored(part, axes)

    def _batch(self, rows: Sequence[Prepared]) -> FieldBatch:
        def joined(clouds: Sequence[tuple[Tensor, Tensor]], where: str) -> Points:
            if len({len(pos) for pos, _ in clouds}) > 1:
                fewest = min(len(pos) for pos, _ in clouds)
                raise InputError(
                    f"{where}: a sample has only {fewest} places: lower the number of points or"
                    " anchors to that, or train.batch to 1"
                )
            return Points(*(torch.stack(part) for part in zip(*clouds, strict=True)))

        wanted = {name: self.facts.wanted[name] for name in rows[0].branches}
        targets = {
            name: {key: torch.stack([r.targets[name][key] for r in rows]) for key in w.fields}
            for name, w in wanted.items()
        }
        offsets = None
        if self.config.train.loss == "relative_l2":
            norm = self.facts.normaliser
            offsets = {
                name: {k: norm.mean(f"{name}:{k}") / norm.std(f"{name}:{k}") for k in w.fields}
                for name, w in wanted.items()
            }
        return FieldBatch(
            joined([r.geometry for r in rows], "geometry"),
            torch.stack([r.parameters for r in rows]),
            {name: joined([r.branches[name] for r in rows], name) for name in wanted},
            targets,
            offsets,
        )

    def evaluate(self, surrogate: Any, names: Sequence[str]) -> dict[str, Any]:
        """Validation errors; see `evaluate_surrogate`."""
        return evaluate_surrogate(surrogate, self.store, split=names)


@contextmanager
def _named(where: str) -> Iterator[None]:
    """Errors in there name the sample."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{where}: {error}") from error


def _add(moments: dict[str, Moments], key: str, values: Tensor) -> None:
    moments.setdefault(key, Moments(values.shape[1])).update(values)
