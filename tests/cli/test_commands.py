"""The command line end to end on a tiny data set: what it prints, writes and returns."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import meshsim
from meshsim.cli import main

from .conftest import square, wave
from .test_errors import fails


def test_info_of_a_file_prints_one_json_document(
    waves: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["info", str(waves / "train" / "wave_50.npz"), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["cells"] == {"quad": 18, "triangle": 36}
    assert document["points"] == 49 and document["dim"] == 2
    assert document["point_fields"]["u"]["shape"][-1] == 2
    assert set(document["boundaries"]) == {"inflow", "outflow", "wall"}
    assert len(document["times"]) == 12


def test_info_says_of_which_times_its_ranges_are(
    waves: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    source = meshsim.read(waves / "test" / "wave_60.npz").branch
    u = torch.zeros(3, source.mesh.n_points)
    u[1] = 7.0
    meshsim.write(meshsim.Series(source.mesh, [0.0, 1.0, 2.0], {"u": u}), tmp_path / "a.npz")
    for options, most, said in (([], 0.0, True), (["--full"], 7.0, False)):
        assert main(["info", str(tmp_path / "a.npz"), "--json", *options]) == 0
        document = json.loads(capsys.readouterr().out)
        assert document["point_fields"]["u"]["max"] == most
        assert any("--full" in note for note in document["notes"]) is said


def test_info_of_a_store_and_a_run(store: Path, run: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["info", str(store), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["samples"] == 4 and document["splits"] == {"train": 3, "test": 1}
    assert main(["info", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["format"] == "simulator"
    assert main(["info", str(store)]) == 0 and main(["info", str(run)]) == 0


def test_convert_keeps_cells_fields_and_boundaries(tmp_path: Path, waves: Path) -> None:
    first = meshsim.read(waves / "test" / "wave_60.npz").branch.frame(3)
    meshsim.write(first, tmp_path / "a.vtu")
    assert main(["convert", str(tmp_path / "a.vtu"), str(tmp_path / "b.npz")]) == 0
    back = meshsim.read(tmp_path / "b.npz")
    assert [(c.type, len(c)) for c in back.cells] == [(c.type, len(c)) for c in first.cells]
    assert torch.equal(back.point_fields["u"], first.point_fields["u"])


def test_one_time_of_a_series(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    source, out = tmp_path / "wave.npz", tmp_path / "one.vtu"
    series = wave(0.7).branch
    meshsim.write(series, source)
    for time, t in (("first", 0), ("last", -1), ("0.3", 3)):
        assert main(["convert", str(source), str(out), "--time", time]) == 0
        assert torch.equal(meshsim.read(out).point_fields["u"], series.frame(t).point_fields["u"])
    picture = tmp_path / "one.png"
    assert main(["view", str(source), "--time", "last", "-o", str(picture)]) == 0
    assert picture.stat().st_size > 1000
    given = ["convert", str(source), str(out), "--time"]
    fails(capsys, [*given, "0.34"], "no time 0.34", "12 times from 0 to 1.1", "nearest 0.3")
    fails(capsys, [*given, "latest"], "expected a number, 'first' or 'last'")
    fine = tmp_path / "fine.vtu"
    meshsim.write(square(11), fine)
    target = tmp_path / "onto.npz"
    assert main(["convert", str(source), str(target), "--onto", str(fine)]) == 0
    found = meshsim.read(target)
    assert len(found) == 12 and found.mesh.n_points == 144


def test_convert_onto_another_mesh_reproduces_a_linear_field(tmp_path: Path) -> None:
    from .conftest import square

    coarse, fine = square(4), square(7)
    linear = 2 * coarse.points[:, 0] - coarse.points[:, 1]
    meshsim.write(coarse.with_fields(point={"f": linear}), tmp_path / "coarse.vtu")
    meshsim.write(fine, tmp_path / "fine.vtu")
    arguments = ["convert", str(tmp_path / "coarse.vtu"), str(tmp_path / "out.vtu")]
    assert main([*arguments, "--onto", str(tmp_path / "fine.vtu")]) == 0
    out = meshsim.read(tmp_path / "out.vtu")
    assert out.n_points == fine.n_points
    expected = 2 * out.points[:, 0] - out.points[:, 1]
    torch.testing.assert_close(out.point_fields["f"].double(), expected, atol=1e-6, rtol=0)


def test_convert_onto_another_mesh_keeps_integrals(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    from .conftest import square

    coarse, fine = square(4), square(7)
    values = torch.rand(coarse.n_cells, dtype=torch.float64)
    meshsim.write(coarse.with_fields(cell={"T": values}), tmp_path / "coarse.vtu")
    meshsim.write(fine, tmp_path / "fine.vtu")
    low = fine.points[:, 0].min()
    half = fine.points * torch.tensor([0.5, 1.0]) + torch.stack([0.5 * low, 0 * low])
    meshsim.write(fine.replace(points=half), tmp_path / "half.vtu")
    given = ["convert", str(tmp_path / "coarse.vtu"), str(tmp_path / "out.vtu"), "--conservative"]
    assert main([*given, "--onto", str(tmp_path / "fine.vtu")]) == 0
    assert "note" not in capsys.readouterr().err
    out = meshsim.read(tmp_path / "out.vtu")
    had = (coarse.cell_measures * values).sum()
    assert (out.cell_measures * out.cell_fields["T"]).sum().item() == pytest.approx(
        had.item(), rel=1e-12
    )
    assert main([*given, "--onto", str(tmp_path / "half.vtu")]) == 0
    assert "50 % of" in capsys.readouterr().err
    fails(capsys, given, "--conservative: expected --onto MESH")


def test_preprocess_started_again_carries_on(
    waves: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    command = ["preprocess", str(waves), "-o", str(tmp_path / "s.zarr")]
    assert main(command) == 0
    capsys.readouterr()
    assert main(command) == 0
    assert "0 samples written, 4 there already, 0 failed" in capsys.readouterr().err
    other = ["preprocess", str(waves / "train"), "-o", str(tmp_path / "s.zarr")]
    assert main(other) == 2
    assert main([*other, "--overwrite"]) == 0


def test_preprocess_names_the_bad_file_and_keeps_the_others(
    waves: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for path in (waves / "train").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "broken.vtu").write_text("<VTKFile")
    assert main(["preprocess", str(tmp_path), "-o", str(tmp_path / "s.zarr")]) == 1
    errors = capsys.readouterr().err
    assert "broken.vtu" in errors and "Traceback" not in errors
    assert len(meshsim.Store(tmp_path / "s.zarr").names) == 3


def test_dry_run_writes_nothing(waves: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["preprocess", str(waves), "-o", str(tmp_path / "s.zarr"), "--dry-run"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4
    assert not (tmp_path / "s.zarr").exists()
    command = ["preprocess", str(waves), "-o", str(tmp_path / "s.zarr"), "--workers", "2"]
    assert main([*command, "--dry-run", "--json", "--memory", "2 GB"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert len(plan["samples"]) == plan["totals"]["samples"] == 4
    for cost in plan["samples"]:
        assert cost["size"] > 0 and cost["stored"] > 0 and cost["seconds"] > 0
        assert 5e7 < cost["peak"] <= plan["totals"]["peak"] <= 2e9 and cost["how"] == "measured"
    assert not (tmp_path / "s.zarr").exists()


def test_preprocess_reports_in_json_and_nothing_else(
    waves: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for path in (waves / "train").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "broken.vtu").write_text("<VTKFile")
    command = ["preprocess", str(tmp_path), "-o", str(tmp_path / "s.zarr"), "--json"]
    assert main(command) == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["done"], report["skipped"], len(report["failed"])) == (3, 0, 1)
    entries = {entry["sample"]: entry for entry in report["inputs"]}
    assert [e["status"] for e in entries.values()] == ["failed", "done", "done", "done"]
    assert "broken.vtu" in entries["broken"]["error"]
    assert main(command) == 1
    again = json.loads(capsys.readouterr().out)
    assert (again["done"], again["skipped"]) == (0, 3)
    assert again["inputs"][1:] == report["inputs"][1:]  # who failed took another while


@pytest.mark.parametrize(
    "given, message",
    [
        (["--memory", "lots"], "expected a size, as 4GB"),
        (["--cluster", "tcp://127.0.0.1:9"], "no scheduler answers at tcp://127.0.0.1:9"),
    ],
)
def test_preprocess_refuses_in_one_line(
    given: list[str], message: str, waves: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    if given[0] == "--cluster":
        pytest.importorskip("distributed")
    assert main(["preprocess", str(waves), "-o", str(tmp_path / "s.zarr"), *given]) in (1, 2)
    out, err = capsys.readouterr()
    assert not out and len(err.splitlines()) == 1 and message in err
    assert not (tmp_path / "s.zarr").exists()


def test_evaluate_prints_the_model_beside_its_baselines(
    run: Path, store: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["evaluate", str(run), str(store), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["samples"] == 1
    assert document["metrics"]["u"]["rollout_all"] > 0
    assert {"persistence", "time_mean"} <= set(document["baselines"])
    assert main(["evaluate", str(run), str(store)]) == 0
    assert "persistence" in capsys.readouterr().out


def test_rollout_comes_back_on_the_same_mesh(run: Path, waves: Path, tmp_path: Path) -> None:
    source = waves / "test" / "wave_60.npz"
    out = tmp_path / "out.pvd"
    assert main(["rollout", str(run), str(source), "-o", str(out), "--steps", "5"]) == 0
    series, truth = meshsim.read(out), meshsim.read(source).branch
    assert len(series) == 6
    assert torch.equal(series.mesh.points.double(), truth.mesh.points.double())
    start = series.frame(0).point_fields["u"]
    torch.testing.assert_close(start[:, :2], truth.frame(0).point_fields["u"], rtol=0, atol=1e-6)


def test_view_takes_a_component_and_names_its_picture(
    waves: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    frame = meshsim.read(waves / "test" / "wave_60.npz").branch.frame(0)
    meshsim.write(frame, "one.vtu")
    assert main(["view", "one.vtu", "--component", "y"]) == 0
    assert main(["view", "one.vtu", "--component", "1", "-o", "b.PNG"]) == 0
    assert Path("one.png").read_bytes() == Path("b.PNG").read_bytes()


def test_recipes_are_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["train", "datasets/shapenet_car/config.toml", "-o", "r", "data.store=none.zarr"]
    assert main(arguments) == 2
    assert "none.zarr" in capsys.readouterr().err  # the recipe was read


@pytest.mark.parametrize("suffix", ["png", "gif", "html"])
def test_view_makes_a_picture(waves: Path, tmp_path: Path, suffix: str) -> None:
    target = tmp_path / f"picture.{suffix}"
    assert main(["view", str(waves / "test" / "wave_60.npz"), "-o", str(target)]) == 0
    assert target.stat().st_size > 1000


def test_view_of_a_run_draws_its_curves(run: Path, tmp_path: Path) -> None:
    assert main(["view", str(run), "-o", str(tmp_path / "curves.png")]) == 0
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_doctor_says_what_is_active(capsys: pytest.CaptureFixture) -> None:
    assert main(["doctor", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document) == {"versions", "ops", "threads", "devices", "rendering"}
    assert all(op["cpu"] in ("native", "reference") for op in document["ops"].values())
    assert main(["doctor"]) == 0


def test_convert_does_not_write_over_what_it_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    source, other = tmp_path / "m.vtu", tmp_path / "other.vtu"
    meshsim.write(square(2), source)
    meshsim.write(square(3), other)
    before = source.read_bytes(), other.read_bytes()
    fails(capsys, ["convert", str(source), str(source)], "m.vtu: is what is read")
    given = ["convert", str(source), str(other), "--onto", str(other)]
    fails(capsys, given, "other.vtu: is what is read")
    assert (source.read_bytes(), other.read_bytes()) == before


def test_convert_onto_says_a_wrong_target_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    meshsim.write(square(2), tmp_path / "m.vtu")
    monkeypatch.setattr("meshsim.render.carry", lambda *_: pytest.fail("the work was done"))
    given = ["convert", str(tmp_path / "m.vtu"), str(tmp_path / "o.abc")]
    fails(capsys, [*given, "--onto", str(tmp_path / "m.vtu")], "cannot write .abc")


def test_convert_conservatively_names_a_field_that_is_not_finite(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    mesh = square(2)
    hole = mesh.points[:, 0].clone()
    hole[3] = torch.nan
    meshsim.write(mesh.with_fields({"hole": hole}), tmp_path / "m.vtu")
    given = ["convert", str(tmp_path / "m.vtu"), str(tmp_path / "o.vtu"), "--conservative"]
    fails(capsys, [*given, "--onto", str(tmp_path / "m.vtu")], "`hole`: 1 values are not finite")
