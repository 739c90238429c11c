"""Bad usage and bad input: one line on standard error, the exit code, nothing half-written."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import meshsim
from meshsim.cli import main


def fails(capsys: pytest.CaptureFixture, arguments: list[str], *words: str, code: int = 2) -> str:
    """The command ends with the code and one line that starts with "error:" and has the words."""
    capsys.readouterr()
    assert main(arguments) == code
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines and lines[-1].startswith("error: "), lines
    assert "Traceback" not in "\n".join(lines)
    for word in words:
        assert word in lines[-1], (word, lines[-1])
    return lines[-1]


def test_bad_usage(capsys: pytest.CaptureFixture) -> None:
    fails(capsys, ["trian"], "trian")
    fails(capsys, ["info"], "FILE")
    fails(capsys, ["info", "x.vtu", "--jsn"], "--jsn")
    fails(capsys, ["info", "no_such_file.vtu"], "no_such_file.vtu")


def test_things_in_each_others_place_are_named(
    capsys: pytest.CaptureFixture, run: Path, store: Path, waves: Path, tmp_path: Path
) -> None:
    source, out = str(waves / "test" / "wave_60.npz"), str(tmp_path / "o.npz")
    fails(capsys, ["evaluate", str(store), str(run)], "a store", "expected a trained run")
    fails(capsys, ["evaluate", str(run), str(waves)], "a folder", "expected a store")
    fails(capsys, ["rollout", source, str(run), "-o", out], "a file", "expected a trained run")
    fails(capsys, ["convert", str(store), out], "a store", "expected a mesh file")
    for command in (["info"], ["view"]):
        fails(capsys, [*command, str(waves)], "4 meshes in it", "wave_60.npz")
    fails(capsys, ["info", str(tmp_path)], "no mesh files")
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "run.json").write_text("{}")
    fails(capsys, ["info", str(tmp_path / "half")], "no simulator yet")
    fails(capsys, ["rollout", str(tmp_path / "half"), source, "-o", out], "no simulator yet")
    fails(capsys, ["train", str(run), "-o", out], "a folder", ".toml")
    fails(capsys, ["train", "shapenet_car", "-o", out], "datasets/shapenet_car/config.toml")


def test_numbers_out_of_range(
    capsys: pytest.CaptureFixture, run: Path, store: Path, waves: Path, tmp_path: Path
) -> None:
    fails(capsys, ["evaluate", str(run), str(store), "--start", "-1"], "--start")
    fails(capsys, ["evaluate", str(run), str(store), "--steps", "0"], "--steps")
    source = str(waves / "test" / "wave_60.npz")
    fails(capsys, ["view", source, "-o", str(tmp_path / "a.png"), "--up", "q"], "axis 'q'")
    fails(capsys, ["rollout", str(run), source, "-o", str(tmp_path / "a.vtu")], ".pvd", "12")


def test_generate_says_what_it_needs(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    out = ["-o", str(tmp_path / "d")]
    fails(capsys, ["generate", "shapenet_car", *out], "'source' is missing")
    pytest.importorskip("skfem")
    fails(capsys, ["generate", "cylinder_flow", *out, "flows=many"], "flows: expected int")
    arguments = ["generate", "cylinder_flow", *out, "flows=1", "inflow=fast"]
    fails(capsys, arguments, "inflow: expected a list of float")
    fails(capsys, ["generate", "cylinder_flow", *out], "'flows' is missing")
    (tmp_path / "d").write_text("")
    fails(capsys, ["generate", "cylinder_flow", *out, "flows=1"], "expected a folder")


def test_unknown_recipe_and_option_name_the_nearest(
    capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    fails(capsys, ["generate", "cylinder_flo", "-o", str(tmp_path)], "'cylinder_flow'")
    arguments = ["generate", "cylinder_flow", "-o", str(tmp_path), "flow=3"]
    fails(capsys, arguments, "'flows'")


def test_unknown_key_in_the_recipe_names_the_nearest(
    capsys: pytest.CaptureFixture, recipe: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.toml"
    bad.write_text(recipe.read_text().replace("checkpoint_every", "checkpoint_evry"))
    fails(capsys, ["train", str(bad), "-o", str(tmp_path / "r")], "checkpoint_every")
    arguments = ["train", str(recipe), "-o", str(tmp_path / "r"), "train.stesp=3"]
    fails(capsys, arguments, "steps")
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("suffix", ["vtu", "vtk", "stl", "msh", "su2", "cgns", "npz", "ply", "off"])
def test_empty_and_wrong_files(capsys: pytest.CaptureFixture, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"bad.{suffix}"
    path.write_bytes(b"")
    fails(capsys, ["info", str(path)], f"bad.{suffix}")
    path.write_bytes(b"this is not a mesh at all\n" * 9)
    fails(capsys, ["info", str(path)], f"bad.{suffix}")


def test_wrong_shaped_tensor_in_a_simulator(
    capsys: pytest.CaptureFixture, run: Path, waves: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run" / "model.safetensors"
    tensors = load_file(path)
    name = next(k for k, v in tensors.items() if v.dim() == 2)
    tensors[name] = tensors[name][:, :-1].contiguous()
    save_file(tensors, path)
    source = str(waves / "test" / "wave_60.npz")
    arguments = ["rollout", str(tmp_path / "run"), source, "-o", str(tmp_path / "o.pvd")]
    fails(capsys, arguments, "model.safetensors", "shape")
    assert not (tmp_path / "o.pvd").exists()


def test_missing_parameter_and_field(
    capsys: pytest.CaptureFixture, run: Path, waves: Path, tmp_path: Path
) -> None:
    mesh = meshsim.read(waves / "test" / "wave_60.npz").branch.frame(0)
    meshsim.write(mesh, tmp_path / "one.vtu")
    out = ["-o", str(tmp_path / "o.pvd"), "--steps", "2"]
    fails(capsys, ["rollout", str(run), str(tmp_path / "one.vtu"), *out], "speed")
    bare = meshsim.Mesh(mesh.points, mesh.cells)
    meshsim.write(bare, tmp_path / "bare.vtu")
    fails(capsys, ["rollout", str(run), str(tmp_path / "bare.vtu"), *out, "speed=1.0"], "'u'")


def test_store_of_another_version(
    capsys: pytest.CaptureFixture, store: Path, tmp_path: Path
) -> None:
    shutil.copytree(store, tmp_path / "s.zarr")
    root = tmp_path / "s.zarr" / "zarr.json"
    text = root.read_text()
    assert '"version"' in text
    import re

    root.write_text(re.sub(r'("version":\s*)\d+', r"\g<1>999", text))
    fails(capsys, ["info", str(tmp_path / "s.zarr")], "version")


@pytest.mark.slow
def test_interrupted_generation_ends_cleanly_and_carries_on(tmp_path: Path) -> None:
    pytest.importorskip("gmsh")
    options = ["flows=6", "frames=4", "spin_up=0.2", "mesh_size=2.0", "workers=2"]
    command = [sys.executable, "-m", "meshsim", "generate", "cylinder_flow", "-o", str(tmp_path)]
    process = subprocess.Popen(
        [*command, *options],
        stderr=subprocess.PIPE,
        text=True,
        # a suite in the background has SIGINT ignored, and children would inherit it
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("flow_*.npz")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("flow_*.npz")}
    assert len(kept) > 0
    if process.returncode:  # else it was quicker than the signal
        assert process.returncode == 130
        assert errors.strip().splitlines()[-1].startswith("error: interrupted")
        assert "Traceback" not in errors
    assert main([*command[3:], *options]) == 0
    assert len(list(tmp_path.glob("flow_*.npz"))) == 6
    assert all(path.stat().st_mtime_ns == when for path, when in kept.items())
