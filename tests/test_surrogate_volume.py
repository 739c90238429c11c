"""Surrogates about a body: no slip, distances, a volume without a mesh, bad samples."""

import math
import warnings

import pytest
import torch

import meshsim
from meshsim.body import Body
from meshsim.check import InputError
from meshsim.cli import main as shell
from meshsim.mesh import Mesh
from meshsim.prepared import Prepared
from meshsim.sample import Sample
from meshsim.train import Config, train
from tests.test_surrogate import ellipsoid

NEAR = ["distance", "closest_point", "boundary_layer"]
FLIP = torch.tensor([1.0, -1.0, 1.0]).double()


def layer(body, thick=0.5):
    """Hexahedra and wedges from a body outwards; at their points a velocity that is zero on it."""
    n, middle = body.n_points, (body.points.amin(0) + body.points.amax(0)) / 2
    points = torch.cat([body.points, middle + (1 + thick) * (body.points - middle)])
    kinds = {"quad": "hexahedron", "triangle": "wedge"}
    cells = {kinds[b.type]: torch.cat([b.nodes, b.nodes + n], 1) for b in body.cells}
    x = points - middle
    wind = torch.stack([x[:, 1], -x[:, 0], 0 * x[:, 2]], 1)
    wind[:n] = 0.0
    return Mesh(points, cells, {"velocity": wind, "cp": x[:, 0].clone()})


def case(width=0.6, inflow=1.0, **shape):
    body = ellipsoid((1.0, width, 0.4), n=6, **shape)
    return Sample(
        {"surface": body, "volume": layer(body)}, {"inflow": inflow}, f"body_{width:g}_{inflow:g}"
    )


def recipe(store, volume=None, **changes):
    volume = volume or {"fields": ["velocity", "cp"], "curl": ["velocity"], "no_slip": True}
    return {
        "data": {"store": str(store)},
        "model": {"name": "anchored", "width": 16, "heads": 2, "blocks": "pj", "supernodes": 16},
        "surrogate": {
            "geometry": "surface", "points": 64, "features": ["normal"], "parameters": ["inflow"],
            "symmetry": ["y"], "absent": 0.0,
            "branches": {
                "surface": {"fields": ["pressure"], "features": ["normal"], "anchors": 32},
                "volume": {"anchors": 48, **volume},
            },
            **changes,
        },
        "train": {"steps": 4, "batch": 2, "mirror": ["y"], "threads": 1},
    }  # fmt: skip


def stored(folder, samples, **splits):
    store = meshsim.Store.create(folder)
    for sample in samples:
        store.append(sample)
    store.set_splits(splits or {"train": store.names})
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("volume")
    stored(folder / "s.zarr", [case(0.5 + 0.1 * i, 1.0 + i) for i in range(3)])
    return folder


@pytest.fixture(scope="module")
def held(folder):
    """The run of a surrogate whose velocity does not slip on the body."""
    train(Config.from_dict(recipe(folder / "s.zarr")), folder / "held")
    return folder / "held"


def bare(sample, *names):
    meshes = {k: Mesh(v.points, v.cells) for k, v in sample.branches.items() if k in names}
    return Sample(meshes, sample.parameters)


def test_a_velocity_without_slip_is_zero_on_the_body_and_only_scaled(held, tmp_path):
    surrogate = meshsim.load(held)
    assert not surrogate.normaliser.mean("volume:velocity").any()
    assert len(set(surrogate.normaliser.std("volume:velocity").tolist())) == 1
    given = bare(case(0.63, 1.5), "surface", "volume")
    found = surrogate.predict(given).branches["volume"].point_fields
    n = given.branches["surface"].n_points
    assert not found["velocity"][:n].any() and bool(found["velocity"][n:].any(1).all())
    assert bool((found["cp"][:n] != 0).all())
    surrogate.save(tmp_path / "again")
    again = meshsim.load(tmp_path / "again")
    assert again.branches["volume"].no_slip and again.domains == surrogate.domains
    same = again.predict(given).branches["volume"].point_fields
    assert torch.equal(same["velocity"], found["velocity"])


@pytest.fixture(scope="module")
def near(folder):
    """The run of a surrogate that knows distances in its volume."""
    volume = {"fields": ["velocity", "cp"], "features": NEAR}
    train(Config.from_dict(recipe(folder / "s.zarr", volume)), folder / "near")
    return folder / "near"


@pytest.mark.parametrize("which", ["held", "near"])
def test_the_mirror_image_of_a_sample_is_the_sample_of_the_mirror_image(which, request):
    surrogate = meshsim.load(request.getfixturevalue(which))
    sample = bare(case(0.63, 1.5, shift=(0.2, 0.1, 0.0)), "surface", "volume")

    def turned(mesh):
        order = {"hexahedron": [3, 2, 1, 0, 7, 6, 5, 4], "wedge": [0, 2, 1, 3, 5, 4]}
        order |= {"quad": [3, 2, 1, 0], "triangle": [2, 1, 0]}
        return Mesh(mesh.points * FLIP, {b.type: b.nodes[:, order[b.type]] for b in mesh.cells})

    image = Sample({k: turned(v) for k, v in sample.branches.items()}, sample.parameters)
    a: Prepared = surrogate.mirrored(surrogate.prepare(sample), ["y"])
    b = surrogate.prepare(image)
    (x, f), (y, g) = a.branches["volume"], b.branches["volume"]
    torch.testing.assert_close(x, y, rtol=0.0, atol=1e-5)
    if which == "near":
        torch.testing.assert_close(f, g, rtol=0.0, atol=1e-4)
    else:  # of equally near walls another may be taken
        from meshsim.physics.walls import squared_distance

        n = torch.arange(len(x))
        c, d = (squared_distance(x, w.reshape(-1, 3, 3), n) for w in (f, g))
        torch.testing.assert_close(c, d, rtol=0.0, atol=1e-5)
    torch.testing.assert_close(a.geometry, b.geometry, rtol=0.0, atol=1e-5)


def test_distances_are_looked_up_once_a_mesh_not_each_step(folder, tmp_path, monkeypatch):
    store = stored(tmp_path / "one.zarr", [case()])
    calls, count = Body.distance, []

    def counted(self, points, tolerance=0.1):
        count.append(len(points))
        return calls(self, points, tolerance)

    monkeypatch.setattr(Body, "distance", counted)
    for steps in (1, 5):
        config = recipe(store, {"fields": ["cp"], "features": NEAR})
        config["train"] |= {"steps": steps, "batch": 1}
        train(Config.from_dict(config), tmp_path / f"run{steps}")
        count.append(-1)
    first = count.index(-1)
    assert count[:first] == count[first + 1 : -1] and first <= 3


# --- a volume without a mesh ---


def test_a_volume_without_a_mesh_takes_part_as_in_training(held):
    surrogate = meshsim.load(held)
    sample = case(0.63, 1.5)
    body = bare(sample, "surface")
    prepared = surrogate.prepare(body, fill=True)
    pos, x = prepared.filled["volume"]
    assert len(pos) == 2 * 48 and x.shape == (96, 9)
    origin, length = surrogate.frame.of_body(body.branches["surface"].points)
    distance = Body.of(body.mesh).distance(pos.double() * length + origin).distance
    assert float(distance.min()) > 0
    assert set(surrogate._latent(prepared, 0).keys) == {"surface", "volume"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        full = surrogate.predict(body).mesh.point_fields["pressure"]
    with pytest.warns(UserWarning, match="no branch volume"):
        alone = surrogate.predict(body, fill=False).mesh.point_fields["pressure"]
    whole = surrogate.predict(sample).branches["surface"].point_fields["pressure"]
    assert torch.equal(full, surrogate.predict(body).mesh.point_fields["pressure"])
    assert float((full - whole).norm()) < float((alone - whole).norm())


def test_a_body_in_which_the_training_box_lies_leaves_the_volume_out(held):
    surrogate = meshsim.load(held)
    giant = ellipsoid((1000.0, 630.0, 400.0), n=6)
    with pytest.warns(UserWarning, match="no branch volume"):
        out = surrogate.predict(giant, {"inflow": 1.0})
    assert torch.isfinite(out.point_fields["pressure"]).all()


def test_the_shell_writes_each_mesh_in_its_own_format(held, tmp_path, capsys):
    sample = bare(case(0.63, 1.5), "surface", "volume")
    body, volume = tmp_path / "body.vtp", tmp_path / "volume.vtu"
    meshsim.write(sample.branches["surface"], body)
    meshsim.write(sample.branches["volume"], volume)
    run, out = str(held), tmp_path / "out"
    assert shell(["predict", run, str(body), str(volume), "-o", str(out), "inflow=1.5"]) == 0
    made = {p.name: meshsim.read(p) for p in out.iterdir()}
    assert set(made) == {"body.vtp", "volume.vtu"}
    answer = meshsim.load(held).predict(sample)
    torch.testing.assert_close(
        made["volume.vtu"].point_fields["velocity"],
        answer.branches["volume"].point_fields["velocity"],
    )
    assert "pressure" in made["body.vtp"].point_fields
    stl = tmp_path / "body.stl"
    meshsim.write(sample.branches["surface"], stl)
    given = [f"volume={volume}", "-o", str(out), "inflow=1.5"]
    assert shell(["predict", run, str(stl), *given]) == 0
    assert "body.stl cannot be written with fields: .vtp is" in capsys.readouterr().err
    one = [str(stl), "-o", str(tmp_path / "one.vtp"), "inflow=1.5"]
    assert shell(["predict", run, *one]) == 0
    said = capsys.readouterr().err
    assert "one.vtp: pressure\n" in said and "no branch" not in said
    assert shell(["predict", run, *one[:2], str(tmp_path / "two.vtp"), one[3], "--no-fill"]) == 0
    with_fill, alone = (meshsim.read(tmp_path / f"{n}.vtp").point_fields for n in ("one", "two"))
    assert not torch.equal(with_fill["pressure"], alone["pressure"])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["body.vtp", "volume.vtu", "-o", "x.vtu"], "x.vtu: expected a folder"),
        (["body.vtp", "volume.vtu", "-o", "."], "volume.vtu would be written over|body.vtp would"),
        (["body.vtp", "velocity", "-o", "x"], "there is no such file"),
        (["body.vtp", "volume.vtu", "volume.vtu", "-o", "x"], "of which branch"),
        (["body.vtp", "volume=none.vtu", "-o", "x"], "none.vtu: no such file"),
        (["body.vtp", "surface=body.vtp", "-o", "x"], "has body.vtp already"),
        (["empty.stl", "-o", "x.vtp"], "empty.stl"),
    ],
)
def test_the_shell_says_what_is_wrong_with_several_meshes(
    held, tmp_path, monkeypatch, capsys, given, said
):
    monkeypatch.chdir(tmp_path)
    sample = bare(case(0.63, 1.5), "surface", "volume")
    meshsim.write(sample.branches["surface"], "body.vtp")
    meshsim.write(sample.branches["volume"], "volume.vtu")
    (tmp_path / "empty.stl").write_text("solid none\nendsolid none\n")
    assert shell(["predict", str(held), *given, "inflow=1.5"]) == 2
    import re

    found = capsys.readouterr().err
    assert re.search(said, found) and found.count("\n") == 1


# --- bad input ---


def test_odd_bodies_are_said_and_predicted_on(held, tmp_path, capsys):
    """Inside out, edges with three faces, millimetres: said in a line each."""
    body = Mesh(ellipsoid((1.0, 0.63, 0.4), n=6).points, ellipsoid(n=6).cells)
    turned = Mesh(body.points, {b.type: b.nodes.flip(1) for b in body.cells})
    fin = torch.cat([body.cells[1].nodes, torch.tensor([[0, 2, 1]])])
    crowded = Mesh(body.points, {"quad": body.cells[0].nodes, "triangle": fin})
    far = Mesh(1000 * body.points, body.cells)
    found = {}
    for name, mesh in (("b", body), ("t", turned), ("c", crowded), ("f", far)):
        meshsim.write(mesh, tmp_path / f"{name}.vtp")
        out = tmp_path / f"{name}_out.vtp"
        given = [str(tmp_path / f"{name}.vtp"), "-o", str(out), "inflow=1.5", "--no-fill"]
        assert shell(["predict", str(held), *given]) == 0
        found[name] = meshsim.read(out), capsys.readouterr().err
    assert "inside out, turned" in found["t"][1]
    a, b = (found[k][0].point_fields["pressure"] for k in ("b", "t"))
    torch.testing.assert_close(a, b, rtol=0.0, atol=1e-4)
    assert "shared by more than two" in found["c"][1]
    assert float(found["f"][0].global_fields["extrapolation"]) == 3.0


def spoiled(sample, branch, field=None, value=math.nan, rows=(3, 5), parameters=None):
    mesh = sample.branches[branch]
    fields = dict(mesh.point_fields)
    if field is not None and value is None:
        del fields[field]
    elif field is not None:
        fields[field] = fields[field].clone()
        fields[field][list(rows)] = value
    branches = {**sample.branches, branch: mesh.replace(point_fields=fields)}
    return Sample(branches, parameters or sample.parameters, sample.name)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (("surface", "pressure"), r"'bad', branch 'surface'.*'pressure'.* at 2 of 62 points"),
        (("volume", "velocity", math.inf, (4,)), r"'bad', branch 'volume'.*'velocity'.* at 1 of"),
        (
            ("volume", "cp", None),
            r"'bad', branch 'volume'.*'cp'.*known: velocity",
        ),
        (("volume", None, None, (), {"inflow": math.nan}), "'bad': parameter inflow"),
    ],
)
@pytest.mark.parametrize("split", ["train", "valid"])
def test_bad_samples_are_named_before_training(tmp_path, monkeypatch, bad, said, split):
    """Also of a store that let them in."""
    sample = spoiled(case(0.6, 1.0), *bad)
    sample = Sample(sample.branches, sample.parameters, "bad")
    good = case(0.5, 1.0)
    names = {"train": [good.name, "bad"]} if split == "train" else {}
    names = names or {"train": [good.name], "valid": ["bad"]}
    if bad[-1] is not None:
        with pytest.raises(InputError, match=r"sample 'bad'.*not finite"):
            stored(tmp_path / "refused.zarr", [sample])
    monkeypatch.setattr("meshsim.data.staging.ArrayWriter._refuse", lambda *_: None)
    store = stored(tmp_path / "s.zarr", [good, sample], **names)
    with pytest.raises(InputError, match=said):
        train(Config.from_dict(recipe(store)), tmp_path / "run")


def test_a_field_that_is_nowhere_names_the_nearest(folder, tmp_path):
    config = recipe(folder / "s.zarr", {"fields": ["velocty"]})
    with pytest.raises(InputError, match=r"sample 'body_0.5_1'.*did you mean 'velocity'"):
        train(Config.from_dict(config), tmp_path / "run")
    with pytest.raises(InputError, match="no_slip: expected the fields it is for in curl"):
        Config.from_dict(recipe(folder / "s.zarr", {"fields": ["cp"], "no_slip": True}))


def test_a_body_across_the_ground_of_the_training_is_said(folder, tmp_path):
    potential = {"direction": [1.0, 0.0, 0.0], "ground": ["z", 0.0]}
    config = recipe(folder / "s.zarr", potential=potential, features=["potential_cp"])
    with pytest.raises(InputError, match=r"sample 'body_0.5_1', .*across the ground at 0"):
        train(Config.from_dict(config), tmp_path / "run")
