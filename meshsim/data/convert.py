"""One source into one staged sample: what a worker of `preprocess` does."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from meshsim import __version__
from meshsim.check import InputError, MeshsimError, WorkError, one_line
from meshsim.data.files import read_json
from meshsim.data.options import Options, apply, check_chosen
from meshsim.data.schema import Schema
from meshsim.data.sources import Source, hash_files, source_files
from meshsim.data.staging import write_sample
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
    """How it went: "done" (staged), "same" (already stored), "failed", or "full" (no disk left)."""

    status: str
    message: str = ""


def convert(job: Job) -> Outcome:
    """Read a source and write it to its staging folder; errors come back as text."""
    try:
        files = hash_files(source_files(job.source), job.source.path.parent)
        if job.known is not None and job.known.get("files") == files:
            return Outcome("same")
        sample, reader = read_source(job.source, job.options)
    except MeshsimError as error:
        return _failed(job, str(error))
    except Exception as error:  # one bad file must not stop the others
        return _failed(job, f"{type(error).__name__}: {error}")
    provenance = {
        "source": job.source.relative,
        "files": files,
        "reader": reader,
        "options": {"planar": job.options.planar},
        "meshsim": __version__,
    }
    try:
        shutil.rmtree(job.folder, ignore_errors=True)
        write_sample(job.folder, sample, job.schema, provenance, job.store)
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
    from meshsim.io import format_of, read

    branches: dict[str, Mesh | Series] = {}
    parameters: dict[str, Tensor] = {}
    readers: dict[str, str] = {}
    for branch, path in source.files:
        found = read(path, planar=options.planar, trust=options.trust)
        if isinstance(found, Sample):
            parameters |= found.parameters
            found = found.branch
        branches[branch] = found
        readers[branch] = format_of(path).reader
    if source.sidecar is not None:
        parameters |= read_parameters(source.sidecar)
    for name, origin in (options.fields or {}).items():
        if len(origin) == 1 and origin[0] in parameters and name not in parameters:
            parameters[name] = parameters.pop(origin[0])
    check_chosen(branches, parameters, options)
    chosen = {branch: apply(part, options) for branch, part in branches.items()}
    return Sample(chosen, parameters, source.name), readers


def read_parameters(path: Path) -> dict[str, Tensor]:
    """Parameters of a sidecar file `{"parameters": {name: number or list of numbers}}`.

    A JSON file without "parameters" is somebody else's, and has none.

    Raises:
        InputError: not JSON, or a parameter that is no number.
    """
    document = read_json(path)
    table = document.get("parameters", {}) if isinstance(document, dict) else {}
    if not isinstance(table, dict):
        raise InputError(f"{path}: `parameters`: expected a table, got {type(table).__name__}")
    out = {}
    for name, value in table.items():
        try:
            out[name] = torch.tensor(value, dtype=torch.float64)
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(
                f"{path}: parameter {name!r}: expected a number or a list of numbers, got {value!r}"
            ) from error
        if not bool(torch.isfinite(out[name]).all()):
            raise InputError(f"{path}: parameter {name!r} is not finite")
    return out


def _failed(job: Job, message: str) -> Outcome:
    text = one_line(message)
    path = str(job.source.path)
    return Outcome("failed", text if path in text else f"{path}: {text}")
