"""Worker processes start by themselves, whatever the script that asks for them."""

import subprocess
import sys

import pytest

from meshsim.data import Store


@pytest.mark.parametrize("how", ["script", "module"])
def test_a_script_without_a_guard(tmp_path, write_flow, how):
    for k in range(4):
        write_flow(tmp_path / "in" / f"flow_{k}.npz", seed=k)
    (tmp_path / "plain.py").write_text(
        "print('imported')\n"
        "from meshsim.data import preprocess\n"
        "preprocess('in', 's', workers=2)\n"
        "assert open(__file__).read().count('workers=2')\n"
        "import sys; assert sys.modules['__main__'].preprocess is preprocess\n"
    )
    said = [sys.executable, *(["plain.py"] if how == "script" else ["-m", "plain"])]
    done = subprocess.run(said, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout, done.stderr) == (0, "imported\n", "")
    assert len(Store(tmp_path / "s")) == 4
