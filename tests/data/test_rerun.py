"""A store that is preprocessed again is what a first run would make of the same inputs."""

import os
import shutil

import numpy as np
import pytest

from meshsim.check import InputError
from meshsim.data import Store, preprocess
from tests import trajectory_files


@pytest.fixture
def flows(tmp_path, write_flow):
    """A folder of five flows."""
    for k in range(5):
        write_flow(tmp_path / "in" / f"flow_{k}.npz", seed=k, frames=4)
    return tmp_path / "in"


def as_new(store, sources, tmp_path, **options):
    """Assert that a store is as one made from nothing."""
    fresh = tmp_path / "fresh"
    preprocess(sources, fresh, overwrite=fresh.exists(), **options)
    assert Store(store).fingerprint() == Store(fresh).fingerprint()
    assert Store(store).splits == Store(fresh).splits
    assert [*Store(store).manifest] == [*Store(fresh).manifest]
    Store(store).verify()


def test_inputs_that_are_gone(tmp_path, flows):
    store = tmp_path / "s"
    preprocess([flows], store)
    before, old = Store(store).fingerprint(), Store(store).splits
    (flows / "flow_1.npz").unlink()
    (flows / "flow_3.npz").unlink()
    with pytest.raises(
        InputError, match=r"inputs of 2 of its samples .*\(flow_1, flow_3\).*\"drop\""
    ):
        preprocess([flows], store)
    assert Store(store).fingerprint() == before
    kept = preprocess([flows], store, gone="keep")
    assert (kept.gone, kept.skipped, Store(store).splits) == ([], 3, old)
    report = preprocess([flows], store, gone="drop")
    assert (report.done, report.skipped, report.gone) == (0, 3, ["flow_1", "flow_3"])
    assert report.to_dict()["gone"] == ["flow_1", "flow_3"]
    as_new(store, [flows], tmp_path)
    with pytest.raises(InputError, match="did you mean 'drop'"):
        preprocess([flows], store, gone="dropp")


@pytest.mark.parametrize("choice", ["drop", "keep"])
def test_a_renamed_input_is_in_the_store_once(tmp_path, flows, choice):
    store = tmp_path / "s"
    preprocess([flows], store)
    (flows / "flow_1.npz").rename(flows / "better_name.npz")
    with pytest.raises(InputError, match="no longer there"):
        preprocess([flows], store)
    report = preprocess([flows], store, gone=choice)
    assert (report.done, report.skipped, report.gone) == (1, 4, ["flow_1"])
    as_new(store, [flows], tmp_path)


def test_a_name_that_a_new_neighbour_changes(tmp_path, flows):
    store = tmp_path / "s"
    preprocess([flows], store)
    (flows / "flow_1.off").write_text("OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n")
    said = r"1 of its samples .*\(flow_1; of flow_1.npz there is 'flow_1.npz' now\)"
    with pytest.raises(InputError, match=said):
        preprocess([flows], store)
    preprocess([flows], store, gone="drop")
    as_new(store, [flows], tmp_path)


def test_a_file_that_no_longer_reads_takes_its_sample_along(tmp_path, flows):
    store = tmp_path / "s"
    preprocess([flows], store)
    whole = (flows / "flow_2.npz").read_bytes()
    (flows / "flow_2.npz").write_bytes(whole[:-500])
    report = preprocess([flows], store)
    assert (report.done, report.skipped, len(report.failed)) == (0, 4, 1)
    assert report.manifest["flow_2"]["status"] == "failed"
    as_new(store, [flows], tmp_path)
    (flows / "flow_2.npz").write_bytes(whole)
    assert preprocess([flows], store).done == 1


def test_what_was_appended_by_hand_stays(tmp_path, flows, flow):
    from meshsim import Sample

    preprocess([flows], tmp_path / "s")
    Store(tmp_path / "s").append(Sample(flow(seed=9).branch, {}, "mine"), {"by": "hand"})
    report = preprocess([flows], tmp_path / "s")
    assert (report.skipped, report.gone) == (5, []) and "mine" in Store(tmp_path / "s")


def test_an_odd_one_that_was_kept_is_not_counted(tmp_path, flows, write_flow):
    for file in [*flows.iterdir()]:
        arrays = dict(np.load(file))
        np.savez(file, **{name: v for name, v in arrays.items() if "pressure" not in name})
    preprocess([flows], tmp_path / "s")
    (flows / "flow_0.npz").unlink()
    for k in range(1, 5):
        write_flow(flows / f"flow_{k}.npz", seed=k)
    report = preprocess([flows], tmp_path / "s", gone="keep")
    assert (report.done, report.skipped) == (4, 0)
    ((source, message),) = report.failed
    assert source == "flow_0" and "'pressure' is missing" in message


def test_the_same_source_in_another_spelling(tmp_path, flows, monkeypatch):
    store = tmp_path / "s"
    preprocess([str(flows)], store)
    monkeypatch.chdir(tmp_path)
    for source in ("in", "in/", "./in", str(flows) + "/", flows):
        assert preprocess([source], "s").skipped == 5
    (tmp_path / "link").symlink_to(flows)
    assert preprocess(["link"], store).skipped == 5
    # the same word from elsewhere is another folder
    (tmp_path / "else").mkdir()
    shutil.copytree(flows, tmp_path / "else" / "in")
    monkeypatch.chdir(tmp_path / "else")
    with pytest.raises(InputError, match=f"made otherwise .from {os.path.realpath(flows)}"):
        preprocess(["in"], store)


def test_a_project_moves_with_its_store(tmp_path, flows, monkeypatch):
    (tmp_path / "project").mkdir()
    flows.rename(tmp_path / "project" / "in")
    monkeypatch.chdir(tmp_path / "project")
    preprocess(["in", "in/*.npz"], "s")
    (tmp_path / "project").rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path / "moved")
    assert preprocess(["in", "in/*.npz"], "s").skipped == 5


def test_a_file_of_many_that_is_damaged_is_named(tmp_path):
    folder = tmp_path / "in"
    for split in ("train", "test"):
        trajectory_files.cylinder_flow(folder, split, 2)
    preprocess([folder], tmp_path / "s", config={"trust": True})
    path = folder / "train.tfrecord"
    whole = path.read_bytes()
    for rest, said in (whole[: len(whole) // 3], "ends early"), (b"", "there is 'train' now"):
        path.write_bytes(rest)
        with pytest.raises(InputError, match=rf"of its samples .*train_00000.*; .*train.*{said}"):
            preprocess([folder], tmp_path / "s", config={"trust": True})
    report = preprocess([folder], tmp_path / "s", config={"trust": True}, gone="drop")
    assert Store(tmp_path / "s").names == ["test_000000", "test_000001"] and report.failed
