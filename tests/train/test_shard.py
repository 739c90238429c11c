"""Weights divided among two processes: what one would train, one checkpoint, exact resume."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

import meshsim
from meshsim.check import InputError
from meshsim.train import Config, checkpoint, loop, train
from meshsim.train.config import TrainConfig
from tests.test_surrogate import case, recipe

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
MODEL = {"name": "anchored", "width": 16, "heads": 2, "supernodes": 8}
STOPPED = 3  # after a checkpoint at 2

# {run: (what is different of the model, of the training)}
CASES = {
    "muon": (
        {"blocks": "pc", "own_blocks": 1, "checkpoint": True},
        {"optimiser": "muon", "muon_lr": 1e-3},
    ),
    "lion": (
        {"blocks": "s", "members": 2},
        {"optimiser": "lion", "lr": 1e-4, "ema": 0.0, "select": "best", "validate_every": 2},
    ),
    "curl": ({"blocks": "s"}, {}),
    # a number, which cannot be divided, gradients of gradients, and weights without a gradient
    "mario": (
        {"name": "mario", "width": 16, "shape_width": 16, "points": 16, "normals": 3, "stage": 1.0},
        {},
    ),
}


def config(store: Path, name: str) -> Config:
    model, options = CASES[name]
    raw = recipe(store, steps=4, batch=2, warmup=2, lr=1e-3, shard=True)
    raw["train"] |= {"checkpoint_every": 2, **options}
    raw["data"]["valid"] = "test"
    raw["surrogate"]["points"] = 32
    for branch in raw["surrogate"]["branches"].values():
        branch["anchors"] = 16
    raw["model"] = model if "name" in model else MODEL | model
    if name == "curl":
        volume = raw["surrogate"]["branches"]["volume"]
        volume |= {"curl": ["velocity"], "features": []}
    return Config.from_dict(raw)


def interrupted(recipe: Config, out: Path) -> None:
    """Train up to the middle between two checkpoints, and nothing is saved at the end."""

    def check(run: loop.Run, loss: float, norm: float) -> None:
        if run.step == STOPPED:
            raise EOFError

    with pytest.MonkeyPatch.context() as patch, pytest.raises(EOFError):
        patch.setattr(loop.Run, "_check", check)
        train(recipe, out)


def work(folder: Path) -> None:
    """What each of the two processes does."""
    store = folder / "bodies.zarr"
    for name in CASES:
        train(config(store, name), folder / "two" / name)
    muon = config(store, "muon")
    interrupted(muon, folder / "again")
    if torch.distributed.get_rank() == 0:
        shutil.copytree(folder / "again", folder / "two_one")
    train(muon, folder / "again")
    train(muon, folder / "one_two")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("shard")
    store = meshsim.Store.create(made / "bodies.zarr")
    for i in range(4):
        store.append(case((1.0, 0.5 + 0.05 * i, 0.4), 1.0 + 0.25 * i))
    store.set_splits({"train": store.names[:3], "test": store.names[3:]})
    for name in CASES:
        train(config(store.path, name), made / "alone" / name)
    interrupted(config(store.path, "muon"), made / "one_two")
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*start, "-m", "tests.train.test_shard", str(made)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    train(config(store.path, "muon"), made / "two_one")
    return made


def weights(run: Path) -> Tensor:
    return torch.cat([p.detach().flatten() for p in meshsim.load(run).model.parameters()])


def difference(a: Path, b: Path) -> float:
    """Relative to the weights' norm."""
    return float((weights(a) - weights(b)).norm() / weights(a).norm())


@pytest.mark.parametrize("name", CASES)
def test_two_processes_give_what_one_gives(folder, name):
    assert difference(folder / "alone" / name, folder / "two" / name) < 1e-6


@pytest.mark.parametrize("name", CASES)
def test_the_checkpoint_is_the_same_file(folder, name):
    (one, said), (two, also) = (
        checkpoint.read(folder / who / name / "checkpoint.safetensors") for who in ("alone", "two")
    )
    assert {k: t.shape for k, t in one.items()} == {k: t.shape for k, t in two.items()}
    for key in ("step", "stage", "done"):
        assert said[key] == also[key]


def test_a_run_that_was_stopped_ends_with_the_same_bits(folder):
    assert torch.equal(weights(folder / "two" / "muon"), weights(folder / "again"))


def test_a_run_goes_on_with_another_number_of_processes(folder):
    for way in ("one_two", "two_one"):
        assert difference(folder / "alone" / "muon", folder / way) < 1e-6


def test_time_cannot_be_its_length():
    with pytest.raises(InputError, match=r"train.shard: expected train.steps"):
        TrainConfig(minutes=1.0, shard=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    work(Path(sys.argv[1]))
