"""Dask workers: the same store, whatever happens to them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshsim.check import InputError, MissingExtra, WorkError
from meshsim.data import Store, preprocess

ROOT = Path(__file__).resolve().parents[2]


class Cluster:
    """A scheduler and workers, in processes of their own."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.processes: list[subprocess.Popen[bytes]] = []
        found = folder / "scheduler.json"
        self._start("scheduler", "--port", "0", "--no-dashboard", "--scheduler-file", str(found))
        until = time.monotonic() + 60
        while not (found.exists() and found.read_text()):
            assert time.monotonic() < until, "no scheduler"
            time.sleep(0.05)
        self.address = json.loads(found.read_text())["address"]

    def _start(self, what: str, *arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "distributed.cli.dask_" + what, *arguments]
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        process = subprocess.Popen(
            command,
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.processes.append(process)
        return process

    def worker(self) -> subprocess.Popen[bytes]:
        """One more worker, of one thread, without a nanny."""
        few = ["--no-nanny", "--nthreads", "1", "--no-dashboard"]
        place = ["--local-directory", str(self.folder / f"w{len(self.processes)}")]
        return self._start("worker", self.address, *few, *place)

    def expect(self, workers: int) -> None:
        """Wait until so many workers are there."""
        import distributed

        with distributed.Client(self.address, set_as_default=False) as client:
            client.wait_for_workers(workers, timeout=120)

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    pytest.importorskip("distributed", reason="dask.distributed is not installed")
    made = Cluster(tmp_path_factory.mktemp("cluster"))
    made.worker()
    yield made
    made.close()


@pytest.fixture
def flows(tmp_path: Path, write_flow) -> Path:
    """Eight flows and a broken file."""
    for k in range(8):
        write_flow(tmp_path / "in" / f"flow_{k}.npz", seed=k, frames=4 + k)
    (tmp_path / "in" / "broken.npz").write_bytes(b"no")
    return tmp_path / "in"


def test_the_store_is_that_of_one_process(
    tmp_path: Path, flows: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # workers are elsewhere: relative paths must do
    here = preprocess(["in"], "s")
    seen: list[str] = []
    there = preprocess(
        ["in"], "t", cluster=cluster.address, progress=lambda done, of, name: seen.append(name)
    )
    assert Store(tmp_path / "t").fingerprint() == Store(tmp_path / "s").fingerprint()
    Store(tmp_path / "t").verify()
    assert (there.done, there.failed) == (8, here.failed) and len(here.failed) == 1
    assert sorted(seen) == sorted(here.manifest)
    assert not (tmp_path / "t" / ".staging").exists()
    again = preprocess(["in"], "t", cluster=cluster.address)
    assert (again.done, again.skipped) == (0, 8)


def test_a_worker_that_dies_midway_changes_nothing(
    tmp_path: Path, flows: Path, cluster: Cluster
) -> None:
    preprocess([flows], tmp_path / "s")
    victim = cluster.worker()
    cluster.expect(2)
    killed: list[int] = []

    def kill(done: int, of: int, name: str) -> None:
        if done == 1 and not killed:  # both hold two more
            victim.send_signal(signal.SIGKILL)
            killed.append(victim.wait())

    report = preprocess([flows], tmp_path / "t", cluster=cluster.address, progress=kill)
    assert killed and report.done == 8
    assert Store(tmp_path / "t").fingerprint() == Store(tmp_path / "s").fingerprint()


def test_a_file_that_kills_its_workers_fails_alone(tmp_path: Path, flows: Path) -> None:
    """What Dask says of such a file comes from Dask; here it is said of one in any company."""
    distributed = pytest.importorskip("distributed")
    from meshsim.data import cluster as dask
    from meshsim.data.workers import Room

    class Future:
        status = "finished"

        def __init__(self, job):
            self.job = job

        def done(self):
            return True

        def add_done_callback(self, call):
            call(self)

        def result(self):
            from meshsim.data.convert import Outcome

            if self.job.source.name in deadly:
                raise distributed.KilledWorker("task", "worker", 3)
            return Outcome("same"), "folder"

    class Client:
        def scheduler_info(self, n_workers):
            return {"workers": {"a": {}}}

        def run(self, function, *arguments, on_error):
            return {"a": function(*arguments)}

        def submit(self, function, job, pure):
            return Future(job)

        def cancel(self, futures, force):
            pass

    preprocess([flows], tmp_path / "s")
    from meshsim.data.options import Options
    from meshsim.data.preprocessing import _job
    from meshsim.data.sources import search

    jobs = [_job(s, Store(tmp_path / "s"), Options()) for s in search(flows)]
    deadly = {"flow_3"}
    found = {j.source.name: o for j, o in dask.run(jobs, Client(), Room())}
    assert len(found) == 9
    assert [n for n, o in found.items() if o.status != "same"] == ["flow_3"]
    assert "flow_3.npz: the workers that read it died" in found["flow_3"].message


def test_an_interrupt_cancels_what_waits(tmp_path: Path, flows: Path, cluster: Cluster) -> None:
    def interrupt(done: int, of: int, name: str) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        preprocess([flows], tmp_path / "s", cluster=cluster.address, progress=interrupt)
    store = Store(tmp_path / "s")
    store.verify()
    assert len(store) <= 2
    report = preprocess([flows], tmp_path / "s", cluster=cluster.address)
    assert report.done + report.skipped == 8


def test_an_address_where_nobody_answers_is_one_line(
    tmp_path: Path, flows: Path, capfd: pytest.CaptureFixture
) -> None:
    pytest.importorskip("distributed")
    began = time.monotonic()
    with pytest.raises(WorkError, match=r"no scheduler answers at tcp://127\.0\.0\.1:9"):
        preprocess([flows], tmp_path / "s", cluster="tcp://127.0.0.1:9")
    assert time.monotonic() - began < 30
    with pytest.raises(InputError, match="no address"):
        preprocess([flows], tmp_path / "s", cluster="nonsense://host:1")
    assert not (tmp_path / "s").exists()
    assert capfd.readouterr().err == ""


def test_the_missing_extra_is_named(
    tmp_path: Path, flows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingExtra, match=r"meshsim\[cluster\]"):
        preprocess([flows], tmp_path / "s", cluster="tcp://127.0.0.1:9")


def test_workers_that_see_another_disk_are_told_of(tmp_path: Path, monkeypatch) -> None:
    from meshsim.data import cluster as dask

    class Client:
        def __init__(self, said):
            self.said = said

        def run(self, function, *arguments, on_error):
            return {"tcp://w": self.said}

    with pytest.raises(WorkError, match="does not see"):
        dask._check_workers(Client(dask.sees(str(tmp_path))), tmp_path)
    with pytest.raises(WorkError, match=r"meshsim 0\.0 \(expected"):
        dask._check_workers(Client("0.0"), tmp_path)
