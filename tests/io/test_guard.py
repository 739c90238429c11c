"""Reading never ends, stops or fills this process, whatever a file does to its reader."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from meshsim.check import InputError
from meshsim.io import guard, read, write
from meshsim.mesh import Mesh

HOSTILE = """
import os, signal, sys
import numpy as np

def read(path, options):
    what = options["what"]
    if what == "exit":
        sys.exit(1)
    if what == "abort":
        os.kill(os.getpid(), signal.SIGSEGV)
    if what == "leave":
        os._exit(3)
    if what == "hang":
        while True:
            pass
    if what == "memory":
        return {"x": np.ones(1 << 50, np.uint8)}
    if what == "print":
        print("noise on standard output")
        os.write(1, b"more noise")
        os.write(2, b"and errors")
    if what == "lines":
        raise ValueError("one\\n\\ntwo\\n" + "x" * 5000)
    if what == "deep":
        return read(path, options)
    return {"torch": "torch" in sys.modules, "pid": os.getpid()}
"""


@pytest.fixture
def hostile(tmp_path, monkeypatch):
    """Calls of a reader, found on the path of the child, that does what it is told."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys, types\n"
        "module = types.ModuleType('meshsim.io.raw.hostile')\n"
        f"exec({HOSTILE!r}, module.__dict__)\n"
        "sys.modules['meshsim.io.raw.hostile'] = module\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    file = tmp_path / "file.any"
    file.write_text("x")
    guard.close()
    yield lambda what: guard.fetch("hostile", file, {"what": what})
    guard.close()


def test_a_reader_that_exits_crashes_or_hangs_is_an_input_error(hostile, monkeypatch):
    monkeypatch.setattr(guard, "SECONDS", 4.0)  # a busy machine takes one to start a child
    said = {}
    for what in ("exit", "abort", "leave", "memory", "lines", "deep", "hang"):
        with pytest.raises(InputError, match=r"file\.any") as error:
            hostile(what)
        said[what] = str(error.value)
        assert "\n" not in said[what] and len(said[what]) < 600
        assert hostile("fine")["torch"] is False  # the next read works
    assert "gave up" in said["exit"]
    assert "SIGSEGV" in said["abort"]
    assert "exit code 3" in said["leave"]
    assert "longer than 4 s" in said["hang"]
    assert "memory" in said["memory"]


def test_the_child_is_used_again_and_says_nothing(hostile, capfd):
    first = hostile("print")["pid"]
    assert hostile("fine")["pid"] == first != os.getpid()
    assert capfd.readouterr() == ("", "")


def test_a_child_that_ended_while_idle_is_replaced(hostile):
    first = hostile("fine")["pid"]
    os.kill(first, signal.SIGTERM)
    time.sleep(0.2)
    assert hostile("fine")["pid"] != first


def test_a_dead_child_does_not_end_this_process_by_a_signal(hostile):
    before = signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # as after gmsh.initialize()
    try:
        os.kill(hostile("fine")["pid"], signal.SIGKILL)
        time.sleep(0.2)
        assert hostile("fine")["torch"] is False
    finally:
        signal.signal(signal.SIGPIPE, before)


def test_threads_take_turns(tmp_path):
    mesh = Mesh([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], {"triangle": [[0, 1, 2]]})
    files = [tmp_path / f"{i}.off" for i in range(8)]
    for i, file in enumerate(files):
        write(mesh.replace(points=mesh.points + i), file)
    found = {}

    def one(i: int) -> None:
        found[i] = float(read(files[i]).points[0, 0])

    threads = [threading.Thread(target=one, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {i: float(i) for i in range(8)}


def test_a_trusted_file_is_read_here_and_still_cannot_end_the_process(tmp_path, monkeypatch):
    file = tmp_path / "a.off"
    file.write_text("OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n")
    guard.close()
    monkeypatch.setattr(guard, "Worker", None)  # none may be started
    assert read(file, trust=True).n_points == 3
    file.write_text("OFF\n3 1 0\n0 0 0\n")
    with pytest.raises(InputError, match="ends early"):
        read(file, trust=True)
    (tmp_path / "b.inp").write_text("nonsense\n")
    with pytest.raises(InputError):  # meshio calls sys.exit
        read(tmp_path / "b.inp", trust=True)


def test_a_forked_process_starts_its_own_child(tmp_path):
    code = """
        import os
        from meshsim.io import guard, read
        read("a.off")
        first = guard._worker.process.pid
        pid = os.fork()
        if pid == 0:
            read("a.off")
            os._exit(0 if guard._worker.process.pid != first else 1)
        assert os.waitpid(pid, 0)[1] == 0
        assert read("a.off").n_points == 3 and guard._worker.process.pid == first
    """
    (tmp_path / "a.off").write_text("OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n")
    root = Path(__file__).resolve().parents[2]
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root)},
        check=True,
    )


def test_modules_in_the_working_folder_are_not_run(tmp_path, monkeypatch):
    # files beside a mesh may come from the same stranger
    (tmp_path / "json.py").write_text("raise SystemExit('run!')")
    (tmp_path / "numpy.py").write_text("raise SystemExit('run!')")
    (tmp_path / "a.off").write_text("OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n")
    monkeypatch.chdir(tmp_path)
    guard.close()
    assert read("a.off").n_points == 3
    guard.close()
