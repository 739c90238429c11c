"""The scripts in viz/ run as they are called."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import meshsim
from tests.render.drawing import grid, pixels

VIZ = Path(__file__).parents[2] / "viz"


def run(folder, script, *arguments):
    done = subprocess.run(
        [sys.executable, VIZ / script, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(VIZ.parent)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_script_starts():
    for script in VIZ.glob("*.py"):
        assert "usage" in run(VIZ.parent, script.name, "--help")


@pytest.mark.slow
def test_look_and_gallery(tmp_path):
    meshsim.write(grid().with_fields({"p/q": np.arange(45.0)}), tmp_path / "m.vtu")
    (tmp_path / "broken.vtu").write_text("<VTKFile")
    run(tmp_path, "look.py", "m.vtu")
    made = sorted(f.name for f in (tmp_path / "pictures").iterdir())
    assert made == ["cells.png", "field_p_q.png", "page.html"]
    assert "broken.vtu:" in run(tmp_path, "gallery.py", tmp_path)
    text = (tmp_path / "gallery.html").read_text()
    assert "1 of 2 files could be drawn." in text and "<figcaption>m.vtu</figcaption>" in text


def test_inspect_is_a_sheet_and_no_module_in_the_way(tmp_path):
    mesh = grid().with_fields({"p": np.arange(45.0)})
    meshsim.write(mesh, tmp_path / "m.vtu")
    run(tmp_path, "inspect.py", "m.vtu", "-o", "sheet.png")
    image = pixels(tmp_path / "sheet.png")
    assert image.shape[1] == 1600 and (image.min(-1) < 250).mean() > 0.1
    # scripts in this folder get the standard library's module, not the script of that name
    code = "import sys; sys.path.insert(0, sys.argv[1]); import inspect; print(inspect.signature)"
    done = subprocess.run(
        [sys.executable, "-S", "-c", code, VIZ], capture_output=True, text=True, check=True
    )
    assert "function signature" in done.stdout
