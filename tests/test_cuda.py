"""CUDA kernels where there is no GPU: nvcc takes them, and they are right when run on the CPU."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from meshsim import native

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("capability", ["80", "90", "100"])
def test_nvcc_compiles_every_kernel(tmp_path: Path, capability: str):
    if shutil.which("nvcc") is None:
        pytest.skip("nvcc is not there")
    path = tmp_path / native.CUDA_LIBRARY
    native.build_cuda(ROOT / "csrc", path, [capability])
    assert path.stat().st_size > 0


@pytest.mark.parametrize("file", sorted(p.name for p in (ROOT / "tests/ops").glob("test_*.py")))
def test_an_operators_tests_pass_on_emulated_kernels(file: str):
    """Every operator's own tests, on its CUDA kernels run thread by thread."""
    if shutil.which("c++") is None:
        pytest.skip("no C++ compiler")
    env = {**os.environ, "MESHSIM_EMULATED": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, str(ROOT / "tests/ops" / file)],
        env=env,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
