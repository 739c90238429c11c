"""Known layouts through `preprocess`: trajectories, folders of VTK files, OpenFOAM cases."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import meshsim
from meshsim.check import InputError
from meshsim.data import Store, find_sources, preprocess
from tests import trajectory_files as files

TRUST = {"trust": True}


def names(folder):
    return [source.name for source in find_sources(folder)]


def deepmind(folder, count=3):
    return {
        split: files.cylinder_flow(folder, split, n)
        for split, n in (("train", count), ("valid", 1), ("test", 2))
    }


def test_a_trajectory_is_a_sample_and_its_file_the_split(tmp_path):
    folder = tmp_path / "cylinder_flow"
    made = deepmind(folder)
    assert names(folder) == [
        *("test_000000", "test_000001", "train_000000", "train_000001", "train_000002"),
        "valid_000000",
    ]
    assert names(f"{folder}/v*.tfrecord") == names(folder / "valid.tfrecord") == ["valid_000000"]
    assert names(tmp_path)[0] == "cylinder_flow/test_000000"
    report = preprocess(folder, tmp_path / "store.zarr", config=TRUST)
    assert (report.done, report.failed) == (6, [])
    store = Store(tmp_path / "store.zarr")
    assert store.splits == {
        "test": ["test_000000", "test_000001"],
        "train": ["train_000000", "train_000001", "train_000002"],
        "valid": ["valid_000000"],
    }
    for split, trajectories in made.items():
        for i, arrays in enumerate(trajectories):
            series = store.sample(f"{split}_{i:06d}").branch
            assert torch.equal(series.field("velocity"), torch.from_numpy(arrays["velocity"]))
            assert torch.equal(series.mesh.points, torch.from_numpy(arrays["mesh_pos"][0]))
            assert series.mesh.point_fields["node_type"].dtype == torch.int64
    assert sorted(store.provenance("train_000001")["files"]) == ["meta.json", "train.tfrecord#1"]


def test_workers_and_the_hdf5_kin_make_the_same_store(tmp_path):
    made = deepmind(tmp_path / "a", 4)
    preprocess(tmp_path / "a", tmp_path / "one.zarr", config=TRUST)
    preprocess(tmp_path / "a", tmp_path / "two.zarr", config=TRUST, workers=2)
    (tmp_path / "b").mkdir()
    for split, trajectories in made.items():
        files.hdf5(tmp_path / "b" / f"{split}.h5", trajectories)
    (tmp_path / "b" / "meta.json").write_bytes((tmp_path / "a" / "meta.json").read_bytes())
    preprocess(tmp_path / "b", tmp_path / "kin.zarr", config=TRUST)
    one, two, kin = (Store(tmp_path / f"{name}.zarr") for name in ("one", "two", "kin"))
    assert one.names == two.names == kin.names and one.splits == two.splits == kin.splits
    for name in one.names:
        a, b, c = (store.sample(name).branch for store in (one, two, kin))
        for field in ("velocity", "pressure"):
            assert torch.equal(a.field(field), b.field(field))
            assert torch.equal(a.field(field), c.field(field))
        assert torch.equal(a.times, c.times)


def test_one_damaged_record_stops_no_other_and_only_what_changed_is_read_again(tmp_path):
    folder, store = tmp_path / "flow", tmp_path / "store.zarr"
    files.cylinder_flow(folder)
    path = folder / "train.tfrecord"
    good = path.read_bytes()
    data = bytearray(good)
    data[len(data) // 2] ^= 4
    path.write_bytes(bytes(data))
    report = preprocess(folder, store, config=TRUST)
    assert report.done == 2
    [(source, message)] = report.failed
    assert source == str(path) and "record 1 (byte " in message and "damaged" in message
    path.write_bytes(good)
    again = preprocess(folder, store, config=TRUST)
    assert (again.done, again.skipped, again.failed) == (1, 2, [])
    path.write_bytes(good[:-1])  # the last record is cut; the others have not changed
    last = preprocess(folder, store, config=TRUST)
    assert (last.done, last.skipped) == (0, 2)
    assert "record 2" in last.failed[0][1] and "ends early" in last.failed[0][1]


def test_broken_files_are_said(tmp_path):
    folder = tmp_path / "flow"
    files.cylinder_flow(folder)
    path = folder / "train.tfrecord"
    path.write_bytes(path.read_bytes()[:9])
    with pytest.raises(InputError, match=r"train\.tfrecord: record 0 \(byte 0\): ends early"):
        find_sources(folder)
    path.write_bytes(b"")
    report = preprocess(folder, tmp_path / "store.zarr", config=TRUST)
    assert "empty" in report.failed[0][1]


def square(n, seed=0):
    points, cells = files.plane(n, n, seed)
    values = np.random.default_rng(seed).normal(size=len(points))
    return meshsim.Mesh(points, {"triangle": cells}).with_fields(point={"p": values})


def test_a_folder_of_vtu(tmp_path):
    folder = tmp_path / "runs"
    made = {}
    for split, name in (("train", "a"), ("train", "b"), ("test", "c")):
        (folder / split).mkdir(parents=True, exist_ok=True)
        made[f"{split}/{name}"] = square(4, len(made))
        meshsim.write(made[f"{split}/{name}"], folder / split / f"{name}.vtu")
    report = preprocess(folder, tmp_path / "store.zarr", config={"fields": ["p"], **TRUST})
    assert (report.done, report.failed) == (3, [])
    store = Store(tmp_path / "store.zarr")
    assert store.splits == {"test": ["test/c"], "train": ["train/a", "train/b"]}
    for name, mesh in made.items():
        found = store.sample(name).mesh
        assert torch.equal(found.points, mesh.points)
        assert torch.equal(found.point_fields["p"], mesh.point_fields["p"])


def test_openfoam_cases(tmp_path):
    from tests.graph.grids import brick
    from tests.io.test_foam import case, field

    folder, mesh = tmp_path / "cases", brick(3, 2, 2)
    for name, scale in (("angle_0", 1.0), ("angle_5", 2.0)):
        inlet = mesh.boundaries["left"].faces.tolist()
        case(folder / name, mesh, False, [("inlet", "patch", inlet)])
        for time in ("0", "1.5"):
            values = (scale + float(time)) * mesh.cell_centres[:, 0]
            field(folder / name, "p", time, values.numpy(), False)
    config = {"parameters": {"name": r"angle_(?P<angle>\d+)"}, **TRUST}
    report = preprocess(folder, tmp_path / "store.zarr", config=config)
    assert (report.done, report.failed) == (2, [])
    store = Store(tmp_path / "store.zarr")
    assert [float(store.sample(n).parameters["angle"]) for n in store.names] == [0, 5]
    series = store.sample("angle_5").branch
    assert series.times.tolist() == [0, 1.5]
    assert sorted(series.mesh.boundaries) == ["inlet", "other"]
    assert len(series.mesh.boundaries["inlet"].faces) == 4
    x = series.mesh.cell_centres[:, 0]
    for t, time in enumerate((0, 1.5)):
        assert torch.allclose(series.frame(t).cell_fields["p"], (2 + time) * x)
