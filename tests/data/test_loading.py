import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from meshsim import Mesh, Sample, Series
from meshsim.check import InputError
from meshsim.data import (
    Field,
    GraphWindows,
    NodeWindows,
    Schema,
    Store,
    Windows,
    disk,
    loader,
    shards,
    staging,
)
from meshsim.graph import cell_graph

SCHEMA = Schema(
    [
        Field("velocity", "state", components=2),
        Field("pressure", "target"),
        Field("inflow", "parameter", "global"),
    ]
)


@pytest.fixture
def store(tmp_path, flow, monkeypatch):
    monkeypatch.setattr(shards, "CHUNK_BYTES", 64)  # several chunks a file
    monkeypatch.setattr(staging, "block_length", lambda _: 3)
    out = Store.create(tmp_path / "s", SCHEMA)
    for k, name in enumerate("abc"):
        out.append(flow(name=name, seed=k, frames=7 + k, side=5 + k))
    out.set_splits({"train": ["a", "c"], "test": ["b"]})
    return out


def equal(a, b):
    assert sorted(a.keys()) == sorted(b.keys())
    for key, x in a.to_dict().items():
        tables = x if isinstance(x, dict) else {key: x}
        for name, values in tables.items():
            other = b[key][name] if isinstance(x, dict) else b[key]
            assert torch.equal(values, other) if isinstance(values, torch.Tensor) else (
                values == other
            ), (key, name)  # fmt: skip


@pytest.mark.parametrize("length, stride, nodes", [(1, 1, 5), (3, 2, 7), (2, 1, 1000)])
def test_a_window_is_what_the_whole_one_has_at_its_nodes(store, length, stride, nodes):
    some = NodeWindows(store, "train", length, nodes, stride=stride, blocks=3)
    whole = Windows(store, "train", length, stride)
    assert len(some) == len(whole)
    for i in range(len(some)):
        got, want = some[i], whole.load(i)
        mesh, rows = whole.mesh(want["name"]), got.node
        n = min(nodes, mesh.n_points)
        assert len(rows) == n and torch.equal(got.pos, mesh.points[rows].float())
        velocity = want["states"]["velocity"][:, rows].transpose(0, 1)
        assert torch.equal(got.states["velocity"], velocity)
        pressure = want["targets"]["pressure"][:, rows].transpose(0, 1)
        assert torch.equal(got.targets["pressure"], pressure)
        assert torch.equal(got.parameters["inflow"], want["parameters"]["inflow"])
        assert torch.equal(got.times[0], want["times"]) and got.window.item() == i
        assert torch.allclose(got.weight, torch.full((n,), mesh.n_points / n))
        assert got.weight.sum().item() == pytest.approx(mesh.n_points)


def test_the_mean_of_weighted_sums_is_the_sum(store):
    """Over many epochs: within five of its own standard errors."""
    some = NodeWindows(store, ["c"], 1, 9, blocks=3, dtype=torch.float64)
    field = store.sample("c").branch.point_fields["pressure"][2].double()
    sums = []
    for epoch in range(120):
        data = some[epoch, 2]
        sums.append((data.weight * data.targets["pressure"][:, 0, 0]).sum().item())
    error = np.std(sums) / np.sqrt(len(sums))
    assert abs(np.mean(sums) - field.sum().item()) < 5 * error


def test_what_is_drawn_depends_on_seed_epoch_and_window_only(store):
    first, again = (NodeWindows(store, "train", 2, 6, blocks=2, seed=5) for _ in range(2))
    for i in reversed(range(len(first))):
        equal(first[i], again[i])
        equal(first[3, i], again[3, i])
    assert any(not np.array_equal(first.rows(i), first.rows((1, i))) for i in range(len(first)))
    other = NodeWindows(store, "train", 2, 6, blocks=2, seed=6)
    assert any(not np.array_equal(first.rows(i), other.rows(i)) for i in range(len(first)))
    sent = pickle.dumps(first)
    assert len(sent) < 3000
    equal(pickle.loads(sent)[1, 0], first[1, 0])
    assert first[-1].window.item() == len(first) - 1
    with pytest.raises(IndexError):
        first[len(first)]


def test_no_mesh_is_read(store, monkeypatch):
    """Only rows of points and fields: no file of cells is opened."""
    opened = []
    original = disk.open_array
    monkeypatch.setattr(
        disk, "open_array", lambda folder, path: opened.append(path) or original(folder, path)
    )
    for data in NodeWindows(store, "train", 2, 6):
        assert len(data.node) == 6
    assert opened and not any("cells" in path for path in opened)


@pytest.mark.slow
def test_batches_are_the_same_with_spawned_workers(store):
    def made():
        return NodeWindows(store, "train", 2, 6, blocks=2)

    alone, helped = loader(made(), 4), loader(made(), 4, workers=2)
    passes = []
    for _ in range(2):
        batches = list(alone)
        for a, b in zip(batches, helped, strict=True):
            equal(a, b)
        passes.append([int(i) for batch in batches for i in batch.window])
        assert sorted(passes[-1]) == list(range(len(alone.dataset)))
    assert passes[0] != passes[1]  # each pass in its own order


def test_graphs_can_be_sent_to_a_process(store):
    graphs = GraphWindows(Windows(store, "train", 2))
    first = graphs[3]
    sent = pickle.dumps(graphs)
    assert len(sent) < 3000  # neither what was read nor a graph
    equal(pickle.loads(sent)[3], first)


def test_batches_are_pygs(store, unchecked):
    data = NodeWindows(store, "train", 2, 6, blocks=2)
    batch = next(iter(loader(data, 3, shuffle=False)))
    assert batch.num_graphs == 3 and batch.batch.tolist() == [0] * 6 + [1] * 6 + [2] * 6
    assert batch.states["velocity"].shape == (18, 2, 2) and batch.times.shape == (3, 2)
    assert batch.parameters["inflow"].shape == (3, 1) and batch.pos.shape == (18, 2)
    for i, one in enumerate(batch.to_data_list()):
        equal(one, data[i])
    assert len(loader(data, 4, drop_last=True)) == len(data) // 4
    for size, options in ((0, {}), (2.5, {}), ("3", {}), (2, {"workers": 0.5})):
        with pytest.raises(InputError, match=r"`(size|workers)`: expected a whole number"):
            loader(data, size, **options)
    for seed in (-1, 0.5, None):
        with pytest.raises(InputError, match=r"`seed`: expected a whole number of 0 or more"):
            loader(data, 2, seed=seed)


def test_graphs_of_whole_meshes(store):
    windows = Windows(store, "train", 2)
    graphs = GraphWindows(windows)
    batch = next(iter(loader(graphs, 3, shuffle=False)))
    mesh = windows.mesh("a")
    assert batch.num_graphs == 3 and batch.pos.shape == (3 * mesh.n_points, 2)
    assert batch.edge_index.max() == 3 * mesh.n_points - 1
    want = [windows.load(i)["states"]["velocity"].transpose(0, 1) for i in range(3)]
    assert torch.equal(batch.states["velocity"], torch.cat(want))
    with pytest.raises(InputError, match="field 'velocity': expected it at the cells"):
        GraphWindows(windows, cell_graph)[0]


def test_names_that_pyg_gives_a_meaning_are_safe(tmp_path):
    """ "…index" would be shifted by the number of nodes, "face" joined along the last axis."""
    n = 12
    fields = {name: torch.rand(3, n, 2) for name in ("refractive_index", "face", "batch", "pos")}
    mesh = Mesh(torch.rand(n, 2), {"triangle": [[0, 1, 2], [3, 4, 5]]})
    schema = Schema([Field(name, "state", components=2) for name in fields])
    store = Store.create(tmp_path / "s", schema)
    store.append(Sample(Series(mesh, [0.0, 1.0, 2.0], fields), name="a"))
    for data in (NodeWindows(store, ["a"], 2, n), GraphWindows(Windows(store, ["a"], 2))):
        batch = next(iter(loader(data, 2, shuffle=False)))
        for name, truth in fields.items():
            want = torch.cat([truth[:2], truth[1:]], 1).transpose(0, 1)
            assert torch.equal(batch.states[name], want), name


def test_steady_samples_cells_and_moving_points(tmp_path):
    n, c = 40, 30
    random = np.random.default_rng(0)
    mesh = Mesh(
        random.random((n, 3)),
        {"tetra": np.stack([random.permutation(n)[:4] for _ in range(c)])},
        {"p": random.random(n)},
        {"k": random.random((c, 2)).astype(np.float32)},
        global_fields={"drag": 2.0},
    )
    drag = Field("drag", "target", "global")
    store = Store.create(tmp_path / "s", Schema([Field("p", "target"), drag]))
    store.append(Sample(mesh, name="a"))
    data = NodeWindows(store, ["a"], 1, 7)[0]
    assert torch.equal(data.targets["p"][:, 0], mesh.point_fields["p"][data.node].float())
    assert "times" not in data and data.targets["drag"].tolist() == [[2.0]]
    schema = Schema([Field("k", "state", "cell", 2)])
    cells = NodeWindows(store, ["a"], 1, 7, location="cell", schema=schema)[0]
    assert cells.states["k"].shape == (7, 1, 2)
    assert torch.equal(cells.pos, mesh.cell_centres[cells.node].float())
    places = random.random((4, n, 3))
    series = Series(mesh, range(4), {"q": random.random((4, n))}, points=places)
    store = Store.create(tmp_path / "m", Schema([Field("q", "state")]))
    store.append(Sample(series, name="a"))
    window = NodeWindows(store, ["a"], 2, 5, dtype=torch.float64)[1]
    assert np.array_equal(window.points, places[1:3][:, window.node].transpose(1, 0, 2))
    assert torch.equal(window.pos, window.points[:, 0])


def test_bad_requests_are_named(store, unchecked):
    def refuse(message, *arguments, **options):
        with pytest.raises(InputError, match=message):
            NodeWindows(store, *arguments, **options)

    for wrong in (0, -3, 2.5, float("nan"), "4", None, True):
        refuse("`nodes`: expected a whole number of 1 or more", "train", 2, wrong)
        refuse("`length`: expected a whole number of 1 or more", "train", wrong, 5)
        for name in ("blocks", "stride", "every"):
            refuse(
                f"`{name}`: expected a whole number of 1 or more", "train", 2, 5, **{name: wrong}
            )
        with pytest.raises(InputError, match="`length`: expected a whole number of 1 or more"):
            Windows(store, "train", wrong)
    for wrong in (-1, 0.5, "1", None):
        refuse("`seed`: expected a whole number of 0 or more", "train", 2, 5, seed=wrong)
    assert len(NodeWindows(store, "train", np.int64(2), np.int32(5), seed=np.int64(1))[0].node) == 5
    refuse("no window of 20 states", "train", 20, 5)
    refuse("unknown location", "train", 2, 5, location="edge")
    refuse("there are no cell fields", "train", 2, 5, location="cell")
    moved = Schema([Field("velocity", "state", "cell", 2)])
    refuse("field 'velocity': expected a field at a point", "train", 2, 5, schema=moved)
    refuse("unknown branch of sample 'a'", "train", 2, 5, branch="x")
    refuse("unknown field of sample 'a'", "train", 2, 5, schema=Schema([Field("q", "state")]))


def test_a_window_reads_a_small_part_of_a_sample(tmp_path):
    """Bytes that leave the files, of a sample of 100,000 points and 40 times."""
    io = Path("/proc/self/io")
    if not io.exists():
        pytest.skip("bytes read are counted by Linux")
    n, frames = 100_000, 40
    values = np.random.default_rng(0).random((frames, n, 2), np.float32)
    mesh = Mesh(np.random.rand(n, 2), {"triangle": [[0, 1, 2]]})
    store = Store.create(tmp_path / "s", Schema([Field("u", "state", components=2)]))
    store.append(Sample(Series(mesh, range(frames), {"u": values}), name="a"))
    data = NodeWindows(store, ["a"], 4, 200, blocks=4)
    data[0]

    def count():
        return int(io.read_text().split()[1])

    before = count()
    assert len(data[17].node) == 200
    whole = sum(p.stat().st_size for p in (store.path / "samples").rglob("*") if p.is_file())
    assert 0 < count() - before < 0.05 * whole
