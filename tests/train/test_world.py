"""Several processes train what one would: same weights, one set of files, errors on all."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import meshsim
from meshsim.check import InputError
from meshsim.train.world import World
from tests.test_surrogate import case

RECIPE = """
[data]
store = "bodies.zarr"

[model]
name = "anchored"
width = 32
heads = 2
blocks = "psc"
supernodes = 16

[surrogate]
geometry = "surface"
points = 64
features = ["normal"]
parameters = ["inflow"]
absent = 0.3

[surrogate.branches.surface]
fields = ["pressure"]
features = ["normal"]
anchors = 32

[surrogate.branches.volume]
fields = ["velocity"]
anchors = 32

[train]
steps = 8
batch = 2
warmup = 2
lr = 1e-3
mirror = ["y"]
threads = 1
checkpoint_every = 4
log_every = 4
"""


def run(folder: Path, out: str, *options: str, processes: int = 1) -> subprocess.CompletedProcess:
    """`meshsim train` in one process, or in several started by torchrun."""
    start = [sys.executable]
    if processes > 1:
        start += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [*start, "-m", "meshsim", "train", "recipe.toml", "-o", out, *options]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("world")
    store = meshsim.Store.create(made / "bodies.zarr")
    for i in range(5):
        store.append(case((1.0, 0.5 + 0.05 * i, 0.4), 1.0 + 0.25 * i))
    store.set_splits({"train": store.names})
    (made / "recipe.toml").write_text(RECIPE)
    done = run(made, "alone")
    assert done.returncode == 0, done.stderr
    return made


def test_two_processes_give_what_one_gives(folder):
    done = run(folder, "two", processes=2)
    assert done.returncode == 0, done.stderr
    one, two = (meshsim.load(folder / name) for name in ("alone", "two"))
    for (name, a), b in zip(one.model.named_parameters(), two.model.parameters(), strict=True):
        assert float((a - b).detach().abs().max()) < 1e-6, name
    logs = [(folder / name / "log.csv").read_text().splitlines() for name in ("alone", "two")]
    assert len(logs[0]) == len(logs[1]) == 3  # written once, by the first of them


@pytest.mark.slow
def test_a_batch_that_cannot_be_shared_is_refused(folder):
    done = run(folder, "odd", "train.batch=3", processes=2)
    assert done.returncode != 0 and "multiple of the 2 processes" in done.stderr


def test_alone_nothing_is_averaged():
    p = torch.nn.Parameter(torch.ones(2))
    p.grad = torch.tensor([1.0, 2.0])
    loss = World().average(torch.tensor(3.0), [p])
    assert float(loss) == 3.0 and p.grad.tolist() == [1.0, 2.0]
    assert World().by_first(lambda: 5) == 5
    with pytest.raises(InputError, match="a multiple of the 2"):
        World(0, 2).check([4, 3])
