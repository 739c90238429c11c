"""A trained simulator beside the truth: a movie, and the last state with its error.

python viz/rollout.py RUN SERIES [-o FOLDER] [--field NAME] [--steps N]
"""

from argparse import ArgumentParser
from pathlib import Path

import meshsim
from meshsim import Series, Simulator, render
from meshsim.render.values import branch


def main() -> None:
    """Roll out from the first state of the series and draw both."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("series", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path("pictures"))
    parser.add_argument("--field")
    parser.add_argument("--steps", type=int)
    chosen = parser.parse_args()
    known = meshsim.read(chosen.series)
    truth = branch(known)
    if not isinstance(truth, Series):
        parser.error(f"{chosen.series}: expected a series, got a mesh of one time")
    steps = chosen.steps or len(truth) - 1
    guess = Simulator.load(chosen.run).rollout(known, steps)
    out = chosen.output
    print(render.movie(guess, chosen.field, out / "rollout.gif", truth=truth))
    print(render.compare(truth, guess, chosen.field, out / "compare.png"))


if __name__ == "__main__":
    main()
