"""Formats are known by their content first, then by their name."""

import gzip
import shutil

import pytest

from meshsim.check import InputError
from meshsim.geometry.cells import TYPES
from meshsim.io import FORMATS, format_of, read, write
from meshsim.io.holds import HOLDS
from meshsim.io.raw import NODES, VTK_TYPES
from tests.helpers import MESHES


def test_the_readers_know_the_cell_types_of_meshes():
    assert {name: k for name, (_, k, _, _) in TYPES.items()} == NODES
    numbers = {number: name for name, (_, _, _, number) in TYPES.items() if number}
    assert numbers == {number: name for number, (name, _) in VTK_TYPES.items()}


@pytest.mark.parametrize("name", [n for n in HOLDS if n not in ("pvd", "xdmf")])
def test_content_wins_over_the_suffix(name, tmp_path):
    mesh = MESHES["cube_surface" if name in ("obj", "off", "stl", "ply") else "channel"]
    write(mesh, tmp_path / f"a.{name}")
    assert format_of(tmp_path / f"a.{name}").name == name
    if name == "obj":  # has no mark of its own
        return
    shutil.copy(tmp_path / f"a.{name}", tmp_path / "b.obj")
    assert format_of(tmp_path / "b.obj").name == name
    assert read(tmp_path / "b.obj").n_points == read(tmp_path / f"a.{name}").n_points


def test_packed_files_are_unpacked(tmp_path):
    write(MESHES["channel"], tmp_path / "a.su2")
    for suffix in ("a.su2.gz", "whatever"):
        (tmp_path / suffix).write_bytes(gzip.compress((tmp_path / "a.su2").read_bytes()))
        assert format_of(tmp_path / suffix).name == "su2"
        assert read(tmp_path / suffix).n_points == MESHES["channel"].n_points


def test_missing_empty_and_foreign_files(tmp_path):
    def refused(name: str, match: str) -> None:
        with pytest.raises(InputError, match=match) as error:
            read(tmp_path / name)
        assert "\n" not in str(error.value)
        assert str(tmp_path / name) in str(error.value)

    refused("none.vtu", "No such file")
    (tmp_path / "empty.vtu").touch()
    refused("empty.vtu", "empty")
    (tmp_path / "text.txt").write_text("hello\n")
    refused("text.txt", "no known format")
    (tmp_path / "a.vtuu").write_text("hello\n")
    refused("a.vtuu", "did you mean 'vtu'")
    (tmp_path / "folder").mkdir()
    refused("folder", "no OpenFOAM case")
    (tmp_path / "image.vtu").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    refused("image.vtu", "image.vtu")
    (tmp_path / "half.gz").write_bytes(gzip.compress(b"OFF\n" * 5000)[:40])
    refused("half.gz", "ends early")
    for name in FORMATS:
        if name != "openfoam":
            (tmp_path / f"wrong.{name}").write_bytes(b"\x00\x01\x02 not a mesh at all\n" * 10)
            refused(f"wrong.{name}", "wrong")


@pytest.mark.parametrize("name", [n for n, f in FORMATS.items() if f.module == "other"])
@pytest.mark.parametrize("data", [b"\x00\x01 no mesh\n1 2\n", b"hello\nworld 3\n", b"3\n0 0 x\n"])
def test_what_other_readers_say_of_themselves_is_not_passed_on(name, data, tmp_path):
    (tmp_path / f"a.{name}").write_bytes(data)
    with pytest.raises(InputError) as error:
        read(tmp_path / f"a.{name}")
    said = str(error.value)
    assert "\n" not in said and len(said) < len(str(tmp_path)) + 250
    for word in ("Error", "variable", "unpack", "NoneType", "index out", "shape (", "buffer"):
        assert word not in said.replace("is damaged", "")
