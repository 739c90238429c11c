"""datasets/deepmind_meshgraphnets: a folder as published, made small, through to a prediction."""

from pathlib import Path

import meshsim
from meshsim.cli import main
from tests import trajectory_files as files

RECIPE = Path(__file__).resolve().parents[1] / "datasets" / "deepmind_meshgraphnets"


def test_the_recipe_trains_on_a_folder_as_published(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for split, count in (("train", 2), ("valid", 1), ("test", 1)):
        files.cylinder_flow(tmp_path / "cylinder_flow", split, count, times=6)
    config = str(RECIPE / "preprocess.toml")
    assert main(["preprocess", "cylinder_flow", "-o", "flows.zarr", "--config", config]) == 0
    small = ["model.width=8", "model.depth=2", "train.steps=2", "train.threads=1"]
    assert main(["train", str(RECIPE / "config.toml"), "-o", "run", *small]) == 0
    assert main(["evaluate", "run", "flows.zarr", "--json"]) == 0
    simulator = meshsim.load("run")
    series = meshsim.Store("flows.zarr").sample("test_000000").branch
    graph = simulator.graph(series)
    assert graph.node_type.tolist() == series.mesh.point_fields["node_type"].tolist()


def test_what_a_trajectory_takes_is_its_share_of_the_file(tmp_path):
    files.cylinder_flow(tmp_path / "flows", "train", 5, times=6)
    plan = meshsim.data.estimate([tmp_path / "flows"])
    on_disk = sum(path.stat().st_size for path in (tmp_path / "flows").glob("*.tfrecord"))
    about = (tmp_path / "flows" / "meta.json").stat().st_size
    assert len(plan.samples) == 5
    assert abs(sum(cost.size - about for cost in plan.samples) - on_disk) < 5
