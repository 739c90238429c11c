"""Surrogates: what goes in comes back on the same mesh; units, symmetry and range are kept."""

import json
import os
import signal
import warnings

import numpy as np
import pytest
import torch

import meshsim
from meshsim.check import InputError
from meshsim.cli import main as shell
from meshsim.clouds import Wanted
from meshsim.mesh import Mesh
from meshsim.sample import Sample
from meshsim.train import Config, evaluate_surrogate, train

FEATURES = ["box_position", "normal"]


def ellipsoid(axes=(1.0, 0.6, 0.4), n=10, shift=(0.0, 0.0, 0.0)):
    """A closed surface of quads and triangles with outward normals, and p = x / a at its points."""
    theta = torch.linspace(0, torch.pi, n + 1).double()[1:-1]
    phi = torch.arange(2 * n).double() * torch.pi / n
    ring = torch.stack(
        [
            theta.cos()[:, None].expand(-1, 2 * n),
            theta.sin()[:, None] * phi.cos(),
            theta.sin()[:, None] * phi.sin(),
        ],
        2,
    ).reshape(-1, 3)
    unit = torch.cat([torch.tensor([[1.0, 0, 0], [-1.0, 0, 0]]).double(), ring])
    at = lambda i, j: 2 + 2 * n * i + j % (2 * n)  # noqa: E731
    quads = [
        [at(i, j), at(i + 1, j), at(i + 1, j + 1), at(i, j + 1)]
        for i in range(n - 2)
        for j in range(2 * n)
    ]
    caps = [[0, at(0, j), at(0, j + 1)] for j in range(2 * n)]
    caps += [[1, at(n - 2, j + 1), at(n - 2, j)] for j in range(2 * n)]
    points = unit * torch.tensor(axes).double() + torch.tensor(shift).double()
    return Mesh(points, {"quad": quads, "triangle": caps}, {"pressure": unit[:, 0].clone()})


def box(body, n=6):
    """Hexahedra about a body with a velocity in their cells."""
    low, high = body.points.amin(0) - 0.5, body.points.amax(0) + 0.5
    line = [torch.linspace(float(a), float(b), n).double() for a, b in zip(low, high, strict=True)]
    points = torch.cartesian_prod(*line)
    i, j, k = (t.flatten() for t in torch.meshgrid(*[torch.arange(n - 1)] * 3, indexing="ij"))
    at = lambda a, b, c: ((i + a) * n + (j + b)) * n + k + c  # noqa: E731
    corners = [(0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0)]
    nodes = torch.stack([at(*c) for c in corners] + [at(a, b, 1) for a, b, _ in corners], 1)
    mesh = Mesh(points, {"hexahedron": nodes})
    return mesh.with_fields(cell={"velocity": mesh.cell_centres})


def case(axes, inflow, volume=True):
    body = ellipsoid(axes)
    branches = {
        "surface": body.with_fields(point={"pressure": inflow * body.point_fields["pressure"]})
    }
    if volume:
        branches["volume"] = box(body)
    return Sample(branches, {"inflow": inflow}, f"body_{axes[1]:g}_{inflow:g}")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A store of eight bodies with two branches, and a surrogate trained on it for some steps."""
    folder = tmp_path_factory.mktemp("surrogate")
    store = meshsim.Store.create(folder / "bodies.zarr")
    for i in range(8):
        store.append(case((1.0, 0.5 + 0.05 * i, 0.4), 1.0 + 0.25 * (i % 4)))
    names = store.names
    store.set_splits({"train": names[:6], "test": names[6:]})
    config = recipe(folder / "bodies.zarr")
    train(Config.from_dict(config), folder / "run")
    return folder


def recipe(store, **train_options):
    return {
        "data": {"store": str(store)},
        "model": {"name": "anchored", "width": 32, "heads": 2, "blocks": "psc", "supernodes": 32},
        "surrogate": {
            "geometry": "surface",
            "points": 128,
            "features": FEATURES,
            "parameters": ["inflow"],
            "symmetry": ["y"],
            "absent": 0.2,
            "branches": {
                "surface": {"fields": ["pressure"], "features": FEATURES, "anchors": 64},
                "volume": {"fields": ["velocity"], "features": ["box_position"], "anchors": 64},
            },
        },
        "train": {
            "steps": 150, "lr": 3e-3, "warmup": 10, "mirror": ["y"], "threads": 1, "ema": 0.95,
            "checkpoint_every": 20, **train_options,
        },
    }  # fmt: skip


def test_it_learns_and_beats_the_training_mean(trained):
    surrogate = meshsim.load(trained / "run")
    report = evaluate_surrogate(surrogate, meshsim.Store(trained / "bodies.zarr"))
    assert set(report["metrics"]) == {"surface.pressure", "volume.velocity"}
    for field, errors in report["metrics"].items():
        mean = report["baselines"]["training_mean"][field]["relative_l2"]
        assert errors["relative_l2"] < 0.5 * mean, field


def test_a_prediction_comes_back_on_the_same_mesh(trained):
    surrogate = meshsim.load(trained / "run")
    given = case((1.0, 0.62, 0.4), 1.5)
    bare = {
        "surface": given.branches["surface"].replace(point_fields={}),
        "volume": given.branches["volume"].replace(cell_fields={}),
    }
    out = surrogate.predict(Sample(bare, given.parameters))
    for name in bare:
        assert torch.equal(out.branches[name].points, bare[name].points)
        assert [b.type for b in out.branches[name].cells] == [b.type for b in bare[name].cells]
    assert out.branches["surface"].point_fields["pressure"].shape == (bare["surface"].n_points,)
    assert out.branches["volume"].cell_fields["velocity"].shape == (bare["volume"].n_cells, 3)


def test_an_answer_does_not_depend_on_what_else_is_asked(trained):
    surrogate = meshsim.load(trained / "run")
    given = case((1.0, 0.62, 0.4), 1.5)
    prepared = surrogate.prepare(given)
    latent = surrogate._latent(prepared, 0)
    pos, x = prepared.branches["volume"]
    from meshsim.models.field import Points

    with torch.no_grad():
        whole = surrogate.model.decode(latent, "volume", Points(pos[None], x[None]))["velocity"]
        part = surrogate.model.decode(latent, "volume", Points(pos[None, 7:9], x[None, 7:9]))
    assert torch.equal(part["velocity"], whole[:, 7:9])


def test_the_answer_has_the_symmetry_that_was_asked_for(trained):
    """Mirrored along y: the draw of anchors is the same, so it holds to rounding."""
    surrogate = meshsim.load(trained / "run")
    given = case((1.0, 0.62, 0.4), 1.5)
    flip = torch.tensor([1.0, -1.0, 1.0]).double()

    def mirrored(mesh):
        cells = []
        for block in mesh.cells:
            order = torch.arange(block.nodes.shape[1]).flip(0)
            if block.type == "hexahedron":
                order = torch.tensor([3, 2, 1, 0, 7, 6, 5, 4])
            cells.append((block.type, block.nodes[:, order]))
        return Mesh(mesh.points * flip, dict(cells))

    image = Sample({k: mirrored(v) for k, v in given.branches.items()}, given.parameters)
    a, b = surrogate.predict(given), surrogate.predict(image)
    p, q = (s.branches["surface"].point_fields["pressure"] for s in (a, b))
    torch.testing.assert_close(p, q, rtol=0.0, atol=2e-4)
    u, v = (s.branches["volume"].cell_fields["velocity"] for s in (a, b))
    torch.testing.assert_close(u * flip, v, rtol=0.0, atol=2e-4)


def test_moving_a_body_along_centred_axes_changes_nothing(trained):
    surrogate = meshsim.load(trained / "run")
    here = surrogate.predict(Sample({"surface": ellipsoid()}, {"inflow": 1.5}))
    there = surrogate.predict(
        Sample({"surface": ellipsoid(shift=(5.0, -2.0, 1.0))}, {"inflow": 1.5})
    )
    a, b = (s.branches["surface"].point_fields["pressure"] for s in (here, there))
    torch.testing.assert_close(a, b, rtol=0.0, atol=1e-3)


def test_what_is_loaded_gives_the_same_bits(trained, tmp_path):
    given = case((1.0, 0.62, 0.4), 1.5)
    first = meshsim.load(trained / "run")
    first.save(tmp_path / "again")
    second = meshsim.load(tmp_path / "again")
    a, b = (s.predict(given).branches["surface"].point_fields["pressure"] for s in (first, second))
    assert torch.equal(a, b)
    assert second.describe() == first.describe()


def test_an_interrupted_run_ends_with_the_same_weights(trained, tmp_path, monkeypatch):
    from meshsim.train import loop

    store = trained / "bodies.zarr"
    config = Config.from_dict(recipe(store, steps=12, checkpoint_every=5))
    whole = train(config, tmp_path / "whole")
    average = loop.average

    def interrupted(*given):
        if given[-1] == 6:
            os.kill(os.getpid(), signal.SIGINT)
        average(*given)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop, "average", interrupted)
        train(config, tmp_path / "stopped")
    again = train(config, tmp_path / "stopped")
    for a, b in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_outside_the_training_range_is_said_in_the_output(trained):
    surrogate = meshsim.load(trained / "run")
    given = case((1000.0, 620.0, 400.0), 9.0)  # millimetres, and too fast
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        out = surrogate.predict(given)
    said = " ".join(str(w.message) for w in heard)
    assert "inflow = 9" in said and "millimetres" in said and "0.001" in said
    assert float(out.branches["surface"].global_fields["extrapolation"]) == 4.0
    inside = surrogate.predict(case((1.0, 0.62, 0.4), 1.5))
    assert "extrapolation" not in inside.branches["surface"].global_fields


def test_a_field_that_scales_with_a_parameter_does_so_exactly(trained, tmp_path):
    config = recipe(trained / "bodies.zarr", steps=20)
    config["model"]["blocks"] = "ps"
    config["surrogate"] |= {"parameters": [], "absent": 0.0}
    surface = config["surrogate"]["branches"]["surface"]
    config["surrogate"]["branches"] = {"surface": surface | {"scales": {"pressure": {"inflow": 1}}}}
    train(Config.from_dict(config), tmp_path / "run")
    surrogate = meshsim.load(tmp_path / "run")
    body = ellipsoid((1.0, 0.6, 0.4))
    one, four = (surrogate.predict(body, {"inflow": v}) for v in (1.0, 4.0))
    assert torch.equal(four.point_fields["pressure"], 4 * one.point_fields["pressure"])
    # statistics are those of the scaled field, which is x on every body
    x = torch.cat([ellipsoid((1.0, 0.5 + 0.05 * i, 0.4)).points[:, 0] for i in range(6)])
    assert float(surrogate.normaliser.std("surface:pressure")) == pytest.approx(
        float(x.std()), 1e-3
    )
    for wrong, said in (({}, "is missing"), ({"inflow": 0.0}, "positive")):
        with pytest.raises(InputError, match=said):
            surrogate.predict(body, wrong)


def test_a_scale_that_no_number_holds_is_named():
    want = Wanted({"p": 1}, scales={"p": {"u": 2.0}})
    for speed in (1e200, 1e-200):
        with pytest.raises(InputError, match="'p' is scaled by"):
            want.scale("p", {"u": speed})


def test_a_warm_start_keeps_no_statistics_of_another_scale(trained, tmp_path):
    config = recipe(trained / "bodies.zarr", steps=2)
    scaled = config["surrogate"]["branches"]["surface"] | {"scales": {"pressure": {"inflow": 2.0}}}
    config["surrogate"]["branches"]["surface"] = scaled
    new = train(Config.from_dict(config), tmp_path / "run", warm_start=trained / "run").normaliser
    old = meshsim.load(trained / "run").normaliser
    assert torch.equal(new.std("volume:velocity"), old.std("volume:velocity"))
    assert float(new.std("surface:pressure")) < 0.8 * float(old.std("surface:pressure"))


def test_inference_mode_changes_nothing(trained):
    surrogate, body = meshsim.load(trained / "run"), ellipsoid((1.0, 0.6, 0.4))
    plain = surrogate.predict(body, {"inflow": 1.2}).point_fields["pressure"]
    with torch.inference_mode():
        found = surrogate.predict(body, {"inflow": 1.2}).point_fields["pressure"]
    assert torch.equal(plain, found)


def test_a_spread_over_draws_is_given_on_request(trained):
    surrogate = meshsim.load(trained / "run")
    out = surrogate.predict(case((1.0, 0.62, 0.4), 1.5), draws=3, spread=True)
    spread = out.branches["surface"].point_fields["pressure_spread"]
    assert float(spread.max()) > 0 and bool((spread >= 0).all())
    with pytest.raises(InputError, match="2 or more"):
        surrogate.predict(case((1.0, 0.62, 0.4), 1.5), spread=True)


def test_an_ensemble_is_its_members_and_says_how_far_they_disagree(trained, tmp_path):
    config = recipe(trained / "bodies.zarr", steps=10)
    config["model"]["members"] = 3
    train(Config.from_dict(config), tmp_path / "run")
    surrogate = meshsim.load(tmp_path / "run")
    given = case((1.0, 0.62, 0.4), 1.5)
    out = surrogate.predict(given, spread=True).branches["surface"].point_fields
    alone = []
    for member in surrogate.model.members:
        surrogate.model = member
        alone.append(surrogate.predict(given).branches["surface"].point_fields["pressure"])
    alone = torch.stack(alone)
    assert len(set(alone[:, 0].tolist())) == 3
    torch.testing.assert_close(out["pressure"], alone.mean(0))
    torch.testing.assert_close(out["pressure_spread"], alone.std(0, correction=0))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("point_mlp", {"width": 32}),
        ("mario", {"width": 32, "shape_width": 32, "points": 32, "normals": 3}),
        ("coral", {"width": 32, "points": 32, "normals": 3}),
        ("enf2enf", {"width": 32, "tokens": 4, "points": 32, "normals": 3}),
    ],
)
def test_every_field_model_is_trained_saved_and_asked(trained, tmp_path, name, arguments):
    config = recipe(trained / "bodies.zarr", steps=4)
    config["model"] = {"name": name, **arguments}
    train(Config.from_dict(config), tmp_path / "run")
    surrogate = meshsim.load(tmp_path / "run")
    out = surrogate.predict(case((1.0, 0.62, 0.4), 1.5))
    assert torch.isfinite(out.branches["volume"].cell_fields["velocity"]).all()


def test_the_first_member_is_trained_as_it_would_be_alone(trained, tmp_path):
    first = []
    for members in (1, 2):
        config = recipe(trained / "bodies.zarr", steps=5, clip=0.0)
        config["model"]["members"] = members
        run = train(Config.from_dict(config), tmp_path / f"run{members}")
        first.append(run.model if members == 1 else run.model.members[0])
    for a, b in zip(*(m.parameters() for m in first), strict=True):
        torch.testing.assert_close(a, b)


def test_the_shell_predicts_on_a_bare_body(trained, tmp_path):
    meshsim.write(ellipsoid((1.0, 0.62, 0.4)).replace(point_fields={}), tmp_path / "body.vtp")
    out = tmp_path / "out.vtp"
    run = str(trained / "run")
    assert shell(["predict", run, str(tmp_path / "body.vtp"), "-o", str(out), "inflow=1.5"]) == 0
    back = meshsim.read(out)
    assert torch.isfinite(back.point_fields["pressure"]).all()
    assert shell(["predict", run, str(tmp_path / "body.vtp"), "-o", str(out)]) == 2
    assert shell(["rollout", run, str(tmp_path / "body.vtp"), "-o", str(out), "--steps", "2"]) == 2


def test_the_shell_evaluates(trained, capsys):
    run, store = str(trained / "run"), str(trained / "bodies.zarr")
    assert shell(["evaluate", run, store, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["samples"] == 2 and np.isfinite(
        report["metrics"]["surface.pressure"]["relative_l2"]
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"geometry": "sufrace"}, "sufrace"),
        ({"branches": {}}, "surrogate.branches"),
        ({"parameters": ["inflwo"]}, "did you mean 'inflow'"),
        ({"branches": {"surface": {"fields": ["presure"]}}}, "presure"),
        ({"branches": {"surface": {"fields": ["pressure"], "anchors": 0}}}, "anchors"),
        ({"branches": {"surface": {"fields": ["pressure"], "scales": {"p": {}}}}}, "scales"),
        (
            {"branches": {"surface": {"fields": ["pressure"], "scales": {"pressure": {"rho": 1}}}}},
            "'rho' is missing",
        ),
        ({"features": ["colour"]}, "colour"),
        ({"features": ["potential_cp"]}, "potential"),
        ({"symmetry": ["y"], "centred": ["x"]}, "axis of symmetry"),
    ],
)
def test_a_wrong_recipe_is_named_before_training(trained, tmp_path, change, said):
    config = recipe(trained / "bodies.zarr")
    config["surrogate"] |= change
    with pytest.raises(InputError, match=said):
        train(Config.from_dict(config), tmp_path / "run")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d.pop("weights"), "the key 'weights' is missing"),
        (lambda d: d["weights"].pop("sha256"), "the key 'weights.sha256' is missing"),
        (lambda d: d.pop("branches"), "the key 'branches' is missing"),
        (lambda d: d.update(points="x"), "points"),
        (lambda d: d.update(points=-5), "`points`: expected a whole number of 1 or more, got -5"),
        (lambda d: d.update(points=2.5), "points"),
        (lambda d: d["branches"]["surface"].update(anchors=0), "`anchors`: expected a whole"),
        (lambda d: d["branches"]["surface"].update(location="face"), "location"),
        (lambda d: d.update(potential={"direction": ["a", 0, 1]}), "direction"),
        (
            lambda d: d.update(potential={"direction": [1.0, 0.0, 0.0], "panels": 1}),
            "potential.panels",
        ),
        (lambda d: d.update(weights=3), "does not describe"),
    ],
)
def test_an_edited_description_is_refused_in_one_line(trained, tmp_path, change, said):
    meshsim.load(trained / "run").save(tmp_path / "run")
    path = tmp_path / "run" / "simulator.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match=said) as error:
        meshsim.load(tmp_path / "run")
    assert str(path) in str(error.value) and "\n" not in str(error.value)
