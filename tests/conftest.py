"""Shared by all tests: shape annotations are asserted, other people's files are found."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from jaxtyping import config, install_import_hook

# Before the first import of meshsim. Not under a user's program: there it would cost time.
install_import_hook("meshsim", "beartype.beartype")

if os.environ.get("MESHSIM_EMULATED"):  # the CUDA kernels instead of those for the CPU
    from tests import emulated

    emulated.load()
if os.environ.get("MESHSIM_ON_CUDA"):  # those kernels on a GPU
    from tests import on_cuda

    on_cuda.load()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Files made by others: MESHSIM_REAL_DATA, else ../shared/data beside the repository."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("MESHSIM_REAL_DATA") or default)
    if not folder.is_dir():
        pytest.skip(f"needs other people's files: MESHSIM_REAL_DATA is not set, {folder} is absent")
    return folder


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Annotations are not asserted: for `torch.compile`, which cannot trace the checker, and as a
    user's program calls what it gives wrong types."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)
