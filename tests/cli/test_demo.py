"""`demo` from its first stage to the report, with a recipe that takes seconds."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import meshsim
from meshsim.cli import arguments, main

from .test_errors import fails

PREPARE = """
from pathlib import Path
from collections.abc import Callable, Sequence
import numpy as np
import meshsim

def generate(out: Path, *, flows: int, inflow: Sequence[float], workers: int = 1,
             progress: Callable[[int, int], None] | None = None) -> list[Path]:
    out.mkdir(parents=True, exist_ok=True)
    x, y = np.meshgrid(np.linspace(0, 2, 9), np.linspace(0, 1, 4))
    i = np.arange(27).reshape(3, 9)[:, :-1].ravel()
    mesh = meshsim.Mesh(np.stack([x.ravel(), y.ravel()], 1),
                        {"quad": np.stack([i, i + 1, i + 10, i + 9], 1)})
    times = 0.1 * np.arange(60)
    paths = []
    for n, u in enumerate(inflow):
        phase = 3 * x.ravel() - 4 * u * times[:, None]
        velocity = np.stack([u + 0 * phase, u * np.sin(phase)], -1).astype(np.float32)
        sample = meshsim.Sample(meshsim.Series(mesh, times, {"velocity": velocity}),
                                {"inflow": u, "reynolds": 60 * u})
        paths.append(out / f"flow_{n:03d}.npz")
        meshsim.write(sample, paths[-1])
        if progress is not None:
            progress(n + 1, flows)
    return paths
"""
DEMO = """
[generate.train]
flows = 2
inflow = [1.0, 1.4]
[generate.test]
flows = 2
inflow = [1.1, 1.3]
[preprocess.splits]
train = ["train*"]
test = ["test*"]
[rollout]
start = 27
steps = 32
"""
TRAIN = """
[data]
store = "flows.zarr"
[fields.velocity]
role = "state"
components = 2
[fields.inflow]
role = "parameter"
location = "global"
[model]
width = 8
depth = 1
hidden_layers = 1
[train]
steps = 3
threads = 1
"""


def installed(folder: Path, name: str, files: dict[str, str], patch: pytest.MonkeyPatch) -> Path:
    """A folder of recipes with one of this name in it, which `meshsim` then looks in."""
    (folder / name).mkdir(parents=True)
    for file, text in files.items():
        (folder / name / file).write_text(text)
    patch.setattr(arguments, "recipes", lambda: folder)
    patch.setattr(sys, "path", list(sys.path))
    patch.delitem(sys.modules, "prepare", raising=False)
    return folder


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    files = {"prepare.py": PREPARE, "demo.toml": DEMO, "train.toml": TRAIN}
    return installed(tmp_path / "recipes", "tiny", files, monkeypatch)


def test_from_solver_to_report_and_again(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "it's a \\ demo"  # a name that TOML must not take for something else
    assert main(["demo", "tiny", "-o", str(out)]) == 0
    shown = capsys.readouterr().err
    assert [line[:5] for line in shown.splitlines() if line.startswith("[")] == [
        f"[{i}/5]" for i in range(1, 6)
    ]
    found = json.loads((out / "report.json").read_text())
    assert set(found) == {"seconds", "parameters", "cases", "pictures"}
    assert [round(case["inflow"], 3) for case in found["cases"]] == [1.1, 1.3]
    for case in found["cases"]:
        assert {"model", "persistence", "time_mean", "last_period"} <= set(case)
        assert set(case["model"]) == {"one_step", "rollout_all"}  # 32 steps are no 50
        assert set(case["wake"]) == {"amplitude", "amplitude_true", "frequency", "frequency_true"}
        assert f"{case['model']['rollout_all']:.4f}" in shown
    assert all((out / name).stat().st_size > 1000 for name in found["pictures"])
    assert "own time mean" in (out / "report.html").read_text()
    assert len(meshsim.read(out / "rollout.pvd")) == 33
    checkpoint = out / "run" / "checkpoint.safetensors"
    before = checkpoint.stat().st_mtime_ns
    assert main(["demo", "tiny", "-o", str(out)]) == 0  # carries on: nothing is trained again
    assert checkpoint.stat().st_mtime_ns == before
    other = ["demo", "tiny", "-o", str(out), "--seed", "1"]
    fails(capsys, other, "train.seed was 0, now 1")
    assert main([*other, "--overwrite"]) == 0


def test_what_is_wrong_is_said_before_anything_is_made(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "demo"
    fails(capsys, ["demo", "tiny", "-o", str(out), "--minutes", "-1"], "train.minutes", "-1")
    fails(capsys, ["demo", "tyni", "-o", str(out)], "'tiny'")
    assert not out.exists()
    out.write_text("")
    fails(capsys, ["demo", "tiny", "-o", str(out)], "expected a folder")
