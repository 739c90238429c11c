"""What is said about compiled operators is what the dispatcher will do."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

import meshsim.ops  # noqa: F401  defines all operators
from meshsim import native

from .ops.blocks import in_another_process, needs_native

SAY = """
import json, meshsim.ops
from meshsim import native
print(json.dumps(native.active()["edge_block"]))
"""
SMALL = """
#include "common.h"
extern "C" __attribute__((visibility("default"))) const char* meshsim_isa() { return "tiny"; }
"""


def test_every_operator_is_listed():
    defined = {
        schema.name.removeprefix("meshsim::")
        for schema in torch._C._jit_get_all_schemas()
        if schema.name.startswith("meshsim::")
    }
    assert defined == set(native.active()) and {"segment_sum", "edge_block"} <= defined


def test_with_a_compiler_all_kernels_run():
    needs_native("edge_block")
    assert native.isa() in ("portable", "avx2", "avx512", "amx")
    for op, entry in native.active().items():
        assert entry["cpu"] == "native", (op, entry)
        assert entry["cuda"] == "reference" and native.isa() in entry["why"]


def test_switched_off_the_reference_runs():
    text = in_another_process(SAY, MESHSIM_NATIVE="0")
    assert '"cpu": "reference"' in text and "MESHSIM_NATIVE=0" in text


def test_without_a_compiler_the_reference_runs_and_says_why(tmp_path: Path):
    """As after an isolated `pip install` on a machine that has none."""
    text = in_another_process(SAY, MESHSIM_CACHE=str(tmp_path), PATH=str(tmp_path), CXX="")
    assert '"cpu": "reference"' in text and "no C++ compiler" in text


def test_what_does_not_compile_is_said(tmp_path: Path):
    if shutil.which("c++") is None:
        pytest.skip("no C++ compiler")
    text = in_another_process(SAY, MESHSIM_CACHE=str(tmp_path), CXX="false")
    assert '"cpu": "reference"' in text and "compiling the operators failed" in text
    assert not list(tmp_path.rglob("*.so"))


def test_a_cache_that_cannot_be_written_costs_only_speed(tmp_path: Path):
    (tmp_path / "file").touch()
    text = in_another_process(SAY, MESHSIM_CACHE=str(tmp_path / "file"))
    assert '"cpu": "reference"' in text and "Not a directory" in text


def test_a_library_appears_whole_and_is_built_once(tmp_path: Path, monkeypatch, capsys):
    """Two that need it at once: one builds, the other waits."""
    if shutil.which("c++") is None:
        pytest.skip("no C++ compiler")
    package = tmp_path / "package"
    (package / "csrc").mkdir(parents=True)
    (package / "csrc" / "one.cpp").write_text(SMALL)
    common = Path(__file__).parents[1] / "csrc" / "common.h"
    shutil.copy(common, package / "csrc" / "common.h")
    monkeypatch.setattr(native, "__file__", str(package / "native.py"))
    monkeypatch.setenv("MESHSIM_CACHE", str(tmp_path / "cache"))
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(native.find())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 1 and found[0].exists()
    assert capsys.readouterr().err.count("compiling") == 1
    assert {p.name for p in found[0].parent.iterdir()} == {native.LIBRARY, "lock"}


def test_a_library_of_something_else_is_not_fatal(tmp_path: Path):
    """A file in the cache that is no library, as after a crash of the disk."""
    needs_native("edge_block")
    code = (
        """
import sys
from pathlib import Path
from meshsim import native
Path(native.find()).write_bytes(b"not a library")
"""
        + SAY
    )
    target = tmp_path / native.find().parent.name
    target.mkdir()
    (target / native.LIBRARY).write_bytes(b"")
    text = in_another_process(code, MESHSIM_CACHE=str(tmp_path))
    assert '"cpu": "reference"' in text and "Could not load" in text


def test_the_library_needs_only_the_stable_interface():
    """Of torch only C symbols: what makes one binary fit every later version."""
    needs_native("edge_block")
    if shutil.which("nm") is None:
        pytest.skip("nm is not there")
    text = subprocess.run(
        ["nm", "-D", "--undefined-only", str(native.find())],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    names = [line.split()[-1] for line in text.splitlines()]
    torch_like = [n for n in names if "c10" in n or "at3" in n or "torch" in n]
    assert torch_like and all(n.startswith(("aoti_torch_", "torch_")) for n in torch_like)
    assert sys.platform != "win32"
