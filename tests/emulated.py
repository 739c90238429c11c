"""The CUDA kernels on the CPU, in place of its own: their sources compiled as plain C++.

`MESHSIM_EMULATED=1 pytest tests/ops` runs every operator's tests on them; see csrc/device/. With
`MESHSIM_EMULATED=unread` wrong indices reach the kernels, as on a GPU, where the host reads none.
"""

import os
from pathlib import Path

from meshsim import native

LIBRARY = "libmeshsim_emulated.so"
FLAGS = (
    *("-x", "c++", "-O1", "-std=gnu++20", "-fPIC", "-fvisibility=hidden", "-w"),
    *("-U_FORTIFY_SOURCE", "-ffp-contract=off", "-DMESHSIM_EMULATED"),
    "-DTORCH_TARGET_VERSION=0x020b000000000000",
    *(["-DMESHSIM_UNREAD"] if os.environ.get("MESHSIM_EMULATED") == "unread" else []),
)


def build(sources: Path, path: Path) -> None:
    """Compile the CUDA sources for the CPU.

    Raises:
        RuntimeError: no compiler, or its first error.
    """
    compiler = native._compiler()
    files = sorted(sources.rglob("*.cu"))
    linker = (compiler, *native._linked("cpu"))
    compile_one = (compiler, *FLAGS, f"-I{sources}")
    native.compile_all(files, compile_one, linker, path, "some minutes")


def load() -> None:
    """Register the emulated kernels for the CPU, compiling them first if need be."""
    os.environ["MESHSIM_NATIVE"] = "0"  # also for the processes that tests start
    path = native._made(LIBRARY, build, FLAGS, (".cu", ".h"))
    import torch

    import meshsim.ops  # noqa: F401  the schemas

    torch.ops.load_library(path)
