"""Checkpoints come back bit for bit, and never half-written."""

import os

import pytest
import torch
from torch import nn

from meshsim.check import InputError
from meshsim.train import checkpoint
from meshsim.train.config import TrainConfig
from meshsim.train.optimise import optimisers


def work(model, opts):
    model(torch.ones(3, 16)).square().mean().backward()
    for o in opts:
        o.step()
        o.zero_grad()


def test_optimisers_go_on_bit_for_bit(tmp_path):
    settings = TrainConfig(steps=1, optimiser="muon")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 2))
    opts = optimisers(model, settings)
    weights = dict(model.named_parameters())
    for _ in range(3):
        work(model, opts)
    tensors = {f"m/{k}": v for k, v in model.state_dict().items()}
    tensors |= {f"o/{k}": v for k, v in checkpoint.optimiser_tensors(opts, weights).items()}
    checkpoint.write(tmp_path / "c.safetensors", tensors, {"step": 3})
    held, meta = checkpoint.read(tmp_path / "c.safetensors")
    assert meta == {"step": 3}

    twin = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 2))
    twin.load_state_dict({k[2:]: v for k, v in held.items() if k[0] == "m"})
    others = optimisers(twin, settings)
    part = {k[2:]: v for k, v in held.items() if k[0] == "o"}
    checkpoint.restore_optimisers(others, dict(twin.named_parameters()), part)
    for _ in range(3):
        work(model, opts)
        work(twin, others)
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_failed_write_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "c.safetensors"
    checkpoint.write(path, {"a": torch.ones(2)}, {"step": 1})

    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        checkpoint.write(path, {"a": torch.zeros(2)}, {"step": 2})
    assert checkpoint.read(path)[1] == {"step": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["c.safetensors"]


def test_damaged_files_are_said(tmp_path):
    path = tmp_path / "c.safetensors"
    for content in (b"", b"not a checkpoint at all", b"\xff" * 100):
        path.write_bytes(content)
        with pytest.raises(InputError, match="not a checkpoint"):
            checkpoint.read(path)
    checkpoint.write(path, {"a": torch.ones(200)}, {"step": 1})
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(InputError, match="not a checkpoint"):
        checkpoint.read(path)
