import json
import os
import shutil

import h5py
import numpy as np
import pytest
import torch

from meshsim.check import InputError, WorkError
from meshsim.data import Field, Schema, Store, find_sources, preprocess
from meshsim.data.convert import read_parameters

FIELDS = {
    "velocity": {"role": "state", "components": 2, "noise": 0.02},
    "pressure": {"role": "target"},
    "inflow": {"role": "parameter", "location": "global"},
}


@pytest.fixture
def flows(tmp_path, write_flow):
    """A folder of five flows."""
    for k in range(5):
        write_flow(tmp_path / "in" / f"flow_{k}.npz", seed=k, frames=4 + k)
    return tmp_path / "in"


def kept(store):
    """Names, and nothing else lying about."""
    here = {p.name for p in Store(store).path.iterdir()}
    assert here <= {"zarr.json", "samples", "statistics", "manifest.json"}, here
    return Store(store).names


def test_files_become_samples_with_everything(tmp_path, flows, flow, same):
    from meshsim import Sample

    report = preprocess(
        [flows],
        tmp_path / "s",
        config={"fields": FIELDS, "splits": {"test": ["flow_3"], "train": "rest"}},
    )
    assert (report.done, report.skipped, report.failed, report.exit_code) == (5, 0, [], 0)
    store = Store(tmp_path / "s")
    assert kept(tmp_path / "s") == [f"flow_{k}" for k in range(5)]
    expected = flow(seed=2, frames=6)
    same(Sample(expected.branch, {"inflow": np.float64(1.5)}, "flow_2"), store.sample("flow_2"))
    assert store.splits == {"test": ["flow_3"], "train": ["flow_0", "flow_1", "flow_2", "flow_4"]}
    assert store.schema == Schema.from_dict(FIELDS)
    assert store.statistics(stride=2)["velocity.rate"].count > 0
    provenance = store.provenance("flow_2")
    assert provenance["source"] == "flow_2.npz" and list(provenance["files"]) == ["flow_2.npz"]
    assert len(provenance["files"]["flow_2.npz"]) == 64
    assert str(tmp_path) not in json.dumps(provenance)


def test_the_number_of_workers_changes_nothing(tmp_path, flows):
    prints = set()
    for workers in (1, 2):
        seen = []
        report = preprocess(
            [flows],
            tmp_path / str(workers),
            workers=workers,
            config={"splits": {"train": 0.6, "test": 0.4}},
            progress=lambda done, of, name, seen=seen: seen.append((done, of, name)),
        )
        assert report.done == 5 and [done for done, _, _ in seen] == [1, 2, 3, 4, 5]
        assert {name for _, _, name in seen} == set(kept(tmp_path / str(workers)))
        store = Store(tmp_path / str(workers))
        store.verify()
        prints.add((store.fingerprint(), json.dumps(store.splits)))
    assert len(prints) == 1


def test_started_again_it_carries_on(tmp_path, flows, write_flow):
    first = preprocess([flows], tmp_path / "s")
    before = Store(tmp_path / "s").fingerprint()
    again = preprocess([flows], tmp_path / "s")
    assert (first.done, again.done, again.skipped) == (5, 0, 5)
    assert Store(tmp_path / "s").fingerprint() == before
    # a new file is added, a changed file replaced, a damaged sample written anew
    write_flow(flows / "flow_9.npz", seed=9)
    write_flow(flows / "flow_1.npz", seed=100)
    next((tmp_path / "s/samples/flow_2").rglob("velocity/c.*")).unlink()
    third = preprocess([flows], tmp_path / "s")
    assert (third.done, third.skipped, third.failed) == (3, 3, [])
    Store(tmp_path / "s").verify()
    assert "flow_9" in kept(tmp_path / "s") and Store(tmp_path / "s").fingerprint() != before


def test_other_arguments_are_refused_unless_overwriting(tmp_path, flows):
    preprocess([flows], tmp_path / "s", config={"seed": 1})
    with pytest.raises(InputError, match="`seed` was 1"):
        preprocess([flows], tmp_path / "s", config={"seed": 2})
    with pytest.raises(InputError, match=r"from .*in"):
        preprocess([flows / "flow_1.npz"], tmp_path / "s", config={"seed": 1})
    assert len(kept(tmp_path / "s")) == 5
    assert preprocess([flows], tmp_path / "s", config={"seed": 1}).skipped == 5
    done = preprocess([flows / "flow_1.npz"], tmp_path / "s", overwrite=True)
    assert done.done == 1 and kept(tmp_path / "s") == ["flow_1"]
    Store.create(tmp_path / "other")
    with pytest.raises(InputError, match="not by preprocess"):
        preprocess([flows], tmp_path / "other")


def test_bad_files_are_reported_and_the_rest_goes_on(tmp_path, flows):
    whole = (flows / "flow_0.npz").read_bytes()
    (flows / "truncated.npz").write_bytes(whole[: len(whole) // 2])
    (flows / "empty.npz").write_bytes(b"")
    arrays = dict(np.load(flows / "flow_0.npz"))
    np.savez(flows / "nan.npz", **arrays | {"point/velocity": arrays["point/velocity"] * np.nan})
    np.savez(flows / "lacks.npz", **{k: v for k, v in arrays.items() if k != "point/pressure"})
    np.savez(flows / "index.npz", **arrays | {"cells/quad": arrays["cells/quad"] + 1})
    report = preprocess([flows], tmp_path / "s")
    assert report.done == 5 and report.exit_code == 1
    assert kept(tmp_path / "s") == [f"flow_{k}" for k in range(5)]
    failed = {os.path.basename(source): message for source, message in report.failed}
    assert sorted(failed) == ["empty.npz", "index.npz", "lacks.npz", "nan.npz", "truncated.npz"]
    assert "sample 'nan': field 'velocity'" in failed["nan.npz"] and "finite" in failed["nan.npz"]
    assert "sample 'lacks': point field 'pressure' is missing" in failed["lacks.npz"]
    assert "outside 0..15" in failed["index.npz"]
    for message in failed.values():
        assert "\n" not in message and len(message) < 500
    # repaired, they come in
    shutil.copy(flows / "flow_0.npz", flows / "nan.npz")
    again = preprocess([flows], tmp_path / "s")
    assert (again.done, again.skipped, len(again.failed)) == (1, 5, 4)


def test_a_failed_file_moves_no_other_between_splits(tmp_path, flows):
    rules = {"splits": {"test": ["flow_3"], "valid": 0.5, "train": 0.5}}
    preprocess([flows], tmp_path / "s", config=rules)
    good = (flows / "flow_3.npz").read_bytes()
    (flows / "flow_3.npz").write_bytes(b"")
    report = preprocess([flows], tmp_path / "t", config=rules)
    assert len(report.failed) == 1
    whole, lacking = Store(tmp_path / "s").splits, Store(tmp_path / "t").splits
    assert lacking == whole | {"test": []}
    (flows / "flow_3.npz").write_bytes(good)
    preprocess([flows], tmp_path / "t", config=rules)
    assert Store(tmp_path / "t").fingerprint() == Store(tmp_path / "s").fingerprint()


def test_fields_of_different_length_and_components(tmp_path, flows):
    arrays = dict(np.load(flows / "flow_0.npz"))
    np.savez(flows / "three.npz", **arrays | {"point/velocity": np.zeros((4, 16, 3))})
    report = preprocess([flows], tmp_path / "s")
    assert [os.path.basename(s) for s, _ in report.failed] == ["three.npz"]
    message = report.failed[0][1]
    assert "'velocity': expected 2 components (as in most samples), got 3" in message
    with_schema = preprocess([flows], tmp_path / "t", config={"fields": FIELDS})
    assert "field 'velocity'" in with_schema.failed[0][1]
    np.savez(flows / "three.npz", **arrays | {"point/velocity": np.zeros((4, 15, 2))})
    assert len(preprocess([flows], tmp_path / "s").failed) == 1
    assert kept(tmp_path / "s") == [f"flow_{k}" for k in range(5)]


def test_a_field_that_is_nowhere_is_named(tmp_path, flows):
    report = preprocess([flows / "flow_1.npz"], tmp_path / "s", config={"fields": ["velocty"]})
    assert "did you mean 'velocity'" in report.failed[0][1] and "flow_1.npz" in report.failed[0][1]


def test_parameters_come_from_the_sidecar(tmp_path, write_flow):
    for k in range(2):
        write_flow(tmp_path / "in" / f"f{k}.npz", parameters=False, seed=k)
        (tmp_path / "in" / f"f{k}.json").write_text(
            json.dumps({"parameters": {"inflow": k + 0.5, "profile": [1, 2, 3]}})
        )
    preprocess([tmp_path / "in"], tmp_path / "s")
    store = Store(tmp_path / "s")
    assert store.sample("f1").parameters["inflow"].item() == 1.5
    assert store.sample("f1").parameters["profile"].tolist() == [1.0, 2.0, 3.0]
    assert list(store.provenance("f1")["files"]) == ["f1.npz", "f1.json"]
    # a changed parameter is a changed source
    (tmp_path / "in" / "f1.json").write_text(
        json.dumps({"parameters": {"inflow": 7, "profile": [1, 2, 3]}})
    )
    assert preprocess([tmp_path / "in"], tmp_path / "s").done == 1
    assert store.sample("f1").parameters["inflow"].item() == 7.0
    # a sample without what the others have is no sample
    (tmp_path / "in" / "f1.json").unlink()
    write_flow(tmp_path / "in" / "f2.npz", seed=2)
    report = preprocess([tmp_path / "in"], tmp_path / "s")
    assert [m for _, m in report.failed] == [
        "sample 'f1': parameter 'inflow' is missing (most samples have it)"
    ]


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "not valid JSON"),
        ('{"parameters": [1]}', "`parameters`: expected a table"),
        ('{"parameters": {"a": "fast"}}', "parameter 'a': expected a number"),
        ('{"parameters": {"a": [1, [2]]}}', "parameter 'a': expected a number"),
        ('{"parameters": {"a": NaN}}', "parameter 'a' is not finite"),
    ],
)
def test_bad_sidecars(tmp_path, text, message):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(InputError, match=message):
        read_parameters(tmp_path / "x.json")


def test_somebody_elses_json_has_no_parameters(tmp_path):
    for text in ('{"version": 1}', "[1, 2]"):
        (tmp_path / "x.json").write_text(text)
        assert read_parameters(tmp_path / "x.json") == {}


def test_a_full_disk_stops_it_and_it_carries_on(tmp_path, flows, monkeypatch):
    import zarr.storage._local as local

    original, puts = local._put, 0

    def put(*arguments, **named):
        nonlocal puts
        puts += 1
        if puts > 60:
            raise OSError(28, os.strerror(28))
        return original(*arguments, **named)

    monkeypatch.setattr(local, "_put", put)
    with pytest.raises(WorkError, match=r"No space left on device.*of 5 samples are stored"):
        preprocess([flows], tmp_path / "s")
    monkeypatch.undo()
    before = len(kept(tmp_path / "s"))
    assert 0 < before < 5
    report = preprocess([flows], tmp_path / "s")
    assert (report.done, report.skipped) == (5 - before, before)
    Store(tmp_path / "s").verify()


@pytest.mark.parametrize("workers", [1, 2])
def test_an_interrupt_leaves_whole_samples_only(tmp_path, flows, workers):
    def interrupt(done, of, name):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        preprocess([flows], tmp_path / "s", workers=workers, progress=interrupt)
    assert len(kept(tmp_path / "s")) == 2
    report = preprocess([flows], tmp_path / "s")
    assert (report.done, report.skipped) == (3, 2)


def test_a_second_process_is_refused(tmp_path, flows):
    preprocess([flows], tmp_path / "s")
    with Store(tmp_path / "s").writing(), pytest.raises(WorkError, match=f"{os.getpid()}"):
        preprocess([flows], tmp_path / "s")


def test_options_are_applied(tmp_path, flows):
    config = {
        "fields": {"u": "velocity", "v": ["pressure", "pressure"]},
        "frames": [1, 0, 2],
        "dtype": "float64",
        "branch": "volume",
    }
    preprocess([flows], tmp_path / "s", config=config)
    sample = Store(tmp_path / "s").sample("flow_3")
    assert list(sample.branches) == ["volume"] and list(sample.branch.point_fields) == ["u", "v"]
    assert sample.branch.point_fields["v"].shape == (3, 16, 2)
    assert sample.branch.point_fields["u"][0].dtype == torch.float64


def test_samples_of_a_folder_share_a_split(tmp_path, write_flow):
    for case in range(6):
        for k in range(3):
            write_flow(tmp_path / "in" / f"case{case}" / f"f{k}.npz", seed=3 * case + k)
    write_flow(tmp_path / "in" / "alone.npz", seed=99)
    rules = {"split_by": "folder", "splits": {"test": ["case2"], "train": 0.5, "valid": 0.5}}
    preprocess([tmp_path / "in"], tmp_path / "s", config=rules)
    splits = Store(tmp_path / "s").splits
    assert splits["test"] == [f"case2/f{k}" for k in range(3)]
    assert sorted(n for members in splits.values() for n in members) == kept(tmp_path / "s")
    places = {}
    for split, members in splits.items():
        for name in members:
            places.setdefault(name.partition("/")[0], set()).add(split)
    assert len(places) == 7 and all(len(found) == 1 for found in places.values())
    # samples are divided one by one where nothing else is said
    preprocess([tmp_path / "in"], tmp_path / "t", config={"splits": {"train": 0.5, "valid": 0.5}})
    halves = Store(tmp_path / "t").splits["train"]
    assert len(halves) == 10 and len({n.partition("/")[0] for n in halves}) > 3
    with pytest.raises(InputError, match="did you mean 'folder'"):
        preprocess([tmp_path / "in"], tmp_path / "u", config={"split_by": "foldr"})


def test_bad_calls(tmp_path, flows):
    with pytest.raises(InputError, match="workers"):
        preprocess([flows], tmp_path / "s", workers=0)
    with pytest.raises(InputError, match="did you mean 'splits'"):
        preprocess([flows], tmp_path / "s", config={"split": {}})
    with pytest.raises(InputError, match="no such file"):
        preprocess([tmp_path / "nothing"], tmp_path / "s")
    with pytest.raises(InputError, match="no sample fits 'flow_77'"):
        preprocess([flows], tmp_path / "t", config={"splits": {"test": ["flow_77"]}})
    assert not (tmp_path / "s").exists() and not (tmp_path / "t").exists()


def test_a_process_that_dies_costs_its_own_sample_only(tmp_path, flows, monkeypatch):
    import sys

    from meshsim.data.convert import convert

    # with processes that really die: tests/verify/kill_preprocess.py
    def pooled(jobs, workers, room):
        for job in jobs:
            if job.source.name == "flow_2":
                return
            yield job, convert(job)

    monkeypatch.setattr(sys.modules["meshsim.data.workers"], "pooled", pooled)
    report = preprocess([flows], tmp_path / "s", workers=2)
    assert report.done == 4 and len(report.failed) == 1
    assert "flow_2.npz: the process that read it died" in report.failed[0][1]
    assert kept(tmp_path / "s") == ["flow_0", "flow_1", "flow_3", "flow_4"]


def test_real_cars_as_they_lie(tmp_path, real_data):
    folder = real_data / "PLAID-lib__plaid/tests/containers/dataset_cgns"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent")
    found = find_sources([folder])
    assert [s.name for s in found] == [f"sample_{k:09d}" for k in range(10)]
    report = preprocess([folder], tmp_path / "s", config={"branch": "surface"})
    assert (report.done, report.failed) == (10, [])
    store = Store(tmp_path / "s")
    assert store.splits == {"train": store.names}
    sample = store.sample("sample_000000003")
    mesh = sample.mesh
    assert mesh.n_points == 3586 and mesh.dim == 3 and mesh.cells[0].type == "triangle"
    assert mesh.point_fields["pressure"].shape == (3586,)
    got = store.statistics(schema=Schema([Field("pressure", "target")]))["pressure"]
    values = []
    for source in found:
        with h5py.File(source.path) as file:
            values.append(file["Base_2_3/Zone/VertexFields/pressure/ data"][:])
    pressures = np.concatenate(values)
    assert got.count == len(pressures) == 35860
    np.testing.assert_allclose(got.std.item(), pressures.std(), rtol=1e-12)
    np.testing.assert_array_equal(mesh.point_fields["pressure"], values[3])
    store.verify()
