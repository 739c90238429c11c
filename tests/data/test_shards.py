import numpy as np
import pytest
import torch

from meshsim import Mesh, Sample, Series
from meshsim.check import InputError
from meshsim.data import Store, disk, shards, staging
from meshsim.data.shards import chunking


@pytest.fixture
def fine(monkeypatch):
    """Chunks and files so small that small arrays have many."""
    monkeypatch.setattr(shards, "CHUNK_BYTES", 256)
    monkeypatch.setattr(shards, "CHUNK_TIMES", 2)
    monkeypatch.setattr(shards, "SHARD_ROWS", 40)
    monkeypatch.setattr(staging, "block_length", lambda _: 5)


def sample_of(dtype=np.float32, n=103, frames=9, name="a"):
    random = np.random.default_rng(0)
    mesh = Mesh(
        random.random((n, 2)),
        {"triangle": random.integers(0, n, (50, 3))},
        {"still": (9 * random.random((n, 3))).astype(dtype)},
    )
    fields = {
        "v": (9 * random.random((frames, n, 2))).astype(dtype),
        "p": (9 * random.random((frames, n))).astype(dtype),
        "t": (9 * random.random((frames, n, 2, 2))).astype(dtype),
    }
    moving = random.random((frames, n, 2))
    return Sample(Series(mesh, np.arange(float(frames)), fields, points=moving), name=name)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.uint8, np.bool_])
def test_round_trip_and_zarr_reads_the_same(tmp_path, fine, same, dtype):
    import zarr

    sample = sample_of(dtype)
    store = Store.create(tmp_path / "s")
    store.append(sample)
    same(sample, store.sample("a"))
    store.verify()
    group = zarr.open_group(tmp_path / "s", mode="r")["samples/a/mesh"]
    assert group["point_frames/v"].shards is not None and group["points"].shards is not None
    assert group["cells/triangle/nodes"].shards is None  # topology is read whole
    for name, values in sample.branch.point_fields.items():
        assert np.array_equal(group[f"point_frames/{name}"][:], values)
    assert np.array_equal(group["points"][:], sample.branch.mesh.points)
    assert np.array_equal(group["point_fields/still"][:], sample.branch.mesh.point_fields["still"])


def test_any_rows_of_any_frames(tmp_path, fine):
    sample = sample_of()
    store = Store.create(tmp_path / "s")
    store.append(sample)
    series, random = store.sample("a").branch, np.random.default_rng(1)
    for name, truth in sample.branch.point_fields.items():
        frames = series.point_fields[name]
        for times in (range(9), range(3, 4), range(1, 8, 3), range(0, 9, 2), range(0)):
            for rows in (range(103), range(7, 60), np.sort(random.permutation(103)[:9])):
                got = frames.part(times, rows).numpy()
                assert np.array_equal(got, truth[list(times)][:, list(rows)]), (name, times)
        assert frames.part(range(2), np.array([], np.int64)).shape[:2] == (2, 0)
    rows = np.array([0, 39, 40, 102])
    still = disk.read_array(store.path / "samples" / "a", "mesh/point_fields/still", rows)
    assert torch.equal(still, sample.branch.mesh.point_fields["still"][rows])


def test_stores_written_before_have_the_same_contents_and_are_read(
    tmp_path, fine, same, monkeypatch
):
    new, old = Store.create(tmp_path / "new"), Store.create(tmp_path / "old")
    new.append(sample_of())
    monkeypatch.setattr(
        staging, "chunking", lambda shape, size, length, divided: (
            (() if length is None else (length,)) + tuple(shape[length is not None :]), None
        ),
    )  # fmt: skip
    old.append(sample_of())
    monkeypatch.undo()
    assert old.fingerprint() == new.fingerprint()
    same(old.sample("a"), new.sample("a"))
    rows = np.array([3, 50, 99])
    for name in "vpt":
        a, b = (s.sample("a").branch.point_fields[name].part(range(2, 7), rows) for s in (old, new))
        assert torch.equal(a, b)
    old.verify()


def test_what_zarr_writes_in_its_own_way_is_read_through_zarr(tmp_path):
    import zarr

    values = np.random.default_rng(0).random((6, 40, 2))
    array = zarr.create_array(
        tmp_path / "a", shape=values.shape, chunks=(2, 5, 2), shards=(4, 20, 2), dtype="f8"
    )
    array[:] = values
    assert shards.Shards.of(tmp_path / "a", array) is None
    got = disk.read_array(tmp_path, "a", range(1, 6, 2), None, np.array([0, 7, 39]))
    assert np.array_equal(got, values[1:6:2][:, [0, 7, 39]])


@pytest.mark.parametrize("where", [0, 0.5, 1])
def test_damage_is_found_wherever_it_is(tmp_path, fine, where):
    store = Store.create(tmp_path / "s")
    store.append(sample_of())
    file = store.path / "samples" / "a" / "mesh" / "point_frames" / "v" / "c.0.0.0"
    data = bytearray(file.read_bytes())
    data[int(where * (len(data) - 1))] ^= 1
    file.write_bytes(data)
    series = store.sample("a").branch
    with pytest.raises(InputError, match="the store is broken"):
        series.point_fields["v"].block(0, 9)
    file.write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match="broken"):
        store.verify()


def test_few_files(tmp_path):
    """A sample has about as many files as when there was one chunk in each."""
    n, frames = 60_000, 12
    mesh = Mesh(np.random.rand(n, 3), {"tetra": [[0, 1, 2, 3]]})
    series = Series(mesh, np.arange(12.0), {"v": np.zeros((frames, n, 3), np.float32)})
    store = Store.create(tmp_path / "s")
    store.append(Sample(series, name="a"))
    v = store.path / "samples" / "a" / "mesh" / "point_frames" / "v"
    assert len(list(v.iterdir())) == 1 + 12 // 5 + 1  # 4 MiB hold five frames
    assert len(list((v.parents[1] / "points").iterdir())) == 2


@pytest.mark.parametrize("n", [0, 1, 63, 64, 1000, 2_500_000])
@pytest.mark.parametrize("length", [None, 1, 7, 8, 13, 500])
@pytest.mark.parametrize("rest", [(), (3,), (3, 3)])
def test_chunks_fill_files_and_are_neither_large_nor_many(n, length, rest):
    for frames in (length or 1, 1000):
        shape = (*([] if length is None else [frames]), n, *rest)
        chunk, shard = chunking(shape, 4, length)
        assert len(chunk) == len(shape)
        if shard is None:
            continue
        assert all(s % c == 0 for s, c in zip(shard, chunk, strict=True))
        size, rows = 4 * np.prod(chunk), chunk[length is not None]
        assert size <= shards.CHUNK_BYTES and (size > shards.CHUNK_BYTES / 4 or rows == n)
        if length is not None:
            assert shard[0] <= max(length, 8 * -(-frames // 8))
