"""`move`: the same mesh with other points, in the same format."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import meshsim
from meshsim.cli import main

from .conftest import square
from .test_errors import fails


@pytest.fixture
def front(tmp_path: Path) -> Path:
    """A square with a steep field along x = 0.5."""
    mesh = square(10)
    u = torch.tanh(10 * (mesh.points[:, 0] - 0.5))
    cells = torch.arange(mesh.n_cells, dtype=torch.float64)
    path = tmp_path / "front.vtu"
    meshsim.write(mesh.with_fields({"u": u, "v": torch.stack([u, -u], 1)}, {"k": cells}), path)
    return path


@pytest.mark.parametrize("method", ["flow", "ma", "ma-relaxation"])
def test_cells_gather_where_the_monitor_is_large(front: Path, method: str) -> None:
    out = front.with_name("out.vtu")
    command = ["move", str(front), "-o", str(out), "--monitor", "1 + 10*G(u)", "--method", method]
    assert main(command) == 0
    before, after = meshsim.read(front), meshsim.read(out)
    assert [b.type for b in after.cells] == [b.type for b in before.cells] == ["quad", "triangle"]
    assert set(after.point_fields) == {"u", "v"} and set(after.cell_fields) == {"k"}

    def near(mesh: meshsim.Mesh) -> int:
        return int(((mesh.points[:, 0] - 0.5).abs() < 0.15).sum())

    assert near(after) > 1.5 * near(before)
    assert float(after.cell_measures.sum()) == pytest.approx(1.0, abs=1e-12)
    exact = torch.tanh(10 * (after.points[:, 0] - 0.5))
    assert (after.point_fields["u"] - exact).abs().max() < 0.25  # carried, not kept
    assert (before.point_fields["u"] - exact).abs().max() > 0.4


def test_integrals_over_cells_are_conserved_where_asked(front: Path) -> None:
    def integral(path: Path) -> float:
        mesh = meshsim.read(path)
        return float((mesh.cell_measures * mesh.cell_fields["k"]).sum())

    found = {}
    for fields in ("conserve", "interpolate"):
        out = front.with_name(f"{fields}.vtu")
        command = ["move", str(front), "-o", str(out), "--monitor", "1 + 10*G(u)"]
        assert main([*command, "--fields", fields]) == 0
        found[fields] = abs(integral(out) / integral(front) - 1)
    assert found["conserve"] < 1e-12 < found["interpolate"]


def test_damping_of_zero_moves_nothing(front: Path) -> None:
    out = front.with_name("out.vtu")
    assert (
        main(
            [
                "move",
                str(front),
                "-o",
                str(out),
                "--monitor",
                "2 + u",
                "--method",
                "ma",
                "--damping",
                "0",
            ]
        )
        == 0
    )
    assert torch.equal(meshsim.read(out).points, meshsim.read(front).points)


def test_a_failed_solve_says_so_and_keeps_the_last_good_mesh(
    front: Path, capsys: pytest.CaptureFixture
) -> None:
    out = front.with_name("out.vtu")
    command = ["move", str(front), "-o", str(out), "--monitor", "1 + 10*G(u)", "--method", "ma"]
    code = main([*command, "--iterations", "1"])
    assert code == 1
    assert "the last good mesh is in" in capsys.readouterr().err
    assert (meshsim.read(out).cell_measures > 0).all()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--monitor", "1 + w"], "'w'"),
        (["--monitor", "u"], "expected positive values"),
        (["--monitor", "1 +"], "expression '1 +'"),
        (["--monitor", "2 + u", "--method", "um"], "method"),
        (["--monitor", "2 + u", "--damping", "2"], "--damping"),
        (["--monitor", "2 + u", "--convention", "none"], "convention"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    front: Path, options: list[str], said: str, capsys: pytest.CaptureFixture
) -> None:
    out = front.with_name("out.vtu")
    fails(capsys, ["move", str(front), "-o", str(out), *options], said)
    assert not out.exists()
