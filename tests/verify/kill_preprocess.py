"""SIGKILL `preprocess` at random moments, start it again, compare with an uninterrupted run.

    python tests/verify/kill_preprocess.py [--trials 1] [--kills 20] [--flows 50] [--workers 2]

Fifty inputs in four formats; the parent is killed, or a worker and soon after it the parent; at the
last a worker alone, and the others have to finish. Prints what happened; exit code 1 if any store
differs, any half-written sample shows, any process outlives its parent or anything is left lying
about.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))


def make_flows(folder: Path, count: int, frames: int, side: int) -> None:
    """Flows as .npz, .xdmf, .pvd and (one time) .vtu, of many sizes, parameters beside them."""
    from meshsim import Mesh, Series, write

    folder.mkdir()
    grid = np.stack(np.meshgrid(np.arange(side), np.arange(side)), -1).reshape(-1, 2)
    corner = (np.arange(side - 1)[:, None] * side + np.arange(side - 1)).reshape(-1)
    quads = np.stack([corner, corner + 1, corner + side + 1, corner + side], 1)
    for k in range(count):
        draw, n = np.random.default_rng(k), frames + k
        mesh = Mesh(grid.astype(float), {"quad": quads})
        velocity, pressure = draw.normal(size=(n, side**2, 2)), draw.normal(size=(n, side**2))
        path = folder / f"flow_{k:03d}.{('npz', 'xdmf', 'pvd', 'vtu')[k % 4]}"
        if path.suffix == ".vtu":
            write(mesh.with_fields({"velocity": velocity[0], "pressure": pressure[0]}), path)
        else:
            fields = {"velocity": velocity, "pressure": pressure}
            write(Series(mesh, 0.1 * np.arange(n), fields), path)
        path.with_suffix(".json").write_text(f'{{"parameters": {{"inflow": {1 + k / 7}}}}}')


def start(folder: Path, store: Path, workers: int) -> subprocess.Popen[bytes]:
    """`preprocess` in a process group of its own."""
    code = (
        "import sys\nfrom meshsim.data import preprocess\n"
        "if __name__ == '__main__':\n"
        "    report = preprocess([sys.argv[1]], sys.argv[2], workers=int(sys.argv[3]),"
        " config={'splits': {'train': 0.7, 'test': 0.3}})\n"
        "    sys.exit(report.exit_code)\n"
    )
    script = folder.parent / "run.py"
    if not script.exists():
        script.write_text(code)
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return subprocess.Popen(
        [sys.executable, str(script), str(folder), str(store), str(workers)],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
        stderr=subprocess.DEVNULL,  # Python tells of semaphores that killed processes leave
    )


def committed(path: Path) -> int:
    """How many samples a store shows, counted from outside."""
    return len(list(path.glob("samples/*/zarr.json")))


def wait_for(process: subprocess.Popen[bytes], path: Path, samples: int) -> None:
    """Wait until the process has locked the store and it shows so many samples, or is done."""
    while process.poll() is None:
        if (path / ".lock").exists() and committed(path) >= samples:
            return
        time.sleep(0.003)


def group_ends(group: int, patience: float = 20.0) -> bool:
    """Whether every process of a group is gone within `patience` seconds."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def workers_of(pid: int) -> list[int]:
    """Process ids of the workers of a process (Linux): forked from its server."""
    parents: dict[int, int] = {}
    servers: set[int] = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            known = int(stat.parent.name)
            parents[known] = int(stat.read_text().rsplit(")", 1)[1].split()[1])
            if b"forkserver" in (stat.parent / "cmdline").read_bytes():
                servers.add(known)
        except OSError:
            continue
    mine = {server for server in servers if parents.get(server) == pid}
    return [known for known, parent in parents.items() if parent in mine and known in servers]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=1)
    parser.add_argument("--kills", type=int, default=20, help="at most, a trial")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--flows", type=int, default=50)
    parser.add_argument("--frames", type=int, default=40)
    parser.add_argument("--side", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    from meshsim.data import Store

    draw = random.Random(given.seed)
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        make_flows(work / "in", given.flows, given.frames, given.side)
        process = start(work / "in", work / "whole", given.workers)
        wait_for(process, work / "whole", 1)
        began = time.monotonic()
        if process.wait():
            print("the uninterrupted run failed")
            return 1
        each = (time.monotonic() - began) / (given.flows - 1)
        truth = Store(work / "whole")
        truth.verify()
        expected = (truth.fingerprint(), truth.names)
        size = sum(p.stat().st_size for p in truth.path.rglob("*") if p.is_file())
        print(
            f"uninterrupted: {len(truth)} samples, {size / 1e6:.1f} MB, {each:.2f} s a sample, "
            f"{given.workers} workers, {expected[0][:16]}",
            flush=True,
        )
        total = 0
        for trial in range(given.trials):
            path = work / f"killed_{trial}"
            history = []
            for kill in range(given.kills):
                before = committed(path)
                if before == given.flows:
                    break
                process = start(work / "in", path, given.workers)
                if draw.random() < 0.2:
                    time.sleep(draw.uniform(0.0, 5.0))  # while it starts, or at the first samples
                else:
                    some = (given.flows - before) // (given.kills - kill)
                    wait_for(process, path, before + draw.randint(0, some))
                    time.sleep(draw.uniform(0.0, 1.5) * each)
                workers = workers_of(process.pid)
                if process.poll() is not None:
                    break
                total += 1
                last = kill == given.kills - 1
                if workers and (last or kill % 4 == 1):
                    os.kill(draw.choice(workers), signal.SIGKILL)
                    history.append("a worker")
                    if not last:
                        time.sleep(draw.uniform(0.0, 2.0) * each)
                        process.kill()
                        history[-1] += " and the parent"
                    code = process.wait()  # the others have to go on, and finish
                    if code and last:
                        wrong.append(f"trial {trial}: exit code {code} after a worker was killed")
                else:
                    history.append("the parent")
                    process.kill()
                    process.wait()
                if not group_ends(process.pid):
                    wrong.append(f"trial {trial}: a process outlived its parent")
                    os.killpg(process.pid, signal.SIGKILL)
                if (path / "zarr.json").exists():
                    store = Store(path)
                    store.verify()  # whatever shows is whole
                    history[-1] += f" at {len(store)}"
            code = start(work / "in", path, given.workers).wait()
            store = Store(path)
            store.verify()
            left = {p.name for p in path.iterdir()} - {"zarr.json", "samples", "manifest.json"}
            if code or left or (store.fingerprint(), store.names) != expected:
                wrong.append(f"trial {trial}: exit code {code}, left {left}, {store!r}")
            shown = ", ".join(history)
            print(f"trial {trial}: killed [{shown}], then {store.fingerprint()[:16]}", flush=True)
        print(f"{given.trials} trials, {total} kills: {'; '.join(wrong) or 'every store the same'}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
