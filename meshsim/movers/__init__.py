"""Mesh movement: where the points that a mesh already has should go."""

from meshsim.movers.learned import Density, LearnedMover
from meshsim.movers.monge_ampere import MongeAmpere, Moved, Step
from meshsim.movers.monitor import FieldMonitor, ball, shock
from meshsim.movers.mover import Mover
from meshsim.movers.simplices import Simplices

__all__ = [
    "Density",
    "FieldMonitor",
    "LearnedMover",
    "MongeAmpere",
    "Moved",
    "Mover",
    "Simplices",
    "Step",
    "ball",
    "shock",
]
