"""One source into one staged sample: what a worker of `preprocess` does."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from meshsim import __version__
from meshsim.check import InputError, MeshsimError, WorkError, one_line
from meshsim.data.derived import derive
from meshsim.data.files import writing_to
from meshsim.data.options import Options, apply, check_chosen
from meshsim.data.parameters import read_parameters
from meshsim.data.schema import Schema
from meshsim.data.sizes import sizes, total
from meshsim.data.sources import Source, hash_source, pieces, source_files
from meshsim.data.staging import write_sample
from meshsim.data.thin import thinned
from meshsim.mesh import Mesh
from meshsim.sample import Sample
from meshsim.series import Series


@dataclass(frozen=True)
class Job:
    """What to convert, and where to.

    Arguments:
        source: the sample to be.
        store: the store's folder.
        folder: where in it to stage the sample.
        options: see `Options`.
        schema: of the store.
        known: provenance of the sample that is in the store already, if one is.
    """

    source: Source
    store: Path
    folder: Path
    options: Options
    schema: Schema | None
    known: dict[str, Any] | None


@dataclass(frozen=True)
class Outcome:
    """How it went.

    Arguments:
        status: "done" (staged), "same" (already stored), "failed", or "full" (no disk left).
        message: why it failed.
        seconds: that it took.
        size: bytes that were read.
        changed: the sample that is in the store was made from other files than are there now.
    """

    status: str
    message: str = ""
    seconds: float = 0.0
    size: int = 0
    changed: bool = False


@dataclass
class _Seen:
    """What is known of the files of a job so far."""

    began: float
    size: int = 0
    changed: bool = False


def convert(job: Job) -> Outcome:
    """Read a source and write it to its staging folder; errors come back as text."""
    seen = _Seen(time.perf_counter())
    out = _convert(job, seen)
    seconds = round(time.perf_counter() - seen.began, 3)
    return replace(out, seconds=seconds, size=seen.size, changed=seen.changed)


def hashed(source: Source, options: Options) -> tuple[dict[str, str], int]:
    """{file: sha256} of all that a sample is made from, and its bytes (see `sizes`).

    Raises:
        InputError: a file cannot be read.
    """
    more = [*options.parameters.files(source.folder).values()]
    files = hash_source(source, more, options.trust)
    size = total([*source_files(source), *more])
    if source.entry is not None:
        size += sizes(source.path, source.entry)[0]
    if source.part is not None:
        size += sizes(source.path, None, source.part)[0] - total([source.path])
    return files, size


def _convert(job: Job, seen: _Seen) -> Outcome:
    if job.source.lacking and job.known is None:
        return _failed(job, job.source.lacking)
    try:
        files, seen.size = hashed(job.source, job.options)
        if job.known is not None and job.known.get("files") == files:
            return Outcome("same")
        seen.changed = job.known is not None
        if job.source.lacking:
            return _failed(job, job.source.lacking)
        about = {"source": job.source.relative, "files": files, "bytes_read": seen.size}
        with whole(job.source, job.folder.parent) as source:
            return _write(job, about, seen.began, *read_source(source, job.options))
    except WorkError as error:
        return Outcome("full", one_line(error))
    except MeshsimError as error:
        return _failed(job, str(error))
    except Exception as error:  # one bad file must not stop the others
        return _failed(job, f"{type(error).__name__}: {error}")


def _write(
    job: Job, about: dict[str, Any], began: float, sample: Sample, reader: dict[str, str]
) -> Outcome:
    provenance = {
        **about,
        **({"whole": job.source.whole} if job.source.whole else {}),
        "reader": reader,
        "options": {"planar": job.options.planar},
        "meshsim": __version__,
    }
    try:
        shutil.rmtree(job.folder, ignore_errors=True)
        write_sample(job.folder, sample, job.schema, provenance, job.store, began)
    except WorkError as error:
        shutil.rmtree(job.folder, ignore_errors=True)
        return Outcome("full", one_line(error))
    except Exception as error:
        shutil.rmtree(job.folder, ignore_errors=True)
        text = str(error) if isinstance(error, MeshsimError) else f"{type(error).__name__}: {error}"
        return _failed(job, text)
    return Outcome("done")


def read_source(source: Source, options: Options) -> tuple[Sample, dict[str, str]]:
    """Read all branches of a source.

    Returns:
        The sample, with fields chosen and parameters attached, and {branch: reader}.

    Raises:
        InputError: a file cannot be read, a field is missing, parameters are no numbers.
    """
    from meshsim.io import read

    branches: dict[str, Mesh | Series] = {}
    parameters: dict[str, Tensor] = {}
    readers: dict[str, str] = {}
    for branch, path in source.files:
        when = None if options.time == "" else options.time
        found = read(
            path,
            planar=options.planar,
            time=when,
            trust=options.trust,
            entry=source.entry,
            part=source.part,
        )
        if isinstance(found, Sample):
            parameters |= found.parameters
            found = found.branch
        branches[branch] = found
        opened = (found if isinstance(found, Mesh) else found.mesh).source
        readers[branch] = opened.reader if opened is not None else ""
    if source.sidecar is not None:
        parameters |= read_parameters(source.sidecar)
    gathered = options.parameters.gather(source.folder, source.whole or source.name)
    if twice := sorted(parameters.keys() & gathered.keys()):
        raise InputError(
            f"{source.folder}: parameter {twice[0]!r} is in a file of the sample already"
        )
    parameters |= gathered
    for name, origin in (options.fields or {}).items():
        if len(origin) == 1 and origin[0] in parameters and name not in parameters:
            parameters[name] = parameters.pop(origin[0])
    check_chosen(branches, parameters, options)
    chosen = {branch: apply(part, options) for branch, part in branches.items()}
    chosen = derive(chosen, options.features)
    for branch, count in options.cells.items():
        part = chosen[branch]
        if not isinstance(part, Mesh):
            raise InputError(f"`cells.{branch}`: expected a steady mesh, got a series")
        chosen[branch] = thinned(part, count, source.name)
    return Sample(chosen, parameters, source.name), readers


@contextmanager
def whole(source: Source, folder: Path) -> Iterator[Source]:
    """The source, its files that are cut into parts joined in a folder for as long as it is read.

    Raises:
        InputError: a part is missing.
        WorkError: the disk is full.
    """
    made, files = folder.with_name(f"{folder.name}.whole"), []
    try:
        for branch, path in source.files:
            if not path.exists():
                parts, path = pieces(path), made / branch / path.name
                with writing_to(path, "the joined parts"):
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with path.open("wb") as out:
                        for part in parts:
                            with part.open("rb") as piece:
                                shutil.copyfileobj(piece, out, 1 << 22)
            files.append((branch, path))
        yield replace(source, files=tuple(files))
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _failed(job: Job, message: str) -> Outcome:
    text = one_line(message)
    path = str(job.source.path)
    return Outcome("failed", text if path in text else f"{path}: {text}")
