"""Collated OpenFOAM cases (processorsN) equal the cases they were split from."""

import gzip
import os
import re
import shutil

import numpy as np
import pytest

from meshsim.check import InputError
from meshsim.data import Store, preprocess
from meshsim.data.cutting import cut, parts
from meshsim.data.sources import search, source_files
from meshsim.io import read
from meshsim.io.raw.foam import Case
from tests.io.collated import collate, joined
from tests.io.test_foam import Writer
from tests.io.test_foam_parts import MESH, same, split

OWNER = np.arange(MESH.n_cells) % 2


def made(folder, binary=True, serial=(), owner=OWNER):
    """A case split in two, of itself only what `serial` names; beside it the whole one."""
    whole = folder.with_name("whole")
    split(folder, MESH, owner, binary=binary)
    shutil.copytree(folder, whole, ignore=shutil.ignore_patterns("processor*"))
    for name in {"constant", "0", "2"} - set(serial):
        shutil.rmtree(folder / name)
    return read(whole)


def equal(folder, whole):
    """All frames and, with the values on patches, the last time are those of the whole."""
    found = read(folder)
    assert found.times.tolist() == whole.times.tolist() == [0, 2]
    for i in range(2):
        same(whole.frame(i), found.frame(i))
    same(read(folder.with_name("whole"), time="last"), read(folder, time="last"))
    return " | ".join(found.mesh.notes)


@pytest.mark.parametrize("newer", [False, True])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("binary", [False, True])
def test_blocks_are_joined_into_the_whole(binary, packed, newer, tmp_path):
    whole = made(tmp_path / "case", binary)
    collate(tmp_path / "case", packed=packed, newer=newer)
    assert os.listdir(tmp_path / "case") == ["processors2"]
    assert "joined from 2 processors in shared files" in equal(tmp_path / "case", whole)


def test_a_run_may_leave_mesh_and_times_in_folders_of_different_kinds(tmp_path):
    # OpenFOAM v1912 wrote each of these: decomposePar and icoFoam with different file handlers
    whole = made(tmp_path / "a" / "case")
    collate(tmp_path / "a/case", mesh=False)
    assert sorted(os.listdir(tmp_path / "a/case")) == ["processor0", "processor1", "processors2"]
    equal(tmp_path / "a/case", whole)

    # -ioRanks: two files of one block each
    whole = made(tmp_path / "b" / "case")
    collate(tmp_path / "b/case", groups=[(0, 0), (1, 1)])
    names = ["processors2", "processors2_0-0", "processors2_1-1"]
    assert sorted(os.listdir(tmp_path / "b/case")) == names
    equal(tmp_path / "b/case", whole)
    shutil.rmtree(tmp_path / "b/case/processors2_1-1")
    notes = read(tmp_path / "b/case").notes
    assert any("times that not all processors have: 0, 2: left out" in note for note in notes)
    shutil.rmtree(tmp_path / "b/case/processors2")
    with pytest.raises(InputError, match="processor1 of 2 processors is not there"):
        read(tmp_path / "b/case")

    # the case keeps its mesh and its first time
    whole = made(tmp_path / "c" / "case", serial=["constant", "0"])
    collate(tmp_path / "c/case")
    assert "the mesh is that of the case itself" in equal(tmp_path / "c/case", whole)


def test_of_several_decompositions_the_one_with_the_latest_time_is_read(tmp_path):
    whole = made(tmp_path / "case")
    collate(tmp_path / "case")
    shutil.copytree(tmp_path / "case/processors2", tmp_path / "case/processors3")
    shutil.rmtree(tmp_path / "case/processors3/2")
    notes = equal(tmp_path / "case", whole)
    assert "other decompositions are left out: processors3" in notes


def test_points_that_move_are_in_the_times(tmp_path):
    whole = made(tmp_path / "case", serial=["0", "2"])
    for k in range(2):
        poly = tmp_path / f"case/processor{k}/2/polyMesh"
        poly.mkdir()
        rows = Case(str(tmp_path / f"case/processor{k}")).points(None) + 0.5
        w = Writer(True)
        (poly / "points").write_bytes(w.head("vectorField", "points") + w.numbers(rows))
    for name in ("0", "2"):
        shutil.rmtree(tmp_path / "case" / name)
    collate(tmp_path / "case")
    found = read(tmp_path / "case")
    assert (found.frame(0).points == whole.mesh.points).all()
    assert (found.frame(1).points == whole.mesh.points + 0.5).all()


def test_each_block_is_read_once_and_files_that_change_are_read_anew(tmp_path, monkeypatch):
    from meshsim.io.raw import foam_blocks

    read_bytes = []

    class Counted:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def __getattr__(self, name):
            method = getattr(self.file, name)

            def call(*args):
                out = method(*args)
                read_bytes.append(len(out) if isinstance(out, bytes) else 0)
                return out

            return call

    opener = foam_blocks.unpacked
    monkeypatch.setattr(foam_blocks, "unpacked", lambda path: Counted(opener(path)))
    n, w = 16, Writer(True)
    files = [w.head("scalarField", "p") + w.numbers(np.arange(20_000.0) + k) for k in range(n)]
    path = tmp_path / "processors16/0/p"
    path.parent.mkdir(parents=True)
    path.write_bytes(joined(files, "0/p"))
    for k in range(n):
        found = foam_blocks.load_block(str(path), foam_blocks.Block(k, n)).numbers("f")
        assert (found == np.arange(20_000.0) + k).all()
    assert sum(read_bytes) < 1.1 * path.stat().st_size
    path.write_bytes(joined(files[1:], "0/p"))
    found = foam_blocks.load_block(str(path), foam_blocks.Block(0, n - 1)).numbers("f")
    assert found[0] == 1


def test_faults_name_file_and_processor(tmp_path):
    made(tmp_path / "case", binary=False)
    collate(tmp_path / "case")

    def refused(name, match, change):
        shutil.copytree(tmp_path / "case", tmp_path / "copy")
        path = tmp_path / "copy/processors2" / name
        data = path.read_bytes()
        path.unlink()
        if change is not None:
            path.write_bytes(change(data))
        with pytest.raises(InputError, match=match) as error:
            read(tmp_path / "copy", time="last")
        assert "\n" not in str(error.value) and str(tmp_path / "copy") in str(error.value)
        shutil.rmtree(tmp_path / "copy")

    def second(length):
        """The file with another length before its second block."""
        return lambda data: re.sub(rb"(// Processor1\n\n)\d+", rb"\g<1>%d" % length, data)

    def first_only(data):
        return data[: data.index(b"\n\n// Processor1")]

    mesh = "constant/polyMesh/"
    for name, where in (
        (mesh + "points", "processor1: polyMesh/points: "),
        (mesh + "faces", "processor1: polyMesh/faces: "),
        (mesh + "cellProcAddressing", "processor1: polyMesh/cellProcAddressing: "),
        ("2/U", "processor1/2/U: "),
    ):  # fmt: skip
        shared = f"processors2/{name}"
        first = where.replace("processor1", "processor0")
        refused(name, f"{where}block 1 of {shared} is cut off", lambda data: data[:-5])
        refused(name, f"{where}block 1 of {shared} is cut off or damaged", second(10**15))
        refused(name, f"{where}block 1 of {shared} is cut off or damaged", second(7))
        refused(name, f"{first}{shared} has 1 blocks \\(expected 2", first_only)
        refused(
            name,
            f"{first}{shared} has 3 blocks",
            lambda data: data + b"\n\n// Processor2\n\n2\n(ab)",
        )
        refused(
            name,
            f"{where}block 1 of {shared} is empty",
            lambda data: data[: data.index(b"// Processor1")] + b"// Processor1\n\n0\n",
        )
        refused(
            name,
            f"block 1 of {shared} is damaged",
            lambda data: data.replace(b"// Processor1\n\n", b"// Processor1\n\nmany"),
        )
        refused(
            name,
            f"{name[-3:]}.*block 0.* is cut off",
            lambda data: data[: data.index(b"// Processor0") + 60],
        )
    refused(mesh + "points", "processor0: polyMesh/points is not there", None)
    refused(mesh + "faceProcAddressing", "processor0: polyMesh/faceProcAddressing is not", None)
    refused(
        mesh + "owner",
        "block 0 of processors2/constant/polyMesh/owner has no FoamFile",
        lambda data: b"FoamFile" + data.partition(b"FoamFile")[2].replace(b"FoamFile", b"NoneFile"),
    )
    with pytest.raises(InputError, match="holds blocks of several processors: read the case"):
        read(tmp_path / "case/processors2")
    packed = tmp_path / "case/processors2/2/V.gz"
    packed.write_bytes(gzip.compress((tmp_path / "case/processors2/2/U").read_bytes())[:-100])
    with pytest.raises(InputError, match=r"2/V\.gz: Compressed file ended"):
        read(tmp_path / "case", time="last")
    packed.unlink()
    # a field of which one time has no file
    (tmp_path / "case/processors2/2/U").unlink()
    series = read(tmp_path / "case")
    assert set(series.cell_fields) == {"p"}
    assert any("left out: U (1) of 2 times" in note for note in series.mesh.notes)


def test_a_header_may_hold_dictionaries(tmp_path):
    # as OpenFOAM.com writes the names of zones from v2206 on
    whole = made(tmp_path / "case", serial=["constant", "0", "2"])
    path = tmp_path / "case/constant/polyMesh/owner"
    data = path.read_bytes()
    path.write_bytes(data.replace(b"    class", b"    meta { names (a b); }\n    class", 1))
    same(read(tmp_path / "case").frame(1), whole.frame(1))


def test_a_collated_case_is_one_sample(tmp_path):
    made(tmp_path / "runs" / "case")
    shutil.move(tmp_path / "runs/whole", tmp_path / "whole")
    collate(tmp_path / "runs/case", groups=[(0, 0), (1, 1)])
    (found,) = search(tmp_path / "runs")
    assert found.name == "case"
    names = {str(p.relative_to(found.path)) for p in source_files(found)}
    assert {"processors2/constant/polyMesh/points", "processors2_1-1/2/p"} <= names
    samples = []
    for name in ("runs/case", "whole"):
        preprocess(tmp_path / name, tmp_path / "stores" / name)
        store = Store(tmp_path / "stores" / name)
        samples.append(store.sample(store.names[0]).branches["mesh"])
    for i in range(2):
        same(samples[1].frame(i), samples[0].frame(i))


def test_a_collated_case_is_not_cut_into_processors(tmp_path):
    made(tmp_path / "case", serial=["constant"])
    (source,) = search(tmp_path / "case")
    assert len(parts(source)) == 2
    collate(tmp_path / "case", mesh=False)  # the parts alone would have no times
    (source,) = search(tmp_path / "case")
    assert parts(source) == []
    (refused,) = cut([source], 20, [], lambda source: 50)
    assert "with a folder for each processor" in refused.lacking
