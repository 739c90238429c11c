"""Loading what was trained, whichever kind it is."""

from __future__ import annotations

from pathlib import Path

from meshsim.check import InputError
from meshsim.committee import Committee, member_folders
from meshsim.simulator import Simulator
from meshsim.simulator_files import DESCRIPTION, read_description
from meshsim.surrogate import Surrogate


def load(folder: Path | str) -> Simulator | Surrogate | Committee:
    """The simulator or the surrogate in the folder of a finished training run, or a committee.

    Raises:
        InputError: a missing or damaged file.
    """
    folder = Path(folder)
    document = read_description(folder / DESCRIPTION)
    kind = document.get("kind", "simulator")
    if kind != "committee":
        return Surrogate.load(folder) if kind == "surrogate" else Simulator.load(folder)
    members = [load(place) for place in member_folders(document, folder)]
    single = [member for member in members if not isinstance(member, Committee)]
    if len(single) < len(members):
        raise InputError(f"{folder}: a committee among the members of a committee")
    try:
        made = Committee(single)
    except InputError as error:
        raise InputError(f"{folder / DESCRIPTION}: {error}") from error
    if document.get("fields") != made.fields:
        raise InputError(
            f"{folder / DESCRIPTION}: fields: expected {made.fields} (what its members predict),"
            f" got {document.get('fields')!r}"
        )
    return made


def check_single(folder: Path | str) -> None:
    """Raise `InputError` where a run's folder holds a committee, which has no training of its own.

    Anything else wrong with it is for whoever reads it to say.
    """
    path = Path(folder) / DESCRIPTION
    if path.exists() and read_description(path).get("kind") == "committee":
        raise InputError(f"{folder}: a committee (name one of its members)")
