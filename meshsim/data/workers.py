"""Local worker processes of `preprocess`, and how much memory they may have together."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from multiprocessing import (
    connection,
    get_all_start_methods,
    get_context,
    parent_process,
    resource_tracker,
)
from types import ModuleType
from typing import Any

from meshsim.check import WorkError
from meshsim.data.convert import Job, Outcome, convert

SMALL = 2 << 20  # bytes
_HIDING = threading.Lock()  # of the main script
Outcomes = Generator[tuple[Job, Outcome], None, None]


@dataclass(frozen=True)
class Room:
    """The memory that all workers may have together.

    Arguments:
        limit: bytes; 0: no limit.
        base: bytes of a worker that has nothing to do.
        peaks: {sample: bytes that its worker is expected to have at most}.
    """

    limit: int = 0
    base: int = 0
    peaks: Mapping[str, int] = field(default_factory=dict)

    def workers(self, asked: int) -> int:
        """How many workers leave room for the largest sample beside idle ones; at least one."""
        if not self.limit:
            return asked
        left = self.limit - max(self.peaks.values(), default=self.base)
        return max(1, min(asked, 1 + left // max(1, self.base)))

    def fits(self, name: str, running: Iterable[str], workers: int) -> bool:
        """Whether a sample may be started beside those that are running."""
        others = list(running)
        if not self.limit or not others:
            return True
        idle = max(0, workers - len(others) - 1)
        return sum(self._peak(n) for n in [name, *others]) + idle * self.base <= self.limit

    def _peak(self, name: str) -> int:
        return self.peaks.get(name, self.base)


def run(jobs: Sequence[Job], workers: int, room: Room | None = None) -> Outcomes:
    """Convert in so many processes (1: in this one); outcomes as they come.

    A process that dies costs its own sample only.
    """
    room = room or Room()
    workers = room.workers(workers)
    if workers == 1 or len(jobs) < 2:
        for job in jobs:
            yield job, convert(job)
        return
    left = {job.source.name: job for job in jobs}
    with closing(pooled(jobs, min(workers, len(jobs)), room)) as outcomes:
        for job, outcome in outcomes:
            del left[job.source.name]
            yield job, outcome
    # a process died: the rest one by one, to find out at whose file
    for job in left.values():
        with closing(pooled([job], 1, room)) as outcomes:
            died = Outcome("failed", f"{job.source.path}: the process that read it died")
            yield next(outcomes, (job, died))


def pooled(jobs: Sequence[Job], workers: int, room: Room) -> Outcomes:
    """Outcomes as they come; ends early when a worker dies.

    Raises:
        WorkError: the workers cannot be started.
    """
    pool = processes(workers)
    waiting = deque(jobs)
    running: dict[Future[Outcome], Job] = {}
    troubles: list[BaseException] = []
    starting = threading.Thread(target=_start, args=(pool, troubles))
    starting.start()
    try:
        # this process has loaded what the others are still loading
        while starting.is_alive() and not room.limit:
            job = next((job for job in waiting if _small(job)), None)
            if job is None:
                break
            waiting.remove(job)
            yield job, convert(job)
        starting.join()
        if troubles:
            raise WorkError("the worker processes end as they start") from troubles[0]
        while True:
            # few at a time: an interrupt need not wait for a long queue
            for job in _admitted(waiting, running, 2 * workers, workers, room):
                with quiet_start(), without_main():
                    running[pool.submit(convert, job)] = job
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result()
    except BrokenProcessPool:
        return
    finally:
        starting.join()
        started = list((pool._processes or {}).values())
        if running:
            for process in started:
                process.terminate()
        pool.shutdown(wait=True, cancel_futures=True)


def processes(workers: int) -> ProcessPoolExecutor:
    """A pool of processes that load torch once for all of them, where the system can.

    They are forked from a server that has loaded it and done nothing, so has no threads.
    """
    if "forkserver" not in get_all_start_methods():
        return ProcessPoolExecutor(workers, get_context("spawn"), initializer=start_worker)
    context = get_context("forkserver")
    context.set_forkserver_preload(["meshsim.data.workers", "zarr"])
    return ProcessPoolExecutor(workers, context, initializer=start_worker)


def _start(pool: ProcessPoolExecutor, troubles: list[BaseException]) -> None:
    try:
        with quiet_start(), without_main():
            first = pool.submit(os.getpid)
        first.result()
    except (BrokenProcessPool, OSError, EOFError) as error:  # the latter two: no server to fork
        troubles.append(error)


def _small(job: Job) -> bool:
    """Whether a job may be done between others: nothing that takes long, or may end a process."""
    files = [path for _, path in job.source.files]
    return not job.options.trust and all(p.is_file() and p.stat().st_size < SMALL for p in files)


def _admitted(
    waiting: deque[Job], running: Mapping[Any, Job], most: int, workers: int, room: Room
) -> Iterator[Job]:
    """The next jobs, in order, while there is room; `running` grows as they are taken."""
    while waiting and len(running) < most:
        beside = [job.source.name for job in running.values()]
        if not room.fits(waiting[0].source.name, beside, workers):
            return
        yield waiting.popleft()


def fed(
    jobs: Sequence[Job], workers: Callable[[], int], ahead: int, room: Room
) -> Callable[[Mapping[Any, Job]], Iterator[Job]]:
    """For a pool elsewhere: what to start beside what is running, `ahead` for each worker."""
    waiting = deque(jobs)

    def more(running: Mapping[Any, Job]) -> Iterator[Job]:
        count = max(1, workers())
        return _admitted(waiting, running, ahead * count, count, room)

    return more


@contextmanager
def quiet_start() -> Iterator[None]:
    """Processes started meanwhile never see Ctrl-C; this one sees it afterwards."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # starting it later would undo the mask
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def without_main() -> Iterator[None]:
    """Processes started meanwhile do not import the main script, of which they need nothing.

    It may be slow to import, and where it lacks its `if __name__ == "__main__"` it would start
    them again.
    """
    with _HIDING:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = main


def start_worker() -> None:
    """Leave Ctrl-C to the parent, use one thread, and end when the parent ends."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # unwinding lets libraries give back their semaphores; a plain end would be reported as a leak
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    torch.set_num_threads(1)
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
