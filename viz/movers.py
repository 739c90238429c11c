"""Meshes before and after moving, coloured by the size of cells; and a front that is followed.

    python viz/movers.py [-o DIR] [--frames 14]

Writes movers.png: a polygon with a hole at rest, moved by the classical solver as far as it stays
sound, and by the learned mover; and front.gif, a ring that crosses the square, the mesh moved anew
from rest for every frame.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import imageio.v3 as imageio
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from meshsim.movers import LearnedMover, MongeAmpere, Simplices, ball
from meshsim.movers.simplices import Array
from meshsim.solvers.domains import polygon, structured

OUTLINE = [(0.0, 0.0), (1.0, 0.0), (1.3, 0.5), (1.0, 1.0), (0.5, 0.8), (0.0, 1.0)]
HOLE = [(0.75, 0.4), (0.95, 0.45), (0.9, 0.6), (0.75, 0.6)]


def draw(axes: object, grid: Simplices, points: Array, title: str, limits: tuple[float, float]):
    """One mesh, cells coloured by log₂ of their size over the mean at rest."""
    size = np.log2(np.abs(grid.signed(points)) / np.abs(grid.signed(grid.points)).mean())
    shown = axes.tripcolor(
        *points.T, grid.cells, size, cmap="viridis", vmin=limits[0], vmax=limits[1], lw=0.2
    )
    axes.triplot(*points.T, grid.cells, color="white", lw=0.3)
    axes.set_title(title, fontsize=9)
    axes.set_aspect("equal")
    axes.axis("off")
    return shown


def compare(path: Path) -> None:
    """The picture of three meshes."""
    grid = polygon(OUTLINE, 0.035, [HOLE])
    monitor = ball((0.45, 0.4), 0.25, 12.0, 60.0)
    found = MongeAmpere(grid, "quasi-newton", rtol=1e-3, most=100).move(monitor)
    share, end = 1.0, found.points if found.tangled is None else found.tangled
    while (grid.signed(grid.points + share * (end - grid.points)) <= 0).any():
        share -= 0.05
    classical = grid.points + share * (end - grid.points)
    ours = LearnedMover().move(grid, monitor).points
    figure = Figure((10, 3.4), dpi=100, layout="constrained")
    axes = figure.subplots(1, 3)
    name = (
        "classical" if share == 1 else f"classical, {100 * share:.0f} % of the way: then it tangles"
    )
    pairs = [("at rest", grid.points), (name, classical), ("learned", ours)]
    for place, (title, points) in zip(axes, pairs, strict=True):
        shown = draw(place, grid, points, title, (-2.5, 1.5))
    bar = figure.colorbar(shown, ax=axes, shrink=0.8)
    bar.set_label("log₂ of cell size over the mean")
    figure.savefig(path)


def front(path: Path, frames: int) -> None:
    """The ring that moves, as an animation."""
    grid, mover, pictures = structured(32), LearnedMover(), []
    for t in np.linspace(0.1, 0.9, frames):
        moved = mover.move(grid, ball((t, 0.5), 0.25, 10.0, 80.0))
        figure = Figure((4, 4), dpi=60)
        canvas = FigureCanvasAgg(figure)
        axes = figure.add_axes((0.02, 0.02, 0.96, 0.9))
        draw(axes, grid, moved.points, f"a ring at x = {t:.2f}", (-2.5, 1.5))
        canvas.draw()
        pictures.append(np.asarray(canvas.buffer_rgba())[..., :3].copy())
    imageio.imwrite(path, pictures, duration=80, loop=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent)
    parser.add_argument("--frames", type=int, default=14)
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    compare(given.output / "movers.png")
    front(given.output / "front.gif", given.frames)


if __name__ == "__main__":
    main()
