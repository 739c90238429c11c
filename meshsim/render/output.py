"""Writing pictures: whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from meshsim.check import InputError, WorkError, one_line

Array = NDArray[Any]


def target(out: str | Path, suffixes: Sequence[str]) -> Path:
    """The path, once its suffix is known to be one of these.

    Raises:
        InputError: another suffix.
    """
    path = Path(out)
    if path.suffix.lower() not in suffixes:
        raise InputError(f"{path}: expected a name ending in {' or '.join(suffixes)}")
    return path


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A place to write to; it becomes `path` when all is written, and vanishes otherwise.

    Raises:
        WorkError: the folder cannot be written to, or the disk is full.
    """
    half = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield half
        os.replace(half, path)
    except OSError as error:
        raise WorkError(f"{path}: cannot be written ({one_line(error)})") from error
    finally:
        with suppress(OSError):
            half.unlink()


def save_png(pixels: Array, path: Path) -> Path:
    """Write (height, width, 3) uint8 as .png."""
    from PIL import Image

    with whole(path) as half:
        Image.fromarray(pixels).save(half)
    return path


def save_text(text: str, path: Path) -> Path:
    """Write a text file."""
    with whole(path) as half:
        half.write_text(text, encoding="utf-8")
    return path


def save_figure(figure: Any, path: Path) -> Path:
    """Write a Matplotlib figure as .png."""
    with whole(path) as half:
        figure.savefig(half, format="png", facecolor="white")
    return path


def figure_pixels(figure: Any) -> Array:
    """A Matplotlib figure as (height, width, 3) uint8."""
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3]
