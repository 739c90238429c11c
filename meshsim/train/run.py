"""A run's folder: what was asked for, how it was planned, and where it stands."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from meshsim.check import InputError
from meshsim.data.files import read_json, writing_to
from meshsim.simulator_files import DESCRIPTION, WEIGHTS, versions, write_atomically
from meshsim.train.config import Config

RECORD, CHECKPOINT, LOCK = "run.json", "checkpoint.safetensors", ".lock"
_OWN = {RECORD, CHECKPOINT, LOCK, WEIGHTS, DESCRIPTION, "log.csv", "validation.csv", "tensorboard"}


def claim(folder: Path) -> None:
    """Make the folder of a run, or see that what is in it is one; nothing in it changes.

    Raises:
        InputError: it is a file, or holds other files and no run.
    """
    if not folder.exists():
        with writing_to(folder):
            folder.mkdir(parents=True)
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a folder for the run, got a file")
    names = _names(folder)
    other = sorted(names - _OWN)
    if RECORD not in names and other:
        raise InputError(f"{folder}: holds other files ({other[0]}) and no training run")


def open_run(folder: Path, asked: Mapping[str, Any], overwrite: bool) -> dict[str, Any] | None:
    """The record of a run to carry on; None for a folder in which a new one may begin.

    Call it under the lock: another process may be training into the folder until then.

    Arguments:
        folder: of the run, after `claim`.
        asked: what decides the result; a run carries on only if it was asked for the same.
        overwrite: delete a run that is there; other files are never touched.

    Raises:
        InputError: another run is in the folder.
    """
    names = _names(folder)
    if not names - {LOCK}:
        return None
    if overwrite:
        _empty(folder)
        return None
    if RECORD not in names:
        raise InputError(f"{folder}: holds no training run to carry on (overwrite replaces it)")
    record = read_json(folder / RECORD)
    if not isinstance(record, dict) or not {"asked", "plan"} <= set(record):
        raise InputError(f"{folder / RECORD}: not the record of a training run")
    old, new = (_filled(json.loads(json.dumps(a))) for a in (record["asked"], asked))
    difference = first_difference(old, new)
    if difference:
        raise InputError(
            f"{folder}: there is a run with another recipe: {difference} (overwrite replaces it)"
        )
    return record


def _filled(asked: Mapping[str, Any]) -> Mapping[str, Any]:
    """What was asked for, with the defaults of options that are younger than the run."""
    recipe = asked.get("recipe")
    if not isinstance(recipe, dict) or not isinstance(recipe.get("data"), dict):
        return asked
    try:
        whole = Config.from_dict({**recipe, "data": {"store": ".", **recipe["data"]}}).to_dict()
    except InputError:  # of another time: it differs, and where is said
        return asked
    return {**asked, "recipe": json.loads(json.dumps(whole))}


def first_difference(old: Any, new: Any, where: str = "") -> str:
    """The first place where two pieces of plain data differ, or "".

    >>> first_difference({"train": {"lr": 0.1}}, {"train": {"lr": 0.2}})
    'train.lr was 0.1, now 0.2'
    """
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            place = f"{where}.{key}" if where else str(key)
            if key not in old or key not in new:
                return f"{place} was {old.get(key, 'absent')}, now {new.get(key, 'absent')}"
            difference = first_difference(old[key], new[key], place)
            if difference:
                return difference
        return ""
    return "" if old == new else f"{where} was {old}, now {new}"


def write_record(
    folder: Path,
    asked: Mapping[str, Any],
    plan: Mapping[str, Any] | None,
    threads: int,
    facts: Mapping[str, Any],
) -> None:
    """Fix what a run does; from here on it can be carried on."""
    record = {
        "asked": asked,
        "plan": plan,
        "threads": threads,
        "facts": facts,
        "versions": versions(),
    }
    with writing_to(folder):
        write_atomically(folder / RECORD, json.dumps(record, indent=1).encode())


def _names(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir() if not p.name.endswith(".tmp")}


def _empty(folder: Path) -> None:
    with writing_to(folder):
        for name in _OWN - {LOCK}:
            path = folder / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
