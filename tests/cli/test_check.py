"""`meshsim check`: what it prints, its exit codes, and repairs that never touch their input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import meshsim
from meshsim.cli import main
from tests.helpers import MESHES
from tests.sound import SOUND

from .test_errors import fails


@pytest.fixture
def faulty(tmp_path: Path) -> Path:
    """A mesh with a point of no cell and a cell listed the wrong way round."""
    meshsim.write(MESHES["carelessly_wound"].replace(point_fields={}), tmp_path / "faulty.npz")
    return tmp_path / "faulty.npz"


def test_a_sound_file_is_fit_for_use(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    meshsim.write(SOUND["hexahedron"], tmp_path / "a.npz")
    assert main(["check", str(tmp_path / "a.npz")]) == 0
    out = capsys.readouterr().out
    assert "fit for use" in out and "non-orthogonality: max" in out
    assert main(["check", str(tmp_path / "a.npz"), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] is True and document["problems"] == []
    assert set(document["figures"]["skewness"]) == {"max", "mean", "over", "threshold"}


def test_warnings_are_no_failure_and_errors_are(
    faulty: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    meshsim.write(MESHES["isolated"], tmp_path / "warned.npz")
    assert main(["check", str(tmp_path / "warned.npz")]) == 0
    assert "warning: orphan_points: 2 points belong to no cell" in capsys.readouterr().out
    assert main(["check", str(faulty)]) == 1
    assert "error: inverted: 3 cells are inside out" in capsys.readouterr().out
    assert main(["check", str(faulty), "--json"]) == 1
    (problem,) = json.loads(capsys.readouterr().out)["problems"]
    assert {"kind", "severity", "count", "of", "examples", "at", "text", "where"} == set(problem)
    assert problem["examples"] == [0, 2, 4] and problem["severity"] == "error"


def test_full_lists_all_numbers(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    mesh = SOUND["tetra"]
    points = torch.cat([mesh.points, torch.rand(30, 3).double()])
    meshsim.write(meshsim.Mesh(points, mesh.cells), tmp_path / "a.npz")
    for options, n in (([], 8), (["--full"], 30)):
        assert main(["check", str(tmp_path / "a.npz"), "--json", *options]) == 0
        (problem,) = json.loads(capsys.readouterr().out)["problems"]
        assert problem["count"] == 30 and len(problem["examples"]) == n


def test_a_repair_says_what_it_did_and_passes_the_check(
    faulty: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    before, out = faulty.read_bytes(), tmp_path / "new" / "mended.npz"
    assert main(["check", str(faulty), "--repair", str(out)]) == 0
    text = capsys.readouterr().out
    assert "repaired: 3 cells turned" in text and "fit for use" in text
    assert faulty.read_bytes() == before
    assert main(["check", str(out), "--repair", str(tmp_path / "again.npz")]) == 0
    assert "nothing to repair" in capsys.readouterr().out
    mended, again = meshsim.read(out), meshsim.read(tmp_path / "again.npz")
    assert torch.equal(mended.cells[0].nodes, again.cells[0].nodes)
    assert main(["check", str(faulty), "--repair", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["done"]


def test_a_repair_is_not_written_over_its_input(
    faulty: Path, store: Path, capsys: pytest.CaptureFixture
) -> None:
    before = faulty.read_bytes()
    link = faulty.with_name("link.npz")
    link.symlink_to(faulty)
    for out in (faulty, link, faulty.parent / "." / faulty.name):
        fails(capsys, ["check", str(faulty), "--repair", str(out)], "not written over its input")
    assert faulty.read_bytes() == before
    fails(capsys, ["check", str(store), "--repair", "x.vtu"], "a store is not repaired")
    fails(capsys, ["check", "no_such.vtu"], "no_such.vtu")
    fails(capsys, ["check", str(faulty), "--repair", "a.unknown"], "a.unknown")


def test_a_store_is_checked_sample_by_sample(store: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["check", str(store), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] and len(document["samples"]) == 4
    assert main(["check", str(store)]) == 0
    assert "fit for use" in capsys.readouterr().out


def test_help_says_the_exit_codes(capsys: pytest.CaptureFixture) -> None:
    assert main(["check", "--help"]) == 0
    assert "Exit code 0" in capsys.readouterr().out


def test_convert_makes_cells_linear_when_asked(tmp_path: Path) -> None:
    meshsim.write(SOUND["tetra10"], tmp_path / "a.vtu")
    arguments = ["convert", str(tmp_path / "a.vtu"), str(tmp_path / "b.vtu")]
    assert main([*arguments, "--linear"]) == 0
    found = meshsim.read(tmp_path / "b.vtu")
    assert [b.type for b in found.cells] == ["tetra"]
    assert set(found.boundaries) == {"left", "rest"} and set(found.point_fields) == {"p", "u"}
    assert main(arguments) == 0
    assert meshsim.read(tmp_path / "b.vtu").cells[0].type == "tetra10"
