"""Preprocessing: mesh files into a store; atomic, resumable, in several processes."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from multiprocessing import connection, get_context, parent_process, resource_tracker
from pathlib import Path
from typing import Any

from meshsim.check import InputError, WorkError
from meshsim.data import splits
from meshsim.data.convert import Job, Outcome, convert
from meshsim.data.options import Options, check_options
from meshsim.data.sources import Source, search
from meshsim.data.store import Store

PathLike = str | os.PathLike[str]


@dataclass
class Report:
    """What `preprocess` did.

    Arguments:
        done: samples written now.
        skipped: samples that were there already.
        failed: (source, message) of each that could not be used.
    """

    done: int = 0
    skipped: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)

    @property
    def exit_code(self) -> int:
        """0 when every source is in the store, else 1."""
        return 1 if self.failed else 0


def find_sources(
    sources: PathLike | Sequence[PathLike], config: Mapping[str, Any] | None = None
) -> list[Source]:
    """The samples that `preprocess` would make, sorted by name; nothing is read or written."""
    options = check_options(config)
    return search(sources, options.branch, options.branches)


def preprocess(
    sources: PathLike | Sequence[PathLike],
    store: PathLike,
    *,
    config: Mapping[str, Any] | None = None,
    workers: int = 1,
    overwrite: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
) -> Report:
    """Read mesh files and cases into a store, sample by sample.

    A sample counts once it is written whole. Started again with the same arguments it carries on:
    samples whose files have not changed are skipped, files that failed are tried again. One bad
    file does not stop the rest. The store does not depend on the number of workers.

    Arguments:
        sources: files, globs, folders, case directories. Parameters of `flow.vtu` are taken from
            `flow.json` beside it: {"parameters": {name: number or list}}, and from where
            the configuration says.
        store: where to write.
        config: see `Options` for the keys.
        workers: processes.
        overwrite: replace a store that was made with other arguments.
        progress: called with (samples finished, of, name).

    Returns:
        What was done, skipped and what failed.

    Raises:
        InputError: no such source, a bad option, a store made with other arguments.
        WorkError: the disk is full, or another process is writing; what is finished stays.
    """
    options = check_options(config)
    if workers < 1:
        raise InputError(f"workers: expected 1 or more, got {workers}")
    found = search(sources, options.branch, options.branches)
    arguments = {
        "sources": [
            os.fspath(s) for s in ([sources] if isinstance(sources, str | os.PathLike) else sources)
        ],
        "config": _plain({k: v for k, v in (config or {}).items() if k != "trust"}),
    }
    _divided([source.name for source in found], found, options)  # complains before the work
    target = _open(Path(store), arguments, options, overwrite)
    report, fresh = Report(), set[str]()
    with target.writing():
        jobs = [_job(source, target, options) for source in found]
        with closing(_run(jobs, workers)) as outcomes:
            for job, outcome in outcomes:
                if outcome.status == "full":
                    kept = report.done + report.skipped
                    raise WorkError(f"{outcome.message}; {kept} of {len(jobs)} samples are stored")
                if outcome.status == "done":
                    target.commit(job.source.name, job.folder)
                    report.done += 1
                    fresh.add(job.source.name)
                elif outcome.status == "same":
                    report.skipped += 1
                else:
                    report.failed.append((str(job.source.path), outcome.message))
                if progress:
                    finished = report.done + report.skipped + len(report.failed)
                    progress(finished, len(jobs), job.source.name)
        _drop_odd_ones(target, found, fresh, report)
        # what failed keeps its place, so that a repaired file moves no other
        stored = set(target.names)
        divided = _divided(sorted(stored | {s.name for s in found}), found, options)
        divided = {name: [m for m in members if m in stored] for name, members in divided.items()}
        if divided != target.splits:
            target.set_splits(divided)
    report.failed.sort()
    return report


def _open(path: Path, arguments: dict[str, Any], options: Options, overwrite: bool) -> Store:
    if (path / "zarr.json").exists():
        old = Store(path).arguments if not overwrite else None
        if old == arguments:
            return Store(path)
        if not overwrite:
            differs = "not by preprocess" if old is None else _difference(old, arguments)
            raise InputError(f"{path}: the store was made otherwise ({differs}); overwrite it?")
    return Store.create(path, options.schema, overwrite, arguments)


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    if old.get("sources") != new["sources"]:
        return f"from {', '.join(old.get('sources', []))[:100]}"
    was, now = old.get("config", {}), new["config"]
    key = next(k for k in (*was, *now) if was.get(k) != now.get(k))
    return f"`{key}` was {str(was.get(key, 'not given'))[:60]}"


def _job(source: Source, store: Store, options: Options) -> Job:
    name = source.name
    known = store.provenance(name) if name in store and store.is_whole(name) else None
    return Job(source, store.path, store.staging(name), options, store.schema, known)


def _run(jobs: Sequence[Job], workers: int) -> Generator[tuple[Job, Outcome], None, None]:
    if workers == 1 or len(jobs) < 2:
        for job in jobs:
            yield job, convert(job)
        return
    left = list(jobs)
    with closing(_pooled(jobs, min(workers, len(jobs)))) as outcomes:
        for job, outcome in outcomes:
            left.remove(job)
            yield job, outcome
    # a process died: the rest one by one, to find out at whose file
    for job in left:
        with closing(_pooled([job], 1)) as outcomes:
            died = Outcome("failed", f"{job.source.path}: the process that read it died")
            yield next(outcomes, (job, died))


def _pooled(jobs: Sequence[Job], workers: int) -> Generator[tuple[Job, Outcome], None, None]:
    """Outcomes as they come; ends early when a worker dies."""
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=start_worker)
    waiting = iter(jobs)
    running: dict[Future[Outcome], Job] = {}
    try:
        while True:
            # few at a time: an interrupt need not wait for a long queue
            for job in waiting:
                with _quiet_start():
                    running[pool.submit(convert, job)] = job
                if len(running) >= 2 * workers:
                    break
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result()
    except BrokenProcessPool:
        return
    finally:
        processes = list((pool._processes or {}).values())
        if running:
            for process in processes:
                process.terminate()
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _quiet_start() -> Iterator[None]:
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


def _drop_odd_ones(store: Store, found: Sequence[Source], fresh: set[str], report: Report) -> None:
    """Without a schema, take out samples that lack a field most samples have, or have another."""
    if store.schema is not None:
        return
    paths = {source.name: str(source.path) for source in found}
    tables = {name: store.fields(name) for name in store.names}
    wanted: dict[tuple[str, str, str], int] = {}
    for key in {key for table in tables.values() for key in table}:
        counts = Counter(table[key] for table in tables.values() if key in table)
        components, count = min(counts.items(), key=lambda item: (-item[1], item[0]))
        if 2 * count > len(tables):
            wanted[key] = components
    for name, table in tables.items():
        wrong = next((key for key in sorted(wanted) if table.get(key) != wanted[key]), None)
        if wrong is None:
            continue
        _, place, label = wrong
        what = f"parameter {label!r}" if place == "parameter" else f"{place} field {label!r}"
        trouble = (
            f"expected {wanted[wrong]} components (as in most samples), got {table[wrong]}"
            if wrong in table
            else "is missing (most samples have it)"
        )
        store.remove(name)
        if name in fresh:
            report.done -= 1
        else:
            report.skipped -= 1
        message = f"sample {name!r}: {what} {trouble}".replace(" expected", ": expected")
        report.failed.append((paths.get(name, name), message))


def _divided(
    names: Sequence[str], found: Sequence[Source], options: Options
) -> dict[str, list[str]]:
    said = {source.name: source.split for source in found if source.split}
    rule: Mapping[str, Any] = options.splits or splits.DEFAULT
    if options.splits is None and said:
        rule = {s: [n for n in names if said.get(n) == s] for s in sorted({*said.values()})}
    rule = splits.read_files(rule, names, (source.path.parent for source in found))
    return splits.split(names, rule, options.seed)


def _plain(value: Any) -> Any:
    """As JSON will give it back, so that old and new arguments compare."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value
