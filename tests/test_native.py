"""What is said about compiled operators is what the dispatcher will do."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
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
        if op == "anchor_blocks_backward":  # has none: torch's operations compute it
            continue
        assert entry["cpu"] == "native", (op, entry)
        assert native.isa() in entry["why"]
        assert entry["cuda"] == "reference" or torch.cuda.is_available()


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


@pytest.mark.parametrize(
    ("place", "why"), [("file", "Not a directory"), ("/proc/meshsim", "No such file|ermi")]
)
def test_a_cache_that_cannot_be_written_costs_only_speed(tmp_path: Path, place, why):
    (tmp_path / "file").touch()
    text = in_another_process(SAY, MESHSIM_CACHE=str(tmp_path / place))
    assert '"cpu": "reference"' in text and re.search(why, text)


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


FIND = """
import resource, sys
from meshsim import native
native.__file__ = sys.argv[1]
if len(sys.argv) > 2:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
print(native.find())
"""
# Stands for a compiler: the last argument is the file to make.
COMPILER = """#!/bin/sh
set -e
echo "$$" >> {calls}
for last; do :; done
{work}
"""


def compiler(folder: Path, work: str) -> tuple[dict[str, str], Path]:
    """Environment with a compiler that does `work`, and the file where it counts its calls."""
    (folder / "package" / "csrc").mkdir(parents=True, exist_ok=True)
    (folder / "package" / "csrc" / "one.cpp").touch()
    script, calls = folder / "compiler", folder / "calls"
    script.write_text(COMPILER.format(calls=calls, work=work))
    script.chmod(0o755)
    changes = {"CXX": str(script), "MESHSIM_CACHE": str(folder / "cache")}
    return {**os.environ, **changes}, calls


def finding(folder: Path, environment: dict[str, str], *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", FIND, str(folder / "package" / "native.py"), *more]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, env=environment, stdout=pipe, stderr=pipe, text=True, start_new_session=True
    )


INFO = """
import meshsim
from meshsim import native
from meshsim.cli import main
points = [[0., 0.], [1., 0.], [1., 1.], [0., 1.]]
square = meshsim.Mesh(points, {"triangle": [[0, 1, 2], [0, 2, 3]]})
with native.unbuilt():
    meshsim.write(square, PATH)
main(["info", PATH, "--json"])
"""


def test_a_look_into_a_file_does_not_wait_for_a_compiler(tmp_path: Path):
    code = INFO.replace("PATH", repr(str(tmp_path / "square.vtu")))
    text = in_another_process(code, MESHSIM_CACHE=str(tmp_path / "cache"))
    assert '"faces": 5' in text and not (tmp_path / "cache").exists()


def test_unbuilt_loads_what_is_there(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("MESHSIM_CACHE", str(tmp_path))
    made = []
    monkeypatch.setattr(native, "build", lambda sources, path: made.append(path.write_text("")))
    with native.unbuilt(), pytest.raises(RuntimeError, match="not compiled yet"):
        native._made("a.so", native.build, (), (".h",))
    path = native._made("a.so", native.build, (), (".h",))
    with native.unbuilt():
        assert native._made("a.so", native.build, (), (".h",)) == path and len(made) == 1


@pytest.mark.slow
def test_two_processes_build_once(tmp_path: Path):
    environment, calls = compiler(tmp_path, 'sleep 1; echo built > "$last"')
    both = [finding(tmp_path, environment) for _ in range(2)]
    told = [process.communicate() for process in both]
    assert all(process.returncode == 0 for process in both), told
    assert told[0][0] == told[1][0] and Path(told[0][0].strip()).read_text() == "built\n"
    assert len(calls.read_text().split()) == 2  # one file, one library
    assert "".join(err for _, err in told).count("compiling") == 1


@pytest.mark.slow
def test_a_build_that_is_killed_leaves_nothing_in_the_way(tmp_path: Path):
    environment, calls = compiler(tmp_path, 'echo part > "$last"; sleep 60')
    process = finding(tmp_path, environment)
    while not calls.exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    environment, _ = compiler(tmp_path, 'echo built > "$last"')
    out, err = finding(tmp_path, environment).communicate()
    assert Path(out.strip()).read_text() == "built\n", err
    assert {p.name for p in Path(out.strip()).parent.iterdir()} == {native.LIBRARY, "lock"}


@pytest.mark.slow
def test_a_full_disk_leaves_no_part_of_a_library(tmp_path: Path):
    """Of files no more than 4 kB fit."""
    environment, calls = compiler(tmp_path, 'head -c 100000 /dev/zero > "$last"')
    process = finding(tmp_path, environment, "4096")
    _, err = process.communicate()
    assert process.returncode and "compiling the operators failed" in err and calls.exists()
    assert {p.name for p in (tmp_path / "cache").rglob("*") if p.is_file()} == {"lock"}


def test_nothing_is_announced_without_a_compiler(tmp_path: Path, monkeypatch, capsys):
    environment, _ = compiler(tmp_path, "")
    monkeypatch.setattr(native, "__file__", str(tmp_path / "package" / "native.py"))
    for name, value in {**environment, "CXX": "", "PATH": str(tmp_path / "none")}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(RuntimeError, match="no C\\+\\+ compiler"):
        native.find()
    assert not capsys.readouterr().err


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
