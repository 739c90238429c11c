import pickle

import numpy as np
import pytest
import torch

from meshsim import Mesh, Sample, Series
from meshsim.check import InputError
from meshsim.data import Field, Schema, Store, Windows, disk, staging

SCHEMA = Schema(
    [
        Field("velocity", "state", components=2),
        Field("pressure", "target"),
        Field("inflow", "parameter", "global"),
    ]
)


@pytest.fixture
def store(tmp_path, flow, monkeypatch):
    monkeypatch.setattr(staging, "block_length", lambda _: 3)  # several chunks a series
    out = Store.create(tmp_path / "s", SCHEMA)
    for k, name in enumerate("abc"):
        out.append(flow(name=name, seed=k, frames=7 + k))
    out.set_splits({"train": ["a", "c"], "test": ["b"]})
    return out


@pytest.mark.parametrize("length, stride", [(1, 1), (2, 1), (5, 1), (3, 2), (2, 6), (4, 2)])
@pytest.mark.parametrize("cache", [0, 3000, 1 << 30])
def test_every_window_once_and_right(store, flow, length, stride, cache):
    windows = Windows(store, "train", length, stride, cache_bytes=cache)
    span = (length - 1) * stride
    assert len(windows) == (7 - span) + (9 - span)
    seen = set()
    for i in range(len(windows)):
        window = windows.load(i)
        name, start = window["name"], window["start"]
        assert (name, 0, start) == windows.where(i)
        seen.add((name, start))
        sample = flow(name=name, seed="abc".index(name), frames=7 + "abc".index(name))
        frames = slice(start, start + span + 1, stride)
        series = sample.branch
        velocity = torch.from_numpy(series.point_fields["velocity"])[frames]
        assert torch.equal(window["states"]["velocity"], velocity)
        pressure = torch.from_numpy(series.point_fields["pressure"])[frames, :, None]
        assert torch.equal(window["targets"]["pressure"], pressure)
        assert torch.equal(window["times"], series.times[frames])
        assert window["parameters"]["inflow"].tolist() == [[1.0 + "abc".index(name)]]
        assert window["points"] is None
    assert len(seen) == len(windows)


def test_the_memory_keeps_to_its_limit(store):
    limit = 3000
    windows = Windows(store, ["a", "b", "c"], 2, cache_bytes=limit)
    for i in np.random.default_rng(0).integers(len(windows), size=60):
        windows.load(int(i))
        held = sum(x.nbytes for x in windows._cache.held.values())
        assert held == windows._cache.size <= limit


def test_what_is_in_memory_is_not_read_again(store, monkeypatch):
    windows = Windows(store, "train", 3)
    first = [windows.load(i)["states"]["velocity"].clone() for i in range(len(windows))]
    monkeypatch.setattr(disk, "read_array", None)
    for i, values in enumerate(first):
        assert torch.equal(windows[i]["states"]["velocity"], values)


def test_windows_travel_to_other_processes_without_their_memory(store):
    windows = Windows(store, "train", 3, stride=2, every=2)
    windows.load(0)
    sent = pickle.dumps(windows)
    assert len(sent) < 3000
    again = pickle.loads(sent)
    assert len(again) == len(windows)
    last = len(windows) - 1
    assert torch.equal(again[last]["states"]["velocity"], windows[last]["states"]["velocity"])


def test_dtype_range_and_every(store):
    windows = Windows(store, ["a"], 2, frames=(2, 6), every=2, dtype=torch.float64)
    assert [windows.where(i) for i in range(len(windows))] == [("a", 0, 2), ("a", 0, 4)]
    assert windows.load(0)["states"]["velocity"].dtype == torch.float64
    assert windows.mesh("a") is windows.mesh("a")
    assert windows.mesh("a").n_points == 16


def test_index_out_of_range(store):
    windows = Windows(store, "test", 2)
    assert windows[-1]["start"] == windows[len(windows) - 1]["start"]
    with pytest.raises(IndexError):
        windows[len(windows)]
    assert len(list(windows)) == len(windows)


def test_steady_samples_give_one_window(tmp_path, mixed_mesh):
    schema = Schema(
        [
            Field("pressure", "target"),
            Field("volume", "target", "cell"),
            Field("shear", "target", "boundary", 2),
            Field("drag", "target", "global"),
            Field("kind", "parameter"),
        ]
    )
    store = Store.create(tmp_path / "s", schema)
    for name in "ab":
        store.append(Sample({"surface": mixed_mesh}, name=name))
    windows = Windows(store, ["a", "b"], 1)
    assert len(windows) == 2
    window = windows.load(1)
    assert window["name"] == "b" and window["times"] is None and window["states"] == {}
    shapes = {name: tuple(x.shape) for name, x in window["targets"].items()}
    assert shapes == {"pressure": (10, 1), "volume": (4, 1), "shear": (2, 2), "drag": (1, 1)}
    assert window["parameters"]["kind"].dtype == torch.int32
    with pytest.raises(InputError, match="no window of 2 states"):
        Windows(store, ["a"], 2)


def test_windows_do_not_cross_a_change_of_topology(tmp_path):
    mesh = Mesh([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], {"triangle": [[0, 1, 2]]})
    finer = Mesh([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], {"quad": [[0, 1, 3, 2]]})
    later = Series(finer, [3.0, 4.0], {"u": torch.ones(2, 4)}, points=torch.ones(2, 4, 2))
    series = Series(
        mesh, [0.0, 1.0, 2.0], {"u": torch.zeros(3, 3)}, points=torch.zeros(3, 3, 2), later=(later,)
    )
    store = Store.create(tmp_path / "s", Schema([Field("u", "state")]))
    store.append(Sample(series, name="a"))
    windows = Windows(store, ["a"], 2)
    assert [windows.where(i) for i in range(len(windows))] == [
        ("a", 0, 0),
        ("a", 0, 1),
        ("a", 1, 0),
    ]
    assert windows[2]["states"]["u"].shape == (2, 4, 1)
    assert windows[2]["points"].shape == (2, 4, 2) and windows[0]["points"].shape == (2, 3, 2)
    assert windows.mesh("a", 1).n_points == 4


def test_bad_requests_are_named(store, tmp_path, mixed_mesh):
    with pytest.raises(InputError, match="no window of 20 states 1 frames apart"):
        Windows(store, "train", 20)
    with pytest.raises(InputError, match="did you mean 'train'"):
        Windows(store, "trian", 2)
    with pytest.raises(InputError, match="`length`: expected a whole number of 1 or more, got 0"):
        Windows(store, "train", 0)
    with pytest.raises(InputError, match="unknown branch of sample 'a'"):
        Windows(store, "train", 2, branch="surface")
    with pytest.raises(InputError, match="sample 'a': field 'q' is missing"):
        Windows(store, "train", 2, schema=Schema([Field("q", "state")]))
    other = Store.create(tmp_path / "o")
    series = Series(mixed_mesh, [0.0, 1.0], {"p": torch.zeros(2, 10)})
    other.append(Sample(series, name="m"))
    with pytest.raises(InputError, match="no schema"):
        Windows(other, ["m"], 2)
    still = Schema([Field("pressure", "state")])
    with pytest.raises(InputError, match="state 'pressure' does not change in time"):
        Windows(other, ["m"], 2, schema=still)
