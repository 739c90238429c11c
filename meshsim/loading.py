"""Loading what was trained, whichever kind it is."""

from __future__ import annotations

from pathlib import Path

from meshsim.simulator import Simulator
from meshsim.simulator_files import DESCRIPTION, read_description
from meshsim.surrogate import Surrogate


def load(folder: Path | str) -> Simulator | Surrogate:
    """The simulator or the surrogate in the folder of a finished training run.

    Raises:
        InputError: a missing or damaged file.
    """
    kind = read_description(Path(folder) / DESCRIPTION).get("kind", "simulator")
    return Surrogate.load(folder) if kind == "surrogate" else Simulator.load(folder)
