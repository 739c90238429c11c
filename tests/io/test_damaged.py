"""Damaged files of every format: an `InputError` of one line, or a valid mesh, nothing else."""

import random

import pytest
import torch

from meshsim.check import InputError
from meshsim.io import guard, read, write
from meshsim.io.holds import HOLDS
from meshsim.mesh import Mesh
from meshsim.sample import Sample
from meshsim.series import Series
from tests.helpers import MESHES

SURFACES = ("vtp", "stl", "obj", "off", "ply")


def outcome(path):
    """Read a file; what comes must be a sound mesh or a sound complaint."""
    try:
        found = read(path)
    except InputError as error:
        text = str(error)
        assert "\n" not in text and str(path) in text and len(text) < 700
        assert "longer than" not in text
        return "error"
    branch = found.branch if isinstance(found, Sample) else found
    mesh = branch.mesh if isinstance(branch, Series) else branch
    assert isinstance(mesh, Mesh) and mesh.n_points and mesh.n_cells
    for block in mesh.cells:
        block.check(mesh.n_points)
    return "mesh"


@pytest.mark.parametrize("suffix", HOLDS)
def test_truncated_and_flipped_files(suffix, tmp_path, monkeypatch):
    monkeypatch.setattr(guard, "SECONDS", 30.0)
    rng = random.Random(suffix)
    mesh = MESHES["cube_surface" if suffix in SURFACES else "channel"]
    series = Series(mesh, [0.0, 1.0], {"v": torch.rand(2, mesh.n_points, 2)})
    path = tmp_path / f"a.{suffix}"
    write(series if HOLDS[suffix].series else mesh, path)
    heavy = {"pvd": tmp_path / "a_frames/a_0000.vtu", "xdmf": tmp_path / "a.h5"}
    for file in {path, heavy.get(suffix, path)}:
        whole = file.read_bytes()
        assert outcome(path) == "mesh"
        for cut in (0, 1, 7, len(whole) // 4, len(whole) // 2, len(whole) - 1):
            file.write_bytes(whole[:cut])
            found = outcome(path)
            if file == path and cut <= len(whole) // 4 and suffix != "obj":
                assert found == "error"
        for _ in range(8):
            data = bytearray(whole)
            for _ in range(rng.choice((1, 4))):
                data[rng.randrange(len(data))] = rng.randrange(256)
            file.write_bytes(data)
            outcome(path)
        at = rng.randrange(len(whole))
        file.write_bytes(whole[:at] + b"\xff\xff\xff\x7f" * 2 + whole[at + 8 :])
        outcome(path)
        file.write_bytes(whole)


@pytest.mark.parametrize("shape", ["[99999999999]", "[99999, 99999999]", "[-1]", "[0]", "[]"])
def test_a_ply_that_says_of_a_field_what_it_has_not(shape, tmp_path, monkeypatch):
    """A find of tests/verify/fuzz.py: as many names were made as the comment says."""
    monkeypatch.setattr(guard, "SECONDS", 20.0)
    path, mesh = tmp_path / "a.ply", MESHES["cube_surface"]
    write(mesh.replace(point_fields={"v": torch.rand(mesh.n_points, 3)}), path)
    data = path.read_bytes()
    assert b'"shape": [3]' in data
    path.write_bytes(data.replace(b'"shape": [3]', b'"shape": ' + shape.encode()))
    assert outcome(path) == "mesh"


def test_a_closed_pipe_does_not_hold_the_next_read(tmp_path):
    """After a crash the next read works in a new child."""
    path = tmp_path / "a.off"
    write(MESHES["cube_surface"], path)
    outcome(path)
    guard._worker.process.kill()
    guard._worker.process.wait()
    assert outcome(path) == "mesh"
