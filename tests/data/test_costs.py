"""What preprocessing is expected to take, and what is done where that is too much."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import meshsim
from meshsim.check import InputError
from meshsim.data import Store, estimate, preprocess
from meshsim.data.costs import PEAK, Cost, Probe, Rates, sizes
from meshsim.data.cutting import parts
from meshsim.data.sources import search
from meshsim.data.workers import Room

MEASURED = r"""
import re, sys
from meshsim.data import preprocess
from meshsim.io import guard
if __name__ == "__main__":
    preprocess([sys.argv[1]], sys.argv[2])
    guard.close()
    # not ru_maxrss, which a process takes over from the one that started it
    peak = re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())
    print(int(peak[1]) * 1024)
"""


def tetrahedra(n: int, seed: int = 0) -> meshsim.Mesh:
    """A cube of 6 n³ tetrahedra with noise on its points and in two fields."""
    from meshsim.benchmarks import cube

    cells, _ = cube(n)
    draw = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.linspace(0, 1, n + 1)] * 3, indexing="ij"), -1).reshape(-1, 3)
    grid += 1e-3 / n * draw.normal(size=grid.shape)
    fields = {"p": draw.normal(size=len(grid)), "U": draw.normal(size=(len(grid), 3))}
    return meshsim.Mesh(grid, {"tetra": cells}, fields)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three formats in several sizes, one broken file."""
    folder = tmp_path_factory.mktemp("mixed")
    for suffix in ("vtu", "msh", "xdmf"):
        for n in (3, 6, 12):
            meshsim.write(tetrahedra(n, n), folder / f"cube_{n}_{suffix}.{suffix}")
    (folder / "broken.vtu").write_text("<VTKFile")
    return folder


def peak_of_a_worker(folder: Path, store: Path) -> int:
    """Resident bytes at most, of a process of its own (the one that reads for it left out)."""
    script = store.with_suffix(".py")
    script.write_text(MEASURED)
    code = [sys.executable, str(script), str(folder), str(store)]
    done = subprocess.run(code, capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_sizes_and_memory_are_near_the_truth(mixed: Path, tmp_path: Path) -> None:
    plan = estimate([mixed])
    peak = peak_of_a_worker(mixed, tmp_path / "s")
    store = Store(tmp_path / "s")
    entries = store.manifest
    costs = {cost.name: cost for cost in plan.samples}
    assert set(costs) == set(entries) and all(cost.how == "measured" for cost in plan.samples)
    folders = {n: store.path / "samples" / n for n in store.names}
    written = {
        name: sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
        for name, folder in folders.items()
    }
    assert len(written) == 9
    for name, size in written.items():
        assert size / 2 < costs[name].stored < 2 * size, name
    good = sum(costs[name].stored for name in written)
    assert sum(written.values()) / 2 < good < 2 * sum(written.values())
    assert plan.totals["peak"] >= 0.5 * peak
    assert plan.totals["peak"] < 4 * peak + PEAK * max(c.size for c in plan.samples)
    assert costs["cube_12_xdmf"].files == 2  # the .h5 belongs to it
    assert costs["cube_12_vtu"].seconds >= costs["cube_3_vtu"].seconds > 0


def test_estimating_leaves_nothing_behind(mixed: Path, tmp_path: Path) -> None:
    before = sorted(mixed.iterdir())
    plan = estimate([mixed / "cube_3_msh.msh"], workers=3)
    assert sorted(mixed.iterdir()) == before
    assert json.loads(json.dumps(plan.to_dict()))["totals"]["workers"] == 3


def test_without_small_inputs_costs_are_assumed(tmp_path: Path) -> None:
    (source,) = search(_file(tmp_path / "a.vtu", 1000))
    cost = Rates(10, 0.0, [Probe("stl", 5, 5, 1.0, 1, 1, 20)]).of(source)
    assert (cost.how, cost.peak, cost.stored) == ("assumed", 10 + 1000 * PEAK, 1000)


def test_memory_grows_along_the_probes(tmp_path: Path) -> None:
    (source,) = search(_file(tmp_path / "a.vtu", 50 << 20))
    probes = [Probe("vtu", 1 << 20, 1 << 20, 1.0, 500, 1 << 19, 100 << 20)]
    probes += [Probe("vtu", 11 << 20, 11 << 20, 6.0, 500, 11 << 19, 140 << 20)]
    cost = Rates(90 << 20, 0.0, probes).of(source)
    assert cost.peak == (140 + 4 * 39) << 20
    assert cost.stored == 500 + (25 << 20)
    assert cost.seconds == pytest.approx(1 + 0.5 * 49)


def _file(path: Path, size: int) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
    return path


def test_of_a_series_of_files_one_time_is_held(tmp_path: Path) -> None:
    mesh = tetrahedra(3)
    frames = np.random.default_rng(0).normal(size=(6, mesh.n_points))
    series = meshsim.Series(mesh, np.arange(6.0), {"q": frames})
    meshsim.write(series, tmp_path / "a.pvd")
    size, held = sizes(tmp_path / "a.pvd")
    assert size / 8 < held < size / 5
    assert sizes(tmp_path / "none.vtu") == (0, 0)


def test_room_is_never_exceeded_and_always_used() -> None:
    room = Room(100, 10, {"a": 40, "b": 40, "c": 80, "d": 15})
    assert room.workers(8) == 3  # the largest beside two idle ones
    assert room.fits("c", [], 3) and room.fits("b", ["a"], 3)
    assert not room.fits("c", ["a"], 3) and not room.fits("d", ["a", "b"], 4 - 1 + 1)
    assert Room().workers(8) == 8 and Room().fits("a", ["b"], 2)
    assert Room(100, 10, {"a": 1000}).workers(8) == 1


def pieces(folder: Path, name: str, n: int = 3) -> Path:
    """A .pvtu of n cubes side by side."""
    folder.mkdir(parents=True, exist_ok=True)
    listed = []
    for k in range(n):
        mesh = tetrahedra(3, k)
        meshsim.write(mesh.replace(points=mesh.points + k), folder / f"{name}_{k}.vtu")
        listed.append(f'<Piece Source="{name}_{k}.vtu"/>')
    arrays = '<PDataArray type="Float64" Name="p"/>'
    arrays += '<PDataArray type="Float64" Name="U" NumberOfComponents="3"/>'
    points = '<PPoints><PDataArray type="Float64" NumberOfComponents="3"/></PPoints>'
    (folder / f"{name}.pvtu").write_text(
        '<VTKFile type="PUnstructuredGrid" version="1.0" byte_order="LittleEndian">'
        f"<PUnstructuredGrid><PPointData>{arrays}</PPointData>{points}{''.join(listed)}"
        "</PUnstructuredGrid></VTKFile>"
    )
    return folder / f"{name}.pvtu"


def blocks(folder: Path, name: str, n: int = 2) -> Path:
    """A .vtm of n cubes."""
    listed = []
    for k in range(n):
        meshsim.write(tetrahedra(2, k), folder / f"{name}_{k}.vtu")
        listed.append(f'<DataSet index="{k}" name="b{k}" file="{name}_{k}.vtu"/>')
    (folder / f"{name}.vtm").write_text(
        '<VTKFile type="vtkMultiBlockDataSet" version="1.0"><vtkMultiBlockDataSet>'
        f"{''.join(listed)}</vtkMultiBlockDataSet></VTKFile>"
    )
    return folder / f"{name}.vtm"


def limited(monkeypatch: pytest.MonkeyPatch, peaks: dict[str, int]) -> None:
    """Costs by the ends of names, instead of measured ones; 1 for others."""

    def of(self, source):
        found = next((size for end, size in peaks.items() if source.name.endswith(end)), 1)
        return Cost(source.name, "", 1, 1, 1, 0.0, found, "measured")

    module = sys.modules["meshsim.data.preprocessing"]
    monkeypatch.setattr(module, "measure", lambda found, options: Rates(1))
    monkeypatch.setattr(Rates, "of", of)


def test_what_is_too_large_is_cut_or_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "in"
    for k in range(4):
        pieces(folder, f"flow{k}")
        (folder / f"flow{k}.json").write_text(json.dumps({"parameters": {"speed": k + 0.5}}))
    blocks(folder, "many")
    (folder / "many.json").write_text('{"parameters": {"speed": 9}}')
    meshsim.write(tetrahedra(2), folder / "single.vtu")
    (folder / "single.json").write_text('{"parameters": {"speed": 1}}')
    assert [p.name for p in parts(search(folder / "flow1.pvtu")[0])] == [
        f"flow1.part{k}" for k in range(3)
    ]
    limited(monkeypatch, {"flow1": 50, "flow2": 50, "many": 50, "single": 50})
    rules = {"splits": {"train": 0.5, "test": 0.5}}
    report = preprocess([folder], tmp_path / "s", config=rules, memory=20)
    store = Store(tmp_path / "s")
    cut = ["flow1", "flow2", "many"]
    assert store.cut == cut
    expected = ["flow0", *[f"flow{i}.part{k}" for i in (1, 2) for k in range(3)], "flow3"]
    assert store.names == sorted([*expected, "many.part0", "many.part1"])
    for name in store.names:
        sample = store.sample(name)
        assert sample.mesh.n_points > 0
        whole = name.partition(".")[0]
        assert sample.parameters["speed"] == (9 if whole == "many" else int(whole[-1]) + 0.5)
    # a whole and its parts hold the same cells
    whole = meshsim.read(folder / "flow1.pvtu")
    assert whole.n_cells == sum(store.sample(f"flow1.part{k}").mesh.n_cells for k in range(3))
    ((source, message),) = report.failed
    assert source.endswith("single.vtu") and "\n" not in message
    assert "expected to need" in message and "only .pvtu" in message
    assert report.manifest["single"]["status"] == "failed"
    for name in cut:  # parts of one share a split
        parted = {s for s, members in store.splits.items() for m in members if m.startswith(name)}
        assert len(parted) == 1
    # nothing depends on the limit being given again: what was cut stays cut
    again = preprocess([folder], tmp_path / "s", config=rules)
    assert (again.done, again.skipped, again.failed) == (1, 10, [])
    assert "flow1.part2" in Store(tmp_path / "s").names


def test_cut_after_it_was_stored_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "in"
    pieces(folder, "a")
    preprocess([folder], tmp_path / "s")
    assert Store(tmp_path / "s").names == ["a"]
    limited(monkeypatch, {"a": 50})
    pieces(folder, "b")
    preprocess([folder], tmp_path / "s", memory=20)
    assert Store(tmp_path / "s").names == ["a", "b"]  # it is there: no memory is needed
    # but when it has to be read again, it is
    with (folder / "a.pvtu").open("a") as file:
        file.write("\n")
    report = preprocess([folder], tmp_path / "s", memory=20)
    names = Store(tmp_path / "s").names
    assert names == ["a.part0", "a.part1", "a.part2", "b"] and report.gone == []
    Store(tmp_path / "s").verify()


def test_what_changed_is_refused_where_it_is_too_large_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    meshsim.write(tetrahedra(2), folder / "a.vtu")
    meshsim.write(tetrahedra(2), folder / "b.vtu")
    preprocess([folder], tmp_path / "s")
    meshsim.write(tetrahedra(3), folder / "a.vtu")
    limited(monkeypatch, {"a": 50, "b": 50})
    report = preprocess([folder], tmp_path / "s", memory=20)
    ((source, message),) = report.failed
    assert source.endswith("a.vtu") and "expected to need" in message
    assert (report.done, report.skipped, Store(tmp_path / "s").names) == (0, 1, ["b"])


def test_memory_below_what_a_worker_has_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "in").mkdir()
    meshsim.write(tetrahedra(2), tmp_path / "in" / "a.vtu")
    module = sys.modules["meshsim.data.preprocessing"]
    monkeypatch.setattr(module, "measure", lambda found, options: Rates(300_000_000))
    with pytest.raises(InputError, match=r"at least the 300 MB that a worker takes .* got 4 bytes"):
        preprocess([tmp_path / "in"], tmp_path / "s", memory=4)
    with pytest.raises(InputError, match="at least the 300 MB"):
        estimate([tmp_path / "in"], memory=4)


def test_a_part_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pieces(tmp_path / "in", "a")
    limited(monkeypatch, {"a": 50, "part1": 30})
    report = preprocess([tmp_path / "in"], tmp_path / "s", memory=20)
    assert "one of its 3 parts is too large too" in report.failed[0][1]
    with pytest.raises(InputError, match="memory"):
        preprocess([tmp_path / "in"], tmp_path / "s", memory=-1)


def test_a_decomposed_case_has_parts(tmp_path: Path) -> None:
    for k in (0, 1, 10, 2):
        (tmp_path / "case" / f"processor{k}" / "constant" / "polyMesh").mkdir(parents=True)
    (tmp_path / "case" / "constant" / "polyMesh").mkdir(parents=True)
    (source,) = search(tmp_path / "case")
    assert [p.files[0][1].name for p in parts(source)] == [f"processor{k}" for k in (0, 1, 2, 10)]
