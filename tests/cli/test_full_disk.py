"""A disk that takes no more: one line, exit code 1, what was there stays, the same again works."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import meshsim
from meshsim.cli import main

pytestmark = pytest.mark.slow


@contextmanager
def full_after(size: int) -> Iterator[None]:
    """Writing beyond `size` bytes of any file fails, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def fails(capsys: pytest.CaptureFixture, arguments: list[str], size: int) -> None:
    """The command ends with 1 and one line of error when files cannot grow beyond `size`."""
    capsys.readouterr()
    with full_after(size):
        code = main(arguments)
    lines = capsys.readouterr().err.strip().splitlines()
    assert code == 1 and all(line.startswith("note: ") for line in lines[:-1]), lines
    assert lines[-1].startswith("error: "), lines
    assert "File too large" in lines[-1] or "is the disk full?" in lines[-1], lines


WRITERS = {
    "convert": (["convert", "WAVE"], ("npz", "pvd", "xdmf")),
    "rollout": (["rollout", "RUN", "WAVE", "--steps", "3"], ("npz", "pvd", "xdmf")),
    "view": (["view", "WAVE"], ("png", "html", "mp4")),
}


@pytest.mark.parametrize("command", WRITERS)
def test_old_files_stay_and_no_half_ones_come(
    command: str, run: Path, waves: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    words, suffixes = WRITERS[command]
    names = {"WAVE": str(waves / "test" / "wave_60.npz"), "RUN": str(run)}
    given = [names.get(word, word) for word in words]
    for suffix in suffixes:
        out = tmp_path / f"out.{suffix}"
        arguments = [*given, str(out)] if command == "convert" else [*given, "-o", str(out)]
        before = tree(tmp_path)
        fails(capsys, arguments, 600)
        assert tree(tmp_path) == before
        assert main(arguments) == 0
        before = tree(tmp_path)
        fails(capsys, arguments, 600)
        assert tree(tmp_path) == before


@pytest.mark.parametrize("size", [0, 600, 1500])
def test_preprocess(size: int, waves: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    store = tmp_path / "s.zarr"
    command = ["preprocess", str(waves), "-o", str(store)]
    fails(capsys, command, size)
    assert not (store / ".lock").exists() and not list(store.rglob("*.part"))
    assert main(command) == 0
    meshsim.Store(store).verify()
    assert len(meshsim.Store(store).names) == 4


@pytest.mark.parametrize("size", [0, 600, 9000])
def test_train(
    size: int, recipe: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "run"
    command = ["train", str(recipe), "-o", str(out)]
    fails(capsys, command, size)
    assert not (out / ".lock").exists() and not list(out.rglob("*.part"))
    assert main(command) == 0
    weights = (out / "model.safetensors").read_bytes()
    assert weights == (run / "model.safetensors").read_bytes()  # as if nothing had happened


def test_a_report_that_cannot_be_printed(run: Path, store: Path) -> None:
    """Standard output on a full disk."""
    command = [sys.executable, "-m", "meshsim", "evaluate", str(run), str(store), "--json"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "error: No space left on device\n"
