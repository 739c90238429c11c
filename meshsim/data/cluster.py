"""`preprocess` on the workers of a Dask cluster; what they stage is committed here."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from meshsim import __version__
from meshsim.check import InputError, MissingExtra, WorkError, one_line
from meshsim.data.convert import Job, Outcome, convert
from meshsim.data.workers import Outcomes, Room, fed

CONNECT = 8.0  # seconds until the scheduler must have answered
PATIENCE = 60.0  # seconds without any worker
AHEAD = 2  # samples handed out for each worker

_one_at_a_time = threading.Lock()


@contextlib.contextmanager
def connected(address: str) -> Iterator[Any]:
    """A client of the scheduler at an address such as "tcp://host:8786".

    Raises:
        MissingExtra: `dask.distributed` is not installed.
        InputError: that is no address.
        WorkError: nobody answers there.
    """
    try:
        import distributed
    except ImportError:
        raise MissingExtra("distributed", "cluster") from None
    # what it says of lost connections is said in one line here
    logger = logging.getLogger("distributed")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        try:
            client = distributed.Client(address, timeout=CONNECT, set_as_default=False)
        except ValueError as error:
            raise InputError(f"cluster: {address!r} is no address: {one_line(error)}") from None
        except (OSError, TimeoutError) as error:
            raise WorkError(f"cluster: no scheduler answers at {address}") from error
        try:
            yield client
        finally:
            with contextlib.suppress(Exception):
                client.close(timeout=5)
    finally:
        logger.setLevel(before)


def run(jobs: Sequence[Job], client: Any, room: Room | None = None) -> Outcomes:
    """Convert on the workers of a cluster; outcomes as they come.

    A sample whose worker dies is tried again by Dask, elsewhere; one that does not survive that
    is tried once more, alone, and fails then. Left early, this cancels what waits.

    Raises:
        WorkError: the cluster has no workers, or they do not see the store.
    """
    _wait_for_workers(client)
    if jobs:
        _check_workers(client, jobs[0].store)
    died: list[Job] = []
    for job, outcome in _pooled(jobs, client, AHEAD, room or Room()):
        if outcome is None:
            died.append(job)
        else:
            yield job, outcome
    # those beside it die with the one that is at fault
    for job in died:
        for _, outcome in _pooled([job], client, 1, Room()):
            gone = Outcome("failed", f"{job.source.path}: the workers that read it died")
            yield job, outcome or gone


def _pooled(
    jobs: Sequence[Job], client: Any, ahead: int, room: Room
) -> Iterator[tuple[Job, Outcome | None]]:
    """Outcomes as they come; None where the workers died."""
    more = fed(jobs, lambda: len(_workers(client)), ahead, room)
    running: dict[Any, Job] = {}
    ready = threading.Event()
    seen = time.monotonic()
    try:
        while True:
            for job in more(running):
                future = client.submit(remote, _shipped(job), pure=False)
                future.add_done_callback(lambda _: ready.set())
                running[future] = job
            if not running:
                return
            ready.wait(2.0)  # not for ever: the workers may be gone
            ready.clear()
            if _workers(client):
                seen = time.monotonic()
            elif time.monotonic() - seen > PATIENCE:
                raise WorkError("cluster: there are no workers left")
            for future in [f for f in running if f.done()]:
                job = running.pop(future)
                yield _fetched(job, future)
    finally:
        with contextlib.suppress(Exception):
            client.cancel(list(running), force=True)


def _fetched(job: Job, future: Any) -> tuple[Job, Outcome | None]:
    from distributed import KilledWorker

    if future.status in ("cancelled", "lost"):
        raise WorkError("cluster: the scheduler is gone (the same command carries on)")
    try:
        outcome, folder = future.result()
    except KilledWorker:
        return job, None
    except Exception as error:
        path = job.source.path
        return job, Outcome("failed", f"{path}: {type(error).__name__}: {one_line(error)}")
    # the file as we call it
    said = outcome.message.replace(os.path.abspath(job.source.path), str(job.source.path))
    return replace(job, folder=Path(folder)), replace(outcome, message=said)


def remote(job: Job) -> tuple[Outcome, str]:
    """What a worker does: the outcome, and where the sample is staged.

    Every try has a folder of its own: a worker that is taken for dead may go on writing.
    """
    import torch

    apart = f"{job.folder.parent.name}-{uuid.uuid4().hex[:8]}"
    job = replace(job, folder=job.folder.parent.with_name(apart) / job.folder.name)
    with _one_at_a_time:
        torch.set_num_threads(1)
        return convert(job), str(job.folder)


def _shipped(job: Job) -> Job:
    """The job with paths that hold wherever the worker was started."""
    files = tuple((branch, path.absolute()) for branch, path in job.source.files)
    source = replace(job.source, path=job.source.path.absolute(), files=files)
    return replace(job, source=source, store=job.store.absolute(), folder=job.folder.absolute())


def _workers(client: Any) -> Mapping[str, Any]:
    with contextlib.suppress(OSError, TimeoutError):
        return dict(client.scheduler_info(n_workers=-1)["workers"])
    return {}


def _wait_for_workers(client: Any) -> None:
    until = time.monotonic() + PATIENCE
    while not _workers(client):
        if time.monotonic() > until:
            raise WorkError(f"cluster: no workers after {PATIENCE:.0f} s")
        time.sleep(0.2)


def sees(store: str) -> str:
    """What a worker says before it is given work: its version, or what it lacks."""
    return __version__ if Path(store, "zarr.json").exists() else "no store"


def _check_workers(client: Any, store: Path) -> None:
    try:
        found = client.run(sees, str(store.absolute()), on_error="return")
    except Exception as error:
        raise WorkError(f"cluster: its workers cannot run meshsim: {one_line(error)}") from error
    for worker, said in found.items():
        if said == "no store":
            raise WorkError(f"cluster: worker {worker} does not see {store.absolute()}")
        if said != __version__:
            what = f"meshsim {said}" if isinstance(said, str) else one_line(said)
            raise WorkError(f"cluster: worker {worker} has {what} (expected {__version__})")
