import h5py
import numpy as np
import pytest

from meshsim.check import InputError
from meshsim.data import find_sources
from meshsim.data.sources import hash_files, source_files
from tests import trajectory_files as files


@pytest.fixture
def tree(tmp_path):
    """Makes empty files: tree("a/b.vtu", "c.stl") → the folder."""

    def make(*names):
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("")
        return tmp_path

    return make


def names(*sources, **config):
    return [s.name for s in find_sources(list(sources), config)]


def test_a_folder_is_searched_in_depth_and_sorted(tree):
    root = tree("b.vtu", "a/x.vtk", "a/y.npz", "a/notes.txt", "a/x.json", ".hidden/z.vtu", "c.png")
    assert names(root) == ["a/x", "a/y", "b"]
    found = find_sources([root])
    assert [s.relative for s in found] == ["a/x.vtk", "a/y.npz", "b.vtu"]
    assert [s.sidecar and s.sidecar.name for s in found] == ["x.json", None, None]


def test_files_globs_and_repeats(tree):
    root = tree("run1/out.vtu", "run2/out.vtu", "run2/log", "run2/raw.dat")
    assert names(root / "run1/out.vtu") == ["out"]
    assert names(f"{root}/run*/out.vtu") == ["run1/out", "run2/out"]
    assert names(f"{root}/*/*") == ["run1/out", "run2/out"]
    assert names(f"{root}/*/*.dat") == ["run2/raw"]  # asked for by suffix
    assert names(f"{root}/**/out.vtu", f"{root}/run1/out.vtu") == ["run1/out", "run2/out"]
    assert [s.name for s in find_sources(str(root / "run1"))] == ["out"]  # one alone


def test_nothing_found_is_an_error(tree):
    root = tree("notes.txt")
    for source, message in (
        (root / "nothing.vtu", "no such file or folder"),
        (f"{root}/*.vtu", "no file fits"),
        (root, "no mesh files in this folder"),
    ):
        with pytest.raises(InputError, match=message):
            find_sources([source])


def test_clashing_names_get_their_suffix_or_an_error(tree):
    root = tree("a/x.vtu", "a/x.stl", "a/y.vtu", "b/x.vtu")
    assert names(root / "a") == ["x.stl", "x.vtu", "y"]
    with pytest.raises(InputError, match=r"two samples would be called 'x\.vtu'"):
        find_sources([root / "a/x.vtu", root / "b/x.vtu"])


def test_openfoam_cases_are_one_sample_each(tree):
    root = tree(
        "one/constant/polyMesh/points",
        "one/system/controlDict",
        "one/0/U",
        "one/0.5/U",
        "one/log.simpleFoam",
        "one/VTK/one_1.vtk",
        "two/system/controlDict",
    )
    assert names(root) == ["one", "two"]
    assert names(root / "one") == ["one"]
    case = find_sources([root / "one"])[0]
    assert {f.relative_to(root).as_posix() for f in source_files(case)} == {
        "one/constant/polyMesh/points",
        "one/system/controlDict",
        "one/0/U",
        "one/0.5/U",
    }


def test_files_of_an_index_are_no_samples_but_are_hashed(tree):
    root = tree("f/a_0.vtu", "f/a_1.pvtu", "f/a_1_0.vtu", "f/alone.vtu", "x.xdmf", "x.h5")
    (root / "f/a.pvd").write_text(
        '<VTKFile><DataSet timestep="0" file="a_0.vtu"/><DataSet file="a_1.pvtu"/>'
        '<DataSet file="../../../etc/passwd"/><DataSet file="a.pvd"/></VTKFile>'
    )
    (root / "f/a_1.pvtu").write_text('<Piece Source="a_1_0.vtu"/>')
    (root / "x.xdmf").write_text("<DataItem>x.h5:/data0</DataItem>")
    assert names(root) == ["f/a", "f/alone", "x"]
    by_name = {s.name: s for s in find_sources([root])}
    assert [p.name for p in source_files(by_name["f/a"])] == [
        "a.pvd",
        "a_0.vtu",
        "a_1.pvtu",
        "a_1_0.vtu",
    ]
    assert [p.name for p in source_files(by_name["x"])] == ["x.xdmf", "x.h5"]


def test_plaid_layout_gives_names_and_splits(tree):
    root = tree(
        "infos.yaml",
        "data/train/sample_000000000/meshes/mesh_000000000.cgns",
        "data/train/sample_000000007/meshes/mesh_000000000.cgns",
        "data/test/sample_000000003/meshes/mesh_000000000.cgns",
    )
    for source in (root, root / "data", f"{root}/data/*/*/meshes/*.cgns"):
        found = find_sources([source])
        assert [(s.name, s.split) for s in found] == [
            ("sample_000000000", "train"),
            ("sample_000000003", "test"),
            ("sample_000000007", "train"),
        ]
    (root / "data/train/sample_000000007/meshes/mesh_000000001.cgns").write_text("")
    for source in (root, f"{root}/data/*/*/meshes/*.cgns"):
        found = find_sources([source])  # one failed sample, which stops no other
        assert [s.name for s in found if not s.lacking] == ["sample_000000000", "sample_000000003"]
        (lame,) = (s for s in found if s.lacking)
        assert (lame.name, lame.split) == ("sample_000000007", "train")
        assert "sample_000000007: a PLAID sample with several meshes" in lame.lacking
        assert len(source_files(lame)) == 2
    with pytest.raises(InputError, match="several meshes"):
        find_sources([root / "data/train/sample_000000007"])


def test_branches_take_a_folder_as_a_sample(tree):
    half = (".car3.part/s.vtp", ".car3.part/v.vtu")  # left by a program that was killed
    root = tree("car1/s.vtp", "car1/v.vtu", "car2/s.vtp", "car2/v.vtu", "readme.txt", *half)
    branches = {"surface": "*.vtp", "volume": "v.vtu"}
    assert names(root, branches=branches) == ["car1", "car2"]
    source = find_sources([root], {"branches": branches})[1]
    assert [(b, p.name) for b, p in source.files] == [("surface", "s.vtp"), ("volume", "v.vtu")]
    (root / "car2/v.vtu").unlink()
    whole, lame = find_sources([root], {"branches": branches})  # one bad folder stops no other
    assert whole.lacking == "" and "car2: no file fits branch 'volume' (v.vtu)" in lame.lacking
    (root / "car1/s.vtp").unlink()
    with pytest.raises(InputError, match="no file fits branch 'surface'"):
        find_sources([root], {"branches": branches})


def test_several_files_for_a_branch_fail_their_folder_alone(tree):
    root = tree("car1/s.vtp", "car1/v.vtu", "car2/s.vtp", "car2/s_old.vtp", "car2/v.vtu")
    found = find_sources([root], {"branches": {"surface": "s*.vtp", "volume": "v.vtu"}})
    assert [s.name for s in found] == ["car1", "car2"]
    assert found[0].lacking == ""
    assert "several files fit branch 'surface': s.vtp, s_old.vtp" in found[1].lacking


def test_files_of_trajectories_that_cannot_be_counted_fail_alone(tree):
    root = tree("a.vtu")
    files.hdf5(root / "train.h5", files.cylinder_flow(root, "whole", 3))
    whole = (root / "train.h5").read_bytes()
    (root / "whole.tfrecord").unlink()
    assert names(root) == ["a", "train_000000", "train_000001", "train_000002"]
    (root / "train.h5").write_bytes(whole[: 2 * len(whole) // 3])
    good, lame = find_sources([root])
    assert (good.name, good.lacking) == ("a", "")
    assert (lame.name, lame.split, lame.entry) == ("train", "train", None)
    assert "train.h5: is damaged or ends early" in lame.lacking
    with pytest.raises(InputError, match=r"train\.h5: is damaged or ends early"):
        find_sources([root / "train.h5"])


@pytest.mark.parametrize("libver", ["earliest", "latest"])
def test_alien_hdf5_is_no_sample_and_no_failure(tree, libver):
    """Cell biology, genomics and settings have "cells" and "pos" too."""
    root = tree("a.vtu")
    with h5py.File(root / "settings.h5", "w", libver=libver) as file:
        file.attrs["about"] = "solar cells, positions and posture"
    with h5py.File(root / "root.h5", "w", libver=libver) as file:
        file["cells"], file["pos"] = np.zeros((5, 3), int), np.zeros((4, 2))
    with h5py.File(root / "names.h5", "w", libver=libver) as file:
        file["obs/cells"], file["obs/pos"] = np.array([b"x", b"y"]), np.zeros((2, 2))
    with h5py.File(root / "folders.h5", "w", libver=libver) as file:
        file.create_group("tissue/cells"), file.create_group("tissue/pos")
    with h5py.File(root / "links.h5", "w", libver=libver) as file:
        for name in ("cells", "pos"):
            file[f"0/{name}"] = h5py.ExternalLink("root.h5", f"/{name}")
    (root / "cut.h5").write_bytes((root / "settings.h5").read_bytes()[:600])
    (root / "text.h5").write_bytes(b"cells and pos")
    assert names(root) == names(f"{root}/*") == ["a"]
    for name in ("root", "names"):
        with pytest.raises(InputError, match=f"{name}.h5: no trajectories in this file"):
            find_sources([root / f"{name}.h5"])


def test_files_in_parts_are_files(tree):
    parts = ("v_1.vtu.00.part", "v_1.vtu.01.part", "v_1.vtu.02.part", "v_10.vtu.00.part")
    root = tree("run_1/s_1.vtp", *(f"run_1/{name}" for name in parts[:3]))
    branches = {"surface": "s_*.vtp", "volume": "v_*.vtu"}
    (source,) = find_sources([root], {"branches": branches})
    assert [path.name for _, path in source.files] == ["s_1.vtp", "v_1.vtu"]
    assert [path.name for path in source_files(source)] == ["s_1.vtp", *parts[:3]]
    (root / "run_1" / parts[1]).unlink()
    with pytest.raises(InputError, match=r"v_1\.vtu: part 1 of 3 is missing"):
        source_files(source)
    (root / "run_1" / "v_1.vtu").write_bytes(b"")  # joined by hand, a part left over
    (source,) = find_sources([root], {"branches": branches})
    assert [path.name for path in source_files(source)] == ["s_1.vtp", "v_1.vtu"]


def test_hashes_are_relative_and_of_contents(tree):
    root = tree("a/x.vtu")
    (root / "a/x.vtu").write_bytes(b"abc")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert hash_files([root / "a/x.vtu"], root) == {"a/x.vtu": digest}
    with pytest.raises(InputError, match="cannot read"):
        hash_files([root / "missing"], root)


def test_folders_called_train_and_test_say_the_split(tmp_path):
    for name in ("train/a.vtu", "val/b.vtu", "test/c.vtu", "d.vtu"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = {source.name: source.split for source in find_sources([tmp_path])}
    assert found == {"train/a": "train", "val/b": "valid", "test/c": "test", "d": ""}
