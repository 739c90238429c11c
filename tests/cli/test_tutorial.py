"""datasets/openfoam_cases/README.md, typed in: from folders to a prediction beside them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch

import meshsim
from meshsim.cli import main
from tests.io.test_foam import case, field

RECIPE = Path(__file__).parents[2] / "datasets" / "openfoam_cases"
HEIGHTS, SPEEDS = (0.5, 0.75, 1.0), (0.5, 1.0, 1.5)
WALL = b"inlet { type fixedValue; value uniform (9 9 9); }\nother { type noSlip; } // by the user"


def channel(height: float) -> meshsim.Mesh:
    """8 x 4 x 1 hexahedra, 4 long, 0.1 deep."""
    x, y, z = torch.linspace(0, 4, 9), torch.linspace(0, height, 5), torch.tensor([0.0, 0.1])
    i = torch.cartesian_prod(torch.arange(8), torch.arange(4)) @ torch.tensor([10, 2])
    corner = torch.tensor([0, 10, 12, 2, 1, 11, 13, 3])
    return meshsim.Mesh(torch.cartesian_prod(x, y, z).double(), {"hexahedron": i[:, None] + corner})


def poiseuille(
    mesh: meshsim.Mesh, speed: float, height: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """U (C, 3) and p (C,) of a developed flow of mean `speed`, viscosity 1: exact."""
    x, y = mesh.cell_centres[:, 0], mesh.cell_centres[:, 1] / height
    u = 6 * speed * y * (1 - y)
    return torch.stack([u, 0 * u, 0 * u], 1), 12 * speed * (4 - x) / height**2


def solved(folder: Path, speed: float, height: float, time: str) -> None:
    mesh = channel(height)
    outside = (mesh.faces.neighbour < 0).nonzero().squeeze(1)
    inlet = outside[mesh.faces.centre[outside, 0] == 0].tolist()
    case(folder, mesh, False, [("inlet", "patch", inlet)])
    (folder / "system").mkdir()
    u, p = poiseuille(mesh, speed, height)
    field(folder, "U", "0", (0 * u).numpy(), False, WALL)
    field(folder, "p", "0", (0 * p).numpy(), False)
    if time != "0":
        field(folder, "U", time, u.numpy(), False, WALL)
        field(folder, "p", time, p.numpy(), False)


def commands() -> list[list[str]]:
    text = (RECIPE / "README.md").read_text(encoding="utf-8")
    return [line.split()[1:] for line in re.findall(r"^meshsim .*$", text, re.M)]


def test_the_commands_of_the_tutorial(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("preprocess.toml", "config.toml"):
        shutil.copy(RECIPE / name, name)
    for speed in SPEEDS:
        for height in HEIGHTS:
            solved(Path(f"cases/speed_{speed}_step_{height}"), speed, height, "77")
    solved(Path("new"), 1.2, 0.8, "0")
    lines = commands()
    assert [line[0] for line in lines] == [
        "info", "check", "preprocess", "train", "evaluate", "predict", "view",
    ]  # fmt: skip
    for line in lines:
        more = ["train.steps=60", "model.depth=4", "train.threads=1"] if line[0] == "train" else []
        assert main([*line, *more]) == 0, (line, capsys.readouterr().err)
    new = meshsim.read("new", time=1000)
    u, p = poiseuille(new, 1.2, 0.8)
    known = [meshsim.Store("cases.zarr").sample(n).mesh for n in meshsim.Store("cases.zarr").names]
    mean = torch.stack([m.cell_fields["U"] for m in known]).mean((0, 1))
    error = (new.cell_fields["U"] - u).norm()
    assert error < 0.8 * (mean - u).norm()
    assert (new.cell_fields["U"][:, 1:] == 0).all()  # as in all cases
    assert new.cell_fields["p"].shape == p.shape
    made = Path("new/1000/U").read_bytes()
    assert WALL in made and b"dimensions [0 1 -1 0 0 0 0];" in made
    assert Path("new.png").stat().st_size > 5000
    # what the solver would start from is as it was, and a field is replaced only by name
    assert not meshsim.read("new", time=0).cell_fields["U"].any()
    capsys.readouterr()
    assert main(["predict", "run", "new", "-o", "new", "speed=1.2"]) == 2
    assert "new/1000 replaces it" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["preprocess.toml", "config.toml"])
def test_the_tutorial_names_its_files(name):
    assert name in (RECIPE / "README.md").read_text(encoding="utf-8")
    assert (RECIPE / name).exists()
