"""A simulator or surrogate on samples it may not have seen, always beside baselines."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from meshsim.check import InputError, check_known
from meshsim.clouds import target
from meshsim.committee import Committee
from meshsim.data.frames import Picked, read_block
from meshsim.data.schema import Field, find_in
from meshsim.data.store import Store
from meshsim.mesh import Mesh
from meshsim.metrics import baselines, compare, relative_l2, rmse, wake
from meshsim.rollout import State, rollout
from meshsim.sample import Sample
from meshsim.series import Series
from meshsim.simulator import Simulator
from meshsim.surrogate import Surrogate

Errors = dict[str, dict[str, float]]


def evaluate(
    simulator: Simulator,
    store: Store,
    *,
    split: str | Sequence[str] = "test",
    steps: int | None = None,
    start: int = 0,
    n: int = 50,
    one_step: int = 50,
    progress: Callable[..., None] | None = None,
) -> dict[str, Any]:
    """Errors of every state (one step, n steps, whole rollout) and target, and of the baselines.

    Arguments:
        simulator: what to judge.
        store: where the samples are.
        split: its name, or names of samples.
        steps: length of the rollouts in the simulator's steps; None goes to the end.
        start: frame a rollout starts from; the frames before it are known history, from which
            the baseline "last_period" takes its period.
        n: the middle horizon.
        one_step: how many frames, spread over the rollout, to predict from the true frame
            before each; 0: the rollout's first step stands for it.
        progress: called with (done, samples, name).

    Returns:
        {"split", "samples": number, "metrics": {field: {metric: mean over samples}},
        "baselines": {name: {field: {metric: value}}}, "cases": {sample: {field: {"model": …,
        "persistence": …, …, "wake": …}}}}.
    """
    names = store.members(split)
    if not names:
        raise InputError(f"{store.path}: split {split!r} is empty")
    training = simulator.training
    simulator.eval()
    cases: dict[str, dict[str, Errors]] = {}
    try:
        for i, name in enumerate(names):
            if progress is not None:
                progress(i, len(names), name)
            sample = store.sample(name)
            cases[name] = evaluate_sample(
                simulator, sample, steps=steps, start=start, n=n, one_step=one_step
            )
    finally:
        simulator.train(training)
    if progress is not None:
        progress(len(names), len(names), "")
    return _report(cases, split)


@torch.no_grad()
def evaluate_sample(
    simulator: Simulator,
    sample: Sample,
    *,
    steps: int | None = None,
    start: int = 0,
    n: int = 50,
    one_step: int = 50,
) -> dict[str, Errors]:
    """{field: {"model": errors, baseline: errors}} of one sample; see `evaluate`."""
    branch = simulator.branch
    if branch:
        check_known(branch, sample.branches, f"branch of sample {sample.name!r}:")
    content = sample.branches[branch] if branch else sample.branch
    simulator.schema.check(sample, values=False)
    if simulator.schema.states:
        if not isinstance(content, Series):
            raise InputError(f"sample {sample.name!r}: expected a series in time, got one mesh")
        return _in_time(simulator, sample, content, steps, start, n, one_step)
    mesh = content.frame(start) if isinstance(content, Series) else content
    return _steady(simulator, sample, mesh)


def _steady(simulator: Simulator, sample: Sample, mesh: Mesh) -> dict[str, Errors]:
    answer = simulator.predict(_alone(simulator, mesh, sample))
    out: dict[str, Errors] = {}
    for field in simulator.schema.targets:
        truth = _rows(mesh, field)
        guess = _rows(answer, field)
        baseline, mean = "training_mean", simulator.normaliser.mean(field.name).cpu().to(truth)
        if field.scale is not None:  # the normaliser then knows no mean
            baseline, mean = "own_mean", truth.mean(0)
        out[field.name] = {
            name: {"rmse": rmse(truth, x), "relative_l2": relative_l2(truth, x)}
            for name, x in (("model", guess), (baseline, mean.expand(truth.shape)))
        }
    return out


def _alone(simulator: Simulator, mesh: Mesh, sample: Sample) -> Sample:
    """A sample of that mesh only, under the branch that the simulator looks for."""
    return Sample({simulator.branch or "mesh": mesh}, sample.parameters, sample.name)


def _rows(mesh: Mesh, field: Field) -> Tensor:
    held = mesh.point_fields if field.location == "point" else mesh.cell_fields
    return held[field.name].reshape(len(held[field.name]), -1).double()


def _in_time(
    simulator: Simulator,
    sample: Sample,
    series: Series,
    steps: int | None,
    start: int,
    n: int,
    one_step: int,
) -> dict[str, Errors]:
    stride = frames_a_step(simulator, series, sample.name)
    before = start // stride
    first = start - before * stride  # history at the same distance as the steps
    count = (len(series) - 1 - first) // stride + 1
    most = count - 1 - before
    steps = most if steps is None else min(steps, most)
    if steps < 1:
        raise InputError(
            f"sample {sample.name!r}: no frame after frame {start} to compare with"
            f" ({len(series)} frames, {stride} a step)"
        )
    fields = (*simulator.schema.states, *simulator.schema.targets)
    frames = {f.name: _frames(series, f, first, stride, before + 1 + steps) for f in fields}
    graph = simulator.with_edges(simulator.graph(_alone(simulator, series.mesh, sample)))
    nodes = graph.node_point.cpu() if simulator.location == "point" else slice(None)

    def at(t: int) -> dict[str, Tensor]:
        put = {f.name: frames[f.name][t][nodes] for f in simulator.schema.states}
        return {k: x.to(simulator.device, simulator.dtype) for k, x in put.items()}

    def following(state: State) -> list[State]:
        ahead = simulator.advance(graph, state)[0]
        return [{k: x[i] for k, x in ahead.items()} for i in range(simulator.bundle)]

    def whole(state: State) -> State:
        return state | simulator.evaluate(graph, state)[1] if simulator.schema.targets else state

    rolled = [whole(state) for state in rollout(following, at(before), steps)]
    chosen = torch.linspace(0, steps - 1, min(one_step, steps)).round().long()  # (K,)
    ahead = [whole(following(at(before + int(i)))[0]) for i in chosen]
    out: dict[str, Errors] = {}
    for field in fields:
        known = frames[field.name][: before + 1][:, nodes]
        truth = frames[field.name][before + 1 :][:, nodes]
        guess = torch.stack([s[field.name].cpu() for s in rolled]).to(truth)
        judged: Tensor | None = None
        if one_step:
            judged = torch.stack([s[field.name].cpu() for s in ahead]).to(truth)
        out[field.name] = {
            "model": compare(truth, guess, one_step=judged, frames=chosen, n=n),
            **baselines(known, truth, frames=chosen if one_step else chosen.new_zeros(1), n=n),
        }
        if steps >= 32:
            out[field.name]["wake"] = wake(truth, guess, simulator.dt or 1.0)
    return out


def _frames(series: Series, field: Field, first: int, stride: int, count: int) -> Tensor:
    """(count, P, c) frames of a field, float32."""
    place = next(find_in(series, field))
    if place.frames is None:
        assert place.values is not None
        values = place.values.reshape(1, len(place.values), -1)
        return values.expand(count, *values.shape[1:]).float()
    picked = Picked(place.frames, first, stride, count)
    block = read_block(picked, 0, count)
    return block.reshape(count, block.shape[1], -1).float()


def frames_a_step(simulator: Simulator, series: Series, name: str) -> int:
    """How many frames of a series make one step of the simulator.

    Raises:
        InputError: none does, or not a whole number.
    """
    if len(series) < 2:
        raise InputError(f"sample {name!r}: expected two times or more, got {len(series)}")
    spacing = (float(series.times[-1]) - float(series.times[0])) / (len(series) - 1)
    ratio = (simulator.dt or spacing) / spacing
    if round(ratio) < 1 or abs(ratio - round(ratio)) > 0.01 * ratio:
        raise InputError(
            f"sample {name!r}: frames {spacing:g} apart do not fit the simulator's step"
            f" of {simulator.dt:g}"
        )
    return round(ratio)


def _means(cases: Mapping[str, Mapping[str, Errors]]) -> dict[str, dict[str, dict[str, float]]]:
    """{who: {field: {metric: mean over the samples that have it}}}, "wake" left out."""
    lists: dict[str, dict[str, dict[str, list[float]]]] = {}
    for fields in cases.values():
        for field, rows in fields.items():
            for who, errors in rows.items():
                if who == "wake":
                    continue
                table = lists.setdefault(who, {}).setdefault(field, {})
                for metric, value in errors.items():
                    table.setdefault(metric, []).append(value)
    return {
        who: {
            field: {metric: math.fsum(v) / len(v) for metric, v in table.items()}
            for field, table in fields.items()
        }
        for who, fields in lists.items()
    }


def evaluate_surrogate(
    surrogate: Surrogate,
    store: Store,
    *,
    split: str | Sequence[str] = "test",
    draws: int = 1,
    progress: Callable[..., None] | None = None,
) -> dict[str, Any]:
    """Errors of every field, beside the training mean.

    Arguments:
        surrogate: what to judge.
        store: where the samples are.
        split: its name, or names of samples.
        draws: of anchors, for each sample.
        progress: called with (done, samples, name).

    Returns:
        As `evaluate`; fields are "branch.field" where there are several branches.
    """
    names = store.members(split)
    if not names:
        raise InputError(f"{store.path}: split {split!r} is empty")
    single = len(surrogate.branches) == 1
    cases: dict[str, dict[str, Any]] = {}
    training = surrogate.training
    surrogate.eval()
    for i, name in enumerate(names):
        if progress is not None:
            progress(i, len(names), name)
        sample = store.sample(name)
        prepared = surrogate.prepare(sample, fill=True)
        sums = surrogate.moments(prepared, draws)
        _, meshes = surrogate.meshes(sample)
        cases[name] = {}
        for branch, fields in sums.items():
            for key, (guess, _) in fields.items():
                place = surrogate.branches[branch].location
                truth = target(meshes[branch], place, key, f"sample {name!r}").double()
                mean = surrogate.normaliser.mean(f"{branch}:{key}").cpu().expand(truth.shape)
                mean = mean * prepared.scales.get(f"{branch}:{key}", 1.0)
                cases[name][key if single else f"{branch}.{key}"] = {
                    who: {"rmse": rmse(truth, y), "relative_l2": relative_l2(truth, y)}
                    for who, y in (("model", guess), ("training_mean", mean))
                }
    surrogate.train(training)
    if progress is not None:
        progress(len(names), len(names), "")
    return _report(cases, split)


def _report(cases: dict[str, dict[str, Any]], split: str | Sequence[str]) -> dict[str, Any]:
    means = _means(cases)
    return {
        "split": split if isinstance(split, str) else list(split),
        "samples": len(cases),
        "metrics": means.pop("model"),
        "baselines": means,
        "cases": cases,
    }


def evaluate_committee(
    committee: Committee,
    store: Store,
    *,
    split: str | Sequence[str] = "test",
    draws: int = 1,
    progress: Callable[..., None] | None = None,
) -> dict[str, Any]:
    """Errors of every field of a committee, beside the mean of its members' training means.

    Of a field of which no member knows a mean (see `Field.scale`): beside the sample's own mean.
    Arguments and result as for `evaluate_surrogate`.
    """
    names = store.members(split)
    if not names:
        raise InputError(f"{store.path}: split {split!r} is empty")
    cases: dict[str, dict[str, Any]] = {}
    for i, name in enumerate(names):
        if progress is not None:
            progress(i, len(names), name)
        sample = store.sample(name)
        mesh = committee.content(sample)
        found = committee.predict(sample, draws=draws)
        held = found.point_fields if committee.location == "point" else found.cell_fields
        known = {**mesh.global_fields, **sample.parameters}
        cases[name] = {}
        for key in committee.fields:
            truth = target(mesh, committee.location, key, f"sample {name!r}").double()
            guess = held[key].double().reshape(truth.shape)
            means = [_training_mean(member, key, known) for member in committee.members]
            pairs = [(w, m) for w, m in zip(committee.weights, means, strict=True) if m is not None]
            baseline, mean = "own_mean", truth.mean(0)
            if pairs:
                total = sum(w for w, _ in pairs)
                baseline, mean = "training_mean", sum(w / total * m for w, m in pairs)
            cases[name][key] = {
                who: {"rmse": rmse(truth, y), "relative_l2": relative_l2(truth, y)}
                for who, y in (("model", guess), (baseline, mean.expand(truth.shape)))
            }
    if progress is not None:
        progress(len(names), len(names), "")
    return _report(cases, split)


def _training_mean(
    member: Simulator | Surrogate, key: str, known: Mapping[str, Tensor]
) -> Tensor | None:
    """(c,) the mean of a field that a member's statistics hold; None where they hold none."""
    if isinstance(member, Simulator):
        scaled = member.schema[key].scale is not None
        return None if scaled else member.normaliser.mean(key).cpu().double()
    scale = member.branches[member.geometry].scale(key, known)
    return member.normaliser.mean(f"{member.geometry}:{key}").cpu().double() * scale
