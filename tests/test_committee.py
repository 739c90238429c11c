"""Committees: the mean of networks of several kinds, saved, evaluated, and asked from the shell."""

from __future__ import annotations

import json

import pytest
import torch

import meshsim
from meshsim.check import InputError
from meshsim.cli import main
from meshsim.committee import Committee
from meshsim.train import Config, evaluate_committee, train
from tests.cli.test_errors import fails
from tests.test_simulator import simulator
from tests.test_simulator_potential import recipe
from tests.test_surrogate import ellipsoid

FEATURES = ["box_position", "normal"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A store of two bodies, an ensemble of two graph networks, and a neural field."""
    made = tmp_path_factory.mktemp("committee")
    store = meshsim.Store.create(made / "bodies.zarr")
    for name, axes in (("a", (1.0, 0.5, 0.4)), ("b", (1.0, 0.6, 0.3))):
        store.append(meshsim.Sample(ellipsoid(axes), {}, name))
    raw = recipe(store.path, FEATURES)
    raw["model"]["members"] = 2
    train(Config.from_dict(raw), made / "graph")
    field = {
        "data": raw["data"],
        "model": {"name": "anchored", "width": 16, "heads": 2, "blocks": "ps", "supernodes": 16},
        "surrogate": {
            "points": 64,
            "features": FEATURES,
            "branches": {"mesh": {"fields": ["pressure"], "features": FEATURES, "anchors": 32}},
        },
        "train": {"steps": 3, "threads": 1},
    }
    train(Config.from_dict(field), made / "field")
    return made


def test_it_is_the_mean_of_all_networks(folder, tmp_path):
    graph, field = (meshsim.load(folder / name) for name in ("graph", "field"))
    body = ellipsoid((1.0, 0.55, 0.35))
    each = [one.predict(body) for one in graph.each()] + [field.predict(body)]
    each = torch.stack([mesh.point_fields["pressure"].double() for mesh in each])
    whole = Committee([graph, field])
    assert whole.weights == pytest.approx([2 / 3, 1 / 3])
    for committee in (whole, reloaded(whole, tmp_path)):
        found = committee.predict(body, spread=True).point_fields
        torch.testing.assert_close(found["pressure"].double(), each.mean(0), rtol=1e-5, atol=1e-5)
        spread = each.std(0, correction=0)
        torch.testing.assert_close(found["pressure_spread"].double(), spread, rtol=1e-3, atol=1e-4)
    assert torch.equal(committee.predict(body).points, body.points)


def reloaded(committee, folder):
    committee.save(folder / "run")
    return meshsim.load(folder / "run")


def test_it_is_judged_beside_the_training_mean(folder):
    store = meshsim.Store(folder / "bodies.zarr")
    whole = Committee([meshsim.load(folder / name) for name in ("field", "graph")])
    report = evaluate_committee(whole, store, split=["a", "b"])
    for name in ("a", "b"):
        mesh = store.sample(name).mesh
        truth = mesh.point_fields["pressure"].double()
        guess = whole.predict(mesh).point_fields["pressure"].double()
        error = float((truth - guess).norm() / truth.norm())
        assert report["cases"][name]["pressure"]["model"]["relative_l2"] == pytest.approx(error)
    assert set(report["baselines"]["training_mean"]["pressure"]) == {"rmse", "relative_l2"}


def test_from_the_shell(folder, tmp_path, capsys):
    run, out = tmp_path / "both", tmp_path / "out.vtp"
    runs = [str(folder / "graph"), str(folder / "field")]
    assert main(["combine", *runs, "-o", str(run)]) == 0
    assert "pressure" in capsys.readouterr().err
    meshsim.write(ellipsoid((1.0, 0.55, 0.35)).replace(point_fields={}), tmp_path / "body.vtp")
    assert main(["predict", str(run), str(tmp_path / "body.vtp"), "-o", str(out), "--spread"]) == 0
    assert float(meshsim.read(out).point_fields["pressure_spread"].max()) > 0
    given = ["evaluate", str(run), str(folder / "bodies.zarr"), "--split", "a", "--json"]
    store = meshsim.Store(folder / "bodies.zarr")
    store.set_splits({"a": ["a"]})
    capsys.readouterr()
    assert main(given) == 0
    assert json.loads(capsys.readouterr().out)["samples"] == 1
    fails(capsys, ["combine", *runs, "-o", str(run)], "not empty")
    fails(capsys, ["combine", str(run), runs[0], "-o", str(tmp_path / "n")], "a committee itself")
    fails(capsys, ["combine", runs[0], "-o", str(tmp_path / "n")], "two or more")
    fails(capsys, ["rollout", str(run), str(out), "-o", str(tmp_path / "n.pvd")], "a committee")


def test_what_does_not_fit_is_said(folder, tmp_path):
    graph = meshsim.load(folder / "graph")
    with pytest.raises(InputError, match="two or more"):
        Committee([graph])
    with pytest.raises(InputError, match="has states"):
        Committee([graph, simulator()])
    whole = Committee([graph, graph])
    with pytest.raises(InputError, match="asked for by no member"):
        whole.predict(ellipsoid((1.0, 0.5, 0.4)), {"inflow": 1.0})
    whole.save(tmp_path / "run")
    text = (tmp_path / "run" / "simulator.json").read_text().replace('"1"', '"../1"')
    (tmp_path / "run" / "simulator.json").write_text(text)
    with pytest.raises(InputError, match="members: expected 0, 1"):
        meshsim.load(tmp_path / "run")
