"""Neural fields on a GPU: trained and asked there; the CPU's answers, the same in every run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import meshsim
from meshsim.models.anchored import TILE_ON_GPU, AnchoredTransformer
from meshsim.models.field import Points
from meshsim.train import train
from meshsim.train.loop import task_of
from meshsim.train.plan import stages
from tests.test_surrogate import case
from tests.train.test_precision import MODELS, config
from tests.train.test_shard import CASES, difference, interrupted
from tests.train.test_shard import config as sharded

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    made = meshsim.Store.create(tmp_path_factory.mktemp("gpu") / "bodies.zarr")
    for i in range(4):
        made.append(case((1.0, 0.5 + 0.05 * i, 0.4), 1.0 + 0.25 * i))
    made.set_splits({"train": made.names[:3], "test": made.names[3:]})
    return made


def on(device, store, name, precision="fp32", **options):
    return config(store, name, precision, device=device, **{"steps": 6, **options})


def first_gradient(settings, store):
    task = task_of(settings, store)
    task.gather(None)
    model = task.build(None, True).to(settings.train.device).model
    task.loss(0, stages(settings.train)[0], 0, 0, 0.0).backward()
    grads = [p.grad.flatten().double().cpu() for p in model.parameters() if p.grad is not None]
    return torch.cat(grads)


@pytest.mark.parametrize("name", MODELS)
def test_the_first_gradient_is_the_cpus(store, name):
    there, here = (first_gradient(on(device, store, name), store) for device in ("cuda", "cpu"))
    assert float((there - here).norm() / here.norm()) < 1e-3


@pytest.mark.parametrize("name", MODELS)
def test_two_trainings_and_one_interrupted_give_the_same_bits(store, tmp_path, name):
    settings = on("cuda", store, name, checkpoint_every=2)
    for run in ("a", "b"):
        train(settings, tmp_path / run)
    interrupted(settings, tmp_path / "c")
    train(settings, tmp_path / "c")
    assert difference(tmp_path / "a", tmp_path / "b") == 0.0
    assert difference(tmp_path / "a", tmp_path / "c") == 0.0


@pytest.mark.parametrize("name", [n for n in MODELS if n != "coral"])
def test_bfloat16_is_near(store, name):
    whole, low = (first_gradient(on("cuda", store, name, p), store) for p in ("fp32", "bf16"))
    assert 0.0 < float((whole - low).norm() / whole.norm()) < 0.02


@pytest.mark.parametrize("name", MODELS)
def test_a_prediction_is_the_cpus(store, tmp_path, name):
    train(on("cuda", store, name), tmp_path / "run")
    surrogate = meshsim.load(tmp_path / "run")
    sample = store.sample(store.names[3])
    here = surrogate.predict(sample)
    there = surrogate.cuda().predict(sample)
    for branch, key in (("surface", "pressure"), ("volume", "velocity")):
        fields = [
            {**s.branches[branch].point_fields, **s.branches[branch].cell_fields}[key].double()
            for s in (here, there)
        ]
        assert float((fields[0] - fields[1]).norm() / fields[0].norm()) < 1e-4


@pytest.mark.parametrize("local", [False, True])
def test_other_queries_change_no_bit_of_an_answer(local):
    torch.manual_seed(0)
    net = AnchoredTransformer(
        3, 2, {"mesh": {"outputs": {"p": 1}}}, width=32, heads=2, supernodes=32, local=local
    ).eval().cuda()  # fmt: skip
    with torch.device("cuda"):
        body = Points(torch.rand(1, 300, 3), torch.randn(1, 300, 2))
        places = Points(torch.rand(1, 64, 3), torch.zeros(1, 64, 0))
        many = Points(torch.rand(1, TILE_ON_GPU + 700, 3), torch.zeros(1, TILE_ON_GPU + 700, 0))
        with torch.no_grad():
            latent = net.encode(body, torch.zeros(1, 0), {"mesh": places})
            whole = net.decode(latent, "mesh", many)["p"]
            for rows in (slice(0, 1), slice(5, 900), slice(TILE_ON_GPU - 3, TILE_ON_GPU + 3)):
                part = Points(*(t[:, rows] for t in many))
                assert torch.equal(net.decode(latent, "mesh", part)["p"], whole[:, rows])
        direct = net.decode(latent, "mesh", Points(*(t[:, :900] for t in many)))["p"]
    torch.testing.assert_close(direct.detach(), whole[:, :900], rtol=1e-4, atol=1e-5)


def work(folder: Path) -> None:
    """What a process of torchrun does."""
    for name in CASES:
        train(sharded(folder / "bodies.zarr", name), folder / "torchrun" / name)


def test_a_sharded_training_is_the_plain_one(store, tmp_path):
    """One process: more ask for as many GPUs."""
    made = meshsim.Store.create(tmp_path / "bodies.zarr")
    for name in store.names:
        made.append(store.sample(name))
    made.set_splits({"train": made.names[:3], "test": made.names[3:]})
    for name in CASES:
        train(sharded(tmp_path / "bodies.zarr", name), tmp_path / "alone" / name)
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1"]
    command = [*start, "-m", "tests.train.test_on_gpu", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for name in CASES:
        assert difference(tmp_path / "alone" / name, tmp_path / "torchrun" / name) < 1e-6


if __name__ == "__main__":
    work(Path(sys.argv[1]))
