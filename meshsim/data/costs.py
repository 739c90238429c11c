"""What preprocessing will take: bytes, seconds and memory, judged by a few small inputs."""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Iterable, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from meshsim.check import MeshsimError
from meshsim.data.convert import Job, convert
from meshsim.data.options import Options
from meshsim.data.sizes import kind_of, sizes, total
from meshsim.data.sources import Source, source_files
from meshsim.data.workers import processes, quiet_start, without_main

SECONDS = 5.0  # for all probes together; the last one is finished
PROBED = 16 << 20  # bytes: nothing larger is read
APART = 4 << 20  # bytes between two inputs that tell how memory grows
# where no small input of a format can be read: bytes of memory and of store for a byte of input,
# bytes a second; high for memory, which must not be promised
PEAK, STORED, SPEED = 12.0, 1.0, 10e6


@dataclass(frozen=True)
class Probe:
    """What one small input took.

    Arguments:
        kind: its format.
        size: bytes on disk.
        held: bytes of it that are in memory at once, see `held_at_once`.
        seconds: to read and to store it.
        documents: bytes in the store that do not grow with the input.
        arrays: bytes in the store that do.
        peak: bytes of memory, of the process and of the one that reads for it.
    """

    kind: str
    size: int
    held: int
    seconds: float
    documents: int
    arrays: int
    peak: int


@dataclass(frozen=True)
class Cost:
    """What one sample is expected to take.

    Arguments:
        name: of the sample.
        path: what it is made from.
        files: how many.
        size: bytes on disk.
        stored: bytes in the store.
        seconds: of one worker.
        peak: bytes of memory of its worker.
        how: "measured" on inputs of its format, or "assumed" where none is small enough.
        lacking: why it cannot be used, or "".
    """

    name: str
    path: str
    files: int
    size: int
    stored: int
    seconds: float
    peak: int
    how: str
    lacking: str = ""


@dataclass(frozen=True)
class Plan:
    """What `preprocess` would do.

    Arguments:
        samples: costs by sample.
        workers: how many would work at once.
        base: bytes of memory of a worker that has nothing to do.
        start: seconds until the workers are there.
        memory: bytes that all workers together may have, or 0.
    """

    samples: list[Cost]
    workers: int = 1
    base: int = 0
    start: float = 0.0
    memory: int = 0

    @property
    def totals(self) -> dict[str, Any]:
        """{"samples", "size", "stored", "seconds", "peak", "workers"} of all samples that can be
        used; the time is that of the asked number of workers, the peak that of the largest
        samples at once."""
        used = [cost for cost in self.samples if not cost.lacking]
        seconds = sum(c.seconds for c in used) / self.workers
        longest = max((c.seconds for c in used), default=0.0)
        peaks = sorted((c.peak for c in used), reverse=True)[: self.workers] or [self.base]
        peak = sum(peaks) + self.base * (self.workers - len(peaks))
        if self.memory:  # then others wait
            peak = min(peak, max(self.memory, peaks[0]))
        return {
            "samples": len(used),
            "size": sum(c.size for c in used),
            "stored": sum(c.stored for c in used),
            "seconds": max(seconds, longest) + (self.start if self.workers > 1 else 0.0),
            "peak": peak,
            "workers": self.workers,
        }

    def to_dict(self) -> dict[str, Any]:
        """As JSON carries it."""
        return {"samples": [asdict(cost) for cost in self.samples], "totals": self.totals}


@dataclass(frozen=True)
class Rates:
    """What inputs of each format take, from probes; see `of`."""

    base: int = 0
    start: float = 0.0
    probes: Sequence[Probe] = field(default_factory=list)

    def of(self, source: Source) -> Cost:
        """The cost of a source: straight lines through the probes of its formats.

        Memory is the largest probe's, and for what is beyond it the slope between the smallest
        and the largest probe where they differ by 4 MB, at least 2 bytes a byte; else `PEAK`.
        """
        try:
            files = source_files(source)
        except (MeshsimError, OSError):
            files = []
        path, on_disk = str(source.path), total(files)
        if source.part is not None:
            on_disk = sizes(source.path, None, source.part)[0]
        if source.entry is not None:
            on_disk += sizes(source.path, source.entry)[0]
        if source.lacking:
            return Cost(source.name, path, len(files), on_disk, 0, 0.0, 0, "", source.lacking)
        stored, seconds, beyond, how = 0.0, 0.0, 0.0, "measured"
        peak = float(self.base)
        for _, file in source.files:
            kind, size, held = kind_of(file), *sizes(file, source.entry, source.part)
            mine = sorted((p for p in self.probes if p.kind == kind), key=lambda p: p.held)
            if not mine:
                how = "assumed"
                stored, seconds = stored + STORED * size, seconds + size / SPEED
                beyond += PEAK * held
                continue
            whole = sum(p.size for p in mine)
            stored += max(p.documents for p in mine) + size * sum(p.arrays for p in mine) / whole
            seconds += _line([(p.size, p.seconds) for p in mine], size)
            small, large = mine[0], mine[-1]
            peak = max(peak, large.peak if held >= large.held else small.peak)
            slope = PEAK
            if large.held - small.held > APART:  # less would measure what was loaded meanwhile
                slope = max(2.0, (large.peak - small.peak) / (large.held - small.held))
            beyond += slope * max(0, held - (large.held if held >= large.held else small.held))
        return Cost(
            source.name, path, len(files), on_disk, round(stored), seconds,
            round(peak + beyond), how,
        )  # fmt: skip


def _line(points: Sequence[tuple[int, float]], at: int) -> float:
    """A rising straight line through the first and the last of some points."""
    (x0, y0), (x1, y1) = min(points), max(points)
    if y1 < y0:  # the larger one was quicker: what they took is noise
        y1 = y0
    if at <= x0 or x1 == x0:
        return y0 * max(1.0, at / max(x0, 1 << 20))
    slope = (y1 - y0) / (x1 - x0)
    return y0 + slope * (at - x0) if slope else y1 * max(1.0, at / x1)


def measure(found: Iterable[Source], options: Options, seconds: float = SECONDS) -> Rates:
    """Read and store the smallest and a larger input of each format, in a process of its own.

    Only inputs of less than 16 MB are read, and no further ones once `seconds` have passed. What
    is measured is the time, the bytes written, and the peak of the memory of the process together
    with that of the guarded process which reads for it (resident, shared libraries included).
    """
    by_kind: dict[str, list[tuple[int, Source]]] = {}
    for source in found:
        if not source.lacking and len(source.files) == 1:
            path = source.files[0][1]
            size = sizes(path, source.entry)[0] if path.exists() else 0
            if 0 < size <= PROBED:
                by_kind.setdefault(kind_of(path), []).append((size, source))
    small: list[tuple[int, Source]] = []
    large: list[tuple[int, Source]] = []
    for known in by_kind.values():
        known.sort(key=lambda pair: (pair[0], pair[1].name))
        small.append(known[0])
        # a second of the small ones, in case the first is odd; and a larger one
        small += known[1:2]
        large += known[2:][-1:]
    order = [s for some in (small, large) for _, s in sorted(some, key=lambda pair: pair[0])]
    began = time.perf_counter()
    with processes(1) as pool, tempfile.TemporaryDirectory(prefix="meshsim-") as folder:
        with quiet_start(), without_main():
            warm = pool.submit(_warm, Path(folder))
        base, start = warm.result(), time.perf_counter() - began
        try:
            probes = pool.submit(_probe, order, options, Path(folder), seconds).result()
        except BrokenProcessPool:  # one of them ends whoever reads it, which is told of later
            probes = []
    return Rates(base, start, probes)


def plan(found: Sequence[Source], options: Options, workers: int = 1) -> Plan:
    """What each sample is expected to take, and all of them with so many workers.

    Returns:
        The plan; how it comes about is said in `measure` and in `Rates.of`.
    """
    rates = measure(found, options)
    return Plan([rates.of(source) for source in found], workers, rates.base, rates.start)


def _warm(folder: Path) -> int:
    """Memory of a worker that has done next to nothing."""
    file = folder / "warm.off"
    file.write_text("OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n")
    source = Source("warm", file, (("mesh", file),), file.name)
    convert(Job(source, folder, folder / "warm" / "sample", Options(), None, None))
    return peak_memory()


def _probe(
    sources: Sequence[Source], options: Options, folder: Path, seconds: float
) -> list[Probe]:
    out: list[Probe] = []
    seen: set[str] = set()
    until = time.perf_counter() + seconds
    for n, source in enumerate(sources):
        if time.perf_counter() > until:
            break
        path = source.files[0][1]
        kind, (size, held) = kind_of(path), sizes(path, source.entry)
        for again in (False, True):
            staged = folder / f"{n}-{again}" / "sample"
            reset_peak()
            began = time.perf_counter()
            done = convert(Job(source, folder, staged, options, options.schema, None))
            took = time.perf_counter() - began
            if kind in seen or done.status != "done":
                break
            seen.add(kind)  # the first of a format loads its reader, which is no measure
        if done.status == "done":
            documents, arrays = _written(staged)
            out.append(Probe(kind, size, held, took, documents, arrays, peak_memory()))
    return out


def _written(folder: Path) -> tuple[int, int]:
    """Bytes of a sample's documents and of its arrays."""
    files = [p for p in folder.rglob("*") if p.is_file()]
    documents = [p for p in files if p.suffix == ".json"]
    return total(documents), total(files) - total(documents)


def reset_peak() -> None:
    """Forget the peaks so far, where the system can (Linux)."""
    for pid in _processes():
        try:
            Path(f"/proc/{pid}/clear_refs").write_text("5")
        except OSError:
            continue


def peak_memory() -> int:
    """Bytes that this process and its reader have had resident at most."""
    found = [_high_water(pid) for pid in _processes()]
    if found[0]:
        return sum(found)
    import resource

    unit = 1 if os.uname().sysname == "Darwin" else 1024
    return 2 * unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _processes() -> list[int]:
    from meshsim.io import guard

    return [os.getpid(), *guard.children()]


def _high_water(pid: int) -> int:
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    found = re.search(r"VmHWM:\s+(\d+) kB", text)
    return 1024 * int(found[1]) if found else 0
