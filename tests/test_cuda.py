"""CUDA kernels where there is no GPU: nvcc takes them, and they are right when run on the CPU.

All of it takes long: `make cuda`. Without MESHSIM_CUDA_TESTS=1 nvcc compiles a few kernels
for one architecture, and the tests of a few operators run.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from meshsim import native

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
ALL = os.environ.get("MESHSIM_CUDA_TESTS") == "1"
SMALL = ["gather", "order", "sampling"]
KERNELS = {p.stem for p in (ROOT / "csrc").glob("*/*.cu")}
# no CUDA kernels of their own, and one that is run below
WITHOUT = {f"test_{n}.py" for n in ("anchors", "tokens", "mlp_rows", "spectrum", "unread")}
FILES = sorted({p.name for p in (ROOT / "tests/ops").glob("test_*.py")} - WITHOUT)


@pytest.mark.parametrize("capability", ["80", "90", "100"] if ALL else ["90"])
def test_nvcc_compiles_the_kernels(tmp_path: Path, capability: str):
    if shutil.which("nvcc") is None:
        pytest.skip("nvcc is not there")
    sources = ROOT / "csrc"
    if not ALL:
        sources = copied(tmp_path)
    path = tmp_path / native.CUDA_LIBRARY
    native.build_cuda(sources, path, [capability])
    assert path.stat().st_size > 0


@pytest.mark.parametrize("file", FILES if ALL else [f"test_{name}.py" for name in SMALL])
def test_an_operators_tests_pass_on_emulated_kernels(file: str):
    """Every operator's own tests, on its CUDA kernels run thread by thread."""
    run_emulated(file, "1")


@pytest.mark.skipif(not ALL, reason="compiles all kernels anew: `make cuda`")
def test_wrong_indices_that_reach_the_kernels_give_nan():
    run_emulated("test_unread.py", "unread")


def run_emulated(file: str, how: str) -> None:
    """The tests of a file in tests/ops with MESHSIM_EMULATED=`how`."""
    if not any(shutil.which(name) for name in ("c++", "g++", "clang++")):
        pytest.skip("no C++ compiler")
    env = {**os.environ, "MESHSIM_EMULATED": how, "OMP_NUM_THREADS": "1"}
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


def copied(folder: Path) -> Path:
    """The headers, and the sources of a few operators."""
    target = folder / "csrc"
    names = {"sort", *SMALL}
    unwanted = [f"{name}.cu" for name in KERNELS - names]
    shutil.copytree(ROOT / "csrc", target, ignore=shutil.ignore_patterns("*.cpp", *unwanted))
    return target
