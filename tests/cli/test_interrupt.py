"""Ctrl-C on a terminal in every long command: one line, 130, nothing half-written, carries on."""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import meshsim
from meshsim.cli import main

from .conftest import wave

pytestmark = pytest.mark.slow

termios = pytest.importorskip("termios")


def press(arguments: list[str], at_work: Callable[[str], bool]) -> tuple[int, str]:
    """Run a command on a terminal of its own and press Ctrl-C there.

    Arguments:
        arguments: of `python -m meshsim`.
        at_work: tells by what stands on the terminal (or elsewhere) when to press.

    Returns:
        The exit code (of a signal: its negative), and what stood on the terminal.
    """
    import fcntl

    here, there = os.openpty()

    def own_terminal() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a suite in the background ignores it
        fcntl.ioctl(there, termios.TIOCSCTTY, 0)

    process = subprocess.Popen(
        [sys.executable, "-m", "meshsim", *arguments],
        stdin=there,
        stdout=subprocess.DEVNULL,
        stderr=there,
        start_new_session=True,
        preexec_fn=own_terminal,
    )
    os.close(there)
    shown, pressed, until = b"", False, time.monotonic() + 300
    while time.monotonic() < until:
        ready = select.select([here], [], [], 0.02)[0]
        try:
            more = os.read(here, 1 << 16) if ready else b""
        except OSError:  # the other end has closed
            break
        shown += more
        if ready and not more:
            break
        if not pressed and at_work(shown.decode(errors="replace")):
            os.write(here, b"\x03")
            pressed = True
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(60)  # before the terminal goes, which would end it by another signal
    process.kill()
    os.close(here)
    return process.wait(), re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|\r|\^C", "", shown.decode())


def stops(arguments: list[str], at_work: Callable[[str], bool]) -> None:
    """Ctrl-C ends the command with 130 and one line."""
    code, shown = press(arguments, at_work)
    assert code == 130, shown[-2000:]
    lines = [line.strip() for line in shown.splitlines() if line.strip()]
    assert lines[-1].startswith("error: interrupted"), shown[-2000:]
    assert shown.count("error:") == 1 and "Traceback" not in shown, shown[-2000:]


def found(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture
def long_wave(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "long.npz"
    meshsim.write(wave(0.6, frames=600), path)
    return path


def test_while_it_loads(run: Path, waves: Path, tmp_path: Path) -> None:
    """Even before there is anything to interrupt, no traceback."""
    out = tmp_path / "out.vtu"
    command = [sys.executable, "-X", "importtime", "-m", "meshsim", "predict", str(run)]
    process = subprocess.Popen(
        [*command, str(waves / "test" / "wave_60.npz"), "-o", str(out)],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stderr is not None
    lines = iter(process.stderr.readline, "")
    assert any(re.search(r"\| +torch\._utils$", line) for line in lines)  # half of torch is there
    process.send_signal(signal.SIGINT)
    rest = [line for line in lines if not line.startswith("import time:")]
    assert process.wait(60) == 130, rest
    assert len(rest) == 1 and rest[0].startswith("error: interrupted"), rest
    assert not out.exists()


def test_preprocess(waves: Path, tmp_path: Path) -> None:
    source = tmp_path / "many"
    source.mkdir()
    for i in range(30):
        shutil.copy(waves / "test" / "wave_60.npz", source / f"wave_{i:02}.npz")
    store = tmp_path / "s.zarr"
    command = ["preprocess", str(source), "-o", str(store)]
    stops(command, lambda _: (store / "samples" / "wave_01").exists())
    kept = meshsim.Store(store)
    kept.verify()
    assert 2 <= len(kept.names) < 30
    assert not (store / ".staging").exists() and not (store / ".lock").exists()
    assert main(command) == 0
    kept.verify()
    assert len(kept.names) == 30


def test_train(recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = ["train.steps=300", "train.checkpoint_every=1000", "train.log_every=5"]
    command = ["train", str(recipe), "-o", str(out), *options]
    stops(command, lambda shown: " step " in shown)
    assert not (out / ".lock").exists() and not list(out.rglob("*.part"))
    assert main(command) == 0
    steps = [int(line.split(",")[0]) for line in (out / "log.csv").read_text().split()[1:]]
    assert steps == sorted(set(steps)) and steps[-1] == 300


def test_rollout(run: Path, long_wave: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.npz"
    command = ["rollout", str(run), str(long_wave), "-o", str(out), "--steps", "500"]
    stops(command, lambda shown: "rollout" in shown)
    assert found(tmp_path) == {"in"}
    assert main(command) == 0
    assert len(meshsim.read(out)) == 501


def test_evaluate(run: Path, long_wave: Path, tmp_path: Path) -> None:
    store = tmp_path / "long.zarr"
    config = tmp_path / "in" / "all.toml"
    config.write_text('[splits]\ntest = "rest"\n')
    source = [str(long_wave), "-o", str(store), "--config", str(config)]
    assert main(["preprocess", *source]) == 0
    before = {p: p.stat().st_mtime_ns for p in store.rglob("*")}
    command = ["evaluate", str(run), str(store), "--json"]
    stops(command, lambda shown: "evaluate" in shown)
    assert {p: p.stat().st_mtime_ns for p in store.rglob("*")} == before
    assert main(command) == 0


def test_convert(long_wave: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    command = ["convert", str(long_wave), str(out / "wave.pvd")]
    stops(command, lambda _: any(out.iterdir()))
    assert found(out) == set()
    assert main(command) == 0
    assert len(meshsim.read(out / "wave.pvd")) == 600
