"""The manifest: complete whatever happened, and outside what the fingerprint covers."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from meshsim.data import Store, preprocess
from meshsim.data.manifest import FILE
from tests import trajectory_files


@pytest.fixture
def flows(tmp_path, write_flow):
    """Four flows, one broken."""
    for k in range(4):
        write_flow(tmp_path / "in" / f"flow_{k}.npz", seed=k, frames=4 + k)
    (tmp_path / "in" / "broken.vtu").write_text("<VTKFile")
    return tmp_path / "in"


def test_it_says_of_every_input_what_became_of_it(tmp_path, flows):
    report = preprocess([flows], tmp_path / "s")
    store = Store(tmp_path / "s")
    assert report.manifest == store.manifest
    assert list(store.manifest) == ["broken", *(f"flow_{k}" for k in range(4))]
    on_disk = json.loads((tmp_path / "s" / FILE).read_text())["inputs"]
    assert on_disk == list(store.manifest.values())
    entry = store.manifest["flow_2"]
    assert (entry["status"], entry["source"], entry["error"]) == ("done", "flow_2.npz", "")
    assert entry["reader"] == {"mesh": "meshsim"}
    assert entry["contents"]["mesh"] == {
        "points": 16,
        "cells": {"quad": 9},
        "times": 6,
        "fields": {"point": ["pressure", "velocity"], "cell": []},
    }
    assert entry["bytes_read"] == (flows / "flow_2.npz").stat().st_size
    assert entry["bytes_stored"] > 0 and 0 < entry["seconds"] < 600
    bad = store.manifest["broken"]
    assert bad["status"] == "failed" and "broken.vtu" in bad["error"] and "\n" not in bad["error"]
    assert bad["bytes_read"] == 8
    assert json.loads(json.dumps(report.to_dict()))["failed"][0]["error"] == bad["error"]


def test_it_is_no_part_of_the_fingerprint(tmp_path, flows):
    prints = set()
    for name in "ab":
        preprocess([flows], tmp_path / name)
        prints.add(Store(tmp_path / name).fingerprint())
    (tmp_path / "a" / FILE).unlink()
    store = Store(tmp_path / "a")
    store.verify()
    assert {*prints, store.fingerprint()} == {store.fingerprint()}
    # what is stored is known without the file; who failed is found again
    assert [e["status"] for e in store.manifest.values()] == ["done"] * 4
    assert preprocess([flows], tmp_path / "a").manifest == store.manifest
    assert Store(tmp_path / "a").manifest["broken"]["status"] == "failed"


@pytest.mark.parametrize("at", [1, 3])
def test_it_is_whole_after_an_interrupt_and_complete_after_resuming(tmp_path, flows, at):
    def interrupt(done, of, name):
        if done == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        preprocess([flows], tmp_path / "s", progress=interrupt)
    statuses = [e["status"] for e in Store(tmp_path / "s").manifest.values()]
    assert sorted(statuses) == sorted(["failed", *["done"] * (at - 1), *["waiting"] * (5 - at)])
    resumed = preprocess([flows], tmp_path / "s")
    straight = preprocess([flows], tmp_path / "t")

    def timeless(manifest):
        return {n: {k: v for k, v in e.items() if k != "seconds"} for n, e in manifest.items()}

    assert timeless(resumed.manifest) == timeless(straight.manifest)


def test_a_kill_before_it_was_written_changes_nothing(tmp_path, flows, monkeypatch):
    """As after SIGKILL: samples are there, the manifest is that of before, or none."""
    module = sys.modules["meshsim.data.manifest"]
    with monkeypatch.context() as m:
        m.setattr(module, "write", lambda folder, entries: None)
        preprocess([flows], tmp_path / "s")
    assert not (tmp_path / "s" / FILE).exists()
    store = Store(tmp_path / "s")
    assert [e["sample"] for e in store.manifest.values()] == store.names
    assert store.manifest["flow_1"]["contents"]["mesh"]["points"] == 16
    report = preprocess([flows], tmp_path / "s")
    assert report.skipped == 4 and len(report.manifest) == 5
    (tmp_path / "s" / FILE).write_text('{"inputs": [{"sample"')  # not ours: ours is atomic
    assert len(Store(tmp_path / "s").manifest) == 4
    assert len(preprocess([flows], tmp_path / "s").manifest) == 5


def test_failures_stay_until_they_succeed(tmp_path, flows, write_flow):
    (flows / "broken.npz").write_bytes(b"")
    (flows / "broken.vtu").unlink()
    for _ in range(2):
        preprocess([flows], tmp_path / "s")
        assert Store(tmp_path / "s").manifest["broken"]["status"] == "failed"
    write_flow(flows / "broken.npz", seed=9)
    preprocess([flows], tmp_path / "s")
    assert {e["status"] for e in Store(tmp_path / "s").manifest.values()} == {"done"}
    # a sample whose file has gone bad leaves the store: it is of a file that is no longer there
    (flows / "broken.npz").write_bytes(b"")
    preprocess([flows], tmp_path / "s")
    assert Store(tmp_path / "s").manifest["broken"]["status"] == "failed"
    assert "broken" not in Store(tmp_path / "s")
    # what is no input any more and not stored is not spoken of
    (flows / "flow_0.npz").unlink()
    (flows / "broken.npz").unlink()
    preprocess([flows], tmp_path / "s", gone="keep")
    manifest = Store(tmp_path / "s").manifest
    assert "broken" not in manifest and manifest["flow_0"]["status"] == "done"


def test_what_is_taken_out_again_has_failed(tmp_path, flows):
    arrays = dict(np.load(flows / "flow_0.npz"))
    np.savez(flows / "lacks.npz", **{k: v for k, v in arrays.items() if k != "point/pressure"})
    report = preprocess([flows], tmp_path / "s")
    assert report.manifest["lacks"]["status"] == "failed"
    assert "is missing" in report.manifest["lacks"]["error"]


def test_overwriting_begins_anew(tmp_path, flows):
    preprocess([flows], tmp_path / "s")
    preprocess([flows / "flow_1.npz"], tmp_path / "s", overwrite=True)
    assert list(Store(tmp_path / "s").manifest) == ["flow_1"]


def test_samples_that_were_appended_are_in_it(tmp_path, flow):
    store = Store.create(tmp_path / "s")
    store.append(flow("a", frames=3))
    assert store.manifest["a"]["contents"]["mesh"]["times"] == 3
    assert store.manifest["a"]["source"] == "a"


def test_bytes_of_a_trajectory_are_its_share_of_the_file(tmp_path):
    folder = tmp_path / "flow"
    trajectory_files.cylinder_flow(folder, "train", 4)
    report = preprocess(folder, tmp_path / "s", config={"trust": True})
    read = [entry["bytes_read"] for entry in report.manifest.values()]
    beside = (folder / "meta.json").stat().st_size
    whole = (folder / "train.tfrecord").stat().st_size
    assert len(read) == 4 and abs(sum(read) - 4 * beside - whole) < 4
