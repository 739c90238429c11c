"""Preprocessing: mesh files into a store; atomic, resumable, in several processes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from meshsim.check import InputError, WorkError
from meshsim.data import cluster as dask
from meshsim.data import splits
from meshsim.data.convert import Job
from meshsim.data.costs import Plan, Rates, measure, plan
from meshsim.data.cutting import cut, parts
from meshsim.data.manifest import Entry, Ledger
from meshsim.data.options import Options, check_options
from meshsim.data.sources import Source, search
from meshsim.data.store import Store
from meshsim.data.workers import Outcomes, Room, run

PathLike = str | os.PathLike[str]


@dataclass
class Report:
    """What `preprocess` did.

    Arguments:
        done: samples written now.
        skipped: samples that were there already.
        failed: (source, message) of each that could not be used.
        manifest: {sample: what became of the input}, see `Store.manifest`.
    """

    done: int = 0
    skipped: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)
    manifest: dict[str, Entry] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """0 when every source is in the store, else 1."""
        return 1 if self.failed else 0

    def to_dict(self) -> dict[str, Any]:
        """As JSON carries it."""
        failed = [{"source": source, "error": error} for source, error in self.failed]
        inputs = list(self.manifest.values())
        return {"done": self.done, "skipped": self.skipped, "failed": failed, "inputs": inputs}


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
    progress: Callable[[int, int, str], None] | None = None,
) -> Report:
    """Read mesh files and cases into a store, sample by sample.

    A sample counts once it is written whole. Started again with the same arguments it carries on:
    samples whose files have not changed are skipped, files that failed are tried again. One bad
    file does not stop the rest. The store does not depend on the number or place of the workers.

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
        progress: called with (samples finished, of, name).

    Returns:
        What was done, skipped and what failed.

    Raises:
        InputError: no such source, a bad option, a store made with other arguments.
        WorkError: the disk is full, another process is writing, or the cluster cannot be reached;
            what is finished stays.
        MissingExtra: a cluster is named, and Dask is not installed.
    """
    options = check_options(config)
    _check(workers, memory)
    found = search(sources, options.branch, options.branches)
    arguments = {
        "sources": [
            os.fspath(s) for s in ([sources] if isinstance(sources, str | os.PathLike) else sources)
        ],
        "config": _plain({k: v for k, v in (config or {}).items() if k != "trust"}),
    }
    _divided([source.name for source in found], found, options)  # complains before the work
    with dask.connected(cluster) if cluster else _nowhere() as client:
        target = _open(Path(store), arguments, options, overwrite)
        with target.writing():
            found, room = _planned(found, target, options, memory)
            jobs = [_job(source, target, options) for source in found]
            if client is None:
                outcomes = run(jobs, workers, room)
            else:
                outcomes = dask.run(jobs, client, room)
            return _collect(target, found, jobs, outcomes, options, progress)


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
    jobs: Sequence[Job],
    outcomes: Outcomes,
    options: Options,
    progress: Callable[[int, int, str], None] | None,
) -> Report:
    """Put what the workers have staged in its place, and say so."""
    report, fresh = Report(), set[str]()
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
                else:
                    report.failed.append((str(job.source.path), outcome.message))
                    ledger.fail(name, outcome.message, outcome.seconds, outcome.size)
                if outcome.status in ("done", "same"):
                    ledger.succeed(name)
                if progress:
                    finished = report.done + report.skipped + len(report.failed)
                    progress(finished, len(jobs), name)
        _drop_odd_ones(target, found, fresh, report, ledger)
        # what failed keeps its place, so that a repaired file moves no other
        stored = set(target.names)
        divided = _divided(sorted(stored | {s.name for s in found}), found, options, target)
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
    if memory and any(source.name not in store for source in cut(found, {}, 0, known)):
        found, room, _ = _within(found, options, memory, known)
    else:
        found, room = cut(found, {}, 0, known), Room()
    now = sorted({source.whole for source in found if source.whole})
    if now != known:
        store.set_cut(now)
    for name in now:
        if name in store:  # from a run that had more memory
            store.remove(name)
    return found, room


def _within(
    found: list[Source], options: Options, memory: int, known: Sequence[str]
) -> tuple[list[Source], Room, Rates]:
    """The sources as they fit into so much memory, the room that they leave, and the rates."""
    every = [*found, *(part for source in found for part in parts(source))]
    rates = measure(every, options)
    peaks = {source.name: rates.of(source).peak for source in every}
    found = cut(found, peaks, memory, known)
    used = {s.name: peaks[s.name] for s in found if not s.lacking}
    return found, Room(memory, rates.base, used), rates


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


def _drop_odd_ones(
    store: Store, found: Sequence[Source], fresh: set[str], report: Report, ledger: Ledger
) -> None:
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
        ledger.fail(name, message)


def _divided(
    names: Sequence[str], found: Sequence[Source], options: Options, store: Store | None = None
) -> dict[str, list[str]]:
    """The splits of samples; parts of one input, and with `split_by` those of a folder, share one.

    The rule then divides inputs, or folders, instead of samples.
    """
    wholes = {source.name: source.whole or source.name for source in found}
    for name in names:
        if name not in wholes:
            about = store.provenance(name) if store is not None and name in store else {}
            wholes[name] = about.get("whole", name)
    if options.split_by == "folder":
        wholes = {name: whole.rpartition("/")[0] or whole for name, whole in wholes.items()}
    groups = sorted({wholes[name] for name in names})
    said = {wholes[source.name]: source.split for source in found if source.split}
    rule: Mapping[str, Any] = options.splits or splits.DEFAULT
    if options.splits is None and said:
        rule = {s: [n for n in groups if said.get(n) == s] for s in sorted({*said.values()})}
    rule = splits.read_files(rule, groups, (source.path.parent for source in found))
    divided = splits.split(groups, rule, options.seed)
    place = {group: split for split, members in divided.items() for group in members}
    out: dict[str, list[str]] = {split: [] for split in divided}
    for name in sorted(names):
        if wholes[name] in place:
            out[place[wholes[name]]].append(name)
    return out


def _plain(value: Any) -> Any:
    """As JSON will give it back, so that old and new arguments compare."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value
