import asyncio
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from meshsim import Mesh, Sample, Series
from meshsim.check import InputError, WorkError
from meshsim.data import Field, Schema, Store, disk, staging

SCHEMA = Schema(
    [
        Field("velocity", "state", components=2),
        Field("pressure", "target"),
        Field("inflow", "parameter", "global"),
    ]
)


def leftovers(store: Store) -> list[str]:
    """What is in the store's folder beside what belongs there."""
    return sorted({p.name for p in store.path.iterdir()} - {"zarr.json", "samples", "statistics"})


def test_round_trip_keeps_everything(tmp_path, mixed_mesh, polyhedra, same):
    parameters = {
        "inflow": 1.5,
        "angle": torch.tensor(3),
        "profile": np.linspace(0, 1, 200, dtype=np.float32),
        "flag": torch.tensor(True),
        "matrix": np.eye(2),
    }
    sample = Sample({"surface": mixed_mesh, "volume": polyhedra}, parameters, "car 1/β")
    store = Store.create(tmp_path / "s")
    store.append(sample, {"source": "a.vtu"})
    again = Store(tmp_path / "s")
    assert again.names == ["car 1/β"]
    same(sample, again.sample("car 1/β"))
    assert again.provenance("car 1/β") == {"source": "a.vtu"}
    again.verify()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int32, torch.uint8])
def test_series_with_moving_points_and_segments_round_trip(tmp_path, mixed_mesh, same, dtype):
    torch.manual_seed(0)
    n, c = mixed_mesh.n_points, mixed_mesh.n_cells

    def values(*shape):
        return (100 * torch.rand(*shape)).to(dtype)

    other = Mesh([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], {"triangle": [[0, 1, 2]]})
    later = Series(other, [3.5], {"u": values(1, 3)})
    series = Series(
        mixed_mesh,
        [0.0, 0.1, 0.3],
        {"u": values(3, n), "tensor": values(3, n, 2, 2)},
        {"u": values(3, c, 5)},
        points=[mixed_mesh.points + t for t in range(3)],
        later=(later,),
    )
    store = Store.create(tmp_path / "s")
    store.append(Sample(series, name="a"))
    same(Sample(series, name="a"), store.sample("a"))
    assert store.sample("a").branch.point_fields["tensor"].shape == (3, n, 2, 2)
    store.verify()


def test_frames_are_read_when_asked_for(tmp_path, flow, monkeypatch):
    monkeypatch.setattr(staging, "block_length", lambda _: 3)
    sample = flow(frames=8)
    store = Store.create(tmp_path / "s")
    store.append(sample)
    read = []
    original = disk.read_array
    monkeypatch.setattr(disk, "read_array", lambda *a: read.append(a[1:3]) or original(*a))
    series = store.sample("a").branch
    read.clear()
    truth = torch.from_numpy(sample.branch.point_fields["velocity"])
    frames = series.point_fields["velocity"]
    assert torch.equal(frames[4], truth[4]) and torch.equal(frames[5], truth[5])
    assert read == [("mesh/point_frames/velocity", slice(3, 6))]  # one chunk, once
    assert torch.equal(frames.block(2, 7), truth[2:7])
    assert torch.equal(frames[-1], truth[-1])
    with pytest.raises(IndexError):
        frames[8]


def test_frames_can_be_any_lazy_thing(tmp_path, flow, same):
    class Lazy:
        def __init__(self, values):
            self.values = values

        def __len__(self):
            return len(self.values)

        def __getitem__(self, t):
            return self.values[t]

    sample = flow()
    series = sample.branch
    lazy = Series(series.mesh, series.times, {k: Lazy(v) for k, v in series.point_fields.items()})
    store = Store.create(tmp_path / "s")
    store.append(Sample(lazy, sample.parameters, "a"))
    same(sample, store.sample("a"))


def test_names_differing_in_case_or_odd_characters_stay_apart(tmp_path, same):
    mesh = Mesh([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], {"triangle": [[0, 1, 2]]})
    names = ["T", "t", "u", "U", "a/b", "a%2Fb", "..", "__x", "é ü", "p.rate", "zarr.json", "c"]
    fields = {name: np.full(3, float(i)) for i, name in enumerate(names)}
    sample = Sample(mesh.with_fields(fields), name="..")
    store = Store.create(tmp_path / "s")
    store.append(sample)
    same(sample, store.sample(".."))
    lower = [p.as_posix().lower() for p in (tmp_path / "s").rglob("*")]
    assert len(set(lower)) == len(lower)  # safe where "T" and "t" are one file


def test_it_is_a_plain_zarr_hierarchy(tmp_path, flow):
    import zarr

    store = Store.create(tmp_path / "s", SCHEMA)
    sample = flow()
    store.append(sample)
    store.set_splits({"train": ["a"]})
    group = zarr.open_group(tmp_path / "s", mode="r")
    velocity = group["samples/a/mesh/point_frames/velocity"]
    assert velocity.shape == (7, 16, 2) and velocity.metadata.zarr_format == 3
    assert np.array_equal(velocity[:], sample.branch.point_fields["velocity"])
    assert np.array_equal(group["samples/a/mesh/times"][:], sample.branch.times.numpy())


def test_schema_and_splits_are_kept(tmp_path, flow):
    store = Store.create(tmp_path / "s", SCHEMA)
    for name in "ba":
        store.append(flow(name=name))
    store.set_splits({"train": ["b"], "test": ["a"]})
    again = Store(tmp_path / "s")
    assert again.schema == SCHEMA and again.names == ["a", "b"] and len(again) == 2
    assert again.splits == {"train": ["b"], "test": ["a"]}
    assert again.members("test") == ["a"] and again.members(["b", "a"]) == ["b", "a"]
    with pytest.raises(InputError, match="did you mean 'train'"):
        again.members("trian")
    with pytest.raises(InputError, match=r"unknown sample .*'c'"):
        again.set_splits({"train": ["c"]})
    with pytest.raises(InputError, match="in the splits 'train' and 'test'"):
        again.set_splits({"train": ["a"], "test": ["a"]})
    again.remove("a")
    assert again.names == ["b"] and again.splits == {"train": ["b"], "test": []}


def test_the_fingerprint_is_of_contents_only(tmp_path, flow):
    prints = []
    for k, order in enumerate(("ab", "ba", "ac")):
        store = Store.create(tmp_path / str(k))
        for name in order:
            store.append(flow(name=name, seed=ord(name)), {"when": k})
        prints.append(store.fingerprint())
    assert prints[0] == prints[1] != prints[2]
    before = Store(tmp_path / "0").fingerprint()
    Store(tmp_path / "0").set_splits({"train": ["a"]})
    assert Store(tmp_path / "0").fingerprint() != before


def test_unfit_samples_are_refused_and_leave_nothing(tmp_path, flow):
    store = Store.create(tmp_path / "s", SCHEMA)
    good = flow()
    series = good.branch
    v, p = series.point_fields["velocity"].copy(), series.point_fields["pressure"]

    def refuse(fields, message, parameters=good.parameters, name="x"):
        with pytest.raises(InputError, match=message) as error:
            bad = Sample(Series(series.mesh, series.times, fields), parameters, name)
            store.append(bad)
        assert "\n" not in str(error.value)
        assert store.names == [] and leftovers(store) == []

    refuse({"velocity": v}, r"sample 'x': field 'pressure' is missing")
    refuse({"velocity": v, "pressure": p}, "sample 'x': field 'inflow' is missing", {})
    refuse({"velocity": v[..., :1], "pressure": p}, "'velocity': .*expected 2 components, got 1")
    v[5, 3, 1] = np.nan
    refuse({"velocity": v, "pressure": p}, "sample 'x': field 'velocity': .*frame 5.*row 3")
    ragged = [torch.zeros(16), torch.zeros(16), torch.zeros(15), *[torch.zeros(16)] * 4]
    refuse({"velocity": good.branch.point_fields["velocity"], "pressure": ragged}, "frame 2")
    refuse({}, "needs a name", name="")
    store.append(good)
    with pytest.raises(InputError, match="there is a sample 'a' already"):
        store.append(flow())
    assert store.names == ["a"]


def test_without_a_schema_every_field_is_checked_with_one_only_its_own(tmp_path, flow):
    good = flow()
    bad = dict(good.branch.point_fields)
    bad["extra"] = np.full((7, 16), np.nan)
    sample = Sample(Series(good.branch.mesh, good.branch.times, bad), good.parameters, "x")
    with pytest.raises(InputError, match="sample 'x': field 'extra'"):
        Store.create(tmp_path / "a").append(sample)
    store = Store.create(tmp_path / "b", SCHEMA)
    store.append(sample)
    assert ("extra", "point") not in store.moments("x") and ("velocity", "point") in store.moments(
        "x"
    )


def test_an_interrupted_append_never_shows(tmp_path, flow, monkeypatch):
    store = Store.create(tmp_path / "s")
    store.append(flow(name="whole"))
    calls = 0

    def broken(*arguments):
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return original(*arguments)

    original = staging.ArrayWriter.put
    monkeypatch.setattr(staging.ArrayWriter, "put", broken)
    with pytest.raises(KeyboardInterrupt):
        store.append(flow(name="half"))
    monkeypatch.undo()
    assert store.names == ["whole"] and "half" not in store and leftovers(store) == []
    store.append(flow(name="half"))
    assert Store(tmp_path / "s").names == ["half", "whole"]


def test_what_a_killed_writer_left_is_cleared(tmp_path, flow):
    code = """
        import os, signal, sys
        from meshsim import Mesh, Sample
        from meshsim.data import Store, disk
        store = Store.create(sys.argv[1])
        mesh = Mesh([[0., 0.], [1., 0.], [0., 1.]], {"triangle": [[0, 1, 2]]})
        store.append(Sample(mesh, name="whole"))
        disk.write_group = lambda *a: os.kill(os.getpid(), signal.SIGKILL)
        store.append(Sample(mesh, name="half"))
    """
    done = _python(code, tmp_path / "s")
    assert done.returncode == -signal.SIGKILL
    assert (tmp_path / "s" / ".lock").exists() and any((tmp_path / "s" / ".staging").rglob("c.*"))
    store = Store(tmp_path / "s")
    assert store.names == ["whole"]
    store.append(flow(name="next"))  # the stale lock is no hindrance
    assert store.names == ["next", "whole"] and leftovers(store) == []


def _python(code: str, *arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )


def _in_another_process(work) -> tuple[int, str]:
    """Exit code and message of `work` in a forked process; it must not use zarr."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        code, text = 0, ""
        try:
            work()
        except (InputError, WorkError) as error:
            code, text = error.exit_code, str(error)
        finally:
            os.write(writing, text.encode())
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as stream:
        text = stream.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), text


def test_two_writers_the_second_is_refused(tmp_path, flow):
    store = Store.create(tmp_path / "s")
    with store.writing():
        code, text = _in_another_process(lambda: Store(store.path).set_splits({}))
        assert (
            code == 1 and "another process is writing" in text and f"process {os.getpid()}" in text
        )
        with pytest.raises(WorkError, match=f"process {os.getpid()}"):
            Store(store.path).append(flow())  # another object of the same process, too
        store.append(flow())  # but the holder itself goes on
    assert _in_another_process(lambda: Store(store.path).set_splits({})) == (0, "")
    Store(store.path).append(flow(name="b"))
    assert store.names == ["a", "b"] and leftovers(store) == []


def test_a_full_disk_is_a_work_error_and_nothing_counts(tmp_path, flow, monkeypatch):
    import zarr.storage._local as local

    store = Store.create(tmp_path / "s")
    store.append(flow(name="a"))
    original, left = local._put, 0

    def put(*arguments, **named):
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(*arguments, **named)

    for left in (0, 3, 7):  # noqa: B007
        monkeypatch.setattr(local, "_put", put)
        with pytest.raises(WorkError, match="No space left on device") as error:
            store.append(flow(name="b"))
        monkeypatch.undo()
        assert str(error.value).startswith(f"{store.path}: cannot write")
        assert error.value.exit_code == 1 and "\n" not in str(error.value)
        assert store.names == ["a"] and leftovers(store) == []
    store.append(flow(name="b"))
    store.verify()


def test_a_failure_waits_for_what_zarr_still_writes(tmp_path, flow, monkeypatch):
    """Its threads go on after Ctrl-C, and would bring back the folder that was cleared."""
    from zarr.core.sync import sync

    done = []

    async def leave_a_write() -> None:
        late = asyncio.to_thread(lambda: (time.sleep(0.3), done.append(True)))
        done.append(asyncio.create_task(late))  # kept, or it might be collected

    def interrupted(*_: object) -> None:
        sync(leave_a_write())
        raise KeyboardInterrupt

    store = Store.create(tmp_path / "s")
    monkeypatch.setattr("meshsim.data.store.write_sample", interrupted)
    with pytest.raises(KeyboardInterrupt):
        store.append(flow(name="b"))
    assert done[-1] is True and leftovers(store) == []


def test_no_two_attempts_share_a_folder(tmp_path):
    """What the threads of a failed one still write must not meet the next."""
    store = Store.create(tmp_path / "s")
    assert store.staging("a") != store.staging("a")


def test_a_real_limit_on_file_size(tmp_path):
    code = """
        import resource, sys
        import numpy as np
        from meshsim import Mesh, Sample, Series
        from meshsim.check import WorkError
        from meshsim.data import Store
        mesh = Mesh(np.random.rand(3000, 2), {"triangle": [[0, 1, 2]]})
        store = Store.create(sys.argv[1])
        sample = Sample(Series(mesh, [0, 1, 2, 3], {"p": np.random.rand(4, 3000)}), name="big")
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
        try:
            store.append(sample)
        except WorkError as error:
            print(error)
        print(store.names)
    """
    done = _python(code, tmp_path / "s")
    assert done.returncode == 0, done.stderr
    assert "cannot write" in done.stdout and done.stdout.endswith("[]\n")
    assert leftovers(Store(tmp_path / "s")) == []


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES])
def test_a_folder_that_cannot_be_written_to(tmp_path, flow, monkeypatch, code):
    store = Store.create(tmp_path / "s", SCHEMA)
    store.append(flow())
    store.set_splits({"train": ["a"]})

    def refuse(*_, **__):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "open", refuse)
    for work in (
        lambda: Store(store.path).append(flow(name="b")),
        lambda: Store(store.path).set_splits({}),
        lambda: Store.create(store.path, overwrite=True),
    ):
        with pytest.raises(InputError, match=f"cannot write: {os.strerror(code)}"):
            work()
    monkeypatch.undo()
    monkeypatch.setattr(disk, "write_group", refuse)
    # reading goes on, and statistics are computed though they cannot be kept
    assert Store(store.path).statistics()["velocity"].count == 7 * 16
    monkeypatch.undo()
    assert Store(store.path).names == ["a"]


def test_not_a_store(tmp_path, flow):
    with pytest.raises(InputError, match="no such store"):
        Store(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="not a store"):
        Store(tmp_path / "empty")
    Store.create(tmp_path / "empty")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    for overwrite in (False, True):
        with pytest.raises(InputError, match="holds other files"):
            Store.create(tmp_path / "full", overwrite=overwrite)
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["thesis.tex"]
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="file"):
        Store.create(tmp_path / "file")
    (tmp_path / "zarr").mkdir()
    disk.write_group(tmp_path / "zarr", {"other": 1})
    with pytest.raises(InputError, match="not a meshsim store"):
        Store(tmp_path / "zarr")


def test_create_on_a_store_needs_overwrite(tmp_path, flow):
    store = Store.create(tmp_path / "s", SCHEMA)
    store.append(flow())
    with pytest.raises(InputError, match="there is a store already"):
        Store.create(tmp_path / "s")
    assert store.names == ["a"]
    new = Store.create(tmp_path / "s", overwrite=True)
    assert new.names == [] and new.schema is None and new.splits == {} and leftovers(new) == []


def _edit(path: Path, change) -> None:
    document = json.loads(path.read_text())
    change(document["attributes"])
    path.write_text(json.dumps(document))


def test_another_version_is_refused(tmp_path):
    store = Store.create(tmp_path / "s")
    _edit(store.path / "zarr.json", lambda a: a["meshsim_store"].update(version=7))
    with pytest.raises(InputError, match=r"version 7 \(expected 1\)"):
        Store(store.path)


def _samples(path):
    return path / "samples" / "a"


@pytest.mark.parametrize(
    "damage",
    [
        lambda s: next(_samples(s).rglob("velocity/c.*")).unlink(),
        lambda s: next(_samples(s).rglob("velocity/c.*")).write_bytes(b""),
        lambda s: next(_samples(s).rglob("points/zarr.json")).unlink(),
        lambda s: shutil.rmtree(_samples(s) / "mesh" / "cells"),
        lambda s: _edit(_samples(s) / "zarr.json", lambda a: a["meshsim_sample"].pop("tree")),
        lambda s: (_samples(s) / "zarr.json").write_text("{"),
        lambda s: (s / "zarr.json").write_text("not json"),
        lambda s: (s / "zarr.json").write_text("[]"),
    ],
)
def test_a_broken_store_is_said_in_one_line(tmp_path, flow, damage):
    store = Store.create(tmp_path / "s")
    store.append(flow())
    damage(store.path)
    with pytest.raises(InputError) as error:
        Store(store.path).sample("a")
    assert str(store.path) in str(error.value) and "\n" not in str(error.value)


def test_flipped_bits_are_found(tmp_path, flow):
    store = Store.create(tmp_path / "s")
    store.append(flow())
    chunk = next(_samples(store.path).rglob("velocity/c.*"))
    data = bytearray(chunk.read_bytes())
    data[len(data) // 2] ^= 4
    chunk.write_bytes(data)
    sample = store.sample("a")
    with pytest.raises(InputError, match="velocity: the store is broken"):
        sample.branch.point_fields["velocity"][0]
    with pytest.raises(InputError, match="broken"):
        store.verify()


def test_a_folder_without_its_group_document_does_not_count(tmp_path, flow):
    store = Store.create(tmp_path / "s")
    store.append(flow())
    shutil.copytree(_samples(store.path), store.path / "samples" / "b")
    (store.path / "samples" / "b" / "zarr.json").unlink()  # a copy cut short
    assert Store(store.path).names == ["a"]


def test_a_document_that_a_killed_writer_did_not_name_is_cleared(tmp_path):
    """A find of tests/verify/kill_preprocess.py."""
    store = Store.create(tmp_path / "store")
    left = tmp_path / "store" / ".zarr.json.99999.part"
    left.write_text("{")
    with store.writing():
        assert not left.exists()
    assert Store(tmp_path / "store").names == []
