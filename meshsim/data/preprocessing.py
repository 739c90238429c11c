"""Preprocessing: mesh files into a store; atomic, resumable, in several processes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from meshsim.check import InputError, WorkError, check_known
from meshsim.data import cluster as dask
from meshsim.data.convert import Job, hashed
from meshsim.data.costs import Plan, Rates, measure, plan
from meshsim.data.cutting import cut, gigabytes, parts, pieces
from meshsim.data.division import divide
from meshsim.data.manifest import Entry, Ledger
from meshsim.data.options import Options, check_options
from meshsim.data.sources import Source, search
from meshsim.data.store import Store
from meshsim.data.workers import Outcomes, Room, run

PathLike = str | os.PathLike[str]
GONE = ("refuse", "drop", "keep")


@dataclass
class Report:
    """What `preprocess` did.

    Arguments:
        done: samples written now.
        skipped: samples that were there already.
        failed: (source, message) of each that could not be used.
        gone: samples that were taken out, because their inputs are no longer there.
        manifest: {sample: what became of the input}, see `Store.manifest`.
    """

    done: int = 0
    skipped: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    manifest: dict[str, Entry] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """0 when every source is in the store, else 1."""
        return 1 if self.failed else 0

    def to_dict(self) -> dict[str, Any]:
        """As JSON carries it."""
        failed = [{"source": source, "error": error} for source, error in self.failed]
        return {
            "done": self.done,
            "skipped": self.skipped,
            "failed": failed,
            "gone": self.gone,
            "inputs": list(self.manifest.values()),
        }


def find_sources(
    sources: PathLike | Sequence[PathLike], config: Mapping[str, Any] | None = None
) -> list[Source]:
    """The samples that `preprocess` would make, sorted by name; nothing is read or written."""
    options = check_options(config)
    return search(sources, options.branch, options.branches)


def estimate(
    sources: PathLike | Sequence[PathLike],
    *,
    config: Mapping[str, Any] | None = None,
    workers: int = 1,
    memory: int = 0,
) -> Plan:
    """What `preprocess` would take: time, memory, size of the store; nothing is left behind.

    A few small inputs of each format are read and stored in a temporary folder, for some five
    seconds, and what they took is scaled with the size of the files: see
    `meshsim.data.costs.Rates.of`. Where no small input of a format is there, the costs are
    assumed, and memory is assumed high.

    Arguments:
        sources, config: as of `preprocess`.
        workers: how many would work at once.
        memory: bytes that all workers together may have: what would be cut is cut here too.
    """
    options = check_options(config)
    _check(workers, memory)
    found = search(sources, options.branch, options.branches)
    if not memory:
        return plan(found, options, workers)
    found, room, rates = _within(found, options, memory, [])
    costs = [rates.of(source) for source in found]
    return Plan(costs, room.workers(workers), rates.base, rates.start, memory)


def preprocess(
    sources: PathLike | Sequence[PathLike],
    store: PathLike,
    *,
    config: Mapping[str, Any] | None = None,
    workers: int = 1,
    memory: int = 0,
    cluster: str = "",
    overwrite: bool = False,
    gone: str = "refuse",
    progress: Callable[[int, int, str], None] | None = None,
) -> Report:
    """Read mesh files and cases into a store, sample by sample.

    A sample counts once it is written whole. Started again with the same arguments it carries on:
    samples whose files have not changed are skipped, files that failed are tried again; a sample
    whose files have changed and cannot be read any more is taken out. One bad file does not stop
    the rest. The store depends on the inputs alone (and on which of them `memory` once had cut),
    not on what was there at an earlier start, nor on the number or place of the workers.

    Arguments:
        sources: files, globs, folders, case directories. Parameters of `flow.vtu` are taken from
            `flow.json` beside it: {"parameters": {name: number or list}}, and from where
            the configuration says.
        store: where to write.
        config: see `Options` for the keys.
        workers: processes on this machine.
        memory: bytes that all workers together may have; 0: any. What they will need is estimated
            (see `estimate`): fewer work at once where it is too much, an input that is too large
            alone is cut into its parts (see `meshsim.data.cutting.parts`) or refused.
        cluster: address of a Dask scheduler, whose workers are used instead; they must see the
            same files and the store under the same paths.
        overwrite: replace a store that was made with other arguments.
        gone: what to do with samples of the store whose inputs are no longer there: "refuse" to
            start, "drop" them, or "keep" them (but for those that are there under another name).
        progress: called with (samples finished, of, name).

    Returns:
        What was done, skipped and what failed.

    Raises:
        InputError: no such source, a bad option, a store made with other arguments, or of inputs
            that are no longer there.
        WorkError: the disk is full, another process is writing, or the cluster cannot be reached;
            what is finished stays.
        MissingExtra: a cluster is named, and Dask is not installed.
    """
    options = check_options(config)
    _check(workers, memory)
    check_known(gone, GONE, "choice for inputs that are gone (`gone`):")
    found = search(sources, options.branch, options.branches)
    given = [sources] if isinstance(sources, str | os.PathLike) else sources
    arguments = {
        "sources": [_kept_path(os.fspath(source), Path(store)) for source in given],
        "config": _plain({k: v for k, v in (config or {}).items() if k != "trust"}),
    }
    divide([source.name for source in found], found, options)  # complains before the work
    with dask.connected(cluster) if cluster else _nowhere() as client:
        target = _open(Path(store), arguments, options, overwrite)
        with target.writing():
            lost = _lost(target, found, gone)
            found, room = _planned(found, target, options, memory)
            jobs = [_job(source, target, options) for source in found]
            if client is None:
                outcomes = run(jobs, workers, room)
            else:
                outcomes = dask.run(jobs, client, room)
            return _collect(target, found, lost, gone, jobs, outcomes, options, progress)


@contextmanager
def _nowhere() -> Iterator[None]:
    yield None


def _check(workers: int, memory: int) -> None:
    if workers < 1:
        raise InputError(f"workers: expected 1 or more, got {workers}")
    if memory < 0:
        raise InputError(f"memory: expected bytes, or 0 for any, got {memory}")


def _collect(
    target: Store,
    found: Sequence[Source],
    lost: Sequence[str],
    gone: str,
    jobs: Sequence[Job],
    outcomes: Outcomes,
    options: Options,
    progress: Callable[[int, int, str], None] | None,
) -> Report:
    """Put what the workers have staged in its place, and say so."""
    report, fresh, same = Report(), set[str](), set[str]()
    ledger = Ledger(target, {source.name: source.relative for source in found})
    try:
        with closing(outcomes):
            for job, outcome in outcomes:
                name = job.source.name
                if outcome.status == "full":
                    kept = report.done + report.skipped
                    raise WorkError(f"{outcome.message}; {kept} of {len(jobs)} samples are stored")
                if outcome.status == "done":
                    target.commit(name, job.folder)
                    report.done += 1
                    fresh.add(name)
                elif outcome.status == "same":
                    report.skipped += 1
                    same.add(name)
                else:
                    if name in target and (outcome.changed or not target.is_whole(name)):
                        target.remove(name)
                    report.failed.append((str(job.source.path), outcome.message))
                    ledger.fail(name, outcome.message, outcome.seconds, outcome.size)
                if outcome.status in ("done", "same"):
                    ledger.succeed(name)
                if progress:
                    finished = report.done + report.skipped + len(report.failed)
                    progress(finished, len(jobs), name)
        report.gone = _drop_lost(target, lost, fresh | same, gone)
        _drop_odd_ones(target, found, fresh, same, report, ledger)
        # what failed keeps its place, so that a repaired file moves no other
        stored = set(target.names)
        every = sorted(stored | {s.name for s in found})
        divided = divide(every, found, options, target.provenance)
        divided = {name: [m for m in members if m in stored] for name, members in divided.items()}
        if divided != target.splits:
            target.set_splits(divided)
        report.manifest = ledger.write()
    except BaseException:
        ledger.leave()
        raise
    report.failed.sort()
    return report


def _planned(
    found: list[Source], store: Store, options: Options, memory: int
) -> tuple[list[Source], Room]:
    """The sources, cut where that is needed or was done before, and the memory they need."""
    known = store.cut
    if memory:
        found, room, _ = _within(found, options, memory, known, store)
    else:
        found, room = cut(found, 0, known), Room()
    now = sorted({source.whole for source in found if source.whole})
    if now != known:
        store.set_cut(now)
    for name in now:
        if name in store:  # from a run that had more memory
            store.remove(name)
    return found, room


def _unchanged(source: Source, store: Store, options: Options) -> bool:
    """Whether a sample is in the store already, so that its input will be hashed and not read."""
    if source.name not in store or not store.is_whole(source.name):
        return False
    try:
        return store.provenance(source.name).get("files") == hashed(source, options)[0]
    except InputError:
        return False


def _within(
    found: list[Source],
    options: Options,
    memory: int,
    known: Sequence[str],
    store: Store | None = None,
) -> tuple[list[Source], Room, Rates]:
    """The sources as they fit into so much memory, the room that they leave, and the rates."""
    rates = measure([*found, *(piece for source in found for piece in pieces(source))], options)
    if memory < rates.base:
        raise InputError(
            f"memory: expected at least the {gigabytes(rates.base)} that a worker takes before it"
            f" reads anything, got {gigabytes(memory)}"
        )

    @cache
    def peak(source: Source) -> int:
        needed = rates.of(source).peak
        large = needed > memory and not source.whole and source.name not in known
        if large and store is not None and _unchanged(source, store, options):
            return rates.base  # it will not be read
        return needed

    found = cut(found, memory, known, peak)
    used = {source.name: peak(source) for source in found if not source.lacking}
    return found, Room(memory, rates.base, used), rates


def _is_made(store: Store, name: str) -> bool:
    """Whether `preprocess` made a sample, and nobody appended it otherwise."""
    return "files" in store.provenance(name)


def _lost(store: Store, found: Sequence[Source], gone: str) -> list[str]:
    """Samples that were made from inputs which are no longer there.

    Raises:
        InputError: there are some, and that is to be refused.
    """
    here = {source.name: source for source in found}
    lost = [name for name in store.names if name not in here and _is_made(store, name)]
    wholes = {store.provenance(name).get("whole", "") for name in lost} & here.keys()
    there = {part.name for whole in wholes for part in parts(here[whole])}
    lost = [name for name in lost if name not in there]
    if lost and gone == "refuse":
        names = f"{', '.join(lost[:3])}{', …' if len(lost) > 3 else ''}"
        now = {
            source.relative: source.lacking or f"of {source.relative} there is {source.name!r} now"
            for source in found
        }
        of = (now.get(store.provenance(name).get("source", ""), "") for name in lost)
        why = next(filter(None, of), "")
        raise InputError(
            f"{store.path}: the inputs of {len(lost)} of its samples are no longer there"
            f" ({names}{why and '; '}{why}):"
            ' `gone` "drop" takes these out of the store, "keep" keeps them'
        )
    return lost


def _drop_lost(store: Store, lost: Sequence[str], here: Iterable[str], gone: str) -> list[str]:
    """Take out what is lost, or of what is kept that which has another name now."""

    def contents(name: str) -> tuple[str, ...]:
        return tuple(sorted(store.provenance(name)["files"].values()))

    if gone == "keep" and lost:
        twins = {contents(name) for name in here}
        lost = [name for name in lost if contents(name) in twins]
    for name in lost:
        store.remove(name)
    return list(lost)


def _open(path: Path, arguments: dict[str, Any], options: Options, overwrite: bool) -> Store:
    if (path / "zarr.json").exists():
        old = _resolved(Store(path).arguments, path) if not overwrite else None
        arguments_now = _resolved(arguments, path)
        if old == arguments_now:
            return Store(path)
        if not overwrite:
            differs = "not by preprocess" if old is None else _difference(old, arguments_now)
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


def _drop_odd_ones(
    store: Store,
    found: Sequence[Source],
    fresh: set[str],
    same: set[str],
    report: Report,
    ledger: Ledger,
) -> None:
    """Without a schema, take out samples that lack a field most samples have, or have another."""
    if store.schema is not None:
        return
    paths = {source.name: str(source.path) for source in found}
    tables = {name: store.fields(name) for name in store.names if _is_made(store, name)}
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
        report.done -= name in fresh
        report.skipped -= name in same
        message = f"sample {name!r}: {what} {trouble}".replace(" expected", ": expected")
        report.failed.append((paths.get(name, name), message))
        ledger.fail(name, message)


def _kept_path(source: str, store: Path) -> str:
    """A source as the store remembers it: without links; one given relatively, from the store."""
    real = os.path.realpath(source)
    if os.path.isabs(source):
        return real
    try:
        return os.path.relpath(real, os.path.realpath(store))
    except ValueError:  # on another drive
        return real


def _resolved(arguments: Any, store: Path) -> Any:
    """Arguments that a store remembers, with absolute sources."""
    if arguments is None:
        return None
    sources = [os.path.realpath(store / source) for source in arguments.get("sources", [])]
    return {**arguments, "sources": sources}


def _plain(value: Any) -> Any:
    """As JSON will give it back, so that old and new arguments compare."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value
