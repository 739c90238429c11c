"""Bodies that are not as those of the training: said, counted, and without harm where none is."""

from __future__ import annotations

import warnings

import pytest
import torch

import meshsim
from meshsim.check import InputError
from meshsim.cli import main
from meshsim.inputs import raw_graph
from meshsim.mesh import Mesh
from meshsim.potential import Potential
from meshsim.ranges import body_outside, of_bodies, outside
from meshsim.train import Config, train
from tests.test_surrogate import ellipsoid

FEATURES = ["box_position", "box_size", "normal", "curvature", "potential_cp"]
FLOW = {"direction": [1.0, 0.0, 0.0], "ground": ["y", -1.0]}
BODY = (1.0, 0.55, 0.35)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A store of two bodies 0.4 and 0.5 above the ground; a graph network and a neural field."""
    made = tmp_path_factory.mktemp("ranges")
    store = meshsim.Store.create(made / "bodies.zarr")
    for name, axes, speed in (("a", (1.0, 0.5, 0.4), 2.0), ("b", (1.0, 0.6, 0.3), 3.0)):
        store.append(meshsim.Sample(ellipsoid(axes), {"speed": speed}, name))
    data = {"store": str(store.path), "train": ["a", "b"], "valid": ["b"]}
    graph = {
        "data": data,
        "fields": {
            "pressure": {"role": "target", "components": 1},
            "speed": {"role": "parameter", "location": "global"},
        },
        "model": {"name": "meshgraphnet", "width": 16, "depth": 2},
        "simulator": {"features": FEATURES, "potential": FLOW},
        "train": {"steps": 3, "threads": 1},
    }
    field = {
        "data": data,
        "model": {"name": "anchored", "width": 16, "heads": 2, "blocks": "ps", "supernodes": 16},
        "surrogate": {
            "points": 64,
            "features": FEATURES,
            "parameters": ["speed"],
            "potential": FLOW,
            "branches": {"mesh": {"fields": ["pressure"], "features": FEATURES, "anchors": 32}},
        },
        "train": {"steps": 3, "threads": 1},
    }
    for name, config in (("graph", graph), ("field", field)):
        train(Config.from_dict(config), made / name)
    return made


def heard(trained, mesh, speed=2.5):
    """The prediction, and what was said of it."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        given = {} if speed is None else {"speed": speed}
        found = trained.predict(mesh, given)
    ours = [str(w.message) for w in said if "training" in str(w.message)]
    return found, ours


def both(test):
    return pytest.mark.parametrize("which", ["graph", "field"])(test)


def scaled(mesh, factor):
    # the ground of the training is at y = -1: the body stays above it
    points = mesh.points * factor
    points[:, 1] += -0.5 - float(points[:, 1].min())
    return Mesh(points, mesh.cells)


@both
def test_a_body_in_another_unit_is_said_and_counted(folder, which):
    trained = meshsim.load(folder / which)
    for factor, back in ((1000.0, "millimetres? scale it by 0.001"), (0.001, "by 1000")):
        found, said = heard(trained, scaled(ellipsoid(BODY), factor))
        assert len(said) == 3 and all(back in text for text in said)
        assert float(found.global_fields["extrapolation"]) == 3.0
    found, said = heard(trained, ellipsoid(BODY))
    assert said == [] and "extrapolation" not in found.global_fields


@both
def test_a_body_far_above_the_ground_is_said(folder, which):
    trained = meshsim.load(folder / which)
    assert trained.ranges["low.y"] == pytest.approx((-0.6, -0.5), abs=0.02)
    high = ellipsoid(BODY, shift=(0.0, 100.0, 0.0))
    found, said = heard(trained, high)
    assert len(said) == 1 and "begins at y = 99.4" in said[0]
    assert float(found.global_fields["extrapolation"]) == 1.0
    assert heard(trained, ellipsoid(BODY, shift=(100.0, 0.0, 100.0)))[1] == []


@both
def test_parameters_count_wherever_they_come_from(folder, which):
    trained = meshsim.load(folder / which)
    body = ellipsoid(BODY)
    held = body.replace(global_fields={"speed": torch.tensor([9.0])})
    for given in ((body, 9.0), (held, None), (held, 9.0)):
        found, said = heard(trained, *given)
        assert len(said) == 1 and "speed = 9" in said[0]
        assert float(found.global_fields["extrapolation"]) == 1.0
    assert heard(trained, held, 2.5)[1] == []  # what is given comes first


@both
def test_a_count_of_an_earlier_prediction_is_not_kept(folder, which):
    trained = meshsim.load(folder / which)
    stale = ellipsoid(BODY).replace(global_fields={"extrapolation": 3.0, "time": 1.0})
    found, _ = heard(trained, stale)
    assert "extrapolation" not in found.global_fields and "time" in found.global_fields


@both
def test_a_parameter_that_is_no_number_is_named(folder, which):
    trained = meshsim.load(folder / which)
    for wrong in ("x", [[1.0], [1.0, 2.0]], None):
        with pytest.raises(InputError, match="parameter 'speed': expected numbers"):
            trained.predict(ellipsoid(BODY), {"speed": wrong})


@both
def test_a_body_wound_inside_out_is_the_same_body(folder, which):
    trained = meshsim.load(folder / which)
    body = ellipsoid(BODY)
    turned = Mesh(body.points, {b.type: b.nodes.flip(1) for b in body.cells})
    one, two = (heard(trained, m)[0].point_fields["pressure"].double() for m in (body, turned))
    torch.testing.assert_close(one, two, rtol=0.0, atol=1e-5 * float(one.abs().max()))


@both
def test_a_point_that_no_cell_uses_is_not_the_body(folder, which):
    trained = meshsim.load(folder / which)
    body = ellipsoid(BODY)
    loose = Mesh(torch.cat([body.points, torch.tensor([[1e3, 0.0, 0.0]]).double()]), body.cells)
    (one, _), (two, said) = heard(trained, body), heard(trained, loose)
    assert said == []
    a, b = (m.point_fields["pressure"].double() for m in (one, two))
    torch.testing.assert_close(a, b[:-1], rtol=0.0, atol=1e-5 * float(a.abs().max()))


@both
def test_runs_of_before_know_no_box_and_check_none(folder, which):
    trained = meshsim.load(folder / which)
    trained.ranges = {"speed": (2.0, 3.0)}
    found, said = heard(trained, scaled(ellipsoid(BODY), 1000.0))
    assert said == [] and "extrapolation" not in found.global_fields


@both
def test_the_shell_says_what_is_odd_about_a_body(folder, which, tmp_path, capsys):
    body = ellipsoid(BODY)
    turned = Mesh(body.points, {b.type: b.nodes.flip(1) for b in body.cells})
    meshsim.write(turned, tmp_path / "body.vtp")
    out = str(tmp_path / "out.vtp")
    given = ["predict", str(folder / which), str(tmp_path / "body.vtp"), "-o", out, "speed=2.5"]
    assert main(given) == 0
    assert "note: inside out, turned" in capsys.readouterr().err


@pytest.mark.parametrize("location", ["point", "cell"])
def test_no_feature_of_a_graph_depends_on_the_winding(location):
    body = ellipsoid(BODY)
    names = ["position", "box_position", "box_size", "normal", "log_measure"]
    names += ["curvature", "potential_cp", "potential_velocity"] if location == "point" else []
    turned = Mesh(body.points, {b.type: b.nodes.flip(1) for b in body.cells})
    mixed = {b.type: b.nodes.clone() for b in body.cells}
    mixed["quad"][::3] = mixed["quad"][::3].flip(1)
    right, *others = (
        raw_graph(m, location, names, potential=Potential([1.0, 0.0, 0.0]))
        for m in (body, turned, Mesh(body.points, mixed))
    )
    for other in others:
        for name in names:
            a, b = (getattr(g, f"feature_{name}").double() for g in (right, other))
            torch.testing.assert_close(a, b, rtol=0.0, atol=1e-9, msg=name)
    normal = right.feature_normal
    places = body.points if location == "point" else body.cell_centres
    assert float((normal * places).sum(1).min()) > 0


def test_simulators_of_other_things_than_surfaces_know_no_box(tmp_path):
    """What fills space, and what goes on in time, may be of any size."""
    from tests.helpers import channel

    store = meshsim.Store.create(tmp_path / "channels.zarr")
    mesh = channel()
    store.append(meshsim.Sample(mesh.with_fields({"p": mesh.points[:, 0]}), {}, "a"))
    config = {
        "data": {"store": str(store.path), "train": ["a"], "valid": ["a"]},
        "fields": {"p": {"role": "target", "components": 1}},
        "model": {"name": "meshgraphnet", "width": 8, "depth": 1},
        "train": {"steps": 1, "threads": 1},
    }
    assert train(Config.from_dict(config), tmp_path / "run").ranges == {}


def test_a_unit_is_asked_for_where_all_sides_fit():
    corners = torch.tensor([[0.0, 0.0], [4.0, 0.0], [4.0, 1.5], [0.0, 1.5]]).double()
    car = Mesh(corners, {"line": [[0, 1], [1, 2], [2, 3], [3, 0]]})
    ranges = of_bodies(torch.stack([car.box, 1.2 * car.box]), ["y"])
    assert ranges == {
        "box.x": (4.0, pytest.approx(4.8)), "box.y": (1.5, pytest.approx(1.8)), "low.y": (0.0, 0.0),
    }  # fmt: skip
    assert body_outside(ranges, car) == []
    for factor in (0.001, 0.01, 0.0254, 0.3048, 1000.0):
        said = body_outside(ranges, Mesh(corners / factor, car.cells))
        assert len(said) == 2 and all(f"scale it by {factor:g}" in text for text in said)
    long = body_outside(ranges, Mesh(corners * torch.tensor([1000.0, 1.0]), car.cells))
    assert len(long) == 1 and "scale" not in long[0]  # one side only: no unit
    # rounding of a file, and a hundredth of the body's length, are no other place
    assert body_outside(ranges, Mesh((corners + 0.03).float(), car.cells)) == []
    assert len(body_outside(ranges, Mesh(corners + 0.1, car.cells))) == 1
    assert outside(ranges, {}) == []
