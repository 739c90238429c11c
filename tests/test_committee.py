"""Committees: the mean of networks of several kinds, saved, evaluated, and asked from the shell."""

from __future__ import annotations

import json

import pytest
import torch

import meshsim
from meshsim.check import InputError
from meshsim.cli import main
from meshsim.committee import Committee
from meshsim.data.schema import Field, Schema
from meshsim.train import Config, evaluate_committee, evaluate_surrogate, train
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
    mean = meshsim.load(folder / "graph").normaliser.mean("pressure").double()
    truth = [store.sample(name).mesh.point_fields["pressure"].double() for name in "ab"]
    rows = [float((y - mean).square().mean().sqrt()) for y in truth]
    found = report["baselines"]["training_mean"]["pressure"]
    assert found["rmse"] == pytest.approx(sum(rows) / 2, rel=1e-5)
    rows = [float((y - mean).norm() / y.norm()) for y in truth]
    assert found["relative_l2"] == pytest.approx(sum(rows) / 2, rel=1e-5)


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
    told = (tmp_path / "run" / "simulator.json").read_text()
    for change, said in (
        ({"members": []}, "members: expected 0, 1"),
        ({"fields": ["pressure", "drag"]}, "fields: expected"),
        ({"fields": None}, "fields: expected"),
    ):
        (tmp_path / "run" / "simulator.json").write_text(json.dumps(json.loads(told) | change))
        with pytest.raises(InputError, match=said) as error:
            meshsim.load(tmp_path / "run")
        assert str(tmp_path / "run" / "simulator.json") in str(error.value)
    (tmp_path / "run" / "simulator.json").write_text(told)
    text = (tmp_path / "run" / "simulator.json").read_text().replace('"1"', '"../1"')
    (tmp_path / "run" / "simulator.json").write_text(text)
    with pytest.raises(InputError, match="members: expected 0, 1"):
        meshsim.load(tmp_path / "run")


# --- members that take parameters, predict vectors, count in other units ---

SPEEDS = {"a": 2.0, "b": 3.0, "c": 2.5}


@pytest.fixture(scope="module")
def fast(tmp_path_factory):
    """Three bodies at their speeds with p = (x + ½) U² and a vector; four runs, by kind."""
    made = tmp_path_factory.mktemp("fast")
    store = meshsim.Store.create(made / "bodies.zarr")
    for name, axes in (("a", (1.0, 0.5, 0.4)), ("b", (1.0, 0.6, 0.3)), ("c", (1.0, 0.55, 0.35))):
        body, speed = ellipsoid(axes), SPEEDS[name]
        p = (body.point_fields["pressure"] + 0.5) * speed**2
        fields = {"pressure": p, "velocity": torch.stack([p, -p, 2 * p], 1)}
        store.append(meshsim.Sample(body.replace(point_fields=fields), {"speed": speed}, name))
    store.set_splits({"train": ["a", "b"], "test": ["c"]})
    data = {"store": str(store.path), "train": ["a", "b"], "valid": ["b"]}
    small = {"steps": 3, "threads": 1}

    def graph(fields):
        model = {"name": "meshgraphnet", "width": 16, "depth": 2}
        settings = {"features": FEATURES}
        return {"data": data, "fields": fields, "model": model, "simulator": settings,
                "train": small}  # fmt: skip

    def field(parameters, **branch):
        branch |= {"features": FEATURES, "anchors": 32}
        model = {"name": "anchored", "width": 16, "heads": 2, "blocks": "ps", "supernodes": 16}
        settings = {"points": 64, "features": FEATURES, "parameters": parameters,
                    "branches": {"mesh": branch}}  # fmt: skip
        return {"data": data, "model": model, "surrogate": settings, "train": small}

    target = {"role": "target", "components": 1}
    vector, speed = target | {"components": 3}, {"role": "parameter", "location": "global"}
    recipes = {
        "graph": graph({"pressure": target, "velocity": vector, "speed": speed}),
        "field": field(["speed"], fields=["velocity", "pressure"]),
        "scaled": field([], fields=["pressure"], scales={"pressure": {"speed": 2.0}}),
        "reference": graph({"pressure": target | {"scale": 10.0, "unit": "kPa"}}),
    }
    for name, raw in recipes.items():
        train(Config.from_dict(raw), made / name)
    return made


def of(folder, *names):
    return Committee([meshsim.load(folder / name) for name in names])


def test_vectors_and_parameters_go_through_every_member(fast):
    whole, sample = of(fast, "graph", "field"), meshsim.Store(fast / "bodies.zarr").sample("c")
    assert whole.fields == ["pressure", "velocity"] and whole.asked == ["speed"]
    found = whole.predict(sample, spread=True).point_fields
    each = [m.predict(sample.mesh, {"speed": 2.5}).point_fields for m in whole.members]
    for name in whole.fields:
        both = torch.stack([fields[name].double() for fields in each])
        torch.testing.assert_close(found[name].double(), both.mean(0), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(
            found[f"{name}_spread"].double(), both.std(0, correction=0), rtol=1e-3, atol=1e-3
        )
    assert found["velocity"].shape == (sample.mesh.n_points, 3)
    with pytest.raises(InputError, match="'speed' is missing"):
        whole.predict(sample.mesh)
    with pytest.raises(InputError, match="'speed': expected numbers"):
        whole.predict(sample.mesh, {"speed": "x"})
    mixed = of(fast, "graph", "scaled", "reference")  # one asks, one scales, one does neither
    assert (
        mixed.fields == ["pressure"]
        and torch.isfinite(mixed.predict(sample).point_fields["pressure"]).all()
    )


def test_the_baseline_is_the_members_own_whatever_their_order_and_scale(fast):
    store = meshsim.Store(fast / "bodies.zarr")
    truth = store.sample("c").mesh.point_fields["pressure"].double()
    # of a and b: mean of p, and mean of p / U² at the speed of c
    p = {n: store.sample(n).mesh.point_fields["pressure"].double() for n in "ab"}
    plain = float(torch.cat([p["a"], p["b"]]).mean())
    scaled = float(torch.cat([p[n] / SPEEDS[n] ** 2 for n in "ab"]).mean()) * SPEEDS["c"] ** 2
    assert scaled != pytest.approx(plain, rel=1e-2)

    def rmse(guess):
        return pytest.approx(float((truth - guess).square().mean().sqrt()), rel=1e-5)

    for names, mean in (
        (("scaled", "scaled"), scaled),
        (("graph", "field"), plain),
        (("scaled", "graph"), (scaled + plain) / 2),
        (("reference", "graph"), plain),
        (("reference", "scaled"), scaled),
    ):
        for order in (names, names[::-1]):
            found = evaluate_committee(of(fast, *order), store, split="test")["baselines"]
            assert found["training_mean"]["pressure"]["rmse"] == rmse(mean), order
    alone = evaluate_surrogate(meshsim.load(fast / "scaled"), store)["baselines"]
    found = evaluate_committee(of(fast, "scaled", "reference"), store)["baselines"]
    assert found["training_mean"]["pressure"] == pytest.approx(alone["training_mean"]["pressure"])
    found = evaluate_committee(of(fast, "reference", "reference"), store)["baselines"]
    assert found == {"own_mean": {"pressure": found["own_mean"]["pressure"]}}
    assert found["own_mean"]["pressure"]["rmse"] == rmse(float(truth.mean()))


def test_what_every_member_evaluates_it_evaluates(fast, tmp_path):
    sample = meshsim.Store(fast / "bodies.zarr").sample("c")
    mesh, fields = sample.mesh, dict(sample.mesh.point_fields)
    bare = mesh.replace(point_fields={})
    series = meshsim.Series(bare, [0.0, 1.0], {k: torch.stack([v, v]) for k, v in fields.items()})
    store = meshsim.Store.create(tmp_path / "more.zarr")
    store.append(meshsim.Sample(mesh, sample.parameters, "plain"))
    store.append(meshsim.Sample(series, sample.parameters, "series"))
    store.append(meshsim.Sample({"mesh": mesh, "air": bare}, sample.parameters, "two"))
    store.append(meshsim.Sample({"body": mesh, "air": bare}, sample.parameters, "other"))
    whole = of(fast, "graph", "field")
    report = evaluate_committee(whole, store, split=["plain", "series", "two"])
    plain, *others = (report["cases"][name] for name in ("plain", "series", "two"))
    for other in others:
        for name in whole.fields:
            assert other[name]["model"] == pytest.approx(plain[name]["model"], rel=1e-4)
    two, alone = (whole.predict(x).point_fields for x in (store.sample("two"), sample))
    torch.testing.assert_close(two["pressure"], alone["pressure"])
    for act in (whole.predict, whole.content):
        with pytest.raises(InputError, match="unknown branch of sample 'other': 'mesh'"):
            act(store.sample("other"))


def test_outside_the_training_is_said_once_and_counted(fast, tmp_path, capsys):
    whole, body = of(fast, "graph", "field"), ellipsoid((1.0, 0.55, 0.35))
    large = body.replace(points=100 * body.points)
    with pytest.warns(UserWarning, match="is it in centimetres"):
        found = whole.predict(large, {"speed": 9.0})
    assert float(found.global_fields["extrapolation"]) == 4.0
    held = body.replace(global_fields={"speed": torch.tensor([9.0]), "extrapolation": 3.0})
    with pytest.warns(UserWarning, match="speed = 9"):
        assert float(whole.predict(held).global_fields["extrapolation"]) == 1.0
    assert "extrapolation" not in whole.predict(held, {"speed": 2.5}).global_fields
    run = tmp_path / "both"
    whole.save(run)
    turned = {b.type: b.nodes.flip(1) for b in large.cells}
    meshsim.write(meshsim.Mesh(large.points, turned), tmp_path / "body.vtp")
    out = str(tmp_path / "out.vtp")
    assert main(["predict", str(run), str(tmp_path / "body.vtp"), "-o", out, "speed=9"]) == 0
    said = capsys.readouterr().err
    assert said.count("speed = 9") == 1 and said.count("side along x") == 1
    assert said.count("note: inside out, turned") == 1


def test_members_that_do_not_fit_are_refused(fast):
    def graph(branch="", **changes):
        made = meshsim.load(fast / "reference")
        made.schema = Schema([Field("pressure", "target", **changes)])
        made.branch = branch
        return made

    field = meshsim.load(fast / "field")
    for members, said in (
        ([graph(unit="Pa"), graph(unit="kPa")], "'pressure' is in Pa for some, in kPa for others"),
        ([graph(components=3), field], "'pressure' is of 3 components for some, of 1 components"),
        ([graph(location="cell"), graph()], "'pressure' is at cells for some, at points"),
        ([graph("surface"), graph("volume")], "different branches \\(surface, volume\\)"),
        ([graph("surface"), field], "different branches \\(surface, mesh\\)"),
    ):
        with pytest.raises(InputError, match=said):
            Committee(members)
    assert Committee([graph(unit="Pa"), graph()]).fields == ["pressure"]
    assert Committee([graph("surface"), graph()]).branch == "surface"
    assert Committee([graph("mesh"), field]).branch == "mesh"


def test_the_shell_tells_what_a_committee_is_and_is_not(fast, tmp_path, capsys):
    run, store = tmp_path / "both", str(fast / "bodies.zarr")
    runs = [str(fast / "graph"), str(fast / "field")]
    assert main(["combine", *runs, "-o", str(run)]) == 0
    capsys.readouterr()
    assert main(["info", str(run), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["networks"] == 2 and told["parameters"] == ["speed"]
    assert [m["weight"] for m in told["members"].values()] == [0.5, 0.5]
    assert {m["kind"] for m in told["members"].values()} == {"graph network", "neural field"}
    assert main(["info", str(run)]) == 0
    assert "neural field" in capsys.readouterr().out
    fails(capsys, ["view", str(run), "-o", str(tmp_path / "x.png")], "a committee (name one")
    recipe_file = tmp_path / "config.toml"
    recipe_file.write_text(
        f'[data]\nstore = "{store}"\ntrain = ["a"]\nvalid = ["b"]\n[model]\n'
        'name = "meshgraphnet"\n[fields.pressure]\nrole = "target"\n[train]\nsteps = 1\n'
    )
    given = ["train", str(recipe_file), "-o", str(tmp_path / "new"), "--from", str(run)]
    fails(capsys, given, "a committee (name one")
    for option in (["--start", "1"], ["--steps", "3"]):
        for trained in (str(run), runs[1]):
            fails(capsys, ["evaluate", trained, store, *option], "has no time")
    again = str(fast / "graph" / ".." / "graph")
    fails(capsys, ["combine", runs[0], again, "-o", str(tmp_path / "n")], "there twice")
    (run / "1" / "simulator.json").unlink()
    fails(capsys, ["info", str(run)], str(run / "1"))
