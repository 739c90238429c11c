"""Simulators on graphs on a GPU: meshes lie on the host, and the CPU's answers come back."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch

import meshsim
from meshsim import Series
from meshsim.train import Config, evaluate, train
from tests.test_simulator import ALL, channel, simulator, sphere, steady
from tests.test_simulator_potential import recipe, store  # noqa: F401  a fixture

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def close(here, there):
    here, there = here.double(), there.double()
    assert float((here - there).norm()) <= 1e-4 * float(here.norm())


@pytest.mark.parametrize(("integrator", "bundle"), ALL)
def test_a_rollout_is_the_cpus(integrator, bundle):
    mesh = channel()
    here = simulator(integrator, bundle)
    there = copy.deepcopy(here).cuda()
    frames = {k: torch.stack([v * (1 + 0.1 * i) for i in range(8)])
              for k, v in mesh.point_fields.items()}  # fmt: skip
    boundary = Series(mesh.replace(point_fields={}), [0.1 * i for i in range(8)], frames)
    for given in ({}, {"boundary": boundary}):
        one, two = (s.rollout(mesh, 7, parameters={"inflow": 1.5}, **given) for s in (here, there))
        for name in ("velocity", "T"):
            close(one.frame(7).point_fields[name], two.frame(7).point_fields[name])
    one, two = (s.predict(mesh, {"inflow": 1.5}) for s in (here, there))
    close(one.point_fields["velocity"], two.point_fields["velocity"])


def test_targets_with_symmetry_are_the_cpus():
    here = steady(("x",))
    for name in ("p", "traction"):
        close(*(s.predict(sphere()).point_fields[name] for s in (here, copy.deepcopy(here).cuda())))


def test_fields_that_do_not_change_are_learned_from(store, tmp_path):  # noqa: F811
    """One of the inputs is a field of the mesh, as the potential flow is among the features."""
    made = meshsim.Store.create(tmp_path / "bodies.zarr")
    for name in store.names:
        mesh = store.sample(name).mesh
        known = mesh.with_fields(point={"height": mesh.points[:, 1]})
        made.append(meshsim.Sample(known, {}, name))
    raw = recipe(made.path)
    raw["fields"]["height"] = {"role": "parameter", "location": "point", "components": 1}
    raw["train"] |= {"device": "cuda", "batch": 2}
    for run in ("one", "two"):
        train(Config.from_dict(raw), tmp_path / run)
    runs = [meshsim.load(tmp_path / run) for run in ("one", "two")]
    weights = [torch.cat([p.flatten() for p in r.model.parameters()]) for r in runs]
    assert torch.equal(*weights)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        there = evaluate(copy.deepcopy(runs[0]).cuda(), made, split=["b"])["metrics"]["pressure"]
        here = evaluate(runs[0], made, split=["b"])["metrics"]["pressure"]
    assert there["relative_l2"] == pytest.approx(here["relative_l2"], rel=1e-4)
