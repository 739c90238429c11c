"""`predict`: from meshes with a field to the field on a mesh that never had it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import meshsim
from meshsim.cli import main

from .conftest import square
from .test_errors import fails

RECIPE = """
[data]
store = "STORE"
[fields.pressure]
role = "target"
components = 1
[fields.speed]
role = "parameter"
location = "global"
[model]
width = 8
depth = 1
hidden_layers = 1
[simulator]
features = ["box_position"]
[train]
steps = 3
threads = 1
"""


@pytest.fixture(scope="module")
def steady(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that predicts a pressure from the shape and a speed."""
    folder = tmp_path_factory.mktemp("steady")
    for split, speeds in (("train", (0.5, 1.0)), ("test", (0.7,))):
        (folder / "bodies" / split).mkdir(parents=True)
        for speed in speeds:
            mesh = square(4)
            mesh = mesh.with_fields({"pressure": speed * mesh.points[:, 0]})
            file = folder / "bodies" / split / f"body_{10 * speed:.0f}.npz"
            meshsim.write(meshsim.Sample(mesh, {"speed": speed}), file)
    assert main(["preprocess", str(folder / "bodies"), "-o", str(folder / "s.zarr")]) == 0
    (folder / "train.toml").write_text(RECIPE.replace("STORE", str(folder / "s.zarr")))
    assert main(["train", str(folder / "train.toml"), "-o", str(folder / "run")]) == 0
    return folder / "run"


def test_the_same_mesh_comes_back_with_the_prediction(
    steady: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    mesh = square(5)
    meshsim.write(mesh, tmp_path / "new.vtu")
    out = tmp_path / "made" / "here" / "new.vtu"  # folders are made
    capsys.readouterr()
    assert (
        main(["predict", str(steady), str(tmp_path / "new.vtu"), "-o", str(out), "speed=.7"]) == 0
    )
    assert capsys.readouterr().err.strip() == f"{out}: pressure"
    back = meshsim.read(out)
    assert torch.equal(back.points, mesh.points)
    assert [(c.type, c.nodes.tolist()) for c in back.cells] == [
        (c.type, c.nodes.tolist()) for c in mesh.cells
    ]
    assert {n: len(b.faces) for n, b in back.boundaries.items()} == {
        n: len(b.faces) for n, b in mesh.boundaries.items()
    }
    expected = meshsim.Simulator.load(steady).predict(mesh, {"speed": 0.7})
    found = back.point_fields["pressure"]
    torch.testing.assert_close(found, expected.point_fields["pressure"], atol=1e-6, rtol=0)


def test_an_ensemble_says_how_far_it_disagrees(
    steady: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    mesh, out = tmp_path / "new.vtu", tmp_path / "out.vtu"
    meshsim.write(square(5), mesh)
    recipe = steady.parent / "train.toml"
    run = tmp_path / "run"
    assert main(["train", str(recipe), "-o", str(run), "model.members=2"]) == 0
    capsys.readouterr()
    asked = ["predict", str(run), str(mesh), "-o", str(out), "speed=0.7", "--spread"]
    assert main(asked) == 0
    assert capsys.readouterr().err.strip() == f"{out}: pressure, pressure_spread"
    spread = meshsim.read(out).point_fields["pressure_spread"]
    assert spread.shape == (len(square(5).points),) and float(spread.min()) > 0
    asked[1] = str(steady)
    fails(capsys, asked, "needs an ensemble")


def test_values_outside_the_training_are_said(
    steady: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    meshsim.write(square(3), tmp_path / "a.vtu")
    command = ["predict", str(steady), str(tmp_path / "a.vtu"), "-o", str(tmp_path / "b.vtu")]
    assert main([*command, "speed=9"]) == 0
    errors = capsys.readouterr().err
    assert "warning: parameter speed = 9 is outside the range seen in training" in errors


def test_without_targets_it_goes_one_step(
    run: Path, waves: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    source, out = waves / "test" / "wave_60.npz", tmp_path / "next.vtu"
    capsys.readouterr()
    assert main(["predict", str(run), str(source), "-o", str(out)]) == 0
    assert capsys.readouterr().err.strip() == f"{out}: u"
    ahead = meshsim.Simulator.load(run).rollout(meshsim.read(source), 1).frame(1)
    found = meshsim.read(out).point_fields["u"]
    torch.testing.assert_close(found, ahead.point_fields["u"], atol=1e-6, rtol=0)


def test_what_is_wrong_is_said_before_the_work(
    steady: Path, store: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    meshsim.write(square(3), tmp_path / "a.vtu")
    mesh, out = str(tmp_path / "a.vtu"), str(tmp_path / "b.vtu")
    fails(capsys, ["predict", str(steady), mesh, "-o", out], "'speed'", "missing")
    fails(capsys, ["predict", str(steady), mesh, "-o", out, "sped=1"], "'speed'")
    fails(capsys, ["predict", str(steady), mesh, "-o", out, "speed=fast"], "speed=fast", "number")
    fails(capsys, ["predict", mesh, str(steady), "-o", out], "a.vtu", "expected a trained run")
    fails(capsys, ["predict", str(steady), str(store), "-o", out], "a store", "expected a mesh")
    fails(capsys, ["predict", str(steady), mesh, "-o", f"{out}.png", "speed=1"], ".png", "vtu")
    fails(capsys, ["rollout", str(steady), mesh, "-o", f"{out}.npz", "speed=1"], "use predict")
    assert not Path(out).exists()
