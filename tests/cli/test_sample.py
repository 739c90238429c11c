"""`sample`: numbers along lines, on planes and at points."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

import meshsim
from meshsim import Series
from meshsim.cli import main

from .conftest import square, wave
from .test_errors import fails


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def linear(tmp_path: Path) -> Path:
    """A square with a field that is linear, and a vector on its cells."""
    mesh = square(5)
    mesh = mesh.with_fields({"p": 1 + 2 * mesh.points[:, 0] - mesh.points[:, 1]},
                            {"k": mesh.cell_centres})  # fmt: skip
    meshsim.write(mesh, tmp_path / "m.vtu")
    return tmp_path / "m.vtu"


def test_a_line(linear: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out, plot = tmp_path / "made" / "l.csv", tmp_path / "l.png"
    given = ["sample", str(linear), "--line", "0,0.2", "1.25,0.2", "-n", "6", "-o", str(out)]
    assert main([*given, "--plot", str(plot)]) == 0
    found = rows(out)
    assert list(found[0]) == ["x", "y", "distance", "p", "k_x", "k_y"]
    for i, row in enumerate(found[:5]):
        assert float(row["distance"]) == pytest.approx(0.25 * i)
        assert float(row["p"]) == pytest.approx(1 + 2 * 0.25 * i - 0.2, abs=1e-5)
        assert abs(float(row["k_x"]) - 0.25 * i) <= 0.2 * 2 / 3 + 1e-6
    assert found[5]["p"] == found[5]["k_y"] == ""  # outside
    assert "1 of 6 places lie outside the mesh" in capsys.readouterr().err
    assert plot.stat().st_size > 1000


def test_a_plane_and_points(linear: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.csv"
    assert main(["sample", str(linear), "--plane", "x=0.5", "-n", "3", "-o", str(out)]) == 0
    assert [(r["x"], r["y"]) for r in rows(out)] == [("0.5", "0.0"), ("0.5", "0.5"), ("0.5", "1.0")]
    for text in ("y,x\n0.3,0.1\n", "0.1,0.3\n"):  # columns by name, or in their order
        (tmp_path / "points.csv").write_text(text)
        asked = ["sample", str(linear), "--points", str(tmp_path / "points.csv"), "-o", str(out)]
        assert main(asked) == 0
        (row,) = rows(out)
        assert float(row["p"]) == pytest.approx(1 + 0.2 - 0.3, abs=1e-5)


def test_a_series_has_a_row_for_each_time(tmp_path: Path) -> None:
    series, source, out = wave(0.7).branch, tmp_path / "w.npz", tmp_path / "o.csv"
    meshsim.write(series, source)
    given = ["sample", str(source), "--line", "0,0", "0,1", "-n", "7", "-o", str(out)]
    assert main(given) == 0
    found = rows(out)
    assert len(found) == 12 * 7 and list(found[0])[:4] == ["time", "x", "y", "distance"]
    at = [float(r["u_x"]) for r in found if float(r["time"]) == float(series.times[4])]
    left = series.mesh.points[:, 0] == 0
    known = series.frame(4).point_fields["u"][left, 0]
    torch.testing.assert_close(torch.tensor(at), known, rtol=0, atol=1e-6)
    assert main([*given, "--time", "last"]) == 0
    assert len(rows(out)) == 7 and "time" not in rows(out)[0]


def test_what_is_wrong_is_said(linear: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    start, end = ["sample", str(linear)], ["-o", str(tmp_path / "o.csv")]
    fails(capsys, [*start, *end], "one of --points, --line and --plane")
    fails(capsys, [*start, "--line", "0,0", "1,0,0", *end], "expected 2 numbers")
    fails(capsys, [*start, "--plane", "z=1", *end], "unknown axis 'z'")
    fails(capsys, [*start, "--plane", "x=a", *end], "expected an axis and a number")
    fails(capsys, [*start, "--plane", "x=0", "--plot", "a.png", *end], "--plot")
    fails(capsys, [*start, "--line", "0,0", "1,0", "-o", "a.txt"], "ending in .csv")
    (tmp_path / "p.csv").write_text("a,b\n1,2\n")
    fails(capsys, [*start, "--points", str(tmp_path / "p.csv"), *end], "columns x, y of numbers")


def test_what_is_no_place_is_refused(
    linear: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    places, out = tmp_path / "points.csv", tmp_path / "o.csv"
    places.write_text("x,y\n0.1,0.2\n0.1,nan\n")
    given = ["sample", str(linear), "-o", str(out)]
    fails(capsys, [*given, "--points", str(places)], "place 1 is not finite")
    fails(capsys, [*given, "--line", "nan,0", "1,0"], "'nan,0': expected 2 numbers")
    fails(capsys, [*given, "--plane", "x=7"], "beside the mesh")
    assert not out.exists()
    assert main([*given, "--plane", "x", "-n", "3"]) == 0
    assert {row["x"] for row in rows(out)} == {"0.5"}
    places.write_text("0.1,0.2\n")
    own = ["sample", str(linear), "--points", str(places), "-o", str(places)]
    fails(capsys, own, "the places are read from it")
    assert places.read_text() == "0.1,0.2\n"


def test_a_mesh_that_moves_is_sampled_at_one_time(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    mesh = square(2)
    moving = Series(mesh, [0.0, 1.0], points=[mesh.points, 2 * mesh.points])
    meshsim.write(moving, tmp_path / "m.pvd")
    given = [
        "sample",
        str(tmp_path / "m.pvd"),
        "--line",
        "0,0",
        "1,1",
        "-o",
        str(tmp_path / "o.csv"),
    ]
    fails(capsys, given, "m.pvd changes: choose one --time")
    assert main([*given, "--time", "last"]) == 0
